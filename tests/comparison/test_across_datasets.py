"""Losses over several datasets: the pooled difference against closed forms and simulation, and what is said of it."""

from itertools import combinations

import numpy as np
import pytest
from run_folders import HEIGHT, changed, height_sums, made_findings, of_label, steady
from scipy.stats import studentized_range
from scipy.stats import t as student

from rsseg.comparison.datasets import across_answer, across_datasets, across_table, between, pool, turns
from rsseg.comparison.figures import draw_across
from rsseg.contract import InputError


def iterated(effect, own):
    """The variance between datasets by Newton's steps (DerSimonian and Kacker 2007), from below."""
    tau = 0.0
    for _ in range(200):
        weight = 1 / (own + tau)
        mean = (weight * effect).sum() / weight.sum()
        excess = (weight * (effect - mean) ** 2).sum() - (len(effect) - 1)
        tau = max(tau + excess / (weight**2 * (effect - mean) ** 2).sum(), 0.0)
    return tau


def test_the_variance_between_datasets_is_that_of_another_implementation():
    rng, above = np.random.default_rng(0), 0
    for _ in range(200):
        own = rng.uniform(1e-4, 4e-3, rng.integers(2, 9))
        effect = rng.normal(0, 0.05, len(own))
        expected = iterated(effect, own)
        assert between(effect, own) == pytest.approx(expected, abs=1e-9)
        above += expected > 0
    assert 20 < above < 180  # both cases were met


def test_of_equal_variances_it_is_the_sample_variance_less_their_own():
    effect = np.array([0.1, 0.3, 0.2, 0.6])
    assert between(effect, [0.01] * 4) == pytest.approx(effect.var(ddof=1) - 0.01)
    assert between(effect, [0.1] * 4) == 0


def test_a_pooled_difference_of_equal_variances_is_students():
    effect = np.array([0.1, 0.3, 0.2, 0.6])
    half = student.ppf(0.975, 3) * effect.std(ddof=1) / 2
    assert pool(effect, [0.01] * 4) == pytest.approx((0.3, 0.3 - half, 0.3 + half), rel=1e-3)
    own = student.ppf(0.975, 3) * np.sqrt(0.1 / 4)  # datasets are more alike than their own variances say: those count
    assert pool(effect, [0.1] * 4) == pytest.approx((0.3, 0.3 - own, 0.3 + own), rel=1e-3)
    eight = studentized_range.ppf(0.95, 8, 3) / np.sqrt(2) * effect.std(ddof=1) / 2
    assert pool(effect, [0.01] * 4, losses=8)[1] == pytest.approx(0.3 - eight, rel=2e-3)


def test_a_dataset_that_says_little_counts_little():
    mean, *_ = pool([0.1, 0.1, 0.9], [1e-4, 1e-4, 10.0])
    assert mean == pytest.approx(0.1, abs=0.01)
    swapped, low, high = pool([-0.1, -0.1, -0.9], [1e-4, 1e-4, 10.0])
    assert (-swapped, -high, -low) == pytest.approx(pool([0.1, 0.1, 0.9], [1e-4, 1e-4, 10.0]))


@pytest.mark.parametrize("datasets", [2, 3, 5, 8])
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.1])
def test_intervals_cover_the_mean_over_datasets(datasets, tau):
    rng, rounds = np.random.default_rng([datasets, int(100 * tau)]), 500
    missed = 0
    for _ in range(rounds):
        own = rng.uniform(1e-4, 1e-3, datasets)
        _, low, high = pool(rng.normal(0.05, np.sqrt(own + tau**2)), own)
        missed += not low <= 0.05 <= high
    assert missed / rounds <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / rounds)


def test_intervals_of_all_pairs_hold_together():
    """Of five losses that are alike on average, but not on every dataset."""
    rng, rounds, own = np.random.default_rng(0), 300, 2e-4
    missed = 0
    for _ in range(rounds):
        scores = rng.normal(0, np.sqrt(0.02**2 + own / 2), (5, 4))
        ends = [pool(scores[i] - scores[j], [own] * 4, losses=5) for i, j in combinations(range(5), 2)]
        missed += any(low > 0 or high < 0 for _, low, high in ends)
    assert 0.01 < missed / rounds <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / rounds)


MEANS = {"inria": [0.70, 0.65, 0.60], "dubai": [0.60, 0.62, 0.50], "loveda": [0.55, 0.50, 0.45]}


@pytest.fixture(scope="module")
def three():
    """Three datasets: dice is ahead of ce on the second alone; the last one has another loss too, and another order."""
    found = {name: of_label(steady(means)) for name, means in MEANS.items()}
    found["loveda"] = of_label(steady([0.45, 0.3, 0.50, 0.55]), labels=["focal", "lovasz", "dice", "ce"])
    return across_datasets(found)


def test_losses_are_matched_by_name(three):
    assert three.labels == ["ce", "dice", "focal"]
    assert three.scores == pytest.approx(np.array(list(MEANS.values())).T)
    assert three.ranks.tolist() == [[1, 2, 1], [2, 1, 2], [3, 3, 3]]
    assert [three.labels[i] for i in three.order] == ["ce", "dice", "focal"]


