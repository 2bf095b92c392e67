# SPDX-License-Identifier: Apache-2.0
"""People in training clips: frames show the square that the robot shows, boxes err as told, caches keep them apart."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gc_model.data import own
from gc_model.data import samples as dataset
from gc_model.data.augment import Augment, BoxAugment, joined
from gc_model.data.clip import LabelledClip, PersonSource
from gc_model.data.datasets import index
from gc_model.data.detect import detect
from gc_model.data.empty import write_empty
from gc_model.data.estimate import estimate
from gc_model.data.frames import FrameCache, decode
from gc_model.data.joints import joints_of, to_input
from gc_model.data.people import LEAST, boxes_of_joints, read_boxes, with_boxes
from gc_model.paper.presets import preset
from gc_model.synth import synthesize, synthesize_scenes
from gc_ros.media.detections import Box, Detection, Detections, boxes_of, read_csv, write_csv
from gc_ros.media.video import read_video
from gc_ros.recognition.region import square
from tests.videos import write_clip
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.preprocess import model_input

NS = 1_000_000_000
P = Preprocess(size=56, resize=64)
CONFIG = replace(preset("edge", classes=2), size=56, resize=64, T=4, reset_after=4)
STILL = BoxAugment(1.0, 1.0, 0.0, 0.0)


def place(k: int, x: float = 20.0) -> Box:
    """Of a red square that walks to the right, 6 pixels a frame."""
    return Box(x + 6 * k, 30, x + 6 * k + 40, 90)


def picture(k: int) -> np.ndarray:
    image = np.full((120, 200, 3), (30, 140, 60), np.uint8)
    box = place(k)
    image[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = (230, 30, 30)
    return image


def boxes(clips: Path, *people: str, frames: range = range(16)) -> Path:
    """A table for class/a.mp4: everybody walks where the first does, each a little smaller than the one before."""
    found = [
        Detections(
            k * NS // 8,
            tuple(
                Detection(who, Box(place(k).x_min, 30, place(k).x_max, 90 - 5 * n))
                for n, who in enumerate(people)
            ),
        )
        for k in frames
    ]
    table = boxes_of(clips / "boxes", "walk/a.mp4")
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, found)
    return clips / "boxes"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """walk/a.mp4 and stand/b.mp4: 16 frames of 8 Hz; a red square walks in a."""
    for name in ("walk/a.mp4", "stand/b.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True)
        write_clip(tmp_path / "clips" / name, [picture(k) for k in range(16)], fps=8)
    return tmp_path / "clips"


def walker(folder: Path, table: Path) -> LabelledClip:
    (found,) = (c for c in with_boxes(own.clips(folder), table, 0.15) if c.label == "walk")
    return found


def test_frames_show_the_square_that_the_robot_shows(clips: Path) -> None:
    """The centre of a frame is what the robot's own resize gives, to the last bit; the person stays in its middle."""
    source = walker(clips, boxes(clips, "1")).people[0]
    frames = decode(clips / "walk/a.mp4", P, 12.0, person=replace(source, margin=0.25))
    assert len(frames.images) == 16 and frames.regions is not None
    wanted = P.model_copy(update={"size": P.resize})
    for k, (image, _) in enumerate(read_video(clips / "walk/a.mp4")):
        region = frames.regions[k] * (200, 120, 200, 120)
        np.testing.assert_allclose(region, region.round(), atol=1e-9)
        area = tuple(int(v) for v in region.round())
        np.testing.assert_array_equal(frames.images[k], model_input(image, wanted, bgr=False, area=area))
        if k:
            # Smoothed boxes lag behind somebody who walks.
            exact = square(place(k), 0.25)
            assert abs(area[0] - exact.x_min) <= 8 and area[2] - area[0] == exact.x_max - exact.x_min
        assert frames.images[k, 32, 32, 0] > 150 and frames.images[k, 3, 3, 0] < 140


def test_frames_without_the_person_are_left_out(clips: Path) -> None:
    person = walker(clips, boxes(clips, "1", frames=range(5, 9))).people[0]
    frames = decode(clips / "walk/a.mp4", P, 12.0, person=person)
    # Half a second, which the robot waits too, before and behind.
    assert frames.numbers.tolist() == list(range(1, 13))
    assert frames.times[0] == pytest.approx(1 / 8) and len(frames.regions) == 12
    lost = replace(person, id="9")
    with pytest.raises(DataError, match=r"person 9 of .* is in none"):
        decode(clips / "walk/a.mp4", P, 12.0, person=lost)


