"""A stratified sample of pixels whose logits are saved, to tune thresholds and biases.

The pixels are chosen from the labels alone, before training, so that all runs on the same scenes have the same sample.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg.metrics.average import Array
from rsseg.task import Task

SAMPLE = 2**15
"""The approximate number of pixels in all strata together; each stratum has at least one."""


class Pixels(NamedTuple):
    """N labelled pixels; for multilabel heads, each with one of its labels, whose index is `plane` (else 0).

    The weight is the number of pixels of the same scene, plane and label that each represents.
    """

    scene: NDArray[np.int64]
    plane: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    target: NDArray[np.int64]
    weight: Array


class SampledLogits(NamedTuple):
    """Logits ``[N, C]`` of `Pixels`, ``[N, 1]`` for independent labels, and the columns that tuning needs."""

    logits: NDArray[np.floating[Any]]
    target: NDArray[np.int64]
    plane: NDArray[np.int64]
    scene: NDArray[np.int64]
    weight: Array


def choose_pixels(
    masks: Iterable[NDArray[np.generic] | None], scenes: int, task: Task, size: int = SAMPLE, seed: int = 0
) -> Pixels:
    """Choose the same number of pixels of every label in every scene, or all if there are fewer.

    Masks are each scene's labels, ``[H, W]`` or ``[L, H, W]``; None: unlabelled. At most `size` pixels are chosen, but at
    least one of each label that a scene has.
    """
    planes = task.channels if task.separate else 1
    most = max(1, size // (scenes * planes * task.labels))
    found: list[Array] = [np.zeros((0, 6))]
    for scene, mask in enumerate(masks):
        for plane, labels in enumerate([] if mask is None else np.asarray(mask).reshape(planes, *mask.shape[-2:])):
            for label in range(task.labels):
                there = labels == label
                ends = np.count_nonzero(there, axis=1).cumsum()
                number = int(ends[-1])
                rng = np.random.default_rng([seed, scene, plane, label])
                ranks = np.sort(rng.choice(number, min(most, number), replace=False, shuffle=False))
                rows = np.searchsorted(ends, ranks, side="right")
                inside = ranks - np.append(0, ends)[rows]
                columns = [np.flatnonzero(there[row])[inside[rows == row]] for row in np.unique(rows)]
                if len(ranks):
                    facts = np.full((len(ranks), 6), (scene, plane, 0, 0, label, number / len(ranks)))
                    facts[:, 2], facts[:, 3] = rows, np.concatenate(columns)
                    found.append(facts)
    whole = np.concatenate(found)
    scene, plane, row, column, target = whole[:, :5].T.astype(np.int64)
    return Pixels(scene, plane, row, column, target, whole[:, 5])
