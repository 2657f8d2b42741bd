"""Vector layers of objects, points or shapes, decoded to the planes that `rsseg.task.Centres` describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from shapely.affinity import affine_transform
from shapely.geometry import box

from rsseg.contract import InputError, check_number
from rsseg.data.masks import Array, Mask, MaskReader
from rsseg.data.raster import open_raster
from rsseg.task import OBJECT_PLANES, Task
from rsseg.task.centres import gaussian_sigma, whole_radius

ROOM = 2  # pixels beyond the Gaussian's radius that store the object too, for augmentations that scale the window


class Boxes(MaskReader):
    """Decodes the features of a vector file to objects: their bounding boxes in pixels of the image's grid.

    A point has sides of `size` pixels, or of unknown length (NaN) if it is None. A feature's mask value is the number of its
    class, from 1; without an attribute all features have the first class. Pixels in the boxes of ignored features are unknown.

    Example:
        >>> from rsseg.task import Centres
        >>> boxes = Boxes(Centres(("car",)))
        >>> planes = boxes.draw(np.array([[1, 1.0, 0.0, 5.0, 4.0]]), (6, 4))
        >>> planes[:, 3, 2].tolist(), planes[0].sum().item()
        ([1.0, -0.5, -0.5, 4.0, 4.0], 24.0)
    """

    mask_bands = 1  # features have one mask value each

    def __init__(self, task: Task, size: float | None = None, ignore: Sequence[Any] = ()) -> None:
        if not all(type(value) is int for value in ignore):
            raise InputError(f"dataset.ignore_values={list(ignore)}: mask values of features are expected, whole numbers")
        wrong = [value for value in ignore if 1 <= value <= task.channels]
        if wrong:
            raise InputError(f"dataset.ignore_values={list(ignore)}: {wrong[0]} is the class {task.classes[wrong[0] - 1]}")
        self.task, self.ignore = task, tuple(ignore)
        self.size = None if size is None else check_number("dataset.size", size, 1.0)

    @property
    def signature(self) -> tuple[object, ...]:
        return "boxes", self.size, self.ignore

    def check_bands(self, name: str, bands: int) -> None:
        raise InputError(
            f"{name}: it is a raster, but task=centres takes a vector file (GeoPackage, GeoJSON, Shapefile, FlatGeobuf) of "
            "points, boxes or polygons; for masks take task=binary or multiclass"
        )

    def check_features(self, name: str, values: NDArray[np.int32]) -> None:
        known = [*range(1, self.task.channels + 1), *self.ignore]
        wrong, counts = np.unique(values[~np.isin(values, known)], return_counts=True)
        if len(wrong):
            numbered = ", ".join(f"{i} {label}" for i, label in enumerate(self.task.classes, 1))
            raise InputError(
                f"{name}: {counts[0]} features have the mask value {wrong[0]}, but classes are numbered from 1: {numbered}. "
                "Name the attribute that holds the class in dataset.source.attribute, give its values numbers in "
                f"dataset.source.values, or leave features out with dataset.ignore_values={wrong.tolist()}"
            )

    def read(self, mask: Mask, window: Window, image: Path) -> Array:
        """See `MaskReader`: float32 ``[5, h, w]``."""
        from rsseg.data.vector import read_features

        shapes, values = read_features(mask, image)
        self.check_features(str(mask.path), values)
        to_ground = open_raster(image).window_transform(window)
        height, width = int(window.height), int(window.width)
        room = 2 * ROOM + (self.size or 0)  # Gaussians are narrower than their boxes, but for the smallest
        area = affine_transform(box(-room, -room, width + room, height + room), to_ground.to_shapely())
        near = np.sort(shapes.sindex.query(area))
        left, top, right, bottom = shapes.iloc[near].affine_transform((~to_ground).to_shapely()).bounds.to_numpy().T
        return self.draw(np.stack([values[near], top, left, bottom, right], axis=1), (height, width))

    def draw(self, boxes: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Planes ``[5, *shape]`` from boxes ``[N, 5]``: mask value, top, left, bottom and right, in pixels of the window.

        Each pixel stores the object whose Gaussian is highest there; in a tie, the last one.
        """
        planes = np.zeros((len(OBJECT_PLANES), *shape), dtype=np.float32)
        lowest = np.full(shape, np.inf)  # the least squared distance to a centre, in units of sigma squared
        corners = boxes[:, 1:].reshape(-1, 2, 2)
        sides = np.diff(corners, axis=1)[:, 0]
        points = (sides == 0).all(axis=1)
        sides[points] = np.nan if self.size is None else self.size
        radius = whole_radius(*sides.T)
        for label, centre, side, reach in zip(boxes[:, 0], corners.mean(axis=1), sides, radius + ROOM, strict=True):
            if label in self.ignore:
                continue
            pixel = np.floor(centre).astype(int)
            first, stop = np.maximum(pixel - int(reach), 0), np.minimum(pixel + int(reach) + 1, shape)
            if (stop <= first).any():
                continue
            rows, columns = (np.arange(a, b) for a, b in zip(first, stop, strict=True))
            apart = ((rows - pixel[0])[:, None] ** 2 + (columns - pixel[1]) ** 2) / gaussian_sigma(reach - ROOM) ** 2
            here = slice(first[0], stop[0]), slice(first[1], stop[1])
            nearest = apart <= lowest[here]
            lowest[here][nearest] = apart[nearest]
            inner = pixel + np.minimum(centre - pixel, 1 - 1e-6)  # so that float32 does not round it into the next pixel
            down, across = np.meshgrid(inner[0] - rows - 0.5, inner[1] - columns - 0.5, indexing="ij")
            for plane, value in zip(planes, (label, down, across, *side), strict=True):
                plane[here][nearest] = np.broadcast_to(value, nearest.shape)[nearest]
        around = np.where(points, (self.size or 0) / 2, 0)[:, None]
        begin = np.floor(corners[:, 0] - around)
        end = np.maximum(np.ceil(corners[:, 1] + around), begin + 1)  # a point touches a pixel
        touched = np.concatenate([begin, end], axis=1).clip(min=0).astype(int)
        for top, left, bottom, right in touched[np.isin(boxes[:, 0], self.ignore)]:
            planes[:, top:bottom, left:right] = np.nan
        return planes
