"""Sums over the global batch, so that several ranks compute the same loss and normalisation as one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

_apart: list[bool] = []  # one entry per `alone` that is open


def world_size() -> int:
    """The number of processes that train together; 1 for a single process."""
    return dist.get_world_size() if not _apart and dist.is_available() and dist.is_initialized() else 1


@contextmanager
def alone() -> Iterator[None]:
    """A context in which sums are local to this process, for work of one process while the others wait."""
    _apart.append(True)
    try:
        yield
    finally:
        _apart.pop()


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; its backward sums the gradients over ranks.

    ``torch.distributed.nn.functional.all_reduce`` is deprecated, and its functional successor has no gradient in the
    older versions of torch that rsseg supports.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
        return _AllReduceSum.apply(gradients[0])


def global_sum(x: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, differentiable; the tensor itself in a single process.

    Every rank has to call it equally often, in the same order and with the same shapes. A loss that is a function of such sums
    has the same value on every rank, and each rank's gradient is the world size times its part of the global gradient, so that
    the average over ranks by `DistributedDataParallel` is the gradient of the global batch.

    Example:
        >>> global_sum(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    return cast(Tensor, _AllReduceSum.apply(x)) if world_size() > 1 else x


def global_sums(parts: Sequence[Tensor]) -> list[Tensor]:
    """`global_sum` of several tensors of one dtype, in one collective."""
    if world_size() == 1:
        return list(parts)
    sums = torch.split(global_sum(torch.cat([part.flatten() for part in parts])), [part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(sums, parts, strict=True)]


class _AllGather(torch.autograd.Function):
    """Concatenation over ranks; its backward sums each rank's part of the gradients over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
        dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
        counts = [int(size) for size in sizes]
        padded = x.detach().new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        ctx.start, ctx.count = sum(counts[: dist.get_rank()]), len(x)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count]


def global_cat(x: Tensor) -> Tensor:
    """The concatenation of all ranks' tensors along the first dimension, differentiable; the tensor itself in one process.

    It serves losses that are not functions of sums, such as one that sorts all errors. The first dimension may differ between
    ranks. Gradients are scaled as in `global_sum`.

    Example:
        >>> global_cat(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    return cast(Tensor, _AllGather.apply(x)) if world_size() > 1 else x


def global_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient of two scalars, each summed over all ranks; 0 if the denominator, a count or a sum of weights, is 0.

    Example:
        >>> global_ratio(torch.tensor(3.0), torch.tensor(4))
        tensor(0.7500)
        >>> global_ratio(torch.tensor(0.0), torch.tensor(0))
        tensor(0.)
    """
    top, bottom = global_sum(torch.stack([numerator, denominator.to(numerator.dtype)])).unbind()
    return top / torch.where(bottom > 0, bottom, torch.ones_like(bottom))
