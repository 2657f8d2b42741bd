"""Binary masks to centre lines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label


def thin(planes: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The centre line of every structure, one pixel wide, in as many pieces and with as many holes as the structure.

    Layer by layer, border pixels are taken away that neither end a line nor connect what else would fall apart: in turn those
    whose neighbour above, below, to the left or to the right is free (Rosenfeld 1975). Pixels are connected if they share an
    edge or a corner. Outside a plane is free.

    Args:
        planes: ``[..., H, W]``.

    Example:
        >>> thin(np.ones((3, 5), bool)).astype(int)
        array([[0, 0, 0, 0, 0],
               [1, 1, 1, 1, 1],
               [0, 0, 0, 0, 0]])
    """
    padded = np.pad(planes, [*[(0, 0)] * (planes.ndim - 2), (1, 1), (1, 1)])
    pixels, width = padded.reshape(-1), padded.shape[-1]
    around = (-width, 1 - width, 1, width + 1, width, width - 1, -1, -1 - width)  # clockwise from above
    patterns = np.zeros(pixels.shape, np.uint8)
    for bit, offset in enumerate(around):
        patterns |= np.roll(pixels, -offset).view(np.uint8) << bit
    border = np.flatnonzero(pixels & (patterns < 255))
    while border.size:
        changed = np.zeros_like(pixels)
        for deletable in _DELETABLE:
            gone = border[deletable[patterns[border]] & pixels[border]]
            pixels[gone] = False
            for bit, offset in enumerate(around):
                patterns[gone - offset] &= 255 - 2**bit
                changed[gone - offset] = True
        border = np.flatnonzero(pixels & changed)
    return padded[..., 1:-1, 1:-1]


def _deletable() -> npt.NDArray[np.bool_]:
    """Whether a pixel may go, ``[4, 256]``: free above, below, to the left or to the right; the pattern of its neighbours."""
    table = np.zeros((4, 256), bool)
    for pattern in range(256):
        ring = [pattern >> place & 1 for place in range(8)]
        block = np.array([[ring[7], ring[0], ring[1]], [ring[6], 0, ring[2]], [ring[5], ring[4], ring[3]]])
        pieces = label(block, np.ones((3, 3)))[1]
        if pieces == 1 and sum(ring) > 1:
            table[:, pattern] = [not ring[side] for side in (0, 4, 6, 2)]
    return table


_DELETABLE = _deletable()
