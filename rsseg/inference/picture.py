"""Pictures of windows: image, mask, prediction and errors side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import IGNORE, Batch, layers_of
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows
from rsseg.figure import save
from rsseg.inference.objects import draw_objects, window_objects
from rsseg.module import SegmentationModule
from rsseg.task import Centres, Regression, Task


def colours(task: Task, palette: Sequence[str] | None) -> list[str]:
    """One "#rrggbb" per value of a drawn mask: as the dataset says, else chosen."""
    known = mpl.colormaps["tab10" if task.channels <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    chosen = [mpl.colors.to_hex(known[i % len(known)]) for i in range(task.channels)]
    return task.shades(palette or task.usual_colours or chosen)


def paint(mask: NDArray[np.uint8], palette: Sequence[str]) -> NDArray[np.uint8]:
    """Colours of a drawn mask, uint8 ``[H, W, 3]``; grey where it is ignored."""
    table = np.full((256, 3), 128, dtype=np.uint8)
    table[: len(palette)] = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in palette]
    return table[mask]


def stretch(image: NDArray[np.generic], shown: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Three bands between their 2nd and 98th percentile, ``[H, W, 3]`` in [0, 1].

    8-bit bands, mostly photographs, share one stretch, so that their colours stay; others have one each.

    Args:
        image: ``[C, H, W]``.
        shown: The indices of the bands for red, green and blue; None: the first three, or the first as grey.
    """
    picked = image[list(shown) if shown else [0, 1, 2] if len(image) >= 3 else [0, 0, 0]].astype(np.float64)
    low, high = np.percentile(picked, (2, 98), axis=(0, 1, 2) if image.dtype == np.uint8 else (1, 2), keepdims=True)
    return np.clip((picked - low) / np.maximum(high - low, 1e-9), 0, 1).transpose(1, 2, 0)


RIGHT, WRONG, MISSED, GREY = "#f2f2f2", "#d6006c", "#1f6fd6", "#808080"
ERRORS = (RIGHT, WRONG, MISSED)
"""What the values of `Task.errors` are drawn in."""


Drawn: TypeAlias = tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]
"""A window to draw: image, target and prediction."""


