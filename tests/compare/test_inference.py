"""What a comparison claims, against closed forms, scipy, and sweeps whose truth is known.

Rates of simulations are judged within about three standard errors, ``(p (1 - p) / rounds) ** 0.5``, of what is claimed.
"""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import studentized_range, ttest_1samp
from scipy.stats import t as student
from simulated_sweeps import simulate

from rsseg.compare.inference import (
    critical,
    effective_groups,
    estimate,
    moderate,
    reach,
    shrink,
    sum_groups,
)
from rsseg.compare.measures import measures, scene_sums
from rsseg.metrics import metrics
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.scores import pooled
from rsseg.task import Binary, Multiclass

MEASURES = measures(Binary(("a",)))
IOU, SCENE_MEAN = MEASURES["iou"], MEASURES["scene_iou"]
MEAN_IOU = measures(Multiclass(("a", "b", "c")))["iou"]
RARE = {"held": (1.0, 1.0, 0.2)}


def counts_of(right, groups):
    """One class: TP and FN of 100 pixels per group, ``[L, R, G, 1, 4]``, from IoU ``[L, R]`` or ``[L, R, G]``."""
    right = np.broadcast_to(np.reshape(right, (*np.shape(right), 1)[:3]), (*np.shape(right)[:2], groups))
    return 100 * np.stack([right, 0 * right, 1 - right, 0 * right], axis=-1)[:, :, :, None]


def test_sums_of_groups_are_numpys_and_equal_masses_count_as_many():
    sums, groups = np.random.default_rng(0).normal(size=(2, 5, 3)), np.array(["b", "a", "b", "c", "a"])
    expected = np.stack([sums[:, groups == name].sum(1) for name in "bac"], axis=1)
    assert sum_groups(sums, groups, axis=1) == pytest.approx(expected)
    assert effective_groups(np.full((7, 1), 3.0)).tolist() == [7]
    assert np.isnan(effective_groups([[0], [0]])).all()


@pytest.mark.parametrize("level", [0.95, 0.999])
@pytest.mark.parametrize("losses", [2, 3, 8, 24])
def test_critical_values_are_scipys_to_a_thousandth(losses, level):
    freedom = [1.0, 1.15, 2.4, 7.7, 61.0, np.inf]
    expected = studentized_range.ppf(level, losses, np.array(freedom)) / 2**0.5
    if losses == 2:
        expected = student.ppf(0.5 + level / 2, freedom)
    assert critical(losses, freedom, level) == pytest.approx(expected, rel=1e-3)


def test_critical_values_hold_far_out_where_a_race_looks_early():
    assert critical(2, [3, 12], 1 - 1e-5) == pytest.approx(student.ppf(1 - 5e-6, [3, 12]), rel=1e-3)


def test_two_losses_and_one_class_are_as_in_the_first_version():
    """One variance from Bayesian bootstrap draws, that of the groups widened; Welch and Satterthwaite's degrees of freedom."""
    counts, draws = simulate(np.random.default_rng(3), [0.3, 0.0], 5, 9), 500
    rng = np.random.default_rng(7)
    weights, times = rng.dirichlet(np.ones(9), draws), rng.multinomial(4, np.full(5, 1 / 5), draws) / 4
    drawn = np.einsum("dlr,dr->dl", pooled(np.einsum("dg,lrgcn->dlrgcn", weights, counts)), times)
    mass = counts[0, 0, :, 0, 0] + counts[0, 0, :, 0, 2]
    n, by_seed = mass.sum() ** 2 / (mass**2).sum(), pooled(counts)
    found = estimate(counts, IOU, draws, seed=7)
    for draw, values, spread, place in (
        (drawn[:, 0] - drawn[:, 1], by_seed[0] - by_seed[1], found.difference, (0, 1)),
        (drawn[:, 1], by_seed[1], found.mean, (1,)),
    ):
        of_seeds = min(values.var(ddof=1) / 5, draw.var())
        of_groups = (draw.var() - of_seeds) * (n + 1) / (n - 1)
        freedom = (of_seeds + of_groups) ** 2 / (of_seeds**2 / 4 + of_groups**2 / (n - 1))
        expected = [values.mean(), of_seeds, of_groups, of_seeds + of_groups, freedom]
        assert [float(x[place]) for x in vars(spread).values()] == pytest.approx(expected)
    value, low, _ = found.lead().at(0, 1)
    half = student.ppf(0.975, found.difference.freedom[0, 1]) * found.difference.variance[0, 1] ** 0.5
    assert value - low == pytest.approx(half, rel=1e-3)


def test_alike_groups_leave_students_interval_of_the_mean_over_seeds():
    right = np.random.default_rng(2).uniform(0.4, 0.6, (1, 6))
    found = estimate(counts_of(right, 10), IOU, draws=20_000)
    expected = ttest_1samp(right[0], 0).confidence_interval(0.95)
    assert (found.score.low[0], found.score.high[0]) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert found.mean.of_seeds[0] == pytest.approx(right.var(ddof=1) / 6, rel=0.03)


