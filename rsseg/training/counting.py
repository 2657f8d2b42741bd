"""Counts of whole scenes at the operating points of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.comparison.records import CALIBRATED, POINTS
from rsseg.contract import IGNORE, Batch, layers_of
from rsseg.data.windows import GridCell
from rsseg.metrics.average import Array
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.counters import Boundary, Confusion, ScoreHistogram
from rsseg.metrics.scores import class_counts
from rsseg.task import Task

Thresholds: TypeAlias = Mapping[str, Array]
"""By what they were tuned for, the thresholds or biases of each scene, ``[S, classes]`` as `Task.predict` takes them."""


class PointCounts:
    """Counts scenes at all `POINTS` while one process predicts them, window after window of whole scenes.

    Several checkpoints may predict them, one after the other, each its own scenes at their own thresholds. It holds
    ``24 S K^2`` bytes of confusion matrices and ``4096 S (K + 1)`` of score histograms a head. While a scene is put together
    and its contours are counted, 16 bytes per pixel of it are in memory.

    Args:
        tasks: The tasks of the heads with labels.
        sizes: ``[S, 2]``, the scenes' heights and widths.
        thresholds: By head, those of each scene; none: it is not counted at tuned points.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        sizes: NDArray[np.int64],
        thresholds: Mapping[str, Thresholds],
    ) -> None:
        self.tasks, self.sizes, scenes = dict(tasks), sizes, len(sizes)
        self.thresholds = {
            name: {at: torch.from_numpy(tuned).float() for at, tuned in own.items()} for name, own in thresholds.items()
        }
        self.confusions = {
            name: {at: Confusion(task, scenes) for at in ("fixed", *thresholds[name])} for name, task in tasks.items()
        }
        self.histograms = {name: ScoreHistogram(task, scenes) for name, task in tasks.items()}
        self.boundaries = {name: Boundary(task, scenes) for name, task in tasks.items()}
        self._scenes: dict[str, tuple[Tensor, Tensor]] = {}  # prediction and mask of the scene that is being put together

    def count(self, outputs: Mapping[str, Tensor], batch: Batch, cores: Sequence[GridCell], wanted: NDArray[np.bool_]) -> None:
        """Count the logits of a batch by head, of the scenes that are `wanted`, bool ``[S]``; its numbers stand for `cores`."""
        layers = layers_of(batch)
        here = torch.from_numpy(wanted).to(batch["scene"].device)[batch["scene"]]
        if not here.any():
            return
        scene = batch["scene"][here]
        for name, task in self.tasks.items():
            logits, truth = outputs[name][here], task.hard_labels(layers[task.target][here])
            self.confusions[name]["fixed"].to(logits.device).update(logits, truth, scene)
            for at, tuned in self.thresholds[name].items():
                own = tuned.to(logits.device)[scene, :, None, None]
                moved = logits + own if task.exclusive else logits - own  # a bias is added, a threshold exceeded
                self.confusions[name][at].to(logits.device).update(moved, truth, scene)
            self.histograms[name].to(logits.device).update(logits, truth, scene)
            predicted = task.predict(logits).to(torch.uint8)
            for labels, target, k in zip(predicted, truth, batch["k"][here.cpu()].tolist(), strict=True):
                self._place(name, labels, target, cores, k)

    def _place(self, name: str, labels: Tensor, target: Tensor, cores: Sequence[GridCell], k: int) -> None:
        """Put a window's inner part into its scene; a scene that is complete is counted."""
        core = cores[k]
        if k == 0 or cores[k - 1].scene != core.scene:
            shape = (*target.shape[:-2], *self.sizes[core.scene].tolist())
            empty = torch.full(shape, IGNORE, dtype=torch.uint8, device=target.device)
            self._scenes[name] = empty, empty.clone()
        for whole, part in zip(self._scenes[name], (labels, target), strict=True):
            core.paste(part, whole)
        if k == len(cores) - 1 or cores[k + 1].scene != core.scene:
            predicted, mask = (whole.unsqueeze(0) for whole in self._scenes.pop(name))
            number = torch.tensor([core.scene], device=mask.device)
            self.boundaries[name].to(mask.device).update(predicted, mask, number)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """What was counted of a head, as ``records/crossed.npz`` holds it: 0 for other scenes, NaN for points not tuned."""
        task, histogram = self.tasks[name], self.histograms[name]
        counts = np.full((len(POINTS), len(self.sizes), task.channels, 4), np.nan)
        for at, confusion in self.confusions[name].items():
            counts[POINTS.index(at)] = class_counts(confusion.counts.cpu(), task)
        contours = self.boundaries[name].counts.cpu().numpy()
        counts[-1] = np.append(contours, 0 * contours[..., :1], axis=-1)
        calibrated = calibration_sums(histogram.counts.cpu().numpy(), task)
        return {
            "counts": counts,
            "lost": histogram.lost.cpu().numpy(),
            **{score: calibrated[score] for score in CALIBRATED},
        }
