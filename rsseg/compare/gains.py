"""The gain of an ensemble over its members on the same scenes, with intervals over groups of scenes as in comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rsseg.compare.inference import Interval, estimate, sum_groups
from rsseg.compare.measures import Measure
from rsseg.metrics.average import Array


class Gain(NamedTuple):
    """What an ensemble gains by a score; above 0 where it is better, also of errors.

    Attributes:
        over_mean: What it gains over the mean of its members' scores.
        over_best: What it gains over one of them.
    """

    over_mean: Interval
    over_best: Interval


def ensemble_gain(sums: Sequence[Array], measure: Measure, groups: Sequence[str], best: int) -> Gain:
    """What an ensemble gains, with the intervals that other groups of scenes would give these very models.

    Args:
        sums: Of the ensemble, then of each member, ``[S, ...]``.
        measure: The score of their sums.
        groups: The independent area that each scene lies in.
        best: The member that is the best one.

    Returns:
        Ends of intervals are NaN where the scenes are of one group.

    Example:
        >>> from rsseg.compare.measures import measures
        >>> from rsseg.task import Binary
        >>> better, worse = np.full((6, 1, 4), 8.0), np.full((6, 1, 4), 8.0)
        >>> worse[:, 0, 1] = 16  # false positives
        >>> found = ensemble_gain([better, worse, better], measures(Binary(("road",)))["iou"], list("abcdef"), 1)
        >>> round(float(found.over_mean.value), 4), round(float(found.over_best.value), 4)
        (0.0417, 0.0)
    """
    summed = np.stack([sum_groups(each, groups) for each in sums], axis=1)  # [groups, 1 + members, ...]
    members = summed.shape[1] - 1
    return Gain(
        _gain(summed, measure, np.full(members, 1 / members)),
        _gain(summed, measure, np.eye(members)[best]),
    )


def _gain(summed: Array, measure: Measure, shares: Array) -> Interval:
    """What the first gains over the others' scores, which count by these shares."""

    def parts(sums: Array) -> Array:
        each = measure.parts(sums)  # [..., 1 + members, parts]
        return measure.sign * (each[..., 0, :] - np.einsum("...mp,m->...p", each[..., 1:, :], shares))

    gain = replace(
        measure, parts=parts, pixels=lambda sums: measure.pixels(sums[:, 0]), higher_is_better=True, limits=(-np.inf, np.inf)
    )
    twice = np.stack([summed, summed])  # the models are as they are: seeds that are equal have no variance
    return estimate(twice[None], gain).mean.interval()[0]
