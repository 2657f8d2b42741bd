"""How much of a metric is a matter of the threshold: tuned on one half of the scenes, scored on the other.

For multiclass heads a threshold's counterpart is a bias per class, added to the logits before the argmax. It is tuned on a
stratified sample of logits: pixels of rare classes are kept more often, and weigh less in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rsseg.contract import InputError
from rsseg.metrics import SampledLogits
from rsseg.metrics.average import Array, present_mean
from rsseg.metrics.histogram import THRESHOLDS, threshold_counts
from rsseg.metrics.scores import class_counts, overlap, pooled
from rsseg.task import Task

Overlap: TypeAlias = Literal["iou", "dice"]
"""What thresholds and biases are tuned for."""

FIXED = int(np.flatnonzero(THRESHOLDS == 0)[0])
"""Where `THRESHOLDS` holds 0, a probability of 0.5."""


def halves(holds: ArrayLike, seed: int = 0, tries: int = 50) -> NDArray[np.bool_]:
    """Which scenes belong to the first half, at random, the same for every run on the same scenes.

    Each class's scenes are dealt to both sides in turn, the rarest class first (Sechidis et al. 2011); of some such deals
    the one is taken that leaves fewest classes on one side, and of these the one with the most equal sides.

    Args:
        holds: bool ``[scenes, classes]``, which classes a scene's labels hold.
        seed: Of the deals.
        tries: How many deals.

    Returns:
        bool ``[scenes]``; of one scene it is the first.

    Example:
        >>> first = halves([[1, 0], [1, 0], [1, 1], [1, 1], [1, 0], [1, 0]])
        >>> int(first.sum()), int(first[2:4].sum())
        (3, 1)
    """
    there = np.asarray(holds, dtype=bool)
    return _best_deal(there.tobytes(), there.shape, seed, tries).copy()


@lru_cache(maxsize=4)  # a run asks several times for the halves of the same scenes
def _best_deal(holds: bytes, shape: tuple[int, ...], seed: int, tries: int) -> NDArray[np.bool_]:
    there, rng = np.frombuffer(holds, dtype=bool).reshape(shape), np.random.default_rng(seed)
    orders = [rng.permutation(len(there)) for _ in range(tries)]
    deals = [_deal(there, order) for order in orders]
    deals += [order < len(there) // 2 for order in orders if len(there) > 1]  # classes that interlock: plain halves too
    return min(deals, key=lambda first: (-shared(there, first).sum(), abs(len(first) - 2 * int(first.sum()))))


def _deal(holds: NDArray[np.bool_], order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Each scene goes to the side with fewer of its class, else with fewer of all, else to the first."""
    side = np.full(len(holds), -1, dtype=np.int8)
    classes = [holds[:, c] for c in np.argsort(holds.sum(0), kind="stable")]
    for member in [*classes, np.ones(len(holds), dtype=bool)]:
        scenes = order[member[order] & (side[order] < 0)]
        excess = int((side[member] == 0).sum()) - int((side[member] == 1).sum())
        to_level, in_turn = np.split(scenes, [abs(excess)])
        side[to_level] = int(excess > 0)
        begin = int((side == 1).sum() < (side == 0).sum())  # the same after each pair
        side[in_turn] = (begin + np.arange(len(in_turn))) % 2
    return np.asarray(side == 0)


