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
"""When a checkpoint is written, as its loop counters have to say."""

log = logging.getLogger(__name__)


class CheckpointFiles(CheckpointIO):
    """Reads and writes checkpoints for Lightning. Only ``last.ckpt`` holds the full state; the one before it is kept.

    Lightning's `save_weights_only` would leave out the averaged weights that callbacks put in.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write one whole or not at all; where it can't be written, say which good state is kept."""
        path = Path(path)
        if path.parent == self.run.checkpoints and path != self.run.last:  # others keep a state too: the rate finder
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
        """Read one, never by unpickling."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove one."""
        Path(path).unlink(missing_ok=True)


def validation_steps(steps: int, validations: int) -> list[int]:
    """After which steps a run is validated: evenly spread, the last one among them.

    Example:
        >>> validation_steps(240, 4), validation_steps(25, 10), validation_steps(3, 10)
        ([60, 120, 180, 240], [2, 5, 8, 10, 12, 15, 18, 20, 22, 25], [1, 2, 3])
    """
    count = min(steps, validations)
    return [round(i * steps / count) for i in range(1, count + 1)]


class Checkpoints(Checkpoint):
    """Says when the run is validated, writes its checkpoints, and ends the run when a signal has come.

    ``best.ckpt`` holds the weights with the best score on all scenes; ``first.ckpt`` and ``second.ckpt``, of a recorded run,
    those with the best score on that half of the scenes; ``last.ckpt`` the newest state, written after every validation,
    every `every` steps, and when the run is stopped. A validation that is stopped is done again when the run goes on.

    Lightning's own loop counters would not let a run go on exactly. `on_save_checkpoint` changes `epoch_loop.batch_progress`,
    and `epoch_loop.val_loop.batch_progress` in the file; `on_load_checkpoint` changes `is_last_batch`, and other hooks set
    `trainer.val_check_batch` and `epoch_loop.max_steps`. Tested with Lightning 2.6.6, by tests/test_stopping.py.
    """

    save_top_k = 1

    def __init__(
        self,
        run: RunFolder,
        monitor: str,  # the score that chooses the best checkpoint
        steps: Sequence[int],  # after which steps the run is validated, rising
        every: int | None,  # steps between further checkpoints; None: none
        interrupts: Interrupts,
        higher_is_better: bool = True,
        recorder: Recorder | None = None,  # knows on which halves a validation is the best so far: weights are kept for each
    ) -> None:
        self.run, self.monitor, self.steps, self.every, self.interrupts = run, monitor, list(steps), every, interrupts
        self.sign, self.recorder = 1 if higher_is_better else -1, recorder
        self.best_model_path, self.best_model_score = str(run.best), -math.inf  # for loggers that keep checkpoints
        self._any = False  # whether there is a best one
        self._ended: int | None = None  # the number of steps of the run, where a callback has ended it before
        self._saved = self._validated = 0  # the last steps that it was saved and validated at
        self._moment: Moment = "between steps"

    def state_dict(self) -> dict[str, Any]:
        """The best score, the last validation, and whether the training was ended by it."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it; the folder may have been moved."""
        vars(self).update({name: state_dict[name] for name in STATE})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back from Lightning, and set the step of the next validation."""
        self._saved = step = trainer.global_step
        self._aim(trainer, step)
        if step and step == self._validated:  # Lightning passes over a validation that is done
            trainer.val_check_batch = step * trainer.accumulate_grad_batches
            trainer.should_stop = trainer.should_stop or self._ended == trainer.max_steps
        self.interrupts.listen()
        self.interrupts.waits = True

    def _aim(self, trainer: L.Trainer, least: int) -> None:
        """Set the next validation to the first of `steps` that is not less than `least`; Lightning counts batches."""
        aim = next((step for step in self.steps if step >= least), self.steps[-1])
        trainer.val_check_batch = aim * trainer.accumulate_grad_batches

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two steps: keep the state if it is due, and stop if a signal says so."""
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
        progress.total.reset_on_restart()  # an interrupted one counts its first batch twice
        self._stop_before(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *given: Any, **_: Any) -> None:
        """Stop if a signal has come: the validation is done again when the run goes on."""
        batch_idx: int = given[2]
        if self.interrupts.arrived(trainer, batch_idx + 1):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):
                    callback.on_validation_epoch_end(trainer, pl_module)  # puts the weights that are trained back
            self._stop_before(trainer)

    def _stop_before(self, trainer: L.Trainer) -> None:
        if self.interrupts.arrived(trainer):
            self._keep_last(trainer, "before validation")
            self.interrupts.stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the state, and the weights if they are the best, on all scenes or on a half of them."""
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
        """Correct the loop counters that Lightning saves: it would skip a step, or a validation, when the run goes on.

        Between steps the next batch is counted as ready already: take it back. Before a validation that is to be done, or done
        again: its first batch was started and not processed. After a validation they are right.
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
        """Let a run that has come to its last step go on to more steps, or to the validation after that step."""
        step = checkpoint["global_step"]
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = step == trainer.max_steps
        if step == trainer.max_steps and checkpoint["callbacks"][self.state_key]["_validated"] < step:
            trainer.fit_loop.epoch_loop.max_steps = step + 1  # Lightning would end at once; put back when the validation starts


def _link(path: Path, other: Path) -> None:
    """Give a file another name, or where the disk has no such links, copy it."""
    with atomic_write(other) as part:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
