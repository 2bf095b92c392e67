# SPDX-License-Identifier: Apache-2.0
"""Nothing of one person enters the window of another, whatever trackers, cameras and clocks do; a robot, where
detections come late, gives what a file gives."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gc_ros.media.detections import Box, Detection, Detections
from gc_ros.media.images import Picture
from gc_ros.recognition.batch import Batch
from gc_ros.recognition.following import Following
from gc_ros.recognition.people import People, PersonActivity
from gc_ros.stamps import NS
from tests.gc_ros.recognition.crowd import Event, check, happenings, harmless, history, seen
from tests.toy import numbers_of, toy_bundle
from trt_build.bundle import LoadedBundle
from trt_build.engine import Engine
from trt_build.engines.open import open_engine

T, RATE, GAP_S = 4, 8.0, 0.5
SLOTS = 3  # of five people
Toy = tuple[LoadedBundle, dict[str, Engine]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A network that sees the one pixel in the middle."""
    bundle = toy_bundle(tmp_path_factory.mktemp("crowd") / "toy", T=T, S=1, rate_hz=RATE)
    return bundle, {mode: open_engine(bundle, mode, batch=SLOTS, threads=1) for mode in ("window", "step")}


def from_file(toy: Toy, mode: str, events: Iterable[Event]) -> tuple[list[PersonActivity], People]:
    bundle, engines = toy
    following = Following(bundle, engines[mode], mode=mode)
    results = []
    for event in events:
        if event.picture is not None:
            results += following.push(event.picture, event.stamp_ns)
        elif event.found is not None:
            results += following.detections(event.found)
        else:
            following.people.reset("asked")
    return results + following.finish(), following.people


def on_robot(toy: Toy, mode: str, events: Iterable[Event]) -> tuple[list[PersonActivity], People]:
    """As the node does it: the newest work of each slot, in engine calls of its own."""
    bundle, engines = toy
    people = People(bundle, engines[mode], range(SLOTS), mode=mode)
    batch = Batch(engines[mode], people.recognizers)
    results = []
    for event in events:
        work = []
        if event.picture is not None:
            work = people.offer(event.picture, event.stamp_ns)
        elif event.found is not None:
            work = people.detections(event.found)
        else:
            people.reset("asked")
        for item in work:
            batch.add(item.key, item.window)
        while batch.pending:
            results += [PersonActivity.of(o.activity) for o in batch.run() if o.activity is not None]
    return results, people


def told(results: Iterable[PersonActivity]) -> Counter[Any]:
    """What was said of whom, to the last bit."""
    return Counter(
        (
            r.person_id,
            r.box,
            r.activity.window_start_ns,
            r.activity.window_end_ns,
            r.activity.scores.tobytes(),
        )
        for r in results
    )


def no_window_mixes(toy: Toy, mode: str, wrong: list[Any], rate: float, every: int) -> None:
    made = history(wrong, rate, every)
    for run in (from_file, on_robot):
        results, people = run(toy, mode, made.events)
        for result in results:
            check(result, made, GAP_S)
        assert len(people.present) <= SLOTS


def late_is_the_same(toy: Toy, mode: str, wrong: list[Any], rate: float, delays: list[float]) -> None:
    made = history([h for h in wrong if harmless(h)], rate)
    file, _ = from_file(toy, mode, made.events)
    # In frames: a message later than max_age_s less a period of its own is not waited for.
    most = max(0.5 * rate - 2, 0)
    robot, _ = on_robot(toy, mode, made.late(lambda i: delays[i % len(delays)] * most))
    for result in robot:
        check(result, made, GAP_S)
    extra = told(robot) - told(file)
    assert not extra, f"a robot says what a file does not: {list(extra)[:3]}"


rates, every = st.sampled_from([8.0, 10.0, 15.0]), st.sampled_from([1, 1, 2])
wrongs = st.lists(happenings, max_size=8)
modes = st.sampled_from(["window", "step"])
delays = st.lists(st.floats(0, 1), min_size=1, max_size=5)
quick = settings(max_examples=40, suppress_health_check=list(HealthCheck))
# HISTORIES=5000 was run before a release; the suite has 40 minutes for everything.
thorough = settings(
    max_examples=int(os.environ.get("HISTORIES", "1000")), suppress_health_check=list(HealthCheck)
)


@quick
@given(mode=modes, wrong=wrongs, rate=rates, every=every)
def test_no_window_holds_two_people(toy: Toy, mode: str, wrong: list[Any], rate: float, every: int) -> None:
    no_window_mixes(toy, mode, wrong, rate, every)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@thorough
@given(mode=modes, wrong=st.lists(happenings, max_size=20), rate=rates, every=every)
def test_no_window_holds_two_people_in_thousands_of_histories(
    toy: Toy, mode: str, wrong: list[Any], rate: float, every: int
) -> None:
    no_window_mixes(toy, mode, wrong, rate, every)


