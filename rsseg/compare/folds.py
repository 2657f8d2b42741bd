"""Cross-validation: the runs that leave out each fold in turn, as one run over the scenes of all folds."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from rsseg.compare.records import POINTS, Records
from rsseg.compare.runs import Run, grouped
from rsseg.config.plan import common
from rsseg.contract import InputError
from rsseg.metrics.average import Array


@dataclass(frozen=True)
class FoldedRecords(Records):
    """The records of all folds, one after the other along the scenes, at the validations that all have.

    What is no function of sums over scenes, such as gradients, is the mean over the folds.

    Attributes:
        folds: The records of each.
    """

    folds: tuple[Records, ...] = ()

    @property
    def last_is_best(self) -> bool:
        """Whether the best checkpoint of half of the folds or more is their last."""
        return 2 * sum(fold.last_is_best for fold in self.folds) >= len(self.folds)

    @property
    def optimistic(self) -> Array:
        """The counts of the checkpoints that were chosen on these very scenes, each fold's its own."""
        return _along([fold.optimistic for fold in self.folds])


def _along(arrays: Sequence[Array], axis: int = 0) -> Array:
    return np.concatenate(arrays, axis)


def pool_folds(runs: Sequence[Run], folds: Collection[str]) -> list[Run]:
    """The runs of each row and seed as one over the scenes of all folds, each scored by the run that did not train on it.

    Those whose seed lacks a fold are left out.

    Raises:
        InputError: If no seed has all folds.
    """
    pooled = []
    in_order = sorted(runs, key=lambda run: str(run.fold))
    for parts in grouped(in_order, lambda run: (run.label, run.seed)).values():
        whole = copy.copy(parts[0])
        whole.folds = parts
        missing = set(folds) - {str(run.fold) for run in parts}
        if missing:
            why = f"its seed lacks fold {', '.join(sorted(missing))}"
            whole.leave_out(why, "finish the sweep, and train again what has diverged")
        elif len(parts) > 1:
            pooled.append(_pool(whole))
        else:
            pooled.append(whole)
    if not pooled:
        raise InputError(f"no seed of any row has all folds, {', '.join(folds)}: finish the sweep")
    return pooled


def _pool(whole: Run) -> Run:
    parts = whole.folds
    whole.settings = common([run.settings for run in parts])
    data = [run.data for run in parts]
    whole.data = {
        "fingerprint": {split: " ".join(each["fingerprint"][split] for each in data) for split in data[0]["fingerprint"]},
        "scenes": {
            split: list(dict.fromkeys(name for each in data for name in each["scenes"][split])) for split in data[0]["scenes"]
        },
    }
    whole.summary = {
        "steps": max(run.summary["steps"] for run in parts),
        "seconds": sum(run.summary["seconds"] for run in parts),
    }
    whole.records = concatenate([run.records for run in parts])
    return whole


def concatenate(folds: Sequence[Records]) -> FoldedRecords:
    """The records of several folds as one, each scene counted by the run that left it out."""
    first = folds[0]
    steps = reduce(np.intersect1d, [fold.steps for fold in folds])
    rows = [np.isin(fold.steps, steps) for fold in folds]

    def mean(arrays: Sequence[Array]) -> Array:
        return np.mean([array[kept] for array, kept in zip(arrays, rows, strict=True)], axis=0)

    gains = [fold.gain for fold in folds if fold.gain is not None]
    return FoldedRecords(
        scenes=[scene for fold in folds for scene in fold.scenes],
        groups=np.concatenate([fold.groups for fold in folds]),
        first=np.concatenate([fold.first for fold in folds]),
        task=first.task,
        terms=first.terms,
        panel=first.panel,
        steps=steps,
        counts=_along([fold.counts[kept] for fold, kept in zip(folds, rows, strict=True)], axis=1),
        quality=mean([fold.quality for fold in folds]),
        values=mean([fold.values for fold in folds]),
        own=mean([fold.own for fold in folds]),
        gradient={
            place: (mean([fold.gradient[place][0] for fold in folds]), mean([fold.gradient[place][1] for fold in folds]))
            for place in first.gradient
        },
        gain=mean(gains) if len(gains) == len(folds) else None,
        chosen=np.stack([_along([fold.at(point) for fold in folds]) for point in POINTS]),
        calibration={name: _along([fold.calibration[name] for fold in folds]) for name in first.calibration},
        untuned=next((fold.untuned for fold in folds if fold.untuned), ""),
        lost=sum(fold.lost for fold in folds),
        folds=tuple(folds),
    )
