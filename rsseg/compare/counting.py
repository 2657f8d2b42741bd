"""Counts of whole scenes at the operating points of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.compare.records import POINTS
from rsseg.contract import IGNORE, Batch, layers_of
from rsseg.data.windows import Core
from rsseg.metrics import Boundary, Confusion, ScoreHistogram
from rsseg.metrics.average import Array
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.scores import class_counts
from rsseg.task import Task

Thresholds: TypeAlias = Mapping[str, Array]
"""By what they were tuned for, thresholds or biases ``[classes]`` as `Task.predict` takes them."""


class PointCounts:
    """Counts scenes at all `POINTS` while one process predicts them, window after window of whole scenes.

    It holds ``24 S K^2`` bytes of confusion matrices and ``4096 S (K + 1)`` of score histograms a head. While a scene is put
    together and its contours are counted, 16 bytes per pixel of it are in memory.

    Args:
        tasks: The tasks of the heads with labels.
        sizes: ``[S, 2]``, the scenes' heights and widths.
        cores: The windows, scene after scene.
        thresholds: By head; none: it is not counted at tuned points.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        sizes: NDArray[np.int64],
        cores: Sequence[Core],
        thresholds: Mapping[str, Thresholds],
    ) -> None:
        self.tasks, self.sizes, self.cores = dict(tasks), sizes, cores
        scenes = len(sizes)
        self.confusions = {
            name: {"fixed": Confusion(task, scenes)}
            | {at: Confusion(task, scenes, torch.from_numpy(tuned).float()) for at, tuned in thresholds[name].items()}
            for name, task in tasks.items()
        }
        self.histograms = {name: ScoreHistogram(task, scenes) for name, task in tasks.items()}
        self.boundaries = {name: Boundary(task, scenes) for name, task in tasks.items()}
        self._scenes: dict[str, tuple[Tensor, Tensor]] = {}  # prediction and mask of the scene that is being put together

    def count(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch, logits by head."""
        layers, scene = layers_of(batch), batch["scene"]
        for name, task in self.tasks.items():
            logits = outputs[name]
            truth = task.hard_labels(layers[task.target])
            for confusion in self.confusions[name].values():
                confusion.to(logits.device).update(logits, truth, scene)
            self.histograms[name].to(logits.device).update(logits, truth, scene)
            predicted = task.predict(logits).to(torch.uint8)
            for labels, target, k in zip(predicted, truth, batch["k"].tolist(), strict=True):
                self._place(name, labels, target, k)

    def _place(self, name: str, labels: Tensor, target: Tensor, k: int) -> None:
        """Put a window's inner part into its scene; a scene that is complete is counted."""
        core = self.cores[k]
        if k == 0 or self.cores[k - 1].scene != core.scene:
            shape = (*target.shape[:-2], *self.sizes[core.scene].tolist())
            empty = torch.full(shape, IGNORE, dtype=torch.uint8, device=target.device)
            self._scenes[name] = empty, empty.clone()
        for whole, part in zip(self._scenes[name], (labels, target), strict=True):
            rows, columns = (core.inner_top, core.inner_bottom), (core.inner_left, core.inner_right)
            there = whole[..., core.top + rows[0] : core.top + rows[1], core.left + columns[0] : core.left + columns[1]]
            there.copy_(part[..., slice(*rows), slice(*columns)])
        if k == len(self.cores) - 1 or self.cores[k + 1].scene != core.scene:
            predicted, mask = (whole.unsqueeze(0) for whole in self._scenes.pop(name))
            number = torch.tensor([core.scene], device=mask.device)
            self.boundaries[name].to(mask.device).update(predicted, mask, number)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """What was counted of a head, as ``records/crossed.npz`` holds it: 0 for scenes that were not counted.

        Tuned points are NaN where there were no thresholds.
        """
        task, histogram = self.tasks[name], self.histograms[name]
        counts = np.full((len(POINTS), len(self.sizes), task.channels, 4), np.nan)
        for at, confusion in self.confusions[name].items():
            counts[POINTS.index(at)] = class_counts(confusion.counts, task)
        contours = self.boundaries[name].counts.cpu().numpy()
        counts[-1] = np.append(contours, 0 * contours[..., :1], axis=-1)
        return {
            "counts": counts,
            "lost": histogram.lost.cpu().numpy(),
            **calibration_sums(histogram.counts.cpu().numpy(), task),
        }
