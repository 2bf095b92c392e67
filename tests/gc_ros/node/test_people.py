# SPDX-License-Identifier: Apache-2.0
"""Each person's activity over real DDS: labels, ids, events, what others see of it, and that a file gives the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glimpse_clouds.msg import ActivityEvent, PersonActivity
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from gc_ros.node import ros_messages
from gc_ros.recognition.following import Following
from gc_ros.recognition.smoothing import Smoothing
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.carrier import found_message
from tests.gc_ros.node.crowd import PERIOD, Detector, Drawn, as_picture, carrier, detections, picture
from tests.gc_ros.node.harness import NAME, running, wait_until
from trt_build.engines.open import open_engine

__all__ = ["carrier"]  # a fixture

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("carrier")]
START = 1000 * NS
OPTIONS: dict[str, Any] = {
    "people": "detections", "max_age_s": 0.0, "stall_timeout_s": 60.0, "smoothing_tau_s": 0.0,
}  # fmt: skip
CROWD = [
    Drawn("7", "red", "blue", 20, x=40, speed=1.0),
    Drawn("anna", "green", "green", x=150, speed=-0.5),
    Drawn("3", "blue", "red", 16, x=250, y=120),
    Drawn("9", "green", "blue", 24, x=100, y=180, speed=2.0),
]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("colours") / "bundle", "colours", reset_after=0).path


class Opened:
    """An `open_engine` that keeps what it was asked for."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.options = options
        return open_engine(*arguments, **options)


def by_file(
    path: Path, mode: str, people: list[Drawn], frames: range, seen: range | None = None, **times: float
) -> dict[tuple[str, int], Any]:
    """The results of a file with the same frames, and detections of those `seen`, by person and stamp."""
    from trt_build.bundle import load_bundle

    bundle = load_bundle(path)
    engine = open_engine(bundle, mode, batch=4, threads=1)
    recorded = [detections(people, frame, START + frame * PERIOD) for frame in seen or frames]
    following = Following(bundle, engine, recorded, mode=mode, smoothing=Smoothing(tau_s=0.0), **times)
    found = [r for f in frames for r in following.push(as_picture(people, f), START + f * PERIOD)]
    found += following.finish()
    engine.close()
    return {(result.person_id, result.activity.stamp_ns): result for result in found}


