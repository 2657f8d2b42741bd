"""From a module and its scenes to a finished run folder."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer

from rsseg.assembly import Setup
from rsseg.config.folder import RunFolder, resume_word
from rsseg.contract import InputError
from rsseg.data.sampling import Places
from rsseg.data.store import Store
from rsseg.data.windows import Batches, TrainWindows
from rsseg.dataset import Data
from rsseg.distributed import is_main, launched
from rsseg.files import UnwritableError, write_csv, write_json
from rsseg.inference.diagnostics import draw_confusion, draw_curves
from rsseg.inference.gallery import Gallery
from rsseg.inference.picture import pick_windows, predict_windows
from rsseg.loggers import side_loggers
from rsseg.metrics import Scores
from rsseg.module import SegmentationModule
from rsseg.recording import make_recorder, validation_windows
from rsseg.scoring import feed, load_checkpoint, name_means, reside, score, score_checkpoints, score_rows
from rsseg.table import print_table
from rsseg.training import make_trainer

log = logging.getLogger(__name__)


def fit(
    made: Setup,
    folder: Path,
    module: SegmentationModule,
    data: Data,
    last: Path | None,
) -> float:
    """Train a module to the end, score its best checkpoint, and write everything into the run folder.

    Args:
        made: The setup.
        folder: The run folder, with its config.
        module: The module.
        data: The scenes of train and val.
        last: The checkpoint to go on from; None: from the beginning.

    Returns:
        The best validation IoU of the first head.

    Raises:
        InputError: If training stops before its last step for a reason that is the user's.
    """
    step = int(torch.load(last, map_location="cpu", weights_only=False)["global_step"]) if last else 0
    head = next(iter(module.tasks))
    stores, train = data.stores, data.stores["train"]
    sampler = made.sampler(train.sizes, train.census.blocks, train.read)
    windows = pick_windows(stores["val"], made.window, made.pictures) if is_main() else []
    gallery = Gallery(folder, head, windows, made.dataset.palette, made.shown_bands)
    panel = made.panel(data.numbers)
    recorder = make_recorder(made, folder, module, stores, sampler, panel) if made.record.enabled else None
    trainer = make_trainer(made, folder, f"val/{head}/iou", [gallery, *([recorder] if recorder else [])], step)
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    try:
        for logger in side_loggers(trainer):
            logger.log_hyperparams(made.plain)
        with launched(trainer, folder, made.trust):
            _train_all_steps(made, folder, module, stores, sampler, trainer, step if last else None)
        result = dict(module.scores)
        if not is_main():  # a process that another program started: the first one writes
            return result[head].iou
        if recorder:
            result = score_checkpoints(made, folder, module, stores["val"], recorder)
        elif load_checkpoint(module, folder) < trainer.global_step or not result:  # else the last validation has scored it
            result = score(made, module, validation_windows(made, stores["val"]))
        rows = score_rows(result)
        write_csv(folder / "classes.csv", rows)
        print_table(name_means(rows), f"{folder.name}: validation, best checkpoint, pooled over whole scenes")
        _draw_end(folder, module, trainer, gallery, result[head], name_means(rows))
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


def _train_all_steps(
    made: Setup,
    folder: Path,
    module: SegmentationModule,
    stores: dict[str, Store],
    sampler: Places,
    trainer: L.Trainer,
    step: int | None,
) -> None:
    """Fit, from a checkpoint's step on if there is one."""
    rank, world = trainer.global_rank, trainer.world_size
    if made.batch_size % world:
        raise InputError(
            f"batch_size={made.batch_size} can't be shared evenly among {world} devices: take a multiple of {world}"
        )
    per_step = made.batch_size * trainer.accumulate_grad_batches
    batches = Batches(made.steps * per_step, made.batch_size, (step or 0) * per_step, rank, world)
    reside(made, list(stores.values()), trainer)
    val_windows = validation_windows(made, stores["val"])
    val_batches = Batches(len(val_windows), made.batch_size, 0, rank, world)
    loaders = (
        feed(made, TrainWindows(stores["train"], made.window, sampler), batches, world),
        feed(made, val_windows, val_batches, world),
    )
    _say_start(made, stores, trainer, step)
    try:
        trainer.fit(module, *loaders, ckpt_path=None if step is None else folder / "checkpoints" / "last.ckpt")
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"batch_size={made.batch_size} of window={made.window} leaves batch normalisation one value per channel: "
            "take a larger batch or window"
        ) from None
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        log.warning("Interrupted at step %d of %d; go on with %s", trainer.global_step, made.steps, resume_word(folder))
        raise
    early = trainer.should_stop and not trainer.received_sigterm
    if trainer.global_step < made.steps:
        if not early:
            raise InputError(f"stopped at step {trainer.global_step} of {made.steps}; go on with {resume_word(folder)}")
        log.info("Stopped early, at step %d of %d.", trainer.global_step, made.steps)


def _say_start(made: Setup, stores: dict[str, Store], trainer: L.Trainer, step: int | None) -> None:
    log.info(
        "%s: %d training and %d validation scenes, %d steps of %d windows of %d px on %s in %s%s%s",
        made.dataset.name, len(stores["train"]), len(stores["val"]), made.steps, made.batch_size, made.window,
        trainer.strategy.root_device, trainer.precision, f", {trainer.world_size} processes" * (trainer.world_size > 1),
        "" if step is None else f", going on from step {step}",
    )  # fmt: skip
    times = trainer.accumulate_grad_batches
    if times > 1:
        log.warning(
            "Gradients are accumulated over %d batches: the loss is taken per batch and averaged. For losses of a whole batch "
            "(overlap losses, weighted cross-entropy) that is another loss than that of one batch of %d windows.",
            times,
            times * made.batch_size,
        )  # fmt: skip


def _draw_end(
    folder: Path, module: SegmentationModule, trainer: L.Trainer, gallery: Gallery, result: Scores, rows: list[dict[str, Any]]
) -> None:
    """Pictures and the table of the best checkpoint, in the run folder and the loggers."""
    task, step = module.tasks[gallery.head], trainer.global_step
    if gallery.windows:
        gallery.draw(trainer, folder / "picture.png", predict_windows(module.eval(), gallery.head, gallery.windows), "best")
    try:
        draw_confusion(folder / "confusion.png", task, result)
        draw_curves(folder / "curves.png", gallery.head, task, gallery.palette, RunFolder(folder).metrics())
    except UnwritableError as error:
        log.warning("%s; the run goes on without its last pictures", error)
        return
    for logger in side_loggers(trainer):
        logger.show("confusion", folder / "confusion.png", step)
        logger.show("curves", folder / "curves.png", step)
        logger.tabulate("classes", rows, step)
    log.info("Pictures: %s, confusion.png, curves.png", folder / "picture.png")
