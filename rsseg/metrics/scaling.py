"""Temperature and vector scaling of logits (Guo et al. 2017): the fit on a sample of pixels, and its benefit.

Each independent label has its own temperature, and its vector scaling is Platt's (1999): a factor and a summand. The
weighted negative log-likelihood is convex in both, so that each fit has one minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from rsseg.contract import InputError
from rsseg.metrics.average import Array, present_mean, ratio
from rsseg.metrics.calibration import sampled_error
from rsseg.metrics.sample import Sample
from rsseg.task import Scaling, Task

KINDS = ("temperature", "vector")
"""The kinds of scaling."""

TEMPERATURES = 0.05, 20.0
"""The bounds of temperatures: logits that separate the labels without error would have a temperature of 0."""

FARTHEST = 20.0
"""The bound of the amount of a summand."""


def fit(sample: Sample, task: Task, kind: str = "temperature") -> Scaling:
    """The scaling of a kind with the smallest weighted negative log-likelihood of the sample.

    Raises:
        InputError: For logits that are not finite.

    Example:
        >>> from rsseg.task import Binary
        >>> z, y = np.full((4, 1), 2.0, np.float32), np.array([1, 1, 1, 0])  # p = 0.88 is said, and 0.75 happens
        >>> found = fit(Sample(z, y, 0 * y, 0 * y, np.ones(4)), Binary(("road",)))
        >>> round(found.scale[0] * 2, 3), round(float(np.log(3)), 3)
        (1.099, 1.099)
    """
    if not np.isfinite(sample.logits).all():
        raise InputError("the sampled logits hold NaN or infinity: the run has diverged; lower its learning rate")
    z, w, fitted = sample.logits.astype(np.float64), sample.weight, fittable(sample, task, kind)
    scale, shift = np.ones(task.channels), np.zeros(task.channels)
    if not task.exclusive:
        for c in np.flatnonzero(fitted):
            own = sample.plane == c
            scale[c], shift[c] = _fit_label(z[own, 0], sample.target[own], w[own], kind)
    elif fitted.any():
        scale[:] = _minimise(lambda x: _loss_of_classes(x[0], 0.0, z, sample.target, w, one=True), 1)[0]
        if kind == "vector":
            number, own = int(fitted.sum()), (np.cumsum(fitted) - 1)[sample.target]
            found = _minimise(
                lambda x: _loss_of_classes(x[:number], x[number:], z[:, fitted], own, w), number, number, scale[0]
            )
            scale[fitted], shift[fitted] = found[:number], found[number:] - found[number:].mean()
    return Scaling(tuple(scale.tolist()), tuple(shift.tolist()))


def fittable(sample: Sample, task: Task, kind: str) -> NDArray[np.bool_]:
    """Which classes can be fitted, bool ``[K]``: not one that the sample lacks, or that it has nothing else of."""
    if not task.exclusive:
        return np.array([len(np.unique(sample.target[sample.plane == c])) == 2 for c in range(task.channels)])
    there = np.bincount(sample.target, minlength=task.channels) > 0
    return there if kind == "vector" and there.sum() > 1 else np.full(task.channels, there.sum() > 1)


def at_bound(scaling: Scaling) -> NDArray[np.bool_]:
    """Which classes' numbers are at a bound, bool ``[K]``."""
    scale, shift = np.array(scaling.scale), np.array(scaling.shift)
    at_scale = np.isclose(scale, 1 / TEMPERATURES[0]) | np.isclose(scale, 1 / TEMPERATURES[1])
    return np.asarray(at_scale | np.isclose(abs(shift), FARTHEST))


def scale_sample(sample: Sample, scaling: Scaling, task: Task) -> Sample:
    """The sample with scaled logits."""
    scale, shift = np.array(scaling.scale), np.array(scaling.shift)
    if not task.exclusive:
        scale, shift = scale[sample.plane, None], shift[sample.plane, None]
    return sample._replace(logits=sample.logits * scale + shift)


def _fit_label(z: Array, y: NDArray[np.int64], w: Array, kind: str) -> tuple[float, float]:
    """Factor and summand of one label's logits ``[N]``."""

    def loss(x: Array) -> tuple[float, Array]:
        moved = x[0] * z + (x[1] if len(x) > 1 else 0.0)
        gap = w * (expit(moved) - y)
        return float(w @ (np.logaddexp(0, moved) - y * moved)), np.array([gap @ z, gap.sum()])[: len(x)]

    found = _minimise(loss, 1, int(kind == "vector"))
    return float(found[0]), float(found[1]) if len(found) > 1 else 0.0


