"""Loss terms of shape: boundary and clDice. See `terms` for what all share and `shape` for ignored pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsseg.contract import InputError
from rsseg.losses import functional as F
from rsseg.losses.arguments import positive
from rsseg.losses.terms import Term


@dataclass(eq=False, repr=False)
class Boundary(Term):
    """Boundary loss (Kervadec et al. 2019): the mean of the signed distance to the true boundary times p.

    Far mistakes cost more than near ones, and right pixels are rewarded, so the value may be negative. It says nothing of
    a class that an image lacks: add it to an overlap loss or a cross-entropy, with a small weight (the distances are in
    pixels). Each step computes distances on the CPU.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        classes: `all`, `present` (in an image) or class numbers: what is averaged over.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> import torch
        >>> Boundary("binary")(torch.tensor([[[[9e9, 9e9, 9e9]]]]), torch.tensor([[[1, 0, 0]]]))  # (-.5 + .5 + 1.5) / 3
        tensor(0.5000)
    """

    classes: F.Classes = "all"

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return F.boundary(logits, target, self.task, self.classes, self.ignore_index)


@dataclass(eq=False, repr=False)
class ClDice(Term):
    """Soft clDice (Shit et al. 2021), for thin structures: one minus the harmonic mean of the skeletons' hit rates.

    A gap in a road costs as much as its length, however narrow the road is. The paper adds it to `Dice`.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        iterations: Of thinning; at least half the width in pixels of the widest structure.
        smooth: s, more than 0, added to both sides of both rates.
        classes: `all`, `present` (those in the target) or class numbers: what is averaged over.
        over: `batch`, or `image` for the mean of the images' losses.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> import torch
        >>> line = torch.zeros(1, 5, 9, dtype=torch.long)
        >>> line[:, 2] = 1
        >>> ClDice("binary")(line.unsqueeze(1) * 99.0 - 49, line)
        tensor(0.)
    """

    iterations: int = 3
    smooth: float = 1.0
    classes: F.Classes = "all"
    over: F.Over = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.smooth = positive("smooth", self.smooth)
        if type(self.iterations) is not int or self.iterations < 0:
            raise InputError(f"iterations has to be a whole number of 0 or more; found {self.iterations!r}")

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        options = (self.iterations, self.smooth, self.classes, self.over, self.ignore_index)
        return F.cl_dice(logits, target, self.task, *options)
