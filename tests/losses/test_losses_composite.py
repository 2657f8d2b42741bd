"""Weighted sums of terms, and class weights from counts."""

import logging

import numpy as np
import pytest
import torch
from losses_cases import batch
from torch.nn import functional as F

from rsseg.contract import InputError
from rsseg.losses import Composite, CrossEntropy, Dice, Focal, inverse_frequency, positive_weight


def test_composite_sums_weighted_terms_and_reports_all():
    logits, target = batch("binary", 1)
    logits.requires_grad_()
    ce, dice, focal = CrossEntropy("binary"), Dice("binary"), Focal("binary")
    value = Composite({"ce": (0.25, ce), "dice": (2, dice), "focal": (0, focal)})(logits, target)
    torch.testing.assert_close(value.total, 0.25 * ce(logits, target) + 2 * dice(logits, target))
    assert value.raw["focal"] == focal(logits, target)
    assert value.weighted["focal"] == 0
    assert not value.raw["focal"].requires_grad
    assert value.raw["dice"].requires_grad
    assert value.total == sum(value.weighted.values())


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 0, "1", None, True])
def test_composite_refuses_weights_that_make_no_sense(weight):
    with pytest.raises(InputError, match=r"weight"):
        Composite({"ce": (weight, CrossEntropy("binary"))})


def test_composite_refuses_what_is_no_term():
    with pytest.raises(InputError, match="no terms"):
        Composite({})
    with pytest.raises(InputError, match=r"nn\.Module"):
        Composite({"ce": (1, F.cross_entropy)})


def test_inverse_frequency(caplog):
    assert inverse_frequency([10, 10]) == [1, 1]
    weights = inverse_frequency([600, 300, 100])
    assert np.mean(weights) == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(6)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        weights = inverse_frequency([600, 300, 0], ["road", "field", "water"])
    assert weights[2] == weights[1]
    assert np.mean(weights[:2]) == pytest.approx(1)
    assert "water" in caplog.text
    for counts in ([0, 0], [-1, 2], []):
        with pytest.raises(InputError):
            inverse_frequency(counts)


def test_positive_weight(caplog):
    assert positive_weight(971, 100) == pytest.approx(9.71)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert positive_weight(971, 0) == 1e3
    assert "no positive" in caplog.text
    assert positive_weight(0, 971) == 1e-3
    with pytest.raises(InputError):
        positive_weight(0, 0)
