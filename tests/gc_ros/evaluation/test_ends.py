# SPDX-License-Identifier: Apache-2.0
"""How an evaluation ends: kept work, no process that stays, no result under another's name or of half a bag."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_ros import cli
from gc_ros.evaluation import many, reading, results
from tests.command_line import assert_one_line, call
from tests.conftest import REPOSITORY
from tests.gc_ros.evaluation.bag_files import mcap_of, write_bag, write_truth
from tests.gc_ros.evaluation.runs import make, run, spawn
from trt_build.bundle import LoadedBundle, load_bundle

pytest.importorskip("sklearn", reason="pip install -e '.[evaluate]'")
psutil = pytest.importorskip("psutil", reason="psutil is not installed: make env")


def test_room_that_ends_between_two_bags_keeps_the_first(
    tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write_bag(tmp_path / "bags" / name, [("red", 2.0)])
    begun = []

    def write(self: reading.Reading, *arguments: Any) -> None:
        begun.append(self.frames.source.name)
        if len(begun) > 1:
            raise OSError(28, "No space left on device")
        read(self, *arguments)

    read = reading.Reading.read
    monkeypatch.setattr(reading.Reading, "read", write)
    out = tmp_path / "out"
    arguments = ("evaluate", tmp_path / "bags", "-b", colours.path, "--out", out, "--jobs", 1, "--threads", 1)
    done = call(cli.app, *arguments)
    assert_one_line(done, str(out), "No space left on device", "1 of 3 bags are kept")
    assert begun == ["a", "b"], "the other bags are not tried in vain"
    monkeypatch.undo()
    assert "(1 finished before)" in run(colours, out, tmp_path / "bags")["text"]


def test_a_fault_in_the_summary_costs_no_bag(
    tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_bag(tmp_path / "bags" / name, [("red", 2.0)])
    out = tmp_path / "out"
    arguments = ("evaluate", tmp_path / "bags", "-b", colours.path, "--out", out, "--jobs", 1, "--threads", 1)
    for fault in (KeyError("truth"), MemoryError(), OSError(28, "No space left on device")):

        def summarise(*_: Any, fault: Exception = fault) -> Any:
            raise fault

        monkeypatch.setattr(many, "summarise", summarise)
        assert_one_line(call(cli.app, *arguments), "no summary", "2 of 2 bags are kept")
    monkeypatch.undo()
    assert "(2 finished before)" in run(colours, out, tmp_path / "bags")["text"]


def test_what_the_end_needs_is_looked_for_at_the_beginning(
    tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bag(tmp_path / "bag", [("red", 2.0)])
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = call(cli.app, "evaluate", tmp_path / "bag", "-b", colours.path, "--out", tmp_path / "out")
    assert_one_line(done, "jinja2", "python3 -m pip install 'jinja2>=3'", "'scikit-learn>=1.3'")
    assert not (tmp_path / "out" / "bag.json").exists()


# -- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    people = load_bundle(REPOSITORY / "bundles" / "people")  # takes minutes for these
    for name in ("a", "b"):
        write_bag(tmp_path / "bags" / name, [("red", 200.0)], hz=8.0)
    out = tmp_path / "out"
    child = spawn("evaluate", tmp_path / "bags", "-b", people.path, "--out", out, "--jobs", 2)
    parent = psutil.Process(child.pid)
    deadline = time.monotonic() + 60
    while len(list(out.glob("bags/*/.predictions.mcap.*"))) < 2:
        assert time.monotonic() < deadline and child.poll() is None, child.communicate()
        time.sleep(0.1)
    below = parent.children(recursive=True)
    assert len(below) >= 2
    child.send_signal(how)
    _, alive = psutil.wait_procs(below, timeout=20)
    for process in alive:
        process.kill()
    child.communicate(timeout=20)
    assert not alive, f"{len(alive)} of {len(below)} processes outlive their parent after {how.name}"
    assert not (out / "summary.json").exists()


# -- names and content ---------------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    ["a", "A", "b", "..", ".", "", "bag.json", "run~1", "é", "e\u0301", "x" * 300, "\udcff"]
)


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join), min_size=2, max_size=8, unique=True))
def test_results_stay_below_out_in_folders_of_their_own(names: list[str]) -> None:
    out = Path("/somewhere/out")
    folders = results.bag_folders(out, names)
    keys = [unicodedata.normalize("NFC", str(folder)).casefold() for folder in folders]
    for folder, key in zip(folders, keys, strict=True):
        assert Path(os.path.normpath(folder)).is_relative_to(out / "bags") and folder != out / "bags"
        assert all(len(os.fsencode(part)) < 256 for part in folder.parts)
        assert sum(other == key or other.startswith(f"{key}/") for other in keys) == 1
    assert folders == results.bag_folders(out, names)


def test_plain_names_are_the_folders(tmp_path: Path) -> None:
    assert results.bag_folders(tmp_path, ["one"]) == [tmp_path]
    folders = results.bag_folders(tmp_path, ["p1/wave_1.mp4", "p1/wave_2.mp4", "run"])
    assert folders == [tmp_path / "bags" / name for name in ("p1/wave_1.mp4", "p1/wave_2.mp4", "run")]


def test_results_never_lie_in_a_bag_and_are_no_bags(tmp_path: Path, colours: LoadedBundle) -> None:
    bags = tmp_path / "bags"
    for name in ("a", "b"):
        make(bags, name, [("red", 2.0)])
    before = sorted(path for path in bags.rglob("*"))
    common = ("-b", colours.path, "--jobs", 1, "--threads", 1)
    for arguments in ((bags / "a", "--out", bags / "a"), (bags / "a", "--out", bags / "a" / "x")):
        assert_one_line(call(cli.app, "evaluate", *arguments, *common), "results would lie in", "--out")
    assert_one_line(call(cli.app, "evaluate", bags, "--out", tmp_path, *common), "results would lie in")
    assert sorted(path for path in bags.rglob("*")) == before
    first = run(colours, bags / "results", bags)
    second = run(colours, bags / "results", bags)
    assert [bag["name"] for bag in second["bags"]] == [bag["name"] for bag in first["bags"]] == ["a", "b"]
    assert "(2 finished before)" in second["text"]
    assert "results of gc-ros evaluate" in second["said"] and not first["said"]


@pytest.mark.slow
def test_a_bag_that_took_the_name_of_another_is_evaluated(tmp_path: Path, colours: LoadedBundle) -> None:
    for name, colour in (("a", "red"), ("b", "green"), ("c", "blue")):
        truth = write_bag(tmp_path / "bags" / name, [(colour, 2.0)])
        write_truth(tmp_path / "bags" / f"{name}.truth.csv", truth)
    run(colours, tmp_path / "out", tmp_path / "bags")
    os.rename(tmp_path / "bags" / "a", tmp_path / "bags" / "d")
    os.rename(tmp_path / "bags" / "b", tmp_path / "bags" / "a")
    found = run(colours, tmp_path / "out", tmp_path / "bags")
    rows = list(results.read_windows(tmp_path / "out" / "bags" / "a" / "windows.jsonl"))
    assert {row["label"] for row in rows} == {"green"}
    assert [bag["name"] for bag in found["bags"]] == ["a", "c", "d"] and "(1 finished before)" in found[
        "text"
    ]


@pytest.mark.parametrize("change", ["grows", "another file", "replaced"])
def test_a_bag_that_changes_while_it_is_read_gives_no_result(
    tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    bag, out = tmp_path / "bag", tmp_path / "out"
    write_bag(bag, [("red", 2.0)])
    read = reading.Reading.read

    def read_and_change(self: reading.Reading, *arguments: Any) -> None:
        read(self, *arguments)
        if change == "grows":
            with mcap_of(bag).open("ab") as file:
                file.write(b"more")
        elif change == "another file":
            (bag / "bag_1.mcap").write_bytes(b"")
        else:
            shutil.copy(mcap_of(bag), tmp_path / "copy")
            os.replace(tmp_path / "copy", mcap_of(bag))

    monkeypatch.setattr(reading.Reading, "read", read_and_change)
    done = call(cli.app, "evaluate", bag, "-b", colours.path, "--out", out, "--jobs", 1, "--threads", 1)
    assert_one_line(done, "bag: changed while it was read")
    assert not list(out.iterdir())


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path, colours: LoadedBundle) -> None:
    write_bag(tmp_path / "bag", [("red", 2.0)])
    out = tmp_path / "out"
    out.mkdir()
    (out / ".predictions.mcap.123.part").write_bytes(b"half")
    run(colours, out, tmp_path / "bag")
    assert not list(out.glob(".*"))


# -- precision -----------------------------------------------------------------------------------------------------


def test_a_precision_is_part_of_the_result(tmp_path: Path, colours: LoadedBundle) -> None:
    write_bag(tmp_path / "bag", [("red", 2.0)])
    out = tmp_path / "out"
    found = run(colours, out, tmp_path / "bag", "--precision", "fp32")
    assert found["provenance"]["options"]["precision"] == "fp32"
    assert "(0 finished before)" in run(colours, out, tmp_path / "bag")["text"]
    common = ("evaluate", tmp_path / "bag", "-b", colours.path, "--out", out)
    assert_one_line(call(cli.app, *common, "--precision", "int8"), "quantize")
    assert_one_line(call(cli.app, *common, "--precision", "half"), "fp32, fp16, bf16, int8")


@pytest.mark.parametrize("missing", ["mcap.writer", "jinja2", "sklearn.metrics"])
def test_check_says_what_to_install_and_evaluates_nothing(
    missing: str, tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", make(tmp_path), "-b", colours.path, "--out", tmp_path / "out", "--check"]
    assert call(cli.app, *command).exit_code == 0
    monkeypatch.setitem(sys.modules, missing, None)
    done = call(cli.app, *command)
    assert_one_line(done, missing, "python3 -m pip install", "'mcap>=1.2'")
    assert not (tmp_path / "out").exists()
    assert_one_line(call(cli.app, "evaluate", tmp_path / "none", "-b", colours.path, "--check"), "none")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--truth", "nofile.csv"], ["nofile.csv: no such truth"]),
        (["--truth", "topic:/labels"], ["no topic /labels for the ground truth"]),
        (["--topic", "/nosuch"], ["no image topic /nosuch", "/camera"]),
        (["--out", "/proc/x"], ["/proc/x"]),
        (["--out", "a_file/out"], ["a_file/out"]),
        (["--people", "nofile.csv"], ["nofile.csv"]),
        (["--map", "red=violet"], ["no 'violet'"]),
        (["--mode", "tube"], ["mode 'tube' is not in this bundle"]),
    ],
)
def test_check_finds_what_would_end_the_evaluation(
    options: list[str],
    words: list[str],
    tmp_path: Path,
    colours: LoadedBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    bag = tmp_path / "bag"
    write_bag(bag, [("red", 2.0)])
    there = set(tmp_path.iterdir())
    command = ["evaluate", bag, "-b", colours.path, "--out", "new/out", *options]
    assert_one_line(call(cli.app, *command, "--check"), *words)
    assert set(tmp_path.iterdir()) == there
    assert_one_line(call(cli.app, *command), *words)


def test_check_warns_of_the_bags_that_the_evaluation_would_leave_out(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    for name in ("one", "two"):
        write_bag(tmp_path / name, [("red", 2.0)])
    (tmp_path / "two.truth.csv").write_text("no,truth\n")
    done = call(cli.app, "evaluate", tmp_path, "-b", colours.path, "--out", tmp_path / "out", "--check")
    assert done.exit_code == 0 and "warning: two: " in done.output and "two.truth.csv" in done.output
    assert "one" not in done.output
