"""Scores of real values, computed from sums of errors per scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rsseg.metrics.average import Array, ratio
from rsseg.metrics.base import LABELS, Metric, by_scene, kept_classes
from rsseg.task import Regression, Task

SUMS = ("count", "error", "absolute", "squared", "value", "value_squared")
"""The sums over pixels with a known value y: 1, e, ``|e|``, ``e^2``, y and ``y^2``, with e = prediction - y."""


def rmse(sums: Array) -> Array:
    """The root mean squared error; NaN without known values."""
    return np.sqrt(ratio(sums[..., 3], sums[..., 0]))


def mae(sums: Array) -> Array:
    """The mean absolute error; NaN without known values."""
    return ratio(sums[..., 2], sums[..., 0])


def bias(sums: Array) -> Array:
    """The mean error; NaN without known values."""
    return ratio(sums[..., 1], sums[..., 0])


def r2(sums: Array) -> Array:
    """The coefficient of determination, the share of the target's variance that is predicted; NaN for a constant target."""
    squares = sums[..., 5]
    varies = squares - ratio(sums[..., 4] ** 2, sums[..., 0])
    return 1 - ratio(sums[..., 3], np.where(varies > 1e-12 * squares, varies, 0))


ERROR = Metric("", "", slice(None), rmse, lambda sums: sums[..., 0], higher_is_better=False, limits=(0.0, np.inf))
ERRORS: dict[str, Metric] = {
    "rmse": ERROR,
    "mae": replace(ERROR, parts=mae),
    "r2": replace(ERROR, parts=r2, higher_is_better=True, limits=(-np.inf, 1.0)),
    "bias": replace(ERROR, parts=bias, higher_is_better=None, limits=(-np.inf, np.inf)),
}
"""The scores that every value has, by name."""


def error_metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """The scores of a head of real values, by name; see `rsseg.metrics.metrics`.

    ``rmse``, ``mae``, ``r2``, ``bias`` and ``absolute_bias`` are pooled over scenes, then averaged over values. With the suffix
    ``/height``, a score is that of one value; with the prefix ``scene_``, it is the mean over scenes. The bias is signed and
    ranks nothing.

    Example:
        >>> from rsseg.task import Regression
        >>> found = error_metrics(Regression(("height",), units=("m",)))
        >>> sums = np.array([[[2.0, -4.0, 6.0, 18.0, 4.0, 10.0]]])
        >>> [float(found[name](sums)) for name in ("rmse", "bias", "absolute_bias/height")], found["rmse"].unit
        ([3.0, -2.0, 2.0], 'm')
    """
    kept, found = kept_classes(task.classes, without), {}
    named = (isinstance(task, Regression) and task.units) or ("",) * task.channels
    absolute = replace(ERROR, parts=lambda sums: np.abs(bias(sums)))
    for name, kind in {**ERRORS, "absolute_bias": absolute}.items():
        label = LABELS.get(name, name)
        units = named if name != "r2" else ("",) * task.channels
        found[name] = replace(kind, label=label, classes=kept, score=name, unit=units[0] if len(set(units)) == 1 else "")
        for v, each in enumerate(task.classes):
            found[f"{name}/{each}"] = replace(kind, label=f"{label} of {each}", classes=[v], score=name, unit=units[v])
    return found | by_scene(found)
