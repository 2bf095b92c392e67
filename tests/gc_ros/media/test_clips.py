# SPDX-License-Identifier: Apache-2.0
"""The finder of clips: every command sees the same ones, each once, and what is passed over is counted."""

from __future__ import annotations

import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_model.data import own
from gc_ros.evaluation.sources import find_sources
from gc_ros.media import kinds
from gc_ros.media.clips import Clip, check_classes, find_clips, find_recordings
from gc_ros.media.kinds import VIDEO_SUFFIXES, clean
from gc_ros.media.tables import times_of
from trt_build.errors import DataError


def tree(root: Path, *names: str) -> Path:
    """Files with their names as content; `a -> b` is a link a with the target b."""
    for name in names:
        path, _, target = name.partition(" -> ")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (root / path).symlink_to(target)
        else:
            (root / path).write_text(name)
    return root


def facts(clips: list[Clip]) -> list[tuple[str, str, str]]:
    return sorted((clip.name, clip.label, clip.subject) for clip in clips)


def named(clips: list[Clip]) -> list[tuple[str, str]]:
    return [(clip.name, clip.label) for clip in clips]


def reasons(clips: object) -> list[tuple[str, str]]:
    return sorted((item.path.name, item.why) for item in clips.passed_over)  # type: ignore[attr-defined]


def test_what_lies_in_the_tree_keeps_its_name_beside_links_to_it(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "data/wave/a.mp4",
        "data/a_link -> wave",
        "data/b -> wave",
        "data/drink/x.mp4 -> ../wave/a.mp4",
    )
    tree(tmp_path, "data/drink/b.avi")
    found = find_clips([tmp_path / "data"])
    assert named(found) == [("drink/b.avi", "drink"), ("wave/a.mp4", "wave")]
    assert reasons(found) == [
        ("a_link", "a link to what is found already"),
        ("b", "a link to what is found already"),
        ("x.mp4", "found already"),
    ]


def test_links_out_of_the_tree_are_followed_once_under_their_own_names(tmp_path: Path) -> None:
    tree(tmp_path, "store/c3/a.mp4", "store/c3/deep/b.mp4", "store/single.mp4")
    tree(
        tmp_path,
        "data/wave -> ../store/c3",
        "data/winken -> ../store/c3",
        "data/drink/s.mp4 -> ../../store/single.mp4",
    )
    found = find_clips([tmp_path / "data"])
    assert named(found) == [("drink/s.mp4", "drink"), ("wave/a.mp4", "wave"), ("wave/deep/b.mp4", "wave")]
    assert reasons(found) == [("winken", "a link to what is found already")]


def test_loops_and_links_to_nothing_end(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "up/data/wave/a.mp4",
        "up/other/wave/b.mp4",
        "up/data/wave/root -> ../..",
        "up/data/wave/all -> /",
    )
    tree(tmp_path, "up/data/one -> two", "up/data/two -> one", "up/data/gone -> nowhere", "up/data/self -> .")
    found = find_clips([tmp_path / "up/data"])
    assert named(found) == [("wave/a.mp4", "wave")]
    assert {name for name, _ in reasons(found)} == {"root", "all", "one", "two", "gone", "self"}


