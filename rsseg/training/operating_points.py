"""Counts of whole scenes at the operating points of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.comparison.records import CALIBRATED, POINTS
from rsseg.contract import Batch, layers_of
from rsseg.data.windows import GridCell, WholeScenes
from rsseg.metrics.average import Array
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.counters import Boundary, Confusion, ScoreHistogram
from rsseg.metrics.scores import class_counts
from rsseg.task import Task

Thresholds: TypeAlias = Mapping[str, Array]
"""By the score that they are tuned for, thresholds or biases of each scene for `Task.predict`: ``[S, classes]``."""


class PointCounts:
    """Counts whole scenes at all `POINTS` while one process predicts their windows in order.

    Several checkpoints may be used in turn, each for some scenes with their own thresholds. Per head, memory is
    ``24 S K^2`` bytes for confusion matrices and ``4096 S (K + 1)`` for score histograms, and 16 bytes per pixel of the scene
    that is being assembled to count its contours.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],  # the tasks of the heads with labels
        sizes: NDArray[np.int64],  # ``[S, 2]``, the scenes' heights and widths
        thresholds: Mapping[str, Thresholds],  # by head; an empty mapping: no counts at tuned points
    ) -> None:
        self.tasks, scenes = dict(tasks), len(sizes)
        self.confusions = {name: {"fixed": Confusion(task, scenes)} for name, task in tasks.items()}
        for name, own in self.confusions.items():
            own |= {at: Confusion(tasks[name], scenes, torch.from_numpy(t).float()) for at, t in thresholds[name].items()}
        self.histograms = {name: ScoreHistogram(task, scenes) for name, task in tasks.items()}
        self.boundaries = {name: Boundary(task, scenes) for name, task in tasks.items()}
        self._wholes = {name: WholeScenes(sizes) for name in tasks}

    def count(self, outputs: Mapping[str, Tensor], batch: Batch, cores: Sequence[GridCell], wanted: NDArray[np.bool_]) -> None:
        """Count a batch's logits by head for the scenes that are `wanted`, bool ``[S]``; ``batch["k"]`` index `cores`."""
        layers = layers_of(batch)
        here = torch.from_numpy(wanted).to(batch["scene"].device)[batch["scene"]]
        if not here.any():
            return
        scene = batch["scene"][here]
        for name, task in self.tasks.items():
            logits, truth = outputs[name][here], task.hard_labels(layers[task.target][here])
            for counter in (*self.confusions[name].values(), self.histograms[name]):
                counter.to(logits.device).update(logits, truth, scene)
            maps = task.predict(logits).to(torch.uint8), truth.to(torch.uint8)
            for k, *parts in zip(batch["k"][here.cpu()].tolist(), *maps, strict=True):
                if whole := self._wholes[name].add(cores, k, parts):
                    number, (predicted, mask) = torch.tensor([whole[0]], device=truth.device), whole[1]
                    self.boundaries[name].to(truth.device).update(predicted[None], mask[None], number)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The counts of a head for ``records/crossed.npz``: 0 for other scenes, NaN at points that are not tuned."""
        task, histogram = self.tasks[name], self.histograms[name]
        counts = np.full((len(POINTS), len(histogram.lost), task.channels, 4), np.nan)
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
