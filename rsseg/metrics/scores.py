"""Scores of confusion counts, matched objects and errors of real values, for training, evaluation and comparisons.

Counts are float64 ``[..., classes, 4]`` with TP, FP, FN and TN of a class against the rest on the last axis; the scores of
`TVERSKY` also take counts without TN. The score of a class that is absent from the target is NaN, and left out of means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from rsseg.contract import nearest
from rsseg.metrics.average import Array, present_mean, ratio
from rsseg.metrics.base import Metric, by_scene, kept_classes
from rsseg.task import Regression, Task


@dataclass(frozen=True)
class ClassScore:
    """A score of every class, or value; metrics are its averages, and that of each class."""

    of: Callable[[Array], Array]  # from counts ``[..., N]`` to scores ``[...]``, NaN if the class is absent
    limits: tuple[float, float]  # the lowest and highest possible value
    label: str = ""  # the name in tables and figures, if it is another than in metrics
    summed: bool = False  # has micro and weighted averages too; not if it depends on TN, which sums over classes inflate
    higher_is_better: bool | None = True  # None for scores without a ranking
    has_unit: bool = False  # whether it has the unit of the values


TVERSKY = {
    "iou": (1.0, 1.0), "dice": (0.5, 0.5), "precision": (1.0, 0.0), "recall": (0.0, 1.0), "f0.5": (0.8, 0.2), "f2": (0.2, 0.8),
}  # fmt: skip
"""The weights a and b of false positives and false negatives in ``TP / (TP + a FP + b FN)`` (Tversky 1977).

F-beta has ``1 / (1 + beta^2)`` and ``beta^2 / (1 + beta^2)``; F1 is Dice.
"""

SYNONYMS = {"f1": "dice", "miou": "iou", "jaccard": "iou", "sensitivity": "recall"}
"""Other names of some scores."""


def class_counts(confusion: ArrayLike, task: Task) -> Array:
    """The counts of confusion matrices ``[..., P, K, K]``, rows the target, as `rsseg.metrics.counters.Confusion` counts them.

    Example:
        >>> from rsseg.task import Binary
        >>> class_counts([[[[6, 1], [2, 3]]]], Binary(("road",)))
        array([[[3., 1., 2., 6.]]])
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    hits = matrix.diagonal(axis1=-2, axis2=-1)
    wrong, missed = matrix.sum(axis=-2) - hits, matrix.sum(axis=-1) - hits
    rest = matrix.sum(axis=(-2, -1))[..., None] - hits - wrong - missed
    return np.stack([task.by_class(part) for part in (hits, wrong, missed, rest)], axis=-1)


def class_pixels(counts: Array) -> Array:
    """The number of target pixels of each class, from counts ``[..., 3 or 4]``."""
    return counts[..., 0] + counts[..., 2]


def overlap(counts: ArrayLike, metric: str = "iou") -> Array:
    """A score of `TVERSKY`, from counts ``[..., 3 or 4]``; 0 for a class that is present but not predicted.

    Example:
        >>> [float(overlap([3, 1, 2], name)) for name in ("iou", "precision", "recall")]
        [0.5, 0.75, 0.6]
    """
    hits, wrong, missed = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)[:3]
    weight_wrong, weight_missed = TVERSKY[metric]
    whole = hits + weight_wrong * wrong + weight_missed * missed
    return np.where(hits + missed > 0, hits / np.where(whole > 0, whole, 1.0), np.nan)


def strict_overlap(counts: Array, metric: str = "iou") -> Array:
    """A score as from `overlap`, but 0 instead of NaN for an absent class that is predicted: only false positives."""
    value = overlap(counts, metric)
    return np.where(np.isnan(value) & (counts[..., 1] > 0), 0.0, value)


def balanced_accuracy(counts: Array) -> Array:
    """The mean of recall and specificity of each class against the rest, from counts ``[..., 4]``."""
    return (overlap(counts, "recall") + overlap(counts[..., ::-1], "recall")) / 2