def test_hidden_files_system_folders_and_other_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "wave/a.MP4",
        "wave/._a.MP4",
        "wave/.hidden/b.mp4",
        "__MACOSX/wave/a.mp4",
        "@eaDir/a.mp4/x.mp4",
    )
    tree(
        tmp_path,
        "$RECYCLE.BIN/c.mp4",
        "wave/notes.txt",
        "wave/Thumbs.db",
        "drink/b.webm",
        "README.md",
        "clips.truth.csv",
    )
    found = find_clips([tmp_path])
    assert named(found) == [("drink/b.webm", "drink"), ("wave/a.MP4", "wave")]
    lines = found.remarks()
    assert any(line.startswith("passed over, hidden: ") and line.endswith(" and 5 more") for line in lines)
    assert f"passed over, not a video: {tmp_path}/wave/notes.txt" in lines and len(lines) == 2


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    tree(tmp_path, "wave/a.mp4")
    os.mkfifo(tmp_path / "wave/b.mp4")
    os.mkfifo(tmp_path / "wave/c.mcap")
    found = find_recordings([tmp_path])
    assert named(found) == [("wave/a.mp4", "wave")]
    assert reasons(found) == [("b.mp4", "not a regular file"), ("c.mcap", "not a regular file")]
    with pytest.raises(DataError, match="not a regular file"):
        find_clips([tmp_path / "wave/b.mp4"])
    (tmp_path / "t.csv").write_text("path,class\nwave/b.mp4,wave\n")
    with pytest.raises(DataError, match="not a regular file"):
        find_clips([tmp_path / "t.csv"])


def test_every_suffix_of_a_video_is_found_in_any_case(tmp_path: Path) -> None:
    for i, suffix in enumerate(sorted(VIDEO_SUFFIXES)):
        tree(tmp_path, f"wave/{i}{suffix}", f"drink/{i}{suffix.upper()}")
    assert len(find_clips([tmp_path])) == 2 * len(VIDEO_SUFFIXES)


def test_the_suffixes_of_containers_with_pictures_that_pyav_writes_are_among_them() -> None:
    av = pytest.importorskip("av")
    names = "mp4 mov 3gp 3g2 avi matroska webm mpegts flv asf ogv gif mxf vob dv nut yuv4mpegpipe mjpeg h264 hevc mpeg"
    still = {
        ".wma",
        ".ogg",
        ".m4a",
        ".m4b",
        ".isma",
        ".avif",
        ".heic",
        ".heif",
        ".mka",
        ".mks",
        ".j2k",
        ".mpo",
    }
    for name in [*names.split(), "f4v", "ismv", "ivf", "swf", "dvd", "svcd"]:
        found = {f".{suffix}" for suffix in av.ContainerFormat(name, "w").extensions} - still
        assert found <= VIDEO_SUFFIXES, (name, found - VIDEO_SUFFIXES)


def test_names_and_labels_meet_in_nfc_whatever_the_disk_says(tmp_path: Path) -> None:
    tree(tmp_path, "o\u0308ffnen /a\u0308.mp4", "wave/b.mp4")
    found = find_clips([tmp_path])
    assert named(found) == [("wave/b.mp4", "wave"), ("öffnen /ä.mp4", "öffnen")]
    assert all(clip.path.is_file() for clip in found)
    (tmp_path / "t.csv").write_text(
        "path,class\nöffnen/ä.mp4,o\u0308ffnen\nwave/b.mp4, wave\n", encoding="utf-8"
    )
    assert sorted(clip.label for clip in find_clips([tmp_path / "t.csv"])) == ["wave", "öffnen"]
    assert clean(" \ufeffo\u0308\tx\u00a0") == "ö x"


def test_the_same_name_in_two_forms_is_two_names(tmp_path: Path) -> None:
    tree(tmp_path, "a/ö.mp4", "a/o\u0308.mp4", "a/ö~2.mp4")
    names = [clip.name for clip in find_clips([tmp_path])]
    assert len(set(names)) == 3 and {"a/ö.mp4", "a/ö~2.mp4", "a/ö~3.mp4"} == set(names)


def test_names_that_are_not_utf_8_are_found_and_can_be_printed(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"\xff.mp4"), "wb"):
        pass
    (clip,) = find_clips([tmp_path])
    assert (clip.name, clip.label) == ("caf%E9/%FF.mp4", "caf%E9") and clip.path.is_file()
    clip.name.encode()


