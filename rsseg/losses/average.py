"""From the losses of classes and images to one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rsseg.collective import global_ratio
from rsseg.contract import InputError
from rsseg.losses.statistics import Over
from rsseg.losses.target import per_class

Classes: TypeAlias = Literal["all", "present"] | Sequence[int]
"""Which classes are averaged: all that have a valid pixel to be judged on, those in the target, or a list."""


def chosen(classes: Classes, count: int) -> Sequence[int]:
    """The class numbers that are looked at.

    Args:
        classes: The choice.
        count: How many classes there are.

    Raises:
        InputError: If a class does not exist.
    """
    if isinstance(classes, str):
        return range(count)
    if max(classes) >= count:
        raise InputError(f"classes lists {max(classes)}, but {count} classes are numbered 0..{count - 1}: leave it out")
    return classes


def pick(x: Tensor, classes: Classes, dim: int = -1) -> Tensor:
    """The chosen classes along a dimension, by slices: an index made from a list would wait for the device.

    Args:
        x: Any tensor.
        classes: The choice.
        dim: The dimension of the classes.
    """
    numbers = chosen(classes, x.shape[dim])
    return x if isinstance(classes, str) else torch.stack([x.select(dim, c) for c in numbers], dim)


def class_mean(losses: Tensor, count: Tensor, classes: Classes, over: Over, class_weights: Tensor | None = None) -> Tensor:
    """The (weighted) mean of the chosen classes, then of the images that have any to count.

    Args:
        losses: ``[G, C]``, of the chosen classes.
        count: ``[2, G, C]``, the pixels of each of them and the other valid pixels.
        classes: The choice; a class without a valid pixel never counts.
        over: Whether the groups are images.
        class_weights: ``[C]``, of the chosen classes.
    """
    counted = (count[0] if classes == "present" else count.sum(0)) > 0
    share = counted.to(losses.dtype) if class_weights is None else counted * class_weights
    return mean_of_ratios((losses * share).sum(1), share.sum(1), over)


def mean_of_ratios(top: Tensor, bottom: Tensor, over: Over) -> Tensor:
    """``top / bottom`` of the batch, or its mean over the images of all ranks where the bottom is not 0; 0 without any.

    Args:
        top: ``[G]``; G is 1 over the batch.
        bottom: ``[G]``, not negative.
        over: Whether the groups are images.
    """
    ratios = top / torch.where(bottom > 0, bottom, torch.ones_like(bottom))
    return ratios.squeeze(0) if over == "batch" else global_ratio(ratios.sum(), (bottom > 0).sum())


def picked_weights(class_weights: Tensor | None, count: int, classes: Classes) -> Tensor | None:
    """The weights of the chosen classes, once they are seen to be one per class.

    Args:
        class_weights: ``[count]``, if there are any.
        count: How many classes there are.
        classes: The choice.

    Raises:
        InputError: If there are more or fewer weights than classes.
    """
    return None if class_weights is None else pick(per_class(class_weights, count, "class_weights"), classes)
