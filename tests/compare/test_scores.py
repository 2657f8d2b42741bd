from itertools import product

import numpy as np
import pytest

from rsseg.compare.scores import (
    compare,
    compare_seeds,
    crossed_bootstrap,
    effective_scenes,
    measures,
    of_metric,
    p_values,
    scene_interval,
    scene_sums,
    t_interval,
)
from rsseg.metrics import calibration, metrics
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.scores import class_counts, overlap, pooled
from rsseg.task import Binary, Multiclass

SCORED, MEASURES = metrics(Binary(("a",))), measures(Binary(("a",)))
IOU, SCENE_MEAN = MEASURES["iou"], MEASURES["scene_iou"]


def win_matrix(counts, **options):
    return compare(counts, IOU, **options)


def drawn_iou(counts, **options):
    return crossed_bootstrap(counts, IOU.score, **options)


def test_counts_of_three_classes_by_hand():
    task = Multiclass(("a", "b", "c"))
    confusion = np.zeros((2, 1, 3, 3), dtype=int)
    confusion[0, 0] = [[5, 1, 0], [2, 3, 0], [0, 0, 0]]
    confusion[1, 0] = [[0, 0, 0], [0, 4, 1], [0, 0, 0]]
    counts = class_counts(confusion, task)
    assert counts[0].tolist() == [[5, 2, 1, 3], [3, 1, 2, 5], [0, 0, 0, 11]]
    assert pooled(counts) == pytest.approx((5 / 8 + 7 / 11) / 2)  # c is never there
    assert SCORED["scene_iou"](counts) == pytest.approx(((5 / 8 + 3 / 6) / 2 + 4 / 5) / 2)
    assert np.isnan(overlap(np.zeros(3)))
    assert overlap([0, 3, 0], "dice") != overlap([0, 0, 3], "dice")  # absent, and missed altogether


def simulated(rng, seeds, scenes, spread, means=(0.3, 0.0), rare=1.0):
    """Counts of two losses: random seeds, scenes of different size and difficulty, and both together.

    The last class occurs in a share of the scenes alone, in one at least; one further class, if `rare` is below 1, in all.
    """
    of_seed, of_scene, of_both, noise = spread
    classes = []
    seed = rng.normal(0, of_seed, (2, seeds, 1))
    for share in (1.0, rare) if rare < 1 else (1.0,):
        holds = rng.random(scenes) < share
        holds[rng.integers(scenes)] |= not holds.any()
        size = 1000 * rng.lognormal(0, 0.7, scenes) * holds
        z = np.array(means)[:, None, None] + rng.normal(0, of_scene, scenes) + seed
        z = z + rng.normal(0, of_both, (2, 1, scenes)) + rng.normal(0, noise, (2, seeds, scenes))
        right = 1 / (1 + np.exp(-z))
        classes.append(np.stack([right * size, 0.5 * (1 - right) * size, (1 - right) * size], axis=-1))
    return np.stack(classes, axis=3)


SPREADS = [(0.15, 0.6, 0.2, 0.1), (0.3, 0.6, 0.05, 0.05), (0.05, 0.6, 0.3, 0.1)]


@pytest.mark.parametrize("spread", SPREADS)
def test_intervals_cover_the_truth_as_often_as_they_claim(spread):
    rng = np.random.default_rng(0)
    gaps = [np.subtract(*pooled(simulated(rng, 300, 3000, spread)).mean(1)) for _ in range(3)]
    truth, covered, rounds = np.mean(gaps), 0, 300
    for number in range(rounds):
        found = win_matrix(simulated(rng, 5, 30, spread), draws=300, seed=number).difference
        covered += found.low[0, 1] <= truth <= found.high[0, 1]
    assert 0.92 <= covered / rounds <= 0.99  # 0.95, and three standard errors of 300 rounds


