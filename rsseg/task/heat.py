"""The Gaussians around centres of objects (Law and Deng 2018), on arrays and tensors alike."""

from __future__ import annotations

from typing import Any

OVERLAP = 0.7
"""The least IoU of a box whose corners are off by the radius."""

LEAST_RADIUS = 2
"""The radius around objects that are smaller still, or of no known size: as in CenterPoint (Yin et al. 2021)."""


def gaussian_radius(height: Any, width: Any) -> Any:
    """How far the corners of a box may be off before its IoU with the box falls below `OVERLAP`, in pixels.

    CornerNet takes the least of three radii: for both corners moved inwards, both outwards, and both in one direction. That is
    always the first, whose box has the least IoU: ``(h - 2r)(w - 2r) / (h w)``.

    Example:
        >>> round(gaussian_radius(100.0, 100.0), 3), round((100 - 2 * 8.167) ** 2 / 100**2, 3)
        (8.167, 0.7)
    """
    total = height + width
    return (total - (total**2 - 4 * (1 - OVERLAP) * height * width) ** 0.5) / 4


def whole_radius(height: Any, width: Any) -> Any:
    """The radius in whole pixels, `LEAST_RADIUS` at least and where a size is not known (NaN)."""
    radius = gaussian_radius(height, width) // 1
    radius[~(radius > LEAST_RADIUS)] = LEAST_RADIUS
    return radius


def spread(radius: Any) -> Any:
    """The standard deviation of the Gaussian of a radius: a sixth of the diameter, the pixel of the centre counted.

    Example:
        >>> spread(4)
        1.5
    """
    return (2 * radius + 1) / 6
