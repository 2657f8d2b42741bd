"""Derived targets: weights of the pixels near a border, softened labels, and the classes that an image shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rsseg.contract import IGNORE, check_number, holds_reals, known
from rsseg.losses.checks import positive
from rsseg.losses.pieces import pixel_share
from rsseg.losses.terms.pixelwise import CrossEntropy
from rsseg.task import TASKS, Task

FAR = 3
"""The distance from a border, in standard deviations, up to which weights differ from 1."""


def borders(labels: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Bool ``[B, H, W]``, true for pixels with a neighbour, across an edge, of another label; ignored pixels have no border.

    Labels are integers ``[B, H, W]``, or ``[B, L, H, W]``, where a border in any plane counts.

    Example:
        >>> borders(torch.tensor([[[0, 0, 1, 255, 0]]])).int()
        tensor([[[0, 1, 1, 0, 0]]], dtype=torch.int32)
    """
    planes = labels if labels.ndim == 4 else labels.unsqueeze(1)
    found = torch.zeros_like(planes, dtype=torch.bool)
    for dim in (-2, -1):
        length = planes.shape[dim] - 1
        one, other = planes.narrow(dim, 0, length), planes.narrow(dim, 1, length)
        unlike = (one != other) & (one != ignore_index) & (other != ignore_index)
        found.narrow(dim, 0, length).logical_or_(unlike)
        found.narrow(dim, 1, length).logical_or_(unlike)
    return found.any(dim=1)


def squared_distance(where: Tensor, reach: int) -> Tensor:
    """The squared distance in pixels from each pixel to the nearest true one, infinite beyond `reach` pixels.

    From bool ``[B, H, W]`` to float32 ``[B, H, W]``. Exact, on any device and without waiting for it: distances along rows come
    first, then those along columns.

    Example:
        >>> squared_distance(torch.tensor([[[True, False, False, False]]]), reach=2)
        tensor([[[0., 1., 4., inf]]])
    """
    found = torch.zeros(where.shape, device=where.device).masked_fill_(~where, math.inf)
    for dim in (-1, -2):
        before, length = found.clone(), found.shape[dim]
        for step in range(1, min(reach, length - 1) + 1):
            far = before + step**2
            for start, there in ((0, step), (step, 0)):
                part = found.narrow(dim, start, length - step)
                torch.minimum(part, far.narrow(dim, there, length - step), out=part)
    return found.masked_fill_(found > reach**2, math.inf)


@dataclass(frozen=True)
class EdgeWeight:
    """Weights of the pixels near a border between labels, ``1 + amount exp(-d^2 / (2 sigma^2))``.

    The weight map of U-Net (Ronneberger et al. 2015), but with the distance d to the nearest border pixel (`borders`) instead
    of the distances to the two nearest objects, which would need instance labels. Beyond three sigma the weight is 1.

    Args:
        amount: The addend at a border, -1 or more. Negative amounts reduce the weight there, for uncertain labels.
        sigma: The standard deviation in pixels, above 0 and up to 50.

    Example:
        >>> EdgeWeight(amount=-1.0, sigma=1.0)(torch.tensor([[[0, 0, 0, 0, 1]]]))
        tensor([[[0.9889, 0.8647, 0.3935, 0.0000, 0.0000]]])
    """

    amount: float = 10.0
    sigma: float = 5.0

    def __post_init__(self) -> None:
        check_number("edge_weight.amount", self.amount, low=-1.0)
        positive("edge_weight.sigma", self.sigma, high=50.0)

    def __call__(self, labels: Tensor, ignore_index: int = IGNORE) -> Tensor:
        """The weights, float32 ``[B, H, W]``, of labels as for `borders`."""
        squares = squared_distance(borders(labels, ignore_index), math.ceil(FAR * self.sigma))
        return 1 + self.amount * torch.exp(squares / (-2 * self.sigma**2))


def smoothed(
    target: Tensor, classes: int, task: str, amount: float, ignore_index: int = IGNORE, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Label smoothing (Szegedy et al. 2016): the class shares of a target, mixed with uniform shares.

    ``(1 - amount) y + amount / C`` for C exclusive classes, else ``(1 - amount) y + amount / 2``; ``[B, C, H, W]`` of the given
    dtype, NaN where ignored.

    Example:
        >>> smoothed(torch.tensor([[[1, 255]]]), classes=2, task="multiclass", amount=0.1).flatten(2)
        tensor([[[0.0500,    nan],
                 [0.9500,    nan]]])
    """
    exclusive = TASKS[task].exclusive
    if holds_reals(target):
        shares = target.to(dtype)
    else:
        planes = target.long() if target.ndim == 4 else target.long().unsqueeze(1)
        positive_label = torch.arange(classes, device=target.device).view(-1, 1, 1) if exclusive else 1
        shares = (planes == positive_label).to(dtype).masked_fill(planes == ignore_index, math.nan)
    return shares * (1 - amount) + amount / (classes if exclusive else 2)


CROSS_ENTROPY = CrossEntropy("multilabel")  # shared, since only its first calls read labels and wait for the device


def presence(target: Tensor, task: Task, weight: Tensor | None = None) -> Tensor:
    """The classes that occur among the labelled pixels of each image with a weight above 0.

    Uint8 ``[B, C]``: 1 if a class occurs, 0 if not, `IGNORE` if an image has no such pixel.

    Example:
        >>> from rsseg.task import Multiclass
        >>> presence(torch.tensor([[[0, 2, 255]], [[255, 255, 255]]]), Multiclass(("land", "water", "road")))
        tensor([[  1,   0,   1],
                [255, 255, 255]], dtype=torch.uint8)
    """
    planes = target if target.ndim == 4 else target.unsqueeze(1)
    labelled = pixel_share(known(planes), weight, torch.float32) > 0
    if task.exclusive and target.ndim == 3:
        own = planes == torch.arange(task.channels, device=target.device).view(-1, 1, 1)
    else:
        own = planes > 0
    return (own & labelled).flatten(2).any(2).to(torch.uint8).masked_fill(~labelled.flatten(2).any(2), IGNORE)


def presence_loss(logits: Tensor, target: Tensor, task: Task, weight: Tensor | None = None) -> Tensor:
    """The binary cross-entropy of a classifier's logits ``[B, C]`` against `presence`, over its known values."""
    shown = presence(target, task, weight)
    return CROSS_ENTROPY(logits[..., None, None], shown[..., None, None])
