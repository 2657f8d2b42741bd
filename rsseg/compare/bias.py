"""The multiclass counterpart of a threshold: a bias per class, added to the logits before the argmax.

Tuned on a stratified sample of logits: pixels of rare classes are kept more often, and weigh less in turn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.counts import Array, Overlap, overlap
from rsseg.compare.threshold import shared
from rsseg.contract import InputError
from rsseg.metrics import SampledLogits
from rsseg.metrics.average import present_mean


def sample_counts(logits: ArrayLike, target: ArrayLike, weight: ArrayLike, bias: ArrayLike) -> Array:
    """Weighted TP, FP and FN of the argmax of ``logits + bias``.

    Args:
        logits: ``[N, C]``.
        target: Integers ``[N]``, 0 .. C-1.
        weight: ``[N]``, how many pixels each stands for.
        bias: ``[C]``.

    Returns:
        ``[C, 3]``.
    """
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
        target: Integers ``[N]``.
        weight: ``[N]``.
        metric: The mean over the classes present.
        rounds: Over all classes, at most.
        classes: bool ``[C]``, which are tuned; all that the sample holds by default.

    Returns:
        ``[C]``; the biases of the tuned classes sum to 0, since only differences matter, and the others' are 0: each of them
        keeps its place against their mean.

    Raises:
        InputError: For arrays of different length, none at all, or logits that are not finite.

    Example:
        >>> tune_bias([[1.0, 0.0], [1.0, 0.6], [1.0, 0.8]], [0, 1, 1], [1, 1, 1]).round(2).tolist()
        [-0.35, 0.35]
    """
    z, y, w = np.asarray(logits, dtype=np.float64), np.asarray(target), np.asarray(weight, dtype=np.float64)
    if z.ndim != 2 or not len(z) == len(y) == len(w) > 0:
        raise InputError(f"a sample needs logits [N, C] and N targets and weights; found {z.shape}, {y.shape}, {w.shape}")
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


def held(sample: SampledLogits, scenes: int) -> NDArray[np.bool_]:
    """Which classes each scene's labels hold, bool ``[scenes, C]``: a sample has at least a pixel of each."""
    found = np.zeros((scenes, sample.logits.shape[1]), dtype=bool)
    found[sample.scene.numpy(), sample.target.numpy()] = True
    return found


def tuned_bias(sample: SampledLogits, first: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """The bias tuned on all scenes, and which classes it was tuned for: those in both halves, of one scene all there are."""
    z, y, _, w = (x.numpy() for x in sample)
    holds = held(sample, len(first))
    classes = shared(holds, first)
    return tune_bias(z, y, w, classes=classes), classes
