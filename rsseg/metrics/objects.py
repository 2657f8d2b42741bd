"""Predicted and labelled objects: extraction from planes, merging across windows, and matching.

A table of objects is a float32 tensor ``[N, 7]`` with the columns `COLUMNS`; unknown sides are NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from rsseg.contract import known
from rsseg.task import Centres

COLUMNS = ("scene", "label", "score", "row", "column", "height", "width")
"""Scene or window, class from 0, score from 0 to 1, centre and sides in pixels; a pixel's upper left corner is an integer."""

SCORE = 0.3
"""The least score of objects that count as predictions, as in CenterNet's demos."""

CANDIDATE = 0.05
"""The least score of objects that count for average precision."""

MOST = 500
"""The largest number of objects per window, those with the highest scores."""

MARGIN = 3
"""Centres may be this many pixels outside the counted part of a window: adjacent windows predict them slightly apart."""

NEAR = 12
"""The least side of boxes in non-maximum suppression: smaller objects merge if their centres are closer than a third of it."""

REACH = 3
"""The least distance in pixels within which a centre matches that of an object."""


def peaks(planes: Tensor, task: Centres, least: float = CANDIDATE, where: Tensor | None = None) -> Tensor:
    """The table of predicted objects: pixels whose heat is a maximum among the eight neighbours, and `least` or more.

    At most `MOST` per window; the column scene holds the window's number. Planes are ``[B, K + 4, H, W]``, as `Centres.predict`
    returns them; `where`, bool ``[B, H, W]``, is true where centres are allowed, None: everywhere.
    """
    heat = planes[:, : task.channels].float()
    highest = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat >= least)
    if where is not None:
        highest &= where[:, None]
    scores = torch.where(highest, heat, 0).flatten(1)
    ranked = scores.topk(min(MOST, scores.shape[1]), dim=1)
    there = torch.zeros_like(scores, dtype=torch.bool).scatter(1, ranked.indices, ranked.values > 0)
    return _table(planes, heat, there.view_as(heat))


def labelled_objects(target: Tensor, task: Centres) -> Tensor:
    """The table of the objects whose centres are in a target ``[B, K + 4, H, W]``, as `Centres.standardise` returns it."""
    heat = target[:, : task.channels].float()
    planes = target.float().clone()
    planes[:, -4:-2] = task.in_pixels(planes[:, -4:-2])
    return _table(planes, heat, (heat == 1) & known(target[:, -2:-1]))


def _table(planes: Tensor, heat: Tensor, there: Tensor) -> Tensor:
    image, label, row, column = there.nonzero().unbind(1)
    height, width, down, across = planes[image, -4:, row, column].float().unbind(1)
    return torch.stack([image, label, heat[image, label, row, column], row + down, column + across, height, width], dim=1)


def boxes(objects: Tensor, least: float = 0.0) -> Tensor:
    """Left, top, right and bottom of objects, ``[N, 4]``; unknown sides, and smaller ones, count as `least`."""
    half = objects[:, 5:].nan_to_num(least).clamp(min=least) / 2
    centre = objects[:, 3:5]
    return torch.cat([(centre - half).flip(1), (centre + half).flip(1)], dim=1)


def suppress_overlaps(objects: Tensor) -> Tensor:
    """Non-maximum suppression at an IoU of 0.5 per class and scene; returns the kept objects, best first.

    It merges predictions of one object from adjacent windows. Sides of boxes count as at least `NEAR` pixels.
    """
    from torchvision.ops import batched_nms  # drawing windows does without its 200 MB

    groups = (objects[:, 0] * (objects[:, 1].max() + 1) + objects[:, 1]).long() if len(objects) else objects[:, 0].long()
    kept: Tensor = batched_nms(boxes(objects, NEAR), objects[:, 2], groups, 0.5)
    return objects[kept]


def match(found: NDArray[Any], truth: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pair predicted and labelled objects of one class and scene: each prediction, best first, takes the nearest free object.

    The distance of the centres must be at most half the mean side of the labelled object, or `REACH` pixels if that is more or
    the size is unknown. `found` must be sorted, best first. Returns the paired rows of `found` and of `truth`.
    """
    reach = np.fmax(REACH, truth[:, 5:].mean(axis=1) / 2)
    apart = cdist(found[:, 3:5], truth[:, 3:5])
    apart[apart > reach] = np.inf
    pairs = []
    for i, row in enumerate(apart):
        j = int(row.argmin()) if len(row) else -1
        if j >= 0 and row[j] < np.inf:
            pairs.append((i, j))
            apart[:, j] = np.inf
    rows = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
