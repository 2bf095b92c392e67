# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation on a GPU: every stage, mixed precision, frozen parts, and the same function as on the CPU."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train]'")

from gc_model.evaluation.confidence import calibrate_run
from gc_model.evaluation.evaluate import JUDGES, EvaluateOptions, evaluate
from gc_model.training import checkpoint
from gc_model.training.options import TrainOptions
from gc_model.training.train import train
from tests.gc_model.nets import build, noise
from tests.gc_model.runs import colours, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that this torch can use"),
]


@pytest.mark.parametrize("preset", ["tiny", "edge", "paper"])
def test_a_model_is_the_same_function_on_the_gpu(preset):
    model = build(preset, dtype=torch.float32)
    clip = noise(2, 8, model.config.size)
    # What differs is the order of sums; TF32 would be another number format, which torch leaves off for matrices.
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        here = model(clip).logits
        there = model.cuda()(clip).logits
        state, frames = model.initial_state(2, streaming=True), []
        for frame in clip.unbind(1):
            result, state = model.stream(frame, state)
            frames.append(result.logits)
    assert there.is_cuda
    spread = float(here.std())
    assert float((there.cpu() - here).abs().max()) < 2e-3 * spread
    assert float((torch.stack(frames, 1).mean(1) - there).abs().max()) < 2e-3 * spread


@pytest.mark.parametrize(
    ("precision", "freeze_stages"),
    [("32-true", 0), ("bf16-mixed", 0), ("16-mixed", 3), ("32-true", 4), ("32-true", 5)],
)
def test_every_stage_trains_on_the_gpu_and_what_comes_out_is_judged_there(tmp_path, precision, freeze_stages):
    torch.cuda.reset_peak_memory_stats()
    options = TrainOptions(
        data=colours(), preset="tiny", epochs1=2, epochs2=3, epochs3=1, batch=4, lr=3e-3, views=2, from_scratch=True,
        val_fraction=0.3, precision=precision, freeze_stages=freeze_stages,
    )  # fmt: skip
    summary = train(options, tmp_path / "run", progress=False)
    assert torch.cuda.max_memory_allocated() > 1 << 20
    assert not summary["left_out"] and summary["stream"]["clips"] > 0
    model, _ = checkpoint.load(tmp_path / "run")
    assert all(torch.isfinite(p).all() for p in model.parameters())
    calibrate_run(tmp_path / "run", colours(), subjects=["a"], progress=False)
    for judge in JUDGES:
        report = evaluate(tmp_path / "run", EvaluateOptions(colours(), judge=judge), progress=False)
        assert report["clips"] == 12


def test_an_evaluation_on_the_gpu_says_what_one_on_the_cpu_says(monkeypatch):
    there = evaluate(run(), EvaluateOptions(colours()), progress=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = evaluate(run(), EvaluateOptions(colours()), progress=False)
    assert there["accuracy"] == here["accuracy"] and there["confusion"] == here["confusion"]
