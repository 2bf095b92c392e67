# SPDX-License-Identifier: Apache-2.0
"""Many bags: what is damaged or unusable among them, what is taken over from before, processes and a cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from gc_ros import cli
from gc_ros.evaluation import many, processes, results, sources
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.running import Task, evaluate_bag, resume
from gc_ros.evaluation.sources import Source, find_sources
from gc_ros.media import images
from gc_ros.media.detections import Box, Detection, Detections, write_csv
from gc_ros.media.images import Refusal
from gc_ros.recognition.taught_file import taught_digest
from gc_ros.stamps import NS
from tests.command_line import assert_one_line, call
from tests.gc_ros.evaluation.bag_files import mcap_of, write_truth
from tests.gc_ros.evaluation.runs import make, run, write_clip
from trt_build.bundle import LoadedBundle
from trt_build.errors import DataError

pytest.importorskip("sklearn")
BOX = Box(5, 5, 45, 45)


@pytest.mark.slow
def test_exit_codes_and_one_line_for_every_mishap(tmp_path: Path, colours: LoadedBundle) -> None:
    good = make(tmp_path, "good")
    bad = tmp_path / "bad.mcap"
    bad.write_bytes(b"nothing")
    empty = make(tmp_path, "empty", [("gap", 1.0)])
    wrong = make(tmp_path, "wrong", other_topic=True)
    both = run(colours, tmp_path / "out", good, bad, empty)
    assert [f["name"] for f in both["failed"]] == ["bad.mcap", "empty"] and both["said"].count("error: ") == 2
    assert both["result"]["windows"]["accuracy"] == 1
    run(colours, tmp_path / "out", good, bad, "--strict", code=1)
    run(colours, tmp_path / "out", good, "--min-accuracy", 0.9)
    write_truth(tmp_path / "false.csv", [(0, 6, "blue")])
    low = run(
        colours, tmp_path / "out", good, "--truth", tmp_path / "false.csv", "--min-accuracy", 0.9, code=1
    )
    assert "accuracy is 0.0%" in low["said"]
    common = ("-b", colours.path, "--out", tmp_path / "x", "--jobs", 1)
    for arguments, words in (
        ((bad,), ("not a bag",)),
        ((empty,), ("no image",)),
        ((wrong, "--topic", "/label"), ("std_msgs/msg/String", "/camera")),
        ((wrong, "--truth", "topic:/none"), ("/none", "/label")),
        ((tmp_path / "none",), ("no such bag",)),
        ((good, "--truth", tmp_path / "none.csv"), ("no such truth",)),
        ((good, "--stamps", "never"), ("header, log",)),
        ((good, "--map", "x"), ("TRUTH=LABEL",)),
        ((good, "--mode", "both"), ("window, step",)),
        ((good, "--onset-threshold", 0.1), ("thresholds",)),
        ((good, "--dask", "tcp://127.0.0.1:1"), ("no Dask scheduler",)),
        ((good, "--dask", "foo://127.0.0.1:1"), ("no Dask scheduler", "unknown address scheme")),
        ((good, "--dask", "127.0.0.1:abc"), ("no Dask scheduler",)),
    ):
        assert_one_line(call(cli.app, "evaluate", *arguments, *common), *words)


def test_a_damaged_bag_gives_what_it_holds_and_an_earlier_result_outlives_a_failure(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    bag = make(tmp_path, size=(160, 120))
    whole = run(colours, tmp_path / "out", bag)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    data = mcap_of(bag).read_bytes()
    mcap_of(bag).write_bytes(b"nothing")
    assert call(cli.app, "evaluate", bag, "-b", colours.path, "--out", tmp_path / "out").exit_code == 2
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    mcap_of(bag).write_bytes(data[: len(data) * 2 // 3])
    part = run(colours, tmp_path / "out", bag)
    assert "warning: bag: " in part["said"] and part["bags"][0]["damage"]
    assert 20 < part["bags"][0]["counts"]["windows"] < whole["bags"][0]["counts"]["windows"]
    assert part["result"]["windows"]["accuracy"] == 1
    run(colours, tmp_path / "out", bag, "--strict", code=1)


def test_a_bag_that_fails_does_not_wait_for_its_checksum(
    tmp_path: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, pieces=[("red", 1.0)], truth=False)
    source = Source(tmp_path / "bag", "bag")
    begun, stopped, ended = threading.Event(), threading.Event(), []
    stopped.set()
    with pytest.raises(CancelledError):
        source.sha256(stopped)
    assert len(source.sha256()) == 64

    def endless(path: Path, stop: threading.Event) -> str:
        begun.set()
        ended.append(stop.wait(30))
        raise CancelledError

    def broken(message: Any, compressed: bool, live: bool) -> Refusal:
        assert begun.wait(30)  # the checksum is taken beside the reading
        return Refusal("broken")

    monkeypatch.setattr(sources, "file_sha256", endless)
    monkeypatch.setattr(images, "picture_of", broken)
    with pytest.raises(DataError, match=r"no image to evaluate.*broken"):
        evaluate_bag(Task(source, str(colours.path), Options(threads=1), str(tmp_path / "out")))
    assert ended == [True], "the checksum was told to stop"


@pytest.mark.slow
def test_finished_bags_are_evaluated_again_only_when_something_changed(
    tmp_path: Path, colours: LoadedBundle, make_bundle: Any
) -> None:
    bags = [make(tmp_path, f"bag{i}") for i in range(2)]
    out = tmp_path / "out"
    assert "(0 finished before)" in run(colours, out, *bags)["text"]
    first = (out / "summary.json").read_text()
    assert "(2 finished before)" in run(colours, out, *bags)["text"]
    again = json.loads((out / "summary.json").read_text())
    assert {**again, "timings": 0} == {**json.loads(first), "timings": 0}
    assert "(0 finished before)" in run(colours, out, *bags, "--stride", 2)["text"]
    write_truth(tmp_path / "bag1.truth.csv", [(0, 3, "red")])
    assert "(1 finished before)" in run(colours, out, *bags, "--stride", 2)["text"]
    shutil.rmtree(bags[0])
    make(tmp_path, "bag0", [("blue", 3.0)])
    assert "(1 finished before)" in run(colours, out, *bags, "--stride", 2)["text"]
    (out / "bags/bag0/windows.jsonl").write_text("{}\n")
    assert "(1 finished before)" in run(colours, out, *bags, "--stride", 2)["text"]
    other = make_bundle("colours", S=224, temperature=2.0)
    assert "(0 finished before)" in run(other, out, *bags, "--stride", 2)["text"]


@pytest.mark.parametrize("said_by", ["a table of clips", "its folder"])
def test_a_corrected_label_is_judged_anew(tmp_path: Path, colours: LoadedBundle, said_by: str) -> None:
    out, folder = tmp_path / "out", tmp_path / "blue"
    folder.mkdir()
    clip, table = write_clip(folder / "a.mp4", "red"), tmp_path / "clips.csv"
    table.write_text(f"path,class\n{clip},blue\n")
    asked = table if said_by == "a table of clips" else folder
    assert run(colours, out, asked)["result"]["windows"]["accuracy"] == 0
    assert "(1 finished before)" in run(colours, out, asked)["text"]
    if said_by == "a table of clips":
        table.write_text(f"path,class\n{clip},red\n")
    else:
        asked = folder.rename(tmp_path / "red")
    again = run(colours, out, asked)
    assert "(0 finished before)" in again["text"] and again["result"]["windows"]["accuracy"] == 1


@pytest.mark.parametrize("told_by", ["a table beside the link", "a table", "its boxes", "what was taught"])
def test_a_worker_elsewhere_finds_all_that_a_task_names(
    tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    bundle = make_bundle("colours", embedding=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("scene.mp4").symlink_to(write_clip(tmp_path / "store" / "0001.mp4", "red"))
    write_truth(Path("scene.truth.csv"), [(0, 2, "red")])
    write_truth(Path("labels.csv"), [(0, 2, "red")])
    asked: dict[str, Any] = {"threads": 1, "predictions": "none", "pictures": 0}
    if told_by == "a table":
        asked["truth"] = "labels.csv"
    elif told_by == "its boxes":
        write_csv(Path("boxes.csv"), [Detections(n * NS // 10, (Detection("1", BOX),)) for n in range(20)])
        asked |= {"people": "boxes.csv", "true_boxes": "boxes.csv"}
    elif told_by == "what was taught":
        assert not call(cli.app, "teach", "other", "scene.mp4", "-b", bundle.path, "--taught", "t").exit_code
        asked |= {"taught": "t", "taught_sha256": taught_digest(Path("t")), "taught_labels": ("other",)}
    options = Options(**asked)
    place = os.path.relpath(bundle.path)
    task = Task(find_sources(["scene.mp4"])[0], place, options, "out")
    absolute = processes._absolute(task)
    monkeypatch.chdir(tmp_path)
    record, problem = processes.attempt(absolute)
    assert record is not None, problem
    assert record["truth"]["kind"] == "csv"
    monkeypatch.chdir(tmp_path / "here")
    assert resume(task, options.labels(bundle.info)) is not None, "the same command takes it from there"


@pytest.mark.slow
def test_processes_and_a_dask_cluster_give_the_same_summary_even_if_a_worker_is_killed(
    tmp_path: Path, colours: LoadedBundle
) -> None:
    distributed = pytest.importorskip("distributed")
    bags = find_sources([make(tmp_path, f"bag{i}", jpeg=bool(i % 2)) for i in range(6)])
    options = Options(threads=1)

    def result(name: str, **how: Any) -> str:
        found = many.evaluate_many(bags, colours.path, tmp_path / name, options, **how)
        assert not found.failed
        return results.dump({**found.summary, "timings": None})

    alone = result("one", jobs=1)
    assert result("two", jobs=2) == alone
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        killed: list[int] = []

        def kill(name: str, done: int, total: int) -> None:
            if not killed:
                worker = next(iter(cluster.workers.values()))
                killed.append(worker.process.pid)
                os.kill(worker.process.pid, signal.SIGKILL)

        assert result("dask", dask=cluster.scheduler_address, said=kill) == alone and killed
