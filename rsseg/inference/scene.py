"""A georeferenced map of a scene, window by window, so that the scene may be larger than memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from rsseg.contract import unknown
from rsseg.data.raster import georeference, new_raster
from rsseg.data.scene import SceneReader
from rsseg.inference.windows import predict_scene_windows
from rsseg.module import SegmentationModule
from rsseg.pictures.colours import colours
from rsseg.task import Regression

log = logging.getLogger(__name__)


def predict_scene(
    module: SegmentationModule,
    head_name: str,
    reader: SceneReader,
    out: Path,
    size: int,
    overlap: int,
    batch_size: int,
    palette: Sequence[str] | None,
) -> None:
    """Write the predicted labels of one scene as a GeoTIFF on the scene's own grid.

    Windows overlap; what lies near their inner borders is cut away. A map of labels is uint8 with the dataset's colours, one
    band (multilabel: one per label), 255 where the image has no data. A map of real values is float32 in their units, one band
    per value, NaN where the image has no data. It is written whole or not at all.

    Args:
        module: The trained module, on its device.
        head_name: The head to predict with.
        reader: A reader of the scene.
        out: The file to write.
        size: The windows' side.
        overlap: Pixels cut away at each inner border.
        batch_size: Windows at a time.
        palette: The dataset's colours, if it has any.

    Raises:
        UnwritableError: If the map can't be written.
    """
    task = module.tasks[head_name]
    place = georeference(reader.scene.image)
    if not place:
        log.info("%s says nothing of its place on the Earth, nor does the map.", reader.scene.image)
    height, width = reader.size
    planes, painted = math.prod(task.label_planes), not task.real and not task.label_planes
    nothing = np.array(unknown(np.zeros(0, task.map_dtype)), task.map_dtype)
    with new_raster(
        out, height=height, width=width, count=planes, dtype=task.map_dtype.name, nodata=nothing.item(),
        tiled=True, blockxsize=256, blockysize=256, compress="deflate", bigtiff="if_safer",
        photometric="PALETTE" if painted else "MINISBLACK", **place,
    ) as target:  # fmt: skip
        if isinstance(task, Regression):
            target.descriptions, target.units = task.classes, task.units or ("",) * planes
        if painted:
            target.write_colormap(1, {i: _rgb(c) for i, c in enumerate(colours(task, palette))})
        for batch in predict_scene_windows(module, head_name, reader, size, overlap, batch_size):
            labels = module.labels(head_name, batch.logits).cpu().numpy().astype(task.map_dtype)
            for core, label, absent in zip(batch.cores, labels, batch.missing, strict=True):
                rows, columns = slice(core.inner_top, core.inner_bottom), slice(core.inner_left, core.inner_right)
                part = np.where(absent, nothing, label).reshape(-1, size, size)[:, rows, columns]
                window = Window(core.left + core.inner_left, core.top + core.inner_top, part.shape[2], part.shape[1])
                target.write(part, window=window)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
