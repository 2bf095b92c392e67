# SPDX-License-Identifier: Apache-2.0
"""The files of what was taught: read as written, whole after a kill, refused when changed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.recognition import taught_file
from gc_ros.recognition.space import LARGEST, Examples
from gc_ros.recognition.taught import Taught, sound_name
from gc_ros.recognition.taught_file import (
    NAME,
    folder_of,
    load_lessons,
    locked,
    read_taught,
    sweep,
    taught_digest,
    write_taught,
)
from tests.toy import toy_bundle
from trt_build.errors import DataError


def examples(n: int, seed: int = 0, F: int = 9) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(n, F)).astype(np.float32), np.sort(rng.integers(0, 3, n)))


def equal(a: Taught, b: Taught) -> bool:
    def same(x: Examples | None, y: Examples | None) -> bool:
        if x is None or y is None:
            return x is y
        return np.array_equal(x.features, y.features) and np.array_equal(x.clips, y.clips)

    return (
        a.model_id == b.model_id
        and list(a.activities) == list(b.activities)
        and all(same(a.activities[n], b.activities[n]) for n in a.activities)
        and same(a.none, b.none)
    )


def sound(name: str) -> bool:
    """Whether it is as teaching writes it."""
    try:
        return sound_name(name) == name
    except DataError:
        return False


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(sound),
        st.integers(1, 12),
        max_size=4,
    ),
    st.integers(0, 5),
)
def test_what_is_written_is_read(tmp_path_factory, activities, none):
    folder = tmp_path_factory.mktemp("taught")
    taught = Taught(
        "m",
        {name: examples(n, i) for i, (name, n) in enumerate(activities.items())},
        examples(none, 99) if none else None,
    )
    write_taught(folder, taught)
    assert equal(read_taught(folder, "m"), taught)
    assert len(list(folder.glob("*"))) == 2, "the file, and its arrays"


def test_a_folder_without_the_file_holds_nothing_and_lies_beside_the_bundle(tmp_path):
    assert read_taught(tmp_path / "none", "m").activities == {} and taught_digest(tmp_path / "none") == ""
    assert folder_of(tmp_path / "people") == tmp_path / "people.taught"
    assert folder_of(tmp_path / "people/") == tmp_path / "people.taught"


def written(folder: Path) -> Path:
    write_taught(folder, Taught("m", {"a": examples(4), "b": examples(5, 1)}, examples(3, 2)))
    return folder


def change(**values: object):
    def apply(folder: Path) -> None:
        file = json.loads((folder / NAME).read_text())
        (folder / NAME).write_text(json.dumps(file | values))

    return apply


def flip(folder: Path) -> None:
    path = next(folder.glob("examples-*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def link(folder: Path) -> None:
    path = next(folder.glob("examples-*"))
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "tamper",
    [
        change(model_id="other"),
        change(activities=[]),
        change(arrays="0" * 64),
        change(sha256="0" * 64),
        change(sha256=""),
        change(surprise=1),
        change(schema_version=2),
        flip,
        link,
        lambda folder: next(folder.glob("examples-*")).unlink(),
        lambda folder: (folder / NAME).write_text("{"),
        lambda folder: (folder / NAME).write_bytes(b"\xff\xfe"),
    ],
)
def test_a_changed_file_is_refused_in_one_line_with_a_remedy(tmp_path, tamper):
    folder = written(tmp_path / "t")
    tamper(folder)
    with pytest.raises(
        DataError, match=r"taught\.json was changed or is damaged .*remove it and teach again"
    ):
        read_taught(folder, "m")


@pytest.mark.parametrize(
    "names", [["a\nb\x1b[31m"], ["unknown"], ["none"], [" a"], ["a\u200b"], ["a", "\u00e9", "e\u0301"]]
)
def test_names_that_teaching_gives_nothing_are_refused_and_named(tmp_path, names):
    write_taught(tmp_path, Taught("m", {name: examples(4, i) for i, name in enumerate(names)}))
    with pytest.raises(DataError, match="was changed or is damaged") as caught:
        read_taught(tmp_path, "m")
    assert repr(names[-1]) in str(caught.value)


@pytest.mark.parametrize("value", [3e38, 1e20, 1.1e6, -1e20, np.nan, np.inf])
def test_features_that_no_network_gives_are_refused(tmp_path, value):
    shown = examples(4)
    shown.features[2, 3] = value
    write_taught(tmp_path, Taught("m", {"a": shown}))
    with pytest.raises(DataError, match=r"was changed or is damaged .*larger than a network gives"):
        read_taught(tmp_path, "m")


def test_the_largest_features_that_are_read_make_lessons(tmp_path):
    loaded = toy_bundle(tmp_path / "b", "colours", embedding=True)
    shown = examples(6)
    shown.features[:3] = LARGEST
    write_taught(tmp_path / "b.taught", Taught(loaded.info.model_id, {"yellow": shown}))
    assert load_lessons(loaded) is not None


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link"])
def test_a_file_that_is_none_is_said_with_a_remedy(tmp_path, kind):
    folder = written(tmp_path / "t")
    path = folder / NAME
    path.rename(folder / "real.json")
    make = {
        "folder": path.mkdir,
        "FIFO": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to("real.json"),
    }
    make[kind]()
    with pytest.raises(DataError, match=f"it is a {kind}, not a regular file; move it away, or name another"):
        read_taught(folder, "m")
    path.rename(tmp_path / "away")
    assert read_taught(folder, "m").activities == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_disk_without_room_is_said(tmp_path, monkeypatch, number):
    def full(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(taught_file, "write_atomically", full)
    with pytest.raises(DataError, match=r"cannot be kept .*there is no room for it: make room"):
        written(tmp_path)


def test_what_a_kill_left_of_what_was_forgotten_is_swept(tmp_path):
    folder = written(tmp_path / "t")
    (folder / "clips").mkdir()
    here = set(folder.rglob("*"))
    for name in (
        "examples-0123456789abcdef.safetensors",
        ".examples-0.safetensors.7.part",
        ".taught.json.7.part",
    ):
        (folder / name).write_bytes(b"of somebody")
    (folder / "clips" / "0123456789abcdef.mp4").write_bytes(b"somebody")
    (folder / "clips" / "mine.mp4").write_bytes(b"not ours")
    sweep(folder)
    assert set(folder.rglob("*")) == here | {folder / "clips" / "mine.mp4"}
    (folder / NAME).write_text("{")
    sweep(folder)
    assert list(folder.glob("examples-*")), "a damaged file does not say what is left over"


WRITER = """
import sys
from pathlib import Path
from gc_ros.recognition.taught import Taught
from gc_ros.recognition.taught_file import write_taught
from tests.gc_ros.recognition.test_taught_file import examples
print("ready", flush=True)
n = 0
while True:
    n += 1
    write_taught(Path(sys.argv[1]), Taught("m", {"n": examples(n % 100 + 1, n, 2000)}))
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_of_writing_leaves_a_whole_file(tmp_path):
    root = Path(__file__).parents[3]
    for i in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "t")],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        while not (tmp_path / "t" / NAME).exists():
            time.sleep(0.01)
        time.sleep(0.05 + 0.013 * i)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = read_taught(tmp_path / "t", "m")
        assert list(found.activities) == ["n"]
    write_taught(tmp_path / "t", found.taught("after", examples(3, F=2000)))
    assert list(read_taught(tmp_path / "t", "m").activities) == ["n", "after"]


