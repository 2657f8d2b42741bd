from itertools import product

import numpy as np
import pytest

from rsseg.alignment.bootstrap import crossed_bootstrap, interval, p_values, win_matrix
from rsseg.alignment.counts import counts_of, overlap, per_scene, pooled
from rsseg.contract import Head, InputError, TaskKind


def test_counts_of_three_classes_by_hand():
    head = Head(TaskKind.multiclass, ("a", "b", "c"))
    confusion = np.zeros((2, 1, 3, 3), dtype=int)
    confusion[0, 0] = [[5, 1, 0], [2, 3, 0], [0, 0, 0]]
    confusion[1, 0] = [[0, 0, 0], [0, 4, 1], [0, 0, 0]]
    counts = counts_of(confusion, head)
    assert counts[0].tolist() == [[5, 2, 1], [3, 1, 2], [0, 0, 0]]
    assert pooled(counts) == pytest.approx((5 / 8 + 7 / 11) / 2)  # c is never there
    assert per_scene(counts) == pytest.approx(((5 / 8 + 3 / 6) / 2 + 4 / 5) / 2)
    assert np.isnan(overlap(np.zeros(3)))
    assert overlap([0, 3, 0], "dice") != overlap([0, 0, 3], "dice")  # absent, and missed altogether


def simulated(rng, seeds, scenes, spread, means=(0.3, 0.0)):
    """Counts of two losses: random seeds, scenes of different size and difficulty, and both together."""
    of_seed, of_scene, of_both, noise = spread
    size = 1000 * rng.lognormal(0, 0.7, scenes)
    z = np.array(means)[:, None, None] + rng.normal(0, of_scene, scenes) + rng.normal(0, of_seed, (2, seeds, 1))
    z = z + rng.normal(0, of_both, (2, 1, scenes)) + rng.normal(0, noise, (2, seeds, scenes))
    right = 1 / (1 + np.exp(-z))
    return np.stack([right * size, 0.5 * (1 - right) * size, (1 - right) * size], axis=-1)[:, :, :, None]


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


def test_one_draw_of_scenes_serves_all_losses():
    """The shared draw of scenes is what makes a difference of losses sharp."""
    counts = simulated(np.random.default_rng(1), 5, 30, (0.05, 1.0, 0.05, 0.05))
    shared = crossed_bootstrap(counts)
    apart = np.stack([crossed_bootstrap(counts[i : i + 1], seed=i)[:, 0] for i in range(2)], axis=1)
    assert np.subtract(*shared.T).std() < 0.5 * np.subtract(*apart.T).std()


def test_draws_vary_as_the_mean_of_independent_seeds_does():
    """Alike scenes, so that all spread is the seeds': the variance has to be s^2 / n, not (n - 1) / n of it."""
    rng = np.random.default_rng(2)
    right = rng.uniform(0.4, 0.6, 6)
    counts = np.zeros((1, 6, 10, 1, 3))
    counts[0, :, :, 0, 0], counts[0, :, :, 0, 2] = right[:, None], 1 - right[:, None]
    drawn = crossed_bootstrap(counts, draws=40_000)[:, 0]
    assert drawn.mean() == pytest.approx(right.mean(), abs=1e-3)
    assert drawn.var() == pytest.approx(right.var(ddof=1) / 6, rel=0.03)
    from scipy.stats import t

    half = t.ppf(0.975, 5) * right.std(ddof=1) / 6**0.5
    found = interval(drawn[:, None], right[None], scenes=10)
    assert found.high - found.value == pytest.approx(half, rel=0.03)


def test_pooled_scores_are_computed_anew_from_drawn_counts():
    """One large and one small scene: draws hold either, whose scores are no mean of scores of scenes."""
    counts = np.zeros((1, 1, 3, 1, 3))
    counts[0, 0, :, 0] = [[90, 0, 10], [1, 0, 9], [0, 0, 0]]
    expected = {90 / 100, 1 / 10, 91 / 110}
    drawn = crossed_bootstrap(counts, draws=200)[:, 0]
    assert {round(x, 9) for x in drawn[~np.isnan(drawn)]} == {round(x, 9) for x in expected}


def test_win_matrix_by_hand():
    counts = np.zeros((3, 6, 4, 1, 3))
    counts[..., 0], counts[..., 2] = 1, 1
    counts[0, ..., 0] = 3  # IoU 3/4 against 1/2 and 1/2
    found = win_matrix(counts, draws=50)
    assert found.better[0].tolist()[1:] == [1, 1]
    assert found.better[1, 2] == 0.5
    assert np.isnan(np.diag(found.better)).all()
    assert found.difference.value[0].tolist() == [0, 0.25, 0.25]
    assert found.difference.low[0, 1] == pytest.approx(0.25)
    assert np.isnan(found.p_value).all()  # 2 / 2^6 times three comparisons is .094
    assert not found.exploratory
    few = win_matrix(counts[:, :3], draws=50)
    assert few.exploratory
    one = win_matrix(counts[:, :1], draws=50)
    assert np.isnan(one.difference.low).all()
    assert np.isfinite(one.score.value).all()


def test_p_values_enumerate_all_signs():
    gaps = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.4, 0.02])
    means = [abs(np.dot(signs, gaps)) for signs in product([-1, 1], repeat=7)]
    expected = np.mean(np.array(means) >= gaps.sum() - 1e-12)
    assert p_values(gaps, 1) == pytest.approx(expected)
    assert p_values(gaps, 3) == pytest.approx(3 * expected)
    assert np.isnan(p_values(gaps, 4))  # 4 x 2 / 128 is .0625
    assert p_values(np.ones(20), 1) < 1e-3
    assert p_values(np.zeros(8), 1) == 1


def test_incomplete_counts_are_refused():
    with pytest.raises(InputError, match="shape"):
        win_matrix(np.ones((2, 5, 8, 3)))
    counts = np.ones((2, 5, 8, 1, 3))
    counts[0, 2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        win_matrix(counts)
