"""Terms of thin structures, by their centre lines. Ignored pixels: see `rsseg.losses.terms.shape`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_dilation, generate_binary_structure, label
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_sum
from rsseg.losses.checks import positive, whole
from rsseg.losses.sums import SOFT
from rsseg.losses.terms.term import Classes, ClassMean, or_one, pick


class ClDice(ClassMean):
    """Soft clDice (Shit et al. 2021): one minus the harmonic mean of the skeletons' precision and sensitivity.

    With P and L the probabilities and the labels, S the soft skeleton and s the smoothing, per class: precision
    ``(sum S(P) L + s) / (sum S(P) + s)``, sensitivity ``(sum S(L) P + s) / (sum S(L) + s)``. A gap in a road costs as much as
    its length, however narrow the road is. The paper adds it to `Dice`.

    Args:
        iterations: Of thinning; at least half the width in pixels of the widest structure.
        smooth: s, more than 0.

    Example:
        >>> line = torch.zeros(1, 5, 9, dtype=torch.long)
        >>> line[:, 2] = 1
        >>> ClDice("binary")(line.unsqueeze(1) * 99.0 - 49, line)
        tensor(0.)
    """

    rules = {"iterations": whole, "smooth": positive}
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
    """What openings of the thinned image take away, collected: the centre lines of ``[B, C, H, W]`` in [0, 1].

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
    """Skeleton recall (Kirchhoff et al. 2024), for thin structures: one minus the mean p on the tubed centre lines.

    As `ClDice` it minds a gap in a road by its length, but needs centre lines of the truth alone, found on the CPU in each
    step. False positives cost nothing: add it to `Dice` and a cross-entropy, as the paper does. Unlike there, each class has
    centre lines of its own: list the thin ones as `classes`. The tube reaches `radius` pixels from the centre line, counted
    across edges.

    Example:
        >>> logits = torch.where(torch.arange(10) < 4, 99.0, -99.0).view(1, 1, 1, 10)
        >>> SkeletonRecall("binary")(logits, torch.ones(1, 1, 10, dtype=torch.uint8))
        tensor(0.6000)
    """

    rules = {"radius": whole}
    radius: int = 2

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        tube = _tubes(self.planes(logits.detach(), target, weight).own, self.radius, self.classes)
        counted = tube if target.ndim == 4 else tube.any(1)
        labels = target.long().masked_fill(~counted, self.ignore_index)
        own, _, tp, _ = self.counts(self.take(logits, labels, weight, SOFT))
        return self.class_mean(1 - tp / or_one(own), own)


def _tubes(own: Tensor, radius: int, classes: Classes) -> Tensor:
    """The pixels of each chosen class of bool ``[B, C, H, W]`` that lie within `radius` steps from its centre line."""
    chosen, found = pick(torch.arange(own.shape[1]), classes), torch.zeros_like(own)
    planes = own.cpu()[:, chosen].numpy()
    lines = thin(planes)
    cross = generate_binary_structure(2, 1)[None, None]
    found[:, chosen] = torch.from_numpy(planes & binary_dilation(lines, cross, radius) if radius else lines).to(own.device)
    return found


def thin(planes: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The centre line of every structure of ``[..., H, W]``, one pixel wide, in as many pieces and with as many holes.

    Layer by layer, border pixels are taken away that neither end a line nor connect what else would fall apart: in turn those
    whose neighbour above, below, to the left or to the right is free (Rosenfeld 1975). Pixels are connected if they share an
    edge or a corner. Outside a plane is free.

    Example:
        >>> thin(np.ones((3, 5), bool)).astype(int)
        array([[0, 0, 0, 0, 0],
               [1, 1, 1, 1, 1],
               [0, 0, 0, 0, 0]])
    """
    margin = [*[(0, 0)] * (planes.ndim - 2), (1, 1), (1, 1)]
    padded = np.ascontiguousarray(np.pad(planes, margin))  # np.pad keeps an order that reshape would copy
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
    """Whether a pixel may go, ``[4, 256]``: free above, below, to the left or to the right; the pattern of its neighbours."""
    table = np.zeros((4, 256), bool)
    for pattern in range(256):
        ring = [pattern >> place & 1 for place in range(8)]
        block = np.array([[ring[7], ring[0], ring[1]], [ring[6], 0, ring[2]], [ring[5], ring[4], ring[3]]])
        if label(block, np.ones((3, 3)))[1] == 1 and sum(ring) > 1:
            table[:, pattern] = [not ring[side] for side in (0, 4, 6, 2)]
    return table


_DELETABLE = _deletable()
