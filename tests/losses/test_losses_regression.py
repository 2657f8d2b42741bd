"""Losses of real values: against NumPy, torch, and with unknown pixels cut away."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rsseg.contract import InputError
from rsseg.losses import MAE, MSE, RMSE, BerHu, CrossEntropy, Huber, LogCosh, Pinball, SmoothL1

NODATA = -9999.0


def by_hand(name, e):
    size = np.abs(e)
    return {
        "mse": np.mean(e**2),
        "rmse": np.sqrt(np.mean(e**2)),
        "mae": np.mean(size),
        "huber": np.mean(np.where(size <= 0.7, e**2 / 2, 0.7 * (size - 0.35))),
        "smooth_l1": np.mean(np.where(size < 0.7, e**2 / 1.4, size - 0.35)),
        "log_cosh": np.mean(np.log(np.cosh(e))),
        "ber_hu": np.mean(np.where(size <= 0.7, size, (e**2 + 0.49) / 1.4)),
        "pinball": np.mean(np.where(e < 0, 0.9 * size, 0.1 * size)),
    }[name]


TERMS = {
    "mse": lambda: MSE(nodata=NODATA),
    "rmse": lambda: RMSE(nodata=NODATA),
    "mae": lambda: MAE(nodata=NODATA),
    "huber": lambda: Huber(delta=0.7, nodata=NODATA),
    "smooth_l1": lambda: SmoothL1(beta=0.7, nodata=NODATA),
    "log_cosh": lambda: LogCosh(nodata=NODATA),
    "ber_hu": lambda: BerHu(delta=0.7, nodata=NODATA),
    "pinball": lambda: Pinball(quantile=0.9, nodata=NODATA),
}
every_term = pytest.mark.parametrize("name", TERMS)


def batch(seed, channels=2, dtype=torch.float64):
    """Some targets are NaN, some no-data."""
    g = torch.Generator().manual_seed(seed)
    prediction = torch.randn(2, channels, 3, 4, generator=g, dtype=torch.float64)
    target = torch.randn(2, channels, 3, 4, generator=g, dtype=torch.float64)
    fate = torch.rand(target.shape, generator=g)
    target[fate < 0.2] = torch.nan
    target[fate > 0.8] = NODATA
    return prediction.to(dtype), target.to(dtype), (fate >= 0.2) & (fate <= 0.8)


@every_term
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_value_by_hand_over_known_pixels(name, seed):
    prediction, target, known = batch(seed)
    expected = by_hand(name, (prediction - target)[known].numpy())
    assert TERMS[name]()(prediction, target).item() == pytest.approx(expected, abs=1e-12)


@every_term
def test_a_perfect_prediction_is_zero_and_has_no_gradient(name):
    prediction = torch.randn(1, 1, 2, 2, requires_grad=True)
    value = TERMS[name]()(prediction, prediction.detach())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-7)
    assert prediction.grad.isfinite().all()
    assert prediction.grad.abs().max() < 1e-6


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_torch_agrees_and_extremes_are_finite(size):
    g = torch.Generator().manual_seed(0)
    prediction, target = (size * torch.randn(2, 1, 3, 4, generator=g) for _ in range(2))
    pairs = {
        MSE(): F.mse_loss,
        MAE(): F.l1_loss,
        Huber(delta=2.0): lambda p, t: F.huber_loss(p, t, delta=2.0),
        SmoothL1(beta=2.0): lambda p, t: F.smooth_l1_loss(p, t, beta=2.0),
    }
    for mine, theirs in pairs.items():
        torch.testing.assert_close(mine(prediction, target[:, 0]), theirs(prediction, target))
    assert LogCosh()(prediction, target).isfinite()


def test_pinball_fits_the_quantile():
    values = torch.randn(1, 1, 50, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guess = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([guess], lr=0.5)
    for _ in range(500):
        optimizer.zero_grad()
        Pinball(quantile=0.8)(guess.expand_as(values), values).backward()
        optimizer.step()
    assert guess.item() == pytest.approx(np.quantile(values.numpy(), 0.8), abs=0.02)


def test_what_is_refused():
    prediction = torch.zeros(2, 3, 4, 5)
    for target in (torch.zeros(2, 4, 5), torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 4, 5, dtype=torch.bool)):
        with pytest.raises(InputError):
            MSE()(prediction, target)
    with pytest.raises(InputError, match="floating-point"):
        MSE()(prediction.long(), prediction)
    with pytest.raises(InputError, match=r"MSE fits the tasks .*regression.*; found 'binary'"):
        MSE("binary")
    with pytest.raises(InputError, match="CrossEntropy fits the tasks"):
        CrossEntropy("regression")
    bad = (lambda: Huber(delta=0), lambda: SmoothL1(beta=-1), lambda: BerHu(delta=0), lambda: Pinball(quantile=1))
    for build in (*bad, lambda: MAE(nodata="none")):
        with pytest.raises(InputError):
            build()


def test_integer_targets_are_values():
    prediction = torch.tensor([[[[1.5, 7.0]]]])
    assert MAE(nodata=255)(prediction, torch.tensor([[[1, 255]]], dtype=torch.uint8)) == 0.5
