# SPDX-License-Identifier: Apache-2.0
"""f, the inflated trunk: static videos, causality, parameter counts, and the folded form of the export."""

import pytest
import torch
from safetensors.torch import save_file

from gc_model.evaluation.sizes import sizes
from gc_model.export.fold import fold_for_export
from gc_model.paper.inflated import TAPS, same_padding, timm
from gc_model.paper.presets import preset
from gc_model.paper.variants import trunk_of
from gc_model.training.pretrained import load_imagenet
from tests.gc_model.nets import build, noise

TRUNKS = [("tiny", 64), ("edge", 32)]
FORMS = ["causal", "centered"]


@pytest.mark.parametrize("temporal", FORMS)
@pytest.mark.parametrize(("name", "size"), TRUNKS)
def test_a_static_video_gives_the_two_dimensional_networks_features(name, size, temporal, tmp_path):
    torch.manual_seed(0)
    config = preset(name, temporal=temporal)
    flat = timm.create_model(config.trunk, pretrained=False, features_only=True, **dict(config.trunk_args))
    trunk = trunk_of(config)
    save_file({k: v.contiguous() for k, v in flat.state_dict().items()}, tmp_path / "flat.safetensors")
    load_imagenet(trunk, tmp_path / "flat.safetensors")  # the same road that ImageNet weights take
    flat, trunk = flat.double().eval(), trunk.double().eval()
    image = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        *_, c, Z = flat(image)
        video = image[:, None].expand(-1, 5, -1, -1, -1).flatten(0, 1)
        maps = trunk.front(video, 5)
        Z_video, c_video = trunk.back(maps, 5), maps.mean((2, 3))
    for t in range(5):
        torch.testing.assert_close(Z_video.unflatten(0, (2, 5))[:, t], Z, atol=1e-12, rtol=0)
        torch.testing.assert_close(c_video.unflatten(0, (2, 5))[:, t], c.mean((2, 3)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("temporal", FORMS)
@pytest.mark.parametrize(("name", "size"), TRUNKS)
def test_a_trunk_that_sees_single_frames_gives_without_gradients_what_it_gives_with_them(
    name, size, temporal
):
    torch.manual_seed(0)
    trunk = trunk_of(preset(name, temporal=temporal)).double().eval()
    assert all(conv.sees_one_frame() for conv in trunk.inflated)
    frames = torch.randn(2 * 5, 3, size, size, dtype=torch.float64)
    maps = trunk.front(frames, 5)
    expected = maps.detach(), trunk.back(maps, 5).detach()  # all three taps
    with torch.no_grad():
        maps = trunk.front(frames, 5)
        for part, whole in zip((maps, trunk.back(maps, 5)), expected, strict=True):
            torch.testing.assert_close(part, whole, atol=1e-12, rtol=0)
        first = trunk.inflated[0]
        first.weight[0, 0, TAPS - 1 if temporal == "centered" else 0] = 1.0
        assert not first.sees_one_frame()


@pytest.mark.parametrize(("name", "size"), TRUNKS)
def test_a_causal_trunk_never_sees_a_later_frame(name, size):
    model = build(name, size=size, resize=size)
    clip = noise(1, 6, size)
    changed = clip.clone()
    changed[:, 4:] = 255 - changed[:, 4:]
    with torch.no_grad():
        Z, changed_Z = model.features(clip)[0], model.features(changed)[0]
    assert torch.equal(Z[:, :4], changed_Z[:, :4])
    assert not torch.equal(Z[:, 4], changed_Z[:, 4])


def test_a_centered_trunk_sees_the_next_frame():
    model = build(temporal="centered")
    clip = noise(1, 6, 64)
    changed = clip.clone()
    changed[:, 5] = 255 - changed[:, 5]
    with torch.no_grad():
        assert not torch.equal(model.features(clip)[0][:, 4], model.features(changed)[0][:, 4])


def test_time_is_never_subsampled_and_every_kernel_but_the_stem_is_inflated():
    model = build("paper", dtype=torch.float32)
    assert len(model.trunk.inflated) == 16
    kernels = [m.kernel_size for m in model.trunk.net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert kernels[0] == (7, 7), "the stem stays 2-D"
    assert set(kernels[1:]) == {(1, 1)}
    assert all(m.weight.shape[2:] == (3, 3, 3) for m in model.trunk.inflated)


def test_paper_counts_match_the_specification():
    counts = sizes(preset("paper", classes=60))
    assert counts["trunk_parameters"] / 1e6 == pytest.approx(46.14, abs=0.005)
    assert counts["head_parameters"] / 1e6 == pytest.approx(27.64, abs=0.005)
    assert counts["trunk_gmac_per_frame"] == pytest.approx(7.79, abs=0.01)


@pytest.mark.parametrize("temporal", FORMS)
@pytest.mark.parametrize(("name", "size"), TRUNKS)
def test_the_training_form_of_grouped_convolutions_equals_the_inference_form(name, size, temporal):
    model = build(name, size=size, resize=size, temporal=temporal)
    clip = noise(2, 5, size)
    with_gradient = model.features(clip)[0].detach()
    with torch.no_grad():
        torch.testing.assert_close(with_gradient, model.features(clip)[0], atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("temporal", FORMS)
@pytest.mark.parametrize(("name", "size"), TRUNKS)
def test_folding_batch_norm_and_time_into_plain_convolutions_changes_nothing(name, size, temporal):
    model = build(name, size=size, resize=size, temporal=temporal)
    folded = fold_for_export(model)
    assert not [m for m in folded.trunk.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert not [m for m in folded.trunk.modules() if isinstance(m, torch.nn.Conv3d)]
    clip = noise(2, 8, size)
    with torch.no_grad():
        for whole, part in zip(model.features(clip), folded.features(clip), strict=True):
            torch.testing.assert_close(part, whole, atol=1e-10, rtol=0)
        if temporal == "causal":
            a, _ = model.forward_chunk(clip, model.initial_state(2, streaming=True))
            b, _ = folded.forward_chunk(clip, model.initial_state(2, streaming=True))
            torch.testing.assert_close(b.logits, a.logits, atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("temporal", FORMS)
@pytest.mark.parametrize(("name", "size"), TRUNKS)
def test_a_convolution_that_sees_one_frame_is_folded_into_one_without_a_cache(name, size, temporal):
    model = build(name, size=size, resize=size, temporal=temporal)
    clip = noise(2, 8, size)
    with torch.no_grad():
        for conv in model.trunk.inflated[::2]:
            conv.weight[:, :, [i for i in range(3) if i != conv.now]] = 0
        folded = fold_for_export(model)
        assert [conv.caches == 0 for conv in folded.trunk.inflated[:4]] == [True, False, True, False]
        for whole, part in zip(model.features(clip), folded.features(clip), strict=True):
            torch.testing.assert_close(part, whole, atol=1e-10, rtol=0)
        if temporal == "causal":
            start = folded.initial_state(2, streaming=True)
            assert len(start.caches) == sum(conv.caches for conv in model.trunk.inflated[1::2])
            a, _ = model.forward_chunk(clip, model.initial_state(2, streaming=True))
            b, _ = folded.forward_chunk(clip, start)
            torch.testing.assert_close(b.logits, a.logits, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(224, 3, 2, (0, 1)), (224, 5, 2, (1, 2)), (112, 3, 1, (1, 1)), (15, 3, 2, (1, 1)), (7, 5, 1, (2, 2))],
)
def test_same_padding_is_tensorflows(size, kernel, stride, expected):
    assert same_padding((size, size), (kernel, kernel), (stride, stride)) == (expected, expected)
