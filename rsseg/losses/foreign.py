"""Adapter for losses that were not written for rsseg: those of torch, of other libraries, and the user's own."""

from __future__ import annotations

import inspect
import math
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsseg.contract import IGNORE, InputError, first_line, known
from rsseg.losses.checks import check_weight, check_weight_values
from rsseg.losses.pieces import pixel_share, wide
from rsseg.losses.terms.base import VALUE_CHECKS, Term
from rsseg.task import Task

SMP, MONAI = "segmentation_models_pytorch", "monai"


def given_to_loss(node: Mapping[str, Any], task: str = "", soft: bool = False) -> dict[str, Any]:
    """Arguments for the constructor of a loss, if its signature has them; no `ignore_index` for soft targets with NaN."""
    given = {"task": task} if soft else {"task": task, "ignore_index": IGNORE}
    return given | {"mode": task} if str(node.get("_target_")).startswith(f"{SMP}.") else given


def adapted(loss: nn.Module, where: str, task: Task, pixels: Any = False) -> nn.Module:
    """The loss as a term of a `Composite`: unchanged if it is a `Term`, which takes no `pixels`, else wrapped in `Foreign`."""
    if not isinstance(pixels, bool):
        raise InputError(f"{where}.pixels has to be true or false; found {pixels!r}")
    if isinstance(loss, Term):
        if pixels:
            raise InputError(f"{where}.pixels: {type(loss).__name__} leaves out ignored pixels itself: remove it")
        return loss
    return Foreign(loss, where, task, pixels)