def test_alike_seeds_leave_students_interval_of_the_mean_over_groups():
    """A score that is a mean over groups of equal mass."""
    right = np.broadcast_to(np.random.default_rng(3).uniform(0.4, 0.6, 8), (1, 5, 8))
    counts = counts_of(right, 8)
    expected = ttest_1samp(right[0, 0], 0).confidence_interval(0.95)
    for sums, measure in ((counts, IOU), (scene_sums(metrics(Binary(("a",)))["iou"].each(counts)), SCENE_MEAN)):
        found = estimate(sums, measure, draws=20_000).score
        assert (found.low[0], found.high[0]) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_scores_are_computed_anew_from_drawn_sums():
    """A large and a small group at weights w and 1 - w, w uniform: the variance of (90 w + 1 - w) / (100 w + 10 (1 - w))."""
    counts = np.zeros((1, 2, 2, 1, 4))
    counts[0, :, :, 0, [0, 2]] = np.array([[90, 1], [10, 9]])[:, None]
    moments = [quad(lambda w, k=k: ((90 * w + 1 - w) / (100 * w + 10 * (1 - w))) ** k, 0, 1)[0] for k in (1, 2)]
    n = 110**2 / (100**2 + 10**2)
    found = estimate(counts, IOU, draws=40_000).mean
    assert found.variance[0] == pytest.approx((moments[1] - moments[0] ** 2) * (n + 1) / (n - 1), rel=0.03)


def test_a_loss_compared_with_itself_is_not_told_apart_and_a_sure_gap_is_exact():
    counts = simulate(np.random.default_rng(0), np.zeros(3), 5, 8)
    counts[1] = counts[0]
    found = estimate(counts, IOU, draws=100)
    assert found.lead().value[0, 1] == 0
    assert np.isfinite(found.difference.variance).all()
    same = estimate(np.repeat(counts[:1], 3, axis=0), IOU, draws=100)
    assert (same.difference.variance == 0).all()
    assert shrink(same).best.tolist() == [1 / 3] * 3
    sure = estimate(counts_of([[0.75] * 5, [0.5] * 5, [0.5] * 5], 4), IOU, draws=50)
    assert sure.lead().value[0].tolist() == [0, 0.25, 0.25]
    assert sure.lead().low[0, 1] == pytest.approx(0.25)
    assert shrink(sure).mean == pytest.approx([0.75, 0.5, 0.5], abs=1e-3)
    assert shrink(sure).regret == pytest.approx([0, 0.25, 0.25], abs=1e-3)


def test_nothing_is_claimed_below_three_seeds_and_nothing_is_known_from_one_seed_or_group():
    counts = simulate(np.random.default_rng(0), [0.5, 0.0, 0.0], 5, 8)
    two = estimate(counts[:, :2], IOU, draws=50)
    assert not two.claims
    assert np.isnan(two.lead().low).all()
    assert np.isfinite([two.score.low, two.difference.variance[0]]).all()
    for few in (counts[:, :1], counts[:, :, :1], 0 * counts):
        found = estimate(few, IOU, draws=50)
        assert np.isnan([found.score.low, found.lead().low[0]]).all()
        assert shrink(found) is None
        assert reach(found, 1) is None
    assert np.isfinite(estimate(counts[:, :, :2], IOU, draws=50).lead().low).all()
    alone = estimate(counts[:1], IOU, draws=50)
    assert np.isfinite(alone.score.low).all()
    assert shrink(alone) is None


def test_runs_without_a_score_leave_the_other_losses_their_intervals():
    counts = simulate(np.random.default_rng(0), np.zeros(3), 5, 8)
    counts[2, 1] = np.nan
    found = estimate(counts, IOU, draws=50)
    assert np.isnan(found.score.low[2])
    assert np.isnan(found.lead().low[2, :2]).all()
    assert np.isfinite([found.score.low[0], found.lead().low[0, 1]]).all()


def test_a_collapsed_loss_is_behind_and_moves_no_other():
    counts = simulate(np.random.default_rng(0), np.zeros(4), 5, 8)
    beside = estimate(counts[:3], IOU, draws=200)
    counts[3, ..., 2] += counts[3, ..., 0]
    counts[3, ..., 0] = 0
    found = estimate(counts, IOU, draws=200)
    assert (found.lead().low[:3, 3] > 0).all()
    assert (found.score.low[3], found.score.high[3]) == (0, 0)
    alone, chances = shrink(beside), shrink(found)
    assert chances.best[3] == 0
    assert chances.mean[3] == pytest.approx(0, abs=0.01)
    assert np.abs(chances.mean[:3] - alone.mean).max() < 0.3 * np.ptp(beside.mean.value)


def test_one_draw_of_groups_serves_all_losses():
    """What is hard in a group is hard for all: the difference is far surer than two scores that are drawn apart."""
    found = estimate(simulate(np.random.default_rng(1), [0.3, 0.0], 5, 30, (0.05, 1.0, 0.05, 0.05)), IOU)
    assert found.difference.variance[0, 1] < 0.25 * found.mean.variance.sum()


