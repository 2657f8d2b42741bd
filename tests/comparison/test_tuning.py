import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from run_folders import BINARY

from rsseg.comparison.findings import selection_regret
from rsseg.comparison.tuning import _deal, halves, shared, threshold_facts, tune, tune_bias, tune_threshold
from rsseg.contract import InputError
from rsseg.metrics import SampledLogits
from rsseg.metrics.scores import pooled
from rsseg.task import Multiclass, Multilabel

FIRST = np.array([True, False])


def dealt(holds, groups=None, **options):
    """The first half of scenes that are groups of their own."""
    return halves(holds, [f"{i:05d}" for i in range(len(holds))] if groups is None else groups, **options)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["iou", "dice"]))
def test_a_tuned_threshold_is_the_best_of_all(seed, metric):
    """Against every place between two logits, of which some are equal; IoU and Dice have the same one."""
    rng = np.random.default_rng(seed)
    z, y, w = rng.integers(-6, 6, 40) / 2, rng.integers(0, 2, 40), rng.uniform(0.5, 2, 40)

    def score(threshold):
        called = z > threshold
        hits, wrong, missed = w[called & (y == 1)].sum(), w[called & (y == 0)].sum(), w[~called & (y == 1)].sum()
        return hits / (hits + wrong + missed)

    tuned = tune_threshold(z, y, w, metric)
    assert score(tuned) == pytest.approx(max(score(t) for t in np.arange(-3.75, 4, 0.5)))
    assert np.abs(z - tuned).min() > 0.2  # not at a logit, where a rounding decides
    assert tune_threshold(z, 0 * y, w, metric) == 0


def test_labels_are_tuned_each_on_its_own_and_those_in_one_half_not_at_all():
    task = Multilabel(("a", "b"))
    z, y = np.array([[-3.0], [-4.0], [2.0], [1.0]], dtype=np.float32), np.array([1, 0, 1, 0])
    sample = SampledLogits(z, y, np.array([0, 0, 1, 1]), np.zeros(4, dtype=int), np.ones(4))
    assert tune(sample, task, np.array([True]), np.array([True, True])).tolist() == [-3.5, 1.5]
    assert tune(sample, task, np.array([True]), np.array([True, False])).tolist() == [-3.5, 0]
    with pytest.raises(InputError, match="NaN"):
        tune(sample._replace(logits=z * np.nan), task, np.array([True]), np.array([True, True]))


def test_groups_are_dealt_whole():
    rng = np.random.default_rng(0)
    groups = rng.choice(list("abcdefg"), 40)
    first = halves(np.ones((40, 2)), groups)
    sides = {group: set(first[groups == group].tolist()) for group in groups}
    assert all(len(side) == 1 for side in sides.values())
    assert 3 <= sum(side == {True} for side in sides.values()) <= 4
    assert halves(np.ones((5, 1)), ["town"] * 5).all()
    holds = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])  # each group holds both classes
    assert shared(holds, halves(holds, list("aabb"))).all()


def test_selection_regret_scores_on_the_other_half():
    iou = np.array([[0.5, 0.6], [0.9, 0.4], [0.2, 0.8]])  # of three checkpoints on two scenes
    counts = np.stack([iou * 100, 0 * iou, 100 - iou * 100], axis=-1)[:, :, None]
    loss = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]  # chooses checkpoint 0 on the first half, 2 on the second
    # by metric: 1 on the first, 2 on the second half
    assert selection_regret(loss, counts, FIRST, pooled) == pytest.approx(((0.4 - 0.6) + (0.2 - 0.2)) / 2)
    assert np.isnan(selection_regret(np.full((3, 2), np.nan), counts, FIRST, pooled))
    assert np.isnan(selection_regret(loss, 0 * counts, FIRST, pooled))


def test_halves_are_of_one_size_and_the_same_for_every_run():
    everywhere = np.ones((10, 2), dtype=bool)
    assert dealt(everywhere).sum() == 5
    assert (dealt(everywhere) == dealt(everywhere)).all()
    assert dealt(everywhere[:1]).tolist() == [True]
    assert not dealt(np.zeros((2, 1))).all()


