"""Losses of shape, as pure functions of planes of logits and labels: distance to the true boundary, and overlap of skeletons.

They look at a pixel's surroundings, so ignored pixels cannot be cut away: their logits do not matter, no boundary runs
along them, and they are part of no structure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt, generate_binary_structure, label
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_ratio, global_sum
from rsseg.losses.checks import Planes
from rsseg.losses.formulas import Classes, class_mean, pick, tversky
from rsseg.losses.sums import COUNT, Over, Sums
from rsseg.losses.thinning import thin


def boundary(planes: Planes, classes: Classes = "all") -> Tensor:
    """Boundary loss (Kervadec et al. 2019): the (weighted) mean over valid pixels and classes of ``phi p``.

    ``phi`` is the distance in pixels to the class's true boundary, which runs between pixels: positive outside, negative
    inside, 0 everywhere in an image without that class or without anything else. So the loss may be negative. Distances
    are computed on the CPU, where a target on another device is copied to.

    Args:
        planes: Logits and labels, see `class_planes`.
        classes: The classes that are averaged.

    Raises:
        InputError: For classes that do not exist.
    """
    parts = planes.p, planes.own, planes.valid, planes.share
    p, own, valid, share = (pick(x, classes, dim=1) for x in parts)
    phi = torch.from_numpy(_distances(own.cpu().numpy(), valid.cpu().numpy())).to(p)
    if classes == "present":
        share = share * own.any(dim=3, keepdim=True).any(dim=2, keepdim=True)
    return global_ratio((phi * p * share).sum(), share.sum())


def _distances(own: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The signed distance to the boundary of each plane of ``[B, C, H, W]``; see `boundary`."""
    phi = np.zeros(own.shape, np.float32)
    for plane in np.ndindex(own.shape[:2]):
        inside, outside = own[plane], valid[plane] & ~own[plane]
        if inside.any() and outside.any():
            to_inside, to_outside = distance_transform_edt(~inside), distance_transform_edt(~outside)
            phi[plane] = np.where(inside, 0.5 - to_outside, to_inside - 0.5)
    return phi


def cl_dice(planes: Planes, iterations: int = 3, smooth: float = 1.0, classes: Classes = "all", over: Over = "batch") -> Tensor:
    """Soft clDice (Shit et al. 2021): one minus the harmonic mean of the skeletons' precision and sensitivity.

    With P and L the probabilities and the labels, S the soft skeleton and s the smoothing:
    precision ``(sum S(P) L + s) / (sum S(P) + s)``, sensitivity ``(sum S(L) P + s) / (sum S(L) + s)``, per class.

    Args:
        planes: Logits and labels, see `class_planes`.
        iterations: Of thinning; at least half the width in pixels of the widest structure.
        smooth: s, more than 0.
        classes: The classes that are averaged.
        over: `batch`, or `image` for the mean of the images' losses.

    Raises:
        InputError: For classes that do not exist.
    """
    parts = planes.p, planes.own, planes.valid & ~planes.own, planes.share
    p, own, other, share = (pick(x, classes, dim=1) for x in parts)
    y = own.to(p.dtype)
    thin_p, thin_y = soft_skeleton(p, iterations), soft_skeleton(y, iterations)
    sums = (torch.stack([(thin_p * y), thin_p, thin_y * p, thin_y, y, other.to(p.dtype)]) * share).sum((3, 4))
    if over == "batch":
        sums = global_sum(sums.sum(1, keepdim=True))
    hit_p, all_p, hit_y, all_y, present, absent = sums.unbind()
    precision, sensitivity = (hit_p + smooth) / (all_p + smooth), (hit_y + smooth) / (all_y + smooth)
    losses = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    return class_mean(losses, torch.stack([present, absent]), classes, over)


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """What openings of the thinned image take away, collected: the centre lines of ``[B, C, H, W]`` in [0, 1].

    Args:
        x: The image.
        iterations: Of thinning.

    Example:
        >>> bar = F.pad(torch.ones(1, 1, 3, 5), (1, 1, 1, 1))
        >>> soft_skeleton(bar, 2)[0, 0, 2].int().tolist()
        [0, 0, 1, 1, 1, 0, 0]
    """
    skeleton = F.relu(x - _opened(x))
    for _ in range(iterations):
        x = _eroded(x)
        new = F.relu(x - _opened(x))
        skeleton = skeleton + F.relu(new - skeleton * new)
    return skeleton


