"""A loss or gradient that is not finite: the run stops at that step, or leaves the step out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from rsseg.contract import InputError
from rsseg.module import SegmentationModule

CONSECUTIVE = 10  # a run ends when this many steps in a row would be left out
SHOWN = 3  # the number of left-out steps that are logged

log = logging.getLogger(__name__)

StepFacts = Callable[[int], Mapping[str, Any]]


class DivergedError(InputError):
    """A run has diverged; ``summary.json`` gets its `facts`: step, values that are not finite, and the batch's scenes."""

    by_all = True  # all processes that train together raise it at the same step

    def __init__(self, message: str, facts: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.facts = dict(facts)


class PendingStep(NamedTuple):
    """The losses and the gradient norm of one step, kept on the device until the next check."""

    number: int  # the step's number, counted from 1
    values: list[dict[str, Tensor]]  # the losses of each of its batches, by their names in the log
    norm: Tensor  # the gradient's norm


class NonFinite(L.Callback):
    """Stops a run whose losses or gradients are not finite, or with `skip` leaves the step out.

    On a CPU, every step is checked. On a GPU, values are kept and checked when values are logged and before each validation,
    which avoids a synchronisation per step; diverged weights are never scored or saved. The gradient scaler handles float16.

    With `skip`, every step is checked on any device; in a step that is left out the optimizer is not stepped, and statistics
    of batch normalisation are restored. `batch` gives the scenes and windows of a step, by its number from 0.
    """

    def __init__(self, batch: StepFacts, skip: bool = False) -> None:
        self.batch, self.skip = batch, skip
        self.skipped = self._consecutive = 0
        self._values: list[dict[str, Tensor]] = []
        self._steps: list[PendingStep] = []
        self._buffers: dict[str, Tensor] = {}
        self.at_once = skip

    def state_dict(self) -> dict[str, Any]:
        """The number of steps that were left out."""
        return {"skipped": self.skipped, "consecutive": self._consecutive}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of steps that were left out."""
        self.skipped, self._consecutive = state_dict["skipped"], state_dict["consecutive"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find out whether a GPU trains."""
        self.at_once = self.skip or pl_module.device.type == "cpu"

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the statistics of batch normalisation, which a forward pass changes."""
        if self.skip and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep a batch's losses."""
        assert isinstance(pl_module, SegmentationModule)
        self._values.append(pl_module.terms)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Compute the gradient's norm, which clipping reuses."""
        assert isinstance(pl_module, SegmentationModule)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._steps.append(PendingStep(trainer.global_step + 1, self._values, norm))
        self._values, pl_module.gradient_norm = [], norm
        if self.skip:
            self._leave_out(trainer, pl_module, optimizer)
        elif self.at_once:
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the kept steps when values are logged."""
        if self._steps and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._stop(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the kept steps before weights are scored."""
        self._stop(trainer)

    def _bad(self, trainer: L.Trainer) -> tuple[PendingStep, dict[str, float]] | None:
        """The first kept step with values that are not finite in any process, and these values; all kept steps are dropped."""
        steps, self._steps = self._steps, []
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        rows = [(step, *pair) for step in steps for batch in step.values for pair in batch.items()]
        rows += [(step, "gradient norm", step.norm) for step in steps if not scaled]
        numbers = torch.stack([value.detach().float() for _, _, value in rows]).tolist() if rows else []  # one synchronisation
        found = [(*row, number) for row, number in zip(rows, numbers, strict=True) if not math.isfinite(number)]
        if not trainer.strategy.reduce_boolean_decision(bool(found), all=False):
            return None
        first = min((step for step, *_ in found), key=lambda step: step.number, default=steps[-1])
        values = {name: number for step, name, _, number in found if step is first}
        return first, values or {"a value of another process": math.nan}

    def _stop(self, trainer: L.Trainer) -> None:
        bad = self._bad(trainer)
        if bad is not None:
            self._raise(trainer, *bad)

    def _raise(self, trainer: L.Trainer, step: PendingStep, values: Mapping[str, float]) -> None:
        facts = {"step": step.number, "values": {k: str(v) for k, v in values.items()}, **self.batch(step.number - 1)}
        again = f", the {CONSECUTIVE}th step in a row" if self.skip else ""
        raise DivergedError(f"diverged at step {step.number} of {trainer.max_steps}{again}: {said(facts)}", facts)

    def _leave_out(self, trainer: L.Trainer, module: SegmentationModule, optimizer: torch.optim.Optimizer) -> None:
        bad = self._bad(trainer)
        if bad is None:
            self._consecutive = 0
            return
        self.skipped, self._consecutive = self.skipped + 1, self._consecutive + 1
        if self._consecutive == CONSECUTIVE:
            self._raise(trainer, *bad)
        if self.skipped <= SHOWN:
            step, values = bad
            facts = {"values": values, **self.batch(step.number - 1)}
            log.warning("step %d is left out: %s%s", step.number, said(facts), " (no more are named)" * (self.skipped == SHOWN))
        optimizer.zero_grad(set_to_none=True)  # every optimizer skips parameters without a gradient
        module.gradient_norm = None
        for name, buffer in module.named_buffers():
            buffer.copy_(self._buffers[name])


def said(facts: Mapping[str, Any]) -> str:
    """A clause that names the values that are not finite, and the scenes of the batch.

    Example:
        >>> said({"values": {"train/loss": "nan", "train/loss/dice": "nan"}, "scenes": ["a", "b", "a"]})
        'train/loss/dice is nan in a batch of the scenes a, b'
    """
    values = {name: value for name, value in facts["values"].items() if not name.endswith(".weighted")}
    terms = {name: value for name, value in values.items() if name not in ("train/loss", "gradient norm")} or values
    scenes = sorted(set(facts["scenes"]))
    listed = ", ".join(scenes[:5]) + (f" and {len(scenes) - 5} more" if len(scenes) > 5 else "")
    return f"{', '.join(f'{name} is {value}' for name, value in terms.items())} in a batch of the scenes {listed}"