@pytest.mark.parametrize("mode", ["window", "step"])
def test_each_of_four_people_gets_his_label_and_the_node_says_what_a_file_says(
    colours: Path, mode: str
) -> None:
    opened = Opened()
    frames = range(40)
    with running(colours, opened, mode=mode, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        assert opened.options["batch"] == 1 + 4
        peer.wait_for_camera()
        detector.show(CROWD, frames, pause_s=0.03)
        last = START + frames[-1] * PERIOD
        wait_until(lambda: {w for w, s, _ in detector.results() if s == last} == {p.id for p in CROWD}, "all")
        found = {(who, stamp): result for who, stamp, result in detector.results()}
        message = detector.messages[-1]
        assert message.image_width == 320 and message.header.frame_id == "camera"
        assert message.model_id == "toy-colours" and not message.left_out and not message.warming_up
        assert [p.person_id for p in message.people] == sorted(p.id for p in CROWD)
        wait_until(lambda: len(peer.activities) >= 20, "the scene goes on")
        assert all(activity.scene for activity in peer.activities)
        peer.wait_for_diagnostic("people", "4 people")
    right = 0
    for (who, stamp), result in found.items():
        (person,) = [p for p in CROWD if p.id == who]
        frame = (stamp - START) // PERIOD
        # The mean over a window is that of the colour of most of its frames.
        seen = (
            [person.doing(f) for f in range(frame - 7, frame + 1)]
            if mode == "window"
            else [person.doing(frame)]
        )
        right += result.label == max(set(seen), key=seen.count) or seen.count(result.label) == 4
        box = person.box(frame)
        # Boxes are smoothed over time: those of who moves follow a little behind.
        assert (result.x_min, result.y_max) == pytest.approx((box.x_min, box.y_max), abs=2.0)
    assert right >= 0.9 * len(found) and len(found) >= 0.7 * 4 * 33
    expected = by_file(colours, mode, CROWD, frames)
    # Over DDS a window may be overtaken by the next; what comes is the same.
    assert set(found) <= set(expected) and len(found) >= 0.7 * len(expected)
    for key, result in found.items():
        twin = expected[key].activity
        assert result.label == twin.label and result.score == pytest.approx(twin.score, abs=1e-5)
        assert ros_messages.to_ns(result.window_start) == twin.window_start_ns
        glimpses = [side for g in result.glimpses for side in (g.x_min, g.y_min, g.x_max, g.y_max)]
        same = [side for g in twin.glimpses for side in (g.x0, g.y0, g.x1, g.y1)]
        assert glimpses == pytest.approx(same, abs=1e-3)


def test_a_slow_detector_with_other_times_gives_what_a_file_gives_with_them(colours: Path) -> None:
    people, frames, seen = CROWD[1:2], range(41), range(0, 41, 20)
    with running(colours, people_max_age_s=1.5, person_timeout_s=3.0, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        for frame in frames:
            stamp_ns = START + frame * PERIOD
            peer.publish(picture(people, frame), stamp_ns)
            if frame in seen:
                detector.send(found_message(detections(people, frame, stamp_ns)))
        last = START + frames[-1] * PERIOD
        wait_until(lambda: last in {stamp for _, stamp, _ in detector.results()}, "the last result")
        found = {(who, stamp): result for who, stamp, result in detector.results()}
    expected = by_file(colours, "window", people, frames, seen, max_age_s=1.5, timeout_s=3.0)
    assert set(found) <= set(expected)
    assert not set(found) <= set(by_file(colours, "window", people, frames, seen)), "the times are used"
    for key, result in found.items():
        twin = expected[key].activity
        assert result.label == twin.label and result.score == pytest.approx(twin.score, abs=1e-5)
        assert ros_messages.to_ns(result.window_start) == twin.window_start_ns


def test_events_carry_the_person_and_since_when_it_is_on(colours: Path) -> None:
    people = [Drawn("a", "red", "blue", 12, x=60), Drawn("b", "green", "green", x=240, last=16)]
    thresholds = {"onset_threshold": 0.3, "offset_threshold": 0.2}  # the picture as a whole is mostly black
    with running(colours, **thresholds, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(people, range(40))
        of = lambda who: [e for e in peer.events if e.person_id == who]
        wait_until(lambda: [e.kind for e in of("b")] == [ActivityEvent.ONSET, ActivityEvent.OFFSET], "b")
        wait_until(lambda: len(of("a")) == 3, "red, and blue instead of it")
        assert [(e.kind, e.label) for e in of("a")] == [
            (ActivityEvent.ONSET, "red"), (ActivityEvent.OFFSET, "red"), (ActivityEvent.ONSET, "blue"),
        ]  # fmt: skip
        assert {e.person_id for e in peer.events} == {"a", "b", ""}, "the whole picture has its own"
        wait_until(lambda: [p.person_id for p in detector.messages[-1].people] == ["a"], "b gone")
        (a,) = detector.messages[-1].people
        assert a.activity == "blue" and a.since == of("a")[2].stamp
        first = detector.messages[0].people
        assert {p.activity for p in first} <= {"red", "green", ""}


def test_a_person_who_leaves_is_told_of_at_once_and_the_last_one_leaves_an_empty_list(colours: Path) -> None:
    people = [Drawn("a", "red", "red", x=60, last=12)]
    with running(colours, person_timeout_s=0.5, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(people, range(13))
        wait_until(lambda: detector.messages, "the person")
        detector.show(people, range(13, 20))
        wait_until(lambda: not detector.messages[-1].people, "nobody")
        peer.wait_for_diagnostic("people", "nobody is there")


def test_more_people_than_places_are_left_out_and_named(colours: Path) -> None:
    with running(colours, max_people=2, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(CROWD, range(12))
        wait_until(lambda: detector.messages, "the first people")
        message = detector.messages[-1]
        assert len(message.people) == 2 and len(message.left_out) == 2
        status = peer.wait_for_diagnostic("people", "2 of 4 people are left out")
        assert status.level == b"\x01" and "raise max_people (now 2)" in status.message
        assert all(who in status.message for who in message.left_out)


@pytest.mark.slow
def test_reset_and_enable_reach_the_people_too(colours: Path) -> None:
    people = [Drawn("a", "red", "red", x=60)]
    with running(colours, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(people, range(9))
        wait_until(lambda: detector.messages, "a message")
        assert peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).success
        wait_until(
            lambda: [e.kind for e in peer.events if e.person_id == "a"][-1:] == [ActivityEvent.OFFSET], "end"
        )
        detector.show(people, range(9, 16))
        peer.wait_for_diagnostic("people", "1 person")
        assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=False)).success
        wait_until(lambda: not detector.topic.get_subscription_count(), "no subscription")
        peer.wait_for_diagnostic("people", "disabled by ~/enable")
        assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=True)).success
        wait_until(detector.topic.get_subscription_count, "a subscription")


@pytest.mark.parametrize("how", ["reset", "disable", "deactivate", "stall"])
def test_whatever_makes_the_node_forget_everybody_the_newest_message_says_that_nobody_is_there(
    colours: Path, how: str
) -> None:
    people = [Drawn("a", "red", "red", x=60), Drawn("late", "blue", "blue", x=200, first=8)]
    options = {**OPTIONS, "stall_timeout_s": 1.0} if how == "stall" else OPTIONS
    with running(colours, **options) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(people, range(12))
        wait_until(lambda: detector.messages and detector.messages[-1].warming_up == ["late"], "both people")
        if how == "reset":
            assert peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).success
        elif how == "disable":
            assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=False)).success
        elif how == "deactivate":
            assert peer.transition("deactivate")
        wait_until(
            lambda: not detector.messages[-1].people and not detector.messages[-1].warming_up, "nobody", 5
        )
        count = len(detector.messages)
        assert peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).success
        peer.state()
        assert len(detector.messages) == count, "that nobody is there is said once"


