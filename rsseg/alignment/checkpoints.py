"""What a run's checkpoints say: which is the best, and whether its validation loss would have chosen it."""

from __future__ import annotations

import numpy as np

from rsseg.alignment.counts import Array, Overlap, counts_of, pooled
from rsseg.alignment.records import Records
from rsseg.alignment.runs import Run
from rsseg.alignment.threshold import selection_regret
from rsseg.contract import Head, InputError


def best_index(run: Run) -> int:
    """Which validation the best checkpoint comes from."""
    records = _records(run)
    steps = np.asarray(records.steps)
    if records.best is not None and records.best.step in steps:
        return int(np.flatnonzero(steps == records.best.step)[-1])
    return int(np.nanargmax(pooled(counts_of(records.confusion, records.head))))


def best_confusion(run: Run) -> Array:
    """The confusion matrices at the best checkpoint, ``[S, P, K, K]``."""
    return np.asarray(_records(run).confusion[best_index(run)])


def selection(run: Run, head: Head, metric: Overlap) -> float:
    """What choosing the checkpoint by the run's own validation loss costs; NaN where a half of the scenes can't tell.

    The loss's value on each half is known where the panel holds the very loss that trained; else that on all scenes is taken.
    """
    records = _records(run)
    changed = any("loss." in override.split("=")[0] for override in run.origin["overrides"])
    if run.loss in records.panel and not changed:
        own = np.asarray(records.values)[:, records.panel.index(run.loss)]
    elif len(run.curve) == len(records.steps):
        own = run.curve["val_loss"].to_numpy(dtype=np.float64)
    else:
        return float("nan")
    try:
        return selection_regret(own, counts_of(records.confusion, head), metric)
    except InputError:
        return float("nan")


def _records(run: Run) -> Records:
    if run.records is None:
        raise InputError(f"{run.folder} has no records")
    return run.records
