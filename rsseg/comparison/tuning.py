"""Thresholds and biases, tuned on one half of the scenes and scored on the other.

For multiclass heads a threshold's counterpart is a bias per class, added to the logits before the argmax. Both are tuned on a
stratified sample of logits: pixels of rare classes are sampled more often, and have a smaller weight in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.contract import InputError
from rsseg.metrics import SampledLogits
from rsseg.metrics.average import Array, present_mean
from rsseg.metrics.scores import overlap, pooled
from rsseg.task import Task

Overlap: TypeAlias = Literal["iou", "dice"]
"""The scores that thresholds and biases are tuned for."""

LEAST = 5e-4
"""Coordinate ascent ends after a round over all biases that raises the mean score by less."""


def halves(holds: ArrayLike, groups: Sequence[str], seed: int = 0, tries: int = 50) -> NDArray[np.bool_]:
    """Split scenes into two halves at random; the same scenes give the same halves for every run.

    Groups are not split. Each class's groups go to both halves in turn, the rarest class first (Sechidis et al. 2011). Among
    `tries` splits, the one with most classes in both halves is taken, and among equal ones the one with the most equal halves.

    Args:
        holds: bool ``[scenes, classes]``, which classes a scene's labels hold.
        groups: ``[scenes]``, the independent area that each scene lies in.
        seed: The seed of the random generator.
        tries: The number of splits to try.

    Returns:
        Whether each scene is in the first half, bool ``[scenes]``; all are if there is only one group.

    Example:
        >>> first = halves([[1, 0], [1, 0], [1, 1], [1, 1], [1, 0], [1, 0]], list("abcdee"))
        >>> bool(first[4] == first[5]), int(first[2:4].sum())
        (True, 1)
    """
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    there = np.zeros((len(names), np.shape(holds)[1]), dtype=bool)
    np.logical_or.at(there, group, np.asarray(holds, dtype=bool))
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(there)) for _ in range(tries)]
    deals = [_deal(there, order) for order in orders]
    deals += [order < len(there) // 2 for order in orders if len(there) > 1]  # plain halves, if no deal works
    best = min(deals, key=lambda first: (-shared(there, first).sum(), abs(len(first) - 2 * int(first.sum()))))
    return best[group]


def _deal(holds: NDArray[np.bool_], order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether each group is in the first half: groups of a class go to the half with fewer of them, then in turn."""
    side = np.full(len(holds), -1, dtype=np.int8)
    classes = [holds[:, c] for c in np.argsort(holds.sum(0), kind="stable")]
    for member in [*classes, np.ones(len(holds), dtype=bool)]:
        rows = order[member[order] & (side[order] < 0)]
        excess = int((side[member] == 0).sum()) - int((side[member] == 1).sum())
        to_level, in_turn = np.split(rows, [abs(excess)])
        side[to_level] = int(excess > 0)
        begin = int((side == 1).sum() < (side == 0).sum())  # the half with fewer groups so far
        side[in_turn] = (begin + np.arange(len(in_turn))) % 2
    return np.asarray(side == 0)


