"""The objects of a whole scene as a vector file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import torch
from shapely.affinity import affine_transform
from shapely.geometry import Point, box
from torch import Tensor

from rsseg.contract import InputError
from rsseg.data.raster import open_raster
from rsseg.data.scene import SceneReader
from rsseg.files import atomic_write
from rsseg.inference.windows import Predicted, predict_scene_windows
from rsseg.metrics.objects import MARGIN, SCORE, boxes, peaks, suppress
from rsseg.module import SegmentationModule
from rsseg.task import Centres

FORMATS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""The vector files that are written, by suffix."""


def check_out(out: Path) -> None:
    """Refuse a file that no objects are written to.

    Raises:
        InputError: For another suffix.
    """
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"out={out}: objects are written as {' or '.join(FORMATS)}; take such a name")


@torch.inference_mode()
def predict_objects(
    module: SegmentationModule, head: str, reader: SceneReader, out: Path, size: int, overlap: int, batch_size: int
) -> int:
    """Write the objects of one scene as a vector file in the scene's CRS, each once, best first.

    A feature is the bounding box along the image's rows and columns, or a point where no sizes were learnt, with its `class`
    and `score`. Without a CRS coordinates are columns and rows. Objects where the image has no data are left out.

    Args:
        module: The trained module, on its device.
        head: The head to predict with.
        reader: A reader of the scene.
        out: A GeoPackage or GeoJSON file.
        size: The windows' side.
        overlap: Pixels cut away at each inner border.
        batch_size: Windows at a time.

    Returns:
        How many there are.

    Raises:
        UnwritableError: If the file can't be written.
    """
    task = module.tasks[head]
    assert isinstance(task, Centres)
    batches = predict_scene_windows(module, head, reader, size, overlap, batch_size)
    objects = suppress(torch.cat([_candidates(batch, task) for batch in batches])).cpu().numpy()
    image = open_raster(reader.scene.image)
    if task.sized:
        shapes: list[Any] = [box(*corners) for corners in boxes(torch.from_numpy(objects)).tolist()]
    else:
        shapes = [Point(column, row) for row, column in objects[:, 3:5].tolist()]
    frame = geopandas.GeoDataFrame(
        {
            "class": [task.classes[int(label)] for label in objects[:, 1]],
            "score": objects[:, 2].astype(np.float64).round(4),
        },
        geometry=[affine_transform(shape, image.transform.to_shapely()) for shape in shapes],
        crs=None if image.crs is None else image.crs.to_wkt(),
    )
    kind = "Polygon" if task.sized else "Point"
    with atomic_write(out) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about scenes without objects, or without a CRS
        frame.to_file(part, driver=FORMATS[out.suffix.lower()], engine="pyogrio", layer="objects", geometry_type=kind)
    return len(frame)


def _candidates(batch: Predicted, task: Centres) -> Tensor:
    """The objects of a batch of windows, in the scene's pixels; near the borders of windows some are there twice."""
    counts = torch.zeros(len(batch.cores), *batch.logits.shape[2:], dtype=torch.bool)
    for i, core in enumerate(batch.cores):
        rows = slice(max(0, core.inner_top - MARGIN), core.inner_bottom + MARGIN)
        columns = slice(max(0, core.inner_left - MARGIN), core.inner_right + MARGIN)
        counts[i, rows, columns] = torch.from_numpy(~batch.missing[i][rows, columns])
    planes = task.predict(batch.logits.float())
    found = peaks(planes, task, least=SCORE, where=counts.to(planes.device))
    corners = torch.tensor([[core.top, core.left] for core in batch.cores], device=found.device)
    found[:, 3:5] += corners[found[:, 0].long()]
    found[:, 0] = 0
    return found
