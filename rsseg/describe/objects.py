"""The objects of each class in a split: how large they are, how wide, and which are but specks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt, find_objects, label

from rsseg.contract import known
from rsseg.data.build import cores
from rsseg.data.grids import ground_resolution
from rsseg.data.masks import MaskReader
from rsseg.data.sampling import stream
from rsseg.data.splits import cut
from rsseg.data.store import Store
from rsseg.progress import progress
from rsseg.task import Centres

log = logging.getLogger(__name__)

SPECK = 5  # objects of fewer pixels are specks: a hint of label noise rather than something to be mapped

SMALL = 32**2
"""Objects of fewer pixels are small (the limit of COCO, Lin et al. 2014)."""

SPREAD = (5, 50, 95)  # the percentiles that sizes are summed up by
PIECE = 1024  # about the side of the pieces that larger scenes are cut into, so that memory does not grow with theirs
PIXELS = 1 << 25  # about how many pixels of a split are looked at: of a larger one, pieces drawn at random


class Objects(NamedTuple):
    """The connected regions (also across corners) of one class in one mask."""

    area: NDArray[np.int64]  # int64 ``[N]``, pixels
    distance: NDArray[np.float64]  # float64 ``[N]``, the sum over its pixels of the distance from their centre to its edge
    inside: NDArray[np.bool_]  # bool ``[N]``, true for those that the mask's border does not cut off
    ground: NDArray[np.float64]  # float64 ``[N]``, square metres; NaN where they are not known

    @classmethod
    def join(cls, parts: Sequence[Objects]) -> Objects:
        """The objects of several masks."""
        return cls(*(np.concatenate(field) for field in zip(*parts, strict=True))) if parts else find(np.zeros((0, 0), bool))


def find(has: NDArray[np.bool_], pixel: float = np.nan) -> Objects:
    """The objects of a mask bool ``[H, W]`` with so many square metres per pixel. Its border counts as an edge.

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
    border = np.ones(has.shape, bool)
    border[1:-1, 1:-1] = False
    inside = np.ones(count, bool)
    inside[numbered[1:-1, 1:-1][border[box] & has[box]] - 1] = False
    return Objects(area, distance, inside, area * np.float64(pixel))


def find_boxes(target: NDArray[np.generic], task: Centres, pixel: float = np.nan) -> list[Objects]:
    """The objects of each class whose centres lie in a target of boxes, those of known size: their area is that of the box.

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

    @property
    def speck_share(self) -> float:
        """The share of specks among all regions."""
        return self.specks / max(self.specks + self.count, 1)

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


class Survey(NamedTuple):
    """What was found in a split."""

    objects: list[ObjectSizes]  # per class
    pixels: int  # how many pixels were looked at
    share: float  # that is this share of the split
    missing: int  # how many of them have no data in the image
    labelled: int  # how many of those the mask gives a label all the same


def pieces(sizes: NDArray[np.int64], seed: int, most: int = PIXELS) -> list[tuple[int, Window]]:
    """Scenes cut into equal pieces of about `PIECE` pixels; if they are too many, some of them drawn at random.

    Args:
        sizes: ``[S, 2]``, height and width of each scene.
        seed: Of the draw.
        most: No further piece is taken once there are so many pixels.

    Returns:
        Scenes and windows in them, in the order of the scenes.

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


def survey(store: Store, mask_readers: Sequence[MaskReader], bands: list[int], seed: int) -> Survey:
    """Look for the objects of each class, and for labels where there is no data, piece by piece, in threads.

    An object that the border of a piece goes through counts with what is seen of it, once on either side.
    """
    taken, task, title = pieces(store.sizes, seed), store.task, "looking for objects"
    place = [mask_reader.task.target for mask_reader in mask_readers].index(task.target)
    pixels, whole = sum(w.height * w.width for _, w in taken), int(store.sizes.prod(axis=1).sum())

    def look(piece: tuple[int, Window]) -> tuple[list[Objects], int, int]:
        scene, window = piece
        inside = (..., *window.toslices())
        _, layers, missing = store.arrays(scene)
        side, layer = ground_resolution(*store.scenes[scene].place()), layers.get(task.target)
        pixel = float("nan") if side is None else side**2
        target = task.unknown_target((window.height, window.width)) if layer is None else np.asarray(layer[inside])
        if isinstance(task, Centres):
            objects = find_boxes(target, task, pixel)
        else:
            objects = [find(has, pixel) for has in task.class_masks(target)]
        gone = np.zeros(0, bool) if missing is None else np.asarray(missing[inside])
        if not gone.any():
            return objects, 0, 0
        given = known(store.scenes[scene].reader(mask_readers, bands).read_mask(window, place))
        return objects, int(gone.sum()), int(((given.any(axis=0) if given.ndim == 3 else given) & gone).sum())

    log.info("%s in %.3g Mpx, %.3g %% of the train split", title, pixels / 1e6, 100 * pixels / whole)
    with ThreadPoolExecutor(cores()) as pool, progress(taken, title) as steps:
        found = [result for _, result in zip(steps, pool.map(look, taken), strict=True)]
    classes, missing, labelled = zip(*found, strict=True)
    joined = [ObjectSizes.of(Objects.join(parts)) for parts in zip(*classes, strict=True)]
    return Survey(joined, pixels, pixels / whole, sum(missing), sum(labelled))
