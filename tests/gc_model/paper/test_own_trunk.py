# SPDX-License-Identifier: Apache-2.0
"""A trunk of one's own: a class and its place in `trunk_of` are all that training, export and streaming need."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")
pytest.importorskip("gc_model.training.train", reason="pip install -e '.[train]'", exc_type=ImportError)

from torch import nn

from gc_model.export.onnx import export_bundle
from gc_model.paper import variants
from gc_model.paper.presets import PRESETS, preset
from gc_model.paper.trunk import RESOLUTIONS, Trunk
from gc_model.training import checkpoint
from gc_model.training.options import TrainOptions
from gc_model.training.train import train
from tests.gc_model.nets import noise
from tests.gc_model.runs import colours, scratch
from trt_build.engines.open import open_engine


class ThreeLayers(nn.Module):
    """A stem, and one convolution of the frame before added to one of the frame itself; nothing of timm."""

    channels, context_channels = 12, 6

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 16, 16)
        self.now = nn.Conv2d(6, 12, 3, 2, 1)
        self.before = nn.Conv2d(6, 12, 3, 2, 1, bias=False)

    def front(self, x, T):
        return torch.relu(self.stem(x))

    def back(self, context, T):
        clips = context.reshape(-1, T, *context.shape[1:])
        before = torch.cat([clips[:, :1] * 0, clips[:, :-1]], 1).reshape(context.shape)
        return self.now(context) + self.before(before)

    def step(self, x, caches):
        context = self.front(x, 1)
        Z, caches = self.back_step(context, caches)
        return Z, context, caches

    def back_step(self, context, caches):
        return self.now(context) + self.before(caches[0]), [context]

    def cache_shapes(self, size):
        return [(6, size // 16, size // 16)]

    def sees_one_frame(self, whole):
        return not whole

    def weights(self, whole):
        return self.state_dict() if whole else self.stem.state_dict(prefix="stem.")

    def first_parameters(self, resolutions):
        return list(self.parameters() if resolutions == RESOLUTIONS else self.stem.parameters())


@pytest.fixture(autouse=True)
def assembled(monkeypatch):
    """What a line in `trunk_of` does."""

    def trunk_of(config) -> Trunk:
        assert config.trunk == "three_layers"
        return ThreeLayers()

    monkeypatch.setattr(variants, "trunk_of", trunk_of)


def test_it_streams_what_it_gives_of_whole_clips():
    torch.manual_seed(0)
    model = variants.build(preset("tiny", trunk="three_layers", classes=4)).double().eval()
    clip = noise(2, 8, 64)
    with torch.no_grad():
        whole = model(clip)
        streamed, _ = model.forward_chunk(clip, model.initial_state(2, streaming=True))
    torch.testing.assert_close(streamed.logits, whole.logits, atol=1e-12, rtol=0)
    assert not torch.equal(whole.logits[0], whole.logits[1])


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 4])
def test_it_trains_in_all_stages_and_becomes_a_bundle_that_streams(tmp_path, monkeypatch, frozen):
    monkeypatch.setitem(PRESETS, "tiny", preset("tiny", trunk="three_layers"))
    options = TrainOptions(
        data=colours(),
        preset="tiny",
        epochs1=1,
        epochs2=1,
        epochs3=1,
        freeze_stages=frozen,
        views=1,
        batch=12,
    )
    train(options, tmp_path / "run", progress=False, shared_cache=scratch() / "own_trunk")
    torch.manual_seed(0)
    start = variants.build(preset("tiny", trunk="three_layers", classes=3)).trunk.state_dict()
    model, _ = checkpoint.load(tmp_path / "run")
    moved = {name for name, value in model.trunk.state_dict().items() if not torch.equal(value, start[name])}
    everything = {"stem.weight", "stem.bias", "now.weight", "now.bias", "before.weight"}
    assert moved == {name for name in everything if not (frozen and name.startswith("stem."))}

    bundle = export_bundle(tmp_path / "run", tmp_path / "bundle")  # checks that both graphs equal torch
    assert bundle.info.modes == ["window", "step"]
    engine = open_engine(bundle, "step", backend="onnxruntime")
    assert [name for name in engine.states if name.startswith("cache_")] == ["cache_00"]
    frames = np.random.default_rng(0).integers(0, 256, (8, 1, 64, 64, 3), np.uint8)
    logits = [engine.run({"frame": frame})["logits"].copy() for frame in frames]
    window = open_engine(bundle, "window", backend="onnxruntime").run(
        {"frames": frames.transpose(1, 0, 2, 3, 4)}
    )
    np.testing.assert_allclose(np.mean(logits, 0), window["logits"], atol=1e-4)