def test_who_a_clip_is_about_is_found_and_others_are_whole_pictures(clips: Path) -> None:
    found = with_boxes(own.clips(clips), boxes(clips, "1", "2"), 0.15)
    assert {c.label: [p.id for p in c.people] for c in found} == {"walk": ["1", "2"], "stand": []}
    assert all(c.person is None for c in found)
    assert [c.first_person.person and c.first_person.person.id for c in found] == [None, "1"]
    few = with_boxes(own.clips(clips), boxes(clips, "1", frames=range(LEAST - 1)), 0.15)
    assert not any(c.people for c in few)
    with pytest.raises(DataError, match=r"no boxes of these clips, .*\.boxes\.csv for one"):
        with_boxes(own.clips(clips), clips / "none", 0.15)


def test_a_cache_keeps_people_whole_pictures_and_other_boxes_apart(clips: Path, tmp_path: Path) -> None:
    clip = walker(clips, boxes(clips, "1", "2"))
    cache = FrameCache(tmp_path / "cache", P)
    kinds = [clip, *(replace(clip, person=p) for p in clip.people)]
    kinds.append(replace(clip, person=replace(clip.people[0], margin=0.3)))
    assert cache.fill(kinds, workers=1, progress=False) == {}
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4
    first = [cache.read(kind).images.copy() for kind in kinds]
    assert all(not np.array_equal(a, b) for i, a in enumerate(first) for b in first[:i])
    assert cache.read(kinds[0]).regions is None
    again = cache.read(kinds[1])
    np.testing.assert_allclose(
        again.regions, decode(clip.path, P, 12.0, person=clip.people[0]).regions, atol=1e-6
    )
    # Better boxes of the same clip are other frames.
    clip = walker(clips, boxes(clips, "1", frames=range(10)))
    assert len(cache.read(clip.first_person).images) < 16


def training(
    clip: LabelledClip, cache: Path, boxes: BoxAugment, augment: Augment | None = None
) -> dataset.TrainingClips:
    plain = augment or Augment.paper(56, 64)
    return dataset.TrainingClips(
        [clip], ["stand", "walk", "clap"], FrameCache(cache, P), CONFIG, 2.0, plain, 0, boxes=boxes
    )


def test_a_share_of_the_samples_shows_people(clips: Path, tmp_path: Path) -> None:
    clip = walker(clips, boxes(clips, "1"))

    def red(sample: dict) -> float:
        """Share of the picture that the person fills."""
        return float((sample["clip"][:, 0] > 180).double().mean())

    for share in (0.25, 1.0):
        samples = training(clip, tmp_path / "c", replace(STILL, share=share))
        filled = np.array([red(samples[(epoch, 0)]) for epoch in range(60)])
        people = filled > 0.2  # of whole pictures it fills a tenth
        assert abs(people.mean() - share) < 0.2 and (share < 1 or people.all())
    # Where others do something else, the whole picture is no example.
    apart = training(replace(clip, apart=True), tmp_path / "c", replace(STILL, share=0.25))
    assert all(red(apart[(epoch, 0)]) > 0.2 for epoch in range(20))
    # Whoever has no boxes draws as before there were any.
    plain = training(replace(clip, people=()), tmp_path / "c", STILL)
    before = dataset.TrainingClips(
        [replace(clip, people=())], ["stand", "walk"], FrameCache(tmp_path / "c", P), CONFIG, 2.0,
        Augment.paper(56, 64), 0,
    )  # fmt: skip
    assert torch.equal(plain[(3, 0)]["clip"], before[(3, 0)]["clip"])


def test_everybody_whom_a_label_is_about_is_shown(clips: Path, tmp_path: Path) -> None:
    clip = walker(clips, boxes(clips, "1", "2"))
    two = replace(clip, people=tuple(replace(clip.people[0], id=who) for who in "12"))
    samples = training(two, tmp_path / "c", STILL)
    shown = [samples._drawn((epoch, 0))[0].person for epoch in range(40)]
    assert 8 < sum(person is not None and person.id == "2" for person in shown) < 32


def test_squares_of_people_grow_and_shrink_by_the_scale_about_what_the_robot_shows(
    clips: Path, tmp_path: Path
) -> None:
    samples = training(walker(clips, boxes(clips, "1")), tmp_path / "c", replace(STILL, scale=1.5))
    zooms = [samples._drawn((epoch, 0))[3][0, 0, 0] for epoch in range(200)]
    assert 1 / 1.5 - 1e-6 <= min(zooms) < 0.7 and 1.43 < max(zooms) <= 1.5 + 1e-6


