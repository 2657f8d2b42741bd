"""Panels of windows: image, target, predictions and errors beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch, Rectangle
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

from rsseg.contract import IGNORE, known
from rsseg.metrics.objects import boxes
from rsseg.pictures.colours import FOUND, GREY, MISSED, WRONG, as_rgb, colours, paint
from rsseg.pictures.windows import Row, by_match, window_score
from rsseg.savefig import save
from rsseg.task import Centres, Regression, Task

WIDTH, SIDE = 12.8, 2.5
"""The width of a row of panels, and the largest side of a panel, in inches."""

COLUMNS = range(5, 9)
"""The candidate numbers of columns: the one with the fewest empty places in the grid is taken."""

UNLABELLED = "not labelled"
"""The name of unknown pixels in the legend."""

STRIPES = 32
"""The number of stripes along a side of what is not labelled."""

SIZE = 8
"""The font size of panels, in points."""


def draw_windows(
    path: Path,
    task: Task,
    palette: Sequence[str] | None,
    rows: Sequence[Row],
    shown: Sequence[int] | None = None,
    models: Sequence[str] = (),
) -> None:
    """Write a PNG of windows: image, target, prediction and errors; with several models, only the errors of each.

    `palette` are the dataset's colours, if it has any, `shown` are the indices of the bands for red, green and blue (see
    `stretch`), `models` are the names of the models, if there are several.
    """
    truth = "objects" if isinstance(task, Centres) else "target"
    in_class = ", in the colour of the predicted class" * (not isinstance(task, Regression) and len(task.error_names) == 2)
    titles = ["image", truth, *(models or ("prediction", f"errors{in_class}"))]
    number = len(titles)
    columns = number if number <= max(COLUMNS) else min(reversed(COLUMNS), key=lambda each: -number % each)
    lines, side = -(-number // columns), min(SIDE, WIDTH / columns)
    titles = [textwrap.fill(title, int(11 * side), break_on_hyphens=False) for title in titles]
    titled = lines * len(rows) if lines > 1 else 1
    text = titled * (0.2 + 0.13 * max(title.count("\n") for title in titles)) + 0.5 + 0.04 * len(task.drawn_names)
    figure = Figure(figsize=(side * columns, (side + 0.25) * lines * len(rows) + text), layout="constrained")
    axes = figure.subplots(lines * len(rows), columns, squeeze=False).reshape(len(rows), -1)
    for axis in axes[:, number:].flat:
        axis.set_axis_off()
    for own in axes[:, :number] if lines > 1 else axes[:1]:
        for axis, title in zip(own, titles, strict=True):
            axis.set_title(title, fontsize=SIZE, loc="left")
    fill_panels(figure, axes[:, :number], task, palette, rows, shown)
    pixels = max(row.image.shape[-1] for row in rows)
    save(figure, path, dpi=float(np.clip(pixels / side, 110, 180)), bbox_inches="tight")


def fill_panels(
    figure: Figure | SubFigure,
    axes: NDArray[np.object_],
    task: Task,
    palette: Sequence[str] | None,
    rows: Sequence[Row],
    shown: Sequence[int] | None = None,
) -> None:
    """Draw windows, with scene names and scores, into axes ``[rows, panels]``, and the legend below.

    Panels are image, target, predictions if there are enough panels, and the errors of each prediction.

    Errors of labels are drawn over the image: false positives and negatives of a binary task, otherwise the wrongly predicted
    class. If there are several real values, the first is drawn, on one scale for all windows.
    """
    shades, scales = colours(task, palette), _scales(rows) if isinstance(task, Regression) else []
    first: Any = axes.flat[0]
    grid = first.get_gridspec()
    room = 0.9 * 72 * figure.bbox.width / figure.get_dpi() / grid.ncols
    drawn: list[Any] = [None] * 2
    for own, row, image in zip(axes, rows, stretch([row.image for row in rows], shown), strict=True):
        own[0].imshow(image)
        own[0].set_xlabel(shorten(row.scene, room), fontsize=SIZE, loc="left")
        whole = len(own) - 2 - len(row.predictions)  # the number of predictions with a panel besides that of their errors
        truths = [row.target, *row.predictions[:whole]]
        for axis, labels in zip(own[1:], truths, strict=False):
            drawn[0] = _show(axis, task, shades, scales, image, labels)
        for axis, prediction in zip(own[1 + len(truths) :], row.predictions, strict=True):
            drawn[1] = _show(axis, task, shades, scales, image, prediction, row.target)
            score = window_score(task, row.target, prediction)
            unit = f" {task.units[0]}" if isinstance(task, Regression) and task.units else ""
            text = f"{task.score_name} {score:.3f}{unit}" if np.isfinite(score) else "nothing to score"
            axis.set_xlabel(text, fontsize=SIZE, loc="left")
        for axis in own:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(linewidth=0.5, color="#555555")
    if isinstance(task, Regression):
        unit = f" in {task.units[0]}" if task.units else ""
        for scale, name in zip(drawn, (task.classes[0], "prediction - target"), strict=True):
            if scale is not None:
                figure.colorbar(scale, ax=axes, label=f"{name}{unit}", location="bottom", shrink=0.7, aspect=40)
        return
    entries = [*zip(shades, task.drawn_names, strict=True)]
    if not isinstance(task, Centres) and not all(known(row.target).all() for row in rows):
        entries.append((GREY, UNLABELLED))
    if rows[0].predictions and len(task.error_names) > 2:
        entries += [*zip((FOUND, WRONG, MISSED), task.error_names, strict=True)][0 if isinstance(task, Centres) else 1 :]
    patches = [Patch(facecolor=colour, edgecolor="#888888", label=name) for colour, name in entries]
    for patch in patches:
        if patch.get_label() == UNLABELLED:
            patch.set(hatch="////", edgecolor="#ffffff")
    legend(figure, patches)


def _show(
    axis: Axes, task: Task, shades: Sequence[str], scales: Any, image: NDArray[Any], labels: NDArray[Any], truth: Any = None
) -> Any:
    """Draw labels or values, or their errors if the truth is given."""
    if isinstance(task, Centres):
        axis.imshow(image)
        if truth is None:
            return _outline(axis, labels, [shades[int(label)] for label in labels[:, 1]])
        missed, found = by_match(truth, labels, task.channels)
        _outline(axis, labels, found)
        left = [i for i, colour in enumerate(missed) if colour == MISSED]
        return _outline(axis, truth[left], [MISSED] * len(left))
    if isinstance(task, Regression):
        return axis.imshow(labels[0] if truth is None else labels[0] - truth[0], **scales[truth is not None])
    shown = task.flatten(labels)
    painted, unknown = paint(shown, shades) / 255, shown == IGNORE
    if truth is not None:
        errors = task.errors(truth, labels)
        if len(task.error_names) > 2:
            painted = paint(errors, ("#ffffff", WRONG, MISSED)) / 255
        faint, unknown = 0.6 * image + 0.4, errors == IGNORE
        painted = np.where((errors == 0)[..., None], faint, 0.2 * faint + 0.8 * painted)
    painted[unknown] = stripes(unknown.shape)[unknown]
    return axis.imshow(painted)


def stripes(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Grey and white diagonal stripes ``[H, W, 3]``, which mark what is not labelled: no image looks like them."""
    row, column = np.indices(shape)
    white = (row + column) // max(1, max(shape) // STRIPES) % 2
    return np.where(white[..., None], 1.0, as_rgb([GREY])[0] / 255)