def test_differences_over_datasets_are_pooled_pair_by_pair(three):
    gaps, own = np.array([0.10, 0.10, 0.10]), []
    for each in three.found.values():
        places = each.labels.index("ce"), each.labels.index("focal")
        own.append(each.ranked.difference.variance[places])
    assert three.lead.at(0, 2) == pytest.approx(pool(gaps, own, losses=3))
    value, low, high = three.lead.at(2, 0)
    assert (-value, -high, -low) == pytest.approx(three.lead.at(0, 2))
    assert three.lead.at(1, 1) == (0, 0, 0)


def test_where_the_order_turns(three):
    assert turns(three) == [("ce", "dice", "inria", "dubai")]
    said = across_answer(three)
    assert "The order turns: ce is surely ahead of dice on inria, and surely behind on dubai." in said
    assert not any("of no two losses" in line for line in said)


def test_what_is_said_of_several_datasets(three):
    said, (gap, low, high) = across_answer(three), three.lead.at(0, 2)
    assert said[0] == "Over 3 datasets, inria, dubai and loveda, the mean ranks by IoU are ce 1.3, dice 1.7, focal 3.0."
    assert said[1] == f"focal is surely behind it on datasets like these, by {gap:.3f} ({low:.3f} to {high:.3f})."
    assert not any("dice is surely" in line or "tell little" in line for line in said)


def test_two_datasets_tell_little():
    found = across_datasets({"inria": of_label(steady([0.70, 0.65])), "dubai": of_label(steady([0.60, 0.59]))})
    assert across_answer(found) == [
        "Over 2 datasets, inria and dubai, the mean ranks by IoU are ce 1.0, dice 2.0.",
        "On datasets like these no loss is surely behind ce: 2 datasets tell little of others.",
        "No pair of losses surely changes its order between datasets.",
    ]


def test_nothing_is_claimed_where_a_dataset_has_too_few_seeds_or_areas():
    few, one = (
        of_label(steady(MEANS["dubai"], seeds=2)),
        of_label(steady(MEANS["dubai"]), groups=["a"] * 8, first=np.ones(8, bool)),
    )
    for other in (few, one):
        found = across_datasets({"inria": of_label(steady(MEANS["inria"])), "dubai": other})
        said = across_answer(found)
        assert said[1:] == ["Nothing is claimed of other datasets: there are too few seeds or areas on dubai."]
        assert np.isnan(found.lead.low[0, 1])
        assert found.lead.value[0, 1] == pytest.approx((0.05 - 0.02) / 2)
        assert turns(found) == []
        assert across_table(found)[["behind_low", "behind_high"]].isna().iloc[1:].all(axis=None)


def of_heights(rmse, **options):
    return made_findings(height_sums(steady(rmse))[..., None, :], labels=("mse", "mae"), **{"task": HEIGHT, **options})


def test_errors_are_low_and_have_a_unit():
    found = across_datasets({name: of_heights([1.0 + a, 1.5 + a]) for name, a in (("a", 0), ("b", 0.1), ("c", 0.2))})
    assert found.ranks[:, 0].tolist() == [1, 2]
    said = across_answer(found)
    assert said[0].startswith("Over 3 datasets, a, b and c, the mean ranks by RMSE are mse 1.0, mae 2.0.")
    assert said[1].startswith("mae is surely behind it on datasets like these, by 0.500 m (0.")


def test_the_table_over_datasets(three):
    table = across_table(three)
    assert table.index.tolist() == ["ce", "dice", "focal"]
    assert table.columns.tolist() == ["mean_rank", "inria", "dubai", "loveda", "behind", "behind_low", "behind_high"]
    assert table["mean_rank"].tolist() == pytest.approx([4 / 3, 5 / 3, 3])
    assert table.loc["focal", ["inria", "dubai", "loveda"]].tolist() == pytest.approx([0.60, 0.50, 0.45])
    assert table.loc["focal", ["behind", "behind_low", "behind_high"]].tolist() == pytest.approx(three.lead.at(0, 2))


def test_what_can_not_be_compared_over_datasets():
    one = of_label(steady([0.6, 0.5]))
    with pytest.raises(InputError, match="inria is the only dataset: name sweeps on two or more"):
        across_datasets({"inria": one})
    with pytest.raises(InputError, match="the datasets inria, dubai share 1 losses: run one sweep on all of them"):
        across_datasets({"inria": one, "dubai": of_label(steady([0.6, 0.5]), labels=("ce", "focal"))})
    with pytest.raises(InputError, match="ranked by IoU and recall: name one metric that all have in one unit"):
        across_datasets({"inria": one, "dubai": changed(one, metric="recall")})
    feet = of_heights([1.0, 2.0], task=type(HEIGHT)(("height",), units=("ft",)))
    with pytest.raises(InputError, match="ranked by RMSE in m and RMSE in ft"):
        across_datasets({"a": of_heights([1.0, 2.0]), "b": feet})


def test_the_figure_over_datasets_has_a_panel_each_and_one_for_all(three):
    panels = draw_across(three).axes
    assert [panel.get_title() for panel in panels] == ["inria", "dubai", "loveda", "datasets like\nthese"]
    dots = [line.get_xdata()[0] for line in panels[-1].lines if line.get_marker() == "D"]
    assert dots == pytest.approx([three.lead.value[i, three.order[0]] for i in three.order])


def test_equal_mean_ranks_are_said():
    found = across_datasets({"a": of_label(steady([0.70, 0.65])), "b": of_label(steady([0.60, 0.63]))})
    assert across_answer(found)[0] == "Over 2 datasets, a and b, the mean ranks by IoU are ce 1.5, dice 1.5."
    assert found.labels[found.order[0]] == "ce"  # ahead by 0.02 in the mean
