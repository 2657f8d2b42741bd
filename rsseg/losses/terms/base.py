"""Base classes of loss terms: modules of (logits, target) that check their parameters and inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeGuard, dataclass_transform

import torch
from torch import Tensor, nn

from rsseg.collective import global_ratio
from rsseg.contract import IGNORE, InputError
from rsseg.losses.checks import RULES, SEGMENTATION, check_weight, check_weight_values, fitting_task, warn_of_probabilities
from rsseg.losses.pieces import pixel_share, wide
from rsseg.losses.sums import COUNT, SOFT, Over, Sum, Sums, over_batch, pixel_sums
from rsseg.task import TASKS

VALUE_CHECKS = 2
"""The number of first calls in which a term checks the labels' values, which waits for the device."""

Classes: TypeAlias = Literal["all", "present"] | Sequence[int]
"""The classes to average over: all with valid pixels, those present in the target, or a list of class numbers."""

PerClass: TypeAlias = Sequence[float] | Tensor | None
"""One number per class; None: 1 for all."""


class Planes(NamedTuple):
    """Logits without the values of ignored pixels, and a plane of truth for each class; all ``[B, C, H, W]``.

    Attributes:
        logits: float32 or float64, 0 at ignored pixels.
        own: bool, true for valid pixels of the class.
        other: bool, true for valid pixels that are not of the class.
        share: The weight of each pixel, 0 at ignored ones, in the logits' dtype.
        exclusive: Whether the classes exclude each other: softmax, not sigmoid.
    """

    logits: Tensor
    own: Tensor
    other: Tensor
    share: Tensor
    exclusive: bool

    @property
    def p(self) -> Tensor:
        """Probabilities, 0 where ignored."""
        p = self.logits.softmax(1) if self.exclusive else self.logits.sigmoid()
        return torch.where(self.share > 0, p, 0)


@dataclass_transform(eq_default=False)
@dataclass(eq=False, repr=False)
class Term(nn.Module):
    """A loss of (logits, target). Subclasses state the tasks that they fit and their parameters.

    Subclasses automatically become dataclasses of their parameters. They define either `formula`, or `sums` and `from_sums`; a
    `Composite` computes the sums of all terms of the second kind in one pass over the logits.

    Args:
        task: One of `tasks`.
        ignore_index: The label of pixels that do not count.

    Attributes:
        tasks: The task kinds that the term fits.
        soft: Whether the term takes a target of class shares.
        signed: Whether the term's value may be negative.
        rules: The checks of parameters by name, which override `RULES`.
    """

    tasks: ClassVar[Collection[str]] = SEGMENTATION
    soft: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    rules: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}

    task: str
    _: KW_ONLY
    ignore_index: int = IGNORE

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        super().__init__()
        self.task = fitting_task(type(self).__name__, self.task, self.tasks)
        rules = {**RULES, **self.rules}
        for name in {parameter.name for parameter in fields(self)} & rules.keys():
            setattr(self, name, rules[name](name, getattr(self, name)))
        self._unchecked_calls = VALUE_CHECKS

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, computed outside autocast; the arguments are those of `rsseg.losses`."""
        self.check(logits, target, weight)
        with torch.autocast(logits.device.type, enabled=False):
            return self.formula(logits, target, weight)

    def check(self, logits: Tensor, target: Tensor, weight: Tensor | None = None, always: bool = False) -> None:
        """Refuse targets and weights of the wrong shape or dtype; in the first calls, or `always`, also wrong values."""
        if torch.compiler.is_compiling():
            return
        task = TASKS[self.task]
        task.check_shapes(logits, target)
        check_weight(logits, weight)
        if target.is_floating_point() and not (task.real or self.soft):
            raise InputError(
                f"{type(self).__name__} needs labels; found class shares: take cross-entropy, focal, Dice, Jaccard or Tversky "
                "terms, or dataset.fractions=null"
            )
        first = self._unchecked_calls > 0
        self._unchecked_calls -= first
        if first or always:
            task.check_values(logits, target, self.ignore_index)
            check_weight_values(weight)
        if first and not task.real:
            warn_of_probabilities(logits, self.task)

    @property
    def exclusive(self) -> bool:
        """Whether the logits' classes exclude each other: softmax, not sigmoid."""
        return TASKS[self.task].exclusive

    @property
    def sums(self) -> tuple[Sum, ...]:
        """The sums that the term is a function of; empty if the term is no function of sums."""
        return ()

    @property
    def by_image(self) -> bool:
        """Whether the term uses sums per image instead of sums over the batch."""
        return bool(getattr(self, "over", "batch") == "image")

    def from_sums(self, found: Sums) -> Tensor:
        """The loss from its `sums`, by name; `COUNT`, the number of pixels, is always among them."""
        raise NotImplementedError

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """The loss itself."""
        return self.from_sums(self.take(logits, target, weight, *self.sums))

    def take(self, logits: Tensor, target: Tensor, weight: Tensor | None, *wanted: Sum) -> Sums:
        """Compute sums for this term in a separate pass."""
        images = pixel_sums(logits, target, self.task, wanted, self.ignore_index, weight)
        return images if self.by_image else over_batch(images)

    def planes(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Planes:
        """Logits and labels as planes, for a formula that uses a pixel's neighbourhood or rank.

        Logits of ignored pixels are replaced, not multiplied by 0, so that NaN and infinity there do not affect the loss.
        """
        labels = target.long().unsqueeze(1) if self.exclusive else target.long().reshape(logits.shape)
        positive = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1) if self.exclusive else 1
        share = pixel_share(labels != self.ignore_index, weight, wide(logits))
        valid = share > 0
        clean, own = torch.where(valid, logits.to(share.dtype), 0), (labels == positive) & valid
        return Planes(clean, own, valid & ~own, share.expand_as(logits), self.exclusive)


