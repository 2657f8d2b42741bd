"""From a module and its scenes to a finished run folder."""

from __future__ import annotations

import csv
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch

from rsseg.config.build import plain
from rsseg.config.folder import resume_word, write_json
from rsseg.contract import InputError
from rsseg.data.sampling import Places
from rsseg.data.scene import SceneReader
from rsseg.data.windows import Batches, GridWindows, TrainWindows, loader, worker_count
from rsseg.distributed import is_main, launched
from rsseg.inference.diagnostics import draw_confusion, draw_curves
from rsseg.inference.gallery import Gallery
from rsseg.inference.picture import pick_windows, predict_windows
from rsseg.loggers import side_loggers
from rsseg.metrics import Scores
from rsseg.module import SegmentationModule
from rsseg.table import print_table
from rsseg.training import choose_precision, make_trainer

log = logging.getLogger(__name__)


def fit(
    config: Any, folder: Path, module: SegmentationModule, readers: dict[str, SceneReader], sampler: Places, last: Path | None
) -> float:
    """Train a module to the end, score its best checkpoint, and write everything into the run folder.

    Args:
        config: The composed config.
        folder: The run folder, with its config.
        module: The module.
        readers: The scenes of train and val.
        sampler: Where each training window lies.
        last: The checkpoint to go on from; None: from the beginning.

    Returns:
        The best validation IoU of the first head.

    Raises:
        InputError: If training stops before its last step for a reason that is the user's.
    """
    step = int(torch.load(last, map_location="cpu", weights_only=False)["global_step"]) if last else 0
    head = next(iter(module.heads))
    shown = shown_bands(config)
    windows = pick_windows(readers["val"], config.window, config.pictures) if is_main() else []
    gallery = Gallery(folder, head, windows, plain(config.dataset.palette), shown)
    trainer = make_trainer(plain(config), folder, f"val/{head}/iou", [gallery], step)
    began = time.monotonic()
    try:
        for logger in side_loggers(trainer):
            logger.log_hyperparams(plain(config))
        with launched(trainer, folder):
            _train_all_steps(config, folder, module, readers, sampler, trainer, step if last else None)
        seconds = time.monotonic() - began
        result = dict(module.scores)
        if not is_main():  # a process that another program started: the first one writes
            return result[head].iou
        if load_best(module, folder) < trainer.global_step or not result:  # else the last validation has just scored it
            result = score(config, module, readers["val"])
        rows = write_scores(folder / "classes.csv", result)
        print_table(rows, "Validation, best checkpoint, pooled over whole scenes")
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
            "seconds": round(seconds, 1),
        },
    )
    log.info("Run folder: %s", folder)
    return result[head].iou


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
    readers: dict[str, SceneReader],
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
    train_windows = TrainWindows(readers["train"], config.window, sampler)
    val_windows = GridWindows(readers["val"], config.window, config.overlap)
    workers = worker_count(config.workers, world)
    loaders = (
        loader(train_windows, batches, workers),
        loader(val_windows, Batches(len(val_windows), config.batch_size, 0, rank, world), workers, persistent=True),
    )
    _say_start(config, readers, trainer, step)
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


def _say_start(config: Any, readers: dict[str, SceneReader], trainer: L.Trainer, step: int | None) -> None:
    log.info(
        "%s: %d training and %d validation scenes, %d steps of %d windows of %d px on %s in %s%s%s",
        config.dataset.name, len(readers["train"]), len(readers["val"]), config.steps, config.batch_size, config.window,
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


def load_best(module: SegmentationModule, folder: Path) -> int:
    """Give a module the weights of a run's best checkpoint, and return the step that it was saved at.

    Raises:
        InputError: If there is none.
    """
    path = folder / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise InputError(f"{folder} has no checkpoints/best.ckpt: the run was not scored yet; go on with {resume_word(folder)}")
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    module.load_state_dict(checkpoint["state_dict"])
    return int(checkpoint["global_step"])


def score(config: Any, module: SegmentationModule, reader: SceneReader) -> dict[str, Scores]:
    """Score whole scenes; scores by head."""
    settings = plain(config.trainer)
    accelerator, devices = settings.get("accelerator", "auto"), settings.get("devices", 1)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices[:1] if isinstance(devices, list) else 1,
        precision=choose_precision(settings.get("precision", "auto"), accelerator),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    windows = GridWindows(reader, config.window, config.overlap)
    batches = Batches(len(windows), config.batch_size)
    trainer.validate(module, loader(windows, batches, worker_count(config.workers)), verbose=False)
    return dict(module.scores)


def write_scores(path: Path, result: dict[str, Scores]) -> list[dict[str, Any]]:
    """Write the per-class table of each head as CSV and return its rows."""
    rows = [{"head": head, **row} for head, scores in result.items() for row in scores.table()]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows
