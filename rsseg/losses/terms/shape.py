"""Terms of shape: distance to the true boundary, overlap of skeletons, overlap object by object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch  # noqa: F401 (the examples use it)
from torch import Tensor

from rsseg.contract import InputError, number
from rsseg.losses import formulas, shape
from rsseg.losses.checks import positive, whole
from rsseg.losses.formulas import Classes
from rsseg.losses.sums import SOFT, Over, pixel_sums
from rsseg.losses.terms.term import Term


@dataclass(eq=False, repr=False)
class Boundary(Term):
    """Boundary loss (Kervadec et al. 2019): the mean of the signed distance to the true boundary times p.

    Far mistakes cost more than near ones, and right pixels are rewarded, so the value may be negative. It says nothing of
    a class that an image lacks: add it to an overlap loss or a cross-entropy, with a small weight (the distances are in
    pixels). Each step computes distances on the CPU. Ignored pixels: see `shape`.

    Args:
        classes: `all`, `present` (in an image) or class numbers: what is averaged over.

    Example:
        >>> Boundary("binary")(torch.tensor([[[[9e9, 9e9, 9e9]]]]), torch.tensor([[[1, 0, 0]]]))  # (-.5 + .5 + 1.5) / 3
        tensor(0.5000)
    """

    signed = True
    classes: Classes = "all"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        return shape.boundary(self.planes(logits, target, weight), self.classes)


@dataclass(eq=False, repr=False)
class ClDice(Term):
    """Soft clDice (Shit et al. 2021), for thin structures: one minus the harmonic mean of the skeletons' hit rates.

    A gap in a road costs as much as its length, however narrow the road is. The paper adds it to `Dice`. Ignored pixels: see
    `shape`.

    Args:
        iterations: Of thinning; at least half the width in pixels of the widest structure.
        smooth: s, more than 0, added to both sides of both rates.
        classes: `all`, `present` (those in the target) or class numbers: what is averaged over.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> line = torch.zeros(1, 5, 9, dtype=torch.long)
        >>> line[:, 2] = 1
        >>> ClDice("binary")(line.unsqueeze(1) * 99.0 - 49, line)
        tensor(0.)
    """

    rules = {"iterations": whole, "smooth": positive}  # noqa: RUF012
    iterations: int = 3
    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        planes = self.planes(logits, target, weight)
        return shape.cl_dice(planes, self.iterations, self.smooth, self.classes, self.over)


@dataclass(eq=False, repr=False)
class SkeletonRecall(Term):
    """Skeleton recall (Kirchhoff et al. 2024), for thin structures: one minus the mean p on the tubed centre lines.

    As `ClDice` it minds a gap in a road by its length, but takes centre lines of the truth alone, which need no gradient.
    False positives cost nothing: add it to `Dice` and a cross-entropy, as the paper does. Unlike there, each class has centre
    lines of its own; name the thin ones as `classes`. Each step finds centre lines on the CPU. Ignored pixels: see `shape`.

    Args:
        radius: Of the tube around the centre line, in pixels.
        classes: `all`, `present` or class numbers: what is averaged over, of the classes in the target.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> logits = torch.where(torch.arange(10) < 4, 99.0, -99.0).view(1, 1, 1, 10)
        >>> SkeletonRecall("binary")(logits, torch.ones(1, 1, 10, dtype=torch.uint8))
        tensor(0.6000)
    """

    rules = {"radius": whole}  # noqa: RUF012
    radius: int = 2
    classes: Classes = "all"
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        tube = shape.tubes(self.planes(logits.detach(), target, weight).own, self.radius, self.classes)
        counted = tube if target.ndim == 4 else tube.any(1)
        labels = target.long().masked_fill(~counted, self.ignore_index)
        found = pixel_sums(logits, labels, self.task, [(SOFT, self.over)], self.ignore_index, weight)
        return formulas.recall(found, self.classes, self.over)


@dataclass(eq=False, repr=False)
class ComponentDice(Term):
    """CC-Dice (Bouteille et al. 2025; regions of Jaus et al. 2025), for small objects: Dice loss object by object.

    The mean over the connected components of the truth of ``1 - (2 TP + s) / (2 TP + FP + FN + s)`` among the pixels that are
    nearest to the component, so that a small object counts as much as a large one. It says nothing of an image without the
    class: add it to `Dice` and a cross-entropy, as the paper does. Each step finds the regions on the CPU. Ignored pixels: see
    `shape`.

    Args:
        smooth: s, 0 or more; the paper's is 0.
        classes: `all`, `present` or class numbers: what is averaged over, of the classes in the target.
        over: `batch`: all components of a class count alike. `image`: the mean of the images' losses.

    Example:
        >>> objects = torch.tensor([[[1, 0, 0, 0, 1, 1, 1, 1, 1]]])
        >>> logits = torch.where(torch.arange(9) > 3, 99.0, -99.0).view(1, 1, 1, 9)  # the small one is missed
        >>> ComponentDice("binary")(logits, objects)
        tensor(0.5000)
    """

    smooth: float = 0.0
    classes: Classes = "all"
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        return shape.component_dice(self.planes(logits, target, weight), self.smooth, self.classes, self.over)


def _below_one(name: str, value: Any) -> float:
    if number(name, value) >= 1:
        raise InputError(f"{name} has to be below 1; found {value!r}")
    return float(value)


@dataclass(eq=False, repr=False)
class BoundaryDoU(Term):
    """Boundary difference over union (Sun et al. 2023): the mean over classes of ``(FP + FN) / (FP + FN + (1 - a) TP)``.

    ``a = 1 - 2 C / S`` with S the pixels of the class and C those at its boundary: the more compact a class is, the more its
    few wrong pixels, which lie at the boundary, count. A thin class, a = 0, has the Jaccard loss. Unlike in the paper's code,
    the border of an image is no boundary, and p is not squared. Ignored pixels: see `shape`.

    Args:
        limit: The highest a, below 1; the paper's code advises 0.8.
        smooth: s, added to both sides of ``TP / (TP + (FP + FN) / (1 - a))``.
        classes: As for `Dice`.
        over: As for `Dice`.

    Example:
        >>> square = torch.zeros(1, 10, 10, dtype=torch.long)
        >>> square[:, 1:9, 1:9] = 1  # C = 28, S = 64, a = 1 / 8
        >>> BoundaryDoU("binary", smooth=0)(torch.zeros(1, 1, 10, 10), square)  # 50 / (50 + 7 / 8 x 32)
        tensor(0.6410)
    """

    rules = {"limit": _below_one}  # noqa: RUF012
    limit: float = 0.8
    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        planes = self.planes(logits.detach(), target, weight)
        found = pixel_sums(logits, target, self.task, [(SOFT, self.over)], self.ignore_index, weight)
        return shape.boundary_dou(planes, found, self.limit, self.smooth, self.classes, self.over)
