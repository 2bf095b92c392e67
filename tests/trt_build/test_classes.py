# SPDX-License-Identifier: Apache-2.0
"""What teaching needs of the training clips: the statistics, their file, and bundles without it."""

from dataclasses import replace

import numpy as np
import pytest

from tests.toy import colour_statistics, toy_bundle
from trt_build import classes, tensors
from trt_build.bundle import CLASSES_NAME, load_bundle, write_bundle
from trt_build.classes import ClassStatistics, read_classes
from trt_build.engines.open import open_engine
from trt_build.errors import BundleError
from trt_build.readout import pool


def drawn(n: int, F: int = 6, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, class indices, and the covariance they were drawn with."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(F, F))
    labels = np.arange(n) % classes
    return 5 * rng.normal(size=(classes, F))[labels] + rng.normal(size=(n, F)) @ mix, labels, mix.T @ mix


def test_pooling_gives_mean_deviation_and_change_over_the_frames():
    e = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 4.0]], np.float32)
    assert np.allclose(pool(e), [2 / 3, 2, np.std([0, 2, 0]), np.std([1, 1, 4]), 2, 1.5])
    assert np.allclose(pool(e[:1]), [0, 1, 0, 0, 0, 0])


def test_with_many_windows_the_covariance_is_that_of_the_classes():
    x, labels, covariance = drawn(30_000)
    found = ClassStatistics.of(x, labels, 3)
    ours = found.factor.T @ found.factor + np.diag(found.rest)
    assert np.abs(ours - covariance).max() < 0.05 * np.abs(covariance).max()
    assert list(found.count) == [10_000] * 3
    assert np.allclose(found.mean, [x[labels == k].mean(0) for k in range(3)], atol=1e-4)


def test_with_few_windows_it_is_shrunk_to_its_diagonal_and_can_be_inverted():
    x, labels, _ = drawn(9, F=40)
    found = ClassStatistics.of(x, labels, 3)
    ours = (found.factor.T @ found.factor + np.diag(found.rest)).astype(np.float64)
    residual = x - found.mean[labels]
    variance = (residual**2).sum(0) / 6
    assert np.allclose(np.diag(ours), variance, rtol=2e-3)
    unit = np.sqrt(np.outer(variance, variance))
    off = ~np.eye(40, dtype=bool)
    assert np.abs(ours / unit)[off].mean() < 0.8 * np.abs(residual.T @ residual / 6 / unit)[off].mean()
    assert np.linalg.cond(ours / unit) < 1e4


@pytest.mark.parametrize(("n", "F"), [(9, 40), (60, 6), (400, 30)])
def test_the_intensity_is_that_of_ledoit_and_wolf(n, F):
    theirs = pytest.importorskip("sklearn.covariance", reason="pip install -e '.[evaluate]'")
    x = drawn(n, F, classes=1)[0]
    x -= x.mean(0)
    x /= np.sqrt((x**2).mean(0))
    ours = classes._shrinkage(x)
    assert 0 < ours < 1 and ours == pytest.approx(theirs.ledoit_wolf_shrinkage(x, assume_centered=True))


def test_the_covariance_is_shrunk_by_the_intensity_itself(monkeypatch):
    monkeypatch.setattr(classes, "_shrinkage", lambda units: 0.36)
    x, labels, _ = drawn(60)
    found = ClassStatistics.of(x, labels, 3)
    residual = x - np.stack([x[labels == k].mean(0) for k in range(3)])[labels]
    plain = residual.T @ residual / (60 - 3)
    wanted = 0.64 * plain + 0.36 * np.diag(np.diag(plain))
    np.testing.assert_allclose(
        found.factor.T @ found.factor + np.diag(found.rest), wanted, rtol=1e-4, atol=1e-4
    )


def test_rounded_statistics_have_fewer_bits_and_the_same_counts():
    x, labels, _ = drawn(60)
    whole = ClassStatistics.of(x, labels, 3)
    found = whole.rounded(12)
    assert np.array_equal(found.count, whole.count)
    for name in ("mean", "factor", "rest"):
        before, after = getattr(whole, name), getattr(found, name)
        assert not (after.view(np.uint32) & 0xFFF).any() and not np.array_equal(before, after), name
        np.testing.assert_allclose(after, before, rtol=2.0**-12)


def test_a_feature_that_never_varies_does_not_weigh_without_bound():
    x, labels, _ = drawn(60)
    x[:, 2] = 0
    found = ClassStatistics.of(x, labels, 3)
    assert found.rest[2] > 1e-5 * found.rest.mean()


def test_the_file_gives_back_what_was_written_and_is_hashed_with_the_bundle(tmp_path):
    bundle = toy_bundle(tmp_path / "b", "colours", embedding=True)
    assert CLASSES_NAME in load_bundle(bundle.path).info.sha256
    found, wanted = read_classes(bundle), colour_statistics(3, 8)
    assert found is not None
    for name in ("count", "mean", "factor", "rest"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    content = bytearray((bundle.path / CLASSES_NAME).read_bytes())
    content[-1] ^= 1
    (bundle.path / CLASSES_NAME).write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"classes\.safetensors was changed"):
        load_bundle(bundle.path)


def test_the_statistics_of_another_bundle_that_took_the_place_are_refused(tmp_path):
    bundle = toy_bundle(tmp_path / "b", "colours", embedding=True)
    others = replace(colour_statistics(3, 8), mean=np.zeros((3, 9), np.float32))
    (bundle.path / CLASSES_NAME).write_bytes(others.to_bytes())
    with pytest.raises(BundleError, match=r"^[^;]*classes\.safetensors was changed after export"):
        read_classes(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros((2, 9), np.float32)},
        {"mean": np.full((3, 9), np.nan, np.float32)},
        {"rest": np.zeros(9, np.float32)},
        {"count": np.array([1, 0, 2])},
        {"count": np.ones(3, np.float32)},
        {"factor": np.zeros(9, np.float32)},
        {"factor": np.zeros((2, 8), np.float32)},
    ],
    ids=lambda change: "-".join(f"{k}{v.shape}{v.dtype}" for k, v in change.items()),
)
def test_statistics_that_do_not_fit_the_bundle_are_refused(tmp_path, change):
    bundle = toy_bundle(tmp_path / "b", "colours", embedding=True)
    values = vars(colour_statistics(3, 8)) | change
    files = {name: bundle.path / name for name in bundle.info.sha256}
    bundle = write_bundle(bundle.path, bundle.info, files | {CLASSES_NAME: tensors.to_bytes(values)})
    with pytest.raises(BundleError, match=r"classes\.safetensors cannot be used"):
        read_classes(bundle)


def test_a_bundle_of_schema_1_loads_runs_and_has_no_statistics(tmp_path):
    bundle = load_bundle(toy_bundle(tmp_path / "b", schema_version=1).path)
    assert bundle.info.schema_version == 1 and bundle.info.embedding == 0 and read_classes(bundle) is None
    engine = open_engine(bundle, "window", threads=1)
    assert set(engine.outputs) == {"logits", "glimpses", "assignment"}
    engine.close()
