"""Whether probabilities mean what they say: calibration errors and the Brier score from score histograms.

A pixel's probability is taken at the middle of its bin of `histogram`, at most 1/64 off and less where it matters: the
probability of the outer bins moves little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.contract import Head, InputError, TaskKind
from rsseg.metrics.histogram import CENTRES

PROBABILITIES: NDArray[np.float64] = 1 / (1 + np.exp(-CENTRES))


def reliability(histogram: ArrayLike, bins: int = 15) -> NDArray[np.float64]:
    """What was said and what happened, in bins of equal width over the probability.

    Args:
        histogram: ``[..., 2, 256]``, by label and score.
        bins: Their number.

    Returns:
        float64 ``[..., bins, 3]``: pixels, the sum of their probabilities, and how many were positive.

    Raises:
        InputError: For fewer than one bin.
    """
    if bins < 1:
        raise InputError(f"a reliability diagram needs a bin at least; found {bins}")
    counts = np.asarray(histogram, dtype=np.float64)
    number = counts.sum(-2)
    sums = np.stack([number, number * PROBABILITIES, counts[..., 1, :]], axis=-1)
    member = np.minimum(np.floor(PROBABILITIES * bins), bins - 1) == np.arange(bins)[:, None]
    binned: NDArray[np.float64] = member.astype(np.float64) @ sums
    return binned


def calibration_error(histogram: ArrayLike, bins: int = 15) -> NDArray[np.float64]:
    """The expected calibration error (Naeini et al. 2015): the mean over pixels of their bin's ``|said - happened|``.

    Args:
        histogram: ``[..., 2, 256]``.
        bins: Of equal width over the probability.

    Returns:
        ``[...]``; NaN without a pixel.

    Example:
        >>> histogram = np.zeros((2, 256))
        >>> histogram[:, 128] = 1, 3  # of four pixels with p = 0.516, three are positive
        >>> float(calibration_error(histogram).round(3))
        0.234
    """
    number, said, happened = np.moveaxis(reliability(histogram, bins), -1, 0)
    pixels = number.sum(-1)
    error: NDArray[np.float64] = np.where(pixels > 0, np.abs(said - happened).sum(-1) / np.maximum(pixels, 1), np.nan)
    return error


def brier(histogram: ArrayLike) -> NDArray[np.float64]:
    """The Brier score (1950) of each plane: the mean over pixels of ``(p - y)^2``.

    For a multiclass head the sum over its classes' planes is Brier's original score, from 0 to 2.

    Args:
        histogram: ``[..., 2, 256]``.

    Returns:
        ``[...]``; NaN without a pixel.
    """
    counts = np.asarray(histogram, dtype=np.float64)
    pixels = counts.sum((-1, -2))
    total = (counts * np.stack([PROBABILITIES**2, (1 - PROBABILITIES) ** 2])).sum((-1, -2))
    score: NDArray[np.float64] = np.where(pixels > 0, total / np.maximum(pixels, 1), np.nan)
    return score


def calibration(histogram: ArrayLike, head: Head, bins: int = 15) -> dict[str, float]:
    """The calibration of a run.

    Args:
        histogram: ``[scenes, P, 2, 256]``, as `rsseg.metrics.ScoreHistogram` counts it; pooled over scenes.
        head: Task and classes.
        bins: Of equal width over the probability.

    Returns:
        ``ece``: of the predicted class's probability for multiclass (Guo et al. 2017), else of all labels' probabilities
        together. ``class_ece``: the mean over the classes present of each class's own (Kull et al. 2019), which a frequent
        background does not drown. ``brier``: summed over the classes for multiclass, else the mean over labels.
    """
    pooled = np.asarray(histogram, dtype=np.float64).sum(0)
    several = head.task is TaskKind.multiclass
    classes = pooled[: head.channels]
    present = classes[:, 1].sum(-1) > 0
    errors, scores = calibration_error(classes, bins), brier(classes)
    return {
        "ece": float(calibration_error(pooled[-1] if several else classes.sum(0), bins)),
        "class_ece": float(errors[present].mean()) if present.any() else float("nan"),
        "brier": float(scores.sum() if several else scores.mean()),
    }
