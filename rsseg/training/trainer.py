"""Training: what trains a module, and what it leaves in the run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor, Timer

from rsseg.comparison.recorder import Recorder
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError, counted, log_name
from rsseg.data.groups import group_names
from rsseg.data.store import Store
from rsseg.data.windows import Batches, GridWindows, StoreWindows
from rsseg.dataset import Data
from rsseg.devices import choose_accelerator, choose_precision
from rsseg.distributed import OneFolder, SyncBatchNorm, is_main, launched
from rsseg.files import write_csv, write_json
from rsseg.loggers import MetricsFile, SideLogger, side_loggers
from rsseg.losses import Foreign
from rsseg.metrics import Scores
from rsseg.module import SegmentationModule
from rsseg.pictures.diagnostics import draw_balance, draw_confusion, draw_curves
from rsseg.pictures.gallery import Gallery
from rsseg.pictures.windows import of_head, pick_windows, predict_windows
from rsseg.progress import Lines, duration, gone_and_left, shows_bars
from rsseg.setup import Setup
from rsseg.training.checkpointing import CheckpointFiles, Checkpoints, validation_steps
from rsseg.training.divergence import DivergedError, NonFinite
from rsseg.training.recording import make_recorder
from rsseg.training.resume import NewSchedule, begins_anew
from rsseg.training.scoring import cache_scenes, feed, name_means, print_scores, score_rows
from rsseg.training.signals import Interrupts

log = logging.getLogger(__name__)

MEASURED = 3  # steps after which the time of a run is estimated
VALIDATION = 0.5  # what a batch of a validation takes, in steps, as long as none was measured: no backward pass, more losses


class ProgressLines(L.Callback):
    """Says how long the run takes, how far it is where no terminal shows a bar, and which classes are not predicted any more.

    `monitor` is the score that is shown, `marks` are the steps after which the run is validated.
    """

    def __init__(self, monitor: str, marks: Sequence[int]) -> None:
        self.monitor, self.marks = monitor, marks
        self._unpredicted: dict[str, set[str]] = {}
        self._validations: list[float] = []  # the seconds of each
        self._estimated = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and say which rate was found."""
        self._lines, self._first, self._start = Lines(), trainer.global_step, 0.0
        rate = getattr(pl_module, "lr", None)
        if rate is not None:
            log.info("The learning-rate finder chose %.3g.", rate)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say the loss now and then."""
        assert isinstance(pl_module, SegmentationModule)
        done = trainer.global_step - self._first
        if done == 1:  # the first step is slower than others
            self._start = self._lines.seconds
        if trainer.is_global_zero and done >= MEASURED and not (self._estimated and shows_bars()) and self._lines.due():
            self._say(trainer, "train/loss", float(pl_module.terms["train/loss"]))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the validation."""
        self._began = self._lines.seconds

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say the score, and which classes are not predicted any more."""
        assert isinstance(pl_module, SegmentationModule)
        if not trainer.is_global_zero:
            return
        self._validations.append(self._lines.seconds - self._began)
        if not shows_bars():
            self._say(trainer, self.monitor, float(trainer.callback_metrics[self.monitor]))
        for head, scores in pl_module.scores.items():
            if not scores.task.real:
                self._say_unpredicted(trainer.global_step, head, scores)

    def _say(self, trainer: L.Trainer, name: str, value: float) -> None:
        step, steps, gone = trainer.global_step, trainer.max_steps, self._lines.seconds
        one_step = (gone - self._start - sum(self._validations)) / max(step - self._first - bool(self._start), 1)
        batches = sum(trainer.num_val_batches)
        validation = fmean(self._validations) if self._validations else VALIDATION * one_step * batches
        times = sum(mark > step for mark in self.marks) + 1  # the best checkpoint is scored at the end
        left = one_step * (steps - step) + validation * times
        parts = f" ({duration(one_step)} a step, {duration(validation)} a validation)" if not self._estimated else ""
        log.info("step %d of %d: %s %.4f, %s%s", step, steps, name, value, gone_and_left(gone, left), parts)
        self._estimated = True

    def _say_unpredicted(self, step: int, head: str, scores: Scores) -> None:
        hits, wrong, missed, _ = scores.counts.sum(0).T.tolist()
        share = {
            name: missed[c] / max(sum(hits) + sum(missed), 1)
            for c, name in enumerate(scores.task.classes)
            if hits[c] + wrong[c] == 0 and missed[c] > 0
        }
        for name in share.keys() - self._unpredicted.get(head, set()):
            line = "step %d: no pixel is predicted as '%s', though %.2g %% of the labelled ones are"
            log.warning(line, step, name, 100 * share[name])
        self._unpredicted[head] = set(share)


def make_trainer(
    setup: Setup, run: RunFolder, callbacks: Sequence[L.Callback], kept: Checkpoints, resumed_step: int = 0
) -> L.Trainer:
    """The trainer of a run."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 wait for minutes when a server is away
    node, accelerator = setup.plain["trainer"], choose_accelerator(setup.accelerator)
    chosen = [setup.make(f"callbacks.{name}") for name in setup.plain["callbacks"]]
    if resumed_step:
        chosen = [callback for callback in chosen if not isinstance(callback, LearningRateFinder)]  # the rate is found
    if not any(isinstance(callback, Timer) for callback in chosen):
        chosen.append(Timer())  # its time goes on with a resumed run
    bars = {} if shows_bars() or "enable_progress_bar" in node else {"enable_progress_bar": False}  # `ProgressLines` stands in
    return setup.trainer(
        accelerator=accelerator,
        precision=choose_precision(node.get("precision", "auto"), accelerator),
        default_root_dir=str(run),
        max_steps=setup.steps,
        max_epochs=1,  # one long epoch of all steps: the progress bar then estimates the whole run
        val_check_interval=kept.steps[0] * setup.accumulate,  # in batches; `Checkpoints` sets the next
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=[
            MetricsFile(run.metrics_file, resumed_step, setup.tasks),
            *(SideLogger(name, partial(setup.logger, name, run.path)) for name in setup.plain["logger"]),
        ],
        callbacks=[
            OneFolder(run.path),
            *chosen,
            *callbacks,
            LearningRateMonitor(logging_interval="step"),
            ProgressLines(kept.monitor, kept.steps),
            kept,
        ],
        plugins=[CheckpointFiles(run), *([SyncBatchNorm(accelerator)] if node.get("sync_batchnorm") else [])],
        use_distributed_sampler=False,
        enable_model_summary=False,
        **bars,
    )


