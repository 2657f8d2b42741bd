"""Means over the batch or each image, over pixels or classes: the bases of the terms of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rsseg.collective import global_ratio
from rsseg.contract import InputError
from rsseg.losses.sums import COUNT, SOFT, Over, Sums
from rsseg.losses.terms.term import Term

Classes: TypeAlias = Literal["all", "present"] | Sequence[int]
"""Which classes are averaged: all that have a valid pixel to be judged on, those in the target, or a list."""

PerClass: TypeAlias = Sequence[float] | Tensor | None
"""One number per class; None: 1 for all."""


class Mean(Term):
    """A quotient of two sums, of the global batch or of each image.

    Args:
        over: See `rsseg.losses`.
    """

    _: KW_ONLY
    over: Over = "batch"

    def mean(self, top: Tensor, bottom: Tensor) -> Tensor:
        """``top / bottom`` of the batch, or its mean over the images of all ranks where the bottom is not 0; 0 without any.

        Args:
            top: ``[G]``, 0 where the bottom is; G is 1 over the batch.
            bottom: ``[G]``, not negative.
        """
        ratios = top / bottom.clamp(min=torch.finfo(top.dtype).tiny ** 0.5)  # its inverse has to be finite, for the gradient
        return ratios.squeeze(0) if self.over == "batch" else global_ratio(ratios.sum(), (bottom > 0).sum())


class PixelMean(Mean):
    """The mean over the valid pixels, or entries of sigmoid tasks, of a function of the label's probability."""

    def total(self, found: Sums) -> Tensor:
        """The sum of that function, ``[G]``."""
        raise NotImplementedError

    def entries(self, found: Sums) -> Tensor:
        """The valid pixels, or entries of sigmoid tasks, ``[G]``."""
        count = found[COUNT]
        return count[0].sum(1) if self.exclusive else count.sum((0, 2))

    def from_sums(self, found: Sums) -> Tensor:
        return self.mean(self.total(found), self.entries(found))


class ClassMean(Mean):
    """The mean over classes of a loss of each class.

    Args:
        classes: See `rsseg.losses`.
    """

    _: KW_ONLY
    classes: Classes = "all"

    def counts(self, found: Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Own pixels, other pixels, true positives and false positives of the chosen classes, ``[G, C]`` each."""
        own, other = pick(found[COUNT], self.classes)
        tp, fp = pick(found[SOFT], self.classes)
        return own, other, tp, fp

    def counted(self, own: Tensor, other: Tensor) -> Tensor:
        """The pixels that decide whether a class counts: its own if it has to be present, else all that are valid."""
        return own if self.classes == "present" else own + other

    def class_mean(self, losses: Tensor, counted: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The (weighted) mean of the chosen classes, then of the images that have any to count.

        Args:
            losses: ``[G, C]``, of the chosen classes.
            counted: Likewise, the pixels of each; a class without any does not count.
            class_weights: One number for each class, chosen or not; None: 1.
        """
        share = (counted > 0).to(losses.dtype)
        if class_weights is not None:
            share = share * pick(class_weights, self.classes)
        return self.mean((losses * share).sum(1), share.sum(1))


def pick(x: Tensor, classes: Classes, dim: int = -1) -> Tensor:
    """The chosen classes along a dimension, by slices: an index made from a list would wait for the device.

    Raises:
        InputError: If a class does not exist.
    """
    if isinstance(classes, str):
        return x
    count = x.shape[dim]
    if max(classes) >= count:
        raise InputError(f"classes lists {max(classes)}, but {count} classes are numbered 0..{count - 1}: leave it out")
    return torch.stack([x.select(dim, c) for c in classes], dim)


def or_one(divisor: Tensor) -> Tensor:
    """A divisor, 1 where it is 0."""
    return divisor.masked_fill(divisor == 0, 1)


def weights(numbers: float | PerClass, like: Tensor, name: str) -> Tensor | None:
    """Numbers per class, or one number for all, as a tensor that fits another one.

    Args:
        numbers: One for each class, or one for all; None: 1.
        like: ``[..., C]``.
        name: What the user calls the numbers.

    Raises:
        InputError: If there are more or fewer than classes.
    """
    if numbers is None:
        return None
    if isinstance(numbers, int | float):
        return like.new_full((), numbers)
    found = torch.as_tensor(numbers, dtype=like.dtype)
    if found.shape != like.shape[-1:]:
        raise InputError(f"{name} needs one number per class, {like.shape[-1]} for these logits; found {found.numel()}")
    return found.to(like.device, non_blocking=True)
