"""Calibration of probabilities: calibration errors, Brier score and log-likelihood from score histograms.

A pixel's probability is that of the middle of its histogram bin, with an error of at most 1/64, and less in the outer bins,
where the probability changes little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.metrics.average import Array, present_mean, ratio
from rsseg.task import Task

BINS = 256
LIMIT = 16.0
"""Bins are 1/8 wide from -16 to 16, half-open below, ``(e, e + 1/8]``; scores beyond fall into the outermost ones."""

CENTRES: Array = (np.arange(BINS, dtype=np.float64) + 0.5) * (2 * LIMIT / BINS) - LIMIT
"""The middle of every bin."""

PROBABILITIES: Array = 1 / (1 + np.exp(-CENTRES))
LOG_LOSS: Array = np.logaddexp(0, -CENTRES)
"""The negative logarithms of `PROBABILITIES`; reversed, those of 1 - `PROBABILITIES`, since bins are symmetric about 0."""

SHARES = 15
"""The number of bins of equal width of the probability for calibration errors (Guo et al. 2017)."""


def probability_bin(probability: Array) -> NDArray[np.int64]:
    """The index of each probability's bin among `SHARES` bins."""
    return np.minimum(np.floor(probability * SHARES), SHARES - 1).astype(np.int64)


def sampled_error(probability: Array, happened: ArrayLike, weight: Array) -> float:
    """The expected calibration error of a sample: N probabilities, outcomes, and weights in pixels."""
    place = probability_bin(probability)
    sums = [np.bincount(place, each, SHARES) for each in (weight, weight * probability, weight * np.asarray(happened))]
    return float(_expected_error(np.stack(sums, axis=-1)))


def calibration_sums(histogram: ArrayLike, task: Task) -> dict[str, Array]:
    """The sums per scene for calibration scores, which may be added up over scenes.

    `histogram` is ``[S, P, 2, 256]``, as `rsseg.metrics.counters.ScoreHistogram` counts it.

    Returns:
        ``ece`` ``[S, 15, 3]`` and ``class_ece`` ``[S, classes, 15, 3]``: per bin of the probability, the number of pixels, the
        sum of their probabilities, and the number of positives. ``brier`` and ``nll`` ``[S, L, 2]``: the sum of squares, or
        of the label's negative log-probabilities, and the number of pixels, per label, for multiclass in all.
    """
    counts = np.asarray(histogram, dtype=np.float64)
    classes = counts[:, : task.channels]
    negative, positive = classes[..., 0, :], classes[..., 1, :]
    number = classes.sum((-1, -2))
    squares = (negative * PROBABILITIES**2 + positive * (1 - PROBABILITIES) ** 2).sum(-1)
    surprise = (positive * LOG_LOSS).sum(-1)
    if task.exclusive:  # every pixel is in all planes, and positive only in that of its label
        squares, surprise, number = squares.sum(1, keepdims=True), surprise.sum(1, keepdims=True), number[:, :1]
    else:
        surprise = surprise + (negative * LOG_LOSS[::-1]).sum(-1)
    return {
        "ece": _binned(counts[:, -1] if task.exclusive else classes.sum(1)),
        "class_ece": _binned(classes),
        "brier": np.stack([squares, number], axis=-1),
        "nll": np.stack([surprise, number], axis=-1),
    }


def _binned(counts: Array) -> Array:
    """Convert histograms ``[..., 2, 256]`` to bins of the probability, ``[..., 15, 3]``: see `calibration_sums`."""
    number = counts.sum(-2)
    sums = np.stack([number, number * PROBABILITIES, counts[..., 1, :]], axis=-1)
    member = probability_bin(PROBABILITIES) == np.arange(SHARES)[:, None]
    return member.astype(np.float64) @ sums


def calibration(sums: Mapping[str, Array]) -> dict[str, float]:
    """Calibration scores from `calibration_sums`, pooled over scenes; NaN without labelled pixels.

    Returns:
        ``ece``: the expected calibration error (Naeini et al. 2015), the mean over pixels of their bin's ``|said - happened|``,
        of the predicted class's probability for multiclass (Guo et al. 2017), else of all labels' probabilities together.
        ``class_ece``: the mean over present classes of each class's calibration error (Kull et al. 2019), which no frequent
        background dominates. ``brier``: the mean of ``(p - y)^2`` (Brier 1950), for multiclass summed over classes, else
        averaged over labels with labelled pixels. ``nll``: the mean negative log-probability of the label, averaged likewise;
        log-odds beyond 16 count as 16.

    Example:
        >>> from rsseg.task import Binary
        >>> histogram = np.zeros((1, 1, 2, 256))
        >>> histogram[..., 128] = 1, 3  # of four pixels with p = 0.516, three are positive
        >>> round(calibration(calibration_sums(histogram, Binary(("road",))))["ece"], 3)
        0.234
    """
    return {name: float(present_mean(parts(sums[name].sum(0)))) for name, (parts, _) in SCORES.items()}


def _expected_error(binned: Array) -> Array:
    number, said, happened = np.moveaxis(binned, -1, 0)
    return ratio(np.abs(said - happened).sum(-1), number.sum(-1))


def _class_errors(binned: Array) -> Array:
    return np.where(binned[..., 2].sum(-1) > 0, _expected_error(binned), np.nan)


def _label_mean(sums: Array) -> Array:
    return ratio(sums[..., 0], sums[..., 1])


Score = Callable[[Array], Array]
SCORES: Mapping[str, tuple[Score, Score]] = {
    "ece": (lambda binned: _expected_error(binned)[..., None], lambda binned: binned[..., 0].sum(-1)[..., None]),
    "class_ece": (_class_errors, lambda binned: binned[..., 2].sum(-1)),
    "brier": (_label_mean, lambda sums: sums[..., 1]),
    "nll": (_label_mean, lambda sums: sums[..., 1]),
}
"""By score, functions from `calibration_sums` to the parts that the score is the mean of, and to the pixels of each part."""
