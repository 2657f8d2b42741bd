"""The thresholds, or biases, that go with a run: tuned at its best checkpoint, used where they are asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.compare.bias import tuned_bias
from rsseg.compare.counts import counts_of, pooled
from rsseg.compare.records import Snapshot
from rsseg.compare.threshold import best_thresholds, shared, threshold_regret
from rsseg.contract import InputError
from rsseg.metrics.histogram import THRESHOLDS
from rsseg.task import Task


def tune(snapshot: Snapshot, task: Task, first: NDArray[np.bool_]) -> dict[str, Any]:
    """The threshold of each class, or for multiclass its bias, that makes the pooled mean IoU largest.

    Args:
        snapshot: Of the best checkpoint.
        task: The head's task.
        first: Which scenes are the first half; of one scene nothing is known of other scenes, and the regret is NaN.

    Returns:
        What ``threshold.json`` holds of a head: `step`, `kind`, `metric`, `values` by class on the logit scale, the classes
        that are `untuned`, as they do not occur in both halves of the scenes, and, cross-fitted over scenes, the pooled IoU
        `fixed` and `tuned`, and `regret`; NaN where nothing could be tuned on the one half and scored on the other.

    Raises:
        InputError: If the run has diverged.
    """
    if snapshot.lost:
        raise InputError(
            f"{snapshot.lost} labelled pixels have logits that are not finite: the run has diverged; lower its learning rate"
        )
    fixed = tuned = math.nan
    if task.exclusive:
        assert snapshot.sample is not None
        values, classes = tuned_bias(snapshot.sample, first)
        if snapshot.crossfit is not None:
            both = (counts_of(confusion, task) for confusion in (snapshot.crossfit.fixed, snapshot.crossfit.iou))
            fixed, tuned = (float(pooled(counts)) for counts in both)
    else:
        assert snapshot.histogram is not None
        classes = shared(snapshot.histogram[:, :, 1].any(-1), first)
        values = THRESHOLDS[best_thresholds(snapshot.histogram, classes=classes)]
        if not first.all() and classes.any():
            of_halves = threshold_regret(snapshot.histogram, first=first)
            fixed, tuned = of_halves.fixed, of_halves.tuned
    return {
        "step": snapshot.step,
        "kind": task.tuned,
        "metric": "iou",
        "values": dict(zip(task.classes, np.round(values, 6).tolist(), strict=True)),
        "untuned": [name for name, moved in zip(task.classes, classes, strict=True) if not moved],
        "fixed": fixed,
        "tuned": tuned,
        "regret": tuned - fixed,
    }