def _loss_of_classes(
    scale: Any, shift: Any, z: Array, y: NDArray[np.int64], w: Array, one: bool = False
) -> tuple[float, Array]:
    """The summed loss of exclusive classes' logits ``[N, K]``, and its gradient; `one`: by a factor that they share."""
    logs, rows = log_softmax(z * scale + shift, axis=1), np.arange(len(y))
    gap = np.exp(logs)
    gap[rows, y] -= 1
    gap *= w[:, None]
    of_scale = (gap * z).sum(0)
    gradient = of_scale.sum(keepdims=True) if one else np.concatenate([of_scale, gap.sum(0)])
    return -float(w @ logs[rows, y]), gradient


def _minimise(loss: Callable[[Array], tuple[float, Array]], scales: int, shifts: int = 0, start: float = 1.0) -> Array:
    """Where a loss of so many factors and summands, and its gradient, is smallest within the bounds."""
    unit = max(loss(np.array([start] * scales + [0.0] * shifts))[0], 1e-12)
    low, high = (1 / temperature for temperature in TEMPERATURES[::-1])
    found = minimize(
        lambda x: tuple(part / unit for part in loss(x)),
        np.array([start] * scales + [0.0] * shifts),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, high)] * scales + [(-FARTHEST, FARTHEST)] * shifts,
        options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-9},
    )
    return np.asarray(found.x)


def log_loss(sample: Sample, task: Task) -> float:
    """The mean negative log-likelihood of the sample's pixels; of labels that are independent the mean over these."""
    z, y, w = sample.logits.astype(np.float64), sample.target, sample.weight
    if task.exclusive:
        losses, plane, planes = -log_softmax(z, axis=1)[np.arange(len(y)), y], 0 * y, 1
    else:
        losses, plane, planes = np.logaddexp(0, np.where(y == 1, -z[:, 0], z[:, 0])), sample.plane, task.channels
    total, number = (np.bincount(plane, each, planes).astype(np.float64) for each in (w * losses, w))
    return float(present_mean(ratio(total, number)))


def calibration_error(sample: Sample, task: Task) -> float:
    """The expected calibration error of the sample's pixels, see `rsseg.metrics.calibration`."""
    z = sample.logits.astype(np.float64)
    if not task.exclusive:
        return sampled_error(expit(z[:, 0]), sample.target == 1, sample.weight)
    return sampled_error(softmax(z, axis=1).max(1), z.argmax(1) == sample.target, sample.weight)


def scaling_facts(sample: Sample, task: Task, step: int, first: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """What ``scaling.json`` says of a head, by kind, from the best checkpoint's sample of the validation scenes.

    Args:
        sample: Its logits.
        task: The head's task.
        step: The checkpoint's.
        first: bool ``[S]``, which scenes are the first half; all: there is no other.

    Returns:
        The `scale` and `shift` of each class; the classes that were not fitted, and those at a bound; and the negative
        log-likelihood and the calibration error before and after, of pixels that are scaled by what was fitted on the other
        half: NaN without another half.

    Raises:
        InputError: For logits that are not finite.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        whole, fitted = fit(sample, task, kind), fittable(sample, task, kind)
        bounded = fitted & at_bound(whole)
        found[kind] = {
            "scale": list(whole.scale),
            "shift": list(whole.shift),
            "step": step,
            "unfitted": [name for name, known in zip(task.classes, fitted, strict=True) if not known],
            "at_bound": [name for name, bound in zip(task.classes, bounded, strict=True) if bound],
            **_worth(sample, task, kind, first),
        }
    return found


def _worth(sample: Sample, task: Task, kind: str, first: NDArray[np.bool_]) -> dict[str, float]:
    """The scores before and after, each half scaled by the fit of the other."""
    in_first = first[sample.scene]
    names = [f"{score}_{when}" for when in ("before", "after") for score in ("nll", "ece")]
    if in_first.all() or not in_first.any():
        return dict.fromkeys(names, np.nan)
    scaled = np.empty(sample.logits.shape)
    for half in (in_first, ~in_first):
        scaled[~half] = scale_sample(_part(sample, ~half), fit(_part(sample, half), task, kind), task).logits
    after = sample._replace(logits=scaled)
    values = [score(each, task) for each in (sample, after) for score in (log_loss, calibration_error)]
    return dict(zip(names, values, strict=True))


def _part(sample: Sample, where: NDArray[np.bool_]) -> Sample:
    return Sample._make(column[where] for column in sample)
