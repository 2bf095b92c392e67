# SPDX-License-Identifier: Apache-2.0
"""Teaching a running node over DDS: shown to the camera, recognised from then on, kept over a restart."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool, Trigger
from typer.testing import CliRunner

from tests.gc_ros.node.harness import LATCHED, NAME, Peer, load_info, running, wait_until  # isort: skip
from tests.gc_ros.node.showing import RED, YELLOW, next_labels, seen, teach  # isort: skip

from glimpse_clouds.msg import Activity, ActivityEvent, LabelInfo, TaughtActivities
from glimpse_clouds.srv import Forget, Teach

from gc_ros.cli import app
from gc_ros.media.clips import find_clips
from gc_ros.media.video import read_video
from gc_ros.node import ros_messages
from gc_ros.recognition.kept_clips import kept_clips
from gc_ros.recognition.taught_file import read_taught
from tests.gc_ros.node import crowd
from tests.gc_ros.node.crowd import Detector, Drawn, carrier
from tests.toy import toy_bundle

__all__ = ["carrier"]  # a fixture

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "b", "colours", embedding=True).path


def taught_of(peer: Peer) -> list[TaughtActivities]:
    found: list[TaughtActivities] = []
    peer.node.create_subscription(TaughtActivities, f"{NAME}/taught", found.append, LATCHED)
    return found


def test_what_is_shown_is_recognised_within_two_windows_and_kept_over_a_restart(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        infos, taught = load_info(peer), taught_of(peer)
        with seen(peer, YELLOW):
            assert "yellow" not in next_labels(peer, 2)
            answer = teach(peer, windows=9)
            assert answer.success, answer.message
            assert answer.windows == 9 and answer.clips == 3
            # Sixteen results of a stride of one frame are two windows of eight.
            assert "yellow" in next_labels(peer, 16)
            assert set(next_labels(peer, 5)) == {"yellow"}
        wait_until(lambda: infos and infos[-1].labels == ["red", "green", "blue", "yellow"], "the label")
        wait_until(lambda: taught and list(taught[-1].names) == ["yellow"], "~/taught")
        assert list(taught[-1].windows) == [9] and taught[-1].model_id == "toy-colours"
        with seen(peer, RED):
            next_labels(peer, 10)
            assert set(next_labels(peer, 3)) == {"red"}
    with running(bundle) as (_, peer):
        with seen(peer, YELLOW):
            assert set(next_labels(peer, 3)) == {"yellow"}
            answer = peer.call(Forget, f"{NAME}/forget", Forget.Request(name=" yellow "))
            assert answer.success and answer.message == "yellow: forgotten", answer.message
            assert "yellow" not in next_labels(peer, 3)
        assert not peer.call(Forget, f"{NAME}/forget", Forget.Request(name="yellow")).success


def test_progress_is_in_the_diagnostics_and_the_other_services_answer_meanwhile(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(teach(peer, seconds=2.5)))
        with seen(peer, YELLOW):
            thread.start()
            wait_until(
                lambda: any(
                    value.key == "teaching" and value.value.startswith("yellow: ")
                    for status in list(peer.diagnostics.values())
                    for value in status.values
                ),
                "progress in /diagnostics",
                8,
            )
            second = teach(peer, "other", windows=1)
            assert not second.success and '"yellow" is being taught' in second.message
            thread.join(30)
        assert answers and answers[0].success, answers


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"person": "7"}, "set the parameter people"),
        ({"name": "red"}, "activity of toy-colours itself"),
        ({"name": ""}, "needs a name"),
        ({"camera": "left"}, "no camera"),
        ({"seconds": -1.0}, "seconds is -1"),
    ],
)
def test_what_cannot_be_taught_is_answered_with_the_reason(bundle: Path, request_: Any, words: str) -> None:
    with running(bundle) as (_, peer):
        answer = teach(peer, **request_)
        assert not answer.success and words in answer.message


def test_a_disabled_node_says_at_once_that_it_sees_nothing(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=False)).success
        began = time.monotonic()
        answer = teach(peer, windows=9)
        assert not answer.success and "enable it first, by ~/enable" in answer.message
        assert time.monotonic() - began < 5


def test_what_another_process_had_forgotten_is_forgotten_by_the_node_too(
    bundle: Path, tmp_path: Path
) -> None:
    with running(bundle) as (_, peer):
        taught = taught_of(peer)
        with seen(peer, YELLOW):
            assert teach(peer, windows=9).success
            wait_until(lambda: taught and list(taught[-1].names) == ["yellow"], "~/taught")
            assert CliRunner().invoke(app, ["forget", "yellow", "--bundle", str(bundle)]).exit_code == 0
            answer = peer.call(Forget, f"{NAME}/forget", Forget.Request(name="yellow"))
            assert answer.success, answer.message
            assert "yellow" not in next_labels(peer, 3)
        wait_until(lambda: list(taught[-1].names) == [], "~/taught")
        answer = peer.call(Forget, f"{NAME}/forget", Forget.Request(name="yellow"))
        assert not answer.success and "was not taught" in answer.message


def test_what_another_process_renamed_is_not_said_to_be_forgotten(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        taught = taught_of(peer)
        with seen(peer, YELLOW):
            assert teach(peer, windows=9).success
        renamed = CliRunner().invoke(app, ["taught", "--rename", "yellow=sun", "--bundle", str(bundle)])
        assert renamed.exit_code == 0
        answer = peer.call(Forget, f"{NAME}/forget", Forget.Request(name="yellow"))
        assert not answer.success and '"yellow" was renamed; what was shown is "sun" now' in answer.message
        wait_until(lambda: taught and list(taught[-1].names) == ["sun"], "~/taught")
        assert peer.call(Forget, f"{NAME}/forget", Forget.Request(name="sun")).success
    assert not read_taught(bundle.with_name("b.taught"), "toy-colours").activities


def test_what_was_seen_before_the_request_is_no_part_of_what_is_taught(bundle: Path) -> None:
    with running(bundle, keep_clips=True) as (_, peer):
        with seen(peer, RED):
            next_labels(peer, 10)
        with seen(peer, YELLOW):
            assert teach(peer, windows=3).success
    features = read_taught(bundle.with_name("b.taught"), "toy-colours").activities["yellow"].features
    # The toy's features begin with the mean colour of the window.
    assert np.abs(features[:, :3] - YELLOW).max() < 20
    (clip,) = find_clips([kept_clips(bundle.with_name("b.taught"))])
    assert all(np.allclose(image.mean(axis=(0, 1)), YELLOW, atol=20) for image, _ in read_video(clip.path))


def test_what_is_like_nothing_taught_is_no_event(bundle: Path) -> None:
    with running(bundle, max_age_s=0.0) as (_, peer):
        with seen(peer, YELLOW):
            next_labels(peer, 9)
            assert teach(peer, windows=9).success
            wait_until(lambda: any(e.label == "yellow" for e in peer.events), "the onset")
        with seen(peer, RED):
            next_labels(peer, 30)
        begin = len(peer.events)
        with seen(peer, (255, 255, 100)):
            next_labels(peer, 12)
            shown = len(peer.activities)
            next_labels(peer, 20)
        unknown = peer.activities[shown:]
        shows = {(a.label, a.status) for a in unknown}
        assert shows == {("yellow", Activity.STATUS_UNKNOWN)}, "the case that is tested"
        assert max(a.score for a in unknown) > 0.9
        assert not [e.label for e in peer.events[begin:] if e.kind == ActivityEvent.ONSET]


def test_a_node_that_has_ended_names_a_remedy_that_works(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        assert teach(peer, windows=1, seconds=0.1).message.startswith("a window of this model takes")
        assert peer.transition("deactivate") and peer.transition("cleanup")
        assert "configure it first" in peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).message
        assert peer.transition("shutdown")
        for message in (
            peer.call(Trigger, f"{NAME}/reset", Trigger.Request()).message,
            teach(peer, windows=1).message,
        ):
            assert message == "the node is finalized; start it again"


@pytest.mark.parametrize("mode", ["window", "step"])
def test_what_is_shown_is_kept_as_clips_only_where_a_parameter_says_so(bundle: Path, mode: str) -> None:
    clips = bundle.with_name("b.taught") / "clips"
    with running(bundle, mode=mode) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        assert teach(peer, windows=3).success
        assert not clips.exists()
        answer = peer.call(
            SetParameters,
            f"{NAME}/set_parameters",
            SetParameters.Request(parameters=[Parameter("keep_clips", value=True).to_parameter_msg()]),
        )
        assert answer.results[0].successful
        for _ in range(2):
            assert teach(peer, windows=3).success
        assert teach(peer, windows=1, none=True).success
        kept = find_clips([kept_clips(clips.parent)])
        assert [clip.label for clip in kept] == ["yellow", "yellow"]
        for clip in kept:
            frames = [image for image, _ in read_video(clip.path)]
            assert len(frames) >= 8  # at least the frames of a window
            assert all(np.allclose(image.mean(axis=(0, 1)), YELLOW, atol=20) for image in frames)
        assert peer.call(Forget, f"{NAME}/forget", Forget.Request(name="none")).success
        assert len(find_clips([kept_clips(clips.parent)])) == 2
        assert read_taught(clips.parent, "toy-colours").none is None
        assert not peer.call(Forget, f"{NAME}/forget", Forget.Request(name="none")).success
        assert peer.call(Forget, f"{NAME}/forget", Forget.Request(name="yellow")).success
        assert not clips.exists()


def test_who_gets_the_id_while_it_is_taught_teaches_nothing(tmp_path: Path, carrier: None) -> None:
    people = [
        Drawn("anna", "red", "red", x=60, y=60, last=40),
        Drawn("anna", "blue", "blue", x=250, y=180, first=41),
    ]
    bundle = toy_bundle(tmp_path / "b", "colours", embedding=True).path
    options = {"people": "detections", "max_age_s": 0.0, "stall_timeout_s": 60.0}
    with running(bundle, **options) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show(people, range(12), pause_s=0.02)
        client = peer.node.create_client(Teach, f"{NAME}/teach")
        assert client.wait_for_service(10)
        asked = client.call_async(Teach.Request(name="waving arms", person="anna", seconds=6.0))
        wait_until(lambda: node.node._model.teaching.progress != "none", "the showing")
        detector.show(people, range(12, 70), pause_s=0.04)
        answer = wait_until(lambda: asked.done() and asked.result(), "the answer", 20)
        assert answer.success and "anna became somebody else, who was left out" in answer.message
    kept = read_taught(tmp_path / "b.taught", "toy-colours").activities["waving arms"]
    assert len(kept) == answer.windows > 2 and np.ptp(kept.features, axis=0).max() < 0.05, "one colour"


def test_what_one_person_does_is_taught_while_another_does_something_else(
    tmp_path: Path, carrier: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [Drawn("anna", "yellow", "yellow", x=60, size=80), Drawn("3", "red", "red", x=240, size=80)]
    bundle = toy_bundle(tmp_path / "b", "colours", embedding=True).path
    options = {
        "people": "detections",
        "max_age_s": 0.0,
        "stall_timeout_s": 60.0,
        "person_margin": 0.0,
    }
    with running(bundle, keep_clips=True, **options) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        frames = itertools.count()
        stop = threading.Event()

        def labels() -> dict[str, str]:
            return {person.person_id: person.label for person in detector.messages[-1].people}

        def show() -> None:
            rng = np.random.default_rng(0)
            while not stop.is_set():
                for name, rgb in (("yellow", YELLOW), ("red", RED)):
                    monkeypatch.setitem(crowd.COLOURS, name, tuple(rgb + rng.normal(0, 4, 3)))
                detector.show(people, [next(frames)], pause_s=0.02)

        thread = threading.Thread(target=show)
        thread.start()
        try:
            wait_until(lambda: detector.messages and {"anna", "3"} <= set(labels()), "both people", 20)
            assert "yellow" not in labels().values()
            answer = teach(peer, person="bert", windows=3)
            assert not answer.success and 'nobody "bert"' in answer.message and "3, anna" in answer.message
            answer = teach(peer, person="anna", windows=6)
            assert answer.success and answer.windows == 6, answer.message
            wait_until(lambda: labels() == {"anna": "yellow", "3": "red"}, "anna's new activity", 20)
        finally:
            stop.set()
            thread.join()
    (clip,) = find_clips([kept_clips(tmp_path / "b.taught")])
    for image, _ in read_video(clip.path):
        middle = image[image.shape[0] // 2, image.shape[1] // 2]
        assert np.allclose(middle, YELLOW, atol=30), "the clip shows the person, as the network saw her"


def test_seconds_are_those_of_the_simulation(bundle: Path) -> None:
    with running(bundle, use_sim_time=True) as (_, peer):
        clock = peer.node.create_publisher(Clock, "/clock", 10)
        wait_until(lambda: clock.get_subscription_count() > 0, "the clock's listener")
        # The camera shows three seconds in one: in real time it would see three times as much.
        with seen(peer, YELLOW, tell=lambda ns: clock.publish(Clock(clock=ros_messages.to_time(ns)))):
            next_labels(peer, 2)
            answer = teach(peer, seconds=4.0)
        # Windows of a second that overlap by half, seven of them if nothing is lost.
        assert answer.success and 2 <= answer.windows <= 8, answer


def test_fewer_windows_than_asked_for_are_said(bundle: Path) -> None:
    with running(bundle) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 2)
        answer = teach(peer, windows=100, seconds=1.0)
        assert answer.success and answer.windows < 100
        assert f"; only {answer.windows} of 100 windows were seen in 1 s" in answer.message


def test_clips_are_not_kept_once_that_is_forbidden(bundle: Path) -> None:
    with running(bundle, keep_clips=True) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 2)
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(teach(peer, seconds=3.0)))
        thread.start()
        next_labels(peer, 10)
        forbidden = Parameter("keep_clips", value=False).to_parameter_msg()
        answer = peer.call(
            SetParameters, f"{NAME}/set_parameters", SetParameters.Request(parameters=[forbidden])
        )
        assert answer.results[0].successful
        thread.join(30)
    assert answers and answers[0].success and not (bundle.with_name("b.taught") / "clips").exists()


def test_nothing_seen_and_a_bundle_of_before_are_answered_with_the_reason(
    bundle: Path, tmp_path: Path
) -> None:
    with running(bundle) as (_, peer):
        answer = teach(peer, seconds=1.5)
        assert not answer.success and "no whole window was seen" in answer.message
    old = toy_bundle(tmp_path / "old", "colours").path
    with running(old) as (_, peer):
        answer = teach(peer, seconds=0.5)
        assert not answer.success and "cannot be taught" in answer.message


@pytest.mark.parametrize("forgotten", ["alpha", "beta"])
def test_what_is_on_ends_before_the_labels_change(bundle: Path, forgotten: str) -> None:
    """Its offset names the class by its place in the labels of before, and the camera may have stopped."""
    options = {"mode": "window", "max_age_s": 0.0, "stall_timeout_s": 600.0, "smoothing_tau_s": 0.0}
    with running(bundle, **options) as (_, peer):
        told: list[tuple[Any, ...]] = []
        event = lambda m: told.append((m.kind, m.label, m.class_index))
        peer.node.create_subscription(ActivityEvent, f"{NAME}/events", event, LATCHED)
        labels = lambda m: told.append(tuple(m.labels))
        peer.node.create_subscription(LabelInfo, f"{NAME}/label_info", labels, LATCHED)
        for name, colour in (("beta", (40, 200, 200)), ("alpha", YELLOW)):
            with seen(peer, colour):
                assert teach(peer, name, windows=9).success
        with seen(peer, YELLOW):
            wait_until(lambda: told[-1][:2] == (ActivityEvent.ONSET, "alpha"), "the onset", 30)
        *_, index = told[-1]
        before = len(told)
        assert peer.call(Forget, f"{NAME}/forget", Forget.Request(name=forgotten), again_s=25).success
        wait_until(lambda: len(told) >= before + 2, "the offset and the labels")
        assert told[before:] == [(ActivityEvent.OFFSET, "alpha", index), told[-1]], told
        assert forgotten not in told[-1]
