# SPDX-License-Identifier: Apache-2.0
"""Write-then-rename: whole or not at all, never through a link, and errors name the file that was asked for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.command_line import no_file_above
from trt_build import files
from trt_build.files import (
    demand_place,
    replacing,
    temporary_folder,
    write_atomically,
    write_out,
    writing_out,
)


def test_the_name_is_taken_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_text("old")
    with replacing(path, suffix=".npz", durable=True) as part:
        part.write_text("new")
        assert part.parent == tmp_path and part.name.startswith(".") and part.name.endswith(".part.npz")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_what_a_writer_gives_to_its_owner_alone_has_the_rights_of_any_new_file(
    tmp_path: Path, umask: int, rights: int
) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="pip install -e '.[train]'")
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.safetensors") as part:
            safetensors.save_file({"x": np.zeros(3)}, part)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == rights


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_bytes(tmp_path: Path) -> None:
    write_atomically(tmp_path / "text", "Größe\n")
    write_atomically(tmp_path / "bytes", memoryview(b"\0\1"), durable=True)
    assert (tmp_path / "text").read_bytes() == "Größe\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\0\1"


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "a.json"
    (tmp_path / f".a.json.{os.getpid()}.part").symlink_to(victim)
    write_atomically(path, "new")
    assert victim.read_text() == "mine"
    assert path.read_text() == "new" and not path.is_symlink()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["of Python", "of Rust"],
)
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, replacing(tmp_path / "a"):
        raise error
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path / "a")


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught, replacing(tmp_path / "a"):
        raise OSError(5, "Input/output error")
    assert caught.value.filename is None


@pytest.mark.parametrize("place", ["file/a.json", "missing/a.json", "folder"])
def test_errors_name_the_file_that_was_asked_for(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / place, "text")
    assert str(tmp_path / place) in str(caught.value)
    assert ".part" not in str(caught.value)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("place", ["new", "there", "a/b/new", "there.txt"])
def test_a_place_is_judged_before_anything_is_made_there(tmp_path: Path, place: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there.txt").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    demand_place(tmp_path / place)
    with no_file_above(1000), pytest.raises(OSError, match="File too large") as caught:
        demand_place(tmp_path / place)
    assert caught.value.filename == str(tmp_path / place)
    with pytest.raises(NotADirectoryError, match="below"):
        demand_place(tmp_path / "there.txt" / "below")
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.txt").read_text() == "old"


def test_without_room_for_temporary_files_their_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="where temporary files go") as caught, temporary_folder() as folder:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not folder.exists() and str(caught.value.filename).startswith(str(folder.parent))
    # Another place without room, and another error there, are what they are.
    for errno_, place in ((errno.ENOSPC, str(tmp_path)), (errno.EACCES, None)):
        with pytest.raises(OSError) as caught, temporary_folder():
            raise OSError(errno_, "why", place)
        assert caught.value.filename == place


def test_a_wait_for_a_lock_counts_its_seconds_and_ends_when_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, waited = [1000.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(files, "time", clock)

    def told(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            holder.close()  # as at the end of the process that held it
        if len(waited) == 7:
            raise KeyboardInterrupt

    holder = (tmp_path / ".lock").open("w")
    with (tmp_path / ".lock").open() as first, (tmp_path / ".lock").open() as second:
        files.lock(holder.fileno(), told, 0.25)
        assert waited == []
        files.lock(first.fileno(), told, 0.25)
        assert waited == [0, 0.25, 0.5]
        with pytest.raises(KeyboardInterrupt):
            files.lock(second.fileno(), told, 0.25)


def test_a_new_file_takes_no_others_place(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    with pytest.raises(FileExistsError) as caught:
        files.write_new(tmp_path / "there", b"other")
    assert caught.value.filename == str(tmp_path / "there") and (tmp_path / "there").read_bytes() == b"mine"


def test_a_pipe_gets_what_is_written_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        demand_place(pipe)
        write_out(pipe, "a report")
        assert os.read(reader, 100) == b"a report"
        with writing_out(pipe) as part:
            part.write_bytes(b"a picture")
        assert os.read(reader, 100) == b"a picture"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]
