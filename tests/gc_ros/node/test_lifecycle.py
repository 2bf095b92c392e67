# SPDX-License-Identifier: Apache-2.0
"""States, signals and exit codes of the node, as a process of its own."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tests.gc_ros.node.harness import Peer, Process, new_domain, running, wait_until
from tests.marks import first_fast
from trt_build.bundle import LoadedBundle

# After the harness, which skips this module where ROS is missing.
from glimpse_clouds.msg import ActivityEvent  # isort: skip
from lifecycle_msgs.msg import Transition  # isort: skip
from lifecycle_msgs.srv import ChangeState  # isort: skip

pytestmark = pytest.mark.ros
STATES = {
    "unconfigured": [],
    "inactive": ["configure"],
    "active": ["configure", "activate"],
    "inactive again": ["configure", "activate", "deactivate"],
    "finalized": ["shutdown"],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.toy_bundle(tmp_path_factory.mktemp("toy")).path


@pytest.fixture
def peer() -> Iterator[Peer]:
    new_domain()
    peer = Peer()
    yield peer
    peer.close()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("state", first_fast("active", *(s for s in STATES if s != "active")))
def test_a_signal_in_any_state_ends_with_0_within_3_seconds(
    state: str, sent: signal.Signals, bundle: Path, peer: Peer
) -> None:
    process = Process("--ros-args", "-p", f"bundle:={bundle}", "-p", "autostart:=false")
    try:
        for transition in STATES[state]:
            assert peer.transition(transition)
        assert peer.state() == state.split()[0]
        code, took = process.end(sent)
    finally:
        process.close()
    assert code == 0, process.output
    assert took < 3
    assert "Traceback" not in process.output


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_while_images_stream_in_ends_with_0(sent: signal.Signals, bundle: Path, peer: Peer) -> None:
    process = Process("--ros-args", "-p", f"bundle:={bundle}")
    try:
        peer.wait_for_camera()
        stop = threading.Event()

        def stream() -> None:
            number = 0
            while not stop.wait(0.01):
                peer.publish(toy.number_image(number % 60000, 320, 240), number * 125_000_000 + 1)
                number += 1

        camera = threading.Thread(target=stream)
        camera.start()
        wait_until(lambda: len(peer.activities) > 5, "results")
        code, took = process.end(sent)
        stop.set()
        camera.join()
    finally:
        process.close()
    assert (code, took < 3) == (0, True), process.output
    assert "Traceback" not in process.output


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_activity_that_is_on_for_those_who_listen(
    sent: signal.Signals, tmp_path: Path, peer: Peer
) -> None:
    colours = toy.toy_bundle(tmp_path / "bundle", "colours", reset_after=0).path
    process = Process("--ros-args", "-p", f"bundle:={colours}", "-p", "smoothing_tau_s:=0.0")
    try:
        peer.wait_for_camera()
        red = np.zeros((48, 64, 3), np.uint8)
        red[..., 0] = 250
        numbers = itertools.count()

        def begun() -> bool:
            peer.publish(red, next(numbers) * 125_000_000 + 1)
            return bool(peer.events)

        wait_until(begun, "an activity")
        assert process.end(sent)[0] == 0, process.output
        wait_until(lambda: len(peer.events) == 2, "its end")
    finally:
        process.close()
    assert [(e.kind, e.label) for e in peer.events] == [
        (ActivityEvent.ONSET, "red"), (ActivityEvent.OFFSET, "red"),
    ]  # fmt: skip


def test_autostart_leads_to_active_and_an_impossible_transition_harms_nothing(
    bundle: Path, peer: Peer
) -> None:
    process = Process("--ros-args", "-p", f"bundle:={bundle}")
    try:
        wait_until(lambda: "active, waiting" in process.output, "activation")
        assert peer.state() == "active"
        for wanted in (
            Transition(id=Transition.TRANSITION_CONFIGURE),
            Transition(label="fly"),
            Transition(id=99),
        ):
            asked = ChangeState.Request(transition=wanted)
            answer = peer.call(ChangeState, "/activity_recognition/change_state", asked)
            assert answer.success is False
        # From Kilted on rclpy refuses by itself, in its own words.
        said = ("from the state active", "Unable to start transition 99 from current state (3, 'active')")
        assert "[ERROR]" in process.output and any(text in process.output for text in said)
        assert peer.state() == "active"
        assert process.end(signal.SIGINT)[0] == 0
    finally:
        process.close()


def _edit(bundle: Path) -> None:
    weights = bundle / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    first_fast(
        (lambda bundle: os.remove(bundle / "bundle.json"), "no readable bundle.json"),
        (lambda bundle: os.remove(bundle / "window.onnx"), "window.onnx is missing"),
        (_edit, "weights.bin was changed after export"),
        (lambda bundle: (bundle / "bundle.json").write_text("{"), "is not JSON"),
    ),
    ids=["no bundle.json", "no graph", "edited weights", "broken json"],
)
def test_a_spoilt_bundle_leaves_the_node_alive_and_unconfigured_with_one_fatal_line(
    spoil: object, says: str, tmp_path: Path, peer: Peer
) -> None:
    bundle = toy.toy_bundle(tmp_path / "bundle").path
    spoil(bundle)  # type: ignore[operator]
    process = Process("--ros-args", "-p", f"bundle:={bundle}")
    try:
        status = peer.wait_for_diagnostic("engine", says)
        assert status.level == b"\x02"
        assert peer.state() == "unconfigured"
        toy.toy_bundle(tmp_path / "bundle")  # mended: the same node configures
        assert peer.transition("configure") and peer.transition("activate")
        assert process.end(signal.SIGTERM)[0] == 0
    finally:
        process.close()
    fatal = [line for line in process.lines if "[FATAL]" in line]
    assert len(fatal) == 1 and says in fatal[0], process.output
    assert "Traceback" not in process.output


def test_a_bundle_other_than_the_demanded_one_is_not_run_and_diagnostics_show_which_one_is(
    tmp_path: Path,
) -> None:
    bundle = toy.toy_bundle(tmp_path / "bundle")
    with running(bundle.path, bundle_sha256="0" * 64) as (node, peer):
        status = peer.wait_for_diagnostic("engine", f"{bundle.sha256}, but {'0' * 64} is demanded")
        assert status.level == b"\x02" and node.node.state == "unconfigured"
        assert {v.key: v.value for v in status.values}["bundle sha256"] == "none"
    with running(bundle.path, bundle_sha256=bundle.sha256.upper()) as (node, peer):
        status = peer.wait_for_diagnostic("engine", "active")
        assert {v.key: v.value for v in status.values}["bundle sha256"] == bundle.sha256


def test_exit_on_failure_exits_with_3_when_there_is_no_bundle(tmp_path: Path) -> None:
    process = Process("--ros-args", "-p", f"bundle:={tmp_path / 'none'}", "-p", "exit_on_failure:=true")
    try:
        assert process.wait() == 3, process.output
    finally:
        process.close()
    assert "Traceback" not in process.output and "trt-build export" in process.output


@pytest.mark.slow
def test_build_only_opens_the_engine_and_exits(numbers: LoadedBundle) -> None:
    """With 0 where it is there or could be built, with 3 and the reason where not; never a node left running."""
    for backend, code, says in (("onnxruntime", 0, "ready in"), ("tensorrt", 3, "")):
        if backend == "tensorrt" and importlib.util.find_spec("tensorrt"):
            continue
        process = Process(
            "--ros-args",
            "-p",
            f"bundle:={numbers.path}",
            "-p",
            f"backend:={backend}",
            "-p",
            "build_only:=true",
        )
        try:
            assert process.wait() == code, process.output
        finally:
            process.close()
        assert says in process.output and "Traceback" not in process.output
        if code:
            assert "python3-libnvinfer" in process.output


_OPENS_SLOWLY = """
import sys, time
from gc_ros.node import lifecycle, process
opens = lifecycle.open_engine
def slowly(*arguments, **options):
    print("opening", flush=True)
    time.sleep(1)
    return opens(*arguments, **options)
