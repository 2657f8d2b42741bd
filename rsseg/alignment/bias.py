"""The multiclass counterpart of a threshold: a bias per class, added to the logits before the argmax.

Tuned on a stratified sample of logits: pixels of rare classes are kept more often, and weigh less in turn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.alignment.counts import Array, Overlap, overlap, present_mean
from rsseg.contract import InputError


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


def tune_bias(logits: ArrayLike, target: ArrayLike, weight: ArrayLike, metric: Overlap = "iou", rounds: int = 10) -> Array:
    """The bias per class that makes the mean IoU (or Dice) of a sample large: coordinate ascent, each step exact.

    Along one class's bias the labels change where it overtakes the best of the others; all these places are tried. The
    result is at least as good as the argmax on this sample, and a local optimum.

    Args:
        logits: ``[N, C]``.
        target: Integers ``[N]``.
        weight: ``[N]``.
        metric: The mean over the classes present.
        rounds: Over all classes, at most.

    Returns:
        ``[C]``; the biases sum to 0, since only differences matter.

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
    bias = np.zeros(z.shape[1])
    best = float(present_mean(overlap(sample_counts(z, y, w, bias), metric)))
    for _ in range(rounds):
        before = best
        for c in range(len(bias)):
            value, place = _along(z + bias, y, w, c, metric)
            if value > best + 1e-12:
                best, bias[c] = value, bias[c] + place
        if best <= before + 1e-12:
            break
    centred: Array = bias - bias.mean()
    return centred


def _along(z: Array, y: NDArray[np.integer], w: Array, c: int, metric: Overlap) -> tuple[float, float]:
    """The best score along class c's bias, and what has to be added to it."""
    rival_logits = z.copy()
    rival_logits[:, c] = -np.inf
    rival = rival_logits.argmax(1)
    gap = rival_logits.max(1) - z[:, c]  # c overtakes where more than this is added
    order = np.argsort(gap, kind="stable")
    gap, rival, y, w = gap[order], rival[order], y[order], w[order]
    classes, rows = z.shape[1], np.arange(len(gap))
    change = np.zeros((len(gap), classes, 3))  # of TP, FP, FN when a pixel passes from its rival to c
    was_right, is_right = rival == y, y == c
    change[rows, rival, 0] -= w * was_right
    change[rows, rival, 1] -= w * ~was_right
    change[rows, y, 2] += w * (was_right.astype(float) - is_right)
    change[rows, c, 0] += w * is_right
    change[rows, c, 1] += w * ~is_right
    start = np.zeros((classes, 3))
    np.add.at(start, (rival, np.where(was_right, 0, 1)), w)
    np.add.at(start, (y[~was_right], 2), w[~was_right])
    scores = present_mean(overlap(start + np.concatenate([np.zeros((1, classes, 3)), change.cumsum(0)]), metric))
    ends = np.concatenate([[gap[0] - 2], gap, [gap[-1] + 2]])
    places = (ends[1:] + ends[:-1]) / 2  # in the middle between two changes
    scores[1:-1][np.diff(gap) <= 0] = -np.inf  # equal gaps pass together
    best = int(np.nanargmax(scores))
    return float(scores[best]), float(places[best])


def crossfit_bias(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike,
    scene: ArrayLike,
    first: NDArray[np.bool_],
    metric: Overlap = "iou",
) -> Array:
    """For each scene the bias per class that was tuned on the half of the scenes it is not in.

    Args:
        logits: ``[N, C]``, a stratified sample.
        target: Integers ``[N]``.
        weight: ``[N]``, how many pixels each stands for.
        scene: Integers ``[N]``, the scene of each.
        first: Which scenes are the first half, bool ``[scenes]``.
        metric: `iou` or `dice`.

    Returns:
        ``[scenes, C]``: one row for all scenes of a half.

    Raises:
        InputError: As `tune_bias`, and if a half has no sampled pixel.
    """
    z, y, w, s = (np.asarray(x) for x in (logits, target, weight, scene))
    biases = np.empty((len(first), z.shape[-1]))
    for part in (first, ~first):
        away = ~part[s]
        if not away.any():
            raise InputError("one half of the scenes has no sampled pixel: label more scenes")
        biases[part] = tune_bias(z[away], y[away], w[away], metric)
    return biases
