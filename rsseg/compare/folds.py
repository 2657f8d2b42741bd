"""Cross-validation: the runs that leave out each fold in turn, as one run over the scenes of all folds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from rsseg.compare.records import Checkpoint, Records
from rsseg.compare.runs import Run
from rsseg.metrics.average import Array


@dataclass(frozen=True)
class FoldedRecords(Records):
    """The records of all folds, one after the other along the scenes, at the validations that all have.

    What is no function of sums over scenes, the panel's values and gradients, is the mean over the folds.

    Attributes:
        folds: The records of each.
    """

    folds: tuple[Records, ...] = ()

    def at(self, point: str) -> Array:
        """The counts of the best checkpoint of each fold."""
        counts: Array = np.concatenate([fold.at(point) for fold in self.folds])
        return counts


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

    def mean_known(arrays: Sequence[Array | None]) -> Array | None:
        known = [array for array in arrays if array is not None]
        return mean(known) if len(known) == len(folds) else None

    return FoldedRecords(
        scenes=[scene for fold in folds for scene in fold.scenes],
        first=np.concatenate([fold.first for fold in folds]),
        task=first.task,
        terms=first.terms,
        panel=first.panel,
        steps=steps,
        counts=np.concatenate([fold.counts[kept] for fold, kept in zip(folds, rows, strict=True)], axis=1),
        values=mean([fold.values for fold in folds]),
        own=mean_known([fold.own for fold in folds]),
        gradient={
            place: (mean([fold.gradient[place][0] for fold in folds]), mean([fold.gradient[place][1] for fold in folds]))
            for place in first.gradient
        },
        gain=mean_known([fold.gain for fold in folds]),
        best=_checkpoint([fold.best for fold in folds]),
        folds=tuple(folds),
    )


def _checkpoint(bests: Sequence[Checkpoint | None]) -> Checkpoint | None:
    known = [best for best in bests if best is not None]
    if len(known) < len(bests):
        return None
    return Checkpoint(
        step=known[0].step,
        counts=np.concatenate([best.counts for best in known], axis=1),
        calibration={name: np.concatenate([best.calibration[name] for best in known]) for name in known[0].calibration},
        untuned=next((best.untuned for best in known if best.untuned), ""),
        lost=sum(best.lost for best in known),
    )