@dataclass(frozen=True)
class Loop:
    """A run's module, and what trains it."""

    setup: Setup
    run: RunFolder
    module: SegmentationModule
    data: Data
    step: int  # the step that it goes on from; 0: from the beginning
    trainer: L.Trainer
    windows: StoreWindows  # what it trains on
    gallery: Gallery
    guard: NonFinite  # checks whether losses and gradients are finite
    recorder: Recorder | None  # records the run; None: it is not recorded

    def ending(self) -> dict[str, Any]:
        """What summary.json says of any run that has ended."""
        timer = next(callback for callback in self.trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
        return {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": self.trainer.global_step,
            "seconds": round(timer.time_elapsed(), 1),
        } | ({"skipped_steps": self.guard.skipped} if self.guard.skipped else {})

    def close(self) -> None:
        """Close the loggers."""
        for logger in side_loggers(self.trainer):
            logger.close()


def make_loop(setup: Setup, run: RunFolder, module: SegmentationModule, data: Data, step: int, interrupts: Interrupts) -> Loop:
    """Make the loop of a module; the arguments are its attributes, and the signals that stop the run."""
    head, train, val = setup.head, data.stores["train"], data.stores["val"]
    windows = StoreWindows(train, setup.window, setup.sampler(train.sizes, train.census.blocks, train.read))
    drawn = pick_windows(val, setup.window, setup.pictures) if is_main() else []
    names = [scene.name for scene in val.scenes]
    gallery = Gallery(run.pictures, drawn, names, {name: setup.palette(name) for name in setup.tasks}, setup.shown_bands)
    recorder = make_recorder(setup, run, data, windows.sampler) if setup.record.enabled else None
    guard = NonFinite(_trained_on(setup, windows), setup.on_nonfinite == "skip")
    renewed = [NewSchedule(setup.plain["optimizer"].get("lr"))] if step and begins_anew(run, step) else []
    marks = validation_steps(setup.steps, setup.validations)
    monitor = log_name("val", head, setup.task.score, setup.tasks)
    kept = Checkpoints(run, monitor, marks, setup.checkpoint_every, interrupts, setup.task.higher_is_better, recorder)
    callbacks = [gallery, *([recorder] if recorder else []), guard, *renewed]
    trainer = make_trainer(setup, run, callbacks, kept, step)
    return Loop(setup, run, module, data, step, trainer, windows, gallery, guard, recorder)


def fit(loop: Loop, last: Path | None) -> None:
    """Train a module from a checkpoint, or from the beginning, to the end.

    Raises:
        InputError: If training stops before its last step for a reason that is the user's.
        DivergedError: If it diverges; ``summary.json`` says so.
        StoppedError: If a signal stops it.
    """
    setup, run = loop.setup, loop.run
    try:
        for logger in side_loggers(loop.trainer):
            logger.log_hyperparams(setup.plain)
        with launched(loop.trainer, run.path, setup.trust):
            _train_all_steps(loop, last)
    except DivergedError as error:
        if is_main():
            write_json(run.summary_file, {"diverged": error.facts, **loop.ending()})
        rate = setup.plain["optimizer"].get("lr")
        raise DivergedError(
            f"{error}. summary.json has the windows. Take a lower optimizer.lr (it was {rate}), or on_nonfinite=skip to leave "
            f"such steps out, for a new run or behind {run.resume_word}",
            error.facts,
        ) from None


def _trained_on(setup: Setup, windows: StoreWindows) -> Callable[[int], Mapping[str, Any]]:
    """A function that gives the numbers and the scenes of a step's windows, by the number of the step from 0."""
    per_step = setup.batch_size * setup.accumulate

    def batch(step: int) -> Mapping[str, Any]:
        numbers = list(range(step * per_step, (step + 1) * per_step))
        return {"windows": numbers, "scenes": [windows.store.scenes[windows.sampler(k)[0]].name for k in numbers]}

    return batch


def _train_all_steps(loop: Loop, last: Path | None) -> None:
    setup, trainer, stores = loop.setup, loop.trainer, loop.data.stores
    rank, world, size = trainer.global_rank, trainer.world_size, setup.batch_size
    if size % world:
        raise InputError(f"batch_size={size} can't be shared evenly among {world} devices: take a multiple of {world}")
    per_step = size * trainer.accumulate_grad_batches
    cache_scenes(setup, list(stores.values()), trainer)
    windows = GridWindows(stores["val"], setup.window, setup.overlap)
    for head, task in setup.tasks.items():
        if windows.masked or any(store.censuses[task.target].blocks.counts[:, -1].any() for store in stores.values()):
            for loss in loop.module.losses[head].modules():
                if isinstance(loss, Foreign):
                    loss.refuse_ignored()
    train = feed(setup, loop.windows, Batches(setup.steps * per_step, size, loop.step * per_step, rank, world), world)
    val = feed(setup, windows, Batches(len(windows), size, 0, rank, world), world)
    _log_start(setup, stores, trainer, loop.step if last else None)
    # Lightning converts the module after it has loaded the weights, which would cut float64 weights to float32.
    trainer.precision_plugin.convert_module(loop.module)
    trainer.fit(loop.module, train, val, ckpt_path=last)
    if trainer.global_step < setup.steps:
        log.info("Stopped early, at step %d of %d.", trainer.global_step, setup.steps)


def _log_start(setup: Setup, stores: Mapping[str, Store], trainer: L.Trainer, step: int | None) -> None:
    areas = {split: len(set(group_names(store.scenes))) for split, store in stores.items()}
    grouped = any(areas[split] < len(stores[split]) for split in areas)
    scenes = [
        counted(len(stores[split]), f"{word} scene") + f" in {counted(areas[split], 'area')}" * grouped
        for split, word in (("train", "training"), ("val", "validation"))
    ]
    log.info(
        "%s: %s, %d steps of %d windows of %d px on %s in %s%s%s",
        setup.dataset.name, " and ".join(scenes), setup.steps,
        setup.batch_size * trainer.accumulate_grad_batches, setup.window,
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


def write_scores(loop: Loop, result: Mapping[str, Scores]) -> None:
    """Write tables and pictures of the best checkpoint, of which the module has the weights; print and log them."""
    run, gallery, trainer, rows = loop.run, loop.gallery, loop.trainer, score_rows(result)
    write_csv(run.classes_file, rows)
    print_scores(result, f"{run.path.name}: validation, best checkpoint, pooled over whole scenes")
    if gallery.windows:
        windows = predict_windows(loop.module.eval(), gallery.windows, gallery.scenes)
        gallery.draw(trainer, run.path / "picture.png", windows, "best")
    drawn = {}
    try:
        for head, scores in result.items():
            confusion, curves = (of_head(run.path / f"{name}.png", head, result) for name in ("confusion", "curves"))
            if not scores.task.real:
                draw_confusion(confusion, scores)
                drawn[confusion.stem] = confusion
            draw_curves(curves, head, loop.module.tasks, gallery.palettes[head], run.metrics())
            drawn[curves.stem] = curves
        drawn["balance"] = run.path / "balance.png"
        draw_balance(drawn["balance"], run.metrics())
    except InputError as error:  # a full disk, or a metrics.csv that was removed or edited
        log.warning("%s; the run goes on without its last pictures", error)
        return
    for logger in side_loggers(trainer):
        for name, path in drawn.items():
            if path.is_file():
                logger.show(name, path, trainer.global_step)
        logger.tabulate("classes", name_means(rows, len(result) > 1), trainer.global_step)
    pictures = [*(of_head(run.path / "picture.png", head, result) for head in result), *drawn.values()]
    log.info("Pictures in %s: %s", run.path, ", ".join(path.name for path in pictures if path.is_file()))


def write_summary(loop: Loop, result: Mapping[str, Scores]) -> None:
    """Write the best checkpoint's scores into ``summary.json``, whose presence says that the run is finished.

    The scores are the first head's; of several heads all are under ``heads`` besides. What was left out is logged.
    """
    means = {head: scores.means() for head, scores in result.items()}
    heads = {"heads": means} if len(means) > 1 else {}
    write_json(loop.run.summary_file, means[loop.setup.head] | heads | loop.ending())
    for split, store in loop.data.stores.items():
        if store.skipped:
            log.warning("%d scenes of the %s split were skipped: see data.json.", len(store.skipped), split)
    skipped, steps = loop.guard.skipped, loop.trainer.global_step
    if skipped:
        log.warning("%d of %d steps were left out: losses or gradients were not finite.", skipped, steps)
    log.info("Run folder: %s", loop.run)
