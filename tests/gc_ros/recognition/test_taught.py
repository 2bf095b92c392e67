# SPDX-License-Identifier: Apache-2.0
"""Teaching by showing: the discriminant over old and new classes, its checks, and the recogniser that applies it."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_ros.recognition import discriminant
from gc_ros.recognition import taught as taught_module
from gc_ros.recognition.discriminant import Discriminant, Rows
from gc_ros.recognition.limits import limit
from gc_ros.recognition.overlay import draw
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.space import Examples, Metric, Space
from gc_ros.recognition.taught import Lessons, Taught, check_name, examples_of, space_of
from gc_ros.stamps import NS
from tests.toy import toy_bundle
from trt_build.classes import ClassStatistics
from trt_build.engines.open import open_engine
from trt_build.errors import BundleError, DataError

F, K = 60, 4


def world(seed: int = 0, apart: float = 1.0) -> tuple[np.random.Generator, np.ndarray, np.ndarray, Space]:
    """A generator, how features scatter, the old classes' middles, and the space of 40 windows of each."""
    rng = np.random.default_rng(seed)
    mix = np.diag(rng.uniform(0.2, 3, F)) @ np.linalg.qr(rng.normal(size=(F, F)))[0]
    middles = apart * rng.normal(size=(K, F)) @ mix
    labels = np.repeat(np.arange(K), 40)
    return rng, mix, middles, Space(ClassStatistics.of(middles[labels] + scatter(rng, mix, 160), labels, K))


def scatter(rng: np.random.Generator, mix: np.ndarray, n: int) -> np.ndarray:
    return rng.normal(size=(n, F)) @ mix


def shown(rng: np.random.Generator, mix: np.ndarray, middle: np.ndarray, clips: int = 5) -> Examples:
    """Three windows a clip."""
    return examples_of([(middle + scatter(rng, mix, 3)).astype(np.float32) for _ in range(clips)])


def own_scores(k: int) -> np.ndarray:
    """As a network that knows its classes gives them."""
    scores = np.full(K, 0.1 / (K - 1))
    scores[k] = 0.9
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_what_was_shown_five_times_is_recognised_and_old_classes_stay_what_they_are(seed):
    rng, mix, middles, space = world(seed)
    new = rng.normal(size=(3, F)) @ mix
    d = Discriminant(space, ["a", "b", "c"], [shown(rng, mix, m) for m in new])
    for j in range(3):
        found = [d.scores(own_scores(0), x)[0].argmax() for x in new[j] + scatter(rng, mix, 50)]
        assert np.mean(np.array(found) == K + j) > 0.9
    for k in range(K):
        found = [d.scores(own_scores(k), x)[0].argmax() for x in middles[k] + scatter(rng, mix, 100)]
        assert np.mean(np.array(found) == k) >= 0.99


def test_what_was_never_shown_is_mostly_unknown_or_old_without_examples_of_it():
    missed, rejected = [], []
    for seed in range(6):
        rng, mix, _, space = world(seed)
        new = rng.normal(size=(3, F)) @ mix
        d = Discriminant(space, ["a", "b", "c"], [shown(rng, mix, m) for m in new])
        network = np.full(K, 1 / K)
        for m in new:
            rejected += [d.scores(network, x)[1] for x in m + scatter(rng, mix, 30)]
        for x in rng.normal(size=(90, F)) @ mix + scatter(rng, mix, 90):
            scores, strange = d.scores(network, x)
            missed.append(not strange and scores.argmax() >= K)
    assert np.mean(rejected) < 0.15 and np.mean(missed) < 0.1


def test_what_is_far_from_all_that_was_shown_is_strange_on_the_side_away_from_the_old_too():
    """As far from the old classes as nothing shown is: that alone does not make it one of the taught."""
    for seed in range(6):
        rng, mix, middles, space = world(seed)
        new = rng.normal(size=(3, F)) @ mix
        d = Discriminant(space, ["a", "b", "c"], [shown(rng, mix, m) for m in new])
        for x in new + 3 * (new - middles.mean(axis=0)):
            scores, unknown = d.scores(np.full(K, 1 / K), x)
            assert scores.argmax() >= K and unknown