@given(st.integers(0, 10_000))
def test_a_deal_gives_scene_by_scene_to_the_side_that_has_fewer(seed):
    """Against a deal that counts both sides anew before each scene."""
    rng = np.random.default_rng(seed)
    holds = rng.random((rng.integers(1, 30), rng.integers(1, 6))) < rng.random()
    order = rng.permutation(len(holds))
    sides: tuple[list, list] = ([], [])
    classes = [set(np.flatnonzero(holds[:, c])) for c in np.argsort(holds.sum(0), kind="stable")]
    for member in [*classes, set(order)]:
        for scene in order:
            if scene in member and scene not in {*sides[0], *sides[1]}:
                min(sides, key=lambda side: (len(member & set(side)), len(side))).append(scene)
    assert np.flatnonzero(_deal(holds, order)).tolist() == sorted(sides[0])


def test_the_halves_of_many_scenes_are_dealt_in_time_proportional_to_their_number():
    rng = np.random.default_rng(0)
    holds = rng.random((20_000, 7)) < [0.9, 0.7, 0.5, 0.3, 0.1, 0.02, 0.005]
    begin = time.process_time()
    first = dealt(holds)
    assert time.process_time() - begin < 5  # 600 s where each scene counts all others
    assert abs(int(first.sum()) - 10_000) <= 1


@settings(deadline=None, max_examples=40)
@example(0)
@given(st.integers(0, 10_000))
def test_every_class_of_two_scenes_or_more_is_on_both_sides(seed):
    """Six classes of two or three scenes each among 8, against all ways to part them: a ring of pairs may have none."""
    rng = np.random.default_rng(seed)
    holds = np.zeros((8, 6), dtype=bool)
    for c in range(6):
        holds[rng.choice(8, rng.integers(2, 4), replace=False), c] = True
    sides = np.array([[(i >> s) & 1 for s in range(8)] for i in range(2**8 - 1)], dtype=bool)
    possible = max(shared(holds, side).sum() for side in sides)
    first = dealt(holds)
    assert shared(holds, first).sum() == possible
    assert 2 <= first.sum() <= 6


def test_one_deal_in_turn_is_not_enough():
    """Of this one in many leaves a class on one side, though all six can be parted."""
    scenes = [[1, 4], [1, 5], [0, 4], [0, 2, 3], [2, 5], [2, 5], [0, 3, 4], [3]]
    holds = np.array([[c in held for c in range(6)] for held in scenes])
    assert shared(holds, dealt(holds)).all()
    assert not shared(holds, dealt(holds, tries=1)).all() or not shared(holds, dealt(holds, seed=1, tries=1)).all()


def mean_iou(z, y, w, bias):
    called = (z + bias).argmax(1)
    scores = [w[(called == c) & (y == c)].sum() / w[(called == c) | (y == c)].sum() for c in np.union1d(called, y)]
    return float(np.mean(scores))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_a_tuned_bias_of_two_classes_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    z, y, w = rng.normal(size=(30, 2)), rng.integers(0, 2, 30), rng.uniform(0.5, 2, 30)
    gaps = np.sort(z[:, 0] - z[:, 1])
    tried = [mean_iou(z, y, w, [0, b]) for b in np.concatenate([[gaps[0] - 1], (gaps[1:] + gaps[:-1]) / 2, [gaps[-1] + 1]])]
    assert mean_iou(z, y, w, tune_bias(z, y, w)) == pytest.approx(max(tried))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_a_tuned_bias_never_loses_on_its_own_sample_nor_to_a_step_of_one_class(seed):
    rng = np.random.default_rng(seed)
    y = np.append(rng.choice(4, 56, p=[0.7, 0.2, 0.05, 0.05]), range(4))  # a class without a pixel is not tuned
    z, w = 1.5 * np.eye(4)[y] + rng.normal(size=(60, 4)) + [1, 0, 0, -1], np.where(y > 1, 1.0, 5.0)
    bias = tune_bias(z, y, w, rounds=50)
    best = mean_iou(z, y, w, bias)
    assert best >= mean_iou(z, y, w, np.zeros(4))
    assert bias.sum() == pytest.approx(0, abs=1e-12)
    for c in range(4):
        for step in np.linspace(-4, 4, 81):
            assert mean_iou(z, y, w, bias + step * np.eye(4)[c]) <= best + 1e-9


