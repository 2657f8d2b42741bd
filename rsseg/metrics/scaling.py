"""Temperature and vector scaling of logits (Guo et al. 2017): the fit on a sample of pixels, and the scores before and after.

Each independent label has its own temperature; its vector scaling is Platt scaling (1999), a factor and an offset. The
weighted negative log-likelihood is convex in both, so that each fit has one minimum.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from torch import Tensor

from rsseg.contract import InputError
from rsseg.metrics.average import Array, present_mean, ratio
from rsseg.metrics.calibration import sampled_error
from rsseg.metrics.pixel_sample import SampledLogits
from rsseg.task import SCALINGS, Scaling, Task

TEMPERATURES = 0.05, 20.0
"""The bounds of temperatures: logits that separate the labels perfectly would have the temperature 0."""

FARTHEST = 20.0
"""The largest absolute value of an offset."""


def fit(sample: SampledLogits, task: Task, kind: str = "temperature") -> Scaling:
    """The scaling, temperature or vector, with the smallest weighted negative log-likelihood of the sample.

    Classes without positives, or without negatives, in the sample are not scaled.

    Example:
        >>> from rsseg.task import Binary
        >>> z, y = np.full((4, 1), 2.0, np.float32), np.array([1, 1, 1, 0])  # p = 0.88 is said, and 0.75 happens
        >>> found = fit(SampledLogits(z, y, 0 * y, 0 * y, np.ones(4)), Binary(("road",)))
        >>> round(found.scale[0] * 2, 3), round(float(np.log(3)), 3)
        (1.099, 1.099)
    """
    if not np.isfinite(sample.logits).all():
        raise InputError("the sampled logits hold NaN or infinity: the run has diverged; lower its learning rate")
    z, y, w = sample.logits.astype(np.float64), sample.target, sample.weight
    scale, shift, vector = np.ones(task.channels), np.zeros(task.channels), kind == "vector"
    if task.exclusive:
        there = np.bincount(y, minlength=task.channels) > 0
        if there.sum() > 1:
            scale[:], _ = _minimise(z, y, w, factors=1)
        if there.sum() > 1 and vector:
            own, number = (np.cumsum(there) - 1)[y], int(there.sum())
            scale[there], summands = _minimise(z[:, there], own, w, number, number, scale[0])
            shift[there] = summands - summands.mean()
    else:
        for c in range(task.channels):
            own = sample.plane == c
            if len(np.unique(y[own])) == 2:
                factor, summand = _minimise(z[own], y[own], w[own], 1, int(vector))
                scale[c], shift[c] = factor.item(), summand.sum()
    return Scaling(tuple(scale.tolist()), tuple(shift.tolist()))


def _minimise(
    z: Array, y: NDArray[np.int64], w: Array, factors: int, summands: int = 0, start: float = 1.0
) -> tuple[Array, Array]:
    """The factors and offsets of logits ``[N, K]``, per class or one for all, with the least loss within the bounds."""
    logits, target, weight = (torch.from_numpy(each) for each in (z, y, w))

    def loss(x: Array) -> tuple[float, Array]:
        point = torch.from_numpy(x).requires_grad_()
        moved = logits * point[:factors] + (point[factors:] if summands else 0)
        value = (weight * _pixel_losses(moved, target)).sum() / weight.sum()
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.numpy()

    low, high = (1 / temperature for temperature in TEMPERATURES[::-1])
    found = minimize(
        loss,
        np.array([start] * factors + [0.0] * summands),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, high)] * factors + [(-FARTHEST, FARTHEST)] * summands,
        options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-9},
    )
    return np.asarray(found.x[:factors]), np.asarray(found.x[factors:])


def _pixel_losses(logits: Tensor, target: Tensor) -> Tensor:
    """The negative log-likelihood of each pixel ``[N]`` from logits ``[N, K]``; K is 1 for independent labels."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], target.double(), reduction="none")
    return F.cross_entropy(logits, target, reduction="none")


def scale_sample(sample: SampledLogits, scaling: Scaling, task: Task) -> SampledLogits:
    """The sample with scaled logits."""
    scale, shift = np.array(scaling.scale), np.array(scaling.shift)
    if not task.exclusive:
        scale, shift = scale[sample.plane, None], shift[sample.plane, None]
    return sample._replace(logits=sample.logits * scale + shift)


def log_loss(sample: SampledLogits, task: Task) -> float:
    """The weighted mean negative log-likelihood of the sample; for independent labels, the mean over labels."""
    losses = _pixel_losses(torch.from_numpy(sample.logits.astype(np.float64)), torch.from_numpy(sample.target)).numpy()
    plane, planes = (0 * sample.plane, 1) if task.exclusive else (sample.plane, task.channels)
    total, number = (np.bincount(plane, each, planes) for each in (sample.weight * losses, sample.weight))
    return float(present_mean(ratio(total.astype(np.float64), number.astype(np.float64))))


def calibration_error(sample: SampledLogits, task: Task) -> float:
    """The expected calibration error of the sample's pixels, see `rsseg.metrics.calibration`."""
    z = sample.logits.astype(np.float64)
    if not task.exclusive:
        return sampled_error(expit(z[:, 0]), sample.target == 1, sample.weight)
    return sampled_error(softmax(z, axis=1).max(1), z.argmax(1) == sample.target, sample.weight)


def scaling_facts(sample: SampledLogits, task: Task, step: int, first: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """The content of ``scaling.json`` for a head, from the best checkpoint's sample of the validation scenes.

    `first`, bool ``[S]``, is true for the first half of the scenes; all true: there is no second half.

    Returns:
        By kind, the `scale` and `shift` of each class, and negative log-likelihood and calibration error before and after; for
        these each half is scaled by the fit on the other half: NaN without a second half.
    """
    return {
        kind: {**asdict(fit(sample, task, kind)), "step": step, **_worth(sample, task, kind, first[sample.scene])}
        for kind in SCALINGS
    }


def _worth(sample: SampledLogits, task: Task, kind: str, in_first: NDArray[np.bool_]) -> dict[str, float]:
    """The scores before and after scaling, with each half scaled by the fit on the other half."""
    halves = [SampledLogits._make(column[where] for column in sample) for where in (in_first, ~in_first)]
    whole = all(len(half.target) for half in halves)
    scaled = np.empty(sample.logits.shape)
    for half, other, where in zip(halves, halves[::-1], (in_first, ~in_first), strict=True) if whole else ():
        scaled[where] = scale_sample(half, fit(other, task, kind), task).logits
    scores = {"nll": log_loss, "ece": calibration_error}
    return {
        f"{name}_{when}": score(each, task) if whole else np.nan
        for when, each in (("before", sample), ("after", sample._replace(logits=scaled)))
        for name, score in scores.items()
    }
