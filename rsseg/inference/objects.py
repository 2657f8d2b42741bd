"""Objects on pictures, and the objects of a whole scene as a vector file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import Batch, InputError, layers_of
from rsseg.data.raster import open_raster
from rsseg.data.scene import SceneReader
from rsseg.files import atomic_write
from rsseg.inference.windows import Predicted, predict_scene_windows
from rsseg.metrics.objects import MARGIN, SCORE, boxes, labelled_objects, match, peaks, suppress
from rsseg.module import SegmentationModule
from rsseg.task import Centres

FORMATS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""The vector files that are written, by suffix."""

FOUND, WRONG, MISSED = "#1a9641", "#d6006c", "#1f6fd6"
"""The colours of what is right, a false alarm, and missed."""


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
    import geopandas
    from shapely.affinity import affine_transform
    from shapely.geometry import Point, box

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


def window_objects(task: Centres, windows: Sequence[Batch], logits: Tensor) -> list[Any]:
    """Image, objects that are there and objects that are found, of windows: what `draw_objects` takes.

    Args:
        task: The head's task.
        windows: Each a batch of one.
        logits: ``[windows, K + 4, H, W]``.
    """
    found = suppress(peaks(task.predict(logits.float()), task, least=SCORE)).cpu().numpy()
    rows = []
    for i, window in enumerate(windows):
        truth = labelled_objects(task.standardise(layers_of(window)[task.target]), task).numpy()
        rows.append((window["image"][0].numpy(), truth, found[found[:, 0] == i]))
    return rows


def outline(axis: Axes, objects: NDArray[Any], colours: Sequence[str]) -> None:
    """Draw objects on an image: boxes, or crosses where sizes are not known."""
    corners = (
        boxes(torch.from_numpy(np.asarray(objects, dtype=np.float32))).numpy() - 0.5
    )  # pixels have their centres at whole numbers
    for own, (left, top, right, bottom), colour in zip(objects, corners, colours, strict=True):
        if np.isnan(own[5:]).any():
            axis.plot(own[4] - 0.5, own[3] - 0.5, "+", color=colour, markersize=5, markeredgewidth=1.2)
            continue
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.0))


def by_match(truth: NDArray[Any], found: NDArray[Any], classes: int) -> tuple[list[str], list[str]]:
    """The colours of the objects that are there, and of those that are found, by whether they match."""
    missed, wrong = [MISSED] * len(truth), [WRONG] * len(found)
    for label in range(classes):
        own, there = (np.flatnonzero(table[:, 1] == label) for table in (found, truth))
        for i, j in zip(*match(found[own], truth[there]), strict=True):
            wrong[own[i]] = missed[there[j]] = FOUND
    return missed, wrong


def unlike_objects(predictions: Sequence[NDArray[Any]], classes: int) -> float:
    """How many objects of each prediction but the first do not match one of the first, and of the first one of theirs."""
    pairs = [by_match(predictions[0], other, classes) for other in predictions[1:]]
    return float(sum(missed.count(MISSED) + wrong.count(WRONG) for missed, wrong in pairs))


def draw_objects(
    figure: Figure,
    axes: NDArray[np.object_],
    task: Centres,
    shades: Sequence[str],
    rows: Sequence[Any],
    pictures: Sequence[Any],
) -> None:
    """Objects that are there, that are found, and which of them match, each on the image, and a legend.

    Args:
        figure: Where the legend goes.
        axes: ``[windows, 3]``.
        task: The head's task.
        shades: The colours of the classes.
        rows: As `window_objects` gives them.
        pictures: The windows' images, as Matplotlib shows them.
    """
    for line, (_, truth, found), picture in zip(axes, rows, pictures, strict=True):
        missed, wrong = by_match(truth, found, task.channels)
        for axis in line:
            axis.imshow(picture)
        for axis, objects in zip(line, (truth, found), strict=False):
            outline(axis, objects, [shades[int(label)] for label in objects[:, 1]])
        outline(line[2], found, wrong)
        left = [i for i, colour in enumerate(missed) if colour == MISSED]
        outline(line[2], truth[left], [MISSED] * len(left))
    entries = [*zip(shades, task.classes, strict=False), *zip((FOUND, WRONG, MISSED), task.error_names, strict=True)]
    handles = [Line2D([], [], color=colour, label=name) for colour, name in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)), frameon=False)
