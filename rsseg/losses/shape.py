"""Losses of shape, as pure functions of logits and target: distance to the true boundary, and overlap of skeletons.

They look at a pixel's surroundings, so ignored pixels cannot be cut away: their logits do not matter, no boundary runs
along them, and they are part of no structure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_ratio, global_sum
from rsseg.contract import IGNORE
from rsseg.losses.checks import Planes, class_planes
from rsseg.losses.formulas import Classes, class_mean, pick
from rsseg.losses.sums import Over
from rsseg.task import TASKS


def boundary(
    logits: Tensor,
    target: Tensor,
    task: str,
    classes: Classes = "all",
    ignore_index: int = IGNORE,
    weight: Tensor | None = None,
) -> Tensor:
    """Boundary loss (Kervadec et al. 2019): the (weighted) mean over valid pixels and classes of ``phi p``.

    ``phi`` is the distance in pixels to the class's true boundary, which runs between pixels: positive outside, negative
    inside, 0 everywhere in an image without that class or without anything else. So the loss may be negative. Distances
    are computed on the CPU, where a target on another device is copied to.

    Args:
        logits: ``[B, C, H, W]``, any floating dtype.
        target: Integers, ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.
        task: `binary`, `multiclass` or `multilabel`.
        classes: The classes that are averaged.
        ignore_index: The label of pixels that do not count.
        weight: ``[B, H, W]``, what each pixel counts for; None: 1.

    Raises:
        InputError: For shapes that do not fit, and classes that do not exist.

    Example:
        >>> boundary(torch.tensor([[[[9e9, 9e9, 9e9]]]]), torch.tensor([[[1, 0, 0]]]), "binary")  # (-.5 + .5 + 1.5) / 3
        tensor(0.5000)
    """
    planes = class_planes(logits, target, task, ignore_index, weight)
    parts = _probabilities(planes, task), planes.own, planes.valid, planes.share
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


def cl_dice(
    logits: Tensor,
    target: Tensor,
    task: str,
    iterations: int = 3,
    smooth: float = 1.0,
    classes: Classes = "all",
    over: Over = "batch",
    ignore_index: int = IGNORE,
    weight: Tensor | None = None,
) -> Tensor:
    """Soft clDice (Shit et al. 2021): one minus the harmonic mean of the skeletons' precision and sensitivity.

    With P and L the probabilities and the labels, S the soft skeleton and s the smoothing:
    precision ``(sum S(P) L + s) / (sum S(P) + s)``, sensitivity ``(sum S(L) P + s) / (sum S(L) + s)``, per class.

    Args:
        logits: ``[B, C, H, W]``, any floating dtype.
        target: Integers, ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.
        task: `binary`, `multiclass` or `multilabel`.
        iterations: Of thinning; at least half the width in pixels of the widest structure.
        smooth: s, more than 0.
        classes: The classes that are averaged.
        over: `batch`, or `image` for the mean of the images' losses.
        ignore_index: The label of pixels that do not count.
        weight: ``[B, H, W]``, what each pixel counts for; None: 1.

    Raises:
        InputError: For shapes that do not fit, and classes that do not exist.

    Example:
        >>> line = torch.zeros(1, 5, 9, dtype=torch.long)
        >>> line[:, 2] = 1
        >>> cl_dice(line.unsqueeze(1) * 99.0 - 49, line, "binary")
        tensor(0.)
    """
    planes = class_planes(logits, target, task, ignore_index, weight)
    parts = _probabilities(planes, task), planes.own, planes.valid & ~planes.own, planes.share
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


def _eroded(x: Tensor) -> Tensor:
    """The smallest of a pixel and its four neighbours inside the image."""
    return torch.minimum(-F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1)))


def _opened(x: Tensor) -> Tensor:
    return F.max_pool2d(_eroded(x), 3, 1, 1)


def _probabilities(planes: Planes, task: str) -> Tensor:
    """Probabilities ``[B, C, H, W]``, 0 where ignored."""
    p = planes.logits.softmax(1) if TASKS[task].exclusive else planes.logits.sigmoid()
    return torch.where(planes.valid, p, torch.zeros_like(p))