def shared(holds: ArrayLike, first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which classes occur on both sides, and can be tuned on the one and scored on the other: bool ``[classes]``.

    One scene has no other side: there all that occur can be tuned.
    """
    there = np.asarray(holds, dtype=bool)
    return np.asarray(there[first].any(0) & ((len(there) == 1) | there[~first].any(0)))


def tunable(holds: ArrayLike, first: NDArray[np.bool_], least: int = 1) -> NDArray[np.bool_]:
    """`shared`, if that are enough classes to tune.

    Raises:
        InputError: If there are fewer than `least`.
    """
    classes = shared(holds, first)
    if classes.sum() < least:
        raise InputError(
            f"tuning on one half of the scenes and scoring on the other needs {least} class{'es' * (least > 1)} with labels in "
            f"both; found {int(classes.sum())} in {len(first)} scenes: label more scenes"
        )
    return classes


def best_thresholds(
    histogram: ArrayLike, metric: Overlap = "iou", classes: NDArray[np.bool_] | None = None
) -> NDArray[np.intp]:
    """The place in `THRESHOLDS` of each class's best threshold; the middle of the best ones if there are several.

    Args:
        histogram: ``[scenes, classes, 2, 256]``, as `rsseg.metrics.ScoreHistogram` counts it.
        metric: Of the pooled counts.
        classes: bool ``[classes]``, which are tuned; all by default.

    Returns:
        ``[classes]``; a class that is not tuned, or has no positives, keeps 0.5.
    """
    values = overlap(threshold_counts(np.asarray(histogram).sum(0)), metric)
    best = np.full(len(values), FIXED)
    tuned = ~np.isnan(values).all(-1) & (True if classes is None else classes)
    for c in np.flatnonzero(tuned):
        equal = np.flatnonzero(values[c] == values[c].max())
        first = equal[: 1 + np.argmax(np.append(np.diff(equal) > 1, True))]  # one unbroken stretch
        best[c] = first[len(first) // 2]
    return best


def cross_fit(histogram: ArrayLike, metric: Overlap = "iou", first: NDArray[np.bool_] | None = None) -> tuple[Array, Array]:
    """Each scene's counts at 0.5, and at the threshold that was tuned on the half of the scenes it is not in.

    Args:
        histogram: ``[scenes, classes, 2, 256]``, of a binary or multilabel run.
        metric: What the threshold is tuned for.
        first: Which scenes are the first half, `halves` if None.

    Returns:
        Two ``[scenes, classes, 3]``, alike for a class that does not occur in both halves: it can't be tuned.

    Raises:
        InputError: If no class occurs in both halves.

    Example:
        >>> histogram = np.zeros((2, 1, 2, 256))
        >>> histogram[:, 0, 1, 100], histogram[:, 0, 0, 90] = 1, 1  # both below 0.5, but told apart
        >>> [float(pooled(counts)) for counts in cross_fit(histogram)]
        [0.0, 1.0]
    """
    counted = np.asarray(histogram)
    holds = counted[:, :, 1].any(-1)
    first = halves(holds) if first is None else first
    classes, counts = tunable(holds, first), threshold_counts(counted)  # [scenes, classes, 255, 3]
    tuned = np.empty_like(counts[:, :, 0])
    for part in (first, ~first):
        best = best_thresholds(counted[~part], metric, classes)
        tuned[part] = counts[part][:, np.arange(len(best)), best]
    return counts[:, :, FIXED], tuned


def sample_counts(logits: ArrayLike, target: ArrayLike, weight: ArrayLike, bias: ArrayLike) -> Array:
    """Weighted TP, FP and FN, ``[C, 3]``, of the argmax of ``logits + bias``; arguments as of `tune_bias`, `bias` ``[C]``."""
    z, y, w = np.asarray(logits, dtype=np.float64), np.asarray(target), np.asarray(weight, dtype=np.float64)
    called, classes = (z + np.asarray(bias, dtype=np.float64)).argmax(1), z.shape[1]
    right = called == y
    hits = np.bincount(y[right], w[right], classes)
    wrong, missed = np.bincount(called[~right], w[~right], classes), np.bincount(y[~right], w[~right], classes)
    return np.stack([hits, wrong, missed], axis=-1)


def tune_bias(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike,
    metric: Overlap = "iou",
    rounds: int = 10,
    classes: NDArray[np.bool_] | None = None,
) -> Array:
    """The bias per class that makes the mean IoU (or Dice) of a sample large: coordinate ascent, each step exact.

    Along one class's bias the labels change where it overtakes the best of the others; all these places are tried. The
    result is at least as good as the argmax on this sample, and a local optimum. A class of which the sample has no pixel
    is left where it is: calling it can only be wrong there, and its bias would fall without end.

    Args:
        logits: ``[N, C]``.
        target: Integers ``[N]``, 0 .. C-1.
        weight: ``[N]``, how many pixels each stands for.
        metric: The mean over the classes present.
        rounds: Over all classes, at most.
        classes: bool ``[C]``, which are tuned; all that the sample holds by default.

    Returns:
        ``[C]``; the biases of the tuned classes sum to 0, since only differences matter, and the others' are 0: each of them
        keeps its place against their mean.

    Raises:
        InputError: For logits that are not finite.

    Example:
        >>> tune_bias([[1.0, 0.0], [1.0, 0.6], [1.0, 0.8]], [0, 1, 1], [1, 1, 1]).round(2).tolist()
        [-0.35, 0.35]
    """
    z, y, w = np.asarray(logits, dtype=np.float64), np.asarray(target), np.asarray(weight, dtype=np.float64)
    if not np.isfinite(z).all():
        raise InputError("the sampled logits hold NaN or infinity: the run has diverged; leave it out")
    moved = np.bincount(y, w, z.shape[1]) > 0
    moved &= True if classes is None else classes
    bias = np.zeros(z.shape[1])
    best = float(present_mean(overlap(sample_counts(z, y, w, bias), metric)))
    for _ in range(rounds):
        before = best
        for c in np.flatnonzero(moved).tolist():
            step = np.where(moved, -1 / moved.sum(), 0.0)
            step[c] += 1
            tried = bias + _along(z + bias, y, w, c, metric) * step
            value = float(present_mean(overlap(sample_counts(z, y, w, tried), metric)))
            if value > best + 1e-12:
                best, bias = value, tried
        if best <= before + 1e-12:
            break
    return bias


def _along(z: Array, y: NDArray[np.integer], w: Array, c: int, metric: Overlap) -> float:
    """What has to be added to class c's bias for the best score along it."""
    rival_logits = z.copy()
    rival_logits[:, c] = -np.inf
    rival = rival_logits.argmax(1)
    gap = rival_logits[np.arange(len(z)), rival] - z[:, c]  # c overtakes where more than this is added
    order = np.argsort(gap, kind="stable")
    gap, rival, y, w = gap[order], rival[order], y[order], w[order]
    positives, right = np.bincount(y, w, z.shape[1]), w * (rival == y)
    change = np.zeros(len(gap) + 1)  # of the sum of all classes' scores, at the start and when a pixel passes to c

    def add(label: int, where: NDArray[np.integer], hits: Array, called: Array) -> None:
        counts = np.stack([hits, called - hits, positives[label] - hits], axis=-1)
        change[where] += np.diff(np.nan_to_num(overlap(counts, metric)), prepend=0.0)

    add(c, np.arange(len(change)), _sums(w * (y == c)), _sums(w))
    for label in range(z.shape[1]):  # its score changes where pixels leave it alone
        leaving = np.flatnonzero(rival == label)
        hits, called = _sums(right[leaving]), _sums(w[leaving])
        add(label, np.append(0, leaving + 1), hits[-1] - hits, called[-1] - called)
    scores = change.cumsum()
    ends = np.concatenate([[gap[0] - 2], gap, [gap[-1] + 2]])
    places = (ends[1:] + ends[:-1]) / 2  # in the middle between two changes
    scores[1:-1][np.diff(gap) <= 0] = -np.inf  # equal gaps pass together
    return float(places[int(scores.argmax())])


def _sums(values: Array) -> Array:
    """The sum of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], values.cumsum()])


def scenes_bias(sample: SampledLogits, part: NDArray[np.bool_], metric: Overlap, classes: NDArray[np.bool_]) -> Array:
    """The bias per class, ``[C]``, tuned on some scenes, bool ``[scenes]``, for some classes: see `tune_bias`."""
    z, y, s, w = (x.numpy() for x in sample)
    here = part[s]
    return tune_bias(z[here], y[here], w[here], metric, classes=classes)


def sampled_classes(sample: SampledLogits, scenes: int) -> NDArray[np.bool_]:
    """Which classes each scene's labels hold, bool ``[scenes, C]``: a sample has at least a pixel of each."""
    found = np.zeros((scenes, sample.logits.shape[1]), dtype=bool)
    found[sample.scene.numpy(), sample.target.numpy()] = True
    return found


def tune_thresholds(snapshot: Mapping[str, NDArray[Any]], task: Task, first: NDArray[np.bool_]) -> dict[str, Any]:
    """The threshold of each class, or for multiclass its bias, that makes the pooled mean IoU of all scenes largest.

    Args:
        snapshot: What `rsseg.compare.recorder.Snapshots` takes of the best checkpoint.
        task: The head's task.
        first: Which scenes are the first half; of one scene nothing is known of other scenes, and the regret is NaN.

    Returns:
        What ``threshold.json`` holds of a head: `step`, `kind`, `metric`, `values` by class on the logit scale, the classes
        that are `untuned`, as they do not occur in both halves of the scenes, and, cross-fitted over scenes, the pooled IoU
        `fixed` and `tuned`, and `regret`; NaN where nothing could be tuned on the one half and scored on the other.

    Raises:
        InputError: If the run has diverged.
    """
    if snapshot["lost"]:
        raise InputError(
            f"{snapshot['lost']} labelled pixels have logits that are not finite: the run has diverged; lower its learning rate"
        )
    fixed = tuned = math.nan
    if task.exclusive:
        sample = SampledLogits(*(torch.from_numpy(snapshot[f"sample.{name}"]) for name in SampledLogits._fields))
        classes = shared(sampled_classes(sample, len(first)), first)
        values = scenes_bias(sample, np.ones_like(first), "iou", classes)
        if "crossfit.iou" in snapshot:
            fixed, tuned = (float(pooled(class_counts(snapshot[f"crossfit.{at}"], task))) for at in ("fixed", "iou"))
    else:
        histogram = snapshot["histogram"]
        classes = shared(histogram[:, :, 1].any(-1), first)
        values = THRESHOLDS[best_thresholds(histogram, classes=classes)]
        if not first.all() and classes.any():
            fixed, tuned = (float(pooled(counts)) for counts in cross_fit(histogram, "iou", first))
    return {
        "step": int(snapshot["step"]),
        "kind": task.tuned,
        "metric": "iou",
        "values": dict(zip(task.classes, np.round(values, 6).tolist(), strict=True)),
        "untuned": [name for name, moved in zip(task.classes, classes, strict=True) if not moved],
        "fixed": fixed,
        "tuned": tuned,
        "regret": tuned - fixed,
    }
