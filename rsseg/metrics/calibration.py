"""Whether probabilities mean what they say: calibration errors, Brier score and log-likelihood from score histograms.

A pixel's probability is taken at the middle of its bin of `histogram`, at most 1/64 off and less where it matters: the
probability of the outer bins moves little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.contract import InputError
from rsseg.metrics.average import present_mean, ratio
from rsseg.task import Task

BINS = 256
LIMIT = 16.0
"""Bins are 1/8 wide from -16 to 16, half-open below, ``(e, e + 1/8]``; scores beyond fall into the outermost ones."""

CENTRES: NDArray[np.float64] = (np.arange(BINS, dtype=np.float64) + 0.5) * (2 * LIMIT / BINS) - LIMIT
"""The middle of every bin."""

PROBABILITIES: NDArray[np.float64] = 1 / (1 + np.exp(-CENTRES))
LOG_LOSS: NDArray[np.float64] = np.logaddexp(0, -CENTRES)
"""The negative logarithms of `PROBABILITIES`; reversed those of their complements, as bins lie alike about 0."""


def reliability(histogram: ArrayLike, bins: int = 15) -> NDArray[np.float64]:
    """What was said and what happened, in bins of equal width over the probability, of histograms ``[..., 2, 256]``.

    That is float64 ``[..., bins, 3]``: pixels, the sum of their probabilities, and how many were positive.
    """
    if bins < 1:
        raise InputError(f"a reliability diagram needs a bin at least; found {bins}")
    counts = np.asarray(histogram, dtype=np.float64)
    number = counts.sum(-2)
    sums = np.stack([number, number * PROBABILITIES, counts[..., 1, :]], axis=-1)
    member = np.minimum(np.floor(PROBABILITIES * bins), bins - 1) == np.arange(bins)[:, None]
    return member.astype(np.float64) @ sums


def sampled_error(probability: ArrayLike, happened: ArrayLike, weight: ArrayLike, bins: int = 15) -> float:
    """The expected calibration error of a sample: of N probabilities, what happened, and how many pixels each stands for.

    Example:
        >>> round(sampled_error([0.6, 0.6, 0.9], [True, False, True], [1, 1, 2]), 3)
        0.1
    """
    p, w = np.asarray(probability, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    place = np.minimum(np.floor(p * bins), bins - 1).astype(np.int64)
    sums = [np.bincount(place, each, bins) for each in (w, w * p, w * np.asarray(happened))]
    return float(_expected_error(np.stack(sums, axis=-1)))


def calibration_sums(histogram: ArrayLike, task: Task, bins: int = 15) -> dict[str, NDArray[np.float64]]:
    """What the scores of a run's calibration are functions of; it may be summed over scenes.

    Args:
        histogram: ``[S, P, 2, 256]``, as `rsseg.metrics.counters.ScoreHistogram` counts it.
        task: The head's task.
        bins: Of equal width over the probability, 1 or more.

    Returns:
        ``ece`` ``[S, bins, 3]`` and ``class_ece`` ``[S, classes, bins, 3]`` as of `reliability`; ``brier`` and ``nll``
        ``[S, L, 2]``: summed squares, or negative logarithms of the label's probability, and pixels, of each label, or for
        multiclass of all classes together.
    """
    counts = np.asarray(histogram, dtype=np.float64)
    several = task.exclusive
    classes = counts[:, : task.channels]
    squares, surprise = _squares(classes), (classes[..., 1, :] * LOG_LOSS).sum(-1)
    if several:
        squares = np.stack([squares[..., 0].sum(1, keepdims=True), squares[:, :1, 1]], axis=-1)
        surprise = surprise.sum(1, keepdims=True)  # every pixel is positive in the plane of its label alone
    else:
        surprise = surprise + (classes[..., 0, :] * LOG_LOSS[::-1]).sum(-1)
    return {
        "ece": reliability(counts[:, -1] if several else classes.sum(1), bins),
        "class_ece": reliability(classes, bins),
        "brier": squares,
        "nll": np.stack([surprise, squares[..., 1]], axis=-1),
    }


def calibration(sums: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The calibration of a run, from its `calibration_sums`, pooled over scenes; NaN where nothing is labelled.

    Returns:
        ``ece``: the expected calibration error (Naeini et al. 2015), the mean over pixels of their bin's ``|said - happened|``,
        of the predicted class's probability for multiclass (Guo et al. 2017), else of all labels' probabilities together.
        ``class_ece``: the mean over the classes present of each class's own (Kull et al. 2019), which a frequent background
        does not drown. ``brier``: the mean of ``(p - y)^2`` (Brier 1950), summed over the classes for multiclass, else the mean
        over the labels that have a labelled pixel. ``nll``: the mean negative logarithm of the label's probability, likewise;
        log-odds beyond 16 count as 16.

    Example:
        >>> from rsseg.task import Binary
        >>> histogram = np.zeros((1, 1, 2, 256))
        >>> histogram[..., 128] = 1, 3  # of four pixels with p = 0.516, three are positive
        >>> round(calibration(calibration_sums(histogram, Binary(("road",))))["ece"], 3)
        0.234
    """
    return {name: float(present_mean(parts(sums[name].sum(0)))) for name, (parts, _) in SCORES.items()}


def _expected_error(binned: NDArray[np.float64]) -> NDArray[np.float64]:
    number, said, happened = np.moveaxis(binned, -1, 0)
    return ratio(np.abs(said - happened).sum(-1), number.sum(-1))


def _class_errors(binned: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(binned[..., 2].sum(-1) > 0, _expected_error(binned), np.nan)


def _label_mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratio(sums[..., 0], sums[..., 1])


def _squares(histogram: ArrayLike) -> NDArray[np.float64]:
    """Summed squares and pixels, ``[..., 2]``."""
    counts = np.asarray(histogram, dtype=np.float64)
    total = (counts * np.stack([PROBABILITIES**2, (1 - PROBABILITIES) ** 2])).sum((-1, -2))
    return np.stack([total, counts.sum((-1, -2))], axis=-1)


Score = Callable[[NDArray[np.float64]], NDArray[np.float64]]
SCORES: Mapping[str, tuple[Score, Score]] = {
    "ece": (lambda binned: _expected_error(binned)[..., None], lambda binned: binned[..., 0].sum(-1)[..., None]),
    "class_ece": (_class_errors, lambda binned: binned[..., 2].sum(-1)),
    "brier": (_label_mean, lambda sums: sums[..., 1]),
    "nll": (_label_mean, lambda sums: sums[..., 1]),
}
"""By name: the parts whose mean a score of sums as `calibration_sums` gives them is, and each part's pixels in them."""
