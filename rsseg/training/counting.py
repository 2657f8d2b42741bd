"""Counts of whole scenes at operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rsseg.comparison.records import CALIBRATED, POINTS
from rsseg.contract import Batch, layers_of
from rsseg.data.windows import GridCell, WholeScenes
from rsseg.metrics import Scores
from rsseg.metrics.average import Array
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.counters import SCENE_SUMS, Boundary, Confusion, ScoreHistogram, score_scenes
from rsseg.task import Task


class SceneCounter:
    """Counts a head on whole scenes while one process predicts their windows in order.

    Every head is counted at the point ``fixed``, heads with labels also at the points that have thresholds. Memory is
    ``8 S K^2`` bytes for each point, ``4096 S (K + 1)`` for each score histogram, and 16 bytes per pixel of the scene that is
    being assembled to count its contours.
    """

    def __init__(
        self,
        task: Task,  # the head's task; for real values with their mean and deviation
        sizes: NDArray[np.int64],  # ``[S, 2]``, the scenes' heights and widths
        thresholds: Mapping[str, ArrayLike] | None = None,  # by further point, as for `Confusion`: ``[K]`` or ``[S, K]``
        scalings: Sequence[str] = ("none",),  # the kinds of scaling of logits that get a score histogram
        without: Sequence[str] = (),  # the classes that means leave out
    ) -> None:
        scenes = len(sizes)
        self.task, self.without = task, without
        self.sums: dict[str, Any] = {"fixed": SCENE_SUMS[task.counted](task, scenes)}
        for point, threshold in (thresholds or {}).items():
            self.sums[point] = Confusion(task, scenes, torch.as_tensor(threshold).float())
        self.histograms = {kind: ScoreHistogram(task, scenes) for kind in scalings if not task.real}
        self._boundary, self._wholes = Boundary(task, scenes), WholeScenes(sizes)

    def update(
        self, logits: Tensor, batch: Batch, cells: Sequence[GridCell] = (), scaled: Mapping[str, Tensor] | None = None
    ) -> None:
        """Count a batch.

        Args:
            logits: The head's logits, ``[B, K, H, W]``.
            batch: The batch that they were predicted for.
            cells: The grid that ``batch["k"]`` index; if given, contours are counted.
            scaled: The logits for each histogram; None: `logits`, for all of them.
        """
        target, scene = layers_of(batch)[self.task.target], batch["scene"]
        for sums in self.sums.values():
            sums.to(logits.device).update(logits, self.task.standardise(target), scene, batch.get("corner"))
        for kind, histogram in self.histograms.items():
            histogram.to(logits.device).update(scaled[kind] if scaled else logits, self.task.hard_labels(target), scene)
        if cells:
            self._add_contours(logits, target, batch["k"], cells)

    def _add_contours(self, logits: Tensor, target: Tensor, numbers: Tensor, cells: Sequence[GridCell]) -> None:
        """Put scenes together, and count the contours of those that are whole."""
        maps = self.task.predict(logits).to(torch.uint8), self.task.hard_labels(target).to(torch.uint8)
        for k, *parts in zip(numbers.tolist(), *maps, strict=True):
            if whole := self._wholes.add(cells, k, parts):
                scene, (predicted, mask) = torch.tensor([whole[0]], device=target.device), whole[1]
                self._boundary.to(target.device).update(predicted[None], mask[None], scene)

    def scores(self, point: str) -> Scores:
        """The scores at a point, or at ``fixed`` if the head is not counted at that point."""
        return score_scenes(self.sums.get(point, self.sums["fixed"]), self.task, self.without)

    def calibration_sums(self, kind: str = "none") -> dict[str, Array]:
        """The sums that the scores of the head's calibration are computed from, for a kind of scaling."""
        return calibration_sums(self.histograms[kind].counts.cpu().numpy(), self.task)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The counts of a run's records, see `rsseg.comparison.records.Records`.

        They are 0 for scenes of which no window was counted, and NaN at points without thresholds. Real values have one point.
        """
        found = {point: self.scores(point).counts for point in self.sums}
        counts = np.full((len(POINTS), *found["fixed"].shape), np.nan)
        for point, own in found.items():
            counts[POINTS.index(point)] = own
        if self.task.real:
            return {"counts": counts, "lost": np.zeros(len(found["fixed"]))}
        contours, sums = self._boundary.counts.cpu().numpy(), self.calibration_sums()
        counts[-1] = np.append(contours, 0 * contours[..., :1], axis=-1)
        lost = self.histograms["none"].lost.cpu().numpy()
        return {"counts": counts, "lost": lost, **{score: sums[score] for score in CALIBRATED}}