def test_the_better_of_two_errors_is_the_smaller():
    rng = np.random.default_rng(5)
    histograms = np.zeros((2, 5, 6, 1, 2, 256))
    histograms[:, :, :, 0, :, 160] = rng.integers(40, 60, (2, 5, 6, 2))
    histograms[1, :, :, 0, 0, 200] = 50  # said to be positive, and wrong
    sums = np.array([[calibration_sums(run, Binary(("a",)))["ece"] for run in row] for row in histograms])
    found = estimate(sums, MEASURES["ece"])
    assert found.difference.value[0, 1] < 0 < found.lead().low[0, 1]
    assert found.lead().at(0, 1) == pytest.approx(
        [-x for x in (found.lead().value[1, 0], found.lead().high[1, 0], found.lead().low[1, 0])]
    )
    chances = shrink(found)
    assert chances.best[0] > 0.95
    assert chances.regret[1] == pytest.approx(found.lead().value[0, 1], rel=0.2)
    assert chances.mean == pytest.approx(found.mean.value, rel=0.2)


def test_intervals_of_scores_keep_to_where_scores_lie():
    """Two seeds of IoU 1/11 and 1/2, then 10/11 and 1/2: with one degree of freedom t is 12.7, wider than [0, 1]."""
    found = estimate(counts_of([[1 / 11, 1 / 2], [10 / 11, 1 / 2]], 6), IOU, draws=300)
    assert (found.score.low.tolist(), found.score.high.tolist()) == ([0, 0], [1, 1])
    squares = np.ones((1, 2, 6, 1, 2)) * [1.4, 1.0]
    squares[:, 1, ..., 0] = 1.6
    brier = estimate(squares, MEASURES["brier"], draws=300).score
    assert brier.high == pytest.approx(1.5 + 12.706 * 0.1, abs=0.1)  # for multiclass up to 2: not cut at 1


def test_moderation_finds_the_prior_that_variances_come_from():
    """Smyth's model: variances 2 / (chi^2 with 8 / 8) of things, each measured with 4 degrees of freedom."""
    rng = np.random.default_rng(0)
    true = 2 / (rng.chisquare(8, 20_000) / 8)
    seen = true * rng.chisquare(4, 20_000) / 4
    found, freedom = moderate(seen, np.full(20_000, 4.0), 20_000)
    assert freedom == pytest.approx(12, rel=0.1)
    assert found == pytest.approx((8 * 2 + 4 * seen) / 12, rel=0.1)
    assert ((found / true - 1) ** 2).mean() < 0.5 * ((seen / true - 1) ** 2).mean()


# One rare class among many


def test_a_class_in_one_group_gives_no_interval_and_in_two_a_wide_one():
    counts = simulate(np.random.default_rng(0), [0.5, 0.0], 5, 12, held=(1.0, 1.0, 0.01))
    two = estimate(counts, MEAN_IOU)
    assert np.isfinite(two.lead().low).all()
    counts[:, :, np.flatnonzero(counts[0, 0, :, 2].sum(-1))[0], 2] = 0
    one = estimate(counts, MEAN_IOU)
    assert one.lead().value[0, 1] == pytest.approx(np.subtract(*pooled(counts).mean(1)))
    assert np.isnan([one.lead().low, one.lead().high]).all()
    without = measures(Multiclass(("a", "b", "c")), without=("c",))["iou"]
    assert np.isfinite(estimate(counts[:, :, :, :2], without).lead().low).all()


@pytest.mark.parametrize("holding", [2, 12])
def test_a_class_that_all_losses_find_alike_leaves_the_mean_of_the_others_over_one_more(holding):
    counts = simulate(np.random.default_rng(0), [0.3, 0.0], 5, 12, held=(1.0, 1.0, 1.0))
    counts[:, :, holding:, 2] = 0
    counts[:, :, :, 2] = counts[:1, :1, :, 2]
    beside = measures(Multiclass(("a", "b")))["iou"]
    whole, part = (estimate(sums, measure).lead() for sums, measure in ((counts, MEAN_IOU), (counts[:, :, :, :2], beside)))
    assert np.array(whole.at(0, 1)) == pytest.approx(2 / 3 * np.array(part.at(0, 1)))


def found_gap(rng, rounds, gap, **options):
    """How often the first of two losses is surely ahead, and the same by the rule that one rare class counts for all."""
    ahead = np.zeros(2)
    for number in range(rounds):
        counts = simulate(rng, [gap, 0.0], 5, 20, **options)
        counts[:, :, :, -1] = simulate(rng, [0.0, 0.0], 5, 20, **(options | {"held": options["held"][-1:]}))[:, :, :, 0]
        found = estimate(counts, measures(Multiclass(tuple(map(str, range(counts.shape[3])))))["iou"], 300, number)
        spread = found.difference
        ahead += found.lead().low[0, 1] > 0, spread.value[0, 1] > student.ppf(0.975, 1) * spread.variance[0, 1] ** 0.5
    return ahead / rounds
