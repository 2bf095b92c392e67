# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a bag while and between evaluations, a result that is kept is one of the content it names."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gc_ros.evaluation import running, sources
from gc_ros.evaluation.options import Options
from gc_ros.evaluation.running import Task, evaluate_bag, resume
from gc_ros.evaluation.sources import find_sources
from tests.gc_ros.evaluation.bag_files import mcap_of, write_bag
from trt_build.bundle import LoadedBundle, file_sha256
from trt_build.errors import DataError, GlimpseError

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags whose files have the same names, sizes and times."""
    root = tmp_path_factory.mktemp("originals")
    for name, colour in (("a", "red"), ("b", "blue")):
        write_bag(root / name / "bag", [(colour, 1.5)], size=(32, 24))
        for file in (root / name / "bag").iterdir():
            os.utime(file, ns=(SECOND, SECOND))
    return root


def grow(bag: Path, _: Path) -> None:
    with mcap_of(bag).open("ab") as file:
        file.write(bytes(100))


def shrink(bag: Path, _: Path) -> None:
    os.truncate(mcap_of(bag), mcap_of(bag).stat().st_size * 3 // 4)


def swap(bag: Path, originals: Path) -> None:
    """Another bag takes its name."""
    shutil.rmtree(bag)
    shutil.copytree(originals / "b/bag", bag)


def restore(bag: Path, originals: Path) -> None:
    shutil.rmtree(bag)
    shutil.copytree(originals / "a/bag", bag)


def rewrite(bag: Path, originals: Path) -> None:
    """Other content in the very same file, with the old time."""
    content = (mcap_of(originals / "b/bag")).read_bytes()
    with mcap_of(bag).open("r+b") as file:
        file.write(content)
    os.utime(mcap_of(bag), ns=(SECOND, SECOND))


CHANGES: list[Callable[[Path, Path], None]] = [grow, shrink, swap, restore, rewrite]
STEPS = st.lists(
    st.one_of(
        st.sampled_from(CHANGES).map(lambda change: (change, False)),  # between evaluations
        st.sampled_from([*CHANGES, None]).map(lambda change: (change, True)),  # while one reads
    ),
    min_size=2,
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, at=st.integers(0, 20))
def test_no_result_is_kept_of_content_that_was_not_read_whole(
    steps: list[tuple[Callable[[Path, Path], None] | None, bool]],
    at: int,
    originals: Path,
    colours: LoadedBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag, out = Path(folder) / "bag", Path(folder) / "out"
        shutil.copytree(originals / "a/bag", bag)
        options = Options(predictions="none", threads=1)
        for change, while_reading in steps:
            if not while_reading:
                assert change is not None
                change(bag, originals)
                continue
            (source,) = find_sources([bag])
            task = Task(source, str(colours.path), options, str(out))
            before = source.sha256()
            kept = resume(task, colours.info.labels)
            if kept is not None:
                assert kept["provenance"]["bag_sha256"] == before
                continue
            with monkeypatch.context() as patch:
                if change is not None:
                    patch.setattr(
                        running, "FrameReader", changing(lambda run=change: run(bag, originals), at)
                    )
                try:
                    record = evaluate_bag(task)
                except GlimpseError:
                    continue
            assert record["provenance"]["bag_sha256"] == before == find_sources([bag])[0].sha256()


def test_files_that_go_away_before_their_checksum_are_a_change(
    originals: Path, colours: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = tmp_path / "bag"
    shutil.copytree(originals / "a/bag", bag)
    (source,) = find_sources([bag])

    def late(file: Path, stopped: threading.Event | None = None) -> str:
        shutil.rmtree(bag, ignore_errors=True)
        return file_sha256(file, stopped)

    monkeypatch.setattr(sources, "file_sha256", late)
    task = Task(source, str(colours.path), Options(predictions="none", threads=1), str(tmp_path / "out"))
    with pytest.raises(DataError, match="bag: changed while it was read"):
        evaluate_bag(task)
    assert resume(task, colours.info.labels) is None


def changing(change: Callable[[], None], at: int) -> type:
    """A reader during whose frame number `at`, or whose last, something happens to the bag."""

    class Changing(sources.FrameReader):
        def __iter__(self) -> Iterator[Any]:
            done = False
            for number, frame in enumerate(super().__iter__()):
                if number == at:
                    change()
                    done = True
                yield frame
            if not done:
                change()

    return Changing
