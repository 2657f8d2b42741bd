"""Scores as functions of sums over scenes: what the crossed bootstrap draws anew, whatever the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rsseg.compare.counts import Array, Overlap, overlap
from rsseg.contract import InputError
from rsseg.metrics.average import present_mean, ratio
from rsseg.metrics.calibration import SCORES


@dataclass(frozen=True)
class Measure:
    """A score of L losses x R seeds on the same S scenes.

    Attributes:
        sums: ``[L, R, S, ...]``, what is added up over scenes.
        score: From sums ``[..., *sums.shape[3:]]`` to scores ``[...]``; a factor common to all sums changes nothing.
        mass: ``[S, parts]``, how much each scene adds to each part of the score, such as a class: the same for all runs.
        higher_is_better: False for errors.
    """

    sums: Array
    score: Callable[[Array], Array]
    mass: Array
    higher_is_better: bool = True

    @property
    def values(self) -> Array:
        """The score of every run on all scenes, ``[L, R]``."""
        return self.score(self.sums.sum(2))

    @property
    def scenes(self) -> float:
        """The effective number of scenes, that of the part which has fewest."""
        effective = effective_scenes(self.mass)
        return float(np.nanmin(effective)) if (effective > 0).any() else 0.0


def effective_scenes(mass: ArrayLike) -> Array:
    """How many scenes of equal mass each part is as good as (Kish 1965): ``(sum m)^2 / sum m^2``.

    Args:
        mass: ``[scenes, parts]``, such as the pixels of each class.

    Returns:
        ``[parts]``; NaN for a part that occurs nowhere.

    Example:
        >>> effective_scenes([[5, 9], [5, 0], [5, 1], [5, 0]]).round(2).tolist()
        [4.0, 1.22]
    """
    found = np.asarray(mass, dtype=np.float64)
    squares = (found**2).sum(0)
    return np.where(squares > 0, found.sum(0) ** 2 / np.where(squares > 0, squares, 1), np.nan)


def complete(counts: ArrayLike) -> Array:
    """Counts ``[losses, seeds, scenes, classes, 3]``, once they are seen to be that.

    Raises:
        InputError: For another number of dimensions, or values that are missing or negative.
    """
    found = np.asarray(counts, dtype=np.float64)
    if found.ndim != 5 or found.shape[-1] != 3 or not found.size:
        raise InputError(f"a comparison needs counts [losses, seeds, scenes, classes, 3]; found the shape {found.shape}")
    if not (found >= 0).all():
        raise InputError("the counts of some run hold NaN or negative numbers: leave that run, or its seed, out")
    return found


def of_counts(counts: ArrayLike, metric: Overlap = "iou") -> Measure:
    """IoU or Dice pooled over scenes, then the mean over the classes present.

    Args:
        counts: ``[losses, seeds, scenes, classes, 3]``.
        metric: `iou` or `dice`.

    Raises:
        InputError: For counts that are incomplete.
    """
    found = complete(counts)
    return Measure(found, lambda sums: present_mean(overlap(sums, metric)), found[0, 0, :, :, 0] + found[0, 0, :, :, 2])


def of_tuning(fixed: ArrayLike, tuned: ArrayLike, metric: Overlap = "iou") -> Measure:
    """What tuning adds to a score: both are drawn together, so that their difference has an interval of its own.

    Args:
        fixed: ``[losses, seeds, scenes, classes, 3]``.
        tuned: Likewise.
        metric: `iou` or `dice`.

    Raises:
        InputError: For counts that are incomplete.
    """
    each = [of_counts(counts, metric) for counts in (fixed, tuned)]
    both = np.stack([measure.sums for measure in each], axis=3)
    return Measure(both, lambda s: each[1].score(s[..., 1, :, :]) - each[0].score(s[..., 0, :, :]), each[0].mass)


def of_scenes(counts: ArrayLike, metric: Overlap = "iou") -> Measure:
    """IoU or Dice of each scene, mean over the classes in it, then over the scenes that hold one.

    Args:
        counts: ``[losses, seeds, scenes, classes, 3]``.
        metric: `iou` or `dice`.

    Raises:
        InputError: For counts that are incomplete.
    """
    values = present_mean(overlap(complete(counts), metric))
    known = ~np.isnan(values)
    return Measure(
        np.stack([np.where(known, values, 0), known], axis=-1),
        lambda sums: ratio(sums[..., 0], sums[..., 1]),
        known[0, 0, :, None].astype(np.float64),
    )


def of_calibration(sums: Sequence[Sequence[Mapping[str, Array]]]) -> dict[str, Measure]:
    """The calibration errors and the Brier score, by name.

    Args:
        sums: Of every loss and seed, what `rsseg.metrics.calibration.calibration_sums` gives.
    """
    found = {}
    for name, (score, mass) in SCORES.items():
        each = np.array([[run[name] for run in row] for row in sums])
        found[name] = Measure(each, score, mass(each[0, 0]), higher_is_better=False)
    return found
