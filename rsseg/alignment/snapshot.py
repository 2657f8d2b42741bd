"""What is counted once a checkpoint is chosen: score histograms, sampled logits, contours of whole scenes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.alignment.bias import scenes_bias
from rsseg.alignment.counts import Overlap
from rsseg.alignment.records import Crossfit, Snapshot
from rsseg.alignment.threshold import halves, tunable
from rsseg.contract import IGNORE, Batch, InputError
from rsseg.data.windows import Core
from rsseg.metrics import Boundary, Confusion, LogitSample, ScoreHistogram
from rsseg.task import Task

SAMPLE = 2**15
"""Pixels whose logits are kept of a multiclass run, at most 1024 and at least one per class and scene."""

log = logging.getLogger(__name__)


def in_halves(first: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The scenes, the first half before the second.

    Example:
        >>> in_halves(np.array([False, True, True, False]))
        array([1, 2, 0, 3])
    """
    return np.argsort(~first, kind="stable")


class Snapshots:
    """Takes the snapshot of a module while one process validates it, window after window of whole scenes.

    A bias is tuned on one half of the scenes to score the other. When the first half is through its sample is complete, so
    that the second is counted at its bias at once; `again` is what counts the first half, in half a validation more.

    A snapshot takes at most ``4 KiB * S * (K + 1)`` for histograms, ``24 S K`` bytes for contours, and for a multiclass
    sample ``(4 K + 24) max(SAMPLE, S K)`` bytes. While a scene is put together and its bands are counted, 16 bytes per pixel of
    it are in memory.

    Args:
        tasks: Each head's task.
        sizes: ``[S, 2]``, the scenes' heights and widths.
        cores: The windows, scene after scene, those of the first half before the others.
        holds: bool ``[S, K]``, which classes each scene's labels hold.

    Raises:
        ValueError: If the windows come in another order.
    """

    def __init__(
        self, tasks: Mapping[str, Task], sizes: NDArray[np.int64], cores: Sequence[Core], holds: NDArray[np.bool_]
    ) -> None:
        self.tasks, self.sizes, self.cores, self.holds = dict(tasks), sizes, cores, holds
        self.first = halves(holds)
        if np.diff(self.first[[core.scene for core in cores]].astype(int)).max(initial=0) > 0:
            raise ValueError("a window of the first half comes after one of the second: see in_halves")
        scenes = len(sizes)
        self.histograms = {name: ScoreHistogram(task, scenes) for name, task in tasks.items()}
        self.boundaries = {name: Boundary(task, scenes) for name, task in tasks.items()}
        self.samples = {
            name: LogitSample(task.channels, scenes, most=min(1024, max(1, SAMPLE // (scenes * task.channels))))
            for name, task in tasks.items()
            if task.exclusive
        }
        self.second = TunedCounts(tasks, self.samples, holds, ~self.first)
        self._scenes: dict[str, tuple[Tensor, Tensor]] = {}  # prediction and mask of the scene that is being put together

    def count(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch, logits by head."""
        mask, scene, k = batch["mask"], batch["scene"], batch["k"]
        for name, logits in outputs.items():
            truth = self.tasks[name].hard_labels(mask)
            self.histograms[name].to(logits.device).update(logits, truth, scene)
            if name in self.samples:
                self.samples[name].update(logits, truth, scene, k)
            predicted = self.tasks[name].predict(logits).to(torch.uint8)
            for labels, target, number in zip(predicted, truth, k.tolist(), strict=True):
                self._place(name, labels, target, number)
        self.second.count(outputs, batch)

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

    def take(self, step: int) -> dict[str, Snapshot]:
        """The snapshots by head, of a checkpoint of this step."""
        return {
            name: Snapshot(
                step=step,
                histogram=self.histograms[name].counts.cpu().numpy(),
                sample=self.samples[name].compute() if name in self.samples else None,
                boundary=self.boundaries[name].counts.cpu().numpy(),
                lost=int(self.histograms[name].lost),
            )
            for name in self.tasks
        }

    def again(self) -> TunedCounts | None:
        """What counts the first half's scenes at the bias of the second, once all have been counted; None: nothing is tuned."""
        tuned = any(self.second.at.values())
        return TunedCounts(self.tasks, self.samples, self.holds, self.first) if tuned else None

    def complete(self, taken: Mapping[str, Snapshot], again: TunedCounts) -> dict[str, Snapshot]:
        """The snapshots with the counts of both halves at their biases."""
        one, other = self.second.take(), again.take()
        return {
            name: replace(shot, crossfit=Crossfit(*(a + b for a, b in zip(one[name], other[name], strict=True))))
            if name in one and name in other
            else shot
            for name, shot in taken.items()
        }


class TunedCounts:
    """Counts the scenes of one half at biases that were tuned on a sample of the other half, while these are validated.

    Counts take ``24 S K^2`` bytes a head from when it is tuned.

    Args:
        tasks: Each head's task.
        samples: Of multiclass heads, complete for the other half before the first scene of this one is counted.
        holds: bool ``[S, K]``, which classes each scene's labels hold.
        part: bool ``[S]``, the scenes that are counted.
    """

    def __init__(
        self, tasks: Mapping[str, Task], samples: Mapping[str, LogitSample], holds: NDArray[np.bool_], part: NDArray[np.bool_]
    ) -> None:
        self.tasks, self.samples, self.holds, self.part = tasks, samples, holds, part
        self.counted = torch.from_numpy(part)
        self.at: dict[str, dict[str, tuple[Tensor, Confusion]]] = {}  # the biases of a head, and what is counted at them

    def count(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch, logits by head."""
        here = self.counted.to(batch["mask"].device)[batch["scene"]].nonzero().flatten()
        if not len(here):
            return
        for name in self.samples:
            if name not in self.at:
                biases = self._tune(name)
                self.at[name] = {of: (bias, Confusion(self.tasks[name], len(self.part))) for of, bias in biases.items()}
            for bias, confusion in self.at[name].values():
                moved = outputs[name][here] + bias.to(here.device).view(-1, 1, 1)
                confusion.to(here.device).update(moved, batch["mask"][here], batch["scene"][here])

    def _tune(self, name: str) -> dict[str, Tensor]:
        """The biases by what they are tuned for; none if there is nothing to tune on."""
        try:
            classes = tunable(self.holds, self.part, least=2)
            sample = self.samples[name].compute()
            tuned = {of: scenes_bias(sample, ~self.part, of, classes) for of in get_args(Overlap)}
        except InputError as error:
            log.warning("Head %s is not counted at tuned biases: %s", name, error)
            return {}
        return {of: torch.from_numpy(bias).float() for of, bias in tuned.items()} | {"fixed": torch.zeros(len(classes))}

    def take(self) -> dict[str, Crossfit]:
        """The counts, by head that could be tuned."""
        return {
            name: Crossfit(**{of: confusion.counts.cpu().numpy() for of, (_, confusion) in at.items()})
            for name, at in self.at.items()
            if at
        }
