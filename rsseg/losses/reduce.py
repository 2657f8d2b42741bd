"""Sums over the global batch: what makes two ranks give the loss of one process."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


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

    Every rank has to call it equally often and in the same order. A loss that is a function of such sums has the same
    value on every rank, and each rank's gradient is world size times its own part: what `DistributedDataParallel`,
    which averages gradients over ranks, needs to arrive at the gradient of the global batch.

    Args:
        x: Any shape, the same on every rank.

    Example:
        >>> global_sum(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return cast(Tensor, _AllReduceSum.apply(x))
    return x


def global_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient of two scalars, each summed over all ranks; 0 where nothing was counted.

    Args:
        numerator: A floating-point scalar.
        denominator: A scalar count or sum of weights, not negative.

    Example:
        >>> global_ratio(torch.tensor(3.0), torch.tensor(4))
        tensor(0.7500)
        >>> global_ratio(torch.tensor(0.0), torch.tensor(0))
        tensor(0.)
    """
    top, bottom = global_sum(torch.stack([numerator, denominator.to(numerator.dtype)])).unbind()
    return top / torch.where(bottom > 0, bottom, torch.ones_like(bottom))
