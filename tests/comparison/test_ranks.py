"""Ranks, rank alignment and what terms of a loss have in common, against their definitions."""

import numpy as np
import pytest
import torch

from rsseg.comparison.measures import CHECKPOINTS, rank_alignment
from rsseg.comparison.tables import mean_ranks
from rsseg.losses import Composite, CrossEntropy, Dice
from rsseg.losses.balancing import term_gradients
from rsseg.training.gradients import norms_and_cosines, one_step_gain


def test_ranks_are_averaged_over_seeds_and_shared_by_ties():
    assert mean_ranks(-np.array([[0.9, 0.5], [0.8, 0.6], [0.1, 0.7]])).tolist() == [2, 2, 2]  # 1, 2, 3 and 3, 2, 1
    assert mean_ranks(np.array([[0.2], [0.2], [0.3]])).tolist() == [1.5, 1.5, 3]
    found = mean_ranks(np.array([[0.2, 0.2], [0.1, 0.3], [0.3, np.nan]]))
    assert found[:2].tolist() == [1.5, 1.5]
    assert np.isnan(found[2])


def tau_b(x, y):
    """Its definition, pair by pair."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    a, b = np.array(signs).T
    return (a * b).sum() / np.sqrt((a != 0).sum() * (b != 0).sum())


def test_rank_alignment_equals_the_definition():
    rng = np.random.default_rng(0)
    loss, score = rng.integers(0, 6, (4, 13)).astype(float), rng.integers(0, 6, (4, 13)).astype(float)
    found = [rank_alignment(a, b) for a, b in zip(loss, score, strict=True)]
    np.testing.assert_allclose(found, [tau_b(-a, b) for a, b in zip(loss, score, strict=True)])
    loss[0, [2, 7]] = np.nan
    kept = ~np.isnan(loss[0])
    assert rank_alignment(loss[0], score[0]) == pytest.approx(tau_b(-loss[0, kept], score[0, kept]))


def test_few_checkpoints_have_no_rank_alignment():
    falling = np.arange(CHECKPOINTS, 0, -1.0)
    assert rank_alignment(falling, -falling) == pytest.approx(1)
    assert np.isnan(rank_alignment(falling[1:], -falling[1:]))
    assert np.isnan(rank_alignment(np.where(falling == 3, np.nan, falling), -falling))
    assert np.isnan(rank_alignment(np.ones(9), np.arange(9.0)))  # a loss that never changes


def test_norms_and_cosines_of_a_composition_are_those_of_each_terms_own_gradient():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 1, 6, 6, requires_grad=True), torch.randint(0, 2, (1, 6, 6))
    terms = {"ce": (0.3, CrossEntropy("binary")), "dice": (2.0, Dice("binary")), "off": (0.0, Dice("binary"))}
    norm, cosines = norms_and_cosines(term_gradients(Composite(terms)(logits, target).weighted, logits))
    own = []
    for weight, term in list(terms.values())[:2]:
        own.append(weight * torch.autograd.grad(term(logits, target), logits)[0].flatten().double())
    norms = torch.stack([g.norm() for g in own])
    torch.testing.assert_close(norm[:2], norms, rtol=1e-5, atol=1e-8)
    assert norm[2] == 0
    cosine = torch.nn.functional.cosine_similarity(own[0], own[1], dim=0)
    torch.testing.assert_close(cosines[0, 1], cosine, rtol=1e-5, atol=1e-8)
    assert cosines[2].isnan().all()


def test_one_step_gain_of_a_linear_metric_is_its_slope_and_parameters_stay():
    theta, gradient = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])], [torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]])]
    kept = [p.clone() for p in theta]
    gain = one_step_gain(theta, gradient, lambda: float(2 * theta[0][0] - 10 * theta[1].sum()), step=0.1)
    assert gain == pytest.approx(2 * -0.6 - 10 * 0.8, rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(theta, kept, strict=True))
    assert one_step_gain(theta, [torch.zeros(2), torch.zeros(1, 1)], lambda: 0.0) == 0

    def fails():
        if not torch.equal(theta[0], kept[0]):
            raise RuntimeError("at the second call")
        return 0.0

    with pytest.raises(RuntimeError):
        one_step_gain(theta, gradient, fails)
    assert all(torch.equal(a, b) for a, b in zip(theta, kept, strict=True))
