"""Cross-validation: the runs that leave out each fold in turn, as one run over the scenes of all folds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import reduce

import numpy as np
import pandas as pd

from rsseg.compare.records import POINTS, Crossed, Records
from rsseg.compare.runs import Run
from rsseg.metrics.average import Array


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
    whole.records = concatenate([run.recorded for run in folds])
    return whole


def concatenate(folds: Sequence[Records]) -> Records:
    """The records of several folds as one, each scene counted by a run that did not train on it.

    What is no function of sums over scenes, the panel's values, the loss and gradients, is the mean over the folds.
    """
    first = folds[0]
    steps = reduce(np.intersect1d, [fold.steps for fold in folds])
    rows = [np.isin(fold.steps, steps) for fold in folds]

    def mean(arrays: Sequence[Array]) -> Array:
        shared: Array = np.mean([array[kept] for array, kept in zip(arrays, rows, strict=True)], axis=0)
        return shared

    return Records(
        scenes=[scene for fold in folds for scene in fold.scenes],
        groups=np.concatenate([fold.groups for fold in folds]),
        first=np.concatenate([fold.first for fold in folds]),
        task=first.task,
        terms=first.terms,
        panel=first.panel,
        steps=steps,
        counts=np.concatenate([fold.counts[kept] for fold, kept in zip(folds, rows, strict=True)], axis=1),
        quality=mean([fold.quality for fold in folds]),
        values=mean([fold.values for fold in folds]),
        own=mean([fold.own for fold in folds]),
        gradient={
            place: (mean([fold.gradient[place][0] for fold in folds]), mean([fold.gradient[place][1] for fold in folds]))
            for place in first.gradient
        },
        gain=mean([fold.gain for fold in folds]) if all(fold.gain is not None for fold in folds) else None,
        crossed=_crossed(folds),
    )


def _crossed(folds: Sequence[Records]) -> Crossed | None:
    """The crossed counts of all folds; of a fold without, as of real values, those of its validations."""
    known = [fold.crossed for fold in folds if fold.crossed is not None]
    first = folds[0]
    if first.task.real:
        counts = np.concatenate([fold.at("fixed") for fold in folds])
        unknown = np.full((len(POINTS) - 1, *counts.shape), np.nan)
        return Crossed((0, 0), np.concatenate([counts[None], unknown]), {})
    if len(known) < len(folds):
        return None
    return Crossed(
        steps=known[0].steps,
        counts=np.concatenate([crossed.counts for crossed in known], axis=1),
        calibration={name: np.concatenate([crossed.calibration[name] for crossed in known]) for name in known[0].calibration},
        untuned=next((crossed.untuned for crossed in known if crossed.untuned), ""),
        lost=sum(crossed.lost for crossed in known),
    )
