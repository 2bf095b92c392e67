# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one engine call: each gets exactly what it would get alone, and nobody waits for anybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.recognition.batch import Batch, Outcome
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.stamps import NS
from tests.toy import FakeEngine, number_image, numbers_of
from trt_build.bundle import LoadedBundle
from trt_build.engines.open import open_engine
from trt_build.errors import EngineError

MODES = pytest.mark.parametrize("mode", ["window", "step"])
NAMES = ("front", "left", "rear")


class Rig:
    """Cameras front, left and rear on one engine; their frames are numbered from 0, 1000 and 2000."""

    def __init__(self, bundle: LoadedBundle, mode: str) -> None:
        self.engine = FakeEngine(open_engine(bundle, mode, batch=3, threads=1))
        self.active: list[list[bool]] = []
        run = self.engine.run

        def watched(inputs: Any, active: Any = None) -> dict[str, np.ndarray]:
            self.active.append(list(active))
            return run(inputs, active)

        self.engine.run = watched  # type: ignore[method-assign]
        self.recognizers = {
            name: Recognizer(bundle, self.engine, mode=mode, slot=slot, owns_engine=False)
            for slot, name in enumerate(NAMES)
        }
        self.batch = Batch(self.engine, self.recognizers)
        self.sent = dict.fromkeys(NAMES, 0)

    def send(self, name: str, count: int = 1) -> None:
        for _ in range(count):
            i = self.sent[name]
            image = number_image(1000 * NAMES.index(name) + i)
            window = self.recognizers[name].offer(image, round(i * NS / 8), bgr=False)
            self.sent[name] += 1
            if window is not None:
                self.batch.add(name, window, ticket=i)

    def work_off(self) -> list[Outcome]:
        outcomes = []
        while self.batch.pending:
            outcomes += self.batch.run()
        return outcomes


def seen_by(outcomes: list[Outcome], name: str) -> list[list[int]]:
    return [numbers_of(o.activity) for o in outcomes if o.key == name and o.activity is not None]


@MODES
def test_all_cameras_that_have_work_share_one_engine_call(numbers: LoadedBundle, mode: str) -> None:
    rig = Rig(numbers, mode)
    outcomes = []
    for _ in range(8):
        rig.send("front")
        rig.send("rear")
        outcomes += rig.work_off()
    assert seen_by(outcomes, "front") == [list(range(8))]
    assert seen_by(outcomes, "rear") == [list(range(2000, 2008))]
    assert rig.active == [[True, False, True]] * (1 if mode == "window" else 8)
    assert {o.ticket for o in outcomes if o.activity} == {7}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 12), st.booleans()), max_size=25))
def test_whatever_the_order_each_camera_gets_what_it_would_get_alone(
    numbers: LoadedBundle, turns: list[tuple[str, int, bool]]
) -> None:
    rig = Rig(numbers, "step")
    outcomes = []
    for name, count, run in turns:
        rig.send(name, count)
        if run:
            outcomes += rig.batch.run()  # one call only: what is left goes on with the next
    outcomes += rig.work_off()
    for base, name in zip((0, 1000, 2000), NAMES, strict=True):
        complete = rig.sent[name] // 8 if rig.recognizers[name].epoch == 0 else None
        seen = seen_by(outcomes, name)
        assert all(window == list(range(window[0], window[0] + 8)) for window in seen)
        if complete is not None:
            skipped = rig.recognizers[name].counters().windows_skipped
            assert len(seen) + skipped == complete
            assert all((window[0] - base) % 8 == 0 for window in seen)


def test_a_backlog_of_one_camera_lets_the_others_join_every_call(numbers: LoadedBundle) -> None:
    rig = Rig(numbers, "step")
    rig.send("left", 20)
    outcomes = list(rig.batch.run())
    for _ in range(8):
        rig.send("front")
        outcomes += rig.batch.run()
    assert seen_by(outcomes, "front") == [list(range(8))]
    assert rig.batch.pending, "the backlog is not yet done"
    assert len(rig.active) == 9 and all(active[1] for active in rig.active)


def test_a_backlog_gives_its_results_one_after_the_other_also_where_nothing_more_comes(
    numbers: LoadedBundle,
) -> None:
    rig = Rig(numbers, "step")
    rig.send("left", 27)  # one piece of work: later frames overtake the tickets of earlier ones
    outcomes, calls = [], 0
    while rig.batch.pending:
        outcomes += rig.batch.run()
        calls += 1
        assert len(outcomes) == calls // 8 + (calls == 27), "eight calls a result"
    assert calls == 27
    assert seen_by(outcomes, "left") == [list(range(n, n + 8)) for n in (1000, 1008, 1016)]


@MODES
def test_nan_in_one_row_is_that_cameras_error_alone(numbers: LoadedBundle, mode: str) -> None:
    rig = Rig(numbers, mode)
    run = rig.engine.run

    def poisoned(inputs: Any, active: Any = None) -> dict[str, np.ndarray]:
        out = run(inputs, active)
        out["logits"] = out["logits"].copy()
        out["logits"][0] = np.nan
        return out

    rig.engine.run = poisoned  # type: ignore[method-assign]
    outcomes = []
    for _ in range(8):
        rig.send("front")
        rig.send("left")
        outcomes += rig.work_off()
    assert seen_by(outcomes, "front") == [] and seen_by(outcomes, "left") == [list(range(1000, 1008))]
    errors = {o.key for o in outcomes if o.error is not None}
    assert errors == {"front"} and all("not finite" in str(o.error) for o in outcomes if o.error)


def test_a_failed_call_starts_every_step_camera_again_also_those_that_were_idle(
    numbers: LoadedBundle,
) -> None:
    rig = Rig(numbers, "step")
    for name in ("front", "left"):
        rig.send(name, 4)
    rig.work_off()

    def fail() -> None:
        raise EngineError("out of memory")

    rig.engine.before_run = fail
    rig.send("front")
    with pytest.raises(EngineError, match="out of memory"):
        rig.batch.run()
    assert not rig.batch.pending
    rig.engine.before_run = None
    outcomes = []
    for _ in range(8):
        rig.send("left")
        outcomes += rig.work_off()
    assert seen_by(outcomes, "left") == [list(range(1004, 1012))], "its old state was undefined"
    assert all(rig.recognizers[name].counters().resets == {"engine error": 1} for name in NAMES)


def test_a_failed_call_costs_window_cameras_one_window(numbers: LoadedBundle) -> None:
    rig = Rig(numbers, "window")
    rig.send("front", 8)

    def fail() -> None:
        raise EngineError("out of memory")

    rig.engine.before_run = fail
    with pytest.raises(EngineError):
        rig.batch.run()
    rig.engine.before_run = None
    rig.send("front")
    assert seen_by(rig.work_off(), "front") == [list(range(1, 9))]


@MODES
def test_work_from_before_a_reset_is_no_outcome_and_no_engine_call(numbers: LoadedBundle, mode: str) -> None:
    rig = Rig(numbers, mode)
    rig.send("front", 8)
    rig.recognizers["front"].reset("asked")
    assert rig.work_off() == [] and rig.active == []


def test_two_cameras_on_one_slot_are_refused(make_bundle: Callable[..., LoadedBundle]) -> None:
    bundle = make_bundle()
    engine = open_engine(bundle, "window", batch=2, threads=1)
    twins = {name: Recognizer(bundle, engine, slot=1, owns_engine=False) for name in ("a", "b")}
    with pytest.raises(EngineError, match="share a slot"):
        Batch(engine, twins)
