# SPDX-License-Identifier: Apache-2.0
"""Image messages: every native encoding gives its colours, everything malformed is refused, nothing raises."""

from __future__ import annotations

import array
import builtins
import sys
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.media import images
from gc_ros.media.coded import MAX_PIXELS
from gc_ros.media.images import ENCODINGS, Decoded, Picture, Refusal, decode, picture_of
from trt_build.bundle import Preprocess
from trt_build.errors import ImageError
from trt_build.preprocess import model_input

# One flat colour per half: chroma subsampling and demosaicing leave the middle of each half exact.
LEFT, RIGHT = (40, 80, 200), (190, 120, 30)  # BGR


def picture(width: int = 32, height: int = 16) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = LEFT, RIGHT
    return image


def message(rows: np.ndarray, encoding: str, pad: int = 0, **changes: object) -> SimpleNamespace:
    rows = np.ascontiguousarray(rows).reshape(rows.shape[0], -1).view(np.uint8)
    padded = np.full((rows.shape[0], rows.shape[1] + pad), 77, np.uint8)
    padded[:, : rows.shape[1]] = rows
    fields = {
        "width": 32,
        "height": 16,
        "step": padded.shape[1],
        "encoding": encoding,
        "is_bigendian": 0,
        "data": array.array("B", padded.tobytes()),
    }
    return SimpleNamespace(**{**fields, **changes})


