# SPDX-License-Identifier: Apache-2.0
"""`gc-ros video` and mistakes on its command line: no input is overwritten, each refusal is one line that helps."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import typer

from gc_ros import commands, watchers
from gc_ros.media.detections import Box, Detection, Detections, write_csv
from gc_ros.media.video import read_video
from gc_ros.stamps import NS
from tests.command_line import call
from tests.gc_ros.evaluation.runs import spawn
from tests.gc_ros.test_cli import fails, run
from tests.videos import flat, write_clip
from trt_build.bundle import LoadedBundle
from trt_build.command import Threads, command_line

RED = (220, 20, 20)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Three seconds of red at 30 Hz, and a person with an odd id who stands in it."""
    found = [
        Detections(i * NS // 30, (Detection("a\tb\x1b[31m", Box(8, 8, 40, 44)),)) for i in range(0, 90, 2)
    ]
    write_csv(tmp_path / "people.csv", found)
    return write_clip(tmp_path / "clip.mp4", [flat(RED)] * 90)


def unread(*_: object) -> None:
    raise AssertionError("read before it was refused")


@pytest.mark.parametrize("name", ["clip.mp4", "soft.mp4", "hard.mp4", "people.csv"])
def test_a_file_that_is_read_is_never_overwritten(
    clip: Path, colours: LoadedBundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clip.parent / "soft.mp4").symlink_to(clip)
    os.link(clip, clip.parent / "hard.mp4")
    before = {p: p.read_bytes() for p in clip.parent.iterdir()}
    monkeypatch.setattr(commands, "load_bundle", unread)
    monkeypatch.setattr(commands, "read_video", unread)
    arguments = ("-b", colours.path, "--people", clip.with_name("people.csv"), "--out", clip.with_name(name))
    fails("video", clip, *arguments, words=(f"{name}: is read here", "choose another --out"))
    assert {p: p.read_bytes() for p in clip.parent.iterdir()} == before


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    clip: Path, colours: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "load_bundle", unread)
    (clip.parent / "dir.mp4").mkdir()
    for name, word in (("x.gif", "try a name ending in .mp4"), ("dir.mp4", "dir.mp4: is a directory")):
        fails("video", clip, "-b", colours.path, "--out", clip.with_name(name), words=(word,))
    assert sorted(p.name for p in clip.parent.iterdir()) == ["clip.mp4", "dir.mp4", "people.csv"]


def test_an_input_that_cannot_be_read_leaves_no_output(colours: LoadedBundle, tmp_path: Path) -> None:
    fails("video", tmp_path / "no.mp4", "-b", colours.path, "--out", tmp_path / "o.mp4", words=("no.mp4",))
    assert not list(tmp_path.iterdir())


def test_a_clip_without_a_result_leaves_what_had_the_name_of_the_output(
    colours: LoadedBundle, tmp_path: Path
) -> None:
    short = write_clip(tmp_path / "short.mp4", [flat(RED)] * 5)
    for out in (tmp_path / "old.mp4", tmp_path / "new.mp4"):
        if out.name == "old.mp4":
            out.write_bytes(b"what was there")
        fails("video", short, "-b", colours.path, "--out", out, words=("no result",))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.mp4", "short.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"what was there"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_video_that_is_ended_is_finished(
    colours: LoadedBundle, tmp_path: Path, ending: signal.Signals
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [flat(RED)] * 6000)
    out = tmp_path / "out.mp4"
    with spawn("video", clip, "-b", colours.path, "--out", out, "--json", "--threads", 1) as process:
        try:
            assert process.stdout is not None and '"activity"' in process.stdout.readline()
            process.send_signal(ending)
            said, wrong = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and '"stream"' in said.splitlines()[-1] and wrong == ""
    assert 8 <= sum(1 for _ in read_video(out)) < 6000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


@pytest.mark.parametrize(
    ("times", "breaks"),
    [([k * 60 for k in range(9)], "gap: 8"), ([*range(20), *range(200, 220)], "gap: 1")],
    ids=["slow", "cut"],
)
def test_a_clip_whose_breaks_leave_no_window_is_told_so_and_not_to_be_longer(
    colours: LoadedBundle, tmp_path: Path, times: list[int], breaks: str
) -> None:
    broken = write_clip(tmp_path / "broken.mp4", [flat(RED)] * len(times), pts=times)
    fails("video", broken, "-b", colours.path, words=(f"there are breaks ({breaks})", "at most 0.5 s apart"))
    assert "longer" not in run("video", broken, "-b", colours.path)[2]


def test_breaks_are_told_where_people_are_looked_for_too(colours: LoadedBundle, tmp_path: Path) -> None:
    slow = write_clip(tmp_path / "slow.mp4", [flat(RED)] * 9, pts=[k * 60 for k in range(9)])
    rows = [f"{2.0 * k},a,1,1,30,30" for k in range(9)]
    (tmp_path / "p.csv").write_text("\n".join(["time_s,id,x_min,y_min,x_max,y_max", *rows]))
    words = ("nobody was in", "there are breaks (gap: ", "images, and each person's boxes, are at most 0.5 s")
    fails("video", slow, "-b", colours.path, "--people", tmp_path / "p.csv", words=words)