def test_who_reads_while_somebody_teaches_reads_what_is_taught_then(tmp_path, monkeypatch):
    """Between its two files the old arrays go: that is no damage, and nothing to be removed."""
    write_taught(tmp_path, Taught("m", {"before": examples(2, 1)}))
    read = taught_file.read_regular

    def read_and_teach(folder, name, most):
        content = read(folder, name, most)
        if name == taught_file.NAME and "before" in str(content):
            write_taught(tmp_path, Taught("m", {"after": examples(3, 2)}))
        return content

    monkeypatch.setattr(taught_file, "read_regular", read_and_teach)
    assert list(read_taught(tmp_path, "m").activities) == ["after"]


def test_arrays_that_are_gone_are_told(tmp_path):
    write_taught(tmp_path, Taught("m", {"n": examples(2, 1)}))
    (arrays,) = tmp_path.glob("examples-*")
    arrays.unlink()
    with pytest.raises(DataError, match="was changed or is damaged"):
        read_taught(tmp_path, "m")


def test_two_writers_wait_for_each_other(tmp_path):
    held = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from gc_ros.recognition.taught_file import locked\n"
            "with locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(0.5)",
            str(tmp_path),
        ],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
    )
    assert held.stdout is not None and held.stdout.readline() == b"in\n"
    began = time.monotonic()
    with locked(tmp_path):
        assert time.monotonic() - began > 0.2
    held.wait()


def test_who_waits_too_long_for_another_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(taught_file, "PATIENCE_S", 0.2)
    with locked(tmp_path):
        began = time.monotonic()
        with (
            pytest.raises(DataError, match=r"another process has been changing it for 0\.2 s; end that"),
            locked(tmp_path),
        ):
            pass
        assert 0.2 <= time.monotonic() - began < 5
    with locked(tmp_path):
        pass


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(DataError, match="cannot be locked"), locked(tmp_path):
        pass


def test_what_was_taught_is_loaded_from_beside_the_bundle_or_from_where_it_is_named(tmp_path):
    loaded = toy_bundle(tmp_path / "b", "colours", embedding=True)
    assert load_lessons(loaded) is None
    for file in (tmp_path / "taught.json", tmp_path / "one.mp4"):
        file.touch()
        with pytest.raises(DataError, match=r"is a file; name the folder that gc-ros teach wrote"):
            read_taught(file, "model")
        file.unlink()
    with pytest.raises(DataError, match=r"holds no taught\.json"):
        load_lessons(loaded, str(tmp_path / "other"))
    taught = Taught(loaded.info.model_id, {"yellow": examples(6)})
    write_taught(tmp_path / "b.taught", taught)
    lessons = load_lessons(loaded)
    assert lessons is not None and lessons.labels == ["red", "green", "blue", "yellow"]
    assert load_lessons(loaded, "none") is None
    # Another bundle under the same name: what it was not taught is not applied to it.
    exchanged = toy_bundle(tmp_path / "b", "colours", embedding=True, model_id="another")
    with pytest.raises(DataError, match="taught to toy-colours, but the bundle is another"):
        load_lessons(exchanged)