def encode(image: np.ndarray, encoding: str) -> np.ndarray:
    """An image in BGR as rows of the encoding, written out without the decoder's tables."""
    height, width = image.shape[:2]
    blue, green, red = (image[..., c] for c in range(3))
    if encoding in ("bgr8", "8UC3"):
        return image
    if encoding == "rgb8":
        return image[..., ::-1]
    if encoding in ("bgra8", "8UC4"):
        return np.dstack([image, np.full_like(blue, 9)])
    if encoding == "rgba8":
        return np.dstack([image[..., ::-1], np.full_like(blue, 9)])
    if encoding in ("mono8", "8UC1"):
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if encoding == "mono16":
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype("<u2") * 257
    if encoding.startswith("bayer_"):
        planes = {"r": red, "g": green, "b": blue}
        rows = np.empty((height, width), np.uint8)
        for place, name in enumerate(encoding[6:10]):
            rows[place // 2 :: 2, place % 2 :: 2] = planes[name][place // 2 :: 2, place % 2 :: 2]
        return rows.astype("<u2") * 257 if encoding.endswith("16") else rows
    i420 = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    luma = i420[: height * width].reshape(height, width)
    u = i420[height * width : height * width * 5 // 4].reshape(height // 2, width // 2)
    v = i420[height * width * 5 // 4 :].reshape(height // 2, width // 2)
    if encoding in ("nv12", "nv21"):
        first, second = (u, v) if encoding == "nv12" else (v, u)
        return np.vstack([luma, np.dstack([first, second]).reshape(height // 2, width)])
    tall_u, tall_v = np.repeat(u, 2, axis=0), np.repeat(v, 2, axis=0)
    even, odd = luma[:, ::2], luma[:, 1::2]
    order = [tall_u, even, tall_v, odd] if encoding in ("yuv422", "uyvy") else [even, tall_u, odd, tall_v]
    return np.dstack(order).reshape(height, width * 2)


@pytest.mark.parametrize("pad", [0, 6])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_native_encoding_gives_its_colours_with_and_without_padded_rows(
    encoding: str, pad: int
) -> None:
    image = picture()
    decoded = decode(message(encode(image, encoding), encoding, pad))
    assert isinstance(decoded, Decoded), decoded
    assert decoded.image.shape == (16, 32, 3) and decoded.image.dtype == np.uint8
    got = decoded.image if decoded.bgr else decoded.image[..., ::-1]
    want = image
    if encoding.startswith(("mono", "8UC1")):
        want = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    tolerance = 4 if encoding.startswith(("yuv", "uyvy", "yuyv", "nv")) else 0
    for column in (8, 24):
        assert np.abs(got[8, column].astype(int) - want[8, column]).max() <= tolerance, encoding


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8"])
def test_the_common_encodings_are_views_into_the_message(encoding: str) -> None:
    msg = message(encode(picture(), encoding), encoding, pad=5)
    decoded = decode(msg)
    assert isinstance(decoded, Decoded)
    assert np.shares_memory(decoded.image, np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 0}, "size 0x16"),
        ({"height": 0}, "size 32x0"),
        ({"step": 95}, "step 95 is less"),
        ({"step": 0}, "step 0 is less"),
        ({"step": 97}, "bytes of data"),
        ({"height": 17}, "bytes of data"),
        ({"data": array.array("B")}, "0 bytes of data"),
        ({"width": 1 << 16, "height": 1 << 16}, f"limit of {MAX_PIXELS}"),
        ({"encoding": "16UC1"}, "16UC1 is a depth image"),
        ({"encoding": "32FC1"}, "32FC1 is a depth image"),
        ({"encoding": "nv12", "width": 31}, "even size"),
        ({"encoding": "nv21", "height": 15}, "even size"),
        ({"data": array.array("B", bytes(96 * 17))}, "1632 bytes of data, but 16 rows of step 96"),
        ({"encoding": "x" * 300}, "encoding 'xxx"),
        ({"encoding": "bgr16"}, "encoding bgr16"),
        ({"encoding": ""}, "encoding"),
        ({"data": None}, "cannot be decoded"),
    ],
)
def test_malformed_images_are_refused_with_their_reason(changes: dict[str, object], says: str) -> None:
    refusal = decode(message(picture(), **{"encoding": "bgr8", **changes}))
    assert isinstance(refusal, Refusal)
    assert says in refusal.reason and "\n" not in refusal.reason


SIXTEEN = [name for name in ENCODINGS if name.endswith("16")]


@pytest.mark.parametrize("big", [0, 1], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("encoding", SIXTEEN)
def test_sixteen_bits_are_mixed_at_sixteen_and_rounded_once_whatever_their_order(
    encoding: str, big: int
) -> None:
    rows = np.random.default_rng(3).integers(0, 65536, (16, 32), np.uint16)
    codes = {"mono16": cv2.COLOR_GRAY2BGR, "bayer_rggb16": cv2.COLOR_BayerBG2BGR}
    codes |= {"bayer_bggr16": cv2.COLOR_BayerRG2BGR, "bayer_gbrg16": cv2.COLOR_BayerGR2BGR}
    wide = cv2.cvtColor(rows, codes.get(encoding, cv2.COLOR_BayerGB2BGR)).astype(np.int64)
    found = decode(message(rows.astype(">u2" if big else "<u2"), encoding, is_bigendian=big))
    assert isinstance(found, Decoded), found
    # As cv_bridge has it: 255 / 65535 of each, to the nearest.
    np.testing.assert_array_equal(found.image, (2 * wide + 257) // 514)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
@pytest.mark.parametrize("pad", [0, 6])
def test_an_odd_width_costs_the_last_column_its_second_chroma_alone(encoding: str, pad: int) -> None:
    even = encode(picture(), encoding)
    odd = decode(message(even[:, : 31 * 2], encoding, pad, width=31))
    whole = decode(message(even, encoding))
    assert isinstance(odd, Decoded) and isinstance(whole, Decoded), odd
    assert odd.image.shape == (16, 31, 3)
    np.testing.assert_array_equal(odd.image, whole.image[:, :31])
    one = decode(message(even[:, :2], encoding, width=1))
    assert isinstance(one, Decoded) and one.image.shape == (16, 1, 3)


@pytest.fixture(autouse=True)
def cv_bridge_is_looked_for_again() -> Iterator[None]:
    images._cv_bridge.cache_clear()
    yield
    images._cv_bridge.cache_clear()


class FakeCvBridge:
    """As cv_bridge.CvBridge, of which only this is used. Not on PyPI, so the real one is met on robots only."""

    answer: object = None

    def imgmsg_to_cv2(self, message: object, desired_encoding: str) -> object:
        assert desired_encoding == "bgr8"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (np.full((16, 32, 3), 7, np.uint8), None),
        (np.zeros((16, 32), np.uint16), "cv_bridge made uint16"),
        (RuntimeError("[rgb16] is not a\n color format"), "RuntimeError: [rgb16] is not a color format"),
    ],
    ids=["converts", "wrong type", "raises"],
)
def test_an_encoding_outside_the_table_goes_through_cv_bridge_where_it_is_installed(
    answer: object, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCvBridge, "answer", answer)
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=FakeCvBridge))
    result = decode(message(np.zeros((16, 32, 6), np.uint8), "rgb16"))
    if says is None:
        assert isinstance(result, Decoded) and result.bgr and (result.image == 7).all()
    else:
        assert isinstance(result, Refusal) and says in result.reason
    depth = decode(message(np.zeros((16, 32, 2), np.uint8), "16UC1"))
    assert isinstance(depth, Refusal) and "depth" in depth.reason, "depth is refused whoever could convert it"


def test_without_cv_bridge_the_encoding_and_the_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    result = decode(message(np.zeros((16, 32, 6), np.uint8), "rgb16"))
    assert isinstance(result, Refusal)
    assert "encoding rgb16" in result.reason and "ros-$ROS_DISTRO-cv-bridge" in result.reason


@pytest.mark.parametrize("when", ["at its import", "at its first use"])
@pytest.mark.parametrize(
    ("numpy", "remedy"), [("2.4.0", "pip install 'numpy<2'"), ("1.26.4", "install it again from ROS")]
)
def test_a_cv_bridge_that_is_there_and_broken_is_told_with_its_remedy_and_imported_once(
    when: str, numpy: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real, broken = [], builtins.__import__, ImportError("numpy.core.multiarray failed to import")

    def imports(name: str, *rest: object) -> object:
        if name != "cv_bridge":
            return real(name, *rest)  # type: ignore[arg-type]
        asked.append(name)
        if when == "at its import":
            raise broken
        return SimpleNamespace(CvBridge=FakeCvBridge)

    monkeypatch.setattr(FakeCvBridge, "answer", broken)
    monkeypatch.setattr(builtins, "__import__", imports)
    monkeypatch.setattr(np, "__version__", numpy)
    for _ in range(3):
        result = decode(message(np.zeros((16, 32, 6), np.uint8), "rgb16"))
        assert isinstance(result, Refusal)
        assert "rgb16" in result.reason and remedy in result.reason and "\n" not in result.reason
        assert "numpy.core.multiarray failed to import" in result.reason
    assert len(asked) == 1


def compressed(data: bytes, form: str = "bgr8; jpeg compressed bgr8") -> SimpleNamespace:
    return SimpleNamespace(format=form, data=array.array("B", data))


def coded(extension: str) -> bytes:
    return cv2.imencode(extension, picture(64, 48))[1].tobytes()


@pytest.mark.parametrize("turn", [3, 6])
def test_the_turn_in_a_jpegs_tags_is_ignored_as_the_raw_topic_has_none(turn: int) -> None:
    data = coded(".jpg")
    tags = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + bytes([0, turn, 0, 0]) + bytes(4)
    segment = b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags
    tagged = data[:2] + segment + data[2:]
    shown = cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape[:2] == (64, 48) or shown[24, 8, 2] < 100, "OpenCV alone would turn it"
    turned, plain = (decode(compressed(found), compressed=True) for found in (tagged, data))
    assert isinstance(turned, Decoded) and isinstance(plain, Decoded)
    np.testing.assert_array_equal(turned.image, plain.image)


KINDS = [".png", ".jpg", ".tiff", ".webp"]


@pytest.mark.parametrize(("extension", "tolerance"), [(".png", 0), (".jpg", 6), (".tiff", 0), (".webp", 0)])
def test_compressed_images_decode_to_their_colours(extension: str, tolerance: int) -> None:
    decoded = decode(compressed(coded(extension)), compressed=True)
    assert isinstance(decoded, Decoded) and decoded.bgr and decoded.image.shape == (48, 64, 3)
    assert np.abs(decoded.image[24, 8].astype(int) - LEFT).max() <= tolerance


@pytest.mark.parametrize("extension", KINDS)
def test_truncated_files_are_refused_not_filled_with_grey(extension: str) -> None:
    data = coded(extension)
    for length in (0, 3, 11, 20, len(data) // 2, len(data) - 70):
        assert isinstance(decode(compressed(data[:length]), compressed=True), Refusal), length


def test_a_jpeg_that_claims_to_be_enormous_is_refused_before_it_is_decoded() -> None:
    data = bytearray(coded(".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    refusal = decode(compressed(bytes(data)), compressed=True)
    assert isinstance(refusal, Refusal) and "limit" in refusal.reason


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_few_bytes_that_claim_many_pixels_are_refused_and_a_flat_picture_is_not(extension: str) -> None:
    flat = cv2.imencode(extension, np.full((1080, 1920, 3), 9, np.uint8))[1].tobytes()
    assert isinstance(decode(compressed(flat), compressed=True), Decoded)
    data = bytearray(coded(extension))
    at = data.index(b"\xff\xc0") + 5 if extension == ".jpg" else 16
    data[at : at + 8 if extension == ".png" else at + 4] = (
        (8000).to_bytes(4, "big") * 2 if extension == ".png" else (8000).to_bytes(2, "big") * 2
    )
    refusal = decode(compressed(bytes(data)), compressed=True)
    assert isinstance(refusal, Refusal) and "claims 8000x8000 pixels" in refusal.reason


def test_compressed_depth_and_other_formats_are_refused_by_name() -> None:
    depth = decode(compressed(coded(".png"), "16UC1; compressedDepth png"), compressed=True)
    assert isinstance(depth, Refusal) and "compressedDepth is a depth image" in depth.reason
    # As image_transport's plugin `compressed` sends a topic of depth.
    for form in ("16UC1; png compressed ", "16UC1; jpeg compressed mono16", "32FC1; png compressed"):
        depth = decode(compressed(coded(".png"), form), compressed=True)
        assert isinstance(depth, Refusal) and f"{form[:5]} is a depth image" in depth.reason
    for form in ("mono16; png compressed", "bgr8; png compressed bgr8", "png"):
        assert not isinstance(decode(compressed(coded(".png"), form), compressed=True), Refusal)
    other = decode(compressed(b"GIF89a" + bytes(40), "gif"), compressed=True)
    assert isinstance(other, Refusal) and "no JPEG, PNG, TIFF or WebP (format 'gif')" in other.reason


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name.startswith("bayer_")])
def test_a_bayer_pattern_that_was_compressed_has_the_colours_of_the_raw_topic(encoding: str) -> None:
    raw = encode(picture(), encoding)
    png = cv2.imencode(".png", raw)[1].tobytes()
    want = decode(message(raw, encoding))
    assert isinstance(want, Decoded)
    # As image_transport's plugin writes it: nothing behind "compressed" where the pixels were left as they are.
    for form in (f"{encoding}; png compressed ", f"{encoding}; png compressed {encoding}"):
        found = decode(compressed(png, form), compressed=True)
        assert isinstance(found, Decoded) and found.bgr, found
        np.testing.assert_array_equal(found.image, want.image)
    grey = decode(compressed(png, f"{encoding}; jpeg compressed mono8"), compressed=True)
    assert isinstance(grey, Decoded) and np.ptp(grey.image, axis=2).max() == 0, "it was made grey before"
    done = decode(compressed(coded(".png"), f"{encoding}; png compressed "), compressed=True)
    assert isinstance(done, Decoded), done
    np.testing.assert_array_equal(done.image, picture(64, 48), "colours already, whatever the format says")


sizes = st.one_of(st.integers(0, 40), st.sampled_from([1 << 16, (1 << 32) - 1]))


def test_looking_at_a_compressed_image_decodes_nothing_and_asking_twice_decodes_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, imdecode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: calls.append(1) or imdecode(*a))
    found = picture_of(compressed(coded(".jpg")), compressed=True)
    assert isinstance(found, Picture) and (found.width, found.height) == (64, 48)
    assert not found.ready and not calls and found.decode_s == 0.0
    assert found.pixels() is found.pixels() and found.ready and len(calls) == 1 and found.decode_s > 0


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8"])
def test_pixels_that_are_a_view_are_there_at_once(encoding: str) -> None:
    found = picture_of(message(picture(), encoding))
    assert isinstance(found, Picture) and found.ready and found.pixels().base is not None


def test_a_picture_that_has_its_pixels_keeps_no_message() -> None:
    class Message(SimpleNamespace):
        pass

    msg = Message(format="jpeg", data=array.array("B", coded(".jpg")))
    found, alive = picture_of(msg, compressed=True), weakref.ref(msg.data)
    assert isinstance(found, Picture) and alive() is not None
    del msg
    assert found.pixels() is not None and alive() is None


def test_a_picture_whose_pixels_contradict_its_header_says_so_each_time() -> None:
    wrong = Picture(64, 48, True, lambda: np.zeros((48, 65, 3), np.uint8))
    for _ in range(2):
        with pytest.raises(ImageError, match="65x48 pixels says it has 64x48"):
            wrong.pixels()
    with pytest.raises(ImageError, match="uint8 image"):
        Picture(64, 48, True, lambda: np.zeros((48, 64), np.uint8)).pixels()


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(
    width=sizes,
    height=sizes,
    step=st.one_of(st.integers(0, 200), st.just((1 << 32) - 1)),
    encoding=st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=12)),
    big=st.integers(0, 255),
    length=st.one_of(st.integers(0, 4000), st.none()),
)
def test_no_image_message_raises_or_reads_past_its_data(
    width: int, height: int, step: int, encoding: str, big: int, length: int | None
) -> None:
    if length is None:  # the length that fits, so that the decoders themselves are reached
        rows = height * 3 // 2 if encoding.startswith("nv") else height
        length = step * rows if step * rows < 100_000 else 10
    msg = SimpleNamespace(
        width=width,
        height=height,
        step=step,
        encoding=encoding,
        is_bigendian=big,
        data=array.array("B", bytes(length)),
    )
    result = decode(msg)
    if isinstance(result, Decoded):
        assert result.image.shape == (height, width, 3) and result.image.dtype == np.uint8
        result.image.sum()  # touches every pixel
    else:
        assert result.reason and "\n" not in result.reason