def test_stamps_that_go_back_are_told_as_breaks(
    colours: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    stamps = [k % 18 * NS // 30 for k in range(90)]
    monkeypatch.setattr(commands, "read_video", lambda _: iter([(frame, stamp) for stamp in stamps]))
    fails("video", tmp_path / "x.mp4", "-b", colours.path, words=("breaks (backward: 4)", "in order"))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("²", "²: no such video file"),
        ("99999999999999999999", "camera 99999999999999999999 cannot be opened"),
        ("http://host/x.mp4", "http://host/x.mp4: URLs are not read"),
    ],
)
def test_a_source_that_is_none_is_one_line(colours: LoadedBundle, source: str, word: str) -> None:
    fails("video", source, "-b", colours.path, words=(word,))


def test_ids_of_a_table_reach_the_terminal_without_control_characters(
    clip: Path, colours: LoadedBundle
) -> None:
    code, out, _ = run("video", clip, "-b", colours.path, "--people", clip.with_name("people.csv"))
    assert code == 0 and "a%09b%1B[31m: red" in out and not set("\t\x1b") & set(out)
    assert out.splitlines()[-2].startswith("a%09b%1B[31m: red")


@pytest.mark.parametrize(("given", "used"), [(None, None), (1, 1), (3, 3), (2000, 3)])
def test_more_threads_than_cores_are_not_used(
    given: int | None, used: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_build.command.os.cpu_count", lambda: 3)
    app = command_line(None)
    seen: list[int | None] = []

    @app.command("one")
    def one(threads: Threads = None) -> None:
        seen.append(threads)

    @app.command("two")
    def two() -> None:
        raise typer.Exit(1)

    result = call(app, "one", *(() if given is None else ("--threads", given)))
    assert result.exit_code == 0 and seen == [used]
    assert call(app, "one", "--threads", 0).exit_code == 2


def test_what_a_break_ends_is_said_and_nothing_of_before_is_shown_behind_it(
    colours: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty red pictures, a gap of three seconds, then green ones, too few for a window."""
    times = [*range(0, 40, 2), *range(130, 142, 2)]
    images = [flat(RED)] * 20 + [flat((5, 210, 30))] * 6
    clip = write_clip(tmp_path / "gap.mp4", images, pts=times)
    shown = []
    real = watchers.draw
    monkeypatch.setattr(
        watchers,
        "draw",
        lambda image, result, **more: shown.append((result, more)) or real(image, result, **more),
    )
    code, out, _ = run("video", clip, "-b", colours.path, "--out", tmp_path / "o.mp4", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    ended = [row for row in rows if row["type"] == "event"]
    assert code == 0 and [(e["kind"], e["label"]) for e in ended] == [("offset", "red")]
    last = [row for row in rows if row["type"] == "activity"][-1]
    assert ended[0]["s"] == last["end_s"] and "person" not in ended[0]
    assert [result is None for result, _ in shown[-6:]] == [True] * 6
    assert all(more["warmup"][0] < more["warmup"][1] for _, more in shown[-6:])


def test_an_id_that_lies_on_somebody_else_is_not_shown_with_what_was_said_before(
    colours: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.full((120, 320, 3), RED, np.uint8)
    image[:, 160:] = (5, 210, 30)
    clip = write_clip(tmp_path / "two.mp4", [image] * 60, fps=15)
    left, right = Box(20, 20, 80, 100), Box(240, 20, 300, 100)
    found = [Detections(i * NS // 15, (Detection("7", left if i < 30 else right),)) for i in range(60)]
    write_csv(tmp_path / "people.csv", found)
    shown = []
    monkeypatch.setattr(watchers, "draw_people", lambda image, people: shown.append(people) or image)
    code, _, _ = run(
        "video", clip, "-b", colours.path, "--people", tmp_path / "people.csv", "--out", tmp_path / "o.mp4"
    )
    labels = [[(p.activity.label, p.box.x_min > 160) for p in people] for people in shown]
    assert code == 0 and [("red", False)] in labels and [("green", True)] in labels
    assert all(what in ([], [("red", False)], [("green", True)]) for what in labels)


def test_events_of_frames_that_one_message_of_boxes_releases_come_in_their_order(
    colours: LoadedBundle, tmp_path: Path
) -> None:
    """Boxes come every second: the jump of an id lies among the frames that one of them makes known."""
    image = np.full((120, 320, 3), RED, np.uint8)
    image[:, 160:] = (5, 210, 30)
    clip = write_clip(tmp_path / "two.mp4", [image] * 75, fps=15)
    left, right = Box(20, 20, 80, 100), Box(240, 20, 300, 100)
    for every in range(8, 16):
        found = [
            Detections(i * NS // 15, (Detection("7", left if i < 30 else right),))
            for i in range(0, 75, every)
        ]
        write_csv(tmp_path / "people.csv", found)
        _, out, _ = run("video", clip, "-b", colours.path, "--people", tmp_path / "people.csv", "--json")
        events = []
        for row in map(json.loads, out.splitlines()):
            events += [row] if row["type"] == "event" else row.get("events", [])
        assert [e["kind"] for e in events] == ["onset", "offset"] * (len(events) // 2), (every, events)
        assert [e["s"] for e in events] == sorted(e["s"] for e in events)