@pytest.mark.slow
@pytest.mark.parametrize("macro", [False, True])
@pytest.mark.parametrize("rare", [0.3, 0.1, 0.07])
def test_intervals_cover_the_truth_where_a_class_is_rare(rare, macro):
    """Of 30 scenes 9, 3 or 2 hold it; equal losses, so that 0 is the truth. As a mean with a frequent class they are wide."""
    rng, covered, given, rounds = np.random.default_rng(1), 0, 0, 400
    for number in range(rounds):
        counts = simulated(rng, 5, 30, (0.05, 0.6, 0.3, 0.05), means=(0, 0), rare=rare)
        found = win_matrix(counts if macro else counts[:, :, :, 1:], draws=300, seed=number).difference
        given += not np.isnan(found.low[0, 1])
        covered += found.low[0, 1] <= 0 <= found.high[0, 1]
    assert given > rounds / 2  # the others have the class in one scene
    assert 0.92 <= covered / given <= (1.0 if macro else 0.99)


def test_equal_losses_are_told_apart_as_often_as_they_may():
    """`better` above .975 one way or the other in 5 % of rounds; as quantiles of the draws it was in 14 %."""
    rng, claims, rounds = np.random.default_rng(2), 0, 300
    for number in range(rounds):
        found = win_matrix(simulated(rng, 5, 20, (0.15, 0.6, 0.1, 0.05), means=(0, 0)), draws=300, seed=number)
        claims += np.nanmax(found.better) > 0.975
        assert (np.nanmax(found.better) > 0.975) == (found.difference.low[0, 1] * found.difference.high[0, 1] > 0)
    assert claims / rounds <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


def rare_counts(scenes_with):
    """Two losses, the first better in every seed; 5 scenes, one class that some of them hold."""
    counts = np.zeros((2, 5, 5, 1, 3))
    counts[..., 1] = 10
    right = np.array([[60, 61, 59, 60, 62], [40, 41, 40, 39, 41]])[:, :, None]
    counts[:, :, :scenes_with, 0, 0], counts[:, :, :scenes_with, 0, 2] = right, 100 - right
    return counts


def test_a_class_in_one_scene_gives_no_interval_and_in_two_no_loss_to_both():
    one = win_matrix(rare_counts(1))
    assert one.difference.value[0, 1] == pytest.approx(np.mean([20, 20, 19, 21, 21]) / 150)
    assert np.isnan([one.difference.low[0, 1], one.score.high[0], one.better[0, 1], one.better[1, 0]]).all()
    two = win_matrix(rare_counts(2))
    assert two.better[0, 1] + two.better[1, 0] == pytest.approx(1)
    assert two.better[0, 1] > 0.9
    # a frequent class beside it: draws are means over both, so that the score varies about the mean of all scenes
    macro = np.concatenate([np.full((2, 5, 5, 1, 3), [90.0, 5.0, 5.0]), rare_counts(2)], axis=3)
    drawn = drawn_iou(macro, draws=4000)
    assert drawn.mean(0) == pytest.approx(pooled(macro).mean(1), abs=0.03)
    assert drawn[:, 0].max() < 0.87  # 0.9 alone without it


def test_effective_scenes_are_those_of_the_rarest_part():
    counts = rare_counts(3)
    counts[:, :, 2] *= 4
    several = np.concatenate([counts, np.ones((2, 5, 5, 1, 3)), 0 * counts], axis=3)
    assert effective_scenes(IOU.mass(several[0, 0])) == pytest.approx([2, 5, np.nan], nan_ok=True)
    assert effective_scenes(SCENE_MEAN.mass(scene_sums(SCORED["iou"].each(counts))[0, 0])) == 3  # scenes weigh alike there
    assert np.isnan(effective_scenes([[0], [0]])).all()
    drawn = drawn_iou(several, draws=200)
    found = scene_interval(drawn, IOU.score(several.sum(2)), scenes=2)
    assert win_matrix(several, draws=200).score.at(0) == pytest.approx(found.at(0))
    assert np.isnan(win_matrix(0 * counts).score.low).all()


def test_one_draw_of_scenes_serves_all_losses():
    """The shared draw of scenes is what makes a difference of losses sharp."""
    counts = simulated(np.random.default_rng(1), 5, 30, (0.05, 1.0, 0.05, 0.05))
    shared = drawn_iou(counts)
    apart = np.stack([drawn_iou(counts[i : i + 1], seed=i)[:, 0] for i in range(2)], axis=1)
    assert np.subtract(*shared.T).std() < 0.5 * np.subtract(*apart.T).std()


