"""The patches of suspicious labels in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch

from rsseg.contract import IGNORE
from rsseg.figure import save
from rsseg.pictures.colours import GREY, MISSED, WRONG, colours, paint
from rsseg.pictures.panels import stretch
from rsseg.setup import Setup

if TYPE_CHECKING:
    from rsseg.describe.noise import Doubts


def draw_noise(path: Path, setup: Setup, doubts: Doubts) -> None:
    """Write a PNG of the first patches: image, label, prediction, and what is suggested in place of suspicious labels."""
    task, crops, store = doubts.task, doubts.crops, doubts.store
    shades = colours(task, setup.palette(doubts.head)) if task.exclusive else ["#000000", "#ffffff"]
    suggestions = shades if task.exclusive else [MISSED, WRONG]
    figure = Figure(figsize=(8.8, 2.6 * len(crops) + 0.6), layout="constrained")
    images = [store.read(crop.scene, crop.row["row"], crop.row["column"], doubts.side)[0] for crop in crops]
    pictures = stretch(images, setup.shown_bands)
    for part, crop, whole in zip(figure.subfigures(len(crops), 1, squeeze=False)[:, 0], crops, pictures, strict=True):
        axes, row, (height, width) = part.subplots(1, 4), crop.row, crop.label.shape
        picture = whole[:height, :width]
        suspicious = (crop.suggested != IGNORE)[..., None]
        grey = np.broadcast_to(0.6 * picture.mean(axis=2, keepdims=True), picture.shape)
        overlay = np.where(suspicious, paint(crop.suggested, suggestions) / 255, grey)
        panels = picture, paint(crop.label, shades), paint(crop.predicted, shades), overlay
        for axis, name, panel in zip(axes, ("image", "label", "prediction", "suggested instead"), panels, strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(name, fontsize=8)
        axes[0].contour(suspicious[..., 0], [0.5], colors=WRONG, linewidths=0.8)
        claim = f"{row['pixels']:,} px labelled {row['labelled']} look like {row['suggested']} ({row['confidence']:.2f})"
        where = f"{row['scene']}, row {row['row']}, column {row['column']}"
        part.suptitle(f"{where}: {claim}", x=0.01, horizontalalignment="left", fontsize=9)
    entries = [*zip(shades, task.label_names if task.exclusive else ("no", "yes"), strict=True), (GREY, "ignored")]
    entries += [] if task.exclusive else [(WRONG, "suggested: yes"), (MISSED, "suggested: no")]
    swatches = [Swatch(facecolor=colour, edgecolor="#888888", label=name) for colour, name in entries]
    figure.legend(handles=swatches, loc="outside lower center", ncols=min(7, len(swatches)), frameon=False, fontsize=9)
    save(figure, path, dpi=100)