def kappa(counts: Array) -> Array:
    """Cohen's kappa (1960) of each class against the rest, from counts ``[..., 4]``."""
    better, most = _agreement(counts)
    return np.where(class_pixels(counts) > 0, ratio(better, most), np.nan)


def exclusive_kappa(counts: Array) -> Array:
    """Cohen's kappa of a whole confusion matrix, from the counts ``[..., classes, 4]`` of all its classes; ``[..., 1]``.

    Its numerator and denominator are the sums of those of the classes against the rest.
    """
    better, most = _agreement(counts)
    return ratio(better.sum(-1, keepdims=True), most.sum(-1, keepdims=True))


def _agreement(counts: Array) -> tuple[Array, Array]:
    """The agreement of target and prediction beyond chance, and its maximum, both times half the squared number of pixels."""
    hits, wrong, missed, rest = np.moveaxis(counts, -1, 0)
    most: Array = (hits + wrong) * (wrong + rest) + (hits + missed) * (missed + rest)
    return 2 * (hits * rest - wrong * missed), most


def _overlap(metric: str, label: str = "") -> ClassScore:
    """A score of `TVERSKY`."""
    return ClassScore(partial(overlap, metric=metric), (0.0, 1.0), label, summed=True)


CLASS_SCORES = {
    "iou": _overlap("iou", "IoU"),
    "dice": _overlap("dice", "Dice"),
    "precision": _overlap("precision"),
    "recall": _overlap("recall"),
    "f0.5": _overlap("f0.5", "F0.5"),
    "f2": _overlap("f2", "F2"),
    "balanced_accuracy": ClassScore(balanced_accuracy, (0.0, 1.0), "balanced accuracy"),
    "kappa": ClassScore(kappa, (-1.0, 1.0)),
}
"""The scores of heads of labels, by name, from counts ``[..., 4]``."""


def micro(counts: Array, score: Callable[[Array], Array]) -> Array:
    """The micro average: the score of counts summed over classes, ``[..., 1]``."""
    return score(counts.sum(-2, keepdims=True))


def weighted(counts: Array, score: Callable[[Array], Array]) -> Array:
    """The weighted average: the mean of the classes' scores, weighted by their target pixels, ``[..., 1]``."""
    pixels = class_pixels(counts)
    total = np.where(pixels > 0, score(counts) * pixels, 0)
    return ratio(total.sum(-1, keepdims=True), pixels.sum(-1, keepdims=True))


def class_metrics(
    scores: Mapping[str, ClassScore], task: Task, without: Sequence[str], pixels: Callable[[Array], Array] = class_pixels
) -> dict[str, Metric]:
    """The metrics of scores: one for each class, or value, and the macro, micro and weighted averages; `pixels` is theirs."""
    kept, found = kept_classes(task.classes, without), {}
    for name, score in scores.items():
        label = score.label or name
        units = (score.has_unit and isinstance(task, Regression) and task.units) or ("",) * task.channels
        unit = units[0] if len(set(units)) == 1 else ""
        mean = Metric(label, name, kept, score.of, pixels, False, score.higher_is_better, score.limits, unit)
        found[name] = mean
        for called, average in (("micro", micro), ("weighted", weighted)) if score.summed else ():
            found[f"{name}_{called}"] = replace(mean, label=f"{label} {called}", parts=partial(average, score=score.of))
        for c, of in enumerate(task.classes):
            found[f"{name}/{of}"] = replace(mean, label=f"{label} of {of}", classes=[c], unit=units[c])
    return found


