"""The thresholds, or biases, that go with a run: tuned at its best checkpoint, used where they are asked for."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsseg.alignment.bias import bias_regret, tune_bias
from rsseg.alignment.records import Snapshot
from rsseg.alignment.threshold import best_thresholds, halves, threshold_regret
from rsseg.contract import Head, InputError, TaskKind
from rsseg.metrics.histogram import THRESHOLDS

FILE = "threshold.json"

log = logging.getLogger(__name__)


def tune(snapshot: Snapshot, head: Head, scenes: int) -> dict[str, Any]:
    """The threshold of each class, or for multiclass its bias, that makes the pooled mean IoU largest.

    Args:
        snapshot: Of the best checkpoint.
        head: Task and classes.
        scenes: The number of scenes; with fewer than two nothing is known of other scenes, and the regret is None.

    Returns:
        What ``threshold.json`` holds of a head: `step`, `kind`, `metric`, `values` by class on the logit scale, and,
        cross-fitted over scenes, `fixed`, `tuned` and `regret`; for multiclass these are estimates from the sample.

    Raises:
        InputError: If the run has diverged.
    """
    if snapshot.lost:
        raise InputError(
            f"{snapshot.lost} labelled pixels have logits that are not finite: the run has diverged; lower its learning rate"
        )
    multiclass = head.task is TaskKind.multiclass
    fixed = tuned = math.nan
    if multiclass:
        assert snapshot.sample is not None
        z, y, s, w = (part.numpy() for part in snapshot.sample)
        if scenes > 1:
            found = bias_regret(z, y, w, s, first=halves(scenes))
            values, fixed, tuned = found.threshold, found.fixed, found.tuned
        else:
            values = tune_bias(z, y, w)
    else:
        assert snapshot.histogram is not None
        values = THRESHOLDS[best_thresholds(snapshot.histogram)]
        if scenes > 1:
            of_halves = threshold_regret(snapshot.histogram)
            fixed, tuned = of_halves.fixed, of_halves.tuned
    known = {"fixed": fixed, "tuned": tuned, "regret": tuned - fixed}
    return {
        "step": snapshot.step,
        "kind": "bias" if multiclass else "threshold",
        "metric": "iou",
        "values": dict(zip(head.classes, np.round(values, 6).tolist(), strict=True)),
        **{name: value if math.isfinite(value) else None for name, value in known.items()},
    }


def load_tuned(run: Path, heads: dict[str, Head]) -> dict[str, Tensor]:
    """What `rsseg.metrics.predicted_labels` takes as `threshold`, float32 ``[classes]``, by head.

    Args:
        run: The run folder.
        heads: The facts of each head.

    Raises:
        InputError: If the run has none.
    """
    path = run / FILE
    stored = json.loads(path.read_text()) if path.is_file() else {}
    missing = [name for name in heads if name not in stored]
    if missing:
        raise InputError(
            f"threshold=tuned: {run} has no {FILE} of head {', '.join(missing)}: the run is not finished, was trained with "
            "record.enabled=false or has diverged; leave threshold=tuned out"
        )
    return {name: torch.tensor([stored[name]["values"][c] for c in head.classes]) for name, head in heads.items()}