def test_files_that_cannot_be_reached_are_named_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "wave/a.mp4", "drink/b.mp4", "locked/c.mp4")
    found, stat = os.scandir, os.stat

    def refuse(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def refusing(path: Any, *arguments: Any, **options: Any) -> Any:
            if Path(path).name == name:  # what others than root get
                raise PermissionError(13, "Permission denied")
            return call(path, *arguments, **options)

        return refusing

    monkeypatch.setattr(os, "scandir", refuse(found, "locked"))
    monkeypatch.setattr(os, "stat", refuse(stat, "b.mp4"))
    clips = find_recordings([tmp_path])
    monkeypatch.undo()
    assert named(clips) == [("wave/a.mp4", "wave")]
    assert reasons(clips) == [(name, "cannot be read (Permission denied)") for name in ("b.mp4", "locked")]


def test_what_our_own_commands_wrote_is_neither_clip_nor_recording(tmp_path: Path) -> None:
    tree(tmp_path, "wave/a.mp4", "drink/b.mp4", "evaluation/summary.json", "evaluation/windows.jsonl")
    tree(
        tmp_path,
        "evaluation/bags/wave/a.mp4/predictions.mcap",
        "run/options.json",
        "run/clips.json",
        "run/x.mp4",
    )
    tree(tmp_path, "one/bag.json", "one/windows.jsonl", "one/predictions.mcap")
    found = find_recordings([tmp_path])
    assert named(found) == [("drink/b.mp4", "drink"), ("wave/a.mp4", "wave")] and found.without == []
    assert reasons(found) == [
        ("evaluation", "results of gc-ros evaluate"),
        ("one", "results of gc-ros evaluate"),
        ("run", "a run of gc-model train"),
    ]


def test_control_characters_in_names_reach_no_terminal(tmp_path: Path) -> None:
    tree(tmp_path, "wa\x1b[2Jve/a\n.mp4", "drink/b\t.txt", "drink/b.mp4")
    found = find_clips([tmp_path])
    assert named(found) == [("drink/b.mp4", "drink"), ("wa%1B[2Jve/a%0A.mp4", "wa [2Jve")]
    assert found.remarks() == [f"passed over, not a video: {tmp_path}/drink/b%09.txt"]
    with pytest.raises(DataError) as caught:
        find_clips([tmp_path / "\x1b[31mnone"])
    assert "\x1b" not in str(caught.value) and "\\x1b[31mnone" in str(caught.value)


def test_loose_videos_beside_class_folders_have_no_class_and_recordings_keep_them(tmp_path: Path) -> None:
    tree(tmp_path, "wave/a.mp4", "drink/b.mp4", "loose.mp4")
    assert [name for name, _ in named(find_clips([tmp_path]))] == ["drink/b.mp4", "wave/a.mp4"]
    assert "no class" in find_clips([tmp_path]).remarks()[0]
    assert ("loose.mp4", "") in named(find_recordings([tmp_path]))
    assert named(find_clips([tmp_path / "wave"])) == [("a.mp4", "wave")]


def test_a_single_class_and_a_class_without_a_clip_are_refused_for_training(tmp_path: Path) -> None:
    tree(tmp_path, "wave/a.mp4", "drink/readme.txt")
    with pytest.raises(DataError, match="no clip that can be used in drink"):
        check_classes(find_clips([tmp_path]), tmp_path)
    shutil.rmtree(tmp_path / "drink")
    with pytest.raises(DataError, match='all 1 clips are of class "wave"'):
        check_classes(find_clips([tmp_path]), tmp_path)
    tree(tmp_path, "drink/b.mp4", "joints/wave/a.joints.csv")
    check_classes(find_clips([tmp_path]), tmp_path)


TABLE = "path,class,subject\na.mp4,wave,p1\nb.mp4,drink,p2\n"
READ = [("a.mp4", "wave", "p1"), ("b.mp4", "drink", "p2")]


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.replace(",", ";").encode(),
        TABLE.replace(",", "\t").encode(),
        TABLE.replace("\n", "\r\n").encode("utf-8-sig"),
        TABLE.replace("\n", "\r").encode(),
        TABLE.replace(",", "\t").encode("utf-16"),
        TABLE.replace(",", " , ").encode(),
        b"\n \r\n" + TABLE.encode() + b"\n,,\n , \n\n",
        b"sep=;\r\n" + TABLE.replace(",", ";").encode(),
        b'"path";"class";"subject"\n"a.mp4";"wave";"p1"\n"b.mp4"; "drink"; "p2"\n',
        b"Class,PATH,Subject,Note\nwave,a.mp4,p1,\ndrink,./b.mp4,p2,x\n",
    ],
)
def test_tables_are_read_as_people_and_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    tree(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "t.csv").write_bytes(content)
    assert facts(find_clips([tmp_path / "t.csv"])) == facts(find_sources([tmp_path / "t.csv"])) == READ