def sampled(z, y, scene):
    zero = np.zeros(len(y), dtype=np.int64)
    return SampledLogits(np.asarray(z), np.asarray(y), zero, np.asarray(scene), np.ones(len(y)))


THREE = Multiclass(("a", "b", "c"))
ALL = np.ones(3, dtype=bool)


def test_each_half_gets_a_bias_that_mends_the_shifted_class():
    rng = np.random.default_rng(0)
    y, scene = rng.integers(0, 3, 3000), rng.integers(0, 6, 3000)
    first = np.array([True, False, False, True, False, True])
    shift = np.where(first[scene, None], [0, 0, -5], [0, -5, 0])  # in each half another class is hardly ever called
    z = 4 * np.eye(3)[y] + rng.normal(size=(3000, 3)) + shift
    for part, c in ((first, 2), (~first, 1)):
        bias = tune(sampled(z, y, scene), THREE, part, ALL)
        assert bias[c] - np.delete(bias, c).mean() == pytest.approx(5, abs=1)
    with pytest.raises(InputError, match="NaN"):
        tune(sampled(z * np.nan, y, scene), THREE, first, ALL)


def test_a_class_that_is_not_tuned_keeps_its_place():
    """Where the sample lacks it, calling it can only be wrong: a bias would push it down, and no sample would say how far."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    z = 2.5 * np.eye(3)[y] + rng.normal(size=(4000, 3)) + [0, 0.8, 0]
    bias, one = tune_bias(z, y, np.ones(4000)), np.ones(4000)
    assert bias[2] == 0
    assert bias[:2].sum() == pytest.approx(0, abs=1e-12)
    assert bias[0] > 0.1
    assert mean_iou(z, y, one, bias) >= mean_iou(z, y, one, np.zeros(3))
    y[:400] = 2
    assert tune_bias(z, y, one, classes=np.array([True, True, False]))[2] == 0


def test_threshold_facts_by_hand():
    """In both scenes the positives lie at logit -2.9, the negatives at -3.9: any threshold between them is right."""
    z, y, scene = np.array([[-2.9], [-3.9]] * 2, dtype=np.float32), np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    sample = SampledLogits(z, y, 0 * y, scene, np.full(4, 5.0))
    counts = np.array([[[[0, 0, 5, 5]]] * 2, [[[5, 0, 0, 5]]] * 2])
    found = threshold_facts(sample, BINARY, 7, np.array([True]), counts)
    assert found["values"]["building"] == pytest.approx(-3.4)
    assert found["probabilities"]["building"] == pytest.approx(1 / (1 + np.exp(3.4)), abs=1e-6)
    assert (found["step"], found["kind"], found["untuned"]) == (7, "threshold", [])
    assert (found["fixed"], found["tuned"], found["gain"]) == (0, 1, 1)
    alone = threshold_facts(sample, BINARY, 7, np.array([False]))
    assert (alone["values"], alone["untuned"]) == ({"building": 0}, ["building"])
    assert np.isnan(alone["gain"])


def test_a_bias_of_200_classes_is_found():
    """Each class is shifted by a number of its own; the biases that undo it are known."""
    rng = np.random.default_rng(0)
    y, shift = rng.integers(0, 200, 6000), rng.normal(size=200)
    z = 5 * np.eye(200)[y] + rng.normal(size=(6000, 200)) + shift
    bias = tune_bias(z, y, np.ones(6000))
    undone = mean_iou(z, y, np.ones(6000), -shift)
    assert mean_iou(z, y, np.ones(6000), np.zeros(200)) < undone - 0.05
    assert mean_iou(z, y, np.ones(6000), bias) > undone
