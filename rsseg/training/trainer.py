"""Training of a module, with its trainer and the files in the run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor, ProgressBar, RichProgressBar, Timer

from rsseg.comparison.examples import write_examples
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError, counted, log_name
from rsseg.data.groups import group_names
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
from rsseg.progress import Lines, duration, shows_bars
from rsseg.setup import Setup
from rsseg.training.checkpointing import CheckpointFiles, Checkpoints, validation_steps
from rsseg.training.divergence import DivergedError, NonFinite
from rsseg.training.recorder import make_recorder
from rsseg.training.resume import NewSchedule, begins_anew
from rsseg.training.scoring import cache_scenes, feed, name_means, print_scores, score_rows
from rsseg.training.signals import Interrupts

log = logging.getLogger(__name__)

MEASURED = 3  # the number of steps after which the time of a run is estimated
VALIDATION = 0.5  # steps per validation batch, until measured: no backward pass, but more losses


class ProgressLines(L.Callback):
    """Logs the estimated time of a run, its progress without a terminal, and classes that are no longer predicted.

    `monitor` is the score to show, `marks` are the steps after which the run is validated.
    """

    def __init__(self, monitor: str, marks: Sequence[int]) -> None:
        self.monitor, self.marks = monitor, marks
        self._unpredicted: dict[str, set[str]] = {}
        self._validations: list[float] = []  # the seconds of each validation
        self._estimated = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and log the learning rate that was found."""
        self._lines, self._first, self._start = Lines(), trainer.global_step, 0.0
        rate = getattr(pl_module, "lr", None)
        if rate is not None:
            log.info("The learning-rate finder chose %.3g.", rate)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the loss from time to time."""
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
        """Log the score, and the classes that are no longer predicted."""
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
        rest = f"{duration(gone)} gone, about {duration(left)} left{parts}"
        log.info("step %d of %d: %s %.4f, %s", step, steps, name, value, rest)
        self._estimated = True

    def _say_unpredicted(self, step: int, head: str, scores: Scores) -> None:
        hits, wrong, missed, rest = scores.counts.sum(0).T.tolist()
        share = {
            name: missed[c] / (missed[c] + rest[c])
            for c, name in enumerate(scores.task.classes)
            if hits[c] + wrong[c] == 0 and missed[c] > 0
        }
        for name in share.keys() - self._unpredicted.get(head, set()):
            line = "step %d: no pixel is predicted as '%s', though %.3g %% of the labelled ones are"
            log.warning(line, step, name, 100 * share[name])
        self._unpredicted[head] = set(share)


class StepBar(RichProgressBar):
    """Lightning's progress bar, which counts optimiser steps instead of batches."""

    @property
    def total_train_batches(self) -> int | float:
        """The steps of the run."""
        return self.trainer.max_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the steps that are done."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)


