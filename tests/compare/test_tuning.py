import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from run_folders import BINARY, crossfit_bias, make_records, make_snapshot

from rsseg.compare.findings import selection_regret
from rsseg.compare.tuning import _deal, best_thresholds, cross_fit, halves, sample_counts, shared, tune_bias
from rsseg.contract import InputError
from rsseg.metrics import SampledLogits
from rsseg.metrics.average import present_mean
from rsseg.metrics.histogram import THRESHOLDS
from rsseg.metrics.scores import overlap, pooled

FIRST = np.array([True, False])


def histogram(*scenes):
    """One class: per scene the bins of positive and of negative pixels."""
    counts = np.zeros((len(scenes), 1, 2, 256))
    for scene, (positives, negatives) in enumerate(scenes):
        np.add.at(counts[scene, 0, 1], positives, 1)
        np.add.at(counts[scene, 0, 0], negatives, 1)
    return counts


def fixed_and_tuned(counted, metric="iou"):
    return [pooled(counts, metric) for counts in cross_fit(counted, metric, FIRST)]


def test_threshold_regret_is_cross_fitted():
    """What is best on one scene is worst on the other: tuning and scoring on the same would call it a gain."""
    opposed = histogram(([100] * 4, [90] * 4), ([90] * 4, [80] * 4))
    fixed, tuned = fixed_and_tuned(opposed)
    assert fixed == 0  # all below 0.5
    assert tuned == pytest.approx(4 / 12)  # cut at 85 calls all of the first; at 95 none of the second


def test_a_tuned_threshold_that_does_not_carry_over_costs():
    scenes = histogram(([130, 130], [140]), ([150], [130] * 6 + [140]))
    fixed, tuned = fixed_and_tuned(scenes)
    assert fixed == pytest.approx(3 / 11)
    assert tuned == pytest.approx(1 / 10)  # cut at 145 on the second, which loses all of the first


@pytest.mark.parametrize("metric", ["iou", "dice"])
def test_counts_at_half_are_those_of_the_confusion_matrices(metric):
    histogram = make_snapshot(BINARY, "ce", 1, scenes=5)["histogram"]
    fixed, tuned = cross_fit(histogram, metric, np.array([True, False, True, True, False]))
    np.testing.assert_array_equal(fixed, make_records(BINARY, "ce", 1, scenes=5).counts[-1, ..., :3])
    assert pooled(tuned, metric) - pooled(fixed, metric) > 0.01


def test_the_threshold_for_all_scenes_lies_in_the_middle_of_the_best_and_each_class_has_its_own():
    one = histogram(([200], [100]), ([200], [100]))
    both = np.concatenate([one, one[:, :, :, ::-1][:, :, ::-1]], axis=1)
    best = best_thresholds(both)
    assert THRESHOLDS[best[0]] == pytest.approx((200 + 101) / 2 / 8 - 16, abs=0.07)  # any of 101 .. 200 edges parts them
    assert len(best) == 2
    assert best_thresholds(np.zeros((2, 1, 2, 256)))[0] == 127  # nothing to tune on: 0.5


def test_selection_regret_scores_on_the_other_half():
    iou = np.array([[0.5, 0.6], [0.9, 0.4], [0.2, 0.8]])  # of three checkpoints on two scenes
    counts = np.stack([iou * 100, 0 * iou, 100 - iou * 100], axis=-1)[:, :, None]
    loss = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]  # chooses checkpoint 0 on the first half, 2 on the second
    # by metric: 1 on the first, 2 on the second half
    assert selection_regret(loss, counts, FIRST) == pytest.approx(((0.4 - 0.6) + (0.2 - 0.2)) / 2)
    assert np.isnan(selection_regret(np.full((3, 2), np.nan), counts, FIRST))
    assert np.isnan(selection_regret(loss, 0 * counts, FIRST))