def test_who_leaves_last_before_a_window_was_full_is_warming_up_no_longer(colours: Path) -> None:
    people = [
        Drawn("a", "red", "red", x=60, last=10),
        Drawn("short", "blue", "blue", x=200, first=12, last=13),
    ]
    with running(colours, person_timeout_s=0.5, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(people, range(16))
        wait_until(lambda: detector.messages and not detector.messages[-1].people, "the end of a")
        assert detector.messages[-1].warming_up == ["short"]
        detector.show(people, range(16, 24))
        wait_until(lambda: not detector.messages[-1].warming_up, "the end of the newcomer")


def test_who_takes_over_an_id_is_not_told_of_before_his_own_window_is_full(colours: Path) -> None:
    people = [
        Drawn("a", "red", "red", x=60, last=15),
        Drawn("a", "blue", "blue", x=250, y=180, first=16),
        Drawn("b", "green", "green", x=150),
    ]
    with running(colours, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        for frame in range(28):
            detector.show(people, [frame])
            wait_until(lambda: node.node._inference is not None and not node.node._inference.busy_s, "idle")
        last = START + 27 * PERIOD
        wait_until(lambda: ("a", last) in {(who, stamp) for who, stamp, _ in detector.results()}, "the end")
        told = {
            ros_messages.to_ns(m.header.stamp): ({p.person_id: p.label for p in m.people}, m.warming_up)
            for m in detector.messages
        }
    for stamp, (labels, warming_up) in told.items():
        frame = (stamp - START) // PERIOD
        assert labels.get("a", "red" if frame < 16 else "blue") == ("red" if frame < 16 else "blue"), frame
        assert not set(labels) & set(warming_up), frame
    assert {frame for frame in range(16, 23) if "a" in told.get(START + frame * PERIOD, ({}, []))[0]} == set()


def test_each_camera_has_people_of_its_own(colours: Path) -> None:
    opened = Opened()
    with running(colours, opened, cameras=["front", "left"], max_people=2, **OPTIONS) as (node, peer):
        peer.add_cameras("front", "left")
        front, left = Detector(node, peer, "front"), Detector(node, peer, "left")
        assert opened.options["batch"] == 2 * (1 + 2)
        for frame in range(12):
            front.show([Drawn("1", "red", "red", x=60)], [frame])
            left.show([Drawn("1", "blue", "blue", x=200), Drawn("2", "green", "green", x=60)], [frame])
        wait_until(lambda: front.messages and left.messages, "both")
        labels = lambda detector: {(p.person_id, p.label) for m in detector.messages for p in m.people}
        assert labels(front) == {("1", "red")} and labels(left) == {("1", "blue"), ("2", "green")}
        peer.wait_for_diagnostic("people front", "1 person")
        peer.wait_for_diagnostic("people left", "2 people")


def test_the_overlay_shows_the_people_while_there_are_some_and_the_picture_otherwise(colours: Path) -> None:
    pictures: list[Image] = []
    people = [Drawn("a", "red", "red", x=100, y=120, size=80, last=20)]
    with running(colours, person_timeout_s=0.5, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        peer.node.create_subscription(Image, f"{NAME}/debug/image", pictures.append, 20)
        wait_until(lambda: node.node.count_subscribers(f"{NAME}/debug/image"), "the watcher")
        time.sleep(0.2)
        for frame in range(30):
            detector.show(people, [frame])
            time.sleep(0.03)
        wait_until(lambda: len(pictures) > 12, "pictures")
        stamps = [ros_messages.to_ns(p.header.stamp) for p in pictures]
    assert {(p.width, p.height) for p in pictures} == {(960, 480)} and stamps == sorted(stamps)
    shown = picture(people, 0)
    assert shown.shape == (240, 320, 3)


@pytest.mark.parametrize("first", [0, 4])
def test_the_overlay_goes_on_for_who_comes_at_any_phase_of_the_stride(colours: Path, first: int) -> None:
    """Results of a person lie a stride apart, counted from when she came, and not when the picture's are due."""
    pictures: list[Image] = []
    people = [Drawn("anna", "green", "green", x=60, y=60, first=first)]
    with running(colours, mode="window", stride=8, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        peer.node.create_subscription(Image, f"{NAME}/debug/image", pictures.append, 20)
        results = node.node._cameras[0].results
        wait_until(lambda: results._debug.get_subscription_count(), "the watcher")
        detector.show(people, range(40), pause_s=0.02)
        wait_until(lambda: len(list(detector.results())) >= 4, "her results")
        ends = [stamp_ns for _, stamp_ns, _ in detector.results()]
        drawn = lambda: {ros_messages.to_ns(p.header.stamp) for p in pictures}
        wait_until(lambda: {*ends} <= drawn(), "a picture of each of her results")


@pytest.mark.parametrize("row", [0, 1], ids=["the picture", "anna"])
def test_a_row_that_never_is_finite_ends_the_node_beside_rows_that_are(colours: Path, row: int) -> None:
    class OneRow(toy.FakeEngine):
        def run(self, inputs: Any, active: Any = None) -> dict[str, np.ndarray]:
            out = super().run(inputs, active)
            out["logits"] = np.array(out["logits"])
            out["logits"][row] = np.nan
            return out

    def opened(*arguments: Any, **options: Any) -> Any:
        return OneRow(open_engine(*arguments, **options))

    crowd = [Drawn("anna", "green", "green", x=60, y=60), Drawn("bob", "red", "red", x=200, y=100)]
    with running(colours, opened, mode="window", max_people=2, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        for frame in range(60):
            if node.node.state != "active":
                break
            stamp_ns = START + frame * PERIOD
            peer.publish(picture(crowd, frame), stamp_ns)
            detector.topic.publish(found_message(detections(crowd, frame, stamp_ns)))
            time.sleep(0.03)
        status = peer.wait_for_diagnostic("engine", "3 failed engine runs in a row, deactivated")
        assert "not finite" in status.message and peer.state() == "inactive"


class Counting(Opened):
    """Keeps which rows each engine call was for, by frame."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        engine = super().__call__(*arguments, **options)
        self.calls: list[list[bool]] = []
        run = engine.run

        def counted(inputs: Any, active: Any = None) -> Any:
            if active is not None:
                self.calls.append(list(active))
            return run(inputs, active)

        engine.run = counted
        return engine


@pytest.mark.parametrize("mode", ["window", "step"])
def test_the_picture_and_its_people_share_one_engine_call(colours: Path, mode: str) -> None:
    opened = Counting()
    with running(colours, opened, mode=mode, max_people=2, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(CROWD[:2], range(12), pause_s=0.05)
        wait_until(lambda: len(detector.messages) >= 3, "messages")
        wait_until(lambda: peer.activities, "the scene goes on")
        full = [call for call in opened.calls if any(call[1:])]
        # Apart, each frame's people would wait for the call of the picture.
        assert full and sum(call[0] for call in full) >= 0.7 * len(full)


def test_the_picture_does_not_wait_for_detections_while_nobody_is_there(colours: Path) -> None:
    with running(colours, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        for frame in range(9):  # no detections come at all
            peer.publish(picture(CROWD, frame), START + frame * PERIOD)
        last = START + 8 * PERIOD
        newest = lambda: [ros_messages.to_ns(a.window_end) for a in peer.activities][-1:]
        wait_until(lambda: newest() == [last], "the result of the newest image")
        assert not detector.messages


def test_the_picture_waits_no_longer_than_a_stride_for_detections_that_are_slower_than_the_model(
    colours: Path,
) -> None:
    with running(colours, people_max_age_s=2.0, person_timeout_s=4.0, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(CROWD[:2], range(8))
        wait_until(lambda: peer.activities, "the first result")
        # Four more images in which nobody looks for people.
        for frame in range(8, 12):
            before = len(peer.activities)
            peer.publish(picture(CROWD[:2], frame), START + frame * PERIOD)
            if frame > 8:
                wait_until(lambda n=before: len(peer.activities) > n, "the result of the image before")
        ends = {ros_messages.to_ns(a.window_end) for a in peer.activities}
        assert {START + frame * PERIOD for frame in range(7, 11)} <= ends


def test_without_people_nothing_of_it_is_there(colours: Path) -> None:
    opened = Opened()
    with running(colours, opened, max_age_s=0.0) as (_, peer):
        peer.wait_for_camera()
        for frame in range(9):
            peer.publish(picture(CROWD, frame), START + frame * PERIOD)
        wait_until(lambda: peer.activities, "a message")
        assert opened.options["batch"] == 1 and not peer.activities[0].scene
        assert not peer.node.count_publishers(f"{NAME}/people") and not peer.node.count_subscribers("/people")
        reports = peer.reports
        wait_until(lambda: peer.reports > reports, "a report")
        assert set(peer.diagnostics) == {"engine", "camera"}
    assert PersonActivity().person_id == ""
