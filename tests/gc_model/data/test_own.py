# SPDX-License-Identifier: Apache-2.0
"""One's own clips: folders, tables, filters, what is refused; the validation split."""

import csv
from pathlib import Path

import pytest

from gc_model.data import own
from gc_model.data.clip import LabelledClip, as_idle, labels_of, spelled_as, split_validation
from tests.gc_model.runs import coloured, colours
from tests.videos import write_clip
from trt_build.errors import DataError
from trt_build.labels import IDLE_LABELS


def table(folder: Path, rows: list[list[str]]) -> Path:
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "clips.csv"


def test_the_first_folder_below_the_root_is_the_class_and_other_files_are_not_clips(tmp_path):
    for name in ("wave/b.MP4", "wave/a.avi", "clap/c.mov", "clap/notes.txt", "d.mp4", "wave/deep/e.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = own.clips(tmp_path)
    assert [(c.name, c.label) for c in found] == [
        ("clap/c.mov", "clap"),
        ("wave/a.avi", "wave"),
        ("wave/b.MP4", "wave"),
        ("wave/deep/e.mp4", "wave"),
    ]
    assert labels_of(found) == ["clap", "wave"]


def test_a_csv_gives_classes_and_subjects_by_itself_or_from_its_folder():
    by_folder, by_file = own.clips(colours()), own.clips(colours() / "clips.csv")
    assert by_folder == by_file and len(by_folder) == 12
    assert {c.subject for c in by_file} == {"a", "b"} and all(c.path.is_file() for c in by_file)


def test_a_csv_with_a_byte_order_mark_and_more_columns_is_read(tmp_path):
    (tmp_path / "x.mp4").touch()
    (tmp_path / "clips.csv").write_text("\ufeffpath,class,fps,note\nx.mp4,wave,30,\n", encoding="utf-8")
    assert own.clips(tmp_path)[0].label == "wave"


def test_filters_choose_subjects_and_classes():
    chosen = own.clips(colours(), subjects=["b"], classes=["red", "blue"])
    assert {(c.subject, c.label) for c in chosen} == {("b", "red"), ("b", "blue")} and len(chosen) == 4


@pytest.mark.parametrize(
    "filters, words",
    [({"subjects": ["a", "zoe"]}, ["subject", "zoe", "a, b"]), ({"classes": ["pink"]}, ["pink", "red"])],
)
def test_an_unknown_subject_or_class_is_named_beside_those_there_are(filters, words):
    with pytest.raises(DataError) as error:
        own.clips(colours(), **filters)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "rows, words",
    [
        ([["path", "class"], ["gone.mp4", "wave"], ["x.mp4", "wave"]], ["gone.mp4", "1 of 2"]),
        ([["file", "label"], ["x.mp4", "wave"]], ["path", "class", "file, label"]),
        ([["path", "class"], ["x.mp4", ""]], ["row 1", "class"]),
        ([["path", "class"], ["x.mp4"]], ["row 1"]),
        ([["path", "class"], ["x.mp4", "wave"], ["x.mp4", "clap"]], ["x.mp4", "once"]),
        ([["path", "class"]], ["no clips"]),
        ([], ["path", "class"]),
    ],
)
def test_a_csv_that_is_wrong_is_one_line_that_says_where(tmp_path, rows, words):
    (tmp_path / "x.mp4").touch()
    with pytest.raises(DataError) as error:
        own.clips(table(tmp_path, rows))
    assert all(word in str(error.value) for word in words)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        own.clips(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no clips"):
        own.clips(tmp_path)
    with pytest.raises(DataError, match="CSV"):
        own.clips(write_clip(tmp_path / "one.mp4", coloured(0, (1, 2, 3), 2)))


def test_the_validation_split_depends_on_names_alone_and_never_moves():
    def clip(name: str, folder: str = "/data") -> LabelledClip:
        return LabelledClip(Path(folder) / name, name, "wave")

    many = [clip(f"wave/{i:04d}.mp4") for i in range(2000)]
    training, validation = split_validation(many, 0.05)
    assert len(training) + len(validation) == 2000 and 60 < len(validation) < 140
    _, elsewhere = split_validation([clip(c.name, "/elsewhere") for c in reversed(many[:500])], 0.05)
    assert {c.name for c in elsewhere} == {c.name for c in validation} & {c.name for c in many[:500]}
    # Written down: another hash would move clips between training and validation of runs that exist.
    assert [c.name for c in validation[:3]] == ["wave/0000.mp4", "wave/0041.mp4", "wave/0046.mp4"]
    assert split_validation(many, 0.0) == (many, [])


def test_clips_of_two_tables_of_one_name_are_told_apart(tmp_path):
    for folder in "abc":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mp4").write_bytes(folder.encode())
        table(tmp_path / folder, [["path", "class"], ["x.mp4", "wave"]])
    tables = [tmp_path / "a/clips.csv", tmp_path / "b", tmp_path / "c/clips.csv"]
    found = own.all_mixed_in(tables)
    assert [[clip.name for clip in of] for of in found] == [["clips/x.mp4"], ["b/x.mp4"], ["clips_2/x.mp4"]]


def test_what_the_finder_passed_over_reaches_the_caller_and_the_log(tmp_path, caplog):
    for name in ("wave/a.mp4", "clap/b.mp4", "clap/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes").mkdir()
    found = own.clips(tmp_path)
    assert found.without == ["notes"] and [p.path.name for p in found.passed_over] == ["b.txt"]
    assert f"passed over, not a video: {tmp_path}/clap/b.txt" in caplog.text


def test_clips_take_the_spelling_of_the_labels_of_a_run_even_if_that_is_decomposed():
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    found = [LabelledClip(Path("a.mp4"), "a", composed), LabelledClip(Path("b.mp4"), "b", "tea")]
    assert [c.label for c in spelled_as(found, ["wave", decomposed])] == [decomposed, "tea"]
    assert [c.label for c in spelled_as(found, [decomposed, composed])] == [composed, "tea"]


def test_what_counts_as_idle_joins_the_class_of_idle_that_is_there(tmp_path):
    def clips_of(*labels: str) -> list[LabelledClip]:
        return [LabelledClip(tmp_path, f"{k}", label) for k, label in enumerate(labels)]

    for there, expected in (
        (["wave", "stand"], IDLE_LABELS[0]),
        (["wave", "stand", IDLE_LABELS[-1]], IDLE_LABELS[-1]),
    ):
        found = [c.label for c in as_idle(clips_of(*there), ["stand"])]
        assert found == ["wave", expected, *there[2:]]
    assert len(IDLE_LABELS) > 1
