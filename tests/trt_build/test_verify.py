# SPDX-License-Identifier: Apache-2.0
"""`trt-build verify`: engines that agree pass, and every way of disagreeing fails with exit code 1."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")

from gc_ros.recognition.footage import read_footage
from tests import command_line
from tests.gc_model.runs import bundle, colours, run, untrained
from tests.toy import number_image
from trt_build import verify as work
from trt_build.bundle import LoadedBundle, load_bundle
from trt_build.cli import app
from trt_build.errors import EngineError, GlimpseError
from trt_build.footage import Footage
from trt_build.tolerances import choice_errors, error_of

call = functools.partial(command_line.call, app)
CLIPS = ("--clips", str(colours()))
SHORT = ("--frames", "100", "--windows", "4", "--threads", "1")


def checks_with(monkeypatch, spoil, reset_after=8, **options):
    """Verify ONNX Runtime against itself with `spoil(outputs, run number)` on the second engine's results."""
    real, opened = work.open_engine, []

    def wrapped(*args, **kwargs):
        engine = real(*args, **kwargs)
        opened.append(engine)
        if len(opened) > 2:  # after the reference's window and step
            inner, count = engine.run, [0]

            def changed(inputs):
                count[0] += 1
                return spoil({k: v.copy() for k, v in inner(inputs).items()}, count[0])

            engine.run = changed
        return engine

    monkeypatch.setattr(work, "open_engine", wrapped)
    monkeypatch.setattr(work, "BLOCK", 20)
    options = {"frames": 60, "most_windows": 4, "threads": 1} | options
    loaded = load_bundle(bundle())
    loaded = replace(loaded, info=loaded.info.model_copy(update={"reset_after": reset_after}))
    return work.verify(loaded, footage(), ["onnxruntime"], **options)


@functools.cache
def footage():
    return read_footage([colours() / label for label in ("red", "blue")], load_bundle(bundle()).info)


def failed(checks) -> set[tuple[str, str]]:
    return {(c.part, c.what) for c in checks if not c.ok}


@pytest.mark.slow
def test_the_command_compares_every_tensor_of_every_engine_with_torch(tmp_path):
    # Not BF16: the logits of an untrained net lie so close together that its rounding turns one label in a hundred.
    names = ("onnxruntime:fp32", "onnxruntime:fp16", "openvino:fp32")
    engines = [part for name in names for part in ("--engine", name)]
    result = call("verify", bundle(), *CLIPS, *SHORT, "--run", run(), "--json", *engines)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["ok"] and answer["model_id"] == load_bundle(bundle()).info.model_id
    assert {c["engine"] for c in answer["checks"]} == set(names)
    for part in ("window", "step", "drift"):
        found = {
            c["what"] for c in answer["checks"] if c["part"] == part and c["engine"] == "onnxruntime:fp32"
        }
        assert found >= {"logits", "glimpses", "assignment"}
    states = {c["what"] for c in answer["checks"] if c["part"] == "drift" and c["what"].startswith("state ")}
    assert {"state h", "state memory", "state cache_00"} <= states


@pytest.mark.slow
def test_equal_engines_have_no_error_and_all_labels_in_common(monkeypatch):
    checks = checks_with(monkeypatch, lambda out, n: out)
    assert not failed(checks) and len(checks) > 15
    assert all(c.value == (1.0 if c.what == "labels" else 0.0) for c in checks)
    drift = next(c for c in checks if c.part == "drift" and c.what == "logits")
    assert len(drift.blocks) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "samples"), [(10, 1), (40, 2), (50, 3)])
def test_states_are_compared_in_every_block_and_behind_the_last_frame(monkeypatch, frames, samples):
    checks = checks_with(monkeypatch, lambda out, n: out, frames=frames)
    states = [c for c in checks if c.part == "drift" and c.what.startswith("state ")]
    # The past choices have one value for the whole stream.
    assert states and {len(c.blocks) for c in states} <= {0, samples}
    assert any(c.blocks for c in states)


@pytest.mark.slow
def test_json_has_no_word_for_nan(monkeypatch):
    def broken(out, n):
        out["logits"] = out["logits"] * np.float32(np.nan)
        return out

    answer = work.as_json(checks_with(monkeypatch, broken), load_bundle(bundle()))
    assert not answer["ok"] and json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert [c for c in answer["checks"] if c["what"] == "logits" and c["value"] is None]


