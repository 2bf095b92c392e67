# SPDX-License-Identifier: Apache-2.0
"""`make demo ARGS="--camera ..."`: frames of a camera over DDS into the node, messages and overlay back."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gc_ros.media.bags import make_bag
from gc_ros.media.clips import find_clips
from gc_ros.media.video import read_video
from gc_ros.media.video_writer import VideoWriter
from gc_ros.stamps import NS
from tests.command_line import no_file_above
from tests.conftest import REPOSITORY
from tests.videos import flat
from trt_build.bundle import LoadedBundle

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("torch", reason="the demo draws people: pip install -e '.[train]'")


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, str(REPOSITORY / "scripts" / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


def ended(end: Callable[[int], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A demo to which something is done once it has printed a result; end: by its process."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "demo.py"), *arguments]
    # A session of its own: a terminal sends a signal to everybody in it, the node too.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert any(" age " in line for line in process.stdout)
            end(process.pid)
            said, wrong = process.communicate(timeout=60)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return subprocess.CompletedProcess(command, process.returncode, said, wrong)


def test_what_a_camera_sees_is_named_and_drawn(tmp_path: Path, colours: LoadedBundle) -> None:
    with VideoWriter(tmp_path / "clip.mp4") as video:
        for i in range(60):
            colour = (220, 20, 20) if i < 30 else (20, 20, 220)
            video.write(flat(colour), i * NS // 12)
    out = tmp_path / "out"
    done = demo("--camera", str(tmp_path / "clip.mp4"), "--bundle", str(colours.path), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if " age " in line]
    labels = [line[2] for line in lines]
    assert len(lines) > 15 and labels[0] == "red" and labels[-1] == "blue"
    assert "red began" in done.stdout and "blue began" in done.stdout
    drawn = sum(1 for _ in read_video(out / "camera.mp4"))
    assert drawn >= 40 and f"{drawn} frames" in done.stdout


def test_ctrl_c_ends_it_and_keeps_the_video(tmp_path: Path, colours: LoadedBundle) -> None:
    with VideoWriter(tmp_path / "clip.mp4") as video:
        for i in range(1200):
            video.write(flat((220, 20, 20)), i * NS // 12)
    out = tmp_path / "out"
    source = ("--camera", str(tmp_path / "clip.mp4"), "--bundle", str(colours.path), "--out", str(out))
    done = ended(lambda process: os.killpg(process, signal.SIGINT), *source)
    assert done.returncode == 0 and "messages received over DDS" in done.stdout
    assert sum(1 for _ in read_video(out / "camera.mp4")) >= 5


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_ended_says_so_in_a_line_and_leaves_no_node(
    tmp_path: Path, colours: LoadedBundle, ending: signal.Signals
) -> None:
    (tmp_path / "clips" / "red").mkdir(parents=True)
    with VideoWriter(tmp_path / "clips" / "red" / "a.mp4") as video:
        for i in range(1200):
            video.write(flat((220, 20, 20)), i * NS // 12)
    make_bag(find_clips([tmp_path / "clips"]), tmp_path / "bag", gap_s=2)
    source = ("--bag", str(tmp_path / "bag"), "--bundle", str(colours.path), "--out", str(tmp_path / "out"))
    done = ended(lambda process: os.kill(process, ending), *source)
    assert done.returncode == 130
    assert "demo: ended before its time" in done.stderr and "Traceback" not in done.stderr


def test_an_interrupt_while_ros_converts_a_message_ends_the_demo_as_one_between_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The import sets them; what they were comes back.
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_DOMAIN_ID"):
        monkeypatch.setenv(name, "")
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    parts = importlib.import_module("demo_node")
    monkeypatch.setattr(parts, "_ended", threading.Event())
    taken = []

    def callback(timeout_sec: float) -> None:
        taken.append(timeout_sec)
        try:
            parts.end_demo()
        except KeyboardInterrupt:  # as rclpy's native code does it
            raise RuntimeError("Unable to convert call argument '0' to Python object") from None

    robot = object.__new__(parts.Robot)
    robot._executor = SimpleNamespace(spin_once=callback)
    with pytest.raises(KeyboardInterrupt):
        robot.spin(60)
    assert len(taken) == 1 and taken[0] <= 1
    with pytest.raises(KeyboardInterrupt):  # between messages it is raised at once
        parts.end_demo()
    # What a demo that has ended still takes.
    robot.spin(0.01, ended=True)
    assert len(taken) > 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--clips", "0"], "--clips must be 1 or more"),
        (["--seed", "-1"], "--seed 0 or more"),
        ([], "demo_recording is there and not of a demo: move it away"),
    ],
)
def test_a_demo_removes_nothing_that_is_not_its_own(tmp_path: Path, arguments: list[str], word: str) -> None:
    kept = [tmp_path / name / "mine.mp4" for name in ("clips", "bag", "demo_recording")]
    for path in kept:
        path.parent.mkdir()
        path.touch()
    done = demo("--bundle", str(REPOSITORY / "bundles" / "people"), "--out", str(tmp_path), *arguments)
    assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr
    assert all(path.is_file() for path in kept)


def test_a_recording_that_another_demo_plays_stays(tmp_path: Path) -> None:
    folder = tmp_path / "demo_recording"
    folder.mkdir()
    with (folder / "made_by_make_demo").open("x") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        done = demo("--bundle", str(REPOSITORY / "bundles" / "people"), "--out", str(tmp_path))
    assert done.returncode == 2 and "another demo is playing it" in done.stderr
    assert [p.name for p in folder.iterdir()] == ["made_by_make_demo"]


@pytest.mark.parametrize("below", ["", "x"])
def test_an_out_that_cannot_be_a_folder_is_said_in_a_line(
    tmp_path: Path, colours: LoadedBundle, below: str
) -> None:
    (tmp_path / "file").touch()
    done = demo("--bundle", str(colours.path), "--out", str(tmp_path / "file" / below))
    said = [line for line in done.stderr.splitlines() if line.startswith("demo: ")]
    assert done.returncode == 2 and len(said) == 1 and str(tmp_path / "file") in said[0]


@pytest.mark.parametrize("camera", [(), ("--camera", "nothing.mp4")])
def test_an_out_without_room_is_said_in_a_line_before_anything_is_drawn(
    tmp_path: Path, colours: LoadedBundle, camera: tuple[str, ...]
) -> None:
    with no_file_above(1000):
        done = demo("--bundle", str(colours.path), "--out", str(tmp_path / "out"), *camera)
    said = [line for line in done.stderr.splitlines() if line.startswith("demo: ")]
    assert done.returncode == 2 and len(said) == 1, done.stderr
    assert said[0].startswith(f"demo: {tmp_path / 'out'}: File too large; raise the limit")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("source", "word"), [("99", "ls /dev/video"), ("nothing.mp4", "nothing.mp4")])
def test_a_camera_that_is_not_there_is_said_in_a_line(
    tmp_path: Path, colours: LoadedBundle, source: str, word: str
) -> None:
    done = demo("--camera", source, "--bundle", str(colours.path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("demo: ")]
    assert len(said) == 1 and word in said[0]


def test_a_clip_shorter_than_a_window_says_what_is_missing(tmp_path: Path, colours: LoadedBundle) -> None:
    with VideoWriter(tmp_path / "clip.mp4") as video:
        for i in range(4):
            video.write(flat((220, 20, 20)), i * NS // 12)
    done = demo("--camera", str(tmp_path / "clip.mp4"), "--bundle", str(colours.path), "--out", str(tmp_path))
    assert done.returncode == 1 and "a window needs 1 s" in done.stdout + done.stderr


def test_a_truth_of_ones_own_is_read_as_the_evaluation_reads_it(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    (tmp_path / "clips" / "red").mkdir(parents=True)
    with VideoWriter(tmp_path / "clips" / "red" / "clip.mp4") as video:
        for i in range(36):
            video.write(flat((220, 20, 20)), i * NS // 12)
    bag = tmp_path / "bag"
    make_bag(find_clips([tmp_path / "clips"]), bag)
    (tmp_path / "bag.truth.csv").write_text("Start_s;End_s;Label\n0;1,5;red\n1,5;3;green\n")
    done = demo(
        "--bag", str(bag), "--bundle", str(colours.path), "--out", str(tmp_path / "out"), "--min-right", "0.5"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out" / "demo.json").read_text())["clips"]
    assert [(row["clip"], row["named"]) for row in rows] == [("red", "red"), ("green", "red")]
