# SPDX-License-Identifier: Apache-2.0
"""States, signals and exit codes of the node, as a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import toy
from tests.gc_ros.node.harness import Peer, Process, new_domain, running, wait_until
from trt_build.bundle import LoadedBundle

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


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("state", STATES)
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


def test_autostart_leads_to_active_and_an_impossible_transition_harms_nothing(
    bundle: Path, peer: Peer
) -> None:
    process = Process("--ros-args", "-p", f"bundle:={bundle}")
    try:
        wait_until(lambda: "active, waiting" in process.output, "activation")
        assert peer.state() == "active"
        request = peer.node.create_client  # the service answers nothing to an impossible transition
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        client = request(ChangeState, "/activity_recognition/change_state")
        assert client.wait_for_service(5)
        call = ChangeState.Request()
        call.transition.id = Transition.TRANSITION_CONFIGURE
        client.call_async(call)
        wait_until(lambda: "[ERROR]" in process.output, "the complaint about the transition")
        assert peer.state() == "active"
        assert process.end(signal.SIGINT)[0] == 0
    finally:
        process.close()


def _edit(bundle: Path) -> None:
    weights = bundle / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda bundle: os.remove(bundle / "bundle.json"), "no readable bundle.json"),
        (lambda bundle: os.remove(bundle / "window.onnx"), "window.onnx is missing"),
        (_edit, "weights.bin was changed after export"),
        (lambda bundle: (bundle / "bundle.json").write_text("{"), "is not JSON"),
    ],
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


def test_exit_on_failure_exits_with_3_when_there_is_no_bundle(tmp_path: Path) -> None:
    process = Process("--ros-args", "-p", f"bundle:={tmp_path / 'none'}", "-p", "exit_on_failure:=true")
    try:
        assert process.wait() == 3, process.output
    finally:
        process.close()
    assert "Traceback" not in process.output and "trt-build export" in process.output


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ros-args", "-p", "stride:=0"], "stride"),
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
    assert says in process.output and len(process.lines) == 1, process.output


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
