"""The callback that records a run while it trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import ArrayLike

from rsseg.alignment.archive import write_arrays
from rsseg.alignment.panel import PanelSums
from rsseg.alignment.probe import probe
from rsseg.alignment.records import ABOUT, OWN, Snapshot
from rsseg.alignment.snapshot import Snapshots
from rsseg.contract import Batch
from rsseg.files import write_json
from rsseg.losses import Composite, Term
from rsseg.module import SegmentationModule


class Recorder(L.Callback):
    """Writes ``records/step-000240.npz`` of the run folder after every validation; see docs/records.md.

    A file holds, per head, every scene's confusion matrix, the value of every loss of the panel, and of the one that trains,
    on each half of the scenes, and each weighted term's gradient norms and cosines on the probe windows. With S scenes, P
    planes of K x K counts, N losses in the panel and T terms its arrays take ``8 (S P K^2 + 2 N + 2 T (T + 1) + T + 3)``
    bytes, before they are compressed. A resumed run writes the validations that it repeats again, under their names.

    Attributes:
        taken: The snapshots of the last step by head, if one process alone has validated it: contours need whole scenes.

    Args:
        folder: The folder of its records.
        scenes: The validation scenes' names.
        panel: By name, the losses to be valued, functions of sums over the batch.
        facts: By name, what each of them was made with.
        clipped: The classes whose weight in the panel's weighted cross-entropy could not be counted.
        snapshots: Takes the snapshots, and knows which scenes are the first half.
        windows: The probe windows; needed in the main process alone.
        held_out: The windows of the one-step gain; none: it is not recorded.
    """

    def __init__(
        self,
        folder: Path,
        scenes: Sequence[str],
        panel: Mapping[str, Term],
        facts: Mapping[str, Any],
        clipped: Sequence[str],
        snapshots: Snapshots,
        windows: Sequence[Batch],
        held_out: Sequence[Batch] = (),
    ) -> None:
        self.folder, self.scenes, self.panel, self.facts = folder, list(scenes), panel, facts
        self.clipped, self.windows, self.held_out = list(clipped), list(windows), list(held_out)
        self.snapshots, self.first = snapshots, snapshots.first
        self.taken: dict[str, Snapshot] | None = None
        self._sums: dict[str, PanelSums] = {}  # of the panel, on labels
        self._own: dict[str, PanelSums] = {}  # of the loss that trains, on what it is given
        self._gradients: dict[str, dict[str, ArrayLike]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what the numbers are about."""
        module = _segmentation(pl_module)
        for name, task in module.tasks.items():
            self._sums[name] = PanelSums(task, self.panel, self.first)
            loss = module.losses[name]
            if isinstance(loss, Composite) and _of_sums(loss):
                self._own[name] = PanelSums(task, {OWN: copy.deepcopy(loss).cpu()}, self.first)
        if not trainer.is_global_zero:
            return
        heads = {
            name: {
                "task": task.kind,
                "classes": list(task.classes),
                "terms": list(module.losses[name].terms),  # type: ignore[arg-type]
                "weights": module.losses[name].weights,
                "panel": dict(self.facts),
                "clipped": self.clipped,
            }
            for name, task in module.tasks.items()
        }
        write_json(self.folder / ABOUT, {"scenes": self.scenes, "first_half": self.first.tolist(), "heads": heads})

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Probe the weights that are being scored: averaged ones are in place between the first batch and the last."""
        if batch_idx:
            return
        for sums in (*self._sums.values(), *self._own.values()):
            sums.reset()
        if trainer.is_global_zero:
            found = probe(trainer, _segmentation(pl_module), self.windows, self.held_out)
            self._gradients = {head: {key: value.numpy() for key, value in values.items()} for head, values in found.items()}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *given: Any, **_: Any) -> None:
        """Add a batch to the sums."""
        outputs, batch = given[:2]
        module = _segmentation(pl_module)
        for name, sums in self._sums.items():
            sums.update(outputs[name], module.tasks[name].hard_labels(batch["mask"]), batch["scene"])
        for name, sums in self._own.items():
            _, target, weight = module.losses[name].given(outputs[name], batch["mask"], batch.get("weight"))  # type: ignore[operator]
            sums.update(outputs[name], target, batch["scene"], weight)
        if _last_alone(trainer):
            self.snapshots.count(outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record; Lightning calls this before the module forgets its counts and before the checkpoint."""
        module = _segmentation(pl_module)
        arrays: dict[str, ArrayLike] = {}
        for name, sums in self._sums.items():
            own = self._own[name].values()[0] if name in self._own else np.full(2, np.nan)
            found = {"step": np.int64(trainer.global_step), OWN: own}
            found |= {"values": sums.values(), **self._gradients.get(name, {})}
            found["confusion"] = module.confusions[name].compute().cpu().numpy()  # type: ignore[operator]
            arrays |= {f"{name}/{key}": value for key, value in found.items()}
        if trainer.is_global_zero:
            write_arrays(self.folder / f"step-{trainer.global_step:06d}.npz", arrays)
        if _last_alone(trainer):
            self.taken = self.snapshots.take(trainer.global_step)


def _of_sums(loss: Composite) -> bool:
    """Whether a loss is a function of sums over the pixels of a batch, and can be valued on half of the scenes."""
    terms = [term for name, term in loss.terms.items() if loss.weights[name]]
    if loss.label_smoothing and not all(term.soft for term in terms):  # sums of two targets
        return False
    return all(isinstance(term, Term) and term.needs and {over for _, over in term.needs} == {"batch"} for term in terms)


def _last_alone(trainer: L.Trainer) -> bool:
    """Whether one process alone validates the run's last step."""
    return trainer.world_size == 1 and trainer.global_step == trainer.max_steps


def _segmentation(module: L.LightningModule) -> SegmentationModule:
    assert isinstance(module, SegmentationModule)
    return module
