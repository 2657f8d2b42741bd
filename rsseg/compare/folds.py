"""Cross-validation: the runs that leave out each fold in turn, as one run over the scenes of all folds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from rsseg.compare.records import Crossed, Records
from rsseg.compare.runs import Run
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
        """Whether the best checkpoint of every fold is its last."""
        return all(fold.last_is_best for fold in self.folds)

    @property
    def optimistic(self) -> Array:
        """The counts of the checkpoints that were chosen on these very scenes, each fold's its own."""
        return _along([fold.optimistic for fold in self.folds])

    def at(self, point: str) -> Array:
        """The counts of the checkpoints that were chosen on the other half of each fold."""
        return _along([fold.at(point) for fold in self.folds])


def _along(arrays: Sequence[Array], axis: int = 0) -> Array:
    whole: Array = np.concatenate(arrays, axis)
    return whole


def pool_folds(folds: Sequence[Run]) -> Run:
    """The runs of one row and seed that leave out each fold in turn, as one run over the scenes of all folds.

    Each scene is scored by the run that did not train on it. Curves and the scores of the summary are means over the folds.
    """
    first, *others = folds
    if not others:
        return first
    whole = copy.copy(first)
    whole.settings = {
        key: value for key, value in first.settings.items() if all(run.settings.get(key) == value for run in others)
    }
    listed = [run.data for run in folds]
    splits = first.data["fingerprint"]
    whole.data = first.data | {
        "fingerprint": {split: " ".join(str(data["fingerprint"][split]) for data in listed) for split in splits},
        "scenes": {split: list(dict.fromkeys(s for data in listed for s in data["scenes"].get(split, ()))) for split in splits},
        **{name: [x for data in listed for x in data[name]] for name in ("mean", "std")},
    }
    numbers = [key for key, value in first.summary.items() if isinstance(value, int | float)]
    means = {key: float(np.mean([run.summary[key] for run in folds])) for key in numbers}
    whole.summary = (
        first.summary
        | means
        | {
            "finished": max(str(run.summary["finished"]) for run in folds),
            "steps": max(run.summary["steps"] for run in folds),
            "seconds": sum(run.summary["seconds"] for run in folds),
        }
    )
    whole.curve = pd.concat([run.curve for run in folds]).groupby("step", as_index=False).mean()
    tables = pd.concat([run.classes for run in folds]).groupby("class", sort=False)
    whole.classes = tables.mean().assign(pixels=tables["pixels"].sum()).reset_index()[first.classes.columns]
    if first.records is not None:
        whole.records = concatenate([run.recorded for run in folds])
    return whole


def concatenate(folds: Sequence[Records]) -> FoldedRecords:
    """The records of several folds as one, each scene counted by the run that left it out."""
    first = folds[0]
    steps = reduce(np.intersect1d, [fold.steps for fold in folds])
    rows = [np.isin(fold.steps, steps) for fold in folds]

    def mean(arrays: Sequence[Array]) -> Array:
        shared: Array = np.mean([array[kept] for array, kept in zip(arrays, rows, strict=True)], axis=0)
        return shared

    gains, crossed = [fold.gain for fold in folds if fold.gain is not None], [fold.crossed for fold in folds if fold.crossed]
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
        crossed=_crossed(crossed) if len(crossed) == len(folds) else None,
        folds=tuple(folds),
    )


def _crossed(folds: Sequence[Crossed]) -> Crossed:
    return Crossed(
        steps=folds[0].steps,
        counts=_along([fold.counts for fold in folds], axis=1),
        calibration={name: _along([fold.calibration[name] for fold in folds]) for name in folds[0].calibration},
        untuned=next((fold.untuned for fold in folds if fold.untuned), ""),
        lost=sum(fold.lost for fold in folds),
    )
