"""What a run's checkpoints say: which is the best, and whether its validation loss would have chosen it."""

from __future__ import annotations

import numpy as np

from rsseg.compare.counts import Array, Overlap, pooled
from rsseg.compare.runs import Run
from rsseg.compare.threshold import selection_regret
from rsseg.contract import InputError


def best_index(run: Run) -> int:
    """Which validation the best checkpoint comes from."""
    records = run.recorded
    steps = np.asarray(records.steps)
    if records.best is not None and records.best.step in steps:
        return int(np.flatnonzero(steps == records.best.step)[-1])
    return int(np.nanargmax(pooled(records.counts)))


def best_counts(run: Run) -> Array:
    """The counts at the best checkpoint, ``[S, classes, 3]``."""
    return np.asarray(run.recorded.counts[best_index(run)])


def own_loss(run: Run) -> Array | None:
    """The loss that trained a run on each half of the scenes, ``[V, 2]``; None if it was not recorded.

    Records that lack it may have it in the panel, if the loss was used as it comes.
    """
    records = run.recorded
    if records.own is not None:
        return None if np.isnan(records.own).all() else records.own
    changed = any("loss." in override.split("=")[0] for override in run.origin["overrides"])
    return records.values[:, records.panel.index(run.loss)] if run.loss in records.panel and not changed else None


def selection(run: Run, metric: Overlap) -> float:
    """What choosing the checkpoint by the run's own validation loss costs; NaN where halves of the scenes can't tell."""
    records, own = run.recorded, own_loss(run)
    if own is None or records.first.all():
        return float("nan")
    try:
        return selection_regret(own, records.counts, records.first, metric)
    except InputError:
        return float("nan")