def by_people(rng: np.random.Generator, mix: np.ndarray, middle: np.ndarray, people: np.ndarray) -> Examples:
    """Two clips of each of the people, who differ far more than their clips do."""
    clips = [middle + person + 0.3 * scatter(rng, mix, 3) for person in people for _ in range(2)]
    return examples_of([clip.astype(np.float32) for clip in clips])


@pytest.mark.parametrize(("count", "most"), [(2, 0.5), (4, 0.05)])
def test_a_further_person_is_known_though_each_of_those_shown_is_always_alike(count: int, most: float):
    """Leaving out single clips rejects 87 and 9 % of these windows: another clip of the same person is still there."""
    rejected = []
    for seed in range(8):
        rng, mix, _, space = world(seed)
        new, people = 2 * rng.normal(size=(3, F)) @ mix, rng.normal(size=(count + 1, F)) @ mix
        d = Discriminant(space, ["a", "b", "c"], [by_people(rng, mix, m, people[:count]) for m in new])
        for m in new:
            fresh = m + people[count] + 0.3 * scatter(rng, mix, 20)
            rejected += [d.scores(np.full(K, 1 / K), x)[1] for x in fresh]
    assert np.mean(rejected) < most


def once(space: Space, rng: np.random.Generator, mix: np.ndarray) -> float:
    """Share of windows told apart of five activities that were shown once."""
    middles = 0.5 * rng.normal(size=(5, F)) @ mix
    rows = Rows(space, [examples_of([(m + scatter(rng, mix, 1)).astype(np.float32)]) for m in middles])
    fresh = [rows(m + scatter(rng, mix, 40))[:, K:].argmax(axis=1) == j for j, m in enumerate(middles)]
    return float(np.mean(fresh))


def test_two_clips_of_one_person_do_not_say_how_strange_others_may_be():
    """What tells strangers from that person would be who it is: of others, every window is unknown then."""
    rejected = {}
    for clips in (2, 3):
        for seed in range(4):
            rng, mix, _, space = world(seed)
            new, people = 2 * rng.normal(size=(3, F)) @ mix, rng.normal(size=(2, F)) @ mix
            alike = [m + people[0] + 0.1 * scatter(rng, mix, 3 * clips) for m in new]
            examples = [examples_of(np.split(a.astype(np.float32), clips)) for a in alike]
            d = Discriminant(space, ["a", "b", "c"], examples)
            fresh = [m + people[1] + 0.1 * scatter(rng, mix, 20) for m in new]
            rejected.setdefault(clips, []).extend(
                d.scores(np.full(K, 1 / K), x)[1] for x in np.concatenate(fresh)
            )
    assert np.mean(rejected[2]) == 0 and np.mean(rejected[3]) > 0.3


def test_what_was_shown_once_is_told_apart_better_for_being_drawn_to_the_middle(monkeypatch):
    _, mix, _, space = world()
    drawn = np.mean([once(space, np.random.default_rng(seed), mix) for seed in range(40)])
    monkeypatch.setattr(discriminant, "CHANCE", 0.0)
    plain = np.mean([once(space, np.random.default_rng(seed), mix) for seed in range(40)])
    assert drawn > plain + 0.01


def test_the_more_clips_the_less_a_class_is_drawn_to_the_middle():
    rng, mix, _, space = world()
    one, five = (shown(rng, mix, rng.normal(size=F) @ mix, n) for n in (1, 5))
    rows = Rows(space, [one, five])
    middle = rows.shown.mean(axis=0)
    assert np.allclose(rows.means[K] - middle, (rows.shown[0] - middle) / 3)
    assert np.allclose(rows.means[K + 1] - middle, (rows.shown[1] - middle) * 25 / 27)
    alone = Rows(space, [one], five)  # the middle of one is where it is, and none-of-these has no part in it
    assert np.allclose(alone.means[K:], alone.shown)


