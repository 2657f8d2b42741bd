"""The logits of a sample of pixels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rsseg.collective import global_sum
from rsseg.metrics.pixel_sample import Pixels, SampledLogits
from rsseg.task import Task


class LogitSample:
    """Gathers the logits of `Pixels` while the windows of whole scenes are predicted, in ``4 N C`` bytes on the logits' device.

    `cores` ``[K, 7]`` are the grid's windows, as `rsseg.data.windows.GridCell`; those of a scene form rows and columns.
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
        """Take the sampled pixels from windows: logits ``[B, C, H, W]``, and the windows' numbers ``[B]``, on the CPU."""
        if self._logits is None:
            shape = len(self.pixels.scene), logits.shape[1] if self.task.exclusive else 1
            self._logits = torch.zeros(shape, device=logits.device)
        spans = [(i, *self._starts[k : k + 2].tolist()) for i, k in enumerate(k.tolist()) if k + 1 < len(self._starts)]
        at = torch.cat([torch.arange(start, stop) for _, start, stop in spans] or [torch.arange(0)])
        image = torch.cat([torch.full((stop - start,), i) for i, start, stop in spans] or [at]).to(logits.device)
        plane, row, column = self._places[:, at].to(logits.device)
        values = logits[image, :, row, column] if self.task.exclusive else logits[image, plane, row, column].unsqueeze(1)
        self._logits[at.to(logits.device)] = values.float()

    def compute(self) -> SampledLogits:
        """The sample of all processes; every process has to call it."""
        assert self._logits is not None
        return self.of(global_sum(self._logits).cpu().numpy())

    def of(self, logits: NDArray[np.float32]) -> SampledLogits:
        """The sample with these logits."""
        return SampledLogits(logits, self.pixels.target, self.pixels.plane, self.pixels.scene, self.pixels.weight)
