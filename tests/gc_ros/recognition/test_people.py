# SPDX-License-Identifier: Apache-2.0
"""Each person in a camera's images by himself: one window, one state and one slot a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.media.images import Picture
from gc_ros.recognition.batch import Batch
from gc_ros.recognition.event_log import EventLog
from gc_ros.recognition.following import Following, in_order
from gc_ros.recognition.people import People, PersonActivity
from gc_ros.recognition.smoothing import ActivityEvent, Smoothing
from gc_ros.recognition.taught import Lessons, Taught, space_of
from gc_ros.stamps import NS
from tests.toy import FakeEngine, numbers_of, toy_bundle
from trt_build.bundle import LoadedBundle
from trt_build.engines.open import open_engine
from trt_build.errors import EngineError

MODES = pytest.mark.parametrize("mode", ["window", "step"])
WIDTH, HEIGHT = 240, 120
PLACES = {"ann": 20, "bob": 100, "cid": 180}  # left edges; boxes are 40 x 60


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return toy_bundle(tmp_path_factory.mktemp("people") / "toy", T=4, rate_hz=8)


def box_of(name: str) -> Box:
    return Box(PLACES[name], 30, PLACES[name] + 40, 90)


def image(numbers: dict[str, int]) -> np.ndarray:
    """Everybody as a rectangle, the number of each in its pixels, larger than the region that the network sees."""
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for name, number in numbers.items():
        box = box_of(name)
        out[:, int(box.x_min) - 20 : int(box.x_max) + 20] = (number // 256, number % 256, 0)
    return out


def found(stamp_ns: int, names: Iterable[str]) -> Detections:
    return Detections(stamp_ns, tuple(Detection(name, box_of(name)) for name in names))


def at(i: int) -> int:
    return round(i * NS / 8)


def code(name: str, i: int) -> int:
    return 1000 * (1 + list(PLACES).index(name)) + i


def follow(
    bundle: LoadedBundle, mode: str, present: list[list[str]], slots: int = 3, **arguments: Any
) -> tuple[list[PersonActivity], Following]:
    """Run frames of 8 Hz in which these people are, with detections of each frame."""
    engine = open_engine(bundle, mode, batch=slots, threads=1)
    recorded = [found(at(i), names) for i, names in enumerate(present)]
    following = Following(bundle, engine, recorded, mode=mode, **arguments)
    results = []
    for i, names in enumerate(present):
        picture = Picture.of(image({name: code(name, i) for name in names}), False)
        results += following.push(picture, at(i))
    return results + following.finish(), following


def windows(results: list[PersonActivity]) -> Iterator[tuple[str, list[int]]]:
    for result in results:
        yield result.person_id, numbers_of(result.activity)


@MODES
def test_each_person_has_a_window_of_his_own(bundle: LoadedBundle, mode: str) -> None:
    present = [["ann", "bob"]] * 3 + [["ann", "bob", "cid"]] * 5
    results, _ = follow(bundle, mode, present)
    # The step toy starts again every T frames and has one result a start.
    ends = {"window": {"ann": range(3, 8), "bob": range(3, 8), "cid": range(6, 8)}, "step": {}}[mode] or {
        "ann": (3, 7),
        "bob": (3, 7),
        "cid": (6,),
    }
    wanted = {(name, tuple(code(name, j) for j in range(i - 3, i + 1))) for name in ends for i in ends[name]}
    assert {(name, tuple(numbers)) for name, numbers in windows(results)} == wanted
    assert len(results) == len(wanted)


@MODES
def test_results_tell_box_and_glimpses_in_the_image(bundle: LoadedBundle, mode: str) -> None:
    results, _ = follow(bundle, mode, [["ann", "bob"]] * 4)
    assert {r.person_id for r in results} == {"ann", "bob"}
    for result in results:
        box, region = result.box, result.activity.person.region
        assert (box.x_min, box.y_max) == (PLACES[result.person_id], 90)
        assert result.activity.width == WIDTH
        for glimpse in result.activity.glimpses:
            assert region.x_min <= glimpse.x0 <= glimpse.x1 <= region.x_max


def test_the_region_is_as_wide_as_in_the_training_of_the_bundle(tmp_path: Any) -> None:
    trained = toy_bundle(tmp_path / "trained", T=4, rate_hz=8, provenance={"people": {"margin": 0.4}})
    for arguments, side in (({}, 108), ({"margin": 0.0}, 60)):
        results, _ = follow(trained, "window", [["bob"]] * 4, slots=1, **arguments)
        region = results[0].activity.person.region
        assert region.x_max - region.x_min == region.y_max - region.y_min == side


@pytest.mark.parametrize(
    "says", [{}, {"people": None}, {"people": {"margin": None}}, {"people": {"margin": 1e9}}, {"people": 3}]
)
def test_a_bundle_that_says_no_margin_has_the_usual_one(tmp_path: Any, says: dict[str, Any]) -> None:
    loaded = toy_bundle(tmp_path / "toy", T=4, rate_hz=8, provenance=says)
    assert People(loaded, open_engine(loaded, "window", threads=1), [0]).margin == 0.15


def test_people_share_engine_calls(bundle: LoadedBundle) -> None:
    engine = FakeEngine(open_engine(bundle, "step", batch=3, threads=1))
    following = Following(bundle, engine, [found(at(i), PLACES) for i in range(8)], mode="step")
    for i in range(8):
        following.push(Picture.of(image({name: code(name, i) for name in PLACES}), False), at(i))
    assert len(following.finish()) == 3  # of the last frame
    assert engine.runs == 8


def test_who_finds_no_slot_is_named_and_gets_one_when_somebody_left(bundle: LoadedBundle) -> None:
    present = [["ann", "bob", "cid"]] * 5 + [["bob", "cid"]] * 14
    results, following = follow(bundle, "window", present, slots=2)
    assert [name for name, _ in windows(results)].count("cid") == 3
    people = following.people
    assert set(people.present) == {"bob", "cid"} and people.without_slot == ()
    counts = people.counters()
    assert counts.left_out["too many people"] > 5
    assert counts.resets == {"person left": 1}
    for name, numbers in windows(results):
        # Of somebody who has left the last box counts for a while; the image there is empty then.
        assert all(n // 1000 in (0, code(name, 0) // 1000) for n in numbers)


def test_where_the_time_begins_again_in_another_encoding_frames_wait_for_boxes_of_then(
    bundle: LoadedBundle,
) -> None:
    people = People(bundle, open_engine(bundle, "window", batch=1, threads=1), [0])
    people.detections(found(at(800), ["ann"]))
    people.offer(Picture.of(image({}), False), at(800), encoding="rgb8")
    people.offer(Picture.of(image({}), False), at(0), encoding="bayer_rggb8")
    assert people.shown == 1
    people.detections(found(at(0), ["bob"]))
    assert people.shown == 2 and set(people.present) == {"bob"}
    assert not people.counters().left_out


def test_of_those_who_come_at_once_the_largest_get_the_slots(bundle: LoadedBundle) -> None:
    people = People(bundle, open_engine(bundle, "window", batch=1, threads=1), [0])
    ann, bob = box_of("ann"), box_of("bob")
    near = Box(bob.x_min - 10, bob.y_min, bob.x_max + 10, bob.y_max + 20)
    people.detections(Detections(at(0), (Detection("ann", ann), Detection("bob", near))))
    people.offer(Picture.of(image({}), False), at(0))
    assert set(people.present) == {"bob"} and people.without_slot == ("ann",)


def test_frames_chosen_of_a_camera_faster_than_the_grid_are_no_gap(bundle: LoadedBundle) -> None:
    """At 10 Hz some lie two of its periods apart, which may be more than `max_frame_gap_s`."""
    engine = open_engine(bundle, "window", batch=1, threads=1)
    stamps = [i * NS // 10 for i in range(20)]
    following = Following(bundle, engine, [found(stamp, ["ann"]) for stamp in stamps], max_frame_gap_s=0.15)
    results = [
        r for i, s in enumerate(stamps) for r in following.push(Picture.of(image({"ann": i}), False), s)
    ]
    results += following.finish()
    counts = following.people.counters()
    assert counts.resets == {} and len(results) == counts.frames_sampled - 3 > 8


def test_no_more_frames_wait_than_memory_allows_however_long_they_may(bundle: LoadedBundle) -> None:
    engine = open_engine(bundle, "window", batch=1, threads=1)
    people = People(bundle, engine, [0], max_age_s=100, timeout_s=100)
    for i in range(40):
        people.offer(Picture.of(image({}), False), at(i))
    assert people.shown == 40 - 32


def test_what_is_set_holds_for_everybody(tmp_path: Any) -> None:
    bundle = toy_bundle(tmp_path / "colours", "colours", T=4, rate_hz=8, embedding=True)
    engine = open_engine(bundle, "window", batch=2, threads=1)
    following = Following(bundle, engine, [found(at(i), ["ann", "bob"]) for i in range(16)])
    people, log, said = following.people, EventLog(), []
    people.log_events(log)
    people.smoothing = Smoothing(min_duration_s=100)
    for i in range(16):
        if i == 10:
            people.smoothing = Smoothing()
        following.push(Picture.of(np.full((HEIGHT, WIDTH, 3), (250, 0, 0), np.uint8), False), at(i))
        log.publish(lambda who, event, _, i=i: said.append((who, event.kind, i)))
    assert sorted(said) == [("ann", "onset", 10), ("bob", "onset", 10)]
    people.lessons = lessons = Lessons(bundle, space_of(bundle), Taught(bundle.info.model_id))
    assert {recognizer.lessons for recognizer in people.recognizers.values()} == {lessons}


def test_what_ended_did_so_behind_the_last_window_that_had_it() -> None:
    result = lambda stamp_ns: SimpleNamespace(activity=SimpleNamespace(stamp_ns=stamp_ns))
    first, second, ended = result(1), result(2), ("ann", ActivityEvent("offset", "wave", 0, 1, 0.2))
    assert in_order([first, second], [ended]) == [first, ended, second]  # type: ignore[list-item]


@MODES
def test_an_id_that_jumps_is_somebody_new(bundle: LoadedBundle, mode: str) -> None:
    engine = open_engine(bundle, mode, batch=2, threads=1)
    recorded = []
    for i in range(12):
        where = "ann" if i < 6 else "cid"
        recorded.append(Detections(at(i), (Detection("x", box_of(where)),)))
    following = Following(bundle, engine, recorded, mode=mode)
    results = []
    for i in range(12):
        results += following.push(Picture.of(image({n: code(n, i) for n in PLACES}), False), at(i))
    results += following.finish()
    seen = [{n // 1000 for n in numbers} for _, numbers in windows(results)]
    assert seen and all(len(people) == 1 for people in seen)
    assert {1} in seen and {3} in seen
    assert following.people.counters().resets["id jump"] == 1


def test_events_of_who_has_left_are_of_that_person(tmp_path: Any) -> None:
    bundle = toy_bundle(tmp_path / "colours", "colours", T=4, rate_hz=8)
    engine = open_engine(bundle, "window", batch=1, threads=1)
    following = Following(bundle, engine, [found(at(i), ["ann"] if i < 8 else []) for i in range(24)])
    results = []
    for i in range(24):
        picture = Picture.of(np.full((HEIGHT, WIDTH, 3), (250, 0, 0), np.uint8), False)
        results += following.push(picture, at(i))
    results += following.finish()
    assert [e.kind for r in results for e in r.activity.events] == ["onset"]
    assert [(name, event.kind, event.label) for name, event in following.people.take_events()] == [
        ("ann", "offset", "red")
    ]
    assert following.people.take_events() == []


def test_without_detections_nothing_is_recognised_and_the_reason_is_counted(bundle: LoadedBundle) -> None:
    people = People(bundle, open_engine(bundle, "window", batch=2, threads=1), [0, 1])
    for i in range(40):
        assert people.offer(Picture.of(image({}), False), at(i)) == []
    assert people.counters().left_out["no detections yet"] > 30
    assert people.behind_s is None
    people.detections(found(at(10), ["ann"]))
    for i in range(40, 50):
        assert people.offer(Picture.of(image({}), False), at(i)) == []
    assert people.behind_s == pytest.approx((49 - 10) / 8)
    assert people.counters().left_out["detections too old"] > 5


def test_a_picture_that_cannot_be_decoded_is_counted_and_nothing_raises(bundle: LoadedBundle) -> None:
    def broken() -> np.ndarray:
        raise OSError("no such plane")

    people = People(bundle, open_engine(bundle, "window", batch=2, threads=1), [0, 1])
    people.detections(found(at(0), ["ann", "bob"]))
    assert people.offer(Picture(WIDTH, HEIGHT, True, broken), at(0)) == []
    assert people.counters().dropped == {"image": 1}


def test_a_reset_frees_all_slots_and_leaves_out_what_it_overtook(bundle: LoadedBundle) -> None:
    people = People(bundle, open_engine(bundle, "window", batch=2, threads=1), [0, 1])
    asked = people.asked
    people.detections(found(at(0), PLACES))
    people.offer(Picture.of(image({}), False), at(0))
    assert set(people.present) == {"ann", "bob"} and people.without_slot == ("cid",)
    people.reset("asked")
    assert people.present == {} and people.without_slot == () and people.behind_s is None
    people.offer(Picture.of(image({}), False), at(1), asked=asked)
    assert people.counters().frames_sampled == 1
    # The time goes on where it stood, as of a bag that was halted; boxes from before are forgotten.
    people.offer(Picture.of(image({}), False), at(0), asked=people.asked)
    people.flush()
    assert people.counters().frames_sampled == 2 and people.present == {}


def test_boxes_of_images_of_another_size_are_forgotten_and_sampling_begins_anew(bundle: LoadedBundle) -> None:
    people = People(bundle, open_engine(bundle, "window", batch=2, threads=1), [0, 1])
    people.detections(found(at(0), ["ann"]))
    people.offer(Picture.of(image({}), False), at(0))
    assert set(people.present) == {"ann"}
    people.offer(Picture.of(image({})[:, 20:], False), at(0) + NS // 100)
    people.flush()
    assert people.counters().frames_sampled == 2 and people.present == {}
    assert people.counters().resets == {"size change": 1}


def test_work_from_before_a_reset_gives_nothing(bundle: LoadedBundle) -> None:
    engine = open_engine(bundle, "window", batch=2, threads=1)
    people = People(bundle, engine, [0, 1])
    batch = Batch(engine, people.recognizers)
    work = []
    for i in range(4):
        people.detections(found(at(i), ["ann"]))
        work += people.offer(Picture.of(image({"ann": 1}), False), at(i))
    (item,) = work
    people.reset("asked")
    batch.add(item.key, item.window)
    assert batch.run() == []


def test_an_engine_that_fails_fails_the_reading(bundle: LoadedBundle) -> None:
    engine = FakeEngine(open_engine(bundle, "window", batch=2, threads=1))
    engine.poison = True
    following = Following(bundle, engine, [found(at(i), ["ann"]) for i in range(4)])
    with pytest.raises(EngineError, match="not finite"):
        for i in range(4):
            following.push(Picture.of(image({"ann": 1}), False), at(i))
        following.finish()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"slots": []}, "at least one slot"),
        ({"max_age_s": 0.0}, "max_age_s"),
        ({"timeout_s": 0.1}, "timeout_s"),
        ({"margin": float("nan")}, "margin"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    bundle: LoadedBundle, arguments: dict[str, Any], why: str
) -> None:
    engine = open_engine(bundle, "window", batch=2, threads=1)
    with pytest.raises(ValueError, match=why):
        People(bundle, engine, **{"slots": [0], **arguments})
