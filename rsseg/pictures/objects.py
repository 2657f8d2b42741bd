"""Objects on pictures: outlined, and which of them match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from rsseg.metrics.objects import boxes, match
from rsseg.pictures.colours import FOUND, MISSED, WRONG


def outline(axis: Axes, objects: NDArray[Any], colours: Sequence[str]) -> None:
    """Draw a table of objects on an image: boxes, or crosses where sizes are not known."""
    corners = boxes(torch.from_numpy(np.asarray(objects, dtype=np.float32))).numpy()
    corners -= 0.5  # pixels have their centres at whole numbers
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
