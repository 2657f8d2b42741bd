"""What a pass over the logits has to find, whatever carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rsseg.losses.sums import Sum


class Plan(NamedTuple):
    """What a pass has to do.

    Attributes:
        softmax: Whether probabilities are softmax (multiclass) or sigmoid ones.
        wanted: The sums.
        ignore_index: The label of pixels that do not count.
        images: Whether to keep the images apart.

    Example:
        >>> from rsseg.losses.sums import COUNT
        >>> Plan(True, (COUNT, Sum("levels", 8)), 255, False).histograms
        (Sum(name='levels', number=8),)
    """

    softmax: bool
    wanted: tuple[Sum, ...]
    ignore_index: int
    images: bool

    @property
    def rows(self) -> tuple[Sum, ...]:
        """The sums that are one number per class."""
        return tuple(key for key in self.wanted if key.name != "levels")

    @property
    def histograms(self) -> tuple[Sum, ...]:
        """Those that are `levels`."""
        return tuple(key for key in self.wanted if key.name == "levels")

    def named(self, outputs: Sequence[Tensor]) -> dict[Sum, Tensor]:
        """The sums by name.

        Args:
            outputs: ``[K, 2, G, C]`` of the rows and, per histogram, what `counts_and_errors` gives.
        """
        sums, *levels = outputs
        found = dict(zip(self.rows, sums.unbind(), strict=True))
        return found | {key: torch.stack(levels[2 * i : 2 * i + 2]) for i, key in enumerate(self.histograms)}


def counts_and_errors(count: Tensor) -> list[Tensor]:
    """The numbers of pixels at each level, and the sums of their errors, which are those of the levels.

    Args:
        count: ``[2, G, C, bins]``, floating point.
    """
    return [count, count * torch.linspace(0, 1, count.shape[-1], dtype=count.dtype, device=count.device)]