lifecycle.ActivityRecognition.__init__.__kwdefaults__["open_engine"] = slowly
sys.exit(process.main())
"""

_ENDS_SLOWLY = """
import sys, time
from gc_ros.node import process
class Slow:
    def __del__(self, sleep=time.sleep):
        print("ending", flush=True)
        sleep(1)
slow = Slow()
sys.exit(process.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("also", first_fast([], ["-p", "exit_on_failure:=true"], ["-p", "build_only:=true"]))
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_while_it_configures_ends_with_0(
    sent: signal.Signals, also: list[str], bundle: Path, tmp_path: Path
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(_OPENS_SLOWLY)
    process = Process("--ros-args", "-p", f"bundle:={bundle}", *also, script=script)
    try:
        wait_until(lambda: "opening" in process.output, "configuration", 20)
        code, took = process.end(sent)
    finally:
        process.close()
    assert (code, took < 4) == (0, True), process.output
    assert "Traceback" not in process.output and "[FATAL]" not in process.output, process.output


@pytest.mark.slow
def test_a_second_signal_while_the_interpreter_ends_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(_ENDS_SLOWLY)
    process = Process("--ros-args", "-p", f"bundle:={bundle}", script=script)
    try:
        wait_until(lambda: "active, waiting" in process.output, "activation", 20)
        process.process.send_signal(signal.SIGINT)
        wait_until(lambda: "ending" in process.output, "the end of the interpreter", 20)
        assert process.end(signal.SIGINT)[0] == 0, process.output
    finally:
        process.close()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_shared_parameter_file_may_hold_what_is_meant_for_others(
    bundle: Path, tmp_path: Path, encoding: str
) -> None:
    shared = tmp_path / "robot.yaml"
    # Tags and dates are ROS's and other nodes' affair.
    others = "motor:\n  ros__parameters:\n    built: 2026-99-99\n    angle: !degrees 90\n"
    text = f"{others}/**:\n  ros__parameters:\n    wheel_radius: !unit 0.1\n    top_k: 2\n"
    shared.write_text(text, encoding=encoding)
    process = Process("--ros-args", "--params-file", str(shared), "-p", f"bundle:={bundle}")
    try:
        wait_until(lambda: "active, waiting" in process.output, "activation", 20)
        assert "has no parameter for: wheel_radius" in process.output
        assert process.end(signal.SIGINT)[0] == 0
    finally:
        process.close()


_FILES = {
    "typo.yaml": "/**:\n  ros__parameters:\n    topk: 3\n",
    "other.yaml": "activity_recognition:\n  ros__parameters:\n    wheel_radius: 0.1\n",
    "type.yaml": "/**:\n  ros__parameters:\n    top_k: five\n",
    "broken.yaml": "/**:\n  ros__parameters: [\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.yaml", "there is no parameter file"),
        ("typo.yaml", "there is no parameter topk; did you mean top_k?"),
        ("other.yaml", "there is no parameter wheel_radius"),
        ("type.yaml", "top_k"),
        ("broken.yaml", "broken.yaml"),
    ],
)
def test_a_wrong_parameter_file_exits_with_2_and_one_line(name: str, says: str, tmp_path: Path) -> None:
    for file, text in _FILES.items():
        (tmp_path / file).write_text(text)
    process = Process("--ros-args", "--params-file", str(tmp_path / name))
    try:
        assert process.wait() == 2, process.output
    finally:
        process.close()
    assert says in process.output and len(process.lines) == 1, process.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ros-args", "-p", "stride:=0"], "stride"),
        (["--ros-args", "-p", "stride:=often"], "stride"),
        (["--ros-args", "-p", "strid:=2"], "did you mean stride?"),
        (
            ["--ros-args", "-p", "qos_overrides./image.subscription.reliabilty:=reliable"],
            "of the policies history, depth, reliability",
        ),
        (
            ["--ros-args", "-p", "qos_overrides./image.subscription.reliability:=besteffort"],
            "is 'besteffort'; give reliable, best_effort, best_available or system_default",
        ),
        (
            ["--ros-args", "-p", "qos_overrides./image.subscription.history:=3"],
            "is 3; give keep_last, keep_all",
        ),
        (
            ["--ros-args", "-p", "qos_overrides./image.subscription.depth:=0"],
            "is 0; give a whole number from 1 on",
        ),
        (["--ros-args", "-r", "__ns:=/a-b"], "a-b"),
        (["--ros-args", "-r", "image"], "image"),
        (["--ros-args", "-p", "mode:=fast"], "mode must be one of auto, window, step"),
        (["--ros-args", "-p", "offset_threshold:=0.9"], "above onset_threshold"),
        (["bundle"], "unknown argument bundle"),
    ],
)
def test_wrong_use_exits_with_2_and_one_line(arguments: list[str], says: str) -> None:
    process = Process(*arguments)
    try:
        assert process.wait() == 2, process.output
    finally:
        process.close()
    ours = [line for line in process.lines if "[rcl]" not in line]  # which warns of a namespace by itself
    assert says in process.output and len(ours) == 1, process.output


@pytest.mark.slow
def test_fifty_lifecycle_cycles_leave_no_thread_behind(bundle: Path) -> None:
    with running(bundle, autostart=False) as (_, peer):
        before = 0
        for cycle in range(50):
            for transition in ("configure", "activate", "deactivate", "cleanup"):
                assert peer.transition(transition), (cycle, transition)
            if cycle == 2:
                before = threading.active_count()
        assert threading.active_count() <= before
        assert peer.state() == "unconfigured"