def test_samples_without_errors_are_the_centre_as_the_robot_sees_it(clips: Path, tmp_path: Path) -> None:
    clip = walker(clips, boxes(clips, "1"))
    held_out = dataset.TestClips([clip], ["stand", "walk"], FrameCache(tmp_path / "c", P), CONFIG, 1)[0][
        "clip"
    ][0]
    frames = FrameCache(tmp_path / "c", P).read(clip.first_person).images
    assert any(
        torch.equal(held_out[0], torch.from_numpy(f[4:60, 4:60].copy()).permute(2, 0, 1)) for f in frames
    )
    sample = training(clip, tmp_path / "c", STILL)[(0, 0)]
    assert sample["clip"].shape == (4, 3, 56, 56) and sample["label"] == 1
    # The same square but for the place of the crop, which the paper draws.
    assert float((sample["clip"][:, 0, 20:36, 20:36] > 150).double().mean()) > 0.9


def test_boxes_that_err_show_more_less_or_what_was_there_before() -> None:
    times = np.arange(10) / 4
    regions = np.stack([np.array([0.1 + 0.05 * k, 0.2, 0.4 + 0.05 * k, 0.6]) for k in range(10)])
    chosen = np.array([2, 4, 6, 8])

    def maps(**how: float) -> np.ndarray:
        return replace(STILL, **how).maps(times, regions, chosen, 64, np.random.default_rng(0))

    np.testing.assert_allclose(maps(), np.tile([[1, 0, 0], [0, 1, 0]], (4, 1, 1)), atol=1e-9)
    moved = maps(jitter=0.05)
    assert 0 < np.abs(moved[:, :, 2]).max() < 0.3 * 64 and 0 < np.abs(moved[:, 0, 0] - 1).max() < 0.3
    assert not np.allclose(moved[0], moved[1])
    dropped = maps(drop=1.0)
    # The person has moved on by one or two frames since: 0.05 of the picture each, of a square of 0.3.
    steps = dropped[:, 0, 2] / 64 * 0.3 / 0.05
    np.testing.assert_allclose(steps, steps.round(), atol=1e-6)
    assert set(steps.round().astype(int)) <= {0, 1, 2} and steps.max() >= 1
    np.testing.assert_allclose(dropped[:, 1, 2], 0, atol=1e-9)


