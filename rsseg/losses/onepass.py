"""The statistics of a batch in one pass over its logits forward and one backward, on a CPU.

Whatever mixture of losses is made of the sums, its gradient with respect to softmax logits is
``p * (a - S) + onehot * u`` with a number ``a`` per class, ``u`` per pixel and ``S = sum_c p_c a_c + u``. So forward keeps
nothing but the logits; backward computes p from them again and writes the gradient once.

The pixels are worked through in chunks that stay in the processor's cache, each by one thread: the threads meet
once a pass, not once an operation, so a core that is busy elsewhere delays a pass but does not stall it. Chunks are
added up in their order, in float64: the same batch gives the same sums bit for bit.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rsseg.contract import TaskKind
from rsseg.losses import sigmoid_chunk, softmax_chunk
from rsseg.losses.chunk import Chunk, Scratch
from rsseg.losses.plan import Plan, counts_and_errors
from rsseg.losses.sums import Sum
from rsseg.losses.target import check_shapes
from rsseg.losses.threads import share

CHUNK = 2**15, 2**19
"""The fewest and the most logits in a chunk: more, and the buffers leave the cache; fewer, and calls cost more than sums."""

CHUNKS = 8
"""Into how many a batch is cut if the limits allow: buffers that are large beside the logits would not be worth it."""


def one_pass(
    logits: Tensor, target: Tensor, task: TaskKind | str, wanted: tuple[Sum, ...], ignore_index: int, images: bool
) -> dict[Sum, Tensor]:
    """As `statistics.reference`.

    Args:
        logits: As for `statistics.statistics`, on the CPU.
        target: As for `statistics.statistics`.
        task: As for `statistics.statistics`.
        wanted: The sums.
        ignore_index: As for `statistics.statistics`.
        images: Whether to keep the images apart.

    Raises:
        InputError: For shapes that do not fit.
    """
    check_shapes(logits, target, task)
    plan = Plan(task == TaskKind.multiclass, wanted, ignore_index, images)
    return plan.named(_Statistics.apply(logits, target, plan))


def _link(plan: Plan) -> ModuleType:
    """How logits become probabilities: what is done with a chunk."""
    return softmax_chunk if plan.softmax else sigmoid_chunk


class _Job(NamedTuple):
    """One chunk: a range of images, and of their pixels."""

    number: int
    images: slice
    pixels: slice
    group: int


class _Statistics(torch.autograd.Function):
    """``(logits, target) -> sums [K, 2, G, C]`` and, per histogram, the counts and error sums ``[2, G, C, bins]``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, plan: Plan) -> tuple[Tensor, ...]:
        batch = _Batch(logits.detach(), target, plan)
        jobs = batch.jobs()
        found: list[tuple[list[Tensor], list[Tensor]]] = [([], [])] * len(jobs)

        def work(job: _Job, scratch: Scratch) -> None:
            chunk = batch.chunk(job, scratch)
            found[job.number] = _link(plan).forward(chunk, plan.rows, plan.histograms)

        share(work, jobs)
        ctx.save_for_backward(logits, target)
        ctx.plan = plan
        groups = [job.group for job in jobs]
        tables = [_added(groups, parts) for parts in zip(*(f[0] for f in found), strict=True)]
        levels = [_added(groups, parts) for parts in zip(*(f[1] for f in found), strict=True)]
        outputs = [_link(plan).finish(tables, plan.rows).to(batch.dtype)]
        for whole in levels:
            outputs += counts_and_errors(whole.movedim(0, 1).to(batch.dtype))
        ctx.mark_non_differentiable(*outputs[1::2])
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_sums: Tensor, *of_levels: Tensor) -> tuple[Tensor, None, None]:
        logits, target = ctx.saved_tensors
        plan: Plan = ctx.plan
        batch = _Batch(logits.detach(), target, plan)
        flat = torch.empty_like(batch.flat_logits)  # flat from the start: of logits transposed it might be a copy
        rows = dict(zip(plan.rows, of_sums.unbind(), strict=True))
        histograms = dict(zip(plan.histograms, of_levels[1::2], strict=True))

        def work(job: _Job, scratch: Scratch) -> None:
            chunk = batch.chunk(job, scratch)
            tables = {key: of[:, job.group] for key, of in (rows | histograms).items()}
            out = flat[job.images, :, job.pixels].transpose(0, 1)
            direct = out.shape[1] == 1 and out.dtype == batch.dtype and out.stride(2) == 1
            result = out[:, 0] if direct else chunk.like_x()
            _link(plan).backward(chunk, tables, out=result)
            if not direct:
                out.copy_(result.view_as(out))

        share(work, batch.jobs())
        return flat.view(logits.shape), None, None


class _Batch:
    """Logits and target as chunks of ``[classes, pixels]``."""

    def __init__(self, logits: Tensor, target: Tensor, plan: Plan) -> None:
        self.plan = plan
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.images, self.classes = logits.shape[:2]
        self.flat_logits = logits.flatten(2)  # a view for contiguous and channels-last logits
        self.size = self.flat_logits.shape[2]
        self.target = target.reshape(self.images, self.size) if plan.softmax else target.reshape(self.flat_logits.shape)
        most = max(1, min(CHUNK[1], max(CHUNK[0], logits.numel() // CHUNKS)) // max(1, self.classes))
        self.together = 1 if plan.images else max(1, min(self.images, most // max(1, self.size)))
        parts = max(1, -(-self.size // most))
        self.step = max(1, -(-self.size // parts))

    def jobs(self) -> list[_Job]:
        """All chunks."""
        found: list[_Job] = []
        for image in range(0, self.images, self.together):
            for pixel in range(0, max(1, self.size), self.step):
                images = slice(image, min(image + self.together, self.images))
                pixels = slice(pixel, min(pixel + self.step, self.size))
                found.append(_Job(len(found), images, pixels, image if self.plan.images else 0))
        return found

    def chunk(self, job: _Job, scratch: Scratch) -> Chunk:
        """The chunk of a job, its ignored logits replaced by 0."""
        x = self.flat_logits[job.images, :, job.pixels].transpose(0, 1)
        if x.shape[1] == 1 and x.dtype == self.dtype and x.stride(2) == 1:
            x = x[:, 0]
        else:
            x = scratch.empty(*x.shape, dtype=self.dtype).copy_(x).flatten(1)
        target = self.target[job.images, ..., job.pixels]
        if not self.plan.softmax:
            target = target.transpose(0, 1)
        label = scratch.empty(*target.shape, dtype=self.dtype).copy_(target)
        label = label.flatten() if self.plan.softmax else label.flatten(1)
        valid = torch.ne(label, self.plan.ignore_index, out=scratch.empty(*label.shape, dtype=self.dtype))
        if valid.numel() and not valid.amin():
            x = x.masked_fill(valid == 0, 0)
            label.masked_fill_(valid == 0, -1)  # no class, whatever number the ignored pixels have
        return Chunk(x, label, valid, scratch)


def _added(groups: list[int], parts: tuple[Tensor, ...]) -> Tensor:
    """The chunks' tables added up by group, ``[G, ...]``, in their order and in float64."""
    total = torch.zeros(max(groups) + 1, *parts[0].shape, dtype=torch.float64)
    for group, part in zip(groups, parts, strict=True):
        total[group] += part
    return total
