# SPDX-License-Identifier: Apache-2.0
"""The heart: which frames make which result. Frames carry their number, the toy's logits say which were seen."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from gc_ros.media.images import Picture
from gc_ros.recognition.recognizer import Activity, Recognizer, Window, stream_label
from gc_ros.recognition.smoothing import Smoothing
from gc_ros.stamps import NS
from tests.gc_ros.node.streams import CameraFrame, streams
from tests.toy import FakeEngine, assignment_table, glimpse_table, number_image, numbers_of
from trt_build.bundle import LoadedBundle
from trt_build.engines.open import open_engine
from trt_build.errors import DataError, EngineError, ImageError

MODES = pytest.mark.parametrize("mode", ["window", "step"])


def recognizer(bundle: LoadedBundle, mode: str = "window", **options: Any) -> Recognizer:
    return Recognizer(bundle, open_engine(bundle, mode, threads=1), mode=mode, **options)


def faked(bundle: LoadedBundle, mode: str, **options: Any) -> tuple[Recognizer, FakeEngine]:
    engine = FakeEngine(open_engine(bundle, mode, threads=1))
    return Recognizer(bundle, engine, mode=mode, **options), engine


def at_rate(count: int, start: int = 0, hz: float = 8.0) -> Iterator[tuple[np.ndarray, int]]:
    """`count` images, numbered from `start`, that a camera at the sampling rate sends."""
    for i in range(start, start + count):
        yield number_image(i), round(i * NS / hz)


def play(r: Recognizer, frames: Any) -> list[Activity]:
    results = [r.push(image, stamp, bgr=False) for image, stamp in frames]
    return [result for result in results if result is not None]


# -- which frames make a result ------------------------------------------------------------------------------


@MODES
def test_eight_frames_give_exactly_one_result_stamped_as_the_eighth(numbers: LoadedBundle, mode: str) -> None:
    r = recognizer(numbers, mode)
    assert play(r, at_rate(7)) == [] and r.warmup == (7, 8)
    (result,) = play(r, at_rate(1, 7))
    assert numbers_of(result) == list(range(8))
    assert result.stamp_ns == result.window_end_ns == round(7 * NS / 8) and result.window_start_ns == 0
    assert r.warmup == (8, 8) and r.counters().results == 1


def test_stride_counts_sampled_frames_between_results(numbers: LoadedBundle) -> None:
    results = play(recognizer(numbers, stride=3), at_rate(20))
    assert [numbers_of(x)[-1] for x in results] == [7, 10, 13, 16, 19]
    assert numbers_of(results[1]) == list(range(3, 11))


def test_a_step_model_that_starts_again_gives_one_result_a_start(numbers: LoadedBundle) -> None:
    results = play(recognizer(numbers, "step", stride=1), at_rate(26))
    assert [numbers_of(x) for x in results] == [list(range(n, n + 8)) for n in (0, 8, 16)]


def test_a_step_model_that_carries_on_means_over_the_last_window(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    results = play(recognizer(make_bundle(reset_after=0), "step", stride=2), at_rate(30))
    assert [x.stamp_ns for x in results] == [round(n * NS / 8) for n in range(7, 30, 2)]
    for x in results:  # the toy's state counts modulo T: the window comes out rotated
        last = round(x.stamp_ns * 8 / NS)
        assert sorted(numbers_of(x)) == list(range(last - 7, last + 1))
        assert x.window_start_ns == round((last - 7) * NS / 8)


def test_a_step_model_that_starts_again_later_fills_its_window_each_time(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    results = play(recognizer(make_bundle(reset_after=12), "step"), at_rate(26))
    ends = [round(x.stamp_ns * 8 / NS) for x in results]
    assert ends == [7, 8, 9, 10, 11, 19, 20, 21, 22, 23]


@MODES
def test_pixels_are_made_of_sampled_frames_alone(numbers: LoadedBundle, mode: str) -> None:
    made: list[int] = []

    def picture(n: int) -> Picture:
        def make() -> np.ndarray:
            made.append(n)
            return number_image(n)

        return Picture(*number_image(n).shape[1::-1], False, make)

    lazy, plain = recognizer(numbers, mode), recognizer(numbers, mode)
    stamps = [(n, round(n * NS / 30)) for n in range(100)]
    found = [lazy.push(picture(n), stamp) for n, stamp in stamps]
    expected = [plain.push(number_image(n), stamp, bgr=False) for n, stamp in stamps]
    seen = [numbers_of(x) for x in found if x]
    assert seen and seen == [numbers_of(x) for x in expected if x]
    assert len(made) == lazy.counters().frames_sampled == 27 and made == sorted(
        {n for w in seen for n in w} | set(made)
    )
    assert lazy.counters() == plain.counters()


@MODES
def test_a_picture_that_does_not_decode_leaves_no_trace_and_the_next_takes_its_place(
    numbers: LoadedBundle, mode: str
) -> None:
    def broken() -> np.ndarray:
        raise ValueError("corrupt")

    r = recognizer(numbers, mode)
    play(r, at_rate(4, hz=16))
    before, size = r.counters(), number_image(0).shape[1::-1]
    r.push(number_image(4), round(4 * NS / 16), bgr=False)
    assert r.push(Picture(*size, False, broken), round(5 * NS / 16)) is None  # not due: nobody looks
    with pytest.raises(ImageError, match="corrupt"):
        r.push(Picture(*size, False, broken), round(6 * NS / 16))
    assert r.counters().frames_received == before.frames_received + 2 and r.counters().dropped == {}
    r.push(number_image(7), round(7 * NS / 16), bgr=False)  # a little late, but due still
    assert r.counters().frames_sampled == before.frames_sampled + 2


@settings(max_examples=60)
@given(streams(8.0, 0.5))
def test_no_result_mixes_two_sides_of_a_break_and_step_equals_window(
    numbers: LoadedBundle, frames: list[CameraFrame]
) -> None:
    by_number = {frame.number: frame for frame in frames}
    seen: dict[str, list[list[int]]] = {}
    for mode in ("window", "step"):
        r = recognizer(numbers, mode, stride=8, max_frame_gap_s=0.5)
        seen[mode] = []
        for frame in frames:
            result = r.push(number_image(frame.number, frame.width), frame.stamp_ns, bgr=False)
            if result is None:
                continue
            window = [by_number[n] for n in numbers_of(result)]
            assert len({f.stretch for f in window}) == 1
            assert all(a.stamp_ns < b.stamp_ns and a.number < b.number for a, b in pairwise(window))
            assert (result.window_start_ns, result.stamp_ns) == (window[0].stamp_ns, window[-1].stamp_ns)
            assert window[-1] == frame and result.width == frame.width
            seen[mode].append([f.number for f in window])
    assert seen["window"] == seen["step"]


@pytest.mark.parametrize("rate_hz", [4.0, 8.0])
def test_cameras_of_any_rate_give_the_same_windows(
    make_bundle: Callable[..., LoadedBundle], rate_hz: float
) -> None:
    bundle = make_bundle(rate_hz=rate_hz)
    ends: dict[float, list[Activity]] = {}
    for hz in (10.0, 15.0, 30.0, 60.0):
        ends[hz] = play(recognizer(bundle), at_rate(int(10 * hz), hz=hz))
    for hz, results in ends.items():
        assert abs(len(results) - len(ends[60.0])) <= 1
        for a, b in zip(results, ends[60.0], strict=False):
            assert abs(a.stamp_ns - b.stamp_ns) <= NS / hz
            seen, reference = np.array(numbers_of(a)) / hz, np.array(numbers_of(b)) / 60
            assert np.abs(seen - reference).max() <= 1 / hz


# -- breaks ---------------------------------------------------------------------------------------------------


@MODES
def test_every_break_is_counted_by_its_reason(numbers: LoadedBundle, mode: str) -> None:
    r = recognizer(numbers, mode)
    play(r, at_rate(10))
    play(r, at_rate(10, 40))  # gap
    play(r, at_rate(10))  # loop
    r.push(number_image(1, 20, 12), 2 * NS, bgr=False)  # size
    r.push(number_image(1, 20, 12), 2 * NS + 10**8, bgr=True)  # channel order
    r.push(number_image(1, 20, 12), 2 * NS + 2 * 10**8, bgr=True, encoding="yuv")
    r.reset("asked")
    assert r.counters().resets == {
        "gap": 1,
        "backward": 1,
        "size change": 1,
        "encoding change": 2,
        "asked": 1,
    }
    assert r.epoch == 6 and r.warmup == (0, 8)


def test_useless_frames_are_counted_by_their_reason(numbers: LoadedBundle) -> None:
    r = recognizer(numbers)
    play(r, at_rate(4))
    r.offer(number_image(3), round(3 * NS / 8), bgr=False)
    r.offer(number_image(3), round(3 * NS / 8) - NS // 100, bgr=False)
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), None):
        with pytest.raises(ImageError):
            r.offer(bad, NS, bgr=False)  # type: ignore[arg-type]
    counters = r.counters()
    assert counters.dropped == {"duplicate": 1, "old": 1, "image": 3} and counters.frames_dropped == 5
    assert counters.frames_received == 9 and counters.frames_sampled == 4
    (result,) = play(r, at_rate(4, 4))  # and the window went on
    assert numbers_of(result) == list(range(8)) and result.frames_dropped == 5


def test_behind_a_reset_images_of_another_size_are_no_further_break(numbers: LoadedBundle) -> None:
    r = recognizer(numbers)
    play(r, at_rate(4))
    r.reset("asked")
    r.push(number_image(1, 20, 12), NS, bgr=False)
    assert r.counters().resets == {"asked": 1}


@MODES
def test_an_image_that_a_reset_overtakes_is_in_no_window(numbers: LoadedBundle, mode: str) -> None:
    r = recognizer(numbers, mode)

    class Slow(Picture):
        """Somebody resets while it is resized."""

        def prepared(self, p: Any) -> np.ndarray:
            r.reset("asked")
            return super().prepared(p)

    image = number_image(0)
    play(r, at_rate(4))
    assert r.offer(Slow(*image.shape[1::-1], False, lambda: image), NS) is None and r.warmup == (0, 8)
    asked = r.asked
    r.reset("asked")
    assert r.offer(image, 2 * NS, bgr=False, asked=asked) is None and r.warmup == (0, 8)
    assert r.counters().frames_received == 6 and r.counters().frames_sampled == 4


@MODES
def test_a_window_from_before_a_reset_is_refused(numbers: LoadedBundle, mode: str) -> None:
    r = recognizer(numbers, mode)
    windows = [r.offer(image, stamp, bgr=False) for image, stamp in at_rate(8)]
    r.reset("asked")
    assert windows[-1] is not None and r.infer(windows[-1]) is None
    assert r.counters().results == 0
    assert [numbers_of(x) for x in play(r, at_rate(8, 100))] == [list(range(100, 108))]


@MODES
def test_a_reset_while_the_engine_runs_voids_the_result(numbers: LoadedBundle, mode: str) -> None:
    r, engine = faked(numbers, mode)
    play(r, at_rate(7))
    engine.before_run = lambda: r.reset("asked")
    assert play(r, at_rate(1, 7)) == []
    engine.before_run = None
    assert [numbers_of(x) for x in play(r, at_rate(8, 50))] == [list(range(50, 58))]


# -- one thread offers, another infers ------------------------------------------------------------------------


def offered(r: Recognizer, count: int, start: int = 0) -> list[Window]:
    windows = [r.offer(image, stamp, bgr=False) for image, stamp in at_rate(count, start)]
    return [window for window in windows if window is not None]


def test_the_newest_window_wins_and_overtaken_ones_are_counted(numbers: LoadedBundle) -> None:
    r = recognizer(numbers)
    windows = offered(r, 12)
    newest = r.infer(windows[-1])
    assert newest is not None and numbers_of(newest) == list(range(4, 12)) and newest.windows_skipped == 4
    assert r.infer(windows[0]) is None and r.infer(windows[-1]) is None
    assert r.counters().windows_skipped == 4


def test_what_a_reset_or_a_failed_run_took_was_not_overtaken(numbers: LoadedBundle) -> None:
    r, engine = faked(numbers, "window")
    offered(r, 12)
    r.reset("asked")
    engine.poison = True
    for window in offered(r, 10, 100):
        with pytest.raises(EngineError):
            r.infer(window)
    engine.poison = False
    (result,) = play(r, at_rate(1, 110))
    assert numbers_of(result) == list(range(103, 111)) and result.windows_skipped == 0
    assert r.infer(offered(r, 3, 111)[-1]).windows_skipped == 2


def test_windows_keep_their_frames_while_newer_ones_arrive(numbers: LoadedBundle) -> None:
    r = recognizer(numbers)
    first = offered(r, 8)[0]
    offered(r, 5, 8)
    result = r.infer(first)
    assert (
        result is not None and numbers_of(result) == list(range(8)) and result.stamp_ns == round(7 * NS / 8)
    )


def test_step_frames_wait_for_a_slow_engine_and_none_is_lost(numbers: LoadedBundle) -> None:
    r = recognizer(numbers, "step")
    windows = offered(r, 5)
    assert r.infer(windows[0]) is None
    windows = offered(r, 14, 5)  # 19 frames, 14 of them in the backlog: more than one turn takes
    results = [r.infer(window) for window in windows]
    assert [numbers_of(result) for result in results if result is not None] == [
        list(range(8)),
        list(range(8, 16)),
    ]
    assert not r.waits(windows[-1]) and r.counters().windows_skipped == 0


def test_of_step_results_that_fall_due_in_one_turn_the_newest_counts(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    r = recognizer(make_bundle(reset_after=0), "step")
    windows = offered(r, 7)
    assert [r.infer(window) for window in windows] == [None] * 7
    windows = offered(r, 5, 7)
    result = r.infer(windows[0])
    assert result is not None and result.stamp_ns == windows[-1].stamps[-1] and result.windows_skipped == 4
    assert all(r.infer(window) is None for window in windows)


def test_an_engine_slower_than_the_camera_gives_results_until_the_frames_are_too_many(
    numbers: LoadedBundle,
) -> None:
    """Two frames come during each engine call: their queue never empties."""
    r, engine = faked(numbers, "step")
    frames = at_rate(200)
    windows: list[Window] = []

    def arrive() -> None:
        for image, stamp in (next(frames), next(frames)):
            window = r.offer(image, stamp, bgr=False)
            assert window is not None
            windows.append(window)

    arrive()
    engine.before_run = arrive
    results: list[Activity] = []
    while not r.counters().resets:
        before = engine.runs
        result = r.infer(windows[-1])
        assert engine.runs - before <= 8, "a turn is bounded"
        results += [] if result is None else [result]
    assert r.counters().resets == {"overload": 1}
    # 64 frames waited then, so that 64 had been worked off, eight a result; those of the last turn are void.
    assert [numbers_of(result) for result in results] == [list(range(n, n + 8)) for n in range(0, 56, 8)]


def test_an_engine_far_too_slow_for_the_stream_starts_again_instead_of_hiding_a_hole(
    numbers: LoadedBundle,
) -> None:
    r = recognizer(numbers, "step")
    windows = offered(r, 70)
    assert r.counters().resets == {"overload": 1}
    assert r.infer(windows[0]) is None
    assert r.infer(windows[-1]) is None  # 64 frames were void, 6 are in the new window
    (window,) = offered(r, 2, 70)[-1:]
    result = r.infer(window)
    assert result is not None and numbers_of(result) == list(range(64, 72))


@MODES
def test_two_threads_and_resets_never_mix_and_never_raise(numbers: LoadedBundle, mode: str) -> None:
    r = recognizer(numbers, mode)
    box: list[Window | None] = [None]
    ready = threading.Condition()
    results: list[Activity] = []
    failures: list[BaseException] = []
    done = False

    def work() -> None:
        try:
            while True:
                with ready:
                    ready.wait_for(lambda: box[0] is not None or done)
                    window, box[0] = box[0], None
                if window is None:
                    return
                result = r.infer(window)
                if result is not None:
                    results.append(result)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    starts = {0}
    for i in range(3000):
        if i % 97 == 96:
            starts.add(i)
            r.reset("asked")
        window = r.offer(number_image(i), round(i * NS / 8), bgr=False)
        if window is not None:
            with ready:
                box[0] = window
                ready.notify()
    with ready:
        done = True
        ready.notify()
    worker.join(20)
    assert not worker.is_alive() and not failures and results
    for result in results:
        seen = numbers_of(result)
        assert seen == list(range(seen[0], seen[0] + 8))
        assert not any(seen[0] < start <= seen[-1] for start in starts)
    assert all(a.stamp_ns < b.stamp_ns for a, b in pairwise(results))


# -- the engine fails -----------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("output", ["logits", "embedding", "glimpses", "assignment"])
def test_nan_is_an_engine_error_and_the_recogniser_recovers(
    make_bundle: Callable[..., LoadedBundle], mode: str, output: str
) -> None:
    r, engine = faked(make_bundle("numbers", embedding=True), mode)
    play(r, at_rate(7))
    engine.poison, engine.poisoned = True, output
    with pytest.raises(EngineError, match=f"{output} are not finite"):
        play(r, at_rate(1, 7))
    engine.poison = False
    results = play(r, at_rate(8, 8))
    # A window is computed anew each time; a carried state that saw NaN starts again.
    first = list(range(1, 9)) if mode == "window" else list(range(8, 16))
    assert numbers_of(results[0]) == first
    assert r.counters().resets == ({} if mode == "window" else {"engine error": 1})


@MODES
def test_a_failing_engine_is_an_engine_error_every_time(numbers: LoadedBundle, mode: str) -> None:
    r, engine = faked(numbers, mode)

    def fail() -> None:
        raise EngineError("out of memory")

    engine.before_run = fail
    failed = 0
    for image, stamp in at_rate(12):
        try:
            r.push(image, stamp, bgr=False)
        except EngineError:
            failed += 1
    assert failed == (5 if mode == "window" else 12)


# -- what a result says ---------------------------------------------------------------------------------------


def test_scores_are_calibrated_and_the_top_is_sorted(make_bundle: Callable[..., LoadedBundle]) -> None:
    (result,) = play(recognizer(make_bundle(temperature=3.0), top_k=3), at_rate(8))
    want = np.exp(np.arange(8) / 3.0)
    assert np.allclose(result.scores, want / want.sum()) and result.scores.sum() == pytest.approx(1)
    assert [(label, index) for label, index, _ in result.top_k] == [
        ("frame7", 7),
        ("frame6", 6),
        ("frame5", 5),
    ]
    assert (result.label, result.index, result.score) == result.top_k[0]
    assert result.status == "ok" and result.model_id == "toy-numbers"
    assert result.inference_s > 0 and result.preprocess_s >= 0


def test_below_the_threshold_it_is_unknown(make_bundle: Callable[..., LoadedBundle]) -> None:
    bundle = make_bundle("colours", unknown_threshold=0.9)
    grey = [(np.full((12, 16, 3), 100, np.uint8), stamp) for _, stamp in at_rate(8)]
    (result,) = play(recognizer(bundle), grey)
    assert result.status == "unknown" and result.label == "red" and result.score == pytest.approx(1 / 3)
    (result,) = play(recognizer(bundle, unknown_threshold=0.2), grey)
    assert result.status == "ok"


def test_an_idle_label_is_unknown_whatever_its_score_and_no_event(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    for idle, status in (([], "ok"), (["frame7"], "unknown")):
        r = recognizer(make_bundle(idle=idle), smoothing=Smoothing(tau_s=0, onset=0.5))
        (result,) = play(r, at_rate(8))
        assert (result.label, result.status) == ("frame7", status) and result.score > 0.6
        assert [e.kind for e in result.events] == (["onset"] if status == "ok" else [])


def test_what_is_like_nothing_known_is_unknown_and_begins_nothing(numbers: LoadedBundle) -> None:
    strange = SimpleNamespace(
        labels=numbers.info.labels, names=(), apply=lambda scores, features: (scores, True)
    )
    r = recognizer(numbers, smoothing=Smoothing(tau_s=0, onset=0.5), lessons=strange)
    (result,) = play(r, at_rate(8))
    assert (result.label, result.status, result.events) == ("frame7", "unknown", []) and result.score > 0.6


@pytest.mark.parametrize(("taught", "status"), [(True, "ok"), (False, "unknown")])
def test_the_threshold_of_the_bundle_is_for_its_own_activities_alone(
    numbers: LoadedBundle, taught: bool, status: str
) -> None:
    scores = np.eye(9)[8 if taught else 0] * 0.8
    lessons = SimpleNamespace(
        labels=[*numbers.info.labels, "bow"], names=("bow",), apply=lambda own, features: (scores, False)
    )
    r = recognizer(numbers, unknown_threshold=0.9, lessons=lessons)
    (result,) = play(r, at_rate(8))
    assert (result.label, result.status) == ("bow" if taught else "frame0", status)


def test_glimpses_of_a_step_are_those_of_its_own_frame_where_the_engine_writes_over_its_outputs(
    make_bundle: Callable[..., LoadedBundle],
) -> None:
    r, engine = faked(make_bundle(reset_after=0), "step", stride=8)
    run, kept = engine.run, {}

    def overwriting(inputs: Any, active: Any = None) -> dict[str, np.ndarray]:
        for name, value in run(inputs, active).items():
            number = engine.runs if name in ("glimpses", "assignment") else 1
            kept.setdefault(name, np.empty_like(value))[:] = value / number
        return kept

    engine.run = overwriting  # type: ignore[method-assign]
    play(r, at_rate(7))
    for image, stamp in at_rate(3, 7):  # a result falls due with the first of the three that wait
        window = r.offer(image, stamp, bgr=False)
    result = r.infer(window)
    assert result is not None and result.stamp_ns == round(7 * NS / 8)
    assert result.assignment == pytest.approx(assignment_table(3, 3) / 8)
    assert [(g.x1 - g.x0) / 16 for g in result.glimpses] == pytest.approx(glimpse_table(3)[:, 2] / 8)


def test_glimpses_are_boxes_in_the_original_image(make_bundle: Callable[..., LoadedBundle]) -> None:
    bundle = make_bundle(G=2, C=4)
    frames = [(number_image(i, 640, 480), stamp) for i, (_, stamp) in enumerate(at_rate(8))]
    for mode in ("window", "step"):
        (result,) = play(recognizer(bundle, mode), frames)
        first, second = result.glimpses
        assert (first.x0, first.y0, first.x1, first.y1) == pytest.approx((96, 120, 224, 264))
        assert np.allclose(result.assignment, assignment_table(4, 2)) and len(second.weights) == 4
        assert (result.width, result.height) == (640, 480)


def test_bgr_and_rgb_give_the_same_result(colours: LoadedBundle) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    a, b = recognizer(colours), recognizer(colours)
    for _, stamp in at_rate(8):
        x = a.push(image, stamp, bgr=True)
        y = b.push(np.ascontiguousarray(image[..., ::-1]), stamp, bgr=False)
    assert x is not None and y is not None and np.array_equal(x.logits, y.logits)


def test_events_come_with_results_and_a_break_ends_what_is_on(colours: LoadedBundle) -> None:
    def coloured(channel: int, count: int, start: int) -> list[tuple[np.ndarray, int]]:
        image = np.zeros((12, 16, 3), np.uint8)
        image[..., channel] = 255
        return [(image, round(i * NS / 8)) for i in range(start, start + count)]

    r = recognizer(colours, smoothing=Smoothing(tau_s=0))
    events = [e for x in play(r, coloured(0, 10, 0) + coloured(2, 20, 10)) for e in x.events]
    assert [(e.kind, e.label) for e in events] == [("onset", "red"), ("offset", "red"), ("onset", "blue")]
    assert [(e.kind, e.label) for e in r.reset("asked")] == [("offset", "blue")]
    play(r, coloured(1, 8, 30))
    r.offer(*coloured(1, 1, 100)[0], bgr=False)  # gap
    assert [(e.kind, e.label) for e in r.take_events()] == [("offset", "green")] and r.take_events() == []


def test_a_change_of_the_smoothing_holds_from_the_next_result_and_forgets_nothing(
    colours: LoadedBundle,
) -> None:
    red = np.zeros((12, 16, 3), np.uint8)
    red[..., 0] = 8  # score about 0.53
    frames = [(red, round(i * NS / 8)) for i in range(40)]
    r = recognizer(colours, smoothing=Smoothing(tau_s=0, onset=0.9, offset=0.4))
    assert [e for x in play(r, frames[:10]) for e in x.events] == []
    r.smoothing = Smoothing(tau_s=0, onset=0.5, offset=0.4, min_duration_s=0.5)
    events = [e for x in play(r, frames[10:20]) for e in x.events]
    assert [(e.kind, e.stamp_ns) for e in events] == [("onset", frames[10][1])]
    r.smoothing = Smoothing(tau_s=0, onset=0.9, offset=0.4)  # what is on stays on above the offset threshold
    assert [e for x in play(r, frames[20:30]) for e in x.events] == []
    r.smoothing = Smoothing(tau_s=0, onset=0.9, offset=0.6)
    events = [e for x in play(r, frames[30:]) for e in x.events]
    assert [(e.kind, e.stamp_ns) for e in events] == [("offset", frames[30][1])]
    assert r.counters().resets == {} and r.smoothing.offset == 0.6


def test_the_label_of_a_stream_is_the_best_mean_score(colours: LoadedBundle) -> None:
    images = [np.zeros((12, 16, 3), np.uint8) for _ in range(24)]
    for i, image in enumerate(images):
        image[..., 0 if i < 14 else 1] = 60
    results = play(recognizer(colours), [(image, round(i * NS / 8)) for i, image in enumerate(images)])
    label, scores = stream_label(results)
    assert label == "red" and np.allclose(scores, np.mean([x.scores for x in results], axis=0))
    with pytest.raises(DataError):
        stream_label([])


# -- engines and slots ----------------------------------------------------------------------------------------


@MODES
def test_cameras_share_an_engine_slot_by_slot(numbers: LoadedBundle, mode: str) -> None:
    engine = open_engine(numbers, mode, batch=2, threads=1)
    front, left = (Recognizer(numbers, engine, mode=mode, slot=slot, owns_engine=False) for slot in (0, 1))
    results: dict[str, list[list[int]]] = {"front": [], "left": []}
    for i in range(40):
        for name, r, start in (("front", front, 0), ("left", left, 1000)):
            if name == "left" and i % 3 == 0:  # a slower camera
                continue
            result = r.push(number_image(start + i), round(i * NS / 8), bgr=False)
            if result is not None:
                results[name].append(numbers_of(result))
    assert results["front"][0] == list(range(8)) and results["left"][0] == [
        1000 + i for i in range(1, 13) if i % 3
    ]
    assert all(min(seen) >= 1000 for seen in results["left"])
    left.close()
    more = play(front, at_rate(8, 40))  # its engine still runs
    assert numbers_of(more[-1])[-1] == 47


def test_a_wrong_engine_or_slot_is_refused(numbers: LoadedBundle) -> None:
    engine = open_engine(numbers, "window", threads=1)
    with pytest.raises(EngineError, match="mode 'step'"):
        Recognizer(numbers, engine, mode="step")
    with pytest.raises(EngineError, match="slot 1"):
        Recognizer(numbers, engine, slot=1)
    for wrong, words in (
        ({"stride": 0}, "stride and top_k must be at least 1"),
        ({"mode": "foo"}, "mode is 'window' or 'step', not 'foo'"),
        ({"unknown_threshold": math.nan}, "a probability, 0 to 1"),
        ({"unknown_threshold": 1.5}, "a probability, 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            Recognizer(numbers, engine, **wrong)
    with pytest.raises(TypeError):
        Recognizer(numbers, engine, stride=1.5)


@MODES
def test_closed_it_takes_and_gives_nothing(numbers: LoadedBundle, mode: str) -> None:
    r = recognizer(numbers, mode)
    window = offered(r, 8)[-1]
    r.close()
    r.close()
    assert r.offer(number_image(1), 2 * NS, bgr=False) is None and r.infer(window) is None


def test_closing_does_not_wait_for_ever_for_a_hanging_engine(numbers: LoadedBundle) -> None:
    r, engine = faked(numbers, "window")
    window = offered(r, 8)[-1]
    entered, leave = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        leave.wait(20)

    engine.before_run = hang
    answers: list[Activity | None] = []
    worker = threading.Thread(target=lambda: answers.append(r.infer(window)))
    worker.start()
    assert entered.wait(20)
    assert not r.close(timeout_s=0.05)
    leave.set()
    worker.join(20)
    assert answers == [None] and r.close()