def test_halves_are_of_one_size_and_the_same_for_every_run():
    everywhere = np.ones((10, 2), dtype=bool)
    assert halves(everywhere).sum() == 5
    assert (halves(everywhere) == halves(everywhere)).all()
    assert halves(everywhere[:1]).tolist() == [True]
    assert not halves(np.zeros((2, 1))).all()


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
    first = halves(holds)
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
    sides = np.array([[(i >> s) & 1 for s in range(8)] for i in range(2**8)], dtype=bool)
    possible = max(shared(holds, side).sum() for side in sides)
    first = halves(holds)
    assert shared(holds, first).sum() == possible
    assert 2 <= first.sum() <= 6


def test_one_deal_in_turn_is_not_enough():
    """Of this one in many leaves a class on one side, though all six can be parted."""
    scenes = [[1, 4], [1, 5], [0, 4], [0, 2, 3], [2, 5], [2, 5], [0, 3, 4], [3]]
    holds = np.array([[c in held for c in range(6)] for held in scenes])
    assert shared(holds, halves(holds)).all()
    assert not shared(holds, halves(holds, tries=1)).all() or not shared(holds, halves(holds, seed=1, tries=1)).all()


def test_a_class_on_one_side_alone_is_not_tuned():
    """Tuned on the second scene its threshold would be 85, and lose nothing; there is nothing on the first to tune it on."""
    both, one = histogram(([100] * 4, [90] * 4), ([100] * 4, [90])), histogram(([], [70]), ([90], [80]))
    classes = np.concatenate([both, one], axis=1)
    fixed, tuned = fixed_and_tuned(classes)
    assert fixed == 0
    assert tuned == pytest.approx(1 / 2)
    assert (THRESHOLDS[best_thresholds(classes, classes=np.array([True, False]))] < 0).tolist() == [True, False]
    with pytest.raises(InputError, match="1 class with labels in both"):
        fixed_and_tuned(one)


def mean_iou(z, y, w, bias):
    return float(present_mean(overlap(sample_counts(z, y, w, bias))))


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


def sampled(z, y, scene, weight=None):
    weight = np.ones(len(y)) if weight is None else weight
    return SampledLogits(*(torch.from_numpy(np.asarray(x)) for x in (z, y, scene, weight)))


def test_each_half_gets_the_bias_of_the_other_which_mends_a_shifted_class():
    rng = np.random.default_rng(0)
    y, scene = rng.integers(0, 3, 3000), rng.integers(0, 6, 3000)
    first = np.array([True, False, False, True, False, True])
    shift = np.where(first[scene, None], [0, 0, -5], [0, -5, 0])  # in each half another class is hardly ever called
    z = 4 * np.eye(3)[y] + rng.normal(size=(3000, 3)) + shift
    biases = crossfit_bias(sampled(z, y, scene), first)
    assert np.ptp(biases[first], axis=0).max() == np.ptp(biases[~first], axis=0).max() == 0
    for bias, c in ((biases[0], 1), (biases[1], 2)):  # what the other half lacks
        assert bias[c] - np.delete(bias, c).mean() == pytest.approx(5, abs=1)
    with pytest.raises(InputError, match="NaN"):
        crossfit_bias(sampled(z * np.nan, y, scene), first)


def test_a_class_that_the_sample_lacks_keeps_its_place():
    """Calling it can only be wrong on such a sample: a tuned bias would push it down, and no sample would say how far."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 4, 4000)
    y = rng.integers(0, 2, 4000)
    first = np.array([True, False, True, False])
    y[first[scene] & (rng.random(4000) < 0.2)] = 2  # the third class is in the first half alone
    z = 2.5 * np.eye(3)[y] + rng.normal(size=(4000, 3)) + [0, 0.8, 0]
    biases = crossfit_bias(sampled(z, y, scene), first, classes=np.array([True, True, False]))
    assert (biases[:, 2] == 0).all()
    assert biases[:, :2].sum(1) == pytest.approx(0, abs=1e-12)
    assert (biases[:, 0] > 0.1).all()
    both = y != 2
    alone = tune_bias(z[both], y[both], np.ones(both.sum()))
    assert alone[2] == 0
    assert mean_iou(z[both], y[both], np.ones(both.sum()), alone) >= mean_iou(
        z[both], y[both], np.ones(both.sum()), np.zeros(3)
    )
