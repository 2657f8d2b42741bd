"""Terms of shape: distance to the true boundary, compactness, centre lines, overlap object by object.

They depend on a pixel's neighbourhood, from which ignored pixels cannot be removed. Logits of ignored pixels have no effect,
their edges are no boundary, and they belong to no structure.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt, generate_binary_structure, label
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_ratio, global_sum
from rsseg.contract import check_number, check_whole_number
from rsseg.losses.checks import positive
from rsseg.losses.sums import COUNT, SOFT
from rsseg.losses.terms.base import Classes, ClassMean, Term, or_one, pick
from rsseg.losses.terms.overlap import tversky


class Boundary(Term):
    """Boundary loss (Kervadec et al. 2019): the mean over valid pixels and classes of ``phi p``.

    ``phi`` is the distance in pixels to the class's true boundary, which runs between pixels: positive outside, negative
    inside, 0 in an image without that class or without any other. Correct pixels reduce the value, which may be negative. A
    class that an image lacks has no gradient: add the term to an overlap loss or a cross-entropy, with a small weight.
    ``classes="present"`` means present in the image. Distances are computed on the CPU in each step.

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
    counts as much as a large one. The mean is over those of `classes` that are in the target. With ``over="batch"``, all
    components of a class have equal weight. Images without it do not count: add `Dice` and a cross-entropy, as in the paper.

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
    """The number, from 1, of the component nearest to each pixel of ``[B, C, H, W]``, or 0; and each component's plane."""
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

    ``a = 1 - 2 C / S``, clipped to [0, `limit`], with S the number of pixels of the class and C the number of those that have a
    neighbour of another class across an edge. This is the Tversky loss with alpha = beta = ``1 / (1 - a)``: Jaccard for a thin
    class, and more weight on errors, which are at the boundary, for a more compact class. The paper's code recommends the limit
    0.8; in contrast to it, the border of an image is no boundary, and p is not squared.

    Example:
        >>> square = torch.zeros(1, 10, 10, dtype=torch.long)
        >>> square[:, 1:9, 1:9] = 1  # C = 28, S = 64, a = 1 / 8
        >>> BoundaryDoU("binary", smooth=0)(torch.zeros(1, 1, 10, 10), square)  # 50 / (50 + 7 / 8 x 32)
        tensor(0.6410)
    """

    rules = {"limit": partial(check_number, high=0.999)}
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
    """Bool, true for pixels of ``[..., H, W]`` with a true neighbour across an edge."""
    near = torch.zeros_like(x)
    near[..., 1:, :] |= x[..., :-1, :]
    near[..., :-1, :] |= x[..., 1:, :]
    near[..., 1:] |= x[..., :-1]
    near[..., :-1] |= x[..., 1:]
    return near


class ClDice(ClassMean):
    """Soft clDice (Shit et al. 2021): one minus the harmonic mean of the skeletons' precision and sensitivity.

    With P and L the probabilities and the labels, S the soft skeleton and s the smoothing, per class: precision
    ``(sum S(P) L + s) / (sum S(P) + s)``, sensitivity ``(sum S(L) P + s) / (sum S(L) + s)``. A gap in a road costs as much as
    its length, however narrow the road is. The paper adds it to `Dice`.

    Args:
        iterations: The number of thinning steps, at least half the width in pixels of the widest structure.
        smooth: s, more than 0.

    Example:
        >>> line = torch.zeros(1, 5, 9, dtype=torch.long)
        >>> line[:, 2] = 1
        >>> ClDice("binary")(line.unsqueeze(1) * 99.0 - 49, line)
        tensor(0.)
    """

    rules = {"iterations": check_whole_number, "smooth": positive}
    iterations: int = 3
    smooth: float = 1.0

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        planes, s = self.planes(logits, target, weight), self.smooth
        p, own, share = (pick(x, self.classes, dim=1) for x in (planes.p, planes.own, planes.share))
        y = own.to(p.dtype)
        thin_p, thin_y = soft_skeleton(p, self.iterations), soft_skeleton(y, self.iterations)
        sums = (torch.stack([thin_p * y, thin_p, thin_y * p, thin_y, y, 1 - y]) * share).sum((3, 4))
        if self.over == "batch":
            sums = global_sum(sums.sum(1, keepdim=True))
        hit_p, all_p, hit_y, all_y, present, absent = sums.unbind()
        precision, sensitivity = (hit_p + s) / (all_p + s), (hit_y + s) / (all_y + s)
        losses = 1 - 2 * precision * sensitivity / (precision + sensitivity)
        return self.class_mean(losses, present, absent)


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """The soft centre lines of ``[B, C, H, W]`` in [0, 1]: the sum of what openings remove from the eroded image.

    Example:
        >>> soft_skeleton(F.pad(torch.ones(1, 1, 3, 5), (1, 1, 1, 1)), 2)[0, 0, 2].int().tolist()
        [0, 0, 1, 1, 1, 0, 0]
    """
    skeleton = F.relu(x - _opened(x))
    for _ in range(iterations):
        x = _eroded(x)
        new = F.relu(x - _opened(x))
        skeleton = skeleton + F.relu(new - skeleton * new)
    return skeleton


def _eroded(x: Tensor) -> Tensor:
    """The smallest of a pixel and its four neighbours inside the image."""
    return torch.minimum(-F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1)))


def _opened(x: Tensor) -> Tensor:
    return F.max_pool2d(_eroded(x), 3, 1, 1)


class SkeletonRecall(ClassMean):
    """Skeleton recall (Kirchhoff et al. 2024), for thin structures: one minus the mean p on the dilated centre lines.

    Like `ClDice`, it penalises a gap in a road by its length, but it needs centre lines only of the truth, found on the CPU in
    each step. False positives cost nothing: add it to `Dice` and a cross-entropy, as in the paper. In contrast to the paper,
    each class has its own centre lines: list the thin ones in `classes`. Centre lines are dilated by `radius` pixels
    across edges, within the class.

    Example:
        >>> logits = torch.where(torch.arange(10) < 4, 99.0, -99.0).view(1, 1, 1, 10)
        >>> SkeletonRecall("binary")(logits, torch.ones(1, 1, 10, dtype=torch.uint8))
        tensor(0.6000)
    """

    rules = {"radius": check_whole_number}
    radius: int = 2

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        tube = _tubes(self.planes(logits.detach(), target, weight).own, self.radius, self.classes)
        counted = tube if target.ndim == 4 else tube.any(1)
        labels = target.long().masked_fill(~counted, self.ignore_index)
        own, _, tp, _ = self.counts(self.take(logits, labels, weight, SOFT))
        return self.class_mean(1 - tp / or_one(own), own)


def _tubes(own: Tensor, radius: int, classes: Classes) -> Tensor:
    """The pixels of each chosen class of bool ``[B, C, H, W]`` within `radius` steps of the class's centre lines."""
    chosen, found = pick(torch.arange(own.shape[1]), classes), torch.zeros_like(own)
    planes = own.cpu()[:, chosen].numpy()
    lines = thin(planes)
    cross = generate_binary_structure(2, 1)[None, None]
    found[:, chosen] = torch.from_numpy(planes & binary_dilation(lines, cross, radius) if radius else lines).to(own.device)
    return found