def test_draws_vary_as_the_mean_of_independent_seeds_does():
    """Alike scenes, so that all spread is the seeds': the variance has to be s^2 / n, not (n - 1) / n of it."""
    rng = np.random.default_rng(2)
    right = rng.uniform(0.4, 0.6, 6)
    counts = np.zeros((1, 6, 10, 1, 3))
    counts[0, :, :, 0, 0], counts[0, :, :, 0, 2] = right[:, None], 1 - right[:, None]
    drawn = drawn_iou(counts, draws=40_000)[:, 0]
    assert drawn.mean() == pytest.approx(right.mean(), abs=1e-3)
    assert drawn.var() == pytest.approx(right.var(ddof=1) / 6, rel=0.03)
    from scipy.stats import t

    half = t.ppf(0.975, 5) * right.std(ddof=1) / 6**0.5
    found = scene_interval(drawn[:, None], right[None], scenes=10)
    assert found.high - found.value == pytest.approx(half, rel=0.03)
    assert found.above == pytest.approx(t.cdf(right.mean() / right.std(ddof=1) * 6**0.5, 5))


def test_alike_seeds_have_the_interval_of_a_mean_over_scenes():
    """A score that is a mean over scenes of equal mass: Student's interval of that mean is what it has to be."""
    from scipy.stats import ttest_1samp

    right = np.random.default_rng(3).uniform(0.4, 0.6, 8)
    counts = np.zeros((1, 5, 8, 1, 3))
    counts[..., 0, 0], counts[..., 0, 2] = right, 1 - right
    expected = ttest_1samp(right, 0).confidence_interval(0.95)
    for sums, measure in ((counts, IOU), (scene_sums(SCORED["iou"].each(counts)), SCENE_MEAN)):
        found = compare(sums, measure, draws=40_000).score
        assert (found.low[0], found.high[0]) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_pooled_scores_are_computed_anew_from_drawn_counts():
    """A large and a small scene at random weights w and 1 - w: the quantiles of (90 w + 1 - w) / (100 w + 10 (1 - w))."""
    counts = np.zeros((1, 1, 2, 1, 3))
    counts[0, 0, :, 0] = [[90, 0, 10], [1, 0, 9]]
    drawn = drawn_iou(counts, draws=20_000)[:, 0]
    w = np.array([0.1, 0.25, 0.5, 0.75])
    assert np.quantile(drawn, w) == pytest.approx((90 * w + 1 - w) / (100 * w + 10 * (1 - w)), abs=0.01)


def test_scores_from_sums_are_those_of_whole_runs():
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 50, (2, 3, 4, 2, 3)).astype(float)
    counts[:, :, 1, 0], counts[:, :, 2] = 0, 0  # one scene lacks a class, one has none
    assert of_metric(SCORED["dice"]).score(counts.sum(2)) == pytest.approx(pooled(counts, "dice"))
    assert SCENE_MEAN.score(scene_sums(SCORED["iou"].each(counts)).sum(2)) == pytest.approx(SCORED["scene_iou"](counts))
    task = Multiclass(("a", "b", "c"))
    histograms = rng.integers(0, 9, (2, 3, 4, 4, 2, 256))
    sums = [[calibration_sums(run, task) for run in row] for row in histograms]
    for name in ("ece", "class_ece", "brier"):
        measure = MEASURES[name]
        values = measure.score(np.array([[run[name] for run in row] for row in sums]).sum(2))
        assert values == pytest.approx(np.array([[calibration(x, task)[name] for x in row] for row in histograms]))
        assert not measure.higher_is_better
    first = sums[0][0]
    assert MEASURES["class_ece"].mass(first["class_ece"]) == pytest.approx(histograms[0, 0, :, :3, 1].sum(-1))
    assert MEASURES["brier"].mass(first["brier"]) == pytest.approx(histograms[0, 0, :, :1].sum((-2, -1)))


def test_the_better_of_two_errors_is_the_smaller():
    rng = np.random.default_rng(5)
    histograms = np.zeros((2, 5, 6, 1, 2, 256))
    histograms[:, :, :, 0, :, 160] = rng.integers(40, 60, (2, 5, 6, 2))
    histograms[1, :, :, 0, 0, 200] = 50  # said to be positive, and wrong
    sums = np.array([[calibration_sums(run, Binary(("a",)))["ece"] for run in row] for row in histograms])
    found = compare(sums, MEASURES["ece"])
    assert found.difference.value[0, 1] < 0
    assert found.better[0, 1] > 0.95
    assert np.isfinite(found.difference.low[0, 1])