def test_among_the_old_classes_the_networks_own_scores_keep_their_proportions():
    rng, mix, middles, space = world()
    d = Discriminant(space, ["a"], [shown(rng, mix, rng.normal(size=F) @ mix)])
    scores = np.array([0.5, 0.3, 0.15, 0.05])
    found, _ = d.scores(scores, middles[0] + scatter(rng, mix, 1)[0])
    assert np.allclose(found[:K] / found[:K].sum(), scores) and found.sum() == pytest.approx(1)


def test_a_class_next_to_an_old_one_must_lead_by_what_keeps_the_old_one():
    rng, mix, middles, space = world()
    beside = middles[1] + 0.02 * rng.normal(size=F) @ mix
    d = Discriminant(space, ["copy"], [shown(rng, mix, beside)])
    assert d.leads[0, 1] > discriminant.LEAD == d.leads[0, 0] == d.leads[0, 2]
    found = [d.scores(own_scores(1), x)[0].argmax() for x in middles[1] + scatter(rng, mix, 200)]
    # One old class of four: a hundredth of all windows is four hundredths of its own.
    assert np.mean(np.array(found) == 1) >= 0.93


def test_between_an_old_class_and_a_taught_one_the_network_decides():
    """Windows past half-way: old where the network is sure of that class, taught where it knows nothing or another."""
    rng, mix, middles, space = world()
    new = rng.normal(size=F) @ mix
    d = Discriminant(space, ["a"], [shown(rng, mix, new)])
    between = 0.4 * middles[0] + 0.6 * new + 0.3 * scatter(rng, mix, 60)
    wins = lambda own: np.mean([d.scores(own, x)[0].argmax() == K for x in between])
    unsure = np.full(K, 1 / K)
    assert wins(own_scores(0)) + 0.3 < wins(unsure) <= wins(own_scores(1)) and wins(own_scores(1)) > 0.9


@pytest.mark.parametrize("idle", [[], [2]])
def test_what_lies_with_its_old_class_stays_old_where_the_network_is_wrong_or_knows_nothing(idle):
    rng, mix, middles, space = world()
    new = rng.normal(size=F) @ mix
    d = Discriminant(space, ["a"], [shown(rng, mix, new)], idle=idle)
    taken = lambda middle: np.mean(
        [d.scores(own_scores(2), x)[0].argmax() == K for x in middle + 0.3 * scatter(rng, mix, 60)]
    )
    assert taken(middles[0]) == 0 and taken(0.7 * middles[0] + 0.3 * new) < 0.05
    assert taken(new) > 0.9


def test_what_the_network_calls_idle_stays_idle_where_the_like_was_shown_as_none_of_them():
    rng, mix, _, space = world()
    new, other = rng.normal(size=(2, F)) @ mix
    taught, none = shown(rng, mix, new), shown(rng, mix, other)
    beside = (2 * other + new) / 3 + 0.3 * scatter(rng, mix, 60)
    taken = [
        np.mean([d.scores(own_scores(2), x)[0].argmax() == K for x in beside])
        for d in (
            Discriminant(space, ["a"], [taught], idle=[2]),
            Discriminant(space, ["a"], [taught], none, [2]),
        )
    ]
    assert taken[0] > 0.4 and taken[1] < 0.05


def in_another_place() -> float:
    """Share of windows of old classes that three taught ones take, all seen by a camera that shifts every feature."""
    taken = []
    for seed in range(6):
        rng, mix, middles, space = world(seed, apart=0.5)
        place = 0.7 * rng.normal(size=F) @ mix
        new = 0.5 * rng.normal(size=(3, F)) @ mix
        d = Discriminant(space, ["a", "b", "c"], [shown(rng, mix, place + m) for m in new])
        for k in range(K):
            windows = place + middles[k] + scatter(rng, mix, 40)
            taken += [d.scores(own_scores(k), x)[0].argmax() >= K for x in windows]
    return float(np.mean(taken))


def test_old_classes_seen_where_others_were_taught_are_not_taken_for_these(monkeypatch):
    moved = in_another_place()
    monkeypatch.setattr(discriminant, "MOVE", 0.0)
    assert moved < 0.5 * in_another_place()


