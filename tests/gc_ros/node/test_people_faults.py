# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with detections, over real DDS: nothing ends the node, all is counted, and it says what to mend."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray

from gc_ros.media import people_topics
from gc_ros.media.detections import Detections
from gc_ros.node import ros_messages
from gc_ros.node.results import Results
from gc_ros.stamps import NS
from tests import toy
from tests.gc_ros.node.carrier import found_message, status
from tests.gc_ros.node.crowd import PERIOD, Detector, Drawn, carrier, detections, picture
from tests.gc_ros.node.harness import Faulty, Peer, Running, running, wait_until
from trt_build.errors import EngineError, GlimpseError

__all__ = ["carrier"]  # a fixture

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("carrier")]
START = 1000 * NS
OPTIONS: dict[str, Any] = {"people": "detections", "max_age_s": 0.0, "stall_timeout_s": 60.0}
WARN, ERROR = b"\x01", b"\x02"
ANNA = Drawn("anna", "green", "green", x=60, y=60)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("colours") / "bundle", "colours", reset_after=0).path


@pytest.fixture
def watched(colours: Path) -> Iterator[tuple[Running, Peer, Detector]]:
    with running(colours, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        yield node, peer, detector


def array(*people: Any, stamp_ns: int = START, frame_id: str = "camera") -> DiagnosticArray:
    return DiagnosticArray(header=ros_messages.to_header(stamp_ns, frame_id), status=list(people))


def values(status: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in status.values}


GOOD = (60.0, 60.0, 40.0, 40.0)
MALFORMED = [
    ("", GOOD, people_topics.NO_ID),
    ("x" * 200, GOOD, people_topics.LONG_ID),
    ("1", (math.nan, 1, 5, 5), people_topics.BAD_BOX),
    ("2", (1, 1, math.inf, 5), people_topics.BAD_BOX),
    ("3", (1, 1, -5, 5), people_topics.BAD_BOX),
    ("4", (1, 1, 0, 0), people_topics.BAD_BOX),
    ("5", (1e308, -1e308, 1e308, 1e308), people_topics.BAD_BOX),
    ("6", (1, 1, 5, 5, math.inf), people_topics.BAD_BOX),
]


def test_malformed_detections_are_counted_and_cost_nobody_else_anything(
    watched: tuple[Running, Peer, Detector],
) -> None:
    node, peer, detector = watched
    for frame in range(20):
        stamp_ns = START + frame * PERIOD
        peer.publish(picture([ANNA], frame), stamp_ns)
        message = found_message(detections([ANNA], frame, stamp_ns))
        message.status += [status(who, box) for who, box, _ in MALFORMED]
        message.status += [status("twin", GOOD), status("twin", GOOD)]
        detector.send(message)
    wait_until(lambda: detector.messages, "the person")
    assert {p.person_id for m in detector.messages for p in m.people} == {"anna"}
    assert {p.label for m in detector.messages for p in m.people} == {"green"}
    counted = detector.at_node.input.refused
    assert sum(counted.values()) == 20 * len(MALFORMED) and counted[people_topics.BAD_BOX] == 20 * 6
    counts = {f"detections refused: {people_topics.BAD_BOX}": "120", "left out: id twice in a message": "40"}
    reported = peer.wait_for_diagnostic("people", f"detections have {people_topics.NO_ID}", values=counts)
    assert reported.level == WARN and people_topics.BAD_BOX in values(reported)["also"]
    assert not node.errors and peer.state() == "active"


def test_whole_messages_that_are_of_no_use_are_counted(watched: tuple[Running, Peer, Detector]) -> None:
    node, peer, detector = watched
    peer.publish(picture([ANNA], 0), START)
    wrong_stamp = array(status("anna", GOOD))
    wrong_stamp.header.stamp.nanosec = 4_000_000_000
    detector.send(wrong_stamp)
    detector.send(array(status("anna", GOOD), stamp_ns=0))
    detector.send(array(status("anna", GOOD), frame_id="another_camera"))
    broken = status("anna", GOOD)
    broken.values = []
    detector.send(array(broken))
    counted = detector.at_node.input.refused
    wait_until(lambda: sum(counted.values()) >= 4, "all to be counted")
    assert counted[people_topics.NO_STAMP] == 2
    reported = peer.wait_for_diagnostic("people", "detections are in the frame 'another_camera'")
    assert reported.level == ERROR and "the images in 'camera'" in reported.message
    assert not node.errors


@pytest.mark.slow
@pytest.mark.parametrize("simulated", [False, True])
def test_zero_is_a_stamp_where_a_simulation_begins_and_none_elsewhere(colours: Path, simulated: bool) -> None:
    with running(colours, use_sim_time=simulated, **OPTIONS) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.send(array(status("1", (10, 10, 60, 60)), stamp_ns=0))
        assert [reason.split(";")[0] for reason in detector.at_node.input.refused] == (
            [] if simulated else ["no stamp"]
        )


def test_ten_thousand_boxes_are_over_in_a_moment(watched: tuple[Running, Peer, Detector]) -> None:
    node, peer, detector = watched
    peer.publish(picture([ANNA], 0), START)
    many = [status(str(i), (60 + i % 100, 60, 40, 40)) for i in range(10_000)]
    detector.send(array(*many))
    refused = detector.at_node.input.refused
    wait_until(lambda: refused, "the message to be read")
    assert refused == {people_topics.TOO_MANY: 10_000 - people_topics.LOOKED_AT}
    peer.publish(picture([ANNA], 1), START + PERIOD)
    reported = peer.wait_for_diagnostic("people", "people are left out")
    assert "raise max_people (now 4)" in reported.message and len(reported.message) < 500
    assert not node.errors


def test_stamps_minutes_apart_are_told(watched: tuple[Running, Peer, Detector]) -> None:
    node, peer, detector = watched
    for frame in range(16):
        stamp_ns = START + frame * PERIOD
        peer.publish(picture([ANNA], frame), stamp_ns)
        detector.send(found_message(detections([ANNA], frame, stamp_ns - 180 * NS)))
    reported = peer.wait_for_diagnostic("people", "images had no detections within 0.5 s by stamps")
    assert reported.level == WARN and "the detector must copy the images' stamps" in reported.message
    assert float(values(reported)["detections behind the images s"]) == pytest.approx(180, abs=1)
    assert not detector.messages and not node.errors
    assert not node.errors and peer.state() == "active"


def test_a_detector_whose_clock_is_ahead_is_told(watched: tuple[Running, Peer, Detector]) -> None:
    node, peer, detector = watched
    for frame in range(16):
        stamp_ns = START + frame * PERIOD
        detector.send(found_message(detections([ANNA], frame, stamp_ns + 3600 * NS)))
        peer.publish(picture([ANNA], frame), stamp_ns)
    reported = peer.wait_for_diagnostic("people", "images had no detections within 0.5 s by stamps")
    assert reported.level == WARN and "the detector must copy the images' stamps" in reported.message
    assert float(values(reported)["detections behind the images s"]) == pytest.approx(-3600, abs=1)
    assert int(values(reported)["left out: detections too new"]) >= 15
    assert not detector.messages and not node.errors and peer.state() == "active"


def test_random_detections_of_any_kind_end_nothing(watched: tuple[Running, Peer, Detector]) -> None:
    node, peer, detector = watched
    draw = random.Random(7)
    number = lambda: draw.choice([0.0, -1.0, 50.0, 1e9, -1e9, math.nan, math.inf, 319.5, 1e-300])
    for frame in range(60):
        stamp_ns = START + frame * PERIOD
        peer.publish(picture([ANNA], frame), stamp_ns)
        some = [
            status(draw.choice(["", "a", "b", "ä" * 10, "x" * 500]), [number() for _ in range(5)], number())
            for _ in range(draw.randrange(8))
        ]
        offset = draw.choice([0, 0, 0, -PERIOD, PERIOD, -600 * NS, 600 * NS])
        detector.send(array(*some, stamp_ns=stamp_ns + offset, frame_id=draw.choice(["camera", "", "lens"])))
    assert not node.errors and peer.state() == "active"
    wait_until(lambda: peer.activities, "the scene goes on all the while")


def test_a_detector_that_finds_no_people_but_other_things_is_told(
    watched: tuple[Running, Peer, Detector],
) -> None:
    _, peer, detector = watched
    for frame in range(8):
        stamp_ns = START + frame * PERIOD
        peer.publish(picture([ANNA], frame), stamp_ns)
        detector.send(array(status("1", GOOD, name="Mensch"), stamp_ns=stamp_ns))
    says, counts = "none is a person; person_classes must name", {"detections of other things": "8"}
    assert peer.wait_for_diagnostic("people", says, values=counts).level == WARN


def test_a_detector_without_a_tracker_is_an_error(watched: tuple[Running, Peer, Detector]) -> None:
    _, peer, detector = watched
    for frame in range(8):
        peer.publish(picture([ANNA], frame), START + frame * PERIOD)
        detector.send(array(status("", GOOD), stamp_ns=START + frame * PERIOD))
    reported = peer.wait_for_diagnostic(
        "people", "8 of 8 detections have no id; start the detector with its tracker"
    )
    assert reported.level == ERROR


def test_a_topic_without_detections_is_told_with_what_to_type(colours: Path) -> None:
    with running(colours, **{**OPTIONS, "stall_timeout_s": 0.3}) as (_, peer):
        reported = peer.wait_for_diagnostic("people", "no publisher on /people")
        assert reported.level == WARN
        other = peer.node.create_publisher(DiagnosticArray, "tracking", 10)
        peer.wait_for_diagnostic("people", "-r people:=/")
        peer.node.destroy_publisher(other)
        peer.node.create_publisher(DiagnosticArray, "people", 10)
        peer.wait_for_diagnostic("people", "though 1 publisher(s) are matched; does the detector get images")


@pytest.mark.parametrize(
    ("people", "reason"),
    [("yolo", "people yolo needs the messages of yolo_msgs, which are not installed; build yolo_ros"),
     ("hri", "sudo apt install ros-")],
)  # fmt: skip
def test_a_family_whose_messages_are_not_installed_says_how_to_get_them(people: str, reason: str) -> None:
    row = people_topics.BY_NAME[people]
    package = row.type_name.split("/")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, f"{package}.msg", None)
        with pytest.raises(GlimpseError, match=f"{package}|{reason}") as error:
            ros_messages.message_type(row)
    assert reason in str(error.value)