@settings(max_examples=400, deadline=None)
@given(
    extension=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 400),
)
def test_no_corrupt_compressed_image_raises(extension: str, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(coded(extension))
    for at, value in changes:
        data[at % len(data)] = value
    result = decode(compressed(bytes(data[: len(data) - cut])), compressed=True)
    assert isinstance(result, Refusal) or result.image.ndim == 3


@pytest.mark.parametrize("bgr", [True, False])
def test_the_networks_frame_of_a_picture_is_made_once_for_each_way_of_preprocessing(bgr: bool):
    made = []
    found = Picture(32, 16, bgr, lambda: made.append(1) or picture())
    small, large = Preprocess(size=8, resize=9), Preprocess(size=12, resize=14)
    frame = found.prepared(small)
    np.testing.assert_array_equal(frame, model_input(picture(), small, bgr=bgr))
    assert found.prepared(small) is frame and found.prepare_s > 0
    assert found.prepared(large).shape == (12, 12, 3) and made == [1]


def test_a_picture_that_does_not_decode_has_no_frame_for_the_network():
    def corrupt() -> np.ndarray:
        raise ImageError("corrupt")

    with pytest.raises(ImageError, match="corrupt"):
        Picture(32, 16, True, corrupt).prepared(Preprocess(size=8, resize=9))
