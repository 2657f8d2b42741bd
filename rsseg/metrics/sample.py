"""A stratified sample of pixels whose logits are kept: thresholds and biases are tuned on it.

Which pixels they are is decided from the labels alone, before training, so that all runs on the same scenes have the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rsseg.collective import global_sum
from rsseg.metrics.average import Array
from rsseg.task import Task

SAMPLE = 2**15
"""Pixels of all strata together, but one of each at least."""


class Pixels(NamedTuple):
    """Some labelled pixels; of a multilabel head, of one label each. N of them.

    Attributes:
        scene: int64 ``[N]``.
        plane: int64 ``[N]``, the label's place; 0 where a pixel has one label.
        row: int64 ``[N]``.
        column: int64 ``[N]``.
        target: int64 ``[N]``, the label.
        weight: float64 ``[N]``, how many pixels of this scene, plane and label each stands for.
    """

    scene: NDArray[np.int64]
    plane: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    target: NDArray[np.int64]
    weight: Array


class Sample(NamedTuple):
    """Logits of `Pixels`, and what tuning has to know of these.

    Attributes:
        logits: float32 ``[N, C]``, of exclusive classes all of them, else ``[N, 1]``, that of the label.
        target: As of `Pixels`, and so are the others.
        plane: See there.
        scene: See there.
        weight: See there.
    """

    logits: NDArray[np.float32]
    target: NDArray[np.int64]
    plane: NDArray[np.int64]
    scene: NDArray[np.int64]
    weight: Array


def choose_pixels(
    masks: Iterable[NDArray[np.generic] | None], scenes: int, task: Task, size: int = SAMPLE, seed: int = 0
) -> Pixels:
    """Equally many pixels of every label of every scene, fewer where there are not so many.

    Args:
        masks: Each scene's labels, ``[H, W]`` or ``[L, H, W]``; None: nothing is labelled.
        scenes: Their number.
        task: The head's task.
        size: Of the sample, at most, but one pixel of each label of each scene.
        seed: Of the choice.

    Example:
        >>> from rsseg.task import Binary
        >>> pixels = choose_pixels([np.array([[1, 0, 0, 0, 255]])], 1, Binary(("road",)), size=4)
        >>> pixels.target.tolist(), pixels.weight.tolist()
        ([0, 0, 1], [1.5, 1.5, 1.0])
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


class LogitSample:
    """Gathers the logits of `Pixels` while the windows of whole scenes are predicted.

    It takes ``4 N C`` bytes where the logits are.

    Args:
        pixels: The pixels.
        cores: ``[K, 7]``, the windows of the grid as `rsseg.data.windows.GridCell`; those of a scene are rows times columns.
        task: The head's task.
    """

    def __init__(self, pixels: Pixels, cores: ArrayLike, task: Task) -> None:
        places = np.asarray(cores, dtype=np.int64)
        places = np.column_stack([places[:, :3], places[:, 1] + places[:, 3], places[:, 2] + places[:, 4]])
        window = np.zeros(len(pixels.scene), dtype=np.int64)
        for scene in np.unique(pixels.scene):
            here, own = np.flatnonzero(pixels.scene == scene), np.flatnonzero(places[:, 0] == scene)
            top, left = np.unique(places[own, 3]), np.unique(places[own, 4])
            row = np.searchsorted(top, pixels.row[here], side="right") - 1
            column = np.searchsorted(left, pixels.column[here], side="right") - 1
            in_order = own[np.lexsort((places[own, 4], places[own, 3]))]
            window[here] = in_order[row * len(left) + column]
        order = np.argsort(window, kind="stable")
        self.task = task
        self.pixels = Pixels._make(column[order] for column in pixels)
        self._starts = np.searchsorted(window[order], np.arange(len(places) + 1))
        row, column = self.pixels.row - places[window[order], 1], self.pixels.column - places[window[order], 2]
        self._places = torch.from_numpy(np.stack([self.pixels.plane, row, column]))
        self._logits: Tensor | None = None

    def reset(self) -> None:
        """Forget the logits."""
        self._logits = None

    def update(self, logits: Tensor, k: Tensor) -> None:
        """Take the pixels of some windows: logits ``[B, C, H, W]``, and the windows' numbers ``[B]``, on the CPU."""
        if self._logits is None:
            shape = len(self.pixels.scene), logits.shape[1] if self.task.exclusive else 1
            self._logits = torch.zeros(shape, device=logits.device)
        spans = [(i, *self._starts[k : k + 2].tolist()) for i, k in enumerate(k.tolist()) if k + 1 < len(self._starts)]
        at = torch.cat([torch.arange(start, stop) for _, start, stop in spans] or [torch.arange(0)])
        image = torch.cat([torch.full((stop - start,), i) for i, start, stop in spans] or [at]).to(logits.device)
        plane, row, column = self._places[:, at].to(logits.device)
        values = logits[image, :, row, column] if self.task.exclusive else logits[image, plane, row, column].unsqueeze(1)
        self._logits[at.to(logits.device)] = values.float()

    def compute(self) -> Sample:
        """The sample, of all processes: every one has to call it."""
        assert self._logits is not None
        return self.of(global_sum(self._logits).cpu().numpy())

    def of(self, logits: NDArray[np.float32]) -> Sample:
        """The sample with these logits."""
        return Sample(logits, self.pixels.target, self.pixels.plane, self.pixels.scene, self.pixels.weight)
