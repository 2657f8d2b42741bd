"""Augmentation on the device, in batches, each window's parameters drawn from (seed, k)."""

from __future__ import annotations

import torch
from torch import Tensor

from rsseg.data.windows import stream


def dihedral(image: Tensor, element: int) -> Tensor:
    """One of the eight symmetries of the square.

    Args:
        image: ``[..., H, W]``, square for odd elements.
        element: 0 to 7: quarter turns (0 to 3), and from 4 on a flip before them.

    Example:
        >>> dihedral(torch.tensor([[1, 2], [3, 4]]), 1)
        tensor([[2, 4],
                [1, 3]])
    """
    flipped = image.flip(-1) if element >= 4 else image
    return torch.rot90(flipped, element % 4, dims=(-2, -1))


class D4:
    """Flips and quarter turns: north is as good as any other side in an aerial image.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, image: Tensor, mask: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Turn each window of a batch.

        Args:
            image: ``[B, C, H, W]``.
            mask: ``[B, H, W]`` or ``[B, L, H, W]``.
            k: int64 ``[B]`` on the CPU, the windows' numbers.

        Returns:
            Image and mask in the same dtypes.
        """
        elements = [int(stream(self.seed, number, "d4").integers(8)) for number in k.tolist()]
        pairs = list(enumerate(elements))
        return (
            torch.stack([dihedral(image[i], element) for i, element in pairs]),
            torch.stack([dihedral(mask[i], element) for i, element in pairs]),
        )
