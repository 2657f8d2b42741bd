"""From a module and its scenes to a finished run folder."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from rsseg.alignment.counts import pooled
from rsseg.alignment.recorder import Recorder
from rsseg.config.build import plain
from rsseg.config.folder import resume_word, write_json
from rsseg.config.schema import Residence
from rsseg.contract import Batch, InputError
from rsseg.data.sampling import Places
from rsseg.data.store import Store, load
from rsseg.data.windows import Batches, GridWindows, Loader, TrainWindows, Windows, thread_count
from rsseg.distributed import is_main, launched
from rsseg.inference.diagnostics import draw_confusion, draw_curves
from rsseg.inference.gallery import Gallery
from rsseg.inference.picture import pick_windows, predict_windows
from rsseg.loggers import side_loggers
from rsseg.metrics import Scores
from rsseg.module import SegmentationModule
from rsseg.recording import keep, keep_thresholds, make_recorder, make_snapshots, validation_windows
from rsseg.table import print_table
from rsseg.training import choose_precision, make_trainer

log = logging.getLogger(__name__)


def fit(
    config: Any,
    folder: Path,
    module: SegmentationModule,
    stores: dict[str, Store],
    sampler: Places,
    panel: dict[str, dict[str, Any]],
    last: Path | None,
) -> float:
    """Train a module to the end, score its best checkpoint, and write everything into the run folder.

    Args:
        config: The composed config.
        folder: The run folder, with its config.
        module: The module.
        stores: The tiles of train and val.
        sampler: Where each training window lies.
        panel: What the losses are made with that are recorded whichever trains, by name.
        last: The checkpoint to go on from; None: from the beginning.

    Returns:
        The best validation IoU of the first head.

    Raises:
        InputError: If training stops before its last step for a reason that is the user's.
    """
    step = int(torch.load(last, map_location="cpu", weights_only=False)["global_step"]) if last else 0
    head = next(iter(module.heads))
    shown = shown_bands(config)
    windows = pick_windows(stores["val"], config.window, config.pictures) if is_main() else []
    gallery = Gallery(folder, head, windows, plain(config.dataset.palette), shown)
    recorder = make_recorder(config, folder, module, stores, sampler, panel) if config.record.enabled else None
    trainer = make_trainer(plain(config), folder, f"val/{head}/iou", [gallery, *([recorder] if recorder else [])], step)
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    try:
        for logger in side_loggers(trainer):
            logger.log_hyperparams(plain(config))
        with launched(trainer, folder):
            _train_all_steps(config, folder, module, stores, sampler, trainer, step if last else None)
        result = dict(module.scores)
        if not is_main():  # a process that another program started: the first one writes
            return result[head].iou
        if recorder:
            result = score_checkpoints(config, folder, module, stores["val"], recorder)
        elif load_checkpoint(module, folder) < trainer.global_step or not result:  # else the last validation has scored it
            result = score(config, module, validation_windows(config, stores["val"]))
        rows = write_scores(folder / "classes.csv", result)
        print_table(rows, f"{folder.name}: validation, best checkpoint, pooled over whole scenes")
        _draw_end(folder, module, trainer, gallery, result[head], rows)
    finally:
        for logger in side_loggers(trainer):
            logger.close()
    write_json(
        folder / "summary.json",
        result[head].means()
        | {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": trainer.global_step,
            "seconds": round(timer.time_elapsed(), 1),
        },
    )
    for split, store in stores.items():
        if store.skipped:
            log.warning("%d scenes of the %s split were skipped: see data.json.", len(store.skipped), split)
    log.info("Run folder: %s", folder)
    return result[head].iou


def score_checkpoints(
    config: Any, folder: Path, module: SegmentationModule, store: Store, recorder: Recorder
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
            snapshots = make_snapshots(config, module, store)
            result = score(config, module, validation_windows(config, store), snapshots.count)
            taken = snapshots.take(step)
        again = snapshots.again() if name == "best" else None
        if again:
            half = GridWindows(store, config.window, config.overlap, np.flatnonzero(snapshots.first))
            score(config, module, half, again.count)
            taken = snapshots.complete(taken, again)
        keep(folder, name, taken)
    keep_thresholds(folder, module, taken, recorder.first)
    return {head: replace(scores, boundary_iou=float(pooled(taken[head].boundary))) for head, scores in result.items()}


def shown_bands(config: Any) -> list[int] | None:
    """The indices of the bands that pictures show as red, green and blue; None: the first three."""
    bands, rgb = list(config.dataset.bands), config.dataset.rgb
    if rgb and set(rgb) - set(bands):
        log.info("dataset.rgb=%s is not among dataset.bands=%s: pictures show the first bands.", list(rgb), bands)
    return [bands.index(band) for band in rgb] if rgb and set(rgb) <= set(bands) else None


def _train_all_steps(
    config: Any,
    folder: Path,
    module: SegmentationModule,
    stores: dict[str, Store],
    sampler: Places,
    trainer: L.Trainer,
    step: int | None,
) -> None:
    """Fit, from a checkpoint's step on if there is one."""
    rank, world = trainer.global_rank, trainer.world_size
    if config.batch_size % world:
        raise InputError(
            f"batch_size={config.batch_size} can't be shared evenly among {world} devices: take a multiple of {world}"
        )
    per_step = config.batch_size * trainer.accumulate_grad_batches
    batches = Batches(config.steps * per_step, config.batch_size, (step or 0) * per_step, rank, world)
    reside(config, list(stores.values()), trainer)
    val_windows = validation_windows(config, stores["val"])
    val_batches = Batches(len(val_windows), config.batch_size, 0, rank, world)
    loaders = (
        feed(config, TrainWindows(stores["train"], config.window, sampler), batches, world),
        feed(config, val_windows, val_batches, world),
    )
    _say_start(config, stores, trainer, step)
    try:
        trainer.fit(module, *loaders, ckpt_path=None if step is None else folder / "checkpoints" / "last.ckpt")
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"batch_size={config.batch_size} of window={config.window} leaves batch normalisation one value per channel: "
            "take a larger batch or window"
        ) from None
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        log.warning("Interrupted at step %d of %d; go on with %s", trainer.global_step, config.steps, resume_word(folder))
        raise
    early = trainer.should_stop and not trainer.received_sigterm
    if trainer.global_step < config.steps:
        if not early:
            raise InputError(f"stopped at step {trainer.global_step} of {config.steps}; go on with {resume_word(folder)}")
        log.info("Stopped early, at step %d of %d.", trainer.global_step, config.steps)


