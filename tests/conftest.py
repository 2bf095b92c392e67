# SPDX-License-Identifier: Apache-2.0
"""Fixtures and the reasons why marked tests are skipped."""

from __future__ import annotations

import os

# Before torch: OpenMP's threads otherwise spin at their barriers, and on a shared machine that takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# isort: split
import importlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.toy import toy_bundle
from trt_build.bundle import LoadedBundle

REPOSITORY = Path(__file__).resolve().parent.parent
CLIPS = REPOSITORY.parent / "shared" / "data"

# Two slow cores and parallel runs make wall-clock deadlines a source of false alarms.
hypothesis.settings.register_profile("repository", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repository")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the processes that tests are spread over inherit it
        folder = tempfile.TemporaryDirectory(prefix="glimpse_clouds_tests_")
        os.environ["GLIMPSE_CLOUDS_SHARED_TESTS"] = folder.name
        config.add_cleanup(folder.cleanup)
    if getattr(config.option, "numprocesses", None) and find_spec("torch") and find_spec("lightning"):
        # Where tests are spread over processes, this one imports the module of every warning it is told of.
        importlib.import_module("gc_model.torchvision_guard")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not CLIPS.is_dir():
        skip = pytest.mark.skip(reason="the recorded clips are not beside the checkout (../shared/data)")
        for item in items:
            if item.get_closest_marker("clips"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A node that ends in this process leaves its signals ignored, which the children of later tests would inherit."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def clips() -> Path:
    """Directory of the recorded clips; use it in tests marked `clips`."""
    return CLIPS


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., LoadedBundle]:
    """`toy_bundle` into a directory of its own."""
    made = 0

    def make(kind: str = "numbers", **options: Any) -> LoadedBundle:
        nonlocal made
        made += 1
        return toy_bundle(tmp_path / f"bundle{made}", kind, **options)

    return make


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """The `numbers` toy at 8 Hz, T = 8, window and step; shared, do not edit its files."""
    return toy_bundle(tmp_path_factory.mktemp("numbers") / "bundle")


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """The `colours` toy at 8 Hz, T = 8, paper preprocessing; shared, do not edit its files."""
    path = tmp_path_factory.mktemp("colours") / "bundle"
    return toy_bundle(path, "colours", S=224, preprocess={"size": 224, "resize": 256})