def test_pixels_and_joints_of_a_person_go_the_same_way(tmp_path: Path) -> None:
    """Joints land on the body in crops whose boxes err, mirrored or not: the body is brighter there than beside it."""
    synthesize(
        tmp_path / "s", classes=["wave", "clap"], subjects=1, clips_per_class=2, size=(160, 120), noise=0, clutter=0,
        occlusion=0, boxes=True, joints=True, workers=1, progress=False,
    )  # fmt: skip
    (clip, *_) = with_boxes(
        own.with_joints(own.clips(tmp_path / "s"), tmp_path / "s/joints"), tmp_path / "s/boxes", 0.15
    )
    cache = FrameCache(tmp_path / "c", P)
    frames = cache.read(clip.first_person)
    joints = joints_of(clip.first_person, frames, cache)
    # Whole pictures and the square agree about where in the picture a joint is.
    whole = cache.read(clip)
    in_picture = joints_of(clip, whole, cache)[: len(frames.times)]
    start, end = frames.regions[:, None, None, :2], frames.regions[:, None, None, 2:]
    np.testing.assert_allclose((joints * (end - start) + start)[:, 0], in_picture[:, 0], atol=1e-3)
    inside = (joints[:, 0] > 0) & (joints[:, 0] < 1)
    assert inside.all()
    augment = Augment(colour=0.0, blur=0.0, rotate=20.0)
    erring = BoxAugment(1.0, 1.2, 0.1, 0.5)
    for epoch in range(6):
        samples = training(clip, tmp_path / "c", erring, augment)
        sample = samples[(epoch, 0)]
        _, drawn, chosen, matrix, _ = samples._drawn((epoch, 0))
        assert matrix.shape == (4, 2, 3)
        # A dot painted on a joint of the frame is where the sample says the joint is.
        dots = np.zeros_like(drawn.images[chosen])
        for t, points in enumerate(joints_of(clip.first_person, drawn, cache)[chosen][:, 0, :1]):
            x, y = (points[0] * 64).astype(int)
            dots[t, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = 255
        warped = Augment(colour=0.0, blur=0.0).apply(dots, 56, matrix, np.random.default_rng(0))
        for t, image in enumerate(warped):
            x, y = ((sample["joints"][t, 0, 0].numpy() + 1) / 2 * 56).round().astype(int)
            if 3 <= x < 53 and 3 <= y < 53:
                assert image[y - 2 : y + 3, x - 2 : x + 3].max() > 100, (epoch, t)


def test_one_map_for_all_frames_and_one_for_each_agree() -> None:
    rng = np.random.default_rng(0)
    joints = rng.uniform(size=(4, 2, 25, 2)).astype(np.float32)
    a, b = (Augment().matrix(64, 56, rng) for _ in range(2))
    order = list(range(25))
    each = np.stack([a] * 4)
    np.testing.assert_allclose(
        to_input(joints, each, 64, 56, order), to_input(joints, a, 64, 56, order), atol=1e-5
    )
    point = np.array([7.0, 9.0, 1.0])
    np.testing.assert_allclose(joined(b, a) @ point, b @ [*(a @ point), 1.0])


def test_boxes_around_joints_hold_the_whole_body(tmp_path: Path) -> None:
    """Drawn people know both: joints lie within the body's box, which the box of the joints nearly is."""
    synthesize(
        tmp_path, classes=["wave", "kick", "hug"], subjects=2, clips_per_class=2, size=(160, 160), boxes=True,
        joints=True, occlusion=0, workers=1, progress=False,
    )  # fmt: skip
    shares = []
    for clip in own.with_joints(own.clips(tmp_path), tmp_path / "joints"):
        drawn = read_boxes(boxes_of(tmp_path / "boxes", clip.name)).found
        joints, size = clip.joints.read(clip.joints.file)
        for now, bodies in zip(drawn, boxes_of_joints(joints * size, (160, 160)), strict=True):
            for person, (_, box) in zip(now.people, bodies, strict=False):
                a, b = person.box, box
                wide = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
                high = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
                areas = sum((c.x_max - c.x_min) * (c.y_max - c.y_min) for c in (a, b))
                shares.append(wide * high / (areas - wide * high))
    assert len(shares) > 100 and np.mean(shares) > 0.85 and np.quantile(shares, 0.05) > 0.7
    nothing = np.full((2, 2, 25, 2), np.nan)
    nothing[1, 0, :3] = 5.0  # three joints have no size
    assert boxes_of_joints(nothing, (10, 10)) == [[], []]


def test_skeletons_of_a_data_set_give_its_people(tmp_path: Path) -> None:
    synthesize(
        tmp_path / "ntu", "ntu", classes=["wave", "hug"], subjects=1, clips_per_class=3, size=(96, 96), duration_s=1.5,
        workers=1, progress=False,
    )  # fmt: skip
    found = index("ntu", tmp_path / "ntu", boxes=Path("skeletons"))
    assert {len(c.people) for c in found} == {1}  # class numbers of drawn activities are none of two people's
    frames = decode(found[0].path, P, 12.0, found[0].read, found[0].people[0])
    assert len(frames.images) == 6 and frames.regions is not None
    cache = FrameCache(tmp_path / "c", P)
    joints = joints_of(found[0].first_person, cache.read(found[0].first_person), cache)
    assert (joints[:, 0] > 0.02).all() and (joints[:, 0] < 0.98).all()
    with pytest.raises(DataError, match="have skeletons: ntu"):
        index("clips", tmp_path / "ntu" / "nturgb+d_rgb", boxes=Path("skeletons"))


def test_a_picture_that_lost_its_aspect_gets_it_back(tmp_path: Path) -> None:
    """`gc-model prepare` squeezes 1920x1080 to a square; people in it must not be squeezed."""
    from gc_model.data.clip import SeenPeople
    from gc_model.data.people import Whereabouts

    def read(_: Path) -> SeenPeople:
        box = Box(800, 200, 1000, 900)
        return SeenPeople([Detections(0, (Detection("1", box),))], numbered=True, size=(1920, 1080))

    where = Whereabouts(PersonSource(tmp_path, "1", 0.0, read))
    where.see(0, 0)
    image, area = where.area(np.zeros((256, 256, 3), np.uint8), 0)
    assert image.shape == (256, 455, 3)
    x, y = (area[0] + area[2]) / 2, (area[1] + area[3]) / 2
    assert area[2] - area[0] == area[3] - area[1] == round(700 * 256 / 1080)
    assert abs(x - 900 * 256 / 1080) <= 1 and abs(y - 550 * 256 / 1080) <= 1


def test_each_person_of_a_scene_is_a_clip_of_what_they_do(tmp_path: Path) -> None:
    synthesize_scenes(
        tmp_path / "s", 2, people=(2, 2), crossing=0.0, change_s=2.0, subjects=4, classes=["wave", "bow", "clap"],
        size=(128, 72), fps=5.0, duration_s=4.0, occlusion=0.0, workers=1, progress=False,
    )  # fmt: skip
    boxes = tmp_path / "s" / "boxes"
    found = index("clips", tmp_path / "s", boxes=boxes)
    assert (
        len(found) == 8
        and {c.label for c in found} <= {"wave", "bow", "clap"}
        and all(c.apart for c in found)
    )
    assert len({c.name for c in found}) == 8
    cache = FrameCache(tmp_path / "c", P)
    assert cache.fill([c.first_person for c in found], workers=1, progress=False) == {}
    for clip in found:
        start, end = clip.people[0].span_s
        times = cache.read(clip.first_person).times
        assert len(times) >= 9 and start <= times[0] and times[-1] <= end and end - start == pytest.approx(2)
    # Others in the picture do something else: the whole picture is never a sample, whatever the share.
    samples = training(replace(found[0], label="clap"), tmp_path / "c", replace(STILL, share=0.01))
    assert all(samples._drawn((epoch, 0))[1].regions is not None for epoch in range(20))
    label = found[0].label
    assert {c.label for c in index("clips", tmp_path / "s", boxes=boxes, classes=[label])} == {label}
    with pytest.raises(DataError, match='no class "hug"'):
        index("clips", tmp_path / "s", boxes=boxes, classes=["hug"])


def twins(folder: Path) -> Path:
    """walk/a.mp4 and walk/a.avi, of people 1 and 2, beside stand/b.mp4; nobody decodes them."""
    rows = ["path,class,subject", "walk/a.mp4,walk,1", "walk/a.avi,walk,2", "stand/b.mp4,stand,1"]
    for row in rows[1:]:
        path = folder / row.partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.encode())
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder


