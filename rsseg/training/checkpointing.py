"""Checkpoints of a run, and the steps at which they are written and the run is validated."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from rsseg.checkpoints import read_checkpoint, write_checkpoint
from rsseg.config.folder import RunFolder
from rsseg.files import UnwritableError, atomic_write
from rsseg.training.recorder import Recorder
from rsseg.training.signals import Interrupts

STATE = ("best_model_score", "_any", "_ended", "_validated")  # the state of `Checkpoints`

Moment = Literal["between steps", "before validation", "after validation"]
"""The moment at which a checkpoint is written, which determines its loop counters."""

log = logging.getLogger(__name__)


class CheckpointFiles(CheckpointIO):
    """Reads and writes checkpoints for Lightning. Only ``last.ckpt`` holds the full state; the file that it replaces is kept.

    Lightning's `save_weights_only` would leave out the averaged weights that callbacks put in.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint atomically; if that fails, the error names the good state that is kept."""
        path = Path(path)
        if path.parent == self.run.checkpoints and path != self.run.last:  # the rate finder's files stay whole
            checkpoint = {"state_dict": checkpoint["state_dict"], "global_step": checkpoint["global_step"]}
        try:
            write_checkpoint(path, checkpoint, self.run.previous if path == self.run.last else None)
        except UnwritableError as error:
            kept = [state for state in (self.run.last, self.run.previous) if state.exists()]
            state = f"the last good state is kept in {kept[0]}" if kept else "there was none before"
            raise UnwritableError(f"{error}; {state}") from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint without unpickling."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def validation_steps(steps: int, validations: int) -> list[int]:
    """The steps after which a run is validated: evenly spaced, including the last step.

    Example:
        >>> validation_steps(240, 4), validation_steps(25, 10), validation_steps(3, 10)
        ([60, 120, 180, 240], [2, 5, 8, 10, 12, 15, 18, 20, 22, 25], [1, 2, 3])
    """
    count = min(steps, validations)
    return [round(i * steps / count) for i in range(1, count + 1)]