@pytest.mark.slow
def test_an_error_that_grows_along_the_stream_fails_the_drift(monkeypatch):
    def late(out, n):
        out["logits"] *= 1 + 1e-3 * max(n - 100, 0)  # step: 60 frames, then 60 of drift
        return out

    checks = checks_with(monkeypatch, late)
    assert failed(checks) == {("drift", "logits")}
    blocks = next(c.blocks for c in checks if c.part == "drift" and c.what == "logits")
    assert blocks[0] == blocks[1] == 0 and blocks[2] > 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("tensor", ["logits", "embedding", "glimpses", "assignment"])
def test_each_tensor_has_its_own_tolerance(monkeypatch, tensor):
    def shifted(out, n):
        out[tensor] = out[tensor] + np.float32(0.3) * (1 + out[tensor])
        return out

    assert ("window", tensor) in failed(checks_with(monkeypatch, shifted))
    assert not failed(checks_with(monkeypatch, lambda out, n: out, limits={tensor: 0.0}))


def choices(frames=400, keep=4):
    """Assignments (frames, C, G) of sharp workers, each of which keeps to a glimpse for `keep` frames."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.1] * 3, (frames // keep, 3)).astype(np.float32)
    return np.repeat(p, keep, 0)


def judged(what, ours, theirs, part="drift", precision="int8"):
    """The check of one tensor of a stream."""
    logits = {"logits": np.zeros((len(theirs), 4), np.float32)}
    rows = work._compare("any", part, precision, {what: ours} | logits, {what: theirs} | logits, 8, 0, {})
    return next(row for row in rows if row.what == what)


def other(p, frames):
    """The same with another glimpse in these frames."""
    changed = p.copy()
    changed[frames] = np.roll(p[frames], 1, -1)
    return changed


def test_a_near_tie_that_is_over_passes_in_int8_and_half_a_block_of_it_does_not():
    p = choices()
    assert judged("assignment", p, p).value == 0
    assert judged("assignment", other(p, slice(250, 261)), p).ok
    assert not judged("assignment", other(p, slice(250, 300)), p).ok
    # Not within the rounding of FP32, however short.
    assert not judged("assignment", other(p, slice(250, 252)), p, precision="fp32").ok


@pytest.mark.parametrize("part", ["window", "step", "drift"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: np.roll(p, 1, -2),  # each worker has another's
        lambda p: np.roll(p, 1, -1),  # another glimpse
        lambda p: np.roll(p, 1, 0),  # one frame late
        lambda p: np.full_like(p, 1 / 3),  # no choice
        lambda p: 0.7 * p + 0.1,  # a softer choice
        lambda p: other(p, slice(None, None, 4)),  # every fourth frame
        lambda p: other(p, slice(200, None)),  # from the middle of the stream
    ],
)
def test_a_wrong_assignment_fails_in_every_part_and_precision(spoil, precision, part):
    p = choices()
    assert not judged("assignment", spoil(p), p, part, precision).ok


def test_a_late_error_of_the_assignment_fails_the_drift_by_its_block():
    p = choices(1000)
    late = judged("assignment", other(p, slice(900, None)), p)
    assert not late.ok and late.blocks[:9] == [0.0] * 9 and late.blocks[9] > 1


@pytest.mark.parametrize(("reset_after", "windows"), [(8, 5), (20, 26), (0, 33)])
def test_labels_of_step_count_in_the_windows_that_a_robot_reads(reset_after, windows):
    """None lies across a reset, and one that is wrong weighs as much as on the robot."""
    theirs = np.zeros((40, 4), np.float32)
    theirs[:, 0] = 1
    ours = theirs.copy()
    ours[7, 1] = 100  # of the first window the last frame

    def labels(part):
        rows = work._compare("any", part, "int8", {"logits": ours}, {"logits": theirs}, 8, reset_after, {})
        return next(row for row in rows if row.what == "labels")

    across = 1 if reset_after == 8 else 8  # windows that hold this frame
    step = labels("step")
    assert step.value == pytest.approx(1 - across / windows) and step.windows == windows
    assert work.as_lines([step])[1].endswith(f"  other: {across} of {windows}")
    if not reset_after:
        assert labels("drift").value == step.value


def test_step_is_reset_as_the_bundle_says_and_drift_never_from_zeros_on(make_bundle):
    """Read off the toy, whose logits say how many frames it has seen since its last reset, modulo 8."""
    loaded = make_bundle(modes=("step",), reset_after=12)
    frames = np.stack([number_image(1 + n, 8, 8) for n in range(20)])
    pieces = [Footage("a", "", frames)]
    found = work._all_parts(
        loaded, work._opener(loaded, "onnxruntime", 1), frames[None], pieces, 30, lambda part: None
    )
    n = np.arange(30)
    assert found["step"]["logits"].argmax(1).tolist() == (n % 12 % 8).tolist()
    assert found["drift"]["logits"].argmax(1).tolist() == (n % 8).tolist()
    assert found["drift"]["logits"].max(1).tolist() == (8 * (1 + n % 20)).tolist(), (
        "the clips, from the first again"
    )
    assert found["drift"]["state count"].ravel().tolist() == [30 % 8] and "state count" not in found["step"]


def test_a_block_is_judged_in_units_of_the_whole_stream():
    """Where nobody moves, a block hardly varies, and rounding would be large in its own units."""
    theirs = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    theirs[100:200] = 0.5
    noise = np.random.default_rng(1).normal(0, 1e-4, theirs.shape).astype(np.float32)
    rows = work._compare("any", "drift", "fp32", {"logits": theirs + noise}, {"logits": theirs}, 8, 8, {})
    (logits,) = [row for row in rows if row.what == "logits"]
    assert logits.ok and len(logits.blocks) == 3 and 5e-5 < logits.blocks[1] < 2e-4


def test_one_window_is_enough_and_a_limit_is_a_number(make_bundle):
    loaded = make_bundle()
    pieces = [Footage("a", "", np.stack([number_image(1 + n, 8, 8) for n in range(8)]))]
    checks = work.verify(loaded, pieces, ["onnxruntime"], frames=8, threads=1)
    assert {c.part for c in checks if c.what == "labels" and c.value == 1} == {"window", "step"}
    for limit in (float("nan"), -0.1):
        with pytest.raises(GlimpseError, match="no tolerance logits="):
            work.verify(loaded, pieces, ["onnxruntime"], frames=8, limits={"logits": limit})


def test_every_window_is_compared(make_bundle):
    loaded = make_bundle(modes=("window",))
    clips = np.stack([[number_image(10 * k + n, 8, 8) for n in range(8)] for k in range(3)])
    found = work._all_parts(loaded, work._opener(loaded, "onnxruntime", 1), clips, [], 8, lambda part: None)
    assert found["window"]["logits"].tolist() == [[10 * k + n for n in range(8)] for k in range(3)]


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1), ("fp16", 10), ("bf16", 10), ("int8", 10)])
def test_of_a_thousand_labels_one_may_differ_in_fp32_and_ten_elsewhere(precision, most):
    theirs = np.tile(np.float32([1, 0]), (1000, 1))
    for wrong in (most, most + 1):
        ours = theirs.copy()
        ours[:wrong] = [0, 1]
        rows = work._compare("any", "window", precision, {"logits": ours}, {"logits": theirs}, 8, 0, {})
        assert next(row for row in rows if row.what == "labels").ok is (wrong == most)


def test_an_assignment_errs_by_as_much_of_it_as_is_wrong():
    p = choices(40)
    one, all_of_them = p.copy(), other(p, slice(None))
    one[:, 0] = all_of_them[:, 0]
    expected = np.abs(one - p).sum((1, 2)) / np.maximum(np.abs(all_of_them - p).sum((1, 2)), 1e-9)
    np.testing.assert_allclose(choice_errors(one, p), expected * choice_errors(all_of_them, p), atol=1e-6)


def test_the_error_of_a_tensor_that_does_not_vary_is_in_units_of_its_size():
    """As of a location that is clamped to the edge in every frame."""
    clamped = np.full((50, 4), 0.8, np.float32)
    assert error_of("glimpses", clamped * np.float32(1.001), clamped) == pytest.approx(1e-3, rel=1e-2)
    assert error_of("glimpses", clamped, clamped) == 0
    assert choice_errors(clamped + np.float32(0.008), clamped) == pytest.approx(np.full(50, 0.01), rel=1e-2)


@pytest.mark.parametrize(("wrong", "ok"), [(0, True), (1, False)])
def test_all_labels_may_be_demanded(wrong, ok):
    theirs = np.eye(4, dtype=np.float32)
    ours = theirs.copy()
    ours[:wrong] = np.roll(ours[:wrong], 1, 1)
    rows = work._compare("any", "window", "int8", {"logits": ours}, {"logits": theirs}, 8, 0, {"labels": 1.0})
    assert next(row for row in rows if row.what == "labels").ok is ok


def test_the_state_of_past_assignments_may_hold_a_near_tie_and_no_nan():
    p = choices(80, 1).reshape(10, 8, 3, 3)
    assert judged(work.PAST_CHOICES, p, p).value == 0
    assert judged(work.PAST_CHOICES, other(p, slice(3, 5)), p).ok
    assert not judged(work.PAST_CHOICES, other(p, slice(3, 7)), p).ok
    broken = p.copy()
    broken[0, 0, 0] = np.nan
    assert not judged(work.PAST_CHOICES, broken, p).ok


def test_nan_never_passes(monkeypatch):
    def broken(out, n):
        out["glimpses"][:] = np.nan
        return out

    assert {("window", "glimpses"), ("step", "glimpses"), ("drift", "glimpses")} <= failed(
        checks_with(monkeypatch, broken, limits={"glimpses": 1e9})
    )


@pytest.mark.slow
def test_other_labels_fail_even_within_wide_tolerances(monkeypatch):
    def rotated(out, n):
        out["logits"] = np.roll(out["logits"], 1, -1)
        return out

    found = failed(checks_with(monkeypatch, rotated, limits={"logits": 1e9}))
    assert {("window", "labels"), ("step", "labels")} <= found and ("drift", "labels") not in found
    # On a robot that carries the state on, the drift is what it runs.
    carried = failed(checks_with(monkeypatch, rotated, 0, limits={"logits": 1e9}))
    assert carried == {("window", "labels"), ("drift", "labels")}


@pytest.mark.slow
@pytest.mark.parametrize("half", [True, False])
def test_fp16_that_the_engines_own_layer_report_does_not_bear_out_fails(monkeypatch, half):
    from trt_build.engines.layers import read_layer_report
    from trt_build.graphs.precision import half_nodes, mixed_precision

    loaded = load_bundle(bundle())
    names = {mode: half_nodes(mixed_precision(loaded, mode)) for mode in ("window", "step")}
    real = work.open_engine

    def reporting(opened, mode, **options):
        engine = real(opened, mode, **options)
        types = ["Half"] * len(names[mode])
        if not half and mode == "step":
            types[3] = "Float"
        entries = [
            {"Name": n, "Outputs": [{"Format/Datatype": t}]} for n, t in zip(names[mode], types, strict=True)
        ]
        engine.layers = lambda: read_layer_report(json.dumps({"Layers": entries}))
        return engine

    monkeypatch.setattr(work, "open_engine", reporting)
    checks = work.verify(loaded, footage(), ["onnxruntime:fp16"], frames=16, most_windows=2, threads=1)
    found = {c.part: c for c in checks if c.what.startswith("layers")}
    assert found["window"].ok and found["step"].ok == half
    assert half or names["step"][3] in found["step"].what
    assert not {c.what for c in checks if not c.ok and c.what in ("logits", "labels")}


@pytest.mark.slow
def test_a_failed_check_is_exit_code_1_and_marked_in_the_table():
    ask = ("--engine", "onnxruntime:fp16", "--tolerance", "logits=0")
    result = call("verify", bundle(), *CLIPS, *SHORT, *ask)
    assert result.exit_code == 1 and "FAILED" in result.stdout, result.output
    assert "logits" in result.stdout and "labels" in result.stdout and "%" in result.stdout


@pytest.mark.slow
def test_wrong_use_is_one_line(tmp_path):
    refuse = command_line.assert_one_line
    refuse(call("verify", bundle(), "--clips", tmp_path / "none"), "no such clip")
    refuse(call("verify", bundle(), *CLIPS, "--engine", "magic"), "magic", "onnxruntime")
    refuse(call("verify", bundle(), *CLIPS, "--engine", "onnxruntime:fp7"), "fp7")
    refuse(call("verify", bundle(), *CLIPS, "--engine", "onnxruntime:int8"), "trt-build quantize")
    refuse(call("verify", bundle(), *CLIPS, "--tolerance", "logits"), "--tolerance")
    refuse(call("verify", bundle(), *CLIPS, "--tolerance", "colour=1"), "colour")
    refuse(call("verify", bundle(), *CLIPS, "--tolerance", "labels=99"), "labels=99", "0 to 1")
    refuse(call("verify", bundle(), *CLIPS, "--frames", 7), "give at least 8")
    refuse(call("verify", bundle(), *CLIPS, "--run", tmp_path / "none"), "none")


def test_a_run_of_another_model_is_refused(tmp_path):
    other = untrained(tmp_path / "run", labels=("one", "two"))
    command_line.assert_one_line(call("verify", bundle(), *CLIPS, "--run", other), "other labels")


def test_the_device_of_a_target_reaches_its_backend(numbers: LoadedBundle) -> None:
    with pytest.raises(EngineError, match="unknown device 'moon'"):
        work._opener(numbers, "onnxruntime:fp32@moon", None)("step")
