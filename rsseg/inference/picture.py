"""Pictures of windows: image, mask and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from rsseg.contract import IGNORE, Batch, Head, TaskKind
from rsseg.data.scene import SceneReader
from rsseg.data.windows import GridWindows
from rsseg.metrics import predicted_labels
from rsseg.module import SegmentationModule


def colours(head: Head, palette: Sequence[str] | None) -> list[str]:
    """One "#rrggbb" per value of a drawn mask: as the dataset says, else chosen.

    Binary and multilabel masks are drawn with 0 for "nothing" and i + 1 for label i; a multilabel palette names the labels.
    """
    chosen = [mpl.colors.to_hex(colour) for colour in mpl.colormaps["tab10" if head.channels <= 10 else "tab20"].colors]  # type: ignore[attr-defined]
    if head.task is TaskKind.multilabel:
        return ["#000000", *(palette or [chosen[i % 20] for i in range(head.channels)])]
    if palette:
        return list(palette)
    return ["#000000", "#ffffff"] if head.task is TaskKind.binary else [chosen[i % 20] for i in range(head.channels)]


def flatten(mask: NDArray[np.integer], head: Head) -> NDArray[np.uint8]:
    """A mask as one plane to draw: for multilabel the last label that is set, plus 1; `IGNORE` where all are ignored."""
    if head.task is not TaskKind.multilabel:
        return mask.astype(np.uint8)
    plane = np.zeros(mask.shape[1:], dtype=np.uint8)
    for i, label in enumerate(mask):
        plane = np.where(label == 1, np.uint8(i + 1), plane)
    return np.where((mask == IGNORE).all(axis=0), np.uint8(IGNORE), plane)


def paint(mask: NDArray[np.uint8], palette: Sequence[str]) -> NDArray[np.uint8]:
    """Colours of a drawn mask, uint8 ``[H, W, 3]``; grey where it is ignored."""
    table = np.full((256, 3), 128, dtype=np.uint8)
    table[: len(palette)] = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in palette]
    return table[mask]


def stretch(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """The first three bands (or the first, as grey) between their 2nd and 98th percentile, ``[H, W, 3]`` in [0, 1].

    8-bit bands, mostly photographs, share one stretch, so that their colours stay; others have one each.
    """
    shown = image[[0, 1, 2] if len(image) >= 3 else [0, 0, 0]].astype(np.float64)
    low, high = np.percentile(shown, (2, 98), axis=(0, 1, 2) if image.dtype == np.uint8 else (1, 2), keepdims=True)
    stretched: NDArray[np.float64] = np.clip((shown - low) / np.maximum(high - low, 1e-9), 0, 1).transpose(1, 2, 0)
    return stretched


def draw(
    path: Path,
    head: Head,
    palette: Sequence[str] | None,
    rows: Sequence[tuple[NDArray[np.generic], NDArray[np.integer], NDArray[np.integer]]],
) -> None:
    """Write a PNG with one row per window: image, mask, prediction.

    Args:
        path: The file.
        head: Task and classes.
        palette: The dataset's colours, if it has any.
        rows: Image ``[C, H, W]`` as stored, mask and prediction ``[H, W]`` or ``[L, H, W]``.
    """
    shades = colours(head, palette)
    figure = Figure(figsize=(8.4, 2.7 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (image, mask, prediction) in zip(axes, rows, strict=True):
        drawn = flatten(mask, head)
        line[0].imshow(stretch(image))
        line[1].imshow(paint(drawn, shades))
        line[2].imshow(paint(flatten(prediction, head), shades))
    for axis, title in zip(axes[0], ("image", "mask", "prediction"), strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    names = list(head.classes) if head.task is TaskKind.multiclass else ["none of them", *head.classes]
    patches = [Patch(facecolor=c, edgecolor="#888888", label=n) for c, n in zip(shades, names, strict=True)]
    patches.append(Patch(facecolor="#808080", edgecolor="#888888", label="ignored"))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), frameon=False)
    figure.savefig(path, dpi=110)


def pick_windows(
    module: SegmentationModule, head: str, reader: SceneReader, size: int, count: int = 4
) -> list[tuple[NDArray[np.generic], NDArray[np.integer], NDArray[np.integer]]]:
    """Of some evenly spread windows the ones with most labels in them: image, mask and prediction, as `draw` takes them."""
    windows = GridWindows(reader, size, overlap=0)
    spread = np.unique(np.linspace(0, len(windows) - 1, 48).astype(int))
    items = sorted((windows[int(i)] for i in spread), key=_variety, reverse=True)[:count]
    with torch.inference_mode():
        images = torch.stack([item["image"] for item in items]).to(module.device)
        logits = module.eval()(module.normalise(images))[head]
    labels = predicted_labels(logits, module.heads[head]).cpu().numpy()
    return [(item["image"].numpy(), item["mask"].numpy(), label) for item, label in zip(items, labels, strict=True)]


def _variety(item: Batch) -> float:
    """The entropy of a window's labels."""
    shares = np.bincount(item["mask"].numpy().ravel(), minlength=256)[:IGNORE] / item["mask"].numel()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
