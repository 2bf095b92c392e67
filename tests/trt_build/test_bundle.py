# SPDX-License-Identifier: Apache-2.0
"""A bundle is refused, with one line that says what to do, unless every byte is as it was exported."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_build.bundle import (
    INFO_NAME,
    Bundle,
    LoadedBundle,
    Preprocess,
    file_sha256,
    load_bundle,
    write_bundle,
)
from trt_build.errors import BundleError

FIELDS: dict[str, Any] = {
    "model_id": "m",
    "preset": "p",
    "labels": ["a", "b"],
    "glimpses": 3,
    "workers": 3,
    "temporal": "causal",
    "modes": ["window", "step"],
    "default_mode": "window",
    "reset_after": 8,
    "rate_hz": 8.0,
}


@pytest.fixture
def bundle(numbers: LoadedBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(numbers.path, tmp_path / "copy"))


def refused(path: Path, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (*words, str(path)):
        assert word in message


def test_a_remedy_can_be_typed_where_a_name_has_blanks(tmp_path: Path) -> None:
    path = tmp_path / "my bundles" / "people"
    refused(path, f"trt-build export RUN --out '{path}'")
    path.mkdir(parents=True)
    (path / "bundle.json").write_text("{}")
    refused(path, f"trt-build export RUN --out '{path}'")


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((path / "bundle.json").read_text())
    change(data)
    (path / "bundle.json").write_text(json.dumps(data))


def test_a_bundle_reads_back_as_it_was_written(numbers: LoadedBundle) -> None:
    again = load_bundle(numbers.path)
    assert again.info == numbers.info
    assert set(again.info.sha256) == {"window.onnx", "step.onnx", "weights.bin"}
    assert again.info.window_s == 1.0
    assert again.graph("step") == numbers.path / "step.onnx"


@pytest.mark.parametrize("name", ["window.onnx", "step.onnx", "weights.bin"])
def test_one_flipped_bit_in_any_file_is_refused(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, name, "changed after export", "trt-build export")
    load_bundle(bundle, verify=False)


@pytest.mark.parametrize("name", ["window.onnx", "step.onnx", "weights.bin", "bundle.json"])
def test_a_missing_or_truncated_file_is_refused(bundle: Path, name: str) -> None:
    whole = (bundle / name).read_bytes()
    (bundle / name).write_bytes(whole[: len(whole) // 2])
    refused(bundle, name)
    (bundle / name).unlink()
    refused(bundle, name, "trt-build export")


def test_a_missing_directory_says_how_to_make_one(tmp_path: Path) -> None:
    refused(tmp_path / "none", "trt-build export")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.update(labels=[]), "labels"),
        (lambda d: d.update(labels=["a", "a"]), "distinct"),
        (lambda d: d.update(labels=["a", " "]), "label is empty"),
        (lambda d: d.update(labels=["a", "x" * 201]), "longer than 200"),
        (lambda d: d.update(idle=["nobody"]), "idle label 'nobody'"),
        (lambda d: d.update(rate_hz=0), "rate_hz"),
        (lambda d: d.update(rate_hz="fast"), "rate_hz"),
        (lambda d: d.update(temporal="centered"), "causal"),
        (lambda d: d.update(modes=["window"], default_mode="step"), "default_mode"),
        (lambda d: d.update(reset_after=3), "reset_after"),
        (lambda d: d.update(schema_version=3), "update glimpse_clouds"),
        (lambda d: d.pop("schema_version"), "schema"),
        (lambda d: d.update(schema_version="2"), "schema"),
        (lambda d: d["preprocess"].update(size=300, resize=256), "size 300"),
        (lambda d: d["calibration"].update(temperature=0), "temperature"),
        (lambda d: d["calibration"].update(unknown_threshold=1.5), "unknown_threshold"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["sha256"].pop("window.onnx"), "window.onnx"),
        (lambda d: d["sha256"].update({"../outside": "00"}), "outside"),
        (lambda d: d["sha256"].update({"/etc/hostname": "00"}), "hostname"),
    ],
)
def test_a_wrong_description_names_the_field(bundle: Path, change: Any, word: str) -> None:
    rewrite(bundle, change)
    refused(bundle, word)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "7", '{"schema_version": 1}', "\x00\xff"])
def test_a_description_that_is_no_description_is_refused(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_bytes(text.encode("latin-1"))
    refused(bundle)


def test_nan_is_no_rate(bundle: Path) -> None:
    rewrite(bundle, lambda d: d.update(rate_hz=float("nan")))
    refused(bundle, "rate_hz")


def test_hashes_may_be_written_in_capitals(bundle: Path) -> None:
    rewrite(bundle, lambda d: d.update(sha256={name: digest.upper() for name, digest in d["sha256"].items()}))
    load_bundle(bundle)


def test_hashes_are_checked_before_any_graph_is_parsed(bundle: Path) -> None:
    (bundle / "window.onnx").write_bytes(b"not onnx at all")
    refused(bundle, "changed after export")


def test_writing_hashes_what_was_written_and_takes_bytes_or_files(tmp_path: Path) -> None:
    source = tmp_path / "made.onnx"
    source.write_bytes(b"step graph")
    info = Bundle(**FIELDS, sha256={"window.onnx": "stale"})
    written = write_bundle(tmp_path / "b", info, {"window.onnx": b"window graph", "step.onnx": source})
    assert load_bundle(tmp_path / "b").info == written.info
    assert written.info.sha256 == {
        "step.onnx": file_sha256(source),
        "window.onnx": file_sha256(tmp_path / "b/window.onnx"),
    }
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["bundle.json", "step.onnx", "window.onnx"]


def test_writing_over_an_older_bundle_leaves_none_of_its_graphs(tmp_path: Path) -> None:
    info = Bundle(**FIELDS)
    others = ("classes.safetensors", "window.int8.onnx", "step.int8.onnx", "weights.int8.bin")
    files = {"window.onnx": b"1", "step.onnx": b"2", "weights.bin": b"3"} | dict.fromkeys(others, b"4")
    write_bundle(tmp_path, info, files)
    lean = Bundle(**{**FIELDS, "modes": ["window"]})
    write_bundle(tmp_path, lean, {"window.onnx": b"4"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle.json", "window.onnx"]
    with pytest.raises(BundleError, match="no mode 'step'"):
        load_bundle(tmp_path).graph("step")


OLD_FILES = {"window.onnx": b"1", "step.onnx": b"2", "weights.bin": b"3"}


def assert_untouched(path: Path, before: LoadedBundle) -> None:
    assert load_bundle(path).sha256 == before.sha256
    assert sorted(p.name for p in path.iterdir()) == sorted([INFO_NAME, *OLD_FILES])


def test_a_write_that_fails_half_way_leaves_the_bundle_that_was_there(tmp_path: Path) -> None:
    info, path = Bundle(**FIELDS), tmp_path / "b"
    before = write_bundle(path, info, OLD_FILES)
    with pytest.raises(BundleError, match=r"missing\.onnx: this file should be part"):
        write_bundle(path, info, {"step.onnx": b"new", "window.onnx": tmp_path / "missing.onnx"})
    assert load_bundle(path).sha256 == before.sha256
    with pytest.raises(BundleError, match="does not exist"):
        write_bundle(path, info, {"step.onnx": b"new", "window.onnx": path / "window.onnx", "x": path / "x"})
    assert_untouched(path, before)


@pytest.mark.parametrize("room", range(4))
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_the_bundle_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, error: BaseException
) -> None:
    info, path = Bundle(**FIELDS), tmp_path / "b"
    before = write_bundle(path, info, OLD_FILES)
    written: list[Any] = []
    copy = shutil.copyfileobj

    def full(old: Any, new: Any) -> None:
        new.write(b"part")
        if len(written) == room:
            raise error
        new.seek(0)
        copy(old, new)
        written.append(new.name)

    monkeypatch.setattr(shutil, "copyfileobj", full)
    files = {"window.onnx": b"one!", "step.onnx": b"two!", "more.bin": b"more!"}
    with pytest.raises(type(error)) as caught:
        write_bundle(path, info, files)
    if isinstance(caught.value, OSError):
        place = sorted(files)[room] if room < 3 else INFO_NAME
        assert caught.value.filename == str(path / place)
    assert_untouched(path, before)


def test_writing_refuses_missing_graphs_and_names_outside(tmp_path: Path) -> None:
    info = Bundle(**FIELDS)
    with pytest.raises(BundleError, match=r"step\.onnx"):
        write_bundle(tmp_path, info, {"window.onnx": b""})
    for name in ("../x", "/x", "bundle.json", "a/../../x", ""):
        with pytest.raises(BundleError, match="not a file name"):
            write_bundle(tmp_path, info, {"window.onnx": b"", "step.onnx": b"", name: b""})


def test_idle_labels_are_written_only_where_there_are_some(numbers: LoadedBundle, tmp_path: Path) -> None:
    for labels in ([], numbers.info.labels[:1]):
        copy = shutil.copytree(numbers.path, tmp_path / f"{len(labels)}")
        info = numbers.info.model_copy(update={"idle": labels})
        written = write_bundle(copy, info, list(numbers.info.sha256))
        assert ("idle" in json.loads((copy / INFO_NAME).read_text())) == bool(labels)
        assert load_bundle(copy).info.idle == written.info.idle == labels


def test_descriptions_are_frozen_and_default_to_the_paper() -> None:
    info = Bundle(**FIELDS)
    assert info.preprocess == Preprocess(size=224, resize=256, fit="stretch")
    assert (info.T, info.calibration.temperature) == (8, 1.0)
    with pytest.raises(ValueError):
        info.T = 4  # type: ignore[misc]