SHARED = r"walk/a\.avi and walk/a\.mp4 would share the table .*a\.{}\.csv: rename one of the two videos"


def test_clips_that_share_a_table_are_refused_where_it_is_read(tmp_path: Path) -> None:
    data = twins(tmp_path / "clips")
    folder = boxes(data, "1")
    (tmp_path / "j/walk").mkdir(parents=True)
    (tmp_path / "j/stand").mkdir()
    for name in ("walk/a", "stand/b"):
        (tmp_path / f"j/{name}.joints.csv").write_text("frame,body,width,height,nose_x,nose_y\n")
    with pytest.raises(DataError, match=SHARED.format("boxes")):
        index("clips", data, boxes=folder)
    with pytest.raises(DataError, match=SHARED.format("boxes")):
        write_empty(data, folder, tmp_path / "e", progress=False)
    with pytest.raises(DataError, match=SHARED.format("joints")):
        index("clips", data, joints=tmp_path / "j")
    # Of one of the two, or where it does not exist, nothing is wrong.
    assert len(index("clips", data, subjects=["2"], joints=tmp_path / "j")) == 1
    (tmp_path / "j/walk/a.joints.csv").unlink()
    assert len(index("clips", data, joints=tmp_path / "j")) == 3


@pytest.mark.parametrize("subjects", [None, ["1"]])
def test_clips_that_would_share_a_table_are_refused_before_any_is_made(tmp_path: Path, subjects) -> None:
    data = twins(tmp_path / "clips")
    with pytest.raises(DataError, match=SHARED.format("boxes")):
        detect(data, tmp_path / "b", tmp_path / "none.onnx", subjects=subjects, progress=False)
    with pytest.raises(DataError, match=SHARED.format("joints")):
        estimate(data, tmp_path / "j", subjects=subjects, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]


def test_boxes_of_larger_pictures_show_nobody(clips: Path) -> None:
    table = boxes_of(boxes(clips, "1"), "walk/a.mp4")
    large = [
        replace(d, people=tuple(replace(p, box=Box(*(3 * v for v in astuple(p.box)))) for p in d.people))
        for d in read_csv(table)
    ]
    write_csv(table, large)
    person = walker(clips, clips / "boxes").people[0]
    with pytest.raises(DataError, match=r"a\.boxes\.csv: most boxes lie outside .*of another size"):
        decode(clips / "walk/a.mp4", P, 12.0, person=person)
