# SPDX-License-Identifier: Apache-2.0
"""gc-ros from the outside: what it prints, its exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from gc_ros import cli, commands
from gc_ros.media.video import read_video
from tests.command_line import no_file_above
from tests.videos import flat, truncated, write_clip
from trt_build.bundle import LoadedBundle

RED, BLUE = (220, 20, 20), (10, 20, 230)


def run(*arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of gc-ros."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def fails(*arguments: object, words: tuple[str, ...] = ()) -> None:
    """Exit code 2, nothing but one line on stderr, which holds the words."""
    code, _, err = run(*arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of red, then one of blue, 30 Hz."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, [flat(RED)] * 60 + [flat(BLUE)] * 30)


def test_video_prints_a_line_a_result_and_the_stream_last(clip: Path, colours: LoadedBundle) -> None:
    code, out, _ = run("video", clip, "--bundle", colours.path, "--stride", 4, "--threads", 1)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 7  # 24 samples: results at 8, 12, 16, 20, 24
    assert "<offset " in lines[-2] and "%" not in lines[-2], "what is on at the end ends there"
    assert "0.867 s  red 100.0%" in lines[0] and "<onset red>" in lines[0]
    assert lines[-1].startswith("stream: red ")


@pytest.mark.parametrize("mode", ["window", "step"])
def test_video_speaks_json(clip: Path, colours: LoadedBundle, mode: str) -> None:
    code, out, _ = run("video", clip, "-b", colours.path, "--json", "--mode", mode, "--stride", 8)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["type"] for row in rows] == ["activity"] * 3 + ["event", "stream"]
    first, last = rows[0], rows[-1]
    assert (rows[-2]["kind"], rows[-2]["s"]) == ("offset", rows[2]["end_s"]) and last["resets"] == {}
    assert first["label"] == "red" and len(first["glimpses"]) == 3 and first["status"] == "ok"
    assert first["start_s"] == 0 and first["end_s"] == pytest.approx(26 / 30)
    assert last["label"] == "red" and last["results"] == 3 and last["frames_in"] == 90
    assert sum(last["scores"].values()) == pytest.approx(1) and last["model_id"] == "toy-colours"


@pytest.mark.slow
def test_video_writes_an_overlay_of_every_frame(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    code, _, _ = run("video", clip, "-b", colours.path, "--out", tmp_path / "overlay.mp4")
    assert code == 0
    frames = list(read_video(tmp_path / "overlay.mp4"))
    assert len(frames) == 90 and frames[0][0].shape == (480, 960, 3)
    assert frames[50][0][300:310, 5:15].mean(axis=(0, 1))[0] > 80  # the red clip, dimmed, is beside the panel


def test_a_clip_shorter_than_a_window_says_how_long_is_needed(colours: LoadedBundle, tmp_path: Path) -> None:
    short = write_clip(tmp_path / "short.mp4", [flat(RED)] * 10)
    fails("video", short, "-b", colours.path, words=("short.mp4", "8 frames at 8 Hz", "1 s", "longer"))


def test_a_damaged_clip_gives_its_results_and_then_one_line(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    cut = truncated(write_clip(tmp_path / "whole.mp4", images), tmp_path / "cut.mp4", 0.8)
    code, out, err = run("video", cut, "-b", colours.path)
    assert code == 2 and len(out.splitlines()) >= 1 and err.count("\n") == 1 and "damaged after" in err


def test_wrong_files_bundles_and_options_are_one_line(
    clip: Path, colours: LoadedBundle, tmp_path: Path
) -> None:
    fails("video", tmp_path / "none.mp4", "-b", colours.path, words=("none.mp4",))
    fails("video", __file__, "-b", colours.path, words=("not a video",))
    fails("video", clip, "-b", tmp_path / "none", words=("no such bundle", "trt-build export"))
    fails("video", clip, "-b", colours.path / "bundle.json", words=("is a file", str(colours.path)))
    fails("video", clip, "-b", colours.path, "--mode", "both", words=("both", "window, step"))
    fails("video", clip, "-b", colours.path, "--backend", "magic", words=("magic",))
    fails("video", clip, "-b", colours.path, "--out", tmp_path / "a/b.mp4", words=("no such directory",))
    fails("video", "97", "-b", colours.path, words=("camera 97",))
    edited = Path(shutil.copytree(colours.path, tmp_path / "edited"))
    (edited / "weights.bin").write_bytes(b"other")
    fails("video", clip, "-b", edited, words=("weights.bin", "changed after export"))


def test_a_bundle_can_be_demanded_by_its_digest(clip: Path, colours: LoadedBundle, tmp_path: Path) -> None:
    for command in (("video", clip), ("evaluate", clip, "--out", tmp_path / "out")):
        fails(
            *command, "-b", colours.path, "--bundle-sha256", "0" * 64, words=(colours.sha256, "is demanded")
        )
        fails(*command, "-b", colours.path, "--bundle-sha256", "abc", words=("64 hex digits",))
    code, out, _ = run("video", clip, "-b", colours.path, "--bundle-sha256", colours.sha256)
    assert code == 0 and "stream:" in out
    code, out, _ = run(
        "evaluate", clip, "-b", colours.path, "--out", tmp_path / "out", "--bundle-sha256", colours.sha256
    )
    assert code == 0 and f"sha256 {colours.sha256}" in out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["provenance"]["bundle_json_sha256"] == colours.sha256


def test_a_window_without_a_desktop_is_one_line(
    clip: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imshow(*_: object) -> None:
        raise cv2.error("not implemented")

    monkeypatch.setattr(commands.cv2, "imshow", imshow)
    fails("video", clip, "-b", colours.path, "--show", words=("--out",))


def test_make_bag_tells_what_it_made(clip: Path, tmp_path: Path) -> None:
    code, out, _ = run("make-bag", clip, "--out", tmp_path / "bag", "--compressed", "jpeg", "--json")
    summary = json.loads(out)
    assert code == 0 and summary["images"] == 90 and summary["topic"] == "/image/compressed"
    assert Path(summary["truth"]).is_file() and Path(summary["bag"]).is_dir()
    code, out, _ = run("make-bag", clip, "--out", tmp_path / "raw", "--width", 32)
    assert code == 0 and "90 images of 1 clip on /image" in out
    fails("make-bag", clip, "--out", tmp_path / "raw", words=("exists already",))
    with no_file_above(1000):
        fails("make-bag", clip, "--out", tmp_path / "b", words=(f"{tmp_path / 'b'}: ", "choose another disk"))
    fails("make-bag", tmp_path / "none", "--out", tmp_path / "x", words=("no such",))


def test_without_ros_node_and_player_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    fails("node", "--ros-args", "-p", "x:=1", words=("rclpy", "setup.bash"))
    fails("play", "bag", words=("rclpy", "setup.bash"))
    fails("play", "bag", "--stamps", "never", words=("never",))


def test_the_node_gets_all_its_arguments_and_gives_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    class Node:
        @staticmethod
        def main(argv: list[str]) -> int:
            given.append(argv)
            return 3

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Node)
    code, _, _ = run("node", "--ros-args", "-p", "bundle:=x", "-r", "image:=/camera")
    assert code == 3 and given == [["--ros-args", "-p", "bundle:=x", "-r", "image:=/camera"]]


@pytest.mark.parametrize("command", ["video", "make-bag", "play", "node"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0 and f"Example: gc-ros {command}" in out
    assert run(command, "--no-such-option")[0] == 2 or command == "node"


@pytest.mark.clips
def test_a_recorded_clip_runs_through(clips: Path, colours: LoadedBundle) -> None:
    code, out, _ = run(
        "video", clips / "samples/tai_chi/ta_chi.mp4", "-b", colours.path, "--stride", 16, "--json"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and rows[-1]["frames_in"] == 300 and rows[-1]["frames_sampled"] == 80
