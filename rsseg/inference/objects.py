"""The objects of a scene as a vector file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from shapely.affinity import affine_transform
from shapely.geometry import Point, box
from torch import Tensor

from rsseg.contract import InputError
from rsseg.data.raster import open_raster
from rsseg.files import atomic_write
from rsseg.metrics.objects import SCORE, boxes, peaks, suppress
from rsseg.task import Centres

FORMATS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""The vector files that are written, by suffix."""

COLUMNS = 256
"""Columns that are searched for objects at a time."""


def check_out(out: Path) -> None:
    """Refuse a file that no objects are written to.

    Raises:
        InputError: For another suffix.
    """
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"out={out}: objects are written as {' or '.join(FORMATS)}; take such a name")


class Objects:
    """Gathers the objects of a scene; an `rsseg.inference.scene.Output`.

    A centre is where the heat is highest among its neighbours, so that a row is searched once the one below it is known.

    Args:
        head: The head.
        task: Its task.
        height: Of the scene.
    """

    def __init__(self, head: str, task: Centres, height: int) -> None:
        self.head, self.task, self.height = head, task, height
        self._above: tuple[Tensor, NDArray[np.bool_]] | None = None
        self._found: list[Tensor] = []

    def rows(self, top: int, planes: Tensor, hidden: NDArray[np.bool_]) -> Tensor:
        """See `Output`: a table of objects, see `rsseg.metrics.objects`."""
        end, searched = top + planes.shape[1], 0
        if self._above is not None:
            above, hidden_above = self._above
            planes, hidden = torch.cat([above, planes], dim=1), np.concatenate([hidden_above, hidden])
            top, searched = top - above.shape[1], above.shape[1] - 1
        self._above = planes[:, -2:].clone(), hidden[-2:]
        stop = planes.shape[1] - (end < self.height)
        where = torch.from_numpy(~hidden).to(planes.device)
        where[:searched] = where[stop:] = False
        found = []
        for left in range(0, planes.shape[2], COLUMNS):
            first, last = max(0, left - 1), min(planes.shape[2], left + COLUMNS + 1)
            inside = where[:, first:last].clone()
            inside[:, : left - first] = False
            inside[:, left - first + COLUMNS :] = False
            own = peaks(planes[None, :, :, first:last], self.task, least=SCORE, where=inside[None])
            own[:, 3] += top
            own[:, 4] += first
            found.append(own.cpu())
        return torch.cat(found)

    def write(self, rows: Tensor) -> None:
        """See `Output`."""
        self._found.append(rows)

    def save(self, out: Path, image: Path) -> int:
        """Write the objects as a vector file in the scene's CRS, best first.

        A feature is the bounding box along the image's rows and columns, or a point where no sizes were learnt, with its
        `class` and `score`. Without a CRS coordinates are columns and rows.

        Args:
            out: A GeoPackage or GeoJSON file.
            image: The scene's image.

        Returns:
            How many there are.

        Raises:
            UnwritableError: If the file can't be written.
        """
        import geopandas  # with pandas it takes half a second to import

        objects = suppress(torch.cat(self._found)).numpy()
        raster = open_raster(image)
        if self.task.sized:
            shapes: list[Any] = [box(*corners) for corners in boxes(torch.from_numpy(objects)).tolist()]
        else:
            shapes = [Point(column, row) for row, column in objects[:, 3:5].tolist()]
        frame = geopandas.GeoDataFrame(
            {
                "class": [self.task.classes[int(label)] for label in objects[:, 1]],
                "score": objects[:, 2].astype(np.float64).round(4),
            },
            geometry=[affine_transform(shape, raster.transform.to_shapely()) for shape in shapes],
            crs=None if raster.crs is None else raster.crs.to_wkt(),
        )
        kind = "Polygon" if self.task.sized else "Point"
        with atomic_write(out) as part, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about scenes without objects, or without a CRS
            frame.to_file(part, driver=FORMATS[out.suffix.lower()], engine="pyogrio", layer="objects", geometry_type=kind)
        return len(frame)
