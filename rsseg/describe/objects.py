"""The objects of each class in a split: their areas, widths, and specks."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt, find_objects, label

from rsseg.data.build import cores
from rsseg.data.sampling import stream
from rsseg.data.splits import cut
from rsseg.data.store import Store
from rsseg.progress import progress
from rsseg.task import Centres

log = logging.getLogger(__name__)

SPECK = 5  # objects of fewer pixels are specks: a hint of label noise rather than something to be mapped

SMALL = 32**2
"""Objects of fewer pixels are small (the limit of COCO, Lin et al. 2014)."""

SPREAD = (5, 50, 95)  # the percentiles that summarise areas
PIECE = 1024  # the approximate side of the pieces that larger scenes are cut into, to bound the memory
PIXELS = 1 << 25  # about how many pixels of a split are surveyed; in a larger split, pieces are drawn at random

Objects: TypeAlias = NDArray[np.float64]
"""``[3, N]``: for each object its area in pixels, the sum over its pixels of the distance from their centre to its edge, and 1
if the object does not touch the border of the surveyed piece, else 0."""


def find_regions(has: NDArray[np.bool_]) -> Objects:
    """The connected regions (8 neighbours) of a mask bool ``[H, W]``. The mask's border counts as an edge.

    Example:
        >>> mask = np.zeros((9, 40), bool)
        >>> mask[2:4, 5:35] = mask[7, 7] = True
        >>> find_regions(mask).tolist()
        [[60.0, 1.0], [30.0, 0.5], [1.0, 1.0]]
    """
    if not has.any():
        return np.zeros((3, 0))
    box = find_objects(has.astype(np.uint8))[0]
    edged = np.pad(has[box], 1)
    numbered, count = label(edged, structure=np.ones((3, 3)))
    numbers = numbered[edged] - 1
    depth: NDArray[np.float64] = distance_transform_edt(edged)[edged] - 0.5
    border = np.ones(has.shape, bool)
    border[1:-1, 1:-1] = False
    inside = np.ones(count)
    inside[numbered[1:-1, 1:-1][border[box] & has[box]] - 1] = 0
    return np.stack([np.bincount(numbers, minlength=count), np.bincount(numbers, depth, minlength=count), inside])


def find_boxes(target: NDArray[np.generic], task: Centres) -> list[Objects]:
    """The objects of known size of each class whose centres are in a target of `Centres`; their area is that of the box.

    Example:
        >>> target = np.array([2, 0, 0, 10, 4], dtype=np.float32).reshape(5, 1, 1)
        >>> [ObjectSizes.of(own).count for own in find_boxes(target, Centres(("car", "truck")))]
        [0, 1]
    """
    found = []
    for centres in task.class_masks(target):
        sides = np.asarray(target[3:], dtype=np.float64)[:, centres]
        sides = sides[:, np.isfinite(sides).all(axis=0)]
        area = sides.prod(axis=0)
        found.append(np.stack([np.rint(area), area * sides.min(axis=0) / 4, np.ones(len(area))]))
    return found


@dataclass(frozen=True)
class ObjectSizes:
    """A summary of the objects of a class; only `specks` counts specks.

    Attributes:
        count: The number of objects.
        pixels: The percentiles `SPREAD` of their areas in pixels; empty without objects.
        width: The mean width in pixels: four times the mean distance of the objects' pixels to the edge, which is w for a long
            strip w pixels wide (w + 1/w for odd w, as pixels have one centre) and two thirds of the diameter for a disc;
            NaN without objects.
        small: The share of the objects' pixels in objects of fewer than `SMALL` pixels; NaN without objects.
        specks: The number of objects of fewer than `SPECK` pixels that do not touch the border of the surveyed piece.
    """

    count: int
    pixels: list[float]
    width: float
    small: float
    specks: int

    @property
    def speck_share(self) -> float:
        """The share of specks among all regions."""
        return self.specks / max(self.specks + self.count, 1)

    @classmethod
    def of(cls, objects: Objects) -> ObjectSizes:
        """Summarise objects.

        Example:
            >>> strip = np.pad(np.ones((4, 200), bool), 3)
            >>> round(ObjectSizes.of(find_regions(strip)).width, 1)
            4.0
        """
        speck = objects[0] < SPECK
        specks = int(objects[2, speck].sum())
        area, distance, _ = objects[:, ~speck]
        if not len(area):
            return cls(0, [], np.nan, np.nan, specks)
        small = float(area[area < SMALL].sum() / area.sum())
        return cls(len(area), np.percentile(area, SPREAD).tolist(), float(4 * distance.sum() / area.sum()), small, specks)


def pieces(sizes: NDArray[np.int64], seed: int, most: int = PIXELS) -> list[tuple[int, Window]]:
    """Cut scenes of sizes ``[S, 2]`` into equal pieces with a side of about `PIECE` pixels: (scene, window), in order.

    If the pieces have more pixels than `most` in all, pieces with about `most` pixels are drawn at random.

    Example:
        >>> [(scene, window.height, window.width) for scene, window in pieces(np.array([[2048, 1000], [9, 9]]), seed=1)]
        [(0, 1024, 1000), (0, 1024, 1000), (1, 9, 9)]
    """
    found = [
        (scene, Window(left, top, right - left, bottom - top))
        for scene, (height, width) in enumerate(sizes.tolist())
        for (top, bottom), (left, right) in product(pairwise(cut(height, PIECE)), pairwise(cut(width, PIECE)))
    ]
    order = stream(seed, 0, "survey").permutation(len(found))
    area = np.array([window.height * window.width for _, window in found])[order]
    taken = order[np.cumsum(area) - area < most]
    return [found[i] for i in np.sort(taken)]


def survey(store: Store, seed: int) -> tuple[list[ObjectSizes], float]:
    """Summarise the objects of each class, piece by piece in threads; also returns the share of the pixels surveyed.

    An object that the border of a piece cuts counts as one object on each side.
    """
    taken, task, title = pieces(store.sizes, seed), store.task, "looking for objects"
    pixels, whole = sum(window.height * window.width for _, window in taken), int(store.sizes.prod(axis=1).sum())

    def look(piece: tuple[int, Window]) -> list[Objects]:
        scene, window = piece
        layer = store.arrays(scene)[1].get(task.target)
        if layer is None:
            return [find_regions(np.zeros((0, 0), bool))] * task.channels
        target = np.asarray(layer[..., *window.toslices()])
        return (
            find_boxes(target, task) if isinstance(task, Centres) else [find_regions(has) for has in task.class_masks(target)]
        )

    log.info("%s in %.3g Mpx, %.3g %% of the train split", title, pixels / 1e6, 100 * pixels / whole)
    with ThreadPoolExecutor(cores()) as pool, progress(taken, title) as steps:
        found = [objects for _, objects in zip(steps, pool.map(look, taken), strict=True)]
    return [ObjectSizes.of(np.concatenate(parts, axis=1)) for parts in zip(*found, strict=True)], pixels / whole