def test_paths_with_commas_quotes_and_line_ends_in_quotes_are_read(tmp_path: Path) -> None:
    tree(tmp_path, "a, b.mp4", 'c "d".mp4')
    (tmp_path / "t.csv").write_text('path,class\n"a, b.mp4","wave"\n"c ""d"".mp4","two\nlines"\n')
    assert named(find_clips([tmp_path / "t.csv"])) == [("a, b.mp4", "wave"), ('c "d".mp4', "two lines")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.mp4,wave\n../data/a.mp4,drink", ("a.mp4", "more than once")),
        ("a.mp4,wave\nlink.mp4,wave", ("link.mp4", "more than once", "also as a.mp4")),
        ("a.mp4,wave\nsub/../a.mp4,wave", ("more than once",)),
        ("C:\\clips\\a.mp4,wave", ("row 1", "written with /")),
        ("a.mp4,wave\n\ngone.mp4,drink", ("gone.mp4", "1 of 2")),
        ("a.mp4,wave\nsub,drink", ("row 2", "sub is a folder")),
        ("a.mp4,\ufeff ", ("row 1", "lacks")),
    ],
)
def test_a_table_that_is_wrong_says_where(tmp_path: Path, rows: str, words: tuple[str, ...]) -> None:
    data = tree(tmp_path / "data", "a.mp4", "link.mp4 -> a.mp4", "sub/x.mp4")
    (data / "t.csv").write_text("path,class\n" + rows + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        find_clips([data / "t.csv"])
    assert all(word in str(caught.value) for word in words), caught.value


def test_two_columns_of_a_name_that_is_needed_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.mp4")
    (tmp_path / "t.csv").write_text("path,class,note,Class,note\na.mp4,wave,x,drink,y\n")
    with pytest.raises(DataError, match="two columns class; remove or rename"):
        find_clips([tmp_path / "t.csv"])
    (tmp_path / "t.csv").write_text("path,class,note,note\na.mp4,wave,x,y\n")
    assert named(find_clips([tmp_path / "t.csv"])) == [("a.mp4", "wave")]


def test_names_of_a_table_stay_below_any_folder_and_are_distinct(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "wave/a.mp4")
    tree(tmp_path, "x/wave/a.mp4", "y/wave/a.mp4", "b.mp4")
    rows = [
        "wave/a.mp4",
        "../x/wave/a.mp4",
        str(tmp_path / "y/wave/a.mp4"),
        str(data / "../b.mp4"),
        "../../" * 30 + "b.mp4",
    ]
    rows[-1] = os.path.relpath(tmp_path / "x/wave/../wave/a.mp4", data)
    (data / "t.csv").write_text("path,class\n" + "".join(f"{row},wave\n" for row in rows[:-1]))
    names = [clip.name for clip in find_clips([data / "t.csv"])]
    assert names[:3] == ["wave/a.mp4", "wave/a~2.mp4", "wave/a~3.mp4"] and len(set(names)) == 4
    for name in names:
        assert not Path(name).is_absolute() and ".." not in Path(name).parts


def test_a_name_does_not_change_with_what_comes_after_nor_collide_with_one_that_looks_like_it(
    tmp_path: Path,
) -> None:
    tree(tmp_path, "x/bag.mcap", "y/bag.mcap", "z/bag~2.mcap")
    x, y, z = (tmp_path / name for name in ("x/bag.mcap", "y/bag.mcap", "z/bag~2.mcap"))
    assert [s.name for s in find_sources([x])] == ["bag.mcap"]
    assert [s.name for s in find_sources([x, y])] == ["bag.mcap", "bag~2.mcap"]
    assert [s.name for s in find_sources([x, y, z])] == ["bag.mcap", "bag~3.mcap", "bag~2.mcap"]
    assert [s.name for s in find_sources([x, x, tmp_path / "x"][:2])] == ["bag.mcap"]


def test_a_folder_with_a_table_is_that_table_and_says_what_it_lacks(tmp_path: Path) -> None:
    tree(tmp_path, "wave/a.mp4", "wave/b.mp4", "rec/r.mcap")
    (tmp_path / "clips.csv").write_text("path,class,subject\nwave/b.mp4,winken,p1\n")
    assert facts(find_clips([tmp_path])) == [("wave/b.mp4", "winken", "p1")] == facts(own.clips(tmp_path))
    assert ("a.mp4", "not in clips.csv") in reasons(find_clips([tmp_path]))
    assert [name for name, _ in named(find_recordings([tmp_path]))] == ["wave/b.mp4", "rec/r.mcap"]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["d/wave_1.mcap", "d/drink_1.mcap"], ["d/drink_1.mcap", "d/wave_1.mcap"]),
        (["d/r_0.mcap", "d/r_1.mcap", "d/r_10.mcap"], ["d"]),
        (["d/r_0.db3", "d/r_1.db3", "d/other.mcap"], ["d/other.mcap", "d/r_0.db3"]),
        (["d/a_0.mcap", "d/a_1.mcap", "d/b_0.mcap", "d/b_1.mcap"], ["d/a_0.mcap", "d/b_0.mcap"]),
        (["d/d_0.mcap"], ["d"]),
        (["d/one.MCAP"], ["d/one.MCAP"]),
        (["d/one.db3", "d/one.db3.zstd"], ["d/one.db3"]),
        (["d/metadata.yaml", "d/x.db3"], ["d"]),
        (["d/a_0.bag", "d/a_1.bag"], ["d/a_0.bag", "d/a_1.bag"]),
        (["d/r_0.mcap", "d/r_1.mcap", "d/preview.mp4"], ["d/preview.mp4", "d/r_0.mcap"]),
    ],
)
def test_what_is_one_bag(tmp_path: Path, files: list[str], names: list[str]) -> None:
    assert [clip.name for clip in find_recordings([tree(tmp_path, *files)])] == names


