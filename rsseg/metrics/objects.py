"""Objects found and labelled: taken from planes, made one over the borders of windows, and matched.

A table of objects is a float32 tensor with the columns of `COLUMNS` and a row per object; sides that are not known are NaN.
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
"""Scene or window, class, score from 0 to 1, centre and sides in pixels; a pixel's upper left corner has whole coordinates."""

SCORE = 0.3
"""The score from which on an object counts as found, as in CenterNet's own demonstrations."""

CANDIDATE = 0.05
"""The score from which on it counts for average precision."""

MOST = 500
"""The most objects that are taken from a window, those with the highest scores."""

MARGIN = 3
"""The pixels beyond the counted part of a window in which a centre may be found: neighbours see it a little elsewhere."""

NEAR = 12
"""The least side of boxes in non-maximum suppression: centres nearer than a third of it are one object, however small."""

REACH = 3
"""The least distance in pixels within which a centre matches that of an object."""


def peaks(planes: Tensor, task: Centres, least: float = CANDIDATE, where: Tensor | None = None) -> Tensor:
    """The table of the objects that a prediction shows: where the heat is highest among the eight neighbours.

    At most `MOST` of each window; their scene is the number of the window. Planes are ``[B, K + 4, H, W]``, as
    `Centres.predict` gives them; `where`, bool ``[B, H, W]``, says where centres may lie, None: everywhere.
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
    """The table of the objects whose centres lie in a target ``[B, K + 4, H, W]``, as `Centres.standardise` makes it."""
    heat = target[:, : task.channels].float()
    planes = target.float().clone()
    planes[:, -4:-2] = task.in_pixels(planes[:, -4:-2])
    return _table(planes, heat, (heat == 1) & known(target[:, -2:-1]))


def _table(planes: Tensor, heat: Tensor, there: Tensor) -> Tensor:
    image, label, row, column = there.nonzero().unbind(1)
    height, width, down, across = planes[image, -4:, row, column].float().unbind(1)
    return torch.stack([image, label, heat[image, label, row, column], row + down, column + across, height, width], dim=1)


def boxes(objects: Tensor, least: float = 0.0) -> Tensor:
    """Left, top, right and bottom of objects, ``[N, 4]``; sides that are not known, or smaller, count as `least`."""
    half = objects[:, 5:].nan_to_num(least).clamp(min=least) / 2
    centre = objects[:, 3:5]
    return torch.cat([(centre - half).flip(1), (centre + half).flip(1)], dim=1)


def suppress(objects: Tensor) -> Tensor:
    """Objects without those that a better one of their class and scene overlaps with an IoU above 0.5, best first.

    Windows see an object at their border a little differently; it is called once all the same. Boxes count as `NEAR` pixels at
    least.
    """
    from torchvision.ops import batched_nms  # drawing windows does without its 200 MB

    groups = (objects[:, 0] * (objects[:, 1].max() + 1) + objects[:, 1]).long() if len(objects) else objects[:, 0].long()
    kept: Tensor = batched_nms(boxes(objects, NEAR), objects[:, 2], groups, 0.5)
    return objects[kept]


def match(found: NDArray[Any], truth: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pair objects found with objects that are there, of one class and scene: the best score first takes the nearest one left.

    A centre has to lie within half the mean side of the object that is there, or `REACH` pixels if that is more or its size is
    not known. The objects found are sorted, best first. Returned are the rows of either table that are paired.
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
