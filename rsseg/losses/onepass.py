"""The statistics of a batch in one pass over its logits forward and one backward, on a CPU.

Whatever mixture of losses is made of the sums, its gradient with respect to softmax logits is
``p * (a - S) + onehot * u`` with a number ``a`` per class, ``u`` per pixel and ``S = sum_c p_c a_c + u``. So forward keeps
two numbers per pixel, the log-sum-exp and ``log p_t``; backward recomputes p from them and writes the gradient once.

The pixels are worked through in chunks that stay in the processor's cache, each by one thread: the threads meet
once a pass, not once an operation, so a core that is busy elsewhere delays a pass but does not stall it. Chunks are
added up in their order, in float64: the same batch gives the same sums bit for bit.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rsseg.contract import TaskKind
from rsseg.losses import sigmoid_chunk, softmax_chunk
from rsseg.losses.chunk import Chunk, Workspace
from rsseg.losses.target import check_shapes

if TYPE_CHECKING:
    from rsseg.losses.statistics import Sum

CHUNK = 2**17
"""Logits per chunk: three float32 buffers of this size and what else is touched fit a core's own cache."""


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
    plan = _Plan(task == TaskKind.multiclass, wanted, ignore_index, images)
    sums, *levels = _Statistics.apply(logits, target, plan)
    found = dict(zip(plan.rows, sums.unbind(), strict=True))
    for i, key in enumerate(plan.histograms):
        found[key] = torch.stack(levels[2 * i : 2 * i + 2])
    return found


class _Plan(NamedTuple):
    """What a pass has to do.

    Attributes:
        softmax: Whether probabilities are softmax (multiclass) or sigmoid ones.
        wanted: The sums.
        ignore_index: The label of pixels that do not count.
        images: Whether to keep the images apart.
    """

    softmax: bool
    wanted: tuple[Sum, ...]
    ignore_index: int
    images: bool

    @property
    def rows(self) -> tuple[Sum, ...]:
        return tuple(key for key in self.wanted if key.name != "levels")

    @property
    def histograms(self) -> tuple[Sum, ...]:
        return tuple(key for key in self.wanted if key.name == "levels")


class _Job(NamedTuple):
    """One chunk: a range of images, and of their pixels."""

    number: int
    images: slice
    pixels: slice
    group: int