def test_pieces_of_a_bag_beside_others_are_read_together(tmp_path: Path) -> None:
    tree(tmp_path, "d/r_0.db3", "d/r_1.db3", "d/other.mcap")
    (bag,) = (clip for clip in find_recordings([tmp_path]) if clip.pieces)
    assert [piece.name for piece in bag.pieces] == ["r_0.db3", "r_1.db3"]


def test_pieces_are_in_the_order_of_their_numbers_and_only_where_there_is_a_first(tmp_path: Path) -> None:
    names = [f"r_{number}.mcap" for number in range(12)]
    assert kinds.split_pieces(sorted(names)) == {"r": names}
    assert kinds.split_pieces(["walk_1.mcap", "walk_2.mcap"]) == {
        "walk_1": ["walk_1.mcap"], "walk_2": ["walk_2.mcap"],
    }  # fmt: skip
    same = kinds.split_pieces(["r.db3", "r.mcap", "r_0.mcap", "r_1.mcap"])
    assert sorted(same.values()) == [["r.db3"], ["r.mcap"], ["r_0.mcap", "r_1.mcap"]], "none hides another"
    # Without metadata.yaml a bag is read as one in this order, too.
    tree(tmp_path, *(f"d/{name}" for name in names), "d/other.mcap")
    (bag,) = (clip for clip in find_recordings([tmp_path]) if clip.pieces)
    assert [piece.name for piece in bag.pieces] == names