def test_nobody_detected_is_an_answer(watched: tuple[Running, Peer, Detector]) -> None:
    _, peer, detector = watched
    for frame in range(10):
        peer.publish(picture([], frame), START + frame * PERIOD)
        detector.send(found_message(Detections(START + frame * PERIOD, ())))
    status = peer.wait_for_diagnostic("people", "nobody is there", values={"messages": "10"})
    assert status.level == b"\x00"


def test_people_of_a_camera_that_stops_after_a_failed_run_are_forgotten(colours: Path) -> None:
    """The run took all windows, so that nothing of the picture is left that a stall could clear."""
    faulty = Faulty()
    with running(colours, faulty, **OPTIONS | {"mode": "step", "stall_timeout_s": 1.0}) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        detector.show([ANNA], range(11), pause_s=0.02)
        wait_until(lambda: [*detector.results()], "a result of anna")

        def fail_once() -> None:
            faulty.engine.before_run = None
            raise EngineError("the device is gone")

        faulty.engine.before_run = fail_once
        detector.show([ANNA], [11])
        wait_until(lambda: faulty.engine.before_run is None, "the failed run")
        wait_until(lambda: not detector.at_node.people.present, "anna to be forgotten")
        wait_until(lambda: not detector.messages[-1].warming_up, "the message that nobody is there")
        assert not detector.messages[-1].people


def test_who_is_shown_while_all_is_forgotten_hides_the_picture_no_longer(
    watched: tuple[Running, Peer, Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inference thread may have told of somebody, and draws them only when the reset is under way."""
    node, _, detector = watched
    detector.show([ANNA], range(9), pause_s=0.02)
    (camera,) = node.node._cameras
    wait_until(lambda: camera.results.showing_people, "anna to be shown")
    say, began, go_on = Results.show_people, threading.Event(), threading.Event()

    def late(results: Results, people: Any, newest: Any) -> None:
        if people and not began.is_set():
            began.set()
            go_on.wait(10)
        say(results, people, newest)

    monkeypatch.setattr(Results, "show_people", late)
    frames = itertools.count(9)
    while not began.is_set():
        detector.show([ANNA], [next(frames)], pause_s=0.02)
    resetting = threading.Thread(target=camera.reset, args=["asked"])
    epoch = camera.recognizer.epoch
    resetting.start()
    wait_until(lambda: camera.recognizer.epoch > epoch, "the reset to begin")
    go_on.set()
    resetting.join(10)
    assert not resetting.is_alive() and not camera.results.showing_people
