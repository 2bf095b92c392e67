# SPDX-License-Identifier: Apache-2.0
"""Resume checkpoints: whatever Lightning nests comes back equal, no pickle on disk, a half file is refused."""

from collections import OrderedDict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

io = pytest.importorskip(
    "gc_model.training.lightning_io", reason="pip install -e '.[train]'", exc_type=ImportError
)

from trt_build.errors import DataError

NESTED = {
    "epoch": 3,
    "state_dict": OrderedDict(a=torch.arange(6.0).view(2, 3).T, b=torch.tensor(True), c=torch.zeros(0, 4)),
    "optimizer_states": [
        {
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(3)}},
            "param_groups": [{"betas": (0.9, 0.999)}],
        }
    ],
    "callbacks": {
        "EarlyStopping{'monitor': 'val_loss'}": {"best": torch.tensor(0.5), "none": None, "on": False}
    },
    "loops": {"empty": {}, "list": [], "tuple": (), "nested": [(1, "x"), [2.5, float("inf")]]},
    "size": torch.Size([2, 3]),
    "big": 2**80,
    "tensor": {"dict": [["tensor", "0"]]},
    "half": torch.ones(2, dtype=torch.bfloat16),
}


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        same = isinstance(b, tuple) == isinstance(a, tuple) and len(a) == len(b)
        return same and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def saved(path: Path) -> Path:
    io.SafetensorsIO().save_checkpoint(NESTED, path)
    return path


def test_nested_state_comes_back_equal_keys_and_types_included(tmp_path):
    assert equal(NESTED, io.SafetensorsIO().load_checkpoint(saved(tmp_path / "deep" / "last.ckpt")))


def test_the_file_holds_no_pickle(tmp_path):
    data = saved(tmp_path / "last.ckpt").read_bytes()
    assert int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{"  # safetensors' own header
    with pytest.raises(Exception, match=r"(?i)weights_only|invalid|unsupported|pickle|magic|load"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)


def test_what_only_pickle_could_write_is_refused_and_the_old_file_stays(tmp_path):
    path = saved(tmp_path / "last.ckpt")
    before = path.read_bytes()
    with pytest.raises(TypeError, match="pickle"):
        io.SafetensorsIO().save_checkpoint({"x": object()}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.98])
def test_a_half_written_file_is_refused_with_the_remedy(tmp_path, keep):
    path = saved(tmp_path / "last.ckpt")
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(DataError, match=r"last\.ckpt.*delete it to repeat this stage"):
        io.SafetensorsIO().load_checkpoint(path)


def test_a_missing_file_and_foreign_tensors_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    for name in ("foreign.ckpt", "gone.ckpt"):
        with pytest.raises(DataError, match=name):
            io.SafetensorsIO().load_checkpoint(tmp_path / name)


def test_removing_twice_is_no_error(tmp_path):
    path = saved(tmp_path / "last.ckpt")
    io.SafetensorsIO().remove_checkpoint(path)
    io.SafetensorsIO().remove_checkpoint(path)
    assert not path.exists()