def test_a_folder_is_a_bag_by_the_name_of_its_only_recording_and_not_by_any_metadata(tmp_path: Path) -> None:
    tree(tmp_path, "Walk/walk_0.mcap", "photos/metadata.yaml", "photos/a.mp4")
    names = [clip.name for clip in find_recordings([tmp_path])]
    assert names == ["Walk", "photos/a.mp4"]


def test_hard_links_are_clips_of_their_own_and_the_metadata_means_its_bag(tmp_path: Path) -> None:
    tree(tmp_path, "wave/a.mp4", "bag/metadata.yaml", "bag/x.mcap")
    (tmp_path / "drink").mkdir()
    os.link(tmp_path / "wave/a.mp4", tmp_path / "drink/a.mp4")
    assert [clip.name for clip in find_clips([tmp_path])] == ["drink/a.mp4", "wave/a.mp4"]
    (bag,) = find_recordings([tmp_path / "bag/metadata.yaml"])
    assert bag.path == tmp_path / "bag" and bag.is_bag


def test_a_table_in_either_order_of_utf_16_is_read(tmp_path: Path) -> None:
    tree(tmp_path, "a.mp4")
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "t.csv").write_bytes("\ufeffpath;class\na.mp4;\u00f6ffnen\n".encode(encoding))
        assert [clip.label for clip in find_clips([tmp_path / "t.csv"])] == ["\u00f6ffnen"]


def test_times_may_be_of_one_moment_and_lie_before_the_first_image_but_within_reason() -> None:
    def times(start: str, end: str) -> tuple[Decimal, Decimal]:
        return times_of(Path("t.csv"), 1, {"start_s": start, "end_s": end}, 100)

    assert times("2,5", "2.5") == (Decimal("2.5"), Decimal("2.5")) and times("-1", "0") == (-1, 0)
    for start, end in (("-101", "0"), ("0", "101"), ("2", "1"), ("", "1"), ("nan", "1"), ("0", "inf")):
        with pytest.raises(DataError, match=r"t\.csv: row 1: "):
            times(start, end)


_NAMES = st.sampled_from(["wave", "drink", "öffnen", "o\u0308ffnen", "a.mp4", "b.AVI", "c.mts", "x ", ".hid", "._a.mp4",
                          "__MACOSX", "notes.txt", "r_0.mcap", "metadata.yaml", "lost+found"])  # fmt: skip
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_LINKS = st.tuples(_PATHS, st.one_of(_PATHS, st.sampled_from(["", ".", "..", "nowhere"])))


@settings(max_examples=200)
@given(files=st.lists(_PATHS, max_size=8), links=st.lists(_LINKS, max_size=4))
def test_of_any_tree_all_commands_see_the_same_clips_each_once(
    files: list[str], links: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        root.mkdir()
        for name in files:
            try:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(b"")
            except OSError:
                continue  # a file where another name has a folder
        for name, target in links:
            try:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).symlink_to(root / target)
            except OSError:
                continue
        try:
            recordings = find_recordings([root])
        except DataError:
            recordings = find_recordings([])
        try:
            clips = find_clips([root])
        except DataError:
            clips = find_clips([])
        videos = [clip for clip in recordings if not clip.is_bag and clip.label]
        assert facts(clips) == facts(videos)
        if clips:
            assert facts(clips) == facts(own.clips(root))
            assert facts(recordings) == facts(find_sources([root]))
        real = [os.path.realpath(clip.path) for clip in recordings]
        assert len(set(real)) == len(real) and len({clip.name for clip in recordings}) == len(recordings)
        for clip in recordings:
            assert clip.label == unicodedata.normalize("NFC", clip.label).strip()
            assert not any(part.startswith(".") or part == "__MACOSX" for part in clip.name.split("/"))
