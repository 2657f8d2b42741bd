"""Connected objects of a class: how large they are, how wide, and which are but specks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, label

from rsseg.contract import known
from rsseg.task import Centres

SPECK = 5
"""Objects of fewer pixels are specks: a hint of label noise rather than something to be mapped."""

SMALL = 32**2
"""Objects of fewer pixels are small (the limit of COCO, Lin et al. 2014)."""

SPREAD = (5, 50, 95)
"""The percentiles that sizes are summed up by."""


class Objects(NamedTuple):
    """The connected regions (also across corners) of one class in one mask.

    Attributes:
        area: int64 ``[N]``, pixels.
        distance: float64 ``[N]``, the sum over an object's pixels of the distance from their centre to its edge.
        inside: bool ``[N]``, true for those that the mask's border does not cut off.
        ground: float64 ``[N]``, square metres; NaN where they are not known.
    """

    area: NDArray[np.int64]
    distance: NDArray[np.float64]
    inside: NDArray[np.bool_]
    ground: NDArray[np.float64]

    @classmethod
    def join(cls, parts: Sequence[Objects]) -> Objects:
        """The objects of several masks."""
        return cls(*(np.concatenate(field) for field in zip(*parts, strict=True))) if parts else find(np.zeros((0, 0), bool))


def find(has: NDArray[np.bool_], pixel: float = np.nan) -> Objects:
    """The objects of a mask. Its border counts as an edge.

    Args:
        has: bool ``[H, W]``, where the class is.
        pixel: The square metres of a pixel.

    Example:
        >>> mask = np.zeros((9, 40), bool)
        >>> mask[2:4, 5:35] = mask[7, 7] = True
        >>> objects = find(mask)
        >>> objects.area.tolist(), objects.distance.tolist()
        ([60, 1], [30.0, 0.5])
    """
    if not has.any():
        return Objects(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), np.zeros(0))
    box = find_objects(has.astype(np.uint8))[0]
    edged = np.pad(has[box], 1)
    numbered, count = label(edged, structure=np.ones((3, 3)))
    numbers = numbered[edged] - 1
    area = np.bincount(numbers, minlength=count)
    depth: NDArray[np.float64] = distance_transform_edt(edged)[edged] - 0.5
    distance = np.bincount(numbers, depth, minlength=count).astype(np.float64)
    inside = np.ones(count, bool)
    for lines, part, length in zip((numbered, numbered.T), box, has.shape, strict=True):
        for line, cut in ((1, part.start == 0), (-2, part.stop == length)):
            if cut:
                inside[lines[line][lines[line] > 0] - 1] = False
    return Objects(area, distance, inside, area * np.float64(pixel))


def find_boxes(target: NDArray[np.generic], task: Centres, pixel: float = np.nan) -> list[Objects]:
    """The objects of each class whose centres lie in a target of boxes, those of known size: their area is that of the box.

    Args:
        target: ``[5, H, W]``, see `rsseg.task.Centres`.
        task: The task.
        pixel: The square metres of a pixel.

    Example:
        >>> target = np.array([2, 0, 0, 10, 4], dtype=np.float32).reshape(5, 1, 1)
        >>> [ObjectSizes.of(own).count for own in find_boxes(target, Centres(("car", "truck")))]
        [0, 1]
    """
    found = []
    for centres in task.class_masks(target):
        height, width = np.asarray(target[3:], dtype=np.float64)[:, centres]
        area = (height * width)[known(height)]
        shorter = np.minimum(height, width)[known(height)]
        found.append(Objects(np.rint(area).astype(np.int64), area * shorter / 4, np.ones(len(area), bool), area * pixel))
    return found


@dataclass(frozen=True)
class ObjectSizes:
    """The objects of a class summed up, specks left out of all but their own numbers.

    Attributes:
        count: How many there are.
        pixels: Their area in pixels, the percentiles of `SPREAD`; empty without any.
        square_metres: The same on the ground; None where the files do not say.
        width: Their mean width in pixels: four times the mean distance of their pixels to the edge, which is w for a long
            strip w pixels wide (w + 1/w for odd w, as pixels have one centre) and two thirds of the diameter for a disc;
            NaN without any.
        small: The share of the class's pixels that lie in objects of fewer than `SMALL` pixels; NaN without any.
        specks: How many objects of fewer than `SPECK` pixels lie wholly inside what was looked at.
        speck_pixels: Their pixels.
    """

    count: int
    pixels: list[float]
    square_metres: list[float] | None
    width: float
    small: float
    specks: int
    speck_pixels: int

    @classmethod
    def of(cls, objects: Objects) -> ObjectSizes:
        """Sum objects up.

        Example:
            >>> strip = np.pad(np.ones((4, 200), bool), 3)
            >>> round(ObjectSizes.of(find(strip, pixel=0.25)).width, 1)
            4.0
        """
        speck = objects.area < SPECK
        area, ground = objects.area[~speck], objects.ground[~speck]
        specks = objects.area[speck & objects.inside]
        known = len(area) > 0 and not np.isnan(ground).any()
        return cls(
            count=len(area),
            pixels=np.percentile(area, SPREAD).tolist() if len(area) else [],
            square_metres=np.percentile(ground, SPREAD).tolist() if known else None,
            width=float(4 * objects.distance[~speck].sum() / area.sum()) if len(area) else np.nan,
            small=float(area[area < SMALL].sum() / area.sum()) if len(area) else np.nan,
            specks=len(specks),
            speck_pixels=int(specks.sum()),
        )