class Checkpoints(Checkpoint):
    """Schedules the validations of a run, writes its checkpoints, and ends the run after a signal.

    ``best.ckpt`` holds the weights with the best score on all scenes; ``first.ckpt`` and ``second.ckpt``, of a recorded run,
    the weights with the best score on each half of the scenes; ``last.ckpt`` the newest state, written after every validation,
    every `every` steps, and when the run is stopped. An interrupted validation is repeated when the run is resumed.

    With Lightning's own loop counters a run could not be resumed exactly. `on_save_checkpoint` changes
    `epoch_loop.batch_progress` and `epoch_loop.val_loop.batch_progress` in the file, `on_load_checkpoint` changes
    `is_last_batch`, and other hooks set `trainer.val_check_batch` and `epoch_loop.max_steps`. Tested with Lightning 2.6.6.
    """

    save_top_k = 1

    def __init__(
        self,
        run: RunFolder,
        monitor: str,  # the score that chooses the best checkpoint
        steps: Sequence[int],  # the steps after which the run is validated, increasing
        every: int | None,  # the number of steps between further checkpoints; None: no further ones
        interrupts: Interrupts,
        higher_is_better: bool = True,
        recorder: Recorder | None = None,  # tells on which halves a validation is the best so far
    ) -> None:
        self.run, self.monitor, self.steps, self.every, self.interrupts = run, monitor, list(steps), every, interrupts
        self.sign, self.recorder = 1 if higher_is_better else -1, recorder
        self.best_model_path, self.best_model_score = str(run.best), -math.inf  # for loggers that keep checkpoints
        self._any = False  # whether there is a best checkpoint
        self._ended: int | None = None  # the run's number of steps, if a callback ended it early
        self._saved = self._validated = 0  # the steps of the last checkpoint and the last validation
        self._moment: Moment = "between steps"

    def state_dict(self) -> dict[str, Any]:
        """The best score, the step of the last validation, and whether a callback ended the training there."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; file paths are not part of it, since the folder may have been moved."""
        vars(self).update({name: state_dict[name] for name in STATE})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back from Lightning, and set the step of the next validation."""
        self._saved = step = trainer.global_step
        self._aim(trainer, step)
        if step and step == self._validated:  # this validation is done: Lightning must skip it
            trainer.val_check_batch = step * trainer.accumulate_grad_batches
            trainer.should_stop = trainer.should_stop or self._ended == trainer.max_steps
        self.interrupts.listen()
        self.interrupts.waits = True

    def _aim(self, trainer: L.Trainer, least: int) -> None:
        """Set the next validation to the first of `steps` that is not less than `least`; Lightning counts batches."""
        aim = next((step for step in self.steps if step >= least), self.steps[-1])
        trainer.val_check_batch = aim * trainer.accumulate_grad_batches

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two steps: save the state if that is due, and stop after a signal."""
        step = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches:
            return
        self._aim(trainer, step + 1)
        stop = self.interrupts.arrived(trainer, step)
        if step > self._saved and (stop or (self.every and step % self.every == 0)):
            self._keep_last(trainer, "between steps")
        if stop:
            self.interrupts.stop(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if a signal has come during the step."""
        trainer.fit_loop.epoch_loop.max_steps = self.steps[-1]
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.total.reset_on_restart()  # an interrupted validation has counted its first batch
        self._stop_before(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *given: Any, **_: Any) -> None:
        """Stop if a signal has come: the validation is repeated when the run is resumed."""
        batch_idx: int = given[2]
        if self.interrupts.arrived(trainer, batch_idx + 1):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):
                    callback.on_validation_epoch_end(trainer, pl_module)  # swaps the training weights back in
            self._stop_before(trainer)

    def _stop_before(self, trainer: L.Trainer) -> None:
        if self.interrupts.arrived(trainer):
            self._keep_last(trainer, "before validation")
            self.interrupts.stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the state, and also the weights if they are the best so far on all scenes or on a half."""
        self._validated = trainer.global_step
        self._ended = trainer.max_steps if trainer.should_stop else None
        quality = self.sign * float(trainer.callback_metrics[self.monitor])
        better = [self.run.checkpoints / f"{name}.ckpt" for name in (self.recorder.improved if self.recorder else [])]
        if not self._any or quality > self.best_model_score:
            self._any, self.best_model_score = True, -math.inf if math.isnan(quality) else quality
            better.insert(0, self.run.best)
        for path in better[:1]:
            trainer.save_checkpoint(path, weights_only=False)
        for path in better[1:] if trainer.is_global_zero else ():
            _link(better[0], path)
        self._keep_last(trainer, "after validation")
        for logger in trainer.loggers:
            logger.after_save_checkpoint(self)  # type: ignore[arg-type]
        if self.interrupts.arrived(trainer):
            self.interrupts.stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals stop the run at once from here on."""
        self.interrupts.waits = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let signals stop the run at once from here on."""
        self.interrupts.waits = False

    def _keep_last(self, trainer: L.Trainer, moment: Moment) -> None:
        self._moment, self._saved = moment, trainer.global_step
        trainer.save_checkpoint(self.run.last, weights_only=False)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct Lightning's loop counters in the file: a resumed run would skip a step or a validation otherwise.

        Between steps, the next batch is already counted as ready: undo that. Before a validation, or during one that will be
        repeated, count its first batch as started but not processed. After a validation, the counters are right.
        """
        loops = checkpoint["loops"]["fit_loop"]
        if self._moment == "between steps":
            for progress in loops["epoch_loop.batch_progress"].values():
                if isinstance(progress, dict):
                    progress["ready"] -= 1
        if self._moment == "before validation":
            total, current = (loops["epoch_loop.val_loop.batch_progress"][key] for key in ("total", "current"))
            done = total["completed"] - current["completed"]
            total.update(ready=done + 1, started=done + 1, processed=done, completed=done)
            current.update(ready=0, started=0, processed=0, completed=0)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a run that has reached its last step continue with more steps, or with the validation after that step."""
        step = checkpoint["global_step"]
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = step == trainer.max_steps
        if step == trainer.max_steps and checkpoint["callbacks"][self.state_key]["_validated"] < step:
            trainer.fit_loop.epoch_loop.max_steps = step + 1  # Lightning would end at once; put back when the validation starts


def _link(path: Path, other: Path) -> None:
    """Hard-link a file to another name, or copy it if the file system has no hard links."""
    with atomic_write(other) as part:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
