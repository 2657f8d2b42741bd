"""What is counted once a checkpoint is chosen: score histograms, sampled logits, contours of whole scenes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.alignment.bias import crossfit_bias
from rsseg.alignment.counts import Array, Overlap
from rsseg.alignment.records import Crossfit, Snapshot
from rsseg.contract import IGNORE, Head, InputError, TaskKind
from rsseg.data.windows import Core
from rsseg.metrics import Boundary, Confusion, LogitSample, ScoreHistogram, predicted_labels

SAMPLE = 2**15
"""Pixels whose logits are kept of a multiclass run, at most 1024 and at least one per class and scene."""

log = logging.getLogger(__name__)


class Snapshots(L.Callback):
    """Takes the snapshot of a module while one process validates it, window after window of whole scenes.

    A snapshot takes at most ``4 KiB * S * (K + 1)`` for histograms, ``24 S K`` bytes for contours, and for a multiclass
    sample ``(4 K + 24) max(SAMPLE, S K)`` bytes. While a scene is put together, two labels per pixel of it are in memory.

    Args:
        heads: The facts of each head.
        sizes: ``[S, 2]``, the scenes' heights and widths.
        cores: The windows, scene after scene.
    """

    def __init__(self, heads: Mapping[str, Head], sizes: NDArray[np.int64], cores: Sequence[Core]) -> None:
        self.heads, self.sizes, self.cores = dict(heads), sizes, cores
        scenes = len(sizes)
        self.histograms = {name: ScoreHistogram(head, scenes) for name, head in heads.items()}
        self.boundaries = {name: Boundary(head, scenes) for name, head in heads.items()}
        self.samples = {
            name: LogitSample(head.channels, scenes, most=min(1024, max(1, SAMPLE // (scenes * head.channels))))
            for name, head in heads.items()
            if head.task is TaskKind.multiclass
        }
        self._scenes: dict[str, tuple[Tensor, Tensor]] = {}  # prediction and mask of the scene that is being put together

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        mask, scene, k = batch["mask"], batch["scene"], batch["k"]
        for name, logits in outputs.items():
            self.histograms[name].to(logits.device).update(logits, mask, scene)
            if name in self.samples:
                self.samples[name].update(logits, mask, scene, k)
            predicted = predicted_labels(logits, self.heads[name]).to(torch.uint8)
            for labels, target, number in zip(predicted, mask, k.tolist(), strict=True):
                self._place(name, labels, target, number)

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
            for name in self.heads
        }


class Reinference(L.Callback):
    """Counts all pixels at biases that were tuned on a sample of them, while one process validates the module once more.

    A second pass is needed, as the sample is complete only after the first. Each scene is counted at its own bias, so the
    two halves take one pass together. Counts take ``24 S K^2`` bytes a head.

    Args:
        heads: The facts of each head.
        biases: By multiclass head and by what they were tuned for, ``[S, K]``, see `crossfit_bias`.
    """

    def __init__(self, heads: Mapping[str, Head], biases: Mapping[str, Mapping[Overlap, Array]]) -> None:
        self.biases = {name: {of: torch.from_numpy(b).float() for of, b in each.items()} for name, each in biases.items()}
        self.confusions = {
            name: {of: Confusion(heads[name], len(b)) for of, b in each.items()} for name, each in self.biases.items()
        }
        self._fixed: dict[str, NDArray[np.int64]] = {}

    @classmethod
    def of(cls, heads: Mapping[str, Head], taken: Mapping[str, Snapshot], first: NDArray[np.bool_]) -> Reinference | None:
        """Tuned on the samples of snapshots, by half of the scenes; None where there is none to tune on, or one scene."""
        biases: dict[str, dict[Overlap, Array]] = {}
        for name, snapshot in taken.items():
            sample = snapshot.sample
            if sample is None or first.all():
                continue
            try:
                biases[name] = {metric: crossfit_bias(sample, first, metric) for metric in get_args(Overlap)}
            except InputError as error:
                log.warning("Step %d is not counted at tuned biases of head %s: %s", snapshot.step, name, error)
        return cls(heads, biases) if biases else None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        mask, scene = batch["mask"], batch["scene"]
        for name, biases in self.biases.items():
            logits = outputs[name]
            for of, bias in biases.items():
                moved = logits + bias.to(logits.device)[scene][:, :, None, None]
                self.confusions[name][of].to(logits.device).update(moved, mask, scene)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the counts at the argmax over from the module, which then forgets them."""
        confusions: Any = pl_module.confusions
        self._fixed = {name: confusions[name].counts.cpu().numpy() for name in self.biases}

    def complete(self, taken: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        """The snapshots, with what was counted."""
        counted = {
            name: {str(of): confusion.counts.cpu().numpy() for of, confusion in each.items()}
            for name, each in self.confusions.items()
        }
        return {
            name: replace(shot, crossfit=Crossfit(fixed=self._fixed[name], **counted[name])) if name in counted else shot
            for name, shot in taken.items()
        }
