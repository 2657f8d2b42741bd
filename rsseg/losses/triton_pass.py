"""The statistics of a batch on a GPU: logits read twice, the gradient written once, by the kernels of `kernels`.

That is 6 bytes per bf16 logit, and the target twice. The gradient is the one of `onepass`. Backward takes the
log-sum-exp again from the logits that it reads anyway: to keep it would move 8 bytes per pixel more, 57 % for 2 classes,
18 % for 7 and 6 % for 21 (bf16 logits, uint8 targets), to save an addition and a comparison per logit. It is kept for the
histogram of the errors, which goes over the logits once more, class by class, to have its table in shared memory.

The same batch gives the same bits: a program adds up its pixels in float32 (float64 for float64 logits) and writes its
sums to its own place, and those are added in float64 in a fixed order; the histogram counts in whole numbers. How pixels
are shared out depends on the shape alone.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rsseg.losses.plan import Plan, counts_and_errors
from rsseg.losses.sums import Sum
from rsseg.losses.target import check_shapes
from rsseg.task import TASKS

log = logging.getLogger(__name__)

CLASSES, BINS = 2**8, 2**12
"""The most classes: a tile has all of them, and fewer than 32 pixels to a row would waste what memory delivers. And the most
levels: a table of both sides of a class has to lie in shared memory."""

TILE, PIXELS, WARPS = {"softmax": 2**13, "sigmoid": 2**11}, 2**10, 4
"""The most logits and pixels of a tile, and the warps that share it.

A thread has up to 8 pixels, 16 bytes of bf16 logits side by side, and for softmax up to 8 of their classes: with all
classes of a pixel in one thread or few, sums over classes are nearly free. More, and it runs out of registers.
"""

PROGRAMS, STEPS = 2**10, 8
"""How many programs there should be before each takes several tiles, and how many tiles it takes at most."""

SPAN = 2**15
"""The pixels of one class that a program of the histogram goes through before it adds to the table that all share."""


def fits(logits: Tensor, wanted: tuple[Sum, ...]) -> bool:
    """Whether the kernels can do this; if not, the reference has to.

    Args:
        logits: As for `statistics.statistics`, on a GPU.
        wanted: The sums: one gamma and one number of levels at most.
    """
    names = [key.name for key in wanted]
    simple = logits.numel() > 0 and logits.shape[1] <= CLASSES and len(names) == len(set(names))
    fine = any(key.name == "levels" and key.number > BINS for key in wanted)
    return simple and not fine and _runs() and torch.cuda.get_device_capability(logits.device) >= (8, 0)


@functools.cache
def _runs() -> bool:
    """Whether Triton is there, and the C compiler that it needs; says so where only the latter is missing."""
    if find_spec("triton") is None:
        return False
    found = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
    if not found:
        log.warning("the losses use plain PyTorch on the GPU: their Triton kernels need a C compiler, gcc or clang, on PATH")
    return found


def triton_pass(
    logits: Tensor, target: Tensor, task: str, wanted: tuple[Sum, ...], ignore_index: int, images: bool
) -> dict[Sum, Tensor]:
    """As `statistics.reference`.

    Args:
        logits: As for `statistics.statistics`; `fits` has to say that they do.
        target: As for `statistics.statistics`.
        task: As for `statistics.statistics`.
        wanted: The sums.
        ignore_index: As for `statistics.statistics`.
        images: Whether to keep the images apart.

    Raises:
        InputError: For shapes that do not fit.
    """
    check_shapes(logits, target, task)
    plan = Plan(TASKS[task].exclusive, wanted, ignore_index, images)
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        return plan.named(_Statistics.apply(logits, target, plan))


class _Statistics(torch.autograd.Function):
    """``(logits, target) -> sums [K, 2, G, C]`` and, for a histogram, the counts and error sums ``[2, G, C, bins]``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, plan: Plan) -> tuple[Tensor, ...]:
        batch = _Batch(logits.detach(), target, plan)
        parts = batch.x.new_zeros(batch.images, batch.grid[0], len(plan.rows), 2, batch.classes, dtype=batch.dtype)
        keep = plan.softmax and bool(plan.histograms)
        log_sum = batch.x.new_empty(batch.images if keep else 0, batch.size, dtype=batch.dtype)
        batch.kernels.forward[batch.grid](
            batch.x, batch.y, parts, log_sum, batch.size, batch.steps, *batch.x.stride(), *batch.y.stride(),
            **batch.tile, **batch.rows, FOLD=batch.fold, K=len(plan.rows), KEEP=keep, num_warps=WARPS,
        )  # fmt: skip
        ctx.save_for_backward(logits, target)
        ctx.plan = plan
        sums = parts.sum(1 if plan.images else (0, 1), dtype=torch.float64).to(batch.dtype)
        outputs = [sums.movedim(0, 2) if plan.images else sums.unsqueeze(2)]
        for key in plan.histograms:
            outputs += counts_and_errors(batch.levels(int(key.number), log_sum).to(batch.dtype))
            ctx.mark_non_differentiable(outputs[-2])
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_sums: Tensor, *of_levels: Tensor) -> tuple[Tensor, None, None]:
        logits, target = ctx.saved_tensors
        plan: Plan = ctx.plan
        batch = _Batch(logits.detach(), target, plan)
        gradient = torch.empty_like(batch.x)
        of_sums = of_sums.contiguous()
        of_errors = of_levels[1].contiguous() if of_levels else of_sums
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
            batch.kernels.backward[batch.grid](
                batch.x, batch.y, of_sums, of_errors, gradient, batch.size, batch.steps, batch.groups,
                *batch.x.stride(), *batch.y.stride(), *gradient.stride(), **batch.tile, **batch.rows,
                BINS=int(plan.histograms[0].number) if plan.histograms else 0, EPS=torch.finfo(batch.dtype).eps,
                num_warps=WARPS,
            )  # fmt: skip
        return gradient.view(logits.shape), None, None


