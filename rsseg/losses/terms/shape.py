"""Terms of shape: distance to the true boundary, compactness, overlap object by object.

They look at a pixel's surroundings, so ignored pixels cannot be cut away: their logits do not matter, no boundary runs
along them, and they are part of no structure.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from rsseg.collective import global_ratio, global_sum
from rsseg.contract import number
from rsseg.losses.sums import COUNT, SOFT
from rsseg.losses.terms.overlap import tversky
from rsseg.losses.terms.term import Classes, ClassMean, Term, or_one, pick


class Boundary(Term):
    """Boundary loss (Kervadec et al. 2019): the mean over valid pixels and classes of ``phi p``.

    ``phi`` is the distance in pixels to the class's true boundary, which runs between pixels: positive outside, negative
    inside, 0 in an image without that class or without anything else. Right pixels are rewarded, so the value may be negative.
    It says nothing of a class that an image lacks: add it to an overlap loss or a cross-entropy, with a small weight. Of
    `classes`, `present` means present in the image. Each step computes distances on the CPU.

    Example:
        >>> Boundary("binary")(torch.tensor([[[[9e9, 9e9, 9e9]]]]), torch.tensor([[[1, 0, 0]]]))  # (-.5 + .5 + 1.5) / 3
        tensor(0.5000)
    """

    signed = True
    _: KW_ONLY
    classes: Classes = "all"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        planes = self.planes(logits, target, weight)
        p, own, other, share = (pick(x, self.classes, dim=1) for x in (planes.p, planes.own, planes.other, planes.share))
        phi = torch.from_numpy(_distances(own.cpu().numpy(), other.cpu().numpy())).to(p)
        if self.classes == "present":
            share = share * own.any(dim=3, keepdim=True).any(dim=2, keepdim=True)
        return global_ratio((phi * p * share).sum(), share.sum())


def _distances(own: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The signed distance to the boundary of each plane of ``[B, C, H, W]``; see `Boundary`."""
    phi = np.zeros(own.shape, np.float32)
    for plane in np.ndindex(own.shape[:2]):
        inside, outside = own[plane], other[plane]
        if inside.any() and outside.any():
            to_inside, to_outside = distance_transform_edt(~inside), distance_transform_edt(~outside)
            phi[plane] = np.where(inside, 0.5 - to_outside, to_inside - 0.5)
    return phi


class ComponentDice(ClassMean):
    """CC-Dice (Bouteille et al. 2025; regions of Jaus et al. 2025), for small objects: Dice loss object by object.

    The mean over the connected components of the truth (by edges or corners) of ``1 - (2 TP + s) / (2 TP + FP + FN + s)`` among
    the pixels that are nearest to the component, found on the CPU in each step; the paper's s, `smooth`, is 0. A small object
    counts as much as a large one. Of `classes` those in the target are averaged. With ``over="batch"`` all components of a
    class count alike. It says nothing of an image without the class: add it to `Dice` and a cross-entropy, as the paper does.

    Example:
        >>> objects = torch.tensor([[[1, 0, 0, 0, 1, 1, 1, 1, 1]]])
        >>> logits = torch.where(torch.arange(9) > 3, 99.0, -99.0).view(1, 1, 1, 9)  # the small one is missed
        >>> ComponentDice("binary")(logits, objects)
        tensor(0.5000)
    """

    smooth: float = 0.0

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        planes = self.planes(logits, target, weight)
        p, own, share = (pick(x, self.classes, dim=1) for x in (planes.p, planes.own, planes.share))
        region, plane = (torch.from_numpy(x).to(p.device) for x in _regions(own.cpu().numpy()))
        zero, true = p.new_zeros(len(plane) + 1), own * share
        parts = (p * true, p * share, true)
        tp, predicted, true = (zero.index_add(0, region.flatten(), part.flatten())[1:] for part in parts)
        losses = 1 - (2 * tp + self.smooth) / (predicted + true + self.smooth)
        by_plane = p.new_zeros(2, p.shape[0] * p.shape[1])
        total, count = by_plane.index_add(1, plane, torch.stack([losses, torch.ones_like(losses)])).view(2, *p.shape[:2])
        if self.over == "batch":
            total, count = global_sum(torch.stack([total, count]).sum(1, keepdim=True))
        return self.class_mean(total / count.clamp(min=1), count)


def _regions(own: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which component each pixel of ``[B, C, H, W]`` is nearest to, from 1 on, 0 where there is none; and each one's plane."""
    region = np.zeros(own.shape, np.int64)
    plane: list[int] = []
    for place, index in enumerate(np.ndindex(own.shape[:2])):
        parts, count = label(own[index], np.ones((3, 3)))
        if count:
            nearest = distance_transform_edt(~own[index], return_distances=False, return_indices=True)
            region[index] = parts[tuple(nearest)] + len(plane)
            plane += [place] * count
    return region, np.array(plane, np.int64)


class BoundaryDoU(ClassMean):
    """Boundary difference over union (Sun et al. 2023): the mean over classes of ``(FP + FN) / (FP + FN + (1 - a) TP)``.

    ``a = 1 - 2 C / S``, held to 0 to `limit`, with S the pixels of the class and C those of them that have a neighbour, across
    an edge, of another class. That is the Tversky loss with alpha = beta = ``1 / (1 - a)``: Jaccard for a thin class, and more
    weight on the errors, which lie at the boundary, the more compact a class is. The paper's code advises the limit 0.8; unlike
    there, the border of an image is no boundary, and p is not squared.

    Example:
        >>> square = torch.zeros(1, 10, 10, dtype=torch.long)
        >>> square[:, 1:9, 1:9] = 1  # C = 28, S = 64, a = 1 / 8
        >>> BoundaryDoU("binary", smooth=0)(torch.zeros(1, 1, 10, 10), square)  # 50 / (50 + 7 / 8 x 32)
        tensor(0.6410)
    """

    rules = {"limit": partial(number, high=0.999)}
    limit: float = 0.8
    smooth: float = 1.0

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        planes = self.planes(logits.detach(), target, weight)
        found = self.take(logits, target, weight, SOFT)
        rim = planes.own & _beside(planes.other)
        lengths = (rim * planes.share).sum((2, 3))
        lengths = global_sum(lengths.sum(0, keepdim=True)) if self.over == "batch" else lengths
        a = pick(1 - 2 * lengths / or_one(found[COUNT][0]), self.classes).clamp(0, self.limit)
        own, other, tp, fp = self.counts(found)
        return self.class_mean(tversky(tp, fp, own, 1 / (1 - a), 1 / (1 - a), self.smooth), own, other)


def _beside(x: Tensor) -> Tensor:
    """Which pixels of ``[..., H, W]`` have a neighbour across an edge that is true."""
    near = torch.zeros_like(x)
    near[..., 1:, :] |= x[..., :-1, :]
    near[..., :-1, :] |= x[..., 1:, :]
    near[..., 1:] |= x[..., :-1]
    near[..., :-1] |= x[..., 1:]
    return near
