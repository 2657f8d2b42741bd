"""Checkpoints of a run, scored on whole scenes in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor

from rsseg.alignment.counts import pooled
from rsseg.alignment.recorder import Recorder
from rsseg.assembly import Setup
from rsseg.config.folder import RunFolder
from rsseg.config.schema import Residence
from rsseg.contract import Batch, InputError
from rsseg.data.store import Store, load
from rsseg.data.windows import Batches, GridWindows, Loader, Windows, thread_count
from rsseg.devices import choose_precision, scoring_accelerator
from rsseg.errors import in_one_line
from rsseg.metrics import Scores
from rsseg.module import SegmentationModule
from rsseg.progress import shows_bars
from rsseg.training.recording import keep, keep_thresholds, make_snapshots, validation_windows


def load_checkpoint(module: SegmentationModule, folder: Path, name: str = "best") -> int:
    """Give a module the weights of a run's best or last checkpoint, and return the step that it was saved at.

    Raises:
        InputError: If there is none, it can't be read, or holds the weights of another network.
    """
    weights, step = RunFolder(folder).load_state(name)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        found = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"checkpoints/{name}.ckpt of {folder} does not fit its config.yaml: {found}") from None
    return step


class _Counting(L.Callback):
    """Hands every validation batch, and its logits by head, to a function."""

    def __init__(self, count: Callable[[Mapping[str, Tensor], Batch], None]) -> None:
        self.count = count

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
        self.count(outputs, batch)


def score(
    setup: Setup,
    module: SegmentationModule,
    windows: GridWindows,
    count: Callable[[Mapping[str, Tensor], Batch], None] | None = None,
) -> dict[str, Scores]:
    """Score whole scenes in this process, and count their batches of logits by head; scores by head."""
    settings = setup.plain["trainer"]
    devices = settings.get("devices", 1)
    accelerator = scoring_accelerator(setup.accelerator)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices[:1] if isinstance(devices, list) and accelerator != "cpu" else 1,
        precision=choose_precision(settings.get("precision", "auto"), accelerator),
        callbacks=[_Counting(count)] if count else [],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=shows_bars(),
    )
    reside(setup, [windows.store], trainer)
    with in_one_line(setup.output, setup.batch_size, setup.window):
        trainer.validate(module, feed(setup, windows, Batches(len(windows), setup.batch_size)), verbose=False)
    return dict(module.scores)


def score_checkpoints(
    setup: Setup, folder: Path, module: SegmentationModule, store: Store, recorder: Recorder
) -> dict[str, Scores]:
    """Keep what comparisons need of the last and the best checkpoint; the module is left with the best.

    Writes ``records/last.npz``, ``records/best.npz`` and ``threshold.json``. A checkpoint whose snapshots the recorder has
    taken is not scored again, but for the half of the scenes that a multiclass head's best still has to be counted on at
    the bias of the other half.

    Returns:
        The best checkpoint's scores by head, with boundary IoU.
    """
    snapshots, taken, result = recorder.snapshots, recorder.taken or {}, dict(module.scores)
    for name in ("last", "best"):
        step = load_checkpoint(module, folder, name)
        if {shot.step for shot in taken.values()} != {step}:
            snapshots = make_snapshots(setup, module, store)
            result = score(setup, module, validation_windows(setup, store), snapshots.count)
            taken = snapshots.take(step)
        again = snapshots.again() if name == "best" else None
        if again:
            half = GridWindows(store, setup.window, setup.overlap, np.flatnonzero(snapshots.first))
            score(setup, module, half, again.count)
            taken = snapshots.complete(taken, again)
        keep(folder, name, taken)
    keep_thresholds(folder, module, taken, recorder.first)
    return {head: replace(scores, boundary_iou=float(pooled(taken[head].boundary))) for head, scores in result.items()}


def score_rows(result: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """The per-class table of each head; the row of the mean, its last, has no class."""
    return [{"head": head, **row} for head, scores in result.items() for row in scores.table()]


def name_means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `score_rows` for people: files do not call the mean so, since a class may have any name."""
    return [{**row, "class": row["class"] or "mean"} for row in rows]


def reside(setup: Setup, stores: list[Store], trainer: L.Trainer) -> None:
    """Bring tiles to where `residence` says.

    Raises:
        InputError: If they do not fit there.
    """
    for store in stores:
        store.pin = trainer.strategy.root_device.type == "cuda"
    if setup.residence is not Residence.disk:
        load(stores, trainer.strategy.root_device if setup.residence is Residence.gpu else None)


def feed(setup: Setup, windows: Windows, batches: Batches, world: int = 1) -> Loader:
    """Batches for a trainer, cut ahead by threads, or on its device where the tiles lie there."""
    return Loader(windows, batches, 0 if setup.residence is Residence.gpu else thread_count(setup.workers, world))