def thin(planes: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The centre line of every structure of ``[..., H, W]``, one pixel wide, in as many pieces and with as many holes.

    Layer by layer, border pixels are deleted that are no end of a line and whose deletion does not disconnect others: in turn
    those whose neighbour above, below, to the left or to the right is false (Rosenfeld 1975). Pixels are connected if they
    share an edge or a corner. Pixels outside a plane are false.

    Example:
        >>> thin(np.ones((3, 5), bool)).astype(int)
        array([[0, 0, 0, 0, 0],
               [1, 1, 1, 1, 1],
               [0, 0, 0, 0, 0]])
    """
    margin = [*[(0, 0)] * (planes.ndim - 2), (1, 1), (1, 1)]
    padded = np.ascontiguousarray(np.pad(planes, margin))  # np.pad keeps a memory order that reshape would have to copy
    pixels, width = padded.reshape(-1), padded.shape[-1]
    around = (-width, 1 - width, 1, width + 1, width, width - 1, -1, -1 - width)  # clockwise from above
    patterns = np.zeros(pixels.shape, np.uint8)
    for bit, offset in enumerate(around):
        patterns |= np.roll(pixels, -offset).view(np.uint8) << bit
    border = np.flatnonzero(pixels & (patterns < 255))
    while border.size:
        changed = np.zeros_like(pixels)
        for deletable in _DELETABLE:
            gone = border[deletable[patterns[border]] & pixels[border]]
            pixels[gone] = False
            for bit, offset in enumerate(around):
                patterns[gone - offset] &= 255 - 2**bit
                changed[gone - offset] = True
        border = np.flatnonzero(pixels & changed)
    return padded[..., 1:-1, 1:-1]


def _deletable() -> npt.NDArray[np.bool_]:
    """Whether a pixel may be deleted, ``[4, 256]``: by the side that is false (above, below, left, right), and neighbours."""
    table = np.zeros((4, 256), bool)
    for pattern in range(256):
        ring = [pattern >> place & 1 for place in range(8)]
        block = np.array([[ring[7], ring[0], ring[1]], [ring[6], 0, ring[2]], [ring[5], ring[4], ring[3]]])
        if label(block, np.ones((3, 3)))[1] == 1 and sum(ring) > 1:
            table[:, pattern] = [not ring[side] for side in (0, 4, 6, 2)]
    return table


_DELETABLE = _deletable()
