"""The counts of runs at thresholds (biases) that were tuned on other scenes: what the bootstrap needs of tuned runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rsseg.alignment.bias import crossfit_bias, sample_counts
from rsseg.alignment.counts import Array, Overlap
from rsseg.alignment.threshold import FIXED, best_thresholds, halves
from rsseg.metrics import SampledLogits
from rsseg.metrics.histogram import threshold_counts


def crossfit_histogram(histogram: ArrayLike, metric: Overlap = "iou") -> tuple[Array, Array]:
    """Each scene's counts at 0.5, and at the threshold that was tuned on the half of the scenes it is not in.

    Args:
        histogram: ``[scenes, classes, 2, 256]`` of a binary or multilabel run.
        metric: What the threshold is tuned for.

    Returns:
        Two ``[scenes, classes, 3]``.
    """
    counted = np.asarray(histogram)
    first, all_counts = halves(len(counted)), threshold_counts(counted)  # [scenes, classes, 255, 3]
    tuned = np.empty_like(all_counts[:, :, 0])
    for part in (first, ~first):
        best = best_thresholds(counted[~part], metric)
        tuned[part] = all_counts[part][:, np.arange(len(best)), best]
    return all_counts[:, :, FIXED], tuned


def crossfit_sample(sample: SampledLogits, scenes: int, metric: Overlap = "iou") -> tuple[Array, Array]:
    """The same of a multiclass run, estimated from its sample: at the argmax, and with the bias of the other half.

    Args:
        sample: Of the logits.
        scenes: Their number.
        metric: What the bias is tuned for.

    Returns:
        Two ``[scenes, classes, 3]``.

    Raises:
        InputError: If there is nothing to tune on, see `crossfit_bias`.
    """
    z, y, scene, w = (x.numpy() for x in sample)
    biases = crossfit_bias(z, y, w, scene, halves(scenes), metric)
    fixed, tuned = np.zeros((*biases.shape, 3)), np.zeros((*biases.shape, 3))
    for s, bias in enumerate(biases):
        here = scene == s
        fixed[s], tuned[s] = (sample_counts(z[here], y[here], w[here], b) for b in (np.zeros_like(bias), bias))
    return fixed, tuned
