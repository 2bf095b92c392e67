# SPDX-License-Identifier: Apache-2.0
"""Kept clips of what was shown: a table that is read before it is changed, and no picture that is left behind."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from gc_ros.media import video_writer
from gc_ros.media.video import read_video
from gc_ros.media.video_writer import VideoWriter
from gc_ros.recognition import kept_clips
from gc_ros.recognition.kept_clips import (
    TABLE,
    check_clips,
    clips_of,
    forget_clips,
    keep_clips,
    names_of_clips,
    rename_clips,
    sweep_clips,
)
from gc_ros.stamps import NS
from trt_build.bundle import Preprocess
from trt_build.errors import DataError
from trt_build.preprocess import model_input


def frames(value: int, n: int = 4) -> np.ndarray:
    return np.full((n, 32, 32, 3), value, np.uint8)


def files(taught: Path) -> list[str]:
    folder = clips_of(taught)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_clips_of_an_activity_are_kept_once_renamed_and_removed_with_it(tmp_path: Path) -> None:
    for _ in range(2):
        keep_clips(tmp_path, "bow", [frames(20), frames(200)], 8.0)
    keep_clips(tmp_path, "wave", [frames(90)], 8.0)
    assert len(files(tmp_path)) == 4
    rename_clips(tmp_path, "bow", "greet")
    forget_clips(tmp_path, "bow")
    assert len(files(tmp_path)) == 4
    forget_clips(tmp_path, "greet")
    assert len(files(tmp_path)) == 2
    forget_clips(tmp_path, "wave")
    assert not clips_of(tmp_path).exists()


@pytest.mark.parametrize(("size", "resize"), [(32, 40), (32, 36), (32, 32)])
def test_what_was_kept_is_seen_again_as_it_was_seen(tmp_path: Path, size: int, resize: int) -> None:
    """Prepared as any clip is: its middle is taken, and must not be the middle of the middle."""
    half = frames(30)
    half[:, :, size // 2 :] = 220
    half[:, :, :4] = half[:, :, -4:] = 120
    keep_clips(tmp_path, "bow", [half], 8.0, resize)
    (clip,) = clips_of(tmp_path).glob("*.mp4")
    for image, _ in read_video(clip):
        again = model_input(image, Preprocess(size=size, resize=resize), bgr=True)
        np.testing.assert_allclose(again.astype(int), half[0], atol=45)
        assert abs(again.astype(int) - half[0]).mean() < 6


def test_a_clip_plays_at_the_rate_of_its_frames_and_is_no_longer_than_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_clips, "MOST", 5)
    for _ in range(2):
        keep_clips(tmp_path, "bow", [frames(20, 9)], 4.0)
    (clip,) = clips_of(tmp_path).glob("*.mp4")
    stamps = [stamp for _, stamp in read_video(clip)]
    assert stamps == pytest.approx([i * NS / 4 for i in range(5)], abs=NS / 1000)
    assert (clips_of(tmp_path) / TABLE).read_text() == f"path,class\n{clip.name},bow\n", "one row a clip"


def test_a_table_that_names_a_file_elsewhere_removes_nothing_there(tmp_path: Path) -> None:
    taught = tmp_path / "taught"
    keep_clips(taught, "bow", [frames(20)], 8.0)
    for outside in (tmp_path / "mine.mp4", taught / "mine.mp4"):
        outside.write_bytes(b"somebody's own")
    with (clips_of(taught) / TABLE).open("a") as table:
        table.write(f"../mine.mp4,bow\n{tmp_path / 'mine.mp4'},bow\n")
    forget_clips(taught, "bow")
    assert (tmp_path / "mine.mp4").exists() and (taught / "mine.mp4").exists()


@pytest.mark.parametrize(
    "damage",
    ['"' + "x" * 200_000, "name,label\na,b\n", "", "x", "path,class\na.mp4\n"],
    ids=["field without an end", "other columns", "nothing", "a byte", "a row that ends early"],
)
def test_a_damaged_table_is_said_and_nothing_is_changed(tmp_path: Path, damage: str) -> None:
    keep_clips(tmp_path, "bow", [frames(20)], 8.0)
    table = clips_of(tmp_path) / TABLE
    table.write_text(damage if len(damage) < 100 else table.read_text() + damage)
    before = table.read_bytes(), files(tmp_path)
    for use in (check_clips, lambda taught: forget_clips(taught, "bow")):
        with pytest.raises(DataError, match="not a table path,class"):
            use(tmp_path)
    with pytest.raises(DataError, match="whose clips show people"):
        keep_clips(tmp_path, "bow", [frames(60)], 8.0)
    assert (table.read_bytes(), files(tmp_path)) == before


def test_what_a_killed_process_left_of_a_clip_goes_with_the_next_change(tmp_path: Path) -> None:
    keep_clips(tmp_path, "bow", [frames(20)], 8.0)
    (clips_of(tmp_path) / ".0123456789abcdef.part.mp4").write_bytes(b"half of a person")
    keep_clips(tmp_path, "wave", [frames(90)], 8.0)
    assert not [name for name in files(tmp_path) if "part" in name]
    (clips_of(tmp_path) / ".0123456789abcdef.part.mp4").write_bytes(b"half of a person")
    forget_clips(tmp_path, "jump")
    assert not [name for name in files(tmp_path) if "part" in name]


class _Killed(BaseException):
    """The process ends here."""


def test_a_kill_while_clips_are_removed_leaves_no_row_without_its_clip_and_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_clips(tmp_path, "bow", [frames(20), frames(200)], 8.0)
    keep_clips(tmp_path, "wave", [frames(90)], 8.0)

    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".mp4":
            raise _Killed
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(Path, "unlink", killed)
        forget_clips(tmp_path, "bow")
    assert names_of_clips(tmp_path) == ["wave"] and len(files(tmp_path)) == 4
    forget_clips(tmp_path, "bow")
    assert len(files(tmp_path)) == 2


def test_a_clip_that_no_row_names_is_removed_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    keep_clips(tmp_path, "bow", [frames(20)], 8.0)
    for use in (lambda: sweep_clips(tmp_path), lambda: keep_clips(tmp_path, "bow", [frames(20)], 8.0)):
        (clips_of(tmp_path) / "0123456789abcdef.mp4").write_bytes(b"a person")
        (clips_of(tmp_path) / f".{TABLE}.17.part").write_bytes(b"half a table")
        (clips_of(tmp_path) / "mine.mp4").write_bytes(b"somebody's own")
        use()
        assert len(files(tmp_path)) == 3 and "mine.mp4" in files(tmp_path)
    # Without its table, too.
    (clips_of(tmp_path) / TABLE).unlink()
    forget_clips(tmp_path, "bow")
    assert files(tmp_path) == ["mine.mp4"]


def test_until_the_old_name_is_forgotten_renamed_clips_have_both(tmp_path: Path) -> None:
    keep_clips(tmp_path, "bow", [frames(20)], 8.0)
    for _ in range(2):
        rename_clips(tmp_path, "bow", "greet")
        assert names_of_clips(tmp_path) == ["bow", "greet"]
    forget_clips(tmp_path, "bow")
    assert names_of_clips(tmp_path) == ["greet"] and len(files(tmp_path)) == 2


def test_a_clip_that_cannot_be_written_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(VideoWriter):
        def close(self) -> None:
            self._container = _Full(self._container)
            super().close()

    monkeypatch.setattr(video_writer, "VideoWriter", Full)
    with pytest.raises(DataError, match=r"clips cannot be kept .*there is no room for it: make room"):
        keep_clips(tmp_path, "bow", [frames(20)], 8.0)
    assert files(tmp_path) == []


class _Full:
    """A container on a disk that is full."""

    def __init__(self, container: av.container.OutputContainer) -> None:
        self._container = container

    def mux(self, packet: av.Packet) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self._container.close()
