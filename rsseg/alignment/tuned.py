"""The thresholds, or biases, that go with a run: tuned at its best checkpoint, used where they are asked for."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.alignment.bias import tuned_bias
from rsseg.alignment.counts import counts_of, pooled
from rsseg.alignment.records import Snapshot
from rsseg.alignment.threshold import best_thresholds, shared, threshold_regret
from rsseg.contract import InputError
from rsseg.metrics.histogram import THRESHOLDS
from rsseg.task import Task

FILE = "threshold.json"

log = logging.getLogger(__name__)


def tune(snapshot: Snapshot, task: Task, first: NDArray[np.bool_]) -> dict[str, Any]:
    """The threshold of each class, or for multiclass its bias, that makes the pooled mean IoU largest.

    Args:
        snapshot: Of the best checkpoint.
        task: The head's task.
        first: Which scenes are the first half; of one scene nothing is known of other scenes, and the regret is None.

    Returns:
        What ``threshold.json`` holds of a head: `step`, `kind`, `metric`, `values` by class on the logit scale, the classes
        that are `untuned`, as they do not occur in both halves of the scenes, and, cross-fitted over scenes, the pooled IoU
        `fixed` and `tuned`, and `regret`; None where nothing could be tuned on the one half and scored on the other.

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
    known = {"fixed": fixed, "tuned": tuned, "regret": tuned - fixed}
    return {
        "step": snapshot.step,
        "kind": task.tuned,
        "metric": "iou",
        "values": dict(zip(task.classes, np.round(values, 6).tolist(), strict=True)),
        "untuned": [name for name, moved in zip(task.classes, classes, strict=True) if not moved],
        **{name: value if math.isfinite(value) else None for name, value in known.items()},
    }


def load_tuned(run: Path, tasks: dict[str, Task]) -> dict[str, Tensor]:
    """What `Task.predict` takes as `threshold`, float32 ``[classes]``, by head.

    Args:
        run: The run folder.
        tasks: Each head's task.

    Raises:
        InputError: If the run has none.
    """
    path = run / FILE
    stored = json.loads(path.read_text()) if path.is_file() else {}
    missing = [name for name in tasks if name not in stored]
    if missing:
        raise InputError(
            f"threshold=tuned: {run} has no {FILE} of head {', '.join(missing)}: the run is not finished, was trained with "
            "record.enabled=false or has diverged; leave threshold=tuned out"
        )
    return {name: torch.tensor([stored[name]["values"][c] for c in task.classes]) for name, task in tasks.items()}