def label_metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """The scores of a head of labels, by name.

    ``iou``, ``dice``, ``precision``, ``recall``, ``f0.5`` and ``f2`` are means over the classes; the suffixes ``_micro`` and
    ``_weighted`` are other averages, and ``/road`` is the score of one class. ``kappa`` and ``balanced_accuracy`` are those of
    the whole confusion matrix for exclusive classes, else means over labels; for one class they are those against the rest.
    ``accuracy`` is the share of correct labels. All are pooled over scenes; the prefix ``scene_`` is the mean over scenes, in
    which, with ``strict_scene_``, scenes with only false positives of a class count as 0. Classes of `without` are left out of
    averages over classes, but not of kappa and accuracy of exclusive classes.

    Example:
        >>> from rsseg.task import Multiclass
        >>> found = label_metrics(Multiclass(("land", "water")))
        >>> counts = class_counts([[[[6, 1], [2, 3]]]], Multiclass(("land", "water")))
        >>> [round(float(found[name](counts)), 3) for name in ("recall", "recall_micro", "recall/water", "kappa")]
        [0.729, 0.75, 0.6, 0.471]
    """
    every, found = slice(None), class_metrics(CLASS_SCORES, task, without)
    if task.exclusive:
        found["balanced_accuracy"] = replace(found["balanced_accuracy"], parts=found["recall"].parts)
        found["kappa"] = replace(found["kappa"], classes=every, parts=exclusive_kappa)
        found["accuracy"] = replace(found["recall_micro"], label="accuracy", classes=every)
    else:
        found["accuracy"] = replace(found["recall"], label="accuracy", parts=_label_accuracy)
    strict = {name: replace(CLASS_SCORES[name], of=partial(strict_overlap, metric=name)) for name in TVERSKY}
    return found | by_scene(found) | by_scene(class_metrics(strict, task, without), "strict_scene_", "per scene, strict")


def _label_accuracy(counts: Array) -> Array:
    """The share of correct binary decisions of independent labels, ``[..., 1]``."""
    return overlap((counts + counts[..., ::-1]).sum(-2, keepdims=True), "recall")


MATCHES = {"f1": _overlap("dice", "F1"), "precision": _overlap("precision"), "recall": _overlap("recall")}
"""The scores of matched objects by name, from counts ``[..., 3]``."""


def match_metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """The scores of a head of objects, by name: `MATCHES`, averaged as labels are, see `rsseg.metrics.metrics`."""
    found = class_metrics(MATCHES, task, without)
    return found | by_scene(found)


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


ERRORS = {
    "rmse": ClassScore(rmse, (0.0, np.inf), "RMSE", higher_is_better=False, has_unit=True),
    "mae": ClassScore(mae, (0.0, np.inf), "MAE", higher_is_better=False, has_unit=True),
    "r2": ClassScore(r2, (-np.inf, 1.0), "R2"),
    "bias": ClassScore(bias, (-np.inf, np.inf), higher_is_better=None, has_unit=True),
    "absolute_bias": ClassScore(
        lambda sums: np.abs(bias(sums)), (0.0, np.inf), "absolute bias", higher_is_better=False, has_unit=True
    ),
}
"""The scores of heads of real values, by name, from `SUMS`."""


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
    found = class_metrics(ERRORS, task, without, lambda sums: sums[..., 0])
    return found | by_scene(found)


def no_metric(name: str, known: Iterable[str]) -> str:
    """The message for an unknown name of a metric.

    Example:
        >>> no_metric("f1/road", ["dice/road"]), no_metric("recal", ["recall"])
        ("it is called 'dice/road' here", "there is no such score (did you mean 'recall'?)")
    """
    base, slash, label = name.partition("/")
    if base in SYNONYMS:
        return f"it is called '{SYNONYMS[base]}{slash}{label}' here"
    return f"there is no such score{nearest(name, list(known))}"


def pooled(counts: ArrayLike, metric: str = "iou") -> Array:
    """A score of `TVERSKY`, pooled over scenes, then averaged over classes: ``[..., scenes, classes, 3 or 4]`` to ``[...]``."""
    return present_mean(overlap(np.asarray(counts, dtype=np.float64).sum(-3), metric))
