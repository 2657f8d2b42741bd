"""Temperature and vector scaling of logits, for calibrated probabilities (Guo et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


SCALINGS = ("temperature", "vector")
"""The kinds of scaling."""


@dataclass(frozen=True)
class Scaling:
    """A factor and an offset for the logits of each class.

    Attributes:
        scale: The factors. Temperature scaling has one factor for all exclusive classes, 1 / T.
        shift: The offsets, 0 for temperature scaling.

    Example:
        >>> import torch
        >>> Scaling((0.5,), (1.0,)).apply(torch.tensor([[[4.0]]])).item()
        3.0
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def apply(self, logits: Tensor) -> Tensor:
        """Scaled logits of logits ``[..., K, H, W]``."""
        scale, shift = (logits.new_tensor(numbers).view(-1, 1, 1) for numbers in (self.scale, self.shift))
        return logits * scale + shift

    def threshold(self, tuned: Tensor, exclusive: bool) -> Tensor:
        """Convert a tuned threshold or bias, see `Task.predict`, to scaled logits, so that labels do not change.

        For exclusive classes this is exact only with one factor for all classes and no offsets, as in temperature scaling.
        """
        scaled = tuned * tuned.new_tensor(self.scale)
        return scaled if exclusive else scaled + tuned.new_tensor(self.shift)
