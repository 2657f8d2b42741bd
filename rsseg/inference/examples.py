"""Windows that several models label differently: image, mask, and a prediction per model."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from rsseg.contract import IGNORE, Batch
from rsseg.figure import save
from rsseg.inference.objects import outline, unlike_objects
from rsseg.inference.picture import GREY, colours, in_unit, paint, predict_windows, stretch, value_shades
from rsseg.module import SegmentationModule
from rsseg.task import Centres, Regression, Task

COLUMNS = 4
"""Panels side by side, at most: more would be too small on a phone."""


@dataclass(frozen=True)
class Example:
    """A window.

    Attributes:
        image: ``[C, H, W]`` as stored.
        mask: ``[H, W]`` or ``[L, H, W]``; of objects a table, see `rsseg.metrics.objects`.
        predictions: One per model, shaped like the mask; of objects a table.
    """

    image: NDArray[np.generic]
    mask: NDArray[np.generic]
    predictions: list[NDArray[np.generic]]


def disagreement(example: Example, task: Task | None = None) -> float:
    """The share of labelled pixels (multilabel: labels) that the models don't agree about; 0 where nothing is labelled.

    Of real values, how far their predictions lie apart, mean over the pixels whose value is known. Of objects, how many of one
    model the others do not find, and the other way round.

    Example:
        >>> zero, one = np.array([[0, 0]]), np.array([[0, 1]])
        >>> disagreement(Example(np.zeros((3, 1, 2)), zero, [zero, one]))
        0.5
    """
    if isinstance(task, Centres):
        return unlike_objects(example.predictions, task.channels)
    if example.mask.dtype.kind == "f":
        apart, known = np.ptp(example.predictions, axis=0), np.isfinite(example.mask)
        return float(apart[known].mean()) if known.any() else 0.0
    labelled = example.mask != IGNORE
    unlike = np.any([p != example.predictions[0] for p in example.predictions], axis=0)
    return float((unlike & labelled).sum() / max(1, labelled.sum()))


def most_different(windows: Sequence[Batch], head: str, modules: Iterable[SegmentationModule], count: int) -> list[Example]:
    """Of some windows the ones that modules, in evaluation mode, label most differently; one module is in memory at a time.

    Args:
        windows: To look at, each a batch of one.
        head: The head to predict with.
        modules: Gone through once.
        count: How many windows to return.
    """
    examples: list[Example] = []
    task: Task | None = None
    for module in modules:
        task = module.tasks[head]
        drawn = [predict_windows(module, [window])[head][0] for window in windows]
        examples = examples or [Example(image, mask, []) for image, mask, _ in drawn]
        for example, (_, _, label) in zip(examples, drawn, strict=True):
            example.predictions.append(label)
    return sorted(examples, key=partial(disagreement, task=task), reverse=True)[:count]


def draw_examples(
    path: Path,
    task: Task,
    palette: Sequence[str] | None,
    examples: Sequence[Example],
    names: Sequence[str],
    shown: Sequence[int] | None = None,
) -> None:
    """Write a PNG of windows: image, mask, predictions; of several real values the first.

    Args:
        path: The file.
        task: The head's task.
        palette: The dataset's colours, if it has any.
        examples: The windows.
        names: Of the models.
        shown: The indices of the bands for red, green and blue, as for `stretch`.
    """
    number = len(names) + 2
    lines = -(-number // COLUMNS)
    columns = -(-number // lines)
    names = [textwrap.fill(name, 80 // columns, break_on_hyphens=False) for name in names]
    title = 0.1 + 0.15 * max(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(5.2, (5.2 / columns + title) * lines * len(examples) + 0.5), layout="constrained")
    axes = figure.subplots(lines * len(examples), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    regression, objects = isinstance(task, Regression), isinstance(task, Centres)
    values = value_shades(np.stack([example.mask[0] for example in examples])) if regression else {}
    shades = [] if regression else colours(task, palette)
    for i, example in enumerate(examples):
        masks, picture = [example.mask, *example.predictions], stretch(example.image, shown)
        drawn = [picture if objects else mask[0] if regression else paint(task.flatten(mask), shades) for mask in masks]
        panels = axes[i * lines : (i + 1) * lines].flat
        titles = ["image", "objects" if objects else "mask", *names]
        for axis, name, pixels in zip(panels, titles, [picture, *drawn], strict=False):
            scale = axis.imshow(pixels, interpolation="nearest", **values)
            axis.set_title(name, fontsize=7.5, loc="left")
        if objects:
            for axis, table in zip(panels[1:], masks, strict=False):
                outline(axis, table, [shades[int(label)] for label in table[:, 1]])
    if isinstance(task, Regression):
        figure.colorbar(scale, ax=axes, location="bottom", label=in_unit(task.classes[0], task), shrink=0.6, aspect=40)
    else:
        entries = [*zip(shades, task.drawn_names, strict=True), *([] if objects else [(GREY, "ignored")])]
        patches = [Patch(facecolor=colour, edgecolor="#888888", label=label) for colour, label in entries]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(4, len(patches)), frameon=False, fontsize=9)
    save(figure, path, dpi=150)