def test_win_matrix_by_hand():
    counts = np.zeros((3, 6, 4, 1, 3))
    counts[..., 0], counts[..., 2] = 1, 1
    counts[0, ..., 0] = 3  # IoU 3/4 against 1/2 and 1/2
    found = win_matrix(counts, draws=50)
    assert found.better[0, 1:] == pytest.approx(1)
    assert found.better[1:, 0] == pytest.approx(0)
    assert found.better[1, 2] == 0.5
    assert np.isnan(np.diag(found.better)).all()
    assert found.difference.value[0].tolist() == [0, 0.25, 0.25]
    assert found.difference.low[0, 1] == pytest.approx(0.25)
    assert np.isnan(found.p_value).all()  # 2 / 2^6 times three comparisons is .094
    assert win_matrix(counts[:2], draws=50).p_value[0, 1] == pytest.approx(2 / 2**6)
    assert win_matrix(np.repeat(counts, 2, axis=1), draws=50).p_value[0, 1] == pytest.approx(3 * 2 / 2**12)
    for one in (win_matrix(counts[:, :1], draws=50), win_matrix(counts[:, :, :1], draws=50)):  # one seed, one scene
        assert np.isnan(one.difference.low).all()
        assert np.isnan(one.better).all()
        assert np.isfinite(one.score.value).all()


def test_intervals_of_scores_keep_to_where_scores_lie():
    """Two seeds of IoU 1/11 and 1/2, then 10/11 and 1/2: with one degree of freedom t is 12.7, wider than [0, 1]."""
    counts = np.zeros((2, 2, 6, 1, 3))
    counts[0, 0, ..., 0], counts[0, 0, ..., 2] = 1, 10
    counts[1, 0, ..., 0], counts[1, 0, ..., 2] = 10, 1
    counts[:, 1, ..., 0], counts[:, 1, ..., 2] = 1, 1
    found = win_matrix(counts, draws=300)
    assert (found.score.low.tolist(), found.score.high.tolist()) == ([0, 0], [1, 1])
    assert found.difference.low[0, 1] < -1  # a difference is not cut
    values = np.array([[0.1, 0.5], [0.9, 0.5]])
    assert compare_seeds(values).score.low.tolist() == [0, 0]
    narrow = compare_seeds(np.array([[0.5, 0.51], [0.3, 0.31]])).score
    assert (narrow.low[0], narrow.high[0]) == pytest.approx((0.505 - 12.706 * 0.005, 0.505 + 12.706 * 0.005), abs=1e-5)
    squares = np.ones((1, 2, 6, 1, 2)) * [1.4, 1.0]
    squares[:, 1, ..., 0] = 1.6
    brier = compare(squares, MEASURES["brier"], draws=300).score
    assert brier.high == pytest.approx(1.5 + 12.706 * 0.1, abs=0.1)  # for multiclass up to 2: not cut at 1


def test_how_surely_agrees_with_where_the_interval_begins():
    found = t_interval([0.3, -0.3, 0.0, 0.0, 0.2], [0.1, 0.1, 0.0, 0.1, np.nan], 4)
    assert found.above[:4] == pytest.approx([0.98003, 0.01997, 0.5, 0.5], abs=1e-5)  # t = 3 with 4 degrees of freedom
    assert np.isnan(found.above[4])
    edge = t_interval(found.value[0] - found.low[0], 0.1, 4)
    assert edge.above == pytest.approx(0.975)
    assert edge.low == pytest.approx(0)


def test_p_values_enumerate_all_signs():
    gaps = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.4, 0.02])
    means = [abs(np.dot(signs, gaps)) for signs in product([-1, 1], repeat=7)]
    expected = np.mean(np.array(means) >= gaps.sum() - 1e-12)
    assert p_values(gaps, 1) == pytest.approx(expected)
    assert p_values(gaps, 3) == pytest.approx(3 * expected)
    assert np.isnan(p_values(gaps, 4))  # 4 x 2 / 128 is .0625
    assert p_values(np.ones(20), 1) < 1e-3
    assert p_values(np.zeros(8), 1) == 1
    assert np.isnan(p_values(np.append(gaps, np.nan), 1))