def make_trainer(
    setup: Setup, run: RunFolder, callbacks: Sequence[L.Callback], kept: Checkpoints, resumed_step: int = 0
) -> L.Trainer:
    """The trainer of a run."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default of 7 waits for minutes if a server is down
    node, accelerator = setup.plain["trainer"], choose_accelerator(setup.accelerator)
    chosen = [setup.make(f"callbacks.{name}") for name in setup.plain["callbacks"]]
    if resumed_step:
        chosen = [callback for callback in chosen if not isinstance(callback, LearningRateFinder)]  # the rate is found
    if not any(isinstance(callback, Timer) for callback in chosen):
        chosen.append(Timer())  # measures time over resumed runs
    bar = shows_bars() and node.get("enable_progress_bar", True)  # without a terminal, `ProgressLines` logs instead
    if bar and not any(isinstance(callback, ProgressBar) for callback in chosen):
        chosen.append(StepBar())
    return setup.trainer(
        accelerator=accelerator,
        precision=choose_precision(node.get("precision", "auto"), accelerator),
        default_root_dir=str(run),
        max_steps=setup.steps,
        max_epochs=1,  # all steps are one epoch, so that the progress bar covers the whole run
        val_check_interval=kept.steps[0] * setup.accumulate,  # in batches; `Checkpoints` sets the next
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=[
            MetricsFile(run.metrics_file, resumed_step),
            *(SideLogger(name, partial(setup.logger, name, run.path)) for name in setup.plain["logger"]),
        ],
        callbacks=[
            *chosen,
            *callbacks,
            LearningRateMonitor(logging_interval="step"),
            ProgressLines(kept.monitor, kept.steps),
            kept,
            OneFolder(run.path),
        ],
        plugins=[CheckpointFiles(run), *([SyncBatchNorm(accelerator)] if node.get("sync_batchnorm") else [])],
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=bar,
    )


class Loop:
    """The training of a run's module, and the files that it writes into the run folder.

    Training begins after `step` steps (0 for a new run), and ends after the last one or when one of the `interrupts` stops it.
    """

    def __init__(
        self, setup: Setup, run: RunFolder, module: SegmentationModule, data: Data, step: int, interrupts: Interrupts
    ) -> None:
        self.setup, self.run, self.module, self.data, self.step = setup, run, module, data, step
        train, val = data.stores["train"], data.stores["val"]
        self.windows = StoreWindows(train, setup.window, setup.sampler(train.sizes, train.census.blocks, train.read))
        drawn = pick_windows(val, setup.window, setup.pictures) if is_main() else []
        names = [scene.name for scene in val.scenes]
        palettes = {name: setup.palette(name) for name in setup.tasks}
        self.gallery = Gallery(run.pictures, drawn, names, palettes, setup.shown_bands)
        self.recorder = make_recorder(setup, run, data, self.windows.sampler) if setup.record.enabled else None
        self.guard = NonFinite(self._trained_on, setup.on_nonfinite == "skip")
        renewed = [NewSchedule(setup.plain["optimizer"].get("lr"))] if step and begins_anew(run, step) else []
        marks = validation_steps(setup.steps, setup.validations)
        monitor = log_name("val", setup.head, setup.task.score, setup.tasks)
        better = setup.task.higher_is_better
        kept = Checkpoints(run, monitor, marks, setup.checkpoint_every, interrupts, better, self.recorder)
        callbacks = [self.gallery, *([self.recorder] if self.recorder else []), self.guard, *renewed]
        self.trainer = make_trainer(setup, run, callbacks, kept, step)

    def fit(self, last: Path | None) -> None:
        """Train the module from a checkpoint, or from the beginning, to the end.

        Raises:
            InputError: If training stops before its last step because of a user's mistake.
            DivergedError: If training diverges; the facts are then in ``summary.json``.
            StoppedError: If a signal stops it.
        """
        try:
            for logger in side_loggers(self.trainer):
                logger.log_hyperparams(self.setup.plain)
            with launched(self.trainer, self.run.path, self.setup.trust):
                self._train_all_steps(last)
        except DivergedError as error:
            if is_main():
                write_json(self.run.summary_file, {"diverged": error.facts, **self._ending()})
            rate = self.setup.plain["optimizer"].get("lr")
            raise DivergedError(
                f"{error}. summary.json has the windows. Take a lower optimizer.lr (it was {rate}), or on_nonfinite=skip to "
                f"leave such steps out, for a new run or behind {self.run.resume_command}",
                error.facts,
            ) from None

    def _trained_on(self, step: int) -> Mapping[str, Any]:
        """The numbers and the scenes of the windows of a step, which is counted from 0."""
        per_step = self.setup.batch_size * self.setup.accumulate
        numbers = list(range(step * per_step, (step + 1) * per_step))
        scenes = self.windows.store.scenes
        return {"windows": numbers, "scenes": [scenes[self.windows.sampler(k)[0]].name for k in numbers]}

    def _train_all_steps(self, last: Path | None) -> None:
        setup, trainer, stores = self.setup, self.trainer, self.data.stores
        rank, world, size = trainer.global_rank, trainer.world_size, setup.batch_size
        per_step = size * setup.accumulate
        cache_scenes(setup, list(stores.values()), trainer)
        windows = GridWindows(stores["val"], setup.window, setup.margin)
        for head, task in setup.tasks.items():
            if windows.masked or any(store.censuses[task.target].blocks.counts[:, -1].any() for store in stores.values()):
                for loss in self.module.losses[head].modules():
                    if isinstance(loss, Foreign):
                        loss.refuse_ignored()
        train = feed(setup, self.windows, Batches(setup.steps * per_step, size, self.step * per_step, rank, world), world)
        val = feed(setup, windows, Batches(len(windows), size, 0, rank, world), world)
        self._log_start()
        # Convert the module now: Lightning would do it after loading weights, and so truncate float64 weights to float32.
        trainer.precision_plugin.convert_module(self.module)
        trainer.fit(self.module, train, val, ckpt_path=last)
        if trainer.global_step < setup.steps:
            log.info("Stopped early, at step %d of %d.", trainer.global_step, setup.steps)

    def _log_start(self) -> None:
        setup, trainer = self.setup, self.trainer
        scenes = []
        for split, word in (("train", "training"), ("val", "validation")):
            store = self.data.stores[split]
            groups = len(set(group_names(store.scenes)))
            within = f" in {counted(groups, 'group')}" if groups < len(store) else ""
            scenes.append(counted(len(store), f"{word} {store.unit}") + within)
        log.info(
            "%s: %s, %s of %d windows of %d px on %s, precision %s%s%s",
            setup.dataset.name, " and ".join(scenes), counted(setup.steps, "step"),
            setup.batch_size * setup.accumulate, setup.window, trainer.strategy.root_device, trainer.precision,
            f", {trainer.world_size} processes" * (trainer.world_size > 1),
            f", going on from step {self.step}" if self.step else "",
        )  # fmt: skip
        if setup.accumulate > 1:
            log.warning(
                "Gradients are accumulated over %d batches: the loss is taken per batch and averaged. For losses of a whole "
                "batch (overlap losses, weighted cross-entropy) that is another loss than that of one batch of %d windows.",
                setup.accumulate,
                setup.accumulate * setup.batch_size,
            )

    def write_scores(self, result: Mapping[str, Scores]) -> None:
        """Write, print and log tables and pictures of the best checkpoint, whose weights the module holds."""
        run, gallery, step, rows = self.run, self.gallery, self.trainer.global_step, score_rows(result)
        write_csv(run.classes_file, rows)
        print_scores(result, f"{run.path.name}: validation, best checkpoint, pooled over whole scenes")
        if gallery.windows:
            windows = predict_windows(self.module.eval(), gallery.windows, gallery.scenes)
            gallery.draw(self.trainer, run.path / "picture.png", windows, "best")
        drawn, logged = [], cast(MetricsFile, self.trainer.logger)
        try:
            if gallery.windows and self.recorder:
                write_examples(run.records, windows, gallery.palettes, gallery.shown)
            for head, scores in result.items():
                confusion, curves = (of_head(run.path / f"{name}.png", head, result) for name in ("confusion", "curves"))
                if not scores.task.real:
                    draw_confusion(confusion, scores)
                    drawn.append(confusion)
                draw_curves(curves, head, self.module.tasks, gallery.palettes[head], logged.numbers)
                drawn.append(curves)
            draw_balance(run.path / "balance.png", logged.numbers)
        except InputError as error:  # a full disk, or a metrics.csv that was edited before the run went on
            log.warning("%s; the run goes on without its last pictures", error)
            return
        drawn = [path for path in (*drawn, run.path / "balance.png") if path.is_file()]
        for logger in side_loggers(self.trainer):
            for path in drawn:
                logger.show(path.stem, path, step)
            logger.tabulate("classes", name_means(rows, len(result) > 1), step)
        pictures = [path for path in (of_head(run.path / "picture.png", head, result) for head in result) if path.is_file()]
        log.info("Pictures in %s: %s", run.path, ", ".join(path.name for path in (*pictures, *drawn)))

    def write_summary(self, result: Mapping[str, Scores]) -> None:
        """Write the best checkpoint's scores into ``summary.json``, whose presence says that the run is finished.

        The scores are the first head's; with several heads, ``heads`` holds the scores of all. Skipped steps are logged.
        """
        means = {head: scores.means() for head, scores in result.items()}
        heads = {"heads": means} if len(means) > 1 else {}
        write_json(self.run.summary_file, means[self.setup.head] | heads | self._ending())
        for split, store in self.data.stores.items():
            if store.skipped:
                log.warning("%d scenes of the %s split were skipped: see data.json.", len(store.skipped), split)
        if self.guard.skipped:
            line = "%d of %d steps were left out: losses or gradients were not finite."
            log.warning(line, self.guard.skipped, self.trainer.global_step)
        log.info("Run folder: %s", self.run)

    def _ending(self) -> dict[str, Any]:
        """The part of ``summary.json`` that finished and diverged runs have in common."""
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
