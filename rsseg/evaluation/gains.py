"""What an ensemble gains over its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rsseg.comparison.intervals import Interval, estimate, sum_groups
from rsseg.comparison.measures import Measure
from rsseg.metrics.average import Array


class Gain(NamedTuple):
    """What an ensemble gains by a score; above 0 where it is better, also of errors."""

    over_mean: Interval  # over the mean of its members' scores
    over_best: Interval  # over the score of the member that is called the best


def ensemble_gain(sums: Sequence[Array], measure: Measure, groups: Sequence[str], best: int) -> Gain:
    """What an ensemble gains, with the intervals that other groups of scenes would give these very models.

    `sums` ``[S, ...]`` are of the ensemble, then of each member, of which `best` is the best one.

    Example:
        >>> from rsseg.comparison.measures import measures
        >>> from rsseg.task import Binary
        >>> better, worse = np.full((6, 1, 4), 8.0), np.full((6, 1, 4), 8.0)
        >>> worse[:, 0, 1] = 16  # false positives
        >>> found = ensemble_gain([better, worse, better], measures(Binary(("road",)))["iou"], list("abcdef"), 1)
        >>> round(float(found.over_mean.value), 4), round(float(found.over_best.value), 4)
        (0.0417, 0.0)
    """
    summed = np.stack([sum_groups(each, groups) for each in sums], axis=1)  # [groups, 1 + members, ...]
    twice, members = np.stack([summed, summed])[None], len(sums) - 1  # models as they are: equal seeds have no variance

    def over(shares: Array) -> Interval:
        def parts(sums: Array) -> Array:
            each = measure.parts(sums)  # [..., 1 + members, parts]
            return measure.sign * (each[..., 0, :] - np.einsum("...mp,m->...p", each[..., 1:, :], shares))

        gain = replace(measure, parts=parts, pixels=lambda sums: measure.pixels(sums[:, 0]), higher_is_better=True)
        return estimate(twice, gain).mean.interval()[0]

    return Gain(over(np.full(members, 1 / members)), over(np.eye(members)[best]))