def where_the_old_were_learned() -> float:
    """Share of windows of four taught classes that these win, seen by the camera of the old ones, not by their own."""
    won = []
    for seed in range(6):
        rng, mix, _, space = world(seed, apart=0.5)
        place = 0.7 * rng.normal(size=F) @ mix
        new = 0.7 * rng.normal(size=(4, F)) @ mix
        d = Discriminant(space, ["a", "b", "c", "d"], [shown(rng, mix, place + m) for m in new])
        for j, m in enumerate(new):
            scores = [d.scores(np.full(K, 1 / K), x)[0] for x in m + scatter(rng, mix, 40)]
            won += [s.argmax() == K + j for s in scores]
    return float(np.mean(won))


def test_taught_classes_seen_where_the_old_were_learned_are_not_taken_for_these(monkeypatch):
    moved = where_the_old_were_learned()
    monkeypatch.setattr(discriminant, "MOVE", 0.0)
    assert moved > where_the_old_were_learned() + 0.1


def test_activities_that_were_shown_once_win_where_the_network_knows_nothing_better():
    wins = []
    for seed in range(6):
        rng, mix, _, space = world(seed)
        new = rng.normal(size=(3, F)) @ mix
        d = Discriminant(space, ["a", "b", "c"], [shown(rng, mix, m, clips=1) for m in new], idle=[2])
        for j in range(3):
            wins += [d.scores(own_scores(2), x)[0].argmax() == K + j for x in new[j] + scatter(rng, mix, 30)]
    assert np.mean(wins) > 0.8


def test_what_is_none_of_them_is_unknown_once_it_was_shown():
    rng, mix, _, space = world()
    new, other = rng.normal(size=(2, F)) @ mix
    d = Discriminant(space, ["a"], [shown(rng, mix, new)], shown(rng, mix, other))
    unknown = lambda middle: np.mean([d.scores(own_scores(0), x)[1] for x in middle + scatter(rng, mix, 100)])
    assert unknown(other) >= 0.8 and unknown(new) <= 0.15


def test_what_changes_within_a_clip_is_not_taken_for_scatter():
    rng, mix, _, space = world()
    still = [examples_of([np.repeat(w, 2, axis=0) for w in scatter(rng, mix, 4)[:, None]]) for _ in range(2)]
    course = np.tile(np.float32([1, -1]), 4)[:, None] * scatter(rng, mix, 1).astype(np.float32)
    moving = [Examples(e.features + course, e.clips) for e in still]
    metric = Metric(space, moving)
    one, two = (Rows(space, taught, metric=metric) for taught in (still, moving))
    assert np.allclose(one.weights, two.weights, rtol=1e-4, atol=1e-4)


def test_what_the_middles_are_off_is_the_trace_of_the_covariance_times_the_inverse():
    rng, mix, middles, space = world()
    metric = Metric(space, [shown(rng, mix, middles[0])])
    covariance = space.factor.T @ space.factor + np.diag(space.rest)
    trace = np.trace(metric.solve(covariance))
    assert np.allclose(metric.optimism, trace / (space.counts / 2))


def test_the_limit_leaves_out_the_share_it_should_also_after_few_values():
    rng = np.random.default_rng(0)
    for n in (3, 5, 25):
        beyond = [rng.normal() > limit(rng.normal(size=n), 1.645) for _ in range(4000)]
        assert 0.03 < np.mean(beyond) < 0.075


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.booleans(),
    st.floats(0, 1e4),
)
def test_scores_are_always_finite_and_share_at_most_one(seed, clips, with_none, far):
    rng, mix, _, space = world(seed % 3)
    taught = [shown(rng, mix, rng.normal(size=F) @ mix, n) for n in clips]
    none = shown(rng, mix, rng.normal(size=F), 2) if with_none else None
    d = Discriminant(space, [str(i) for i in range(len(clips))], taught, none)
    found, _ = d.scores(own_scores(0), far * rng.normal(size=F))
    assert found.shape == (K + len(clips),) and np.isfinite(found).all() and (found >= 0).all()
    assert found.sum() <= 1 + 1e-9 and (with_none or found.sum() == pytest.approx(1))


# -- the value ---------------------------------------------------------------------------------------------------