def shared(holds: ArrayLike, first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The classes that occur in both halves, so that they can be tuned on one and scored on the other: bool ``[classes]``.

    If all scenes are in the first half, these are the classes that occur.
    """
    there = np.asarray(holds, dtype=bool)
    return np.asarray(there[first].any(0) & (bool(first.all()) | there[~first].any(0)))


def tune(
    sample: SampledLogits, task: Task, part: NDArray[np.bool_], classes: NDArray[np.bool_], metric: Overlap = "iou"
) -> Array:
    """The thresholds, or biases, that maximise the mean score of a `part` of the scenes, for `Task.predict`: ``[classes]``.

    `part` is bool ``[scenes]``. Only the `classes` that are True, bool ``[classes]``, are tuned; the others are 0.

    Raises:
        InputError: For logits that are not finite.
    """
    here = part[sample.scene]
    z, y, plane, w = sample.logits[here], sample.target[here], sample.plane[here], sample.weight[here]
    if not np.isfinite(z).all():
        raise InputError("the sampled logits hold NaN or infinity: the run has diverged; lower its learning rate")
    if task.exclusive:
        return tune_bias(z, y, w, metric, classes=classes)
    own = [plane == c for c in range(task.channels)]
    return np.array(
        [tune_threshold(z[on, 0], y[on], w[on], metric) if moved else 0.0 for on, moved in zip(own, classes, strict=True)]
    )


def tune_threshold(logits: ArrayLike, label: ArrayLike, weight: ArrayLike, metric: Overlap = "iou") -> float:
    """The threshold of one label, above which a pixel is positive, that maximises its IoU, and so Dice; 0 without positives.

    Takes logits ``[N]``, labels ``[N]`` of 0 or 1, and the number of pixels ``[N]`` that each stands for.

    Example:
        >>> tune_threshold([-3.0, -4.0, -5.0], [1, 1, 0], [1, 1, 1])
        -4.5
    """
    gap, w = -np.asarray(logits, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    own = w * (np.asarray(label) == 1)
    if not own.any():
        return 0.0
    order = np.argsort(gap, kind="stable")
    hits, called = _sums(own[order]), _sums(w[order])
    scores = overlap(np.stack([hits, called - hits, own.sum() - hits], axis=-1), metric)
    return -_best_place(gap[order], scores)[0]


def tune_bias(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike,
    metric: Overlap = "iou",
    rounds: int = 10,
    classes: NDArray[np.bool_] | None = None,
) -> Array:
    """The bias per class that makes the mean IoU (or Dice) of a sample large: coordinate ascent, each step exact.

    As one class's bias grows, labels change where its logit overtakes the best of the others; all these points are tried.
    The result is a local optimum, and at least as good as the argmax on this sample. The bias of a class without pixels in
    the sample is not tuned: predicting the class can only be wrong, so its bias would fall without bound. The biases of the
    tuned classes sum to 0, since only differences matter; all other biases are 0.

    Takes finite logits ``[N, C]``, targets ``[N]`` and the number of pixels ``[N]`` that each stands for. `classes`, bool
    ``[C]``, are tuned, by default all that the sample holds, in at most `rounds` rounds.

    Example:
        >>> tune_bias([[1.0, 0.0], [1.0, 0.6], [1.0, 0.8]], [0, 1, 1], [1, 1, 1]).round(2).tolist()
        [-0.35, 0.35]
    """
    z = np.ascontiguousarray(np.array(logits, dtype=np.float64).T)
    y, w = np.asarray(target), np.asarray(weight, dtype=np.float64)
    moved = (np.bincount(y, w, len(z)) > 0) & (True if classes is None else classes)
    tried = bias = np.zeros(len(z))
    two, top = _two_best(z)
    best = _mean_score(two, y, w, len(z), metric)
    for _ in range(rounds if moved.any() else 0):
        tried = tried.copy()
        for c in np.flatnonzero(moved):
            shift = _best_shift(z[c], two, top, y, w, c, metric)
            if shift:
                tried[c] += shift
                z[c] += shift
                changed = np.flatnonzero((two[0] == c) | (two[1] == c) | (z[c] >= top[1]))
                two[:, changed], top[:, changed] = _two_best(z[:, changed])
        centre = tried[moved].mean()
        tried[moved] -= centre
        z[moved] -= centre
        top -= centre
        if not moved.all():  # classes that are not tuned moved relative to these
            two, top = _two_best(z)
        score = _mean_score(two, y, w, len(z), metric)
        if score <= best:
            break
        gain, best, bias = score - best, score, tried
        if gain < LEAST:
            break
    return bias


def _mean_score(two: NDArray[np.intp], y: NDArray[np.integer], w: Array, classes: int, metric: Overlap) -> float:
    hits = np.bincount(y, w * (two[0] == y), classes)
    called, present = np.bincount(two[0], w, classes), np.bincount(y, w, classes)
    return float(present_mean(overlap(np.stack([hits, called - hits, present - hits], axis=-1), metric)))


def _two_best(z: Array) -> tuple[NDArray[np.intp], Array]:
    """The classes ``[2, N]`` with the largest and second largest of logits ``[C, N]``, and these logits ``[2, N]``."""
    best = z.argmax(0)
    rest = z.copy()
    np.put_along_axis(rest, best[None], -np.inf, 0)
    two = np.stack([best, rest.argmax(0)])
    return two, np.take_along_axis(z, two, 0)


def _best_shift(
    own: Array, two: NDArray[np.intp], top: Array, y: NDArray[np.integer], w: Array, c: np.intp, metric: Overlap
) -> float:
    """The shift of class c's logits, `own`, that gives the best mean score; 0 if no shift raises it."""
    first = two[0] == c
    rival, gap = np.where(first, two[1], two[0]), np.where(first, top[1], top[0]) - own  # adding more lets c overtake
    order = np.argsort(gap)
    gap, rival, y, w = gap[order], rival[order].astype(np.uint8), y[order], w[order]
    present = np.bincount(y, w, int(two.max()) + 1)
    hits, called = _sums(w * (y == c)), _sums(w)
    scores = _score(hits, called, present[c], metric)
    by_rival = np.argsort(rival, kind="stable")  # a rival's score changes only where it loses pixels
    leaves, weight = rival[by_rival], w[by_rival]
    starts = np.searchsorted(leaves, np.arange(len(present) + 1))
    both = np.stack([weight * (y[by_rival] == leaves), weight])
    left = _sums(both)
    hits, called = np.repeat(left[:, starts[1:]], np.diff(starts), axis=1) - left[:, 1:]
    after = _score(hits, called, present[leaves], metric)
    before = _score(hits + both[0], called + both[1], present[leaves], metric)
    change = np.zeros(len(scores))
    change[by_rival + 1] = after - before
    scores = scores + change.cumsum()
    place, best = _best_place(gap, scores)
    return place if best > scores[np.searchsorted(gap, 0.0)] + 1e-12 else 0.0


def _score(hits: Array, called: Array, present: ArrayLike, metric: Overlap) -> Array:
    """The score of a class from counts of pixels: correct, predicted, and true; 0 without pixels."""
    return np.nan_to_num(overlap(np.stack([hits, called - hits, np.asarray(present) - hits], axis=-1), metric))


def _best_place(gap: Array, scores: Array) -> tuple[float, float]:
    """The middle between the two of the increasing gaps where the score is best, and it; there are ``len(gap) + 1`` scores."""
    ends = np.concatenate([[gap[0] - 2], gap, [gap[-1] + 2]])
    passed = np.append(np.append(True, np.diff(gap) > 0), True)  # equal gaps are passed at once
    best = int(np.where(passed, scores, -np.inf).argmax())
    return float(ends[best] + ends[best + 1]) / 2, float(scores[best])


def _sums(values: Array) -> Array:
    """Cumulative sums along the last axis, starting with 0."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], axis=-1)


def threshold_facts(
    sample: SampledLogits, task: Task, step: int, classes: NDArray[np.bool_], counts: Array | None = None
) -> dict[str, Any]:
    """The content of ``threshold.json`` for a head: thresholds, or biases, for the pooled mean IoU of all scenes.

    The gain by tuning is computed from `counts` ``[2, S, classes, 4]``: each scene's at the fixed threshold, and at the one
    that was tuned on the other half. It is NaN without `counts`.
    """
    values = tune(sample, task, np.ones(sample.scene.max(initial=0) + 1, dtype=bool), classes)
    fixed, tuned = (np.nan, np.nan) if counts is None else pooled(counts).tolist()
    probabilities = {} if task.exclusive else {"probabilities": _by_class(task, 1 / (1 + np.exp(-values)))}
    return {
        "step": step,
        "kind": task.tuned,
        "metric": "iou",
        "values": _by_class(task, values),
        **probabilities,
        "untuned": [name for name, moved in zip(task.classes, classes, strict=True) if not moved],
        "fixed": fixed,
        "tuned": tuned,
        "gain": tuned - fixed,
    }


def _by_class(task: Task, values: Array) -> dict[str, float]:
    return dict(zip(task.classes, np.round(values, 6).tolist(), strict=True))
