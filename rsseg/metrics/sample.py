"""A stratified sample of logits: what a multiclass bias is tuned on after training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsseg.collective import global_cat, global_sum, ranks
from rsseg.contract import IGNORE, InputError


class SampledLogits(NamedTuple):
    """Some pixels of every class of every scene.

    Attributes:
        logits: float32 ``[N, C]``.
        target: int64 ``[N]``.
        scene: int64 ``[N]``.
        weight: float64 ``[N]``: how many labelled pixels of this class and scene each stands for.
    """

    logits: Tensor
    target: Tensor
    scene: Tensor
    weight: Tensor


class LogitSample:
    """Keeps the logits of at most so many pixels per class and scene, every pixel of them as likely as any other.

    Each pixel gets a random number, and of each class in each scene those with the smallest are kept. The random numbers of a
    window are a function of (seed, k), so the sample does not depend on batches or processes. It takes at most
    ``scenes * classes * most * (4 * classes + 24)`` bytes.

    Args:
        classes: C, of a multiclass head.
        scenes: The number of scenes.
        most: Pixels per class and scene, at most.
        seed: Of the random numbers.

    Raises:
        InputError: If none are to be kept.

    Example:
        >>> sample = LogitSample(classes=2, scenes=1, most=3)
        >>> target, zero = torch.zeros(1, 1, 9, dtype=torch.uint8), torch.tensor([0])
        >>> sample.update(torch.zeros(1, 2, 1, 9), target, scene=zero, k=zero)
        >>> sample.compute().weight
        tensor([3., 3., 3.], dtype=torch.float64)
    """

    def __init__(self, classes: int, scenes: int, most: int = 64, seed: int = 0) -> None:
        if most < 1:
            raise InputError(f"a sample needs a pixel per class and scene at least; found most={most}")
        self.classes, self.most, self.seed = classes, most, seed
        self._device = torch.device("cpu")  # where processes can talk to each other
        self.pixels = torch.zeros(scenes * classes, dtype=torch.int64)
        self._logits = torch.zeros(0, classes)
        self._group, self._draw = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        self._bound = torch.full((scenes * classes,), torch.inf, dtype=torch.float64)  # larger draws are not among them

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, k: Tensor) -> None:
        """Take a batch's pixels into account.

        Args:
            logits: ``[B, C, H, W]``.
            target: ``[B, H, W]``; `IGNORE` is not counted.
            scene: int64 ``[B]``.
            k: int64 ``[B]``, the numbers of the windows, each of which comes once.
        """
        self._device = logits.device
        valid = (target != IGNORE).flatten()
        draws = np.stack([np.random.default_rng([self.seed, int(number)]).random(target.shape[1:]) for number in k])
        draw = torch.from_numpy(draws).flatten()[valid.cpu()]
        group = (scene.view(-1, 1, 1) * self.classes + target.long()).flatten()[valid].cpu()
        near = (draw < self._bound[group]).nonzero().flatten()  # few: what is left is sorted
        chosen = near[self._smallest(group[near], draw[near])]  # before logits leave the device
        self.pixels += torch.bincount(group, minlength=len(self.pixels))
        some = logits.movedim(1, -1).flatten(0, -2)[valid.nonzero().flatten()[chosen.to(valid.device)]].float().cpu()
        self._logits, self._group = torch.cat([self._logits, some]), torch.cat([self._group, group[chosen]])
        self._draw = torch.cat([self._draw, draw[chosen]])
        self._thin()

    def _smallest(self, group: Tensor, draw: Tensor) -> Tensor:
        """The places of each group's smallest draws."""
        order = draw.argsort()
        order = order[group[order].argsort(stable=True)]
        first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(group, minlength=len(self.pixels)).cumsum(0)])
        return order[torch.arange(len(order)) - first[group[order]] < self.most]

    def _thin(self) -> None:
        kept = self._smallest(self._group, self._draw)
        self._logits, self._group, self._draw = self._logits[kept], self._group[kept], self._draw[kept]
        full = torch.bincount(self._group, minlength=len(self._bound)) >= self.most
        largest = torch.zeros_like(self._bound).scatter_reduce(0, self._group, self._draw, "amax")
        self._bound = torch.where(full, largest, self._bound)

    def compute(self) -> SampledLogits:
        """The sample of all processes, ordered by scene and class; every process has to call it, once."""
        if ranks() > 1:
            self.pixels = global_sum(self.pixels.to(self._device)).cpu()
            held = (self._logits, self._group, self._draw)
            self._logits, self._group, self._draw = (global_cat(x.to(self._device)).cpu() for x in held)
            self._thin()
        number = torch.bincount(self._group, minlength=len(self.pixels))
        weight = (self.pixels.double() / number.clamp(min=1))[self._group]
        return SampledLogits(self._logits, self._group % self.classes, self._group // self.classes, weight)
