"""Training: from a module and its scenes to a finished run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor, Timer

from rsseg.assembly import Setup
from rsseg.checkpoints import read_checkpoint
from rsseg.config.folder import RunFolder, resume_word
from rsseg.contract import InputError
from rsseg.data.windows import Batches, TrainWindows
from rsseg.dataset import Data
from rsseg.devices import choose_accelerator, choose_precision
from rsseg.distributed import OneFolder, SyncBatchNorm, is_main, launched
from rsseg.errors import in_one_line
from rsseg.files import write_csv, write_json
from rsseg.inference.diagnostics import draw_confusion, draw_curves
from rsseg.inference.gallery import Gallery
from rsseg.inference.picture import pick_windows, predict_windows
from rsseg.loggers import MetricsFile, SideLogger, side_loggers
from rsseg.metrics import Scores
from rsseg.metrics.scores import class_counts
from rsseg.module import SegmentationModule
from rsseg.progress import Lines, estimate, shows_bars
from rsseg.table import print_table
from rsseg.training.checkpointing import LAST, PREVIOUS, CheckpointFiles, Checkpoints, NewSchedule, validation_steps
from rsseg.training.divergence import DivergedError, NonFinite
from rsseg.training.recording import make_recorder, validation_windows
from rsseg.training.resume import begins_anew
from rsseg.training.scoring import feed, load_checkpoint, name_means, reside, score, score_checkpoints, score_rows
from rsseg.training.signals import Interrupts

log = logging.getLogger(__name__)


class ProgressLines(L.Callback):
    """Says how far the run is where no terminal shows a bar, and at validations which classes are not predicted any more.

    Args:
        monitor: The score that is said.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self._unpredicted: dict[str, set[str]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and say which rate was found."""
        self._lines, self._first = Lines(), trainer.global_step
        rate = getattr(pl_module, "lr", None)
        if rate is not None:
            log.info("The learning-rate finder chose %.3g.", rate)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say the loss now and then."""
        assert isinstance(pl_module, SegmentationModule)
        if not shows_bars() and trainer.is_global_zero and self._lines.due():
            self._say(trainer, "train/loss", float(pl_module.terms["train/loss"]))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say the score, and what is wrong with it."""
        assert isinstance(pl_module, SegmentationModule)
        if not trainer.is_global_zero:
            return
        if not shows_bars():
            self._say(trainer, self.monitor, float(trainer.callback_metrics[self.monitor]))
        for head, scores in pl_module.scores.items():
            self._say_unpredicted(trainer.global_step, head, scores, *class_counts(scores.confusion, pl_module.tasks[head]))

    def _say(self, trainer: L.Trainer, name: str, value: float) -> None:
        step, steps, first = trainer.global_step, trainer.max_steps, self._first
        so_far = estimate(step - first, steps - first, self._lines.seconds)
        log.info("step %d of %d: %s %.4f, %s", step, steps, name, value, so_far)

    def _say_unpredicted(self, step: int, head: str, scores: Scores, *counts: Any) -> None:
        hits, wrong, missed = (count.tolist() for count in counts)
        share = {
            name: missed[c] / max(sum(hits) + sum(missed), 1)
            for c, name in enumerate(scores.classes)
            if hits[c] + wrong[c] == 0 and missed[c] > 0
        }
        for name in share.keys() - self._unpredicted.get(head, set()):
            line = "step %d: no pixel is predicted as '%s', though %.2g %% of the labelled ones are"
            log.warning(line, step, name, 100 * share[name])
        self._unpredicted[head] = set(share)


def make_trainer(
    setup: Setup, folder: Path, callbacks: Sequence[L.Callback], kept: Checkpoints, resumed_step: int = 0
) -> L.Trainer:
    """The trainer of a run.

    Args:
        setup: The setup.
        folder: The run folder.
        callbacks: rsseg's own, beside those of the config.
        kept: Writes checkpoints.
        resumed_step: The step that a resumed run goes on from.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 wait for minutes when a server is away
    node, accelerator = setup.plain["trainer"], choose_accelerator(setup.accelerator)
    chosen = list(setup.callbacks().values())
    if resumed_step:
        chosen = [callback for callback in chosen if not isinstance(callback, LearningRateFinder)]  # the rate is found
    if not any(isinstance(callback, Timer) for callback in chosen):
        chosen.append(Timer())  # its time goes on with a resumed run
    bars = {} if shows_bars() or "enable_progress_bar" in node else {"enable_progress_bar": False}  # `ProgressLines` stands in
    return setup.trainer(
        accelerator=accelerator,
        precision=choose_precision(node.get("precision", "auto"), accelerator),
        default_root_dir=str(folder),
        max_steps=setup.steps,
        max_epochs=1,  # one long epoch of all steps: the progress bar then estimates the whole run
        val_check_interval=kept.steps[0] * setup.accumulate,  # in batches; `Checkpoints` sets the next
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=[
            MetricsFile(folder / "metrics.csv", resumed_step),
            *(SideLogger(name, partial(setup.logger, name, folder)) for name in setup.plain["logger"]),
        ],
        callbacks=[
            OneFolder(folder),
            *chosen,
            *callbacks,
            LearningRateMonitor(logging_interval="step"),
            ProgressLines(kept.monitor),
            kept,
        ],
        plugins=[CheckpointFiles(), *([SyncBatchNorm(accelerator)] if node.get("sync_batchnorm") else [])],
        use_distributed_sampler=False,
        enable_model_summary=False,
        **bars,
    )


def fit(
    setup: Setup,
    folder: Path,
    module: SegmentationModule,
    data: Data,
    last: Path | None,
    interrupts: Interrupts,
) -> float:
    """Train a module to the end, score its best checkpoint, and write everything into the run folder.

    Args:
        setup: The setup.
        folder: The run folder, with its config.
        module: The module.
        data: The scenes of train and val.
        last: The checkpoint to go on from; None: from the beginning.
        interrupts: Signals, which stop the run.

    Returns:
        The best validation IoU of the first head.

    Raises:
        InputError: If training stops before its last step for a reason that is the user's.
        DivergedError: If it diverges.
        StoppedError: If a signal stops it.
    """
    with in_one_line(folder, setup.batch_size, setup.window, f"then go on with {resume_word(folder)}"):
        return _fit(setup, folder, module, data, last, interrupts)


def _fit(
    setup: Setup,
    folder: Path,
    module: SegmentationModule,
    data: Data,
    last: Path | None,
    interrupts: Interrupts,
) -> float:
    step = _resumed_step(folder, last)
    head, stores, train = setup.head, data.stores, data.stores["train"]
    windows = TrainWindows(train, setup.window, setup.sampler(train.sizes, train.census.blocks, train.read))
    drawn = pick_windows(stores["val"], setup.window, setup.pictures) if is_main() else []
    gallery = Gallery(folder, head, drawn, setup.dataset.palette, setup.shown_bands)
    panel = setup.panel(data.numbers)
    recorder = make_recorder(setup, folder, module, stores, windows.sampler, panel) if setup.record.enabled else None
    guard = NonFinite(_trained_on(setup, windows), setup.on_nonfinite == "skip")
    renewed = [NewSchedule(setup.plain["optimizer"]["lr"])] if last and begins_anew(RunFolder(folder), step) else []
    marks = validation_steps(setup.steps, setup.validations)
    kept = Checkpoints(folder / "checkpoints", f"val/{head}/iou", marks, setup.checkpoint_every, interrupts)
    callbacks = [gallery, *([recorder] if recorder else []), guard, *renewed]
    trainer = make_trainer(setup, folder, callbacks, kept, step)
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    try:
        for logger in side_loggers(trainer):
            logger.log_hyperparams(setup.plain)
        with launched(trainer, folder, setup.trust):
            _train_all_steps(setup, module, windows, data, trainer, last, step)
        result = dict(module.scores)
        if not is_main():  # a process that another program started: the first one writes
            return result[head].iou
        if recorder:
            result = score_checkpoints(setup, folder, module, stores["val"], recorder)
        elif load_checkpoint(module, folder) < trainer.global_step or not result:  # else the last validation has scored it
            result = score(setup, module, validation_windows(setup, stores["val"]))
        rows = score_rows(result)
        write_csv(folder / "classes.csv", rows)
        print_table(name_means(rows), f"{folder.name}: validation, best checkpoint, pooled over whole scenes")
        _draw_end(folder, module, trainer, gallery, result[head], name_means(rows))
    except DivergedError as error:
        if is_main():
            write_json(folder / "summary.json", {"diverged": error.facts, **_ending(trainer, timer, guard)})
        rate = setup.plain["optimizer"].get("lr")
        raise DivergedError(
            f"{error}. summary.json has the windows. Take a lower optimizer.lr (it was {rate}), or on_nonfinite=skip to leave "
            f"such steps out, for a new run or behind {resume_word(folder)}",
            error.facts,
        ) from None
    finally:
        for logger in side_loggers(trainer):
            logger.close()
    write_json(folder / "summary.json", result[head].means() | _ending(trainer, timer, guard))
    for split, store in stores.items():
        if store.skipped:
            log.warning("%d scenes of the %s split were skipped: see data.json.", len(store.skipped), split)
    if guard.skipped:
        log.warning("%d of %d steps were left out: losses or gradients were not finite.", guard.skipped, trainer.global_step)
    log.info("Run folder: %s", folder)
    return result[head].iou


def _resumed_step(folder: Path, last: Path | None) -> int:
    """The step of the checkpoint that a run goes on from.

    Raises:
        InputError: If the best checkpoint so far, which is scored at the end, can't be read.
    """
    if last is None:
        return 0
    content = read_checkpoint(last)
    state = content.get("callbacks", {}).get(Checkpoints.__name__)
    if state is None:
        raise InputError(f"{last} was written by an earlier version, which alone can go on from it; or begin a new run")
    if state["_any"]:
        RunFolder(folder).load_state()
    if last.name == PREVIOUS and is_main():
        last.with_name(LAST).unlink(missing_ok=True)  # damaged, it must not take this one's place
    return int(content["global_step"])


def _ending(trainer: L.Trainer, timer: Timer, guard: NonFinite) -> dict[str, Any]:
    """What summary.json says of any run that has ended."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "steps": trainer.global_step,
        "seconds": round(timer.time_elapsed(), 1),
    } | ({"skipped_steps": guard.skipped} if guard.skipped else {})


def _trained_on(setup: Setup, windows: TrainWindows) -> Callable[[int], Mapping[str, Any]]:
    """What tells the windows of a step, by its number from 0, and their scenes."""
    per_step = setup.batch_size * setup.accumulate

    def batch(step: int) -> Mapping[str, Any]:
        numbers = list(range(step * per_step, (step + 1) * per_step))
        return {"windows": numbers, "scenes": [windows.store.scenes[windows.place(k)[0]].name for k in numbers]}

    return batch


def _train_all_steps(
    setup: Setup,
    module: SegmentationModule,
    windows: TrainWindows,
    data: Data,
    trainer: L.Trainer,
    last: Path | None,
    step: int,
) -> None:
    """Fit, from a checkpoint's step on if there is one."""
    rank, world = trainer.global_rank, trainer.world_size
    if setup.batch_size % world:
        raise InputError(
            f"batch_size={setup.batch_size} can't be shared evenly among {world} devices: take a multiple of {world}"
        )
    per_step = setup.batch_size * trainer.accumulate_grad_batches
    batches = Batches(setup.steps * per_step, setup.batch_size, step * per_step, rank, world)
    reside(setup, list(data.stores.values()), trainer)
    val_windows = validation_windows(setup, data.stores["val"])
    val_batches = Batches(len(val_windows), setup.batch_size, 0, rank, world)
    _say_start(setup, data, trainer, step if last else None)
    trainer.fit(module, feed(setup, windows, batches, world), feed(setup, val_windows, val_batches, world), ckpt_path=last)
    if trainer.global_step < setup.steps:
        log.info("Stopped early, at step %d of %d.", trainer.global_step, setup.steps)


def _say_start(setup: Setup, data: Data, trainer: L.Trainer, step: int | None) -> None:
    log.info(
        "%s: %d training and %d validation scenes, %d steps of %d windows of %d px on %s in %s%s%s",
        setup.dataset.name, len(data.stores["train"]), len(data.stores["val"]), setup.steps, setup.batch_size, setup.window,
        trainer.strategy.root_device, trainer.precision, f", {trainer.world_size} processes" * (trainer.world_size > 1),
        "" if step is None else f", going on from step {step}",
    )  # fmt: skip
    times = trainer.accumulate_grad_batches
    if times > 1:
        log.warning(
            "Gradients are accumulated over %d batches: the loss is taken per batch and averaged. For losses of a whole batch "
            "(overlap losses, weighted cross-entropy) that is another loss than that of one batch of %d windows.",
            times,
            times * setup.batch_size,
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
    except InputError as error:  # a full disk, or a metrics.csv that was removed or edited
        log.warning("%s; the run goes on without its last pictures", error)
        return
    for logger in side_loggers(trainer):
        logger.show("confusion", folder / "confusion.png", step)
        logger.show("curves", folder / "curves.png", step)
        logger.tabulate("classes", rows, step)
    log.info("Pictures: %s, confusion.png, curves.png", folder / "picture.png")