def _outline(axis: Axes, objects: NDArray[Any], colours: Sequence[str]) -> None:
    """Draw a table of objects on an image, as boxes, or as crosses if sizes are not known."""
    corners = boxes(torch.from_numpy(np.asarray(objects, dtype=np.float32))).numpy()
    corners -= 0.5  # Matplotlib puts pixel centres at integers
    for own, (left, top, right, bottom), colour in zip(objects, corners, colours, strict=True):
        if np.isnan(own[5:]).any():
            axis.plot(own[4] - 0.5, own[3] - 0.5, "+", color=colour, markersize=5, markeredgewidth=1.2)
            continue
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.0))


def _scales(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Matplotlib's scales for real values, from the 1st to the 99th percentile of the targets, and for their errors."""
    truth = np.stack([row.target[0] for row in rows])
    errors = [abs(prediction[0] - row.target[0]) for row in rows for prediction in row.predictions]
    there = np.isfinite(truth).any()
    low, high = np.nanpercentile(truth, (1, 99)) if there else (0.0, 1.0)
    reach = max(float(np.nanpercentile(errors, 99)) if there and errors else 0.0, 1e-9)
    scales = ("viridis", low, high), ("RdBu_r", -reach, reach)
    return [{"cmap": mpl.colormaps[m].with_extremes(bad=GREY), "vmin": a, "vmax": b} for m, a, b in scales]


def stretch(images: Sequence[NDArray[Any]], shown: Sequence[int] | None = None) -> list[NDArray[np.float64]]:
    """Stretch three bands of each image between the 2nd and 98th percentile of all images, to ``[H, W, 3]`` in [0, 1].

    Since the percentiles are common, a dark scene stays darker than a bright one. 8-bit bands, mostly photographs, share one
    stretch, which preserves their colours; other bands have one each.

    Args:
        images: ``[C, H, W]`` each.
        shown: The indices of the bands for red, green and blue; None: the first three, or the first as grey.
    """
    bands = list(shown) if shown else [0, 1, 2] if len(images[0]) >= 3 else [0, 0, 0]
    picked = [image[bands].astype(np.float64) for image in images]
    together = np.concatenate([image.reshape(3, -1) for image in picked], axis=1)
    every, axis = max(1, together.shape[1] // 500_000), None if images[0].dtype == np.uint8 else 1
    low, high = np.reshape(np.nanpercentile(together[:, ::every], (2, 98), axis=axis), (2, -1, 1, 1))
    return [np.clip((image - low) / np.maximum(high - low, 1e-9), 0, 1).transpose(1, 2, 0) for image in picked]


def legend(figure: Figure | SubFigure, handles: Sequence[Artist]) -> None:
    """Draw the legend of colours below a figure, in as many columns as fit."""
    room = 72 * figure.bbox.width / figure.get_dpi()
    for handle in handles:
        handle.set_label(shorten(str(handle.get_label()), room / 2))
    widest = max(_width(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(0.95 * room / (widest + 5 * SIZE))))
    figure.legend(handles=list(handles), loc="outside lower left", ncols=columns, frameon=False, fontsize=SIZE)


def _width(text: str) -> float:
    """The width of a line of text, in points."""
    return float(TextToPath().get_text_width_height_descent(text, FontProperties(size=SIZE), False)[0])


def shorten(text: str, room: float) -> str:
    """A line of text, shortened in the middle until its width is at most `room` points."""
    kept, shown = len(text), text
    while _width(shown) > room and kept > 2:
        kept -= 1
        shown = f"{text[: -(-kept // 2)]}...{text[len(text) - kept // 2 :]}"
    return shown
