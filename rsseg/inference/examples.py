"""Windows that several models label differently: image, target, and what each model gets wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from rsseg.contract import IGNORE, Batch
from rsseg.figure import save
from rsseg.inference.objects import FOUND, MISSED, WRONG, by_match, outline, unlike_objects
from rsseg.inference.picture import GREY, colours, in_unit, paint, predict_windows, stretch, value_shades
from rsseg.metrics import metrics
from rsseg.module import SegmentationModule
from rsseg.task import Centres, Regression, Task

COLUMNS = range(5, 9)
"""Panels side by side: as many as leave the fewest places of a grid empty."""

SIDE = 1.6
"""Inches of a panel."""


@dataclass(frozen=True)
class Example:
    """A window.

    Attributes:
        image: ``[C, H, W]`` as stored.
        mask: ``[H, W]`` or ``[L, H, W]``; of objects a table, see `rsseg.metrics.objects`.
        predictions: One per model, shaped like the mask; of objects a table.
        scene: The name of its scene.
    """

    image: NDArray[np.generic]
    mask: NDArray[np.generic]
    predictions: list[NDArray[np.generic]]
    scene: str = ""


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


def most_different(
    windows: Sequence[Batch], head: str, modules: Iterable[SegmentationModule], count: int, scenes: Sequence[str]
) -> list[Example]:
    """Of some windows the ones that modules, in evaluation mode, label most differently; one module is in memory at a time.

    Args:
        windows: To look at, each a batch of one.
        head: The head to predict with.
        modules: Gone through once.
        count: How many windows to return.
        scenes: The names of the scenes that windows are cut from.
    """
    examples: list[Example] = []
    task: Task | None = None
    for module in modules:
        task = module.tasks[head]
        drawn = [predict_windows(module, [window])[head][0] for window in windows]
        if not examples:
            names = [scenes[int(window["scene"][0])] for window in windows]
            examples = [Example(image, mask, [], name) for (image, mask, _), name in zip(drawn, names, strict=True)]
        for example, (_, _, label) in zip(examples, drawn, strict=True):
            example.predictions.append(label)
    return sorted(examples, key=partial(disagreement, task=task), reverse=True)[:count]


def window_score(task: Task, mask: NDArray[Any], prediction: NDArray[Any]) -> float:
    """`Task.score` of a window alone; NaN where nothing is known.

    Example:
        >>> window_score(Binary(("road",)), np.array([[1, 1, 0, 255]]), np.array([[1, 0, 0, 1]]))
        0.5
    """
    counts: Any = []
    if isinstance(task, Centres):
        missed, wrong = (np.array(each) for each in by_match(mask, prediction, task.channels))
        for label in range(task.channels):
            found, there = wrong[prediction[:, 1] == label], missed[mask[:, 1] == label]
            counts.append([(found == FOUND).sum(), (found == WRONG).sum(), (there == MISSED).sum()])
    elif task.real:
        for value, found in zip(mask.astype(np.float64), prediction.astype(np.float64), strict=True):
            error, value = (x[np.isfinite(value)] for x in (found - value, value))
            counts.append([len(error), *(x.sum() for x in (error, abs(error), error**2, value, value**2))])
    else:
        labelled = np.broadcast_to(mask != IGNORE, (task.channels, *mask.shape[-2:]))
        for known, there, found in zip(labelled, task.class_masks(mask), task.class_masks(prediction), strict=True):
            counts.append(
                [(known & a & b).sum() for a, b in ((there, found), (~there, found), (there, ~found), (~there, ~found))]
            )
    return float(metrics(task)[task.score](np.array([counts], dtype=np.float64)))


def draw_examples(
    path: Path,
    task: Task,
    palette: Sequence[str] | None,
    examples: Sequence[Example],
    names: Sequence[str],
    shown: Sequence[int] | None = None,
) -> None:
    """Write a PNG of windows: image, target, and what each model gets wrong of it, drawn over the image.

    Of a binary task these are false alarms and missed pixels, of several classes the wrong class, of objects both; of real
    values the first is drawn as each model predicts it.

    Args:
        path: The file.
        task: The head's task.
        palette: The dataset's colours, if it has any.
        examples: The windows.
        names: Of the models.
        shown: The indices of the bands for red, green and blue, as for `stretch`.
    """
    number = len(names) + 2
    columns = number if number <= max(COLUMNS) else min(reversed(COLUMNS), key=lambda each: -number % each)
    lines = -(-number // columns)
    titles = [textwrap.fill(name, 22, break_on_hyphens=False) for name in ("image", "target", *names)]
    text = 0.42 + 0.14 * max(title.count("\n") + 1 for title in titles)
    figure = Figure(figsize=(SIDE * columns, (SIDE + text) * lines * len(examples) + 0.4), layout="constrained")
    axes = figure.subplots(lines * len(examples), columns, squeeze=False)
    shades = [] if isinstance(task, Regression) else colours(task, palette)
    values = value_shades(np.stack([example.mask[0] for example in examples])) if isinstance(task, Regression) else {}
    for i, example in enumerate(examples):
        own, picture = list(axes[i * lines : (i + 1) * lines].flat), stretch(example.image, shown)
        scene = example.scene if len(example.scene) < 24 else f"{example.scene[:10]} ... {example.scene[-10:]}"
        scores = ["", "", *(f"{task.score_name} {window_score(task, example.mask, p):.3f}" for p in example.predictions)]
        for axis, title, score in zip(own, titles, scores, strict=False):
            axis.set_title(title, fontsize=8, loc="left")
            axis.set_xlabel(f"{scene}\n{score}".strip(), fontsize=7.5, loc="left")
            axis.set(xticks=[], yticks=[])
            axis.imshow(picture)
        for axis in own[number:]:
            axis.set_axis_off()
        for axis, prediction in zip(own[1:number], [None, *example.predictions], strict=True):
            if isinstance(task, Regression):
                scale = axis.imshow((example.mask if prediction is None else prediction)[0], interpolation="nearest", **values)
            elif isinstance(task, Centres):
                _outline_errors(axis, task, shades, example.mask, prediction)
            else:
                axis.imshow(_overlay(task, shades, picture, example.mask, prediction), interpolation="nearest")
    if isinstance(task, Regression):
        figure.colorbar(scale, ax=axes, location="bottom", label=in_unit(task.classes[0], task), shrink=0.4, aspect=40)
    else:
        errors = [] if len(task.error_names) < 3 else [*zip((WRONG, MISSED), task.error_names[1:], strict=True)]
        entries = [
            *zip(shades, task.drawn_names, strict=False),
            *errors,
            *([] if isinstance(task, Centres) else [(GREY, "ignored")]),
        ]
        patches = [Patch(facecolor=colour, edgecolor="#888888", label=label) for colour, label in entries]
        figure.legend(handles=patches, loc="outside lower left", ncols=min(8, len(patches)), frameon=False, fontsize=9)
    save(figure, path, dpi=110)


def _overlay(task: Task, shades: Sequence[str], picture: Any, mask: NDArray[Any], prediction: NDArray[Any] | None) -> Any:
    """A target over its image, or, of a prediction, its errors alone: in two colours, or in those of the wrong classes."""
    drawn = task.flatten(mask if prediction is None else prediction)
    if prediction is None:
        return 0.35 * picture + 0.65 * paint(drawn, shades) / 255
    errors = task.errors(mask, prediction)
    colour = paint(errors, ["#ffffff", WRONG, MISSED]) if len(task.error_names) > 2 else paint(drawn, shades)
    colour[errors == IGNORE] = 128
    faint = 0.6 * picture + 0.4
    return np.where((errors == 0)[..., None], faint, 0.2 * faint + 0.8 * colour / 255)


def _outline_errors(axis: Axes, task: Centres, shades: Sequence[str], truth: Any, found: Any) -> None:
    """The objects that are there, or, of a prediction, its false alarms and what it missed."""
    if found is None:
        return outline(axis, truth, [shades[int(label)] for label in truth[:, 1]])
    for table, colour in zip((truth, found), by_match(truth, found, task.channels), strict=True):
        wrong = [i for i, each in enumerate(colour) if each != FOUND]
        outline(axis, table[wrong], [colour[i] for i in wrong])
    return None
