"""The statistics of a batch in one pass over its logits forward and one backward, on a CPU.

Whatever mixture of losses is made of the sums, its gradient with respect to softmax logits is
``p * (a - S) + onehot * u`` with a number ``a`` per class, ``u`` per pixel and ``S = sum_c p_c a_c + u``. So forward keeps
nothing but the logits; backward computes p from them again and writes the gradient once.

The pixels are worked through in chunks that stay in the processor's cache, each by one thread: the threads meet
once a pass, not once an operation, so a core that is busy elsewhere delays a pass but does not stall it. Chunks are
added up in their order, in float64: the same batch gives the same sums bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rsseg.losses import pair_chunk, sigmoid_chunk, softmax_chunk
from rsseg.losses.chunk import Chunk, Scratch
from rsseg.losses.plan import Plan, counts_and_errors
from rsseg.losses.sums import Sum
from rsseg.losses.target import check_shapes
from rsseg.losses.threads import share
from rsseg.task import TASKS

CHUNK = 2**15, 2**19
"""The fewest and the most logits in a chunk: more, and the buffers leave the cache; fewer, and calls cost more than sums."""

CHUNKS = 8
"""Into how many a batch is cut if the limits allow: buffers that are large beside the logits would not be worth it."""

ALONE = 2**20
"""Logits for every thread beyond the first: below, threads wait for each other's Python longer than they work."""


def one_pass(
    logits: Tensor, target: Tensor, task: str, wanted: tuple[Sum, ...], ignore_index: int, images: bool
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
    plan = Plan(TASKS[task].exclusive, wanted, ignore_index, images)
    return plan.named(_Statistics.apply(logits, target, plan))


def _link(plan: Plan, classes: int) -> ModuleType:
    """How logits become probabilities: what is done with a chunk."""
    if not plan.softmax:
        return sigmoid_chunk
    return pair_chunk if classes == 2 else softmax_chunk


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
        jobs, link = batch.jobs(), _link(plan, logits.shape[1])
        found: list[tuple[Tensor, list[Tensor]]] = [(logits, [])] * len(jobs)

        def work(job: _Job, scratch: Scratch) -> None:
            chunk = batch.chunk(job, scratch)
            found[job.number] = link.forward(chunk, plan.rows, plan.histograms)

        share(work, jobs, batch.threads)
        ctx.save_for_backward(logits, target)
        ctx.plan = plan
        groups = torch.tensor([job.group for job in jobs])
        table = _added(groups, [of_rows for of_rows, _ in found])
        levels = [_added(groups, parts) for parts in zip(*(of_levels for _, of_levels in found), strict=True)]
        outputs = [link.finish(table, plan.rows).to(batch.dtype)]
        for counts in levels:
            outputs += counts_and_errors(counts.movedim(0, 1).to(batch.dtype))
        ctx.mark_non_differentiable(*outputs[1::2])
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_sums: Tensor, *of_levels: Tensor) -> tuple[Tensor, None, None]:
        logits, target = ctx.saved_tensors
        plan: Plan = ctx.plan
        batch = _Batch(logits.detach(), target, plan)
        flat = torch.empty_like(batch.flat_logits)  # flat from the start: of logits transposed it might be a copy
        link = _link(plan, logits.shape[1])
        by_sum = dict(zip((*plan.rows, *plan.histograms), (*of_sums.unbind(), *of_levels[1::2]), strict=True))
        slopes = [link.slopes({key: of[:, group] for key, of in by_sum.items()}) for group in range(of_sums.shape[2])]

        def work(job: _Job, scratch: Scratch) -> None:
            chunk = batch.chunk(job, scratch)
            out = flat[job.images, :, job.pixels].transpose(0, 1)
            direct = out.shape[1] == 1 and out.dtype == batch.dtype and out.stride(2) == 1
            result = out[:, 0] if direct else chunk.like_x()
            link.backward(chunk, slopes[job.group], out=result)
            if not direct:
                out.copy_(result.view_as(out))

        share(work, batch.jobs(), batch.threads)
        return flat.view(logits.shape), None, None


class _Batch:
    """Logits and target as chunks of ``[classes, pixels]``."""

    def __init__(self, logits: Tensor, target: Tensor, plan: Plan) -> None:
        self.plan = plan
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.threads = max(1, min(torch.get_num_threads(), logits.numel() // ALONE))
        self.one = torch.ones((), dtype=self.dtype)
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
        low, high = torch.aminmax(target) if target.numel() else (0, -1)  # of integers: cheaper than to look for one of them
        if not int(low) <= self.plan.ignore_index <= int(high):
            return Chunk(x, label, self.one.expand(label.shape), True, scratch)
        valid = torch.ne(label, self.plan.ignore_index, out=scratch.empty(*label.shape, dtype=self.dtype))
        ignored = valid == 0
        label.masked_fill_(ignored, -1)  # no class, whatever number the ignored pixels have
        return Chunk(x.masked_fill(ignored, 0), label, valid, False, scratch)


def _added(groups: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The chunks' tables added up by group, ``[G, ...]``, in their order and in float64."""
    stacked = torch.stack(list(parts)).double()
    return stacked.new_zeros(int(groups[-1]) + 1, *stacked.shape[1:]).index_add_(0, groups, stacked)