@quick
@given(mode=modes, wrong=wrongs, rate=rates, delays=delays)
def test_detections_that_come_late_change_nothing(
    toy: Toy, mode: str, wrong: list[Any], rate: float, delays: list[float]
) -> None:
    late_is_the_same(toy, mode, wrong, rate, delays)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@thorough
@given(mode=modes, wrong=st.lists(happenings, max_size=20), rate=rates, delays=delays)
def test_detections_that_come_late_change_nothing_in_thousands_of_histories(
    toy: Toy, mode: str, wrong: list[Any], rate: float, delays: list[float]
) -> None:
    late_is_the_same(toy, mode, wrong, rate, delays)


def test_nothing_wrong_gives_every_window_and_a_late_robot_the_same(toy: Toy) -> None:
    made = history([], 8.0)
    file, people = from_file(toy, "window", made.events)
    assert len(file) == SLOTS * (40 - T + 1)
    assert {r.person_id for r in file} == set(people.present)
    robot, _ = on_robot(toy, "window", made.late(lambda i: 1.5))
    # The frames whose detections are still on their way when the file ends are left.
    assert told(robot) == told(
        [r for r in file if r.activity.stamp_ns in {x.activity.stamp_ns for x in robot}]
    )
    assert len(robot) >= len(file) - 2 * SLOTS


# -- people who cross ----------------------------------------------------------------------------------------


def crossing(swap: bool, speed: float, rate: float) -> tuple[list[Event], list[int], int]:
    """A walks to the right, B to the left and in front of A; A is not detected while B covers a good part.

    swap: from when A can be seen again each has the other's id. Returns events, stamps, and that frame.
    """
    width, height = 400, 100
    events, stamps, met, apart = [], [], False, 0
    frames = round((width - 80) / speed * rate)
    for i in range(frames):
        t = i / rate
        a, b = 40 + speed * t, width - 40 - speed * t
        boxes = {0: Box(a - 14, 20, a + 14, 80), 1: Box(b - 14, 20, b + 14, 80)}
        image = np.zeros((height, width, 3), np.uint8)
        for person, box in boxes.items():
            image[:, round(box.x_min) : round(box.x_max)] = (person + 1, i % 256, 0)
        covered = max(0.0, 28 - abs(a - b)) / 28
        met = met or covered > 0.4
        after = met and covered <= 0.1
        apart = apart or (i if after else 0)
        ids = {0: "b", 1: "a"} if swap and after else {0: "a", 1: "b"}
        stamp = round((100 + t) * NS)
        stamps.append(stamp)
        events.append(Event(i, 2 * i, picture=Picture.of(image, False), stamp_ns=stamp))
        people = [Detection(ids[p], box) for p, box in boxes.items() if p or covered < 0.4]
        events.append(Event(i, 2 * i + 1, found=Detections(stamp, tuple(people))))
    return events, stamps, apart


@pytest.mark.parametrize("mode", ["window", "step"])
@pytest.mark.parametrize("rate", [8.0, 15.0, 30.0])
@pytest.mark.parametrize("speed", [25.0, 40.0, 60.0])
@pytest.mark.parametrize("swap", [False, True])
def test_people_who_cross_are_not_mixed_even_where_their_ids_change(
    toy: Toy, mode: str, rate: float, speed: float, swap: bool
) -> None:
    events, stamps, apart = crossing(swap, speed, rate)
    results, people = from_file(toy, mode, events)
    windows = []
    for result in results:
        numbers = numbers_of(result.activity)
        shown = {n // 256 for n in numbers} - {0}  # the last box of who is hidden may be of an empty place
        assert len(shown) == 1, f"{result.person_id}: {[(n // 256, n % 256) for n in numbers]}"
        windows.append((result.person_id, shown.pop(), result.activity.stamp_ns))
    end = {name: {p for n, p, stamp in windows if n == name and stamp > stamps[apart] + NS} for name in "ab"}
    assert end == ({"a": {2}, "b": {1}} if swap else {"a": {1}, "b": {2}})
    assert people.counters().resets.get("id jump", 0) == (2 if swap else 0)


def test_half_a_second_behind_something_keeps_the_window(toy: Toy) -> None:
    made = history([happenings_of("lose", 12, 1, 4)], 8.0)
    results, people = from_file(toy, "window", made.events)
    mine = [frames for who, frames in (seen(r) for r in results) if who[0] == 1]
    assert mine and people.counters().resets == {}
    assert [frames[-1] for frames in mine] == list(range(3, 40))


def happenings_of(kind: str, at: int, a: int, n: int) -> Any:
    from tests.gc_ros.recognition.crowd import Happening

    return Happening(kind, at, a, 0, n)