def bundle(tmp_path, **changes):
    return toy_bundle(tmp_path / "b", "colours", embedding=True, **changes)


def colour_examples(rgb: tuple[int, int, int], clips: int = 5, seed: int = 0, width: int = 9) -> Examples:
    rng = np.random.default_rng(seed)
    whole = np.concatenate([rgb, np.full(3, 4.0), np.full(3, 4.5)])[:width]
    return examples_of([(whole + rng.normal(0, 6, (2, width))).astype(np.float32) for _ in range(clips)])


names = st.sampled_from(["a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["teach", "forget", "rename"]), names, names), max_size=8))
def test_teaching_forgetting_and_renaming_leave_what_a_dictionary_would_hold(steps):
    taught, model = Taught("m"), {}
    for what, name, other in steps:
        if what == "teach":
            taught = taught.taught(name, colour_examples((1, 2, 3), seed=len(model)))
            model.setdefault(name, 0)
        elif what == "forget" and name in model:
            taught, _ = taught.forgotten(name), model.pop(name)
        elif what == "rename" and name in model and other not in model:
            taught = taught.renamed(name, other)
            model = {other if n == name else n: v for n, v in model.items()}
        elif what != "teach":
            with pytest.raises(DataError):
                taught.forgotten(name) if what == "forget" else taught.renamed(name, other)
        assert list(taught.activities) == list(model)


def test_merging_joins_examples_once_and_only_of_the_same_model():
    red, blue = colour_examples((250, 0, 0)), colour_examples((0, 0, 250), seed=1)
    one, two = Taught("m").taught("x", red), Taught("m").taught("x", blue).taught("y", blue)
    both = one.merged(two)
    assert list(both.activities) == ["x", "y"] and both.activities["x"].count == 10
    assert both.merged(two).activities["x"].count == 10, "the same examples count once"
    with pytest.raises(DataError, match="only what the same model"):
        one.merged(Taught("other"))


CLIPS = [np.random.default_rng(i).normal(size=(1 + i % 7, 3)).astype(np.float32) for i in range(20)]
CLIPS[3][:2] = CLIPS[3][2]  # somebody stands still
CLIPS[5:8] = [CLIPS[5]] * 3  # in a picture without noise, shown three times
for i in (9, 10, 11):
    CLIPS[i][0] = CLIPS[12][0]  # a picture without noise, and at first without anybody
some_clips = st.sets(st.sampled_from(range(len(CLIPS))), min_size=1)


def of_clips(numbers) -> Taught:
    examples = examples_of([CLIPS[i] for i in sorted(numbers)])
    return Taught("m").taught("x", examples).with_none(examples)


def same(one: Taught, two: Taught) -> bool:
    pairs = [(one.activities["x"], two.activities["x"]), (one.none, two.none)]
    return all(np.array_equal(a.features, b.features) and np.array_equal(a.clips, b.clips) for a, b in pairs)


@settings(max_examples=25, deadline=None)
@given(st.lists(some_clips, min_size=2, max_size=3), st.data(), st.sampled_from([7, 20, 40, 128]))
def test_merging_again_and_in_another_order_adds_no_clip_and_changes_nothing(sets, data, most):
    """Clips that begin alike and were never shown together count as one, so such are drawn together or not."""
    alike = [{5, 6, 7}, {9, 10, 11, 12}]
    sets = [s.union(*(a for a in alike if s & a)) for s in sets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taught_module, "MAX_WINDOWS", most)
        parts = [of_clips(numbers) for numbers in sets]
        merged = reduce(Taught.merged, parts)
        order = data.draw(st.permutations([*parts, *parts, merged]))
        again = reduce(Taught.merged, order)
        shown = set().union(*sets)
        assert merged.activities["x"].count == min(len(shown), most)
        assert len(merged.activities["x"]) == min(sum(len(CLIPS[i]) for i in shown), most)
        assert same(merged, again) and same(merged, of_clips(shown))
        assert all(same(merged, merged.merged(part)) for part in [*parts, merged])


@pytest.mark.parametrize("seed", range(20))
def test_clips_that_share_windows_become_no_more_by_merging(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(taught_module, "MAX_WINDOWS", int(rng.choice([6, 12, 128])))
    pool = rng.normal(size=(12, 3)).astype(np.float32)
    clips = [pool[rng.integers(0, 12, rng.integers(1, 7))] for _ in range(8)]
    sets = [rng.permutation(8)[: rng.integers(1, 7)] for _ in range(3)]
    parts = [Taught("m").taught("x", examples_of([clips[i] for i in numbers])) for numbers in sets]
    merged = reduce(Taught.merged, parts)
    again = reduce(Taught.merged, [merged, *parts, *parts[::-1]])
    assert again.activities["x"].count == merged.activities["x"].count <= len(np.unique(np.concatenate(sets)))


def test_each_clip_keeps_as_many_windows_as_it_has_of_those_that_fit(monkeypatch):
    monkeypatch.setattr(taught_module, "MAX_WINDOWS", 10)
    clips = [
        np.random.default_rng(i).normal(size=(n, 3)).astype(np.float32) for i, n in enumerate((1, 4, 30))
    ]
    kept = Taught("m").taught("x", examples_of(clips)).activities["x"]
    assert sorted(np.bincount(kept.clips)) == [1, 4, 5]


@pytest.mark.parametrize(
    "name",
    ["", "  ", "a\nb", "\u202eabc", "\u200b", "wave\u200b", "w\ufeffave", "wave\u200d", "x" * 300, "red"],
)
def test_names_that_no_activity_may_have_are_refused(tmp_path, name):
    with pytest.raises(DataError):
        check_name(name, bundle(tmp_path))


def test_a_name_keeps_the_joiners_that_its_script_needs(tmp_path):
    name = "\u0645\u06cc\u200c\u062f\u0648\u062f"  # Persian, "runs"
    assert check_name(name, bundle(tmp_path)) == name


def test_names_that_look_the_same_are_one_name(tmp_path):
    composed, apart = "\u00fcben", "u\u0308ben"
    assert check_name(f" {apart} ", bundle(tmp_path)) == composed
    # Taught before names were brought to one form.
    taught = Taught("m").taught(apart, colour_examples((250, 0, 0)))
    assert taught.spelled(f" {composed}") == apart
    assert list(taught.renamed(composed, "x").activities) == ["x"]
    both = taught.taught("other", colour_examples((0, 250, 0)))
    with pytest.raises(DataError, match="is taught already"):
        both.renamed("other", composed)
    assert list(both.renamed(apart, composed).activities) == [composed, "other"]
    assert not taught.forgotten(composed).activities
    with pytest.raises(DataError, match="was not taught"):
        taught.spelled("uben")


# -- the checks --------------------------------------------------------------------------------------------------


def remarks(tmp_path, *activities: Examples) -> list[str]:
    loaded = bundle(tmp_path)
    taught = Taught(loaded.info.model_id)
    for i, examples in enumerate(activities):
        taught = taught.taught(f"t{i}", examples)
    return Lessons(loaded, space_of(loaded), taught).remarks("t0", taught)


def test_five_clear_clips_need_no_remark(tmp_path):
    assert remarks(tmp_path, colour_examples((230, 230, 20))) == []


def test_too_few_clips_are_said(tmp_path):
    assert any("too few: 1 clip;" in r for r in remarks(tmp_path, colour_examples((230, 230, 20), 1)))


def test_too_close_to_an_old_or_a_taught_class_names_it(tmp_path):
    assert any("too close to green" in r for r in remarks(tmp_path, colour_examples((42, 198, 41))))
    twice = remarks(tmp_path, colour_examples((230, 230, 20)), colour_examples((231, 229, 20), seed=3))
    assert any("too close to t1" in r for r in twice)


def test_too_scattered_is_said(tmp_path):
    rng = np.random.default_rng(0)
    clips = [
        np.concatenate([rng.uniform(30, 220, 3), np.full(3, 4.0), np.full(3, 4.5)]).astype(np.float32)[None]
        for _ in range(8)
    ]
    assert any("too scattered" in r for r in remarks(tmp_path, examples_of(clips)))


# -- bundles and recognisers -------------------------------------------------------------------------------------


def test_a_bundle_without_embedding_says_that_it_cannot_be_taught_and_what_to_do(tmp_path):
    old = toy_bundle(tmp_path / "old", "colours")
    with pytest.raises(
        BundleError, match=r"cannot be taught.*trt-build export RUN --out BUNDLE --clips DATA"
    ):
        space_of(old)


def test_what_was_taught_to_another_model_or_does_not_fit_is_refused(tmp_path):
    loaded = bundle(tmp_path)
    space = space_of(loaded)
    with pytest.raises(DataError, match="was taught to other, but the bundle is toy-colours"):
        Lessons(loaded, space, Taught("other"))
    with pytest.raises(DataError, match="do not fit"):
        narrow = Taught(loaded.info.model_id).taught("x", colour_examples((1, 2, 3), width=5))
        Lessons(loaded, space, narrow)
    with pytest.raises(DataError, match="activity of the bundle itself"):
        Lessons(loaded, space, Taught(loaded.info.model_id).taught("red", colour_examples((1, 2, 3))))


def recogniser(loaded, mode: str, **options) -> Recognizer:
    return Recognizer(loaded, open_engine(loaded, mode, threads=1), mode=mode, **options)


def watch(
    r: Recognizer, rgb: tuple[int, int, int], seconds: float, start: float = 0.0, seed: int = 0
) -> list:
    """Results of a flickering picture of one colour, at 16 images a second."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(round(16 * seconds)):
        image = np.clip(np.array(rgb) + rng.normal(0, 4, 3), 0, 255).astype(np.uint8)
        stamp = round((start + i / 16) * NS)
        found.append(r.push(np.full((8, 8, 3), image), stamp, bgr=False))
    return [result for result in found if result is not None]


@pytest.mark.parametrize("mode", ["window", "step"])
def test_a_recogniser_is_taught_while_it_runs_and_forgets_again(tmp_path, mode):
    loaded = bundle(tmp_path)
    r = recogniser(loaded, mode)
    yellow = (200, 200, 40)
    shown = watch(r, yellow, 6)
    assert {a.label for a in shown} <= {"red", "green"} and shown[-1].taught == ()
    assert shown[-1].features is not None and shown[-1].features.shape == (9,)
    clips = [np.stack([watch(r, yellow, 1.2, 10 * c, seed=c)[-1].features]) for c in range(1, 11)]
    taught = Taught(loaded.info.model_id).taught("yellow", examples_of(clips))
    r.lessons = Lessons(loaded, space_of(loaded), taught)
    after = watch(r, yellow, 4, 100, seed=9)
    assert [a.label for a in after] == ["yellow"] * len(after)
    assert np.mean([a.status == "ok" for a in after]) >= 0.75, "one in twenty may be rejected"
    assert after[-1].index == 3 and after[-1].taught == ("yellow",) and len(after[-1].scores) == 4
    assert [e.label for a in after for e in a.events] == ["yellow"]
    r.unknown_threshold = 1.0
    assert any(a.status == "ok" for a in watch(r, yellow, 2, 150, seed=9)), (
        "taught ones have their own limits"
    )
    red = watch(r, (200, 40, 40), 3, 200)[-1]
    assert (red.label, red.status) == ("red", "unknown")
    r.lessons = None
    assert watch(r, yellow, 3, 300)[-1].label in ("red", "green")


def test_the_overlay_shows_that_a_label_was_taught(tmp_path, monkeypatch):
    loaded = bundle(tmp_path)
    taught = Taught(loaded.info.model_id).taught("yellow", colour_examples((200, 200, 40)))
    r = recogniser(loaded, "window", lessons=Lessons(loaded, space_of(loaded), taught))
    activity = watch(r, (200, 200, 40), 2)[-1]
    said: list[str] = []
    from gc_ros.recognition import overlay

    real = overlay.put_text
    monkeypatch.setattr(
        overlay, "put_text", lambda panel, text, *a, **k: said.append(text) or real(panel, text, *a, **k)
    )
    draw(np.zeros((240, 320, 3), np.uint8), activity)
    assert "yellow (taught)" in said and "red" in said