class _Batch:
    """Logits and target as the kernels take them, and how they are shared out."""

    def __init__(self, logits: Tensor, target: Tensor, plan: Plan) -> None:
        self.plan = plan
        self.x = logits.flatten(2)  # [B, C, H W], a view for contiguous and channels-last logits
        self.y = target.reshape(len(logits), -1, self.x.shape[2])  # [B, 1 or C, H W]
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.images, self.classes, self.size = self.x.shape
        self.groups = self.images if plan.images else 1
        padded, adjacent = 2 ** (self.classes - 1).bit_length(), self.x.stride(2) == 1
        block = min(PIXELS, TILE["softmax" if plan.softmax else "sigmoid"] // padded)
        self.fold = min(block, 16 // self.x.element_size()) if adjacent else max(1, block // (32 * WARPS))
        self.grid, self.steps = self.shared(block, STEPS)
        self.tile = {"C": self.classes, "CLASSES": padded, "BLOCK": block, "ADJACENT": adjacent, "IGNORE": plan.ignore_index}

    @property
    def kernels(self) -> Any:
        """The module of the kernels; what has no Triton never comes here."""
        from rsseg.losses.kernels import sigmoid, softmax

        return softmax if self.plan.softmax else sigmoid

    def shared(self, block: int, most: int) -> tuple[tuple[int, int], int]:
        """``(programs per image, images)``, and the tiles of `block` pixels that each program takes, at most so many."""
        tiles = -(-self.size // block)
        steps = min(most, max(1, tiles * self.images // PROGRAMS))
        return (-(-tiles // steps), self.images), steps

    @property
    def rows(self) -> dict[str, Any]:
        """The rows of the sums, and focal's gamma."""
        place = {key.name: i for i, key in enumerate(self.plan.rows)}
        gamma = next((key.number for key in self.plan.rows if key.name == "focal"), 0.0)
        return {name.upper(): place.get(name, -1) for name in ("soft", "nll", "spread", "focal")} | {"GAMMA": gamma}

    def levels(self, bins: int, log_sum: Tensor) -> Tensor:
        """The counts ``[2, G, C, bins]`` of a histogram, int32."""
        import triton.language as tl

        from rsseg.losses.kernels.histogram import levels

        counts = self.x.new_zeros(2, self.groups, self.classes, bins, dtype=torch.int32)
        (parts, images), steps = self.shared(PIXELS, SPAN // PIXELS)
        levels[(self.classes, parts, images)](
            self.x, self.y, log_sum, counts, self.size, steps, self.groups, *self.x.stride(),
            self.y.stride(0), 0 if self.plan.softmax else self.y.stride(1), self.y.stride(2),
            C=self.classes, BLOCK=PIXELS, SLOTS=2 ** (2 * bins - 1).bit_length(), BINS=bins,
            IGNORE=self.plan.ignore_index, SOFTMAX=self.plan.softmax,
            dtype=tl.float64 if self.dtype == torch.float64 else tl.float32, num_warps=WARPS,
        )  # fmt: skip
        return counts