def tubes(own: Tensor, radius: int, classes: Classes = "all") -> Tensor:
    """The tubed centre lines (Kirchhoff et al. 2024): what lies within `radius` steps, of an edge each, from the centre line.

    Centre lines are found on the CPU, where planes on another device are copied to.

    Args:
        own: bool ``[B, C, H, W]``, which pixels belong to each class.
        radius: Of the tube, in pixels.
        classes: The classes that have tubes.

    Returns:
        bool ``[B, C, H, W]``, inside the classes.

    Raises:
        InputError: For classes that do not exist.
    """
    chosen, found = pick(torch.arange(own.shape[1]), classes), torch.zeros_like(own)
    planes = own.cpu()[:, chosen].numpy()
    lines = thin(planes)
    cross = generate_binary_structure(2, 1)[None, None]
    found[:, chosen] = torch.from_numpy(planes & binary_dilation(lines, cross, radius) if radius else lines).to(own.device)
    return found


def component_dice(planes: Planes, smooth: float = 0.0, classes: Classes = "all", over: Over = "batch") -> Tensor:
    """CC-Dice loss (Bouteille et al. 2025): the mean over a class's true components of the Dice loss in their regions.

    Components are connected by edges or corners. A component's region is made of the pixels of its image that no other
    component of the class is nearer to (Jaus et al. 2025). Regions are found on the CPU, where a target on another device is
    copied to.

    Args:
        planes: Logits and labels, see `class_planes`.
        smooth: s of ``1 - (2 TP + s) / (2 TP + FP + FN + s)``, 0 or more.
        classes: The classes that are averaged, of those in the target.
        over: `batch`, or `image` for the mean of the images' losses.

    Raises:
        InputError: For classes that do not exist.
    """
    p, own, share = (pick(x, classes, dim=1) for x in (planes.p, planes.own, planes.share))
    region, plane = (torch.from_numpy(x).to(p.device) for x in _regions(own.cpu().numpy()))
    zero, true = p.new_zeros(len(plane) + 1), own * share
    parts = (p * true, p * share, true)
    tp, predicted, true = (zero.index_add(0, region.flatten(), part.flatten())[1:] for part in parts)
    losses = 1 - (2 * tp + smooth) / (predicted + true + smooth)
    by_plane = p.new_zeros(2, p.shape[0] * p.shape[1])
    total, count = by_plane.index_add(1, plane, torch.stack([losses, torch.ones_like(losses)])).view(2, *p.shape[:2])
    if over == "batch":
        total, count = global_sum(torch.stack([total, count]).sum(1, keepdim=True))
    mean = total / count.clamp(min=1)
    return class_mean(mean, torch.stack([count, torch.zeros_like(count)]), classes, over)


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


def boundary_dou(
    planes: Planes, found: Sums, limit: float = 0.8, smooth: float = 1.0, classes: Classes = "all", over: Over = "batch"
) -> Tensor:
    """Boundary difference over union (Sun et al. 2023): ``(FP + FN) / (FP + FN + (1 - a) TP)``, the mean over classes.

    ``a = 1 - 2 C / S``, held to 0 to `limit`, with S the pixels of the class and C those of them that have a neighbour, across
    an edge, of another class. That is the Tversky loss with alpha = beta = ``1 / (1 - a)``: Jaccard for a thin class, and more
    weight on the errors, which lie at the boundary, the more compact a class is.

    Args:
        planes: Logits and labels, see `class_planes`.
        found: ``soft``.
        limit: The highest a, from 0 to below 1.
        smooth: s of the Tversky loss.
        classes: As for `formulas.tversky`.
        over: As for `formulas.tversky`.

    Raises:
        InputError: For classes that do not exist.
    """
    rim = planes.own & _beside(planes.valid & ~planes.own)
    lengths = (rim * planes.share).sum((2, 3))
    lengths = global_sum(lengths.sum(0, keepdim=True)) if over == "batch" else lengths
    sizes = found[COUNT, over][0]
    a = pick(1 - 2 * lengths / torch.where(sizes > 0, sizes, 1), classes).clamp(0, limit)
    errors = 1 / (1 - a)
    return tversky(found, errors, errors, smooth=smooth, classes=classes, over=over)


def _beside(x: Tensor) -> Tensor:
    """Which pixels of ``[..., H, W]`` have a neighbour across an edge that is true."""
    near = torch.zeros_like(x)
    near[..., 1:, :] |= x[..., :-1, :]
    near[..., :-1, :] |= x[..., 1:, :]
    near[..., 1:] |= x[..., :-1]
    near[..., :-1] |= x[..., 1:]
    return near


def _eroded(x: Tensor) -> Tensor:
    """The smallest of a pixel and its four neighbours inside the image."""
    return torch.minimum(-F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1)))


def _opened(x: Tensor) -> Tensor:
    return F.max_pool2d(_eroded(x), 3, 1, 1)