class _Statistics(torch.autograd.Function):
    """``(logits, target) -> sums [K, 2, G, C]`` and, per histogram, the counts and error sums ``[2, G, C, bins]``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        batch = _Batch(logits.detach(), target, plan)
        kept = batch.per_pixel(2 if plan.softmax and ctx.needs_input_grad[0] else 0)
        jobs = batch.jobs()
        results: list[Any] = [None] * len(jobs)

        def work(shared: Iterator[_Job]) -> None:
            space = Workspace(batch.classes, batch.width, batch.dtype)
            for job in shared:
                chunk = batch.chunk(job, space)
                if plan.softmax:
                    rows, levels, *saved = softmax_chunk.forward(chunk, plan.wanted)
                    for whole, part in zip(kept, saved, strict=False):
                        whole[job.images, job.pixels] = part.view(-1, chunk.pixels)
                else:
                    rows, levels = sigmoid_chunk.forward(chunk, plan.wanted)
                results[job.number] = (job.group, torch.stack(rows), levels)

        _share(work, jobs)
        ctx.save_for_backward(logits, target, *kept)
        ctx.plan = plan
        groups = len(logits) if plan.images else 1
        sums = torch.zeros(groups, len(plan.rows), 2, batch.classes, dtype=torch.float64)
        bins = [int(key.number) for key in plan.histograms]
        counts = [torch.zeros(groups, 2, batch.classes, b, dtype=torch.float64) for b in bins]
        for group, rows, levels in results:
            sums[group] += rows
            for whole, part in zip(counts, levels, strict=True):
                whole[group] += part
        outputs = [sums.movedim(0, 2).to(batch.dtype)]
        for whole in counts:
            count = whole.movedim(0, 1).to(batch.dtype)
            ctx.mark_non_differentiable(count)
            outputs += [count, count * torch.linspace(0, 1, count.shape[-1], dtype=batch.dtype)]
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_sums: Tensor, *of_levels: Tensor) -> tuple[Tensor, None, None]:
        logits, target, *kept = ctx.saved_tensors
        plan: _Plan = ctx.plan
        batch = _Batch(logits.detach(), target, plan)
        gradient = torch.empty_like(batch.logits)
        flat = batch.flat(gradient)
        rows = dict(zip(plan.rows, of_sums.unbind(), strict=True))
        histograms = dict(zip(plan.histograms, of_levels[1::2], strict=True))

        def work(shared: Iterator[_Job]) -> None:
            space = Workspace(batch.classes, batch.width, batch.dtype)
            for job in shared:
                chunk = batch.chunk(job, space)
                tables = {key: of[:, job.group] for key, of in (rows | histograms).items()}
                out = flat[job.images, :, job.pixels].transpose(0, 1)
                direct = out.shape[1] == 1 and out.dtype == batch.dtype and out.stride(2) == 1
                result = out[:, 0] if direct else space.out(chunk.pixels * out.shape[1])
                if plan.softmax:
                    saved = [x[job.images, job.pixels].reshape(-1) for x in kept]
                    softmax_chunk.backward(chunk, tables, *saved, out=result)
                else:
                    sigmoid_chunk.backward(chunk, tables, out=result)
                if not direct:
                    out.copy_(result.view_as(out))

        _share(work, batch.jobs())
        return gradient, None, None


class _Batch:
    """Logits and target as chunks of ``[classes, pixels]``."""

    def __init__(self, logits: Tensor, target: Tensor, plan: _Plan) -> None:
        self.logits, self.plan = logits, plan
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.images, self.classes = logits.shape[:2]
        self.flat_logits = self.flat(logits)
        self.size = self.flat_logits.shape[2]
        self.target = target.reshape(self.images, self.size) if plan.softmax else target.reshape(self.flat_logits.shape)
        most = max(1, CHUNK // self.classes)
        self.together = 1 if plan.images else max(1, min(self.images, most // max(1, self.size)))
        parts = max(1, -(-self.size // most))
        self.step = max(1, -(-self.size // parts))
        self.width = self.step * self.together

    @staticmethod
    def flat(logits: Tensor) -> Tensor:
        """``[B, C, H W]``, a view for contiguous and channels-last logits."""
        return logits.flatten(2)

    def per_pixel(self, count: int) -> list[Tensor]:
        """Room for numbers to keep per pixel."""
        return [self.logits.new_empty(self.images, self.size, dtype=self.dtype) for _ in range(count)]

    def jobs(self) -> list[_Job]:
        """All chunks."""
        found: list[_Job] = []
        for image in range(0, self.images, self.together):
            for pixel in range(0, self.size, self.step):
                images = slice(image, min(image + self.together, self.images))
                pixels = slice(pixel, min(pixel + self.step, self.size))
                found.append(_Job(len(found), images, pixels, image if self.plan.images else 0))
        return found

    def chunk(self, job: _Job, space: Workspace) -> Chunk:
        """The chunk of a job, its ignored logits replaced by 0."""
        part = self.flat_logits[job.images, :, job.pixels].transpose(0, 1)
        x = part.reshape(self.classes, -1).to(self.dtype)
        if x.stride(1) != 1:
            x = x.contiguous()
        if self.plan.softmax:
            label = self.target[job.images, job.pixels].reshape(-1).to(self.dtype)
        else:
            label = self.target[job.images, :, job.pixels].transpose(0, 1).reshape(self.classes, -1).to(self.dtype)
        valid = torch.ne(label, self.plan.ignore_index, out=torch.empty_like(label))
        whole = bool(valid.min() > 0)
        if not whole:
            x = x.masked_fill(valid == 0, 0)
            label.masked_fill_(valid == 0, -1)  # no class, whatever number the ignored pixels have
        return Chunk(x, label, valid, whole, part.shape[2], space.narrowed(x.shape[1]))


def _share(work: Callable[[Iterator[_Job]], None], jobs: list[_Job]) -> None:
    """Let the threads take jobs from one queue until it is empty."""
    threads = min(torch.get_num_threads(), len(jobs))
    queue = iter(jobs)
    inference = torch.is_inference_mode_enabled()

    def one(_: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():  # both are states of the thread
            work(queue)

    if threads <= 1:
        one(0)
    else:
        list(_pool(torch.get_num_threads(), os.getpid()).map(one, range(threads)))


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that each run PyTorch's operations alone; a forked process has none of its parent's."""
    pool = ThreadPoolExecutor(threads, "rsseg-losses", initializer=torch.set_num_threads, initargs=(1,))
    barrier = threading.Barrier(threads)
    list(pool.map(lambda _: barrier.wait(), range(threads)))  # all have started, and set the default of later threads
    torch.set_num_threads(threads)
    return pool
