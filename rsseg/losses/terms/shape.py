"""Terms of shape: distance to the true boundary, overlap of skeletons."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsseg.losses import shape
from rsseg.losses.checks import positive, whole
from rsseg.losses.formulas import Classes
from rsseg.losses.sums import Over
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

    classes: Classes = "all"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        return shape.boundary(logits, target, self.task, self.classes, self.ignore_index, weight)


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
        options = (self.iterations, self.smooth, self.classes, self.over, self.ignore_index, weight)
        return shape.cl_dice(logits, target, self.task, *options)
