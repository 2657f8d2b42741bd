"""What the census does not count: a split's objects, and labels where the image has no data. Piece by piece, in threads."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from rsseg.contract import known
from rsseg.data.build import cores
from rsseg.data.decoder import Decoder
from rsseg.data.objects import Objects, ObjectSizes, find, find_boxes
from rsseg.data.raster import open_raster
from rsseg.data.regions import cut
from rsseg.data.sampling import stream
from rsseg.data.scene import Scene, SceneReader
from rsseg.data.store import Store
from rsseg.progress import progress
from rsseg.task import Centres

log = logging.getLogger(__name__)

PIECE = 1024
"""About the side of the pieces that larger scenes are cut into, so that memory does not grow with theirs."""

PIXELS = 1 << 25
"""About how many pixels of a split are looked at: of a larger one, pieces drawn at random."""


@dataclass(frozen=True)
class Survey:
    """What was found in a split.

    Attributes:
        objects: Per class.
        pixels: How many pixels were looked at.
        share: That is this share of the split.
        missing: How many of them have no data in the image.
        labelled: How many of those the mask gives a label all the same.
    """

    objects: list[ObjectSizes]
    pixels: int
    share: float
    missing: int
    labelled: int


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


def square_metres(scene: Scene) -> float:
    """The area of a pixel on the ground; NaN if the image's coordinates are not in a unit of length.

    A projection stretches lengths (Web Mercator by twice at 60 degrees), which is not undone here.
    """
    raster = open_raster(scene.image)
    if raster.crs is None or not raster.crs.is_projected:
        return float("nan")
    return float(abs(raster.transform.determinant) * raster.crs.linear_units_factor[1] ** 2)


def survey(store: Store, decoders: Sequence[Decoder], bands: list[int], seed: int, title: str) -> Survey:
    """Look for the objects of each class, and for labels where there is no data.

    An object that the border of a piece goes through counts with what is seen of it, once on either side.

    Args:
        store: The split's scenes.
        decoders: How the masks of each target are decoded.
        bands: The image bands to read, counted from 1.
        seed: Of the pieces that are drawn where not all can be looked at.
        title: What the progress bar and lines begin with.
    """
    taken, place = pieces(store.sizes, seed), [decoder.task.target for decoder in decoders].index(store.task.target)
    pixels, whole = sum(w.height * w.width for _, w in taken), int(store.sizes.prod(axis=1).sum())
    log.info("%s: %d pieces, %.3g Mpx, %.3g %% of the split", title, len(taken), pixels / 1e6, 100 * pixels / whole)

    def look(piece: tuple[int, Window]) -> tuple[list[Objects], int, int]:
        scene, window = piece
        rows, columns = window.toslices()
        _, layers, missing = store.arrays(scene)
        pixel, task = square_metres(store.scenes[scene]), store.task
        known_of = layers.get(task.target)
        part = task.unknown_target((window.height, window.width)) if known_of is None else known_of[..., rows, columns]
        target = np.asarray(part)
        if isinstance(task, Centres):
            objects = find_boxes(target, task, pixel)
        else:
            objects = [find(has, pixel) for has in task.class_masks(target)]
        gone = np.zeros(0, bool) if missing is None else np.asarray(missing[rows, columns])
        if not gone.any():
            return objects, 0, 0
        given = known(SceneReader([store.scenes[scene]], decoders, bands).read_mask(0, window, place))
        return objects, int(gone.sum()), int(((given.any(axis=0) if given.ndim == 3 else given) & gone).sum())

    with ThreadPoolExecutor(cores()) as pool, progress(taken, title) as steps:
        found, began, say_at = [], time.monotonic(), 10.0
        for done, (_, result) in enumerate(zip(steps, pool.map(look, taken), strict=True), start=1):
            found.append(result)
            gone = time.monotonic() - began
            if gone > say_at and done < len(taken) and not sys.stdout.isatty():
                log.info("%s: %d of %d, about %.0f s left", title, done, len(taken), gone / done * (len(taken) - done))
                say_at *= 2
    classes, missing, labelled = zip(*found, strict=True)
    joined = [ObjectSizes.of(Objects.join(parts)) for parts in zip(*classes, strict=True)]
    return Survey(joined, pixels, pixels / whole, sum(missing), sum(labelled))
