"""Windows that several models label differently."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rsseg.contract import Batch, known
from rsseg.module import SegmentationModule
from rsseg.pictures.objects import unlike_objects
from rsseg.pictures.windows import Row, label_rows, predict_windows
from rsseg.task import Centres, Task


def disagreement(row: Row, task: Task) -> float:
    """The share of labelled pixels (multilabel: labels) that the models don't agree about; 0 where nothing is labelled.

    Of real values, how far their predictions lie apart, mean over the pixels whose value is known. Of objects, how many of one
    model the others do not find, and the other way round.

    Example:
        >>> from rsseg.task import Binary
        >>> zero, one = np.array([[0, 0]]), np.array([[0, 1]])
        >>> disagreement(Row(np.zeros((3, 1, 2)), zero, "", [zero, one]), Binary(("water",)))
        0.5
    """
    if isinstance(task, Centres):
        return unlike_objects(row.predictions, task.channels)
    there = known(row.target)
    apart = np.ptp(row.predictions, axis=0)
    return float((apart if task.real else apart > 0)[there].mean()) if there.any() else 0.0


def most_different(
    windows: Sequence[Batch], head: str, modules: Iterable[SegmentationModule], count: int, scenes: Sequence[str]
) -> list[Row]:
    """Of some windows the ones that modules, in evaluation mode, label most differently; one module is in memory at a time.

    Args:
        windows: To look at, each a batch of one.
        head: The head to predict with.
        modules: Gone through once.
        count: How many windows to return.
        scenes: The names of the scenes that windows are cut from.
    """
    rows, task = list[Row](), None
    for module in modules:
        task = module.tasks[head]
        rows = rows or label_rows(windows, task, scenes)
        for row, window in zip(rows, windows, strict=True):
            row.predictions.extend(predict_windows(module, [window], scenes)[head][0].predictions)
        del module  # before the next one is made
    return [] if task is None else sorted(rows, key=lambda row: disagreement(row, task), reverse=True)[:count]