def is_of_sums(term: nn.Module) -> TypeGuard[Term]:
    """Whether a module is a term that is a function of sums."""
    return isinstance(term, Term) and bool(term.sums)


class Mean(Term):
    """Base class of quotients of two sums, over the global batch or over each image, see `over` in `rsseg.losses`."""

    _: KW_ONLY
    over: Over = "batch"

    def mean(self, top: Tensor, bottom: Tensor) -> Tensor:
        """``top / bottom``, ``[G]`` each: of the batch, or the mean over all ranks' images with a bottom above 0; else 0."""
        ratios = top / bottom.clamp(min=torch.finfo(top.dtype).tiny ** 0.5)  # its inverse has to be finite, for the gradient
        return ratios.squeeze(0) if self.over == "batch" else global_ratio(ratios.sum(), (bottom > 0).sum())


class PixelMean(Mean):
    """Base class of means over valid pixels (sigmoid tasks: over entries) of a function of the label's probability."""

    def total(self, found: Sums) -> Tensor:
        """The numerator ``[G]``, by default the first of `sums`."""
        return found[self.sums[0]].sum((0, 2))

    def entries(self, found: Sums) -> Tensor:
        """The number of valid pixels, or entries for sigmoid tasks, ``[G]``."""
        count = found[COUNT]
        return count[0].sum(1) if self.exclusive else count.sum((0, 2))

    def from_sums(self, found: Sums) -> Tensor:
        return self.mean(self.total(found), self.entries(found))


class ClassMean(Mean):
    """Base class of means over classes of a loss per class, see `classes` in `rsseg.losses`."""

    _: KW_ONLY
    classes: Classes = "all"

    def counts(self, found: Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Own pixels, other pixels, true positives and false positives of the chosen classes, ``[G, C]`` each."""
        own, other = pick(found[COUNT], self.classes)
        tp, fp = pick(found[SOFT], self.classes)
        return own, other, tp, fp

    def class_mean(self, losses: Tensor, own: Tensor, other: Tensor | float = 0, class_weights: Tensor | None = None) -> Tensor:
        """The (weighted) mean of the losses ``[G, C]`` of the chosen classes, then over images with a class that counts.

        A class counts if it has `own` pixels or, unless `classes` is present, `other` pixels.
        """
        share = ((own if self.classes == "present" else own + other) > 0).to(losses.dtype)
        if class_weights is not None:
            share = share * pick(class_weights, self.classes)
        return self.mean((losses * share).sum(1), share.sum(1))


def pick(x: Tensor, classes: Classes, dim: int = -1) -> Tensor:
    """Select classes along a dimension by slices, since an index tensor made from a list would wait for the device."""
    if isinstance(classes, str):
        return x
    count = x.shape[dim]
    if max(classes) >= count:
        raise InputError(f"classes lists {max(classes)}, but {count} classes are numbered 0..{count - 1}: leave it out")
    return torch.stack([x.select(dim, c) for c in classes], dim)


def or_one(divisor: Tensor) -> Tensor:
    """Replace 0 in a divisor by 1."""
    return divisor.masked_fill(divisor == 0, 1)


def weights(numbers: float | PerClass, like: Tensor, name: str) -> Tensor | None:
    """Numbers per class, or one for all, as a tensor that broadcasts with `like`, ``[..., C]``; errors name the parameter."""
    if numbers is None:
        return None
    found = torch.as_tensor(numbers, dtype=like.dtype)
    if found.ndim and found.shape != like.shape[-1:]:
        raise InputError(f"{name} needs one number per class, {like.shape[-1]} for these logits; found {found.numel()}")
    return found.to(like.device, non_blocking=True)