class Foreign(nn.Module):
    """Calls a loss that is no `Term`, outside autocast, with the arguments of docs/losses.md.

    With `pixels`, the loss gets only the pixels that are known in all planes, as one column. Else, if its constructor takes
    `ignore_index`, ignored pixels are `IGNORE` in the labels, and a batch of ignored pixels gives 0; if not, a batch with
    ignored pixels is refused. `where` is the loss's place in the config; its errors become an `InputError` of one line.

    Example:
        >>> from rsseg.task import Binary
        >>> loss = Foreign(nn.BCEWithLogitsLoss(), "loss.terms.bce", Binary(("roof",)), pixels=True)
        >>> loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 255]]]))
        tensor(0.6931)
    """

    def __init__(self, loss: nn.Module, where: str, task: Task, pixels: bool = False) -> None:
        super().__init__()
        self.loss, self.where, self.task, self.pixels = loss, where, task, pixels
        self.name = type(loss).__name__
        self.ignores = "ignore_index" in inspect.signature(type(loss)).parameters and task.dtype.kind != "f"
        self.weighted = "weight" in inspect.signature(loss.forward).parameters
        self.plane = type(loss).__module__.startswith(f"{MONAI}.")
        self._unchecked_calls = VALUE_CHECKS

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss; the arguments are those of `Term.forward`."""
        self._check(logits, target, weight)
        logits = logits.to(wide(logits)).contiguous()
        planes = target if target.ndim == 4 else target.unsqueeze(1)
        there = pixel_share(known(planes), weight, logits.dtype) > 0
        if weight is not None:
            weight = torch.where(there.any(dim=1), weight, 0)
        target = self._form(logits, target, there.view_as(target))
        if self.pixels:
            whole = there.all(dim=1)
            weight = None if weight is None else _column(weight, whole)
            logits, target = _column(logits, whole), _column(target, whole)
            return self._call(logits, target, weight) if logits.numel() else logits.sum()
        if not self.ignores:
            if not bool(there.all()):
                raise self._advice()
            return self._call(logits, target, weight)
        some = there.any()  # libraries divide by the number of pixels, which gives NaN for 0
        value = self._call(torch.where(some, logits, 0), torch.where(some, target, 0), weight)
        return torch.where(some, value, 0)

    def refuse_ignored(self) -> None:
        """Refuse the loss before the first step, for data with ignored pixels, if it can't leave them out."""
        if not (self.pixels or self.ignores):
            raise self._advice()

    def try_out(self, weighted: bool = False) -> None:
        """Compute value and gradient for a small batch with ignored pixels, or weights, and refuse a loss that fails."""
        size, planes = (2, self.task.channels, 32, 32), (2, *self.task.planes, 32, 32)
        logits = torch.linspace(-3, 3, math.prod(size)).view(size).requires_grad_()
        real = self.task.dtype.kind == "f"
        target = torch.full(planes, 1 / self.task.channels) if real else torch.ones(planes, dtype=torch.uint8)
        leaves_out = self.pixels or self.ignores
        if leaves_out:
            target[..., :3, :] = self.task.unknown
        value = self(logits, target, torch.ones(2, 32, 32) if weighted else None)
        try:
            (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
        except Exception as error:
            raise self._failure(error, "in its gradient") from error
        if gradient is None:
            raise self._no_gradient()
        if leaves_out and gradient[..., :3, :].any():
            raise self._advice(f"{self.name} takes ignore_index, but ignored pixels have a gradient")

    def _advice(self, found: str = "") -> InputError:
        found = found or (
            f"there are ignored pixels (not labelled, or at the cut edges of validation windows), which {self.name} would count"
        )
        return InputError(
            f"{self.where}: {found}: {self.where}.pixels=true passes only the other pixels to it (docs/losses.md)"
        )

    def _check(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
        self.task.check_shapes(logits, target)
        check_weight(logits, weight)
        if weight is not None and not self.weighted:
            raise InputError(
                f"{self.where}: pixels have weights, but {self.name}.forward has no parameter weight: give it one, or leave "
                "the weights out"
            )
        if self._unchecked_calls:
            self._unchecked_calls -= 1
            self.task.check_values(logits, target)
            check_weight_values(weight)

    def _form(self, logits: Tensor, target: Tensor, there: Tensor) -> Tensor:
        """The target in the shape and dtype that libraries expect."""
        if target.is_floating_point():
            return torch.where(there, target.to(logits.dtype), torch.nan).reshape(logits.shape)
        labels = torch.where(there, target.long(), IGNORE)
        if not self.task.exclusive:
            return labels.to(logits.dtype).reshape(logits.shape)
        return labels.unsqueeze(1) if self.plane else labels

    def _call(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """The value of the loss, or one line about its fault."""
        options = {} if weight is None else {"weight": weight}
        try:
            with torch.autocast(logits.device.type, enabled=False):
                value = self.loss(logits, target, **options)
        except InputError:
            raise
        except Exception as error:  # any error of foreign code
            raise self._failure(error, f"with logits {_shown(logits)}, target {_shown(target)}") from error
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            found = _shown(value) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{self.where}: {self.name} returned {found}; a loss returns one number, such as a mean")
        if logits.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise self._no_gradient()
        return value.to(logits)

    def _failure(self, error: Exception, when: str) -> InputError:
        """One line about an error, with its line in the loss's own file."""
        file = getattr(sys.modules.get(type(self.loss).__module__), "__file__", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f", {Path(str(file)).name} line {lines[-1]}" if lines else ""
        said = first_line(error)
        return InputError(f"{self.where}: {self.name} failed {when}{place}: {type(error).__name__}: {said}")

    def _no_gradient(self) -> InputError:
        return InputError(
            f"{self.where}: the value of {self.name} has no gradient, so nothing would be learnt: compute it from the logits "
            "with torch alone, without argmax, thresholds, detach() or item()"
        )


def _column(values: Tensor, whole: Tensor) -> Tensor:
    """The pixels of ``[B, C, H, W]`` where `whole` is true as ``[1, C, N, 1]``; those of ``[B, H, W]`` as ``[1, N, 1]``."""
    if values.ndim == 3:
        return values[whole].view(1, -1, 1)
    return values.movedim(1, -1)[whole].T.contiguous()[None, :, :, None]


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