def _say_start(config: Any, stores: dict[str, Store], trainer: L.Trainer, step: int | None) -> None:
    log.info(
        "%s: %d training and %d validation scenes, %d steps of %d windows of %d px on %s in %s%s%s",
        config.dataset.name, len(stores["train"]), len(stores["val"]), config.steps, config.batch_size, config.window,
        trainer.strategy.root_device, trainer.precision, f", {trainer.world_size} processes" * (trainer.world_size > 1),
        "" if step is None else f", going on from step {step}",
    )  # fmt: skip
    times = trainer.accumulate_grad_batches
    if times > 1:
        log.warning(
            "Gradients are accumulated over %d batches: the loss is taken per batch and averaged. For losses of a whole batch "
            "(overlap losses, weighted cross-entropy) that is another loss than that of one batch of %d windows.",
            times,
            times * config.batch_size,
        )  # fmt: skip


def _draw_end(
    folder: Path, module: SegmentationModule, trainer: L.Trainer, gallery: Gallery, result: Scores, rows: list[dict[str, Any]]
) -> None:
    """Pictures and the table of the best checkpoint, in the run folder and the loggers."""
    head, step = module.heads[gallery.head], trainer.global_step
    if gallery.windows:
        gallery.draw(trainer, folder / "picture.png", predict_windows(module.eval(), gallery.head, gallery.windows), "best")
    try:
        draw_confusion(folder / "confusion.png", head, result)
        with (folder / "metrics.csv").open(newline="") as file:
            draw_curves(folder / "curves.png", gallery.head, head, gallery.palette, list(csv.DictReader(file)))
    except OSError as error:
        log.warning("Pictures could not be written: %s", error)
        return
    for logger in side_loggers(trainer):
        logger.show("confusion", folder / "confusion.png", step)
        logger.show("curves", folder / "curves.png", step)
        logger.tabulate("classes", rows, step)
    log.info("Pictures: %s, confusion.png, curves.png", folder / "picture.png")


def load_checkpoint(module: SegmentationModule, folder: Path, name: str = "best") -> int:
    """Give a module the weights of a run's best or last checkpoint, and return the step that it was saved at.

    Raises:
        InputError: If there is none.
    """
    path = folder / "checkpoints" / f"{name}.ckpt"
    if not path.is_file():
        raise InputError(
            f"{folder} has no checkpoints/{name}.ckpt: the run was not scored yet; go on with {resume_word(folder)}"
        )
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    module.load_state_dict(checkpoint["state_dict"])
    return int(checkpoint["global_step"])


def reside(config: Any, stores: list[Store], trainer: L.Trainer) -> None:
    """Bring tiles to where `residence` says.

    Raises:
        InputError: If they do not fit there.
    """
    for store in stores:
        store.pin = trainer.strategy.root_device.type == "cuda"
    if config.residence is not Residence.disk:
        load(stores, trainer.strategy.root_device if config.residence is Residence.gpu else None)


def feed(config: Any, windows: Windows, batches: Batches, world: int = 1) -> Loader:
    """Batches for a trainer, cut ahead by threads, or on its device where the tiles lie there."""
    return Loader(windows, batches, 0 if config.residence is Residence.gpu else thread_count(config.workers, world))


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
    config: Any,
    module: SegmentationModule,
    windows: GridWindows,
    count: Callable[[Mapping[str, Tensor], Batch], None] | None = None,
) -> dict[str, Scores]:
    """Score whole scenes in this process, and count their batches of logits by head; scores by head."""
    settings = plain(config.trainer)
    accelerator, devices = settings.get("accelerator", "auto"), settings.get("devices", 1)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices[:1] if isinstance(devices, list) else 1,
        precision=choose_precision(settings.get("precision", "auto"), accelerator),
        callbacks=[_Counting(count)] if count else [],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    reside(config, [windows.store], trainer)
    trainer.validate(module, feed(config, windows, Batches(len(windows), config.batch_size)), verbose=False)
    return dict(module.scores)


def write_scores(path: Path, result: dict[str, Scores]) -> list[dict[str, Any]]:
    """Write the per-class table of each head as CSV and return its rows."""
    rows = [{"head": head, **row} for head, scores in result.items() for row in scores.table()]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows
