"""The Lightning trainer of a run: precision, checkpoints, loggers."""

from __future__ import annotations

import csv
import logging
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger

from rsseg.assembly import Setup
from rsseg.config.folder import resume_word
from rsseg.contract import InputError
from rsseg.distributed import OneFolder, SyncBatchNorm, is_main
from rsseg.loggers import SideLogger
from rsseg.progress import shows_bars

log = logging.getLogger(__name__)

PATH_KEYS = ("best_model_path", "kth_best_model_path", "last_model_path")  # in a checkpoint callback's state


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a full disk leaves the last good one.

    Lightning's own goes through the system's temporary folder; moved from there to another disk, a checkpoint is
    copied over the old one, which a full disk then leaves cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save whole or not at all.

        Raises:
            InputError: If the file can't be written.
        """
        path = Path(path)
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            part.unlink(missing_ok=True)
            kept = f"the last good one is kept as {path}" if path.exists() else "there was none before"
            raise InputError(
                f"the checkpoint {path} can't be written ({str(error).splitlines()[0]}); {kept}. "
                f"Free some space and go on with {resume_word(path.parent.parent)}"
            ) from None


class MovableCheckpoint(ModelCheckpoint):
    """Remembers the best score when a run folder was moved, as from a container to its host.

    Lightning's own starts anew where the folder has another path, and the next validation replaces the best checkpoint.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state, with its paths set to the present folder."""
        here = str(self.dirpath)
        paths = {key: str(Path(here) / Path(state_dict[key]).name) for key in PATH_KEYS if state_dict.get(key)}
        scores = {str(Path(here) / Path(path).name): score for path, score in state_dict.get("best_k_models", {}).items()}
        super().load_state_dict({**state_dict, **paths, "dirpath": here, "best_k_models": scores})


class ProgressLines(L.Callback):
    """Says after each validation how far the run is: the bar's stand-in where no terminal shows it (a log, a container)."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and say which rate was found."""
        self.began, self.first = time.monotonic(), trainer.global_step
        rate = getattr(pl_module, "lr", None)
        if rate is not None:
            log.info("The learning-rate finder chose %.3g.", rate)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log step, score, and the time gone and left; and that a run has diverged."""
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        if trainer.is_global_zero and not math.isfinite(loss):
            log.warning("step %d: the loss is %s, the run has diverged: lower optimizer.lr", trainer.global_step, loss)
        if trainer.state.fn != "fit" or shows_bars() or not trainer.is_global_zero:
            return
        gone, done = time.monotonic() - self.began, trainer.global_step - self.first
        left = gone / max(done, 1) * (trainer.max_steps - trainer.global_step)
        score = float(trainer.callback_metrics[self.monitor])
        line = "step %d of %d: %s %.4f, %.0f s gone, about %.0f s left"
        log.info(line, trainer.global_step, trainer.max_steps, self.monitor, score, gone, left)


def choose_precision(precision: str | int, accelerator: str) -> Any:
    """The precision that "auto" stands for: bf16-mixed where the hardware multiplies in bf16, else 32-true."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available() and accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    has = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bf16-mixed" if any(check is not None and check() for check in has) else "32-true"


def steps_between_validations(steps: int, validations: int) -> int:
    """The interval that gives the most validations, at most as many as asked for, with the last step among them.

    Example:
        >>> steps_between_validations(240, 10), steps_between_validations(25, 10), steps_between_validations(3, 10)
        (24, 5, 1)
    """
    return next(steps // n for n in range(min(steps, validations), 0, -1) if steps % n == 0)


def earlier_rows(metrics: Path, step: int) -> list[dict[str, float]]:
    """The rows of a metrics file that were logged before a step."""
    if not metrics.is_file():
        return []
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{**row, "step": int(row["step"])} for row in rows if row["step"] < step]


def csv_logger(folder: Path, resumed_step: int) -> CSVLogger:
    """The logger of ``metrics.csv`` in the run folder, going on with what the run wrote before a step.

    Lightning's deletes a file that it finds; a copy stays until the rows are written again.
    """
    if not is_main():
        return CSVLogger(save_dir=str(folder), name="", version="")
    metrics, copy = folder / "metrics.csv", folder / "metrics.before-resume.csv"
    if metrics.is_file() and not copy.is_file():
        os.replace(metrics, copy)
    logger = CSVLogger(save_dir=str(folder), name="", version="")
    logger.experiment.metrics = earlier_rows(copy, resumed_step)
    logger.save()
    copy.unlink(missing_ok=True)
    return logger


def make_trainer(
    made: Setup, folder: Path, monitor: str, callbacks: Sequence[L.Callback] = (), resumed_step: int = 0
) -> L.Trainer:
    """The trainer of a run.

    Args:
        made: The setup.
        folder: The run folder.
        monitor: The metric whose maximum is the best checkpoint.
        callbacks: Further callbacks, rsseg's own.
        resumed_step: The step that a resumed run goes on from.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 wait for minutes when a server is away
    node = made.plain["trainer"]
    keep: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
        "save_on_train_epoch_end": False,
    }
    best = MovableCheckpoint(filename="best", monitor=monitor, mode="max", **keep)
    last = MovableCheckpoint(filename="last", **keep)  # its own: save_last=True skips validations that are not the best
    chosen = list(made.callbacks().values())
    if resumed_step:
        chosen = [callback for callback in chosen if not isinstance(callback, LearningRateFinder)]  # the rate is found
    if not any(isinstance(callback, Timer) for callback in chosen):
        chosen.append(Timer())  # its time goes on with a resumed run
    on_gpu = torch.cuda.is_available() and made.accelerator != "cpu"
    bars = {} if shows_bars() or "enable_progress_bar" in node else {"enable_progress_bar": False}  # `ProgressLines` stands in
    return made.trainer(
        precision=choose_precision(node.get("precision", "auto"), made.accelerator),
        default_root_dir=str(folder),
        max_steps=made.steps,
        max_epochs=1,  # one long epoch of all steps: the progress bar then estimates the whole run
        val_check_interval=steps_between_validations(made.steps, made.validations) * made.accumulate,  # in batches
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=[
            csv_logger(folder, resumed_step),
            *(SideLogger(name, partial(made.logger, name, folder)) for name in made.plain["logger"]),
        ],
        callbacks=[
            OneFolder(folder),
            *chosen,
            *callbacks,
            LearningRateMonitor(logging_interval="step"),
            ProgressLines(monitor),
            best,
            last,
        ],
        plugins=[WholeCheckpoints(), *([SyncBatchNorm("cuda" if on_gpu else "cpu")] if node.get("sync_batchnorm") else [])],
        use_distributed_sampler=False,
        enable_model_summary=False,
        **bars,
    )