def draw(
    path: Path,
    task: Task,
    palette: Sequence[str] | None,
    rows: Sequence[Drawn],
    shown: Sequence[int] | None = None,
) -> None:
    """Write a PNG with one row per window: image, mask, prediction, errors.

    Of several real values the first is drawn, with one colour scale for all windows.

    Args:
        path: The file.
        task: The head's task.
        palette: The dataset's colours, if it has any.
        rows: Image ``[C, H, W]`` as stored, mask and prediction ``[*planes, H, W]``, or tables of objects.
        shown: As for `stretch`.
    """
    figure = Figure(figsize=(10.4, 2.6 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    pictures = [stretch(row[0], shown) for row in rows]
    for axis, picture in zip(axes[:, 0], pictures, strict=True):
        axis.imshow(picture)
    truth = "objects" if isinstance(task, Centres) else "mask"
    for axis, title in zip(axes[0], ("image", truth, "prediction", "errors"), strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    if isinstance(task, Centres):
        draw_objects(figure, axes[:, 1:], task, colours(task, palette), rows, pictures)
    elif isinstance(task, Regression):
        _draw_values(figure, axes[:, 1:], task, rows)
    else:
        _draw_labels(figure, axes[:, 1:], task, colours(task, palette), rows)
    save(figure, path, dpi=100, bbox_inches="tight")


def _draw_labels(figure: Figure, axes: NDArray[np.object_], task: Task, shades: Sequence[str], rows: Sequence[Drawn]) -> None:
    """Mask, prediction and errors of labels, and a legend."""
    for line, (_, mask, prediction) in zip(axes, rows, strict=True):
        line[0].imshow(paint(task.flatten(mask), shades))
        line[1].imshow(paint(task.flatten(prediction), shades))
        line[2].imshow(paint(task.errors(mask, prediction), ERRORS))
    errors = zip(ERRORS, task.error_names, strict=False)
    entries = [*zip(shades, task.drawn_names, strict=True), (GREY, "ignored"), *errors]
    patches = [Patch(facecolor=colour, edgecolor="#888888", label=name) for colour, name in entries]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(7, len(patches)), frameon=False)


def _draw_values(figure: Figure, axes: NDArray[np.object_], task: Regression, rows: Sequence[Drawn]) -> None:
    """Target, prediction and error of the first real value, and their colour scales; grey where it is unknown."""
    truth, found = (np.stack([row[i][0] for row in rows]) for i in (1, 2))
    errors, shades = found - truth, value_shades(truth)
    reach = max(float(np.nanpercentile(abs(errors), 99)) if np.isfinite(errors).any() else 0.0, 1e-9)
    for line, value, prediction, error in zip(axes, truth, found, errors, strict=True):
        for axis, pixels in zip(line, (value, prediction), strict=False):
            scale = axis.imshow(pixels, **shades)
        misses = line[2].imshow(error, cmap=with_grey("RdBu_r"), vmin=-reach, vmax=reach)
    figure.colorbar(scale, ax=axes[:, :2], location="bottom", label=in_unit(task.classes[0], task), shrink=0.6, aspect=40)
    figure.colorbar(misses, ax=axes[:, 2], location="bottom", label=in_unit("prediction - target", task), aspect=20)


def value_shades(truth: NDArray[Any]) -> dict[str, Any]:
    """How Matplotlib draws real values: one scale for all, from the 1st to the 99th percentile of the target."""
    low, high = np.nanpercentile(truth, (1, 99)) if np.isfinite(truth).any() else (0.0, 1.0)
    return {"cmap": with_grey("viridis"), "vmin": low, "vmax": high}


def in_unit(label: str, task: Regression) -> str:
    """A label with the unit of the first value."""
    return f"{label} in {task.units[0]}" if task.units else label


def with_grey(name: str) -> mpl.colors.Colormap:
    """A colour map that draws NaN in grey."""
    return mpl.colormaps[name].with_extremes(bad=GREY)


def pick_windows(store: Store, size: int, count: int) -> list[Batch]:
    """Of some evenly spread windows the ones with most labels in them, each a batch of one, on the CPU."""
    windows = GridWindows(store, size, overlap=0)
    spread = np.unique(np.linspace(0, len(windows) - 1, 48).astype(int))
    batches = (windows.batch([int(i)]) for i in spread)
    return sorted(batches, key=lambda batch: _variety(store.task, layers_of(batch)[store.task.target]), reverse=True)[:count]


def of_head(path: Path, head: str, heads: Collection[str]) -> Path:
    """Where a picture of a head lies, by where that of the first lies.

    Example:
        >>> of_head(Path("picture.png"), "water", ["cover", "water"]).name
        'picture-water.png'
    """
    return path if head == next(iter(heads)) else path.with_name(f"{path.stem}-{head}{path.suffix}")


@torch.inference_mode()
def predict_windows(module: SegmentationModule, windows: Sequence[Batch]) -> dict[str, list[Drawn]]:
    """By head image, target and prediction of windows, as `draw` takes them; the module has to be in evaluation mode."""
    images = torch.cat([window["image"] for window in windows]).to(module.device)
    logits, found = module(module.normalise(images)), {}
    for head, task in module.tasks.items():
        if isinstance(task, Centres):
            found[head] = window_objects(task, windows, logits[head])
            continue
        labels = module.labels(head, logits[head]).cpu().numpy()
        targets = [layers_of(window)[task.target][0].numpy() for window in windows]
        masks = [target if task.real else task.hard_labels(target) for target in targets]
        found[head] = [(w["image"][0].numpy(), mask, label) for w, mask, label in zip(windows, masks, labels, strict=True)]
    return found


def _variety(task: Task, target: Tensor) -> float:
    """The entropy of a window's labels, or the deviation of its values."""
    if isinstance(task, Regression):
        return float(np.nan_to_num(target.numpy()).std())
    mask = task.hard_labels(target)
    shares = np.bincount(mask.numpy().ravel(), minlength=256)[:IGNORE] / mask.numel()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
