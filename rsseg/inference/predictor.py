"""What maps are made of: the mean prediction of trained networks over views of a window, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsseg.contract import InputError
from rsseg.inference.ensemble import Ensemble
from rsseg.inference.trained import TrainedModel
from rsseg.task import Centres, Task
from rsseg.task.task import per_plane

MULTIPLE = 32
"""Sides of windows that every network of smp takes are multiples of it."""

TINY = 1e-12
"""The smallest probability whose logarithm is taken."""


class View(NamedTuple):
    """How a window is shown to a network: transposed, then flipped along rows and columns, then scaled.

    Example:
        >>> from rsseg.task import Binary
        >>> view, pixels = View(True, (True, False)), torch.arange(6).view(1, 1, 2, 3)
        >>> bool((view.undo(view.show(pixels), Binary(("road",)), (2, 3)) == pixels).all())
        True
    """

    transposed: bool = False
    flipped: tuple[bool, bool] = (False, False)
    scale: float = 1.0

    @property
    def _flips(self) -> list[int]:
        return [axis for axis, flip in zip((-2, -1), self.flipped, strict=True) if flip]

    def show(self, pixels: Tensor) -> Tensor:
        """Windows ``[B, C, H, W]`` as the network is to see them."""
        shown = pixels.transpose(-2, -1) if self.transposed else pixels
        shown = shown.flip(self._flips)
        if self.scale == 1:
            return shown
        sides = [max(MULTIPLE, round(side * self.scale / MULTIPLE) * MULTIPLE) for side in shown.shape[-2:]]
        return F.interpolate(shown.float(), sides, mode="bilinear", antialias=True)

    def undo(self, activated: Tensor, task: Task, size: tuple[int, int]) -> Tensor:
        """The prediction ``[B, K, h, w]`` of a view as that of the window of this size."""
        sides = size[::-1] if self.transposed else size
        if tuple(activated.shape[-2:]) != tuple(sides):
            activated = F.interpolate(activated, sides, mode="bilinear", antialias=True)
        activated = activated.flip(self._flips)
        activated = activated.transpose(-2, -1) if self.transposed else activated
        return task.turned(activated, self.transposed, self.flipped[::-1] if self.transposed else self.flipped)


FLIPS = tuple(View(flipped=(rows, columns)) for rows, columns in product((False, True), repeat=2))
VIEWS = {
    "none": (View(),),
    "flips": FLIPS,
    "d4": tuple(flip._replace(transposed=transposed) for transposed in (False, True) for flip in FLIPS),
    "scales": tuple(View(scale=scale) for scale in (1.0, 0.75, 1.25)),
}
"""The views of each kind of test-time augmentation; the first is the window as it is."""


class Predictor(nn.Module):
    """The mean of the predictions of a window over networks and views: of probabilities, or of the values of a regression.

    Args:
        models: The networks, of the same heads and bands.
        weights: How they are weighted, see `Ensemble`.
        tta: The kind of test-time augmentation, a key of `VIEWS`.
        disagreement: Whether the planes that `disagreement` needs are given besides.

    Raises:
        InputError: If the networks do not go together, or the views do not suit a task.
    """

    def __init__(
        self, models: Sequence[TrainedModel], weights: str = "equal", tta: str = "none", disagreement: bool = False
    ) -> None:
        super().__init__()
        if tta not in VIEWS:
            raise InputError(f"tta={tta}: {', '.join(VIEWS)} is expected")
        self.models, self.views, self.spread = nn.ModuleList(models), VIEWS[tta], disagreement
        self.ensemble = Ensemble(models, weights, models[0].scaling)
        for name, task in self.ensemble.tasks.items():
            if tta == "scales" and isinstance(task, Centres):
                raise InputError(f"tta=scales: head {name} finds objects, whose sizes are in pixels; take tta=flips or d4")

    def planes(self, head: str) -> int:
        """How many planes `forward` gives of a head."""
        task = self.ensemble.tasks[head]
        if not self.spread or isinstance(task, Centres):
            return task.outputs
        return task.outputs + (1 if task.exclusive else task.channels)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """The mean prediction of stored pixels ``[B, C, H, W]``.

        Returns:
            By head float32 ``[B, planes, H, W]``: the mean of what `Task.activate` gives, and, for `disagreement`, the mean
            entropy of each pass's own probabilities or the mean square of its values.
        """
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        sums: dict[str, Tensor] = {}
        for view in self.views:
            shown = view.show(pixels)
            for model, share in zip(self.models, self.ensemble.shares, strict=True):
                for name, activated in model(shown).items():
                    task = self.ensemble.tasks[name]
                    planes = view.undo(activated, task, size)
                    if self.spread and not isinstance(task, Centres):
                        planes = torch.cat([planes, _spread(planes, task)], dim=1)
                    weight = share / len(self.views)
                    planes = planes if weight == 1 else planes * weight
                    sums[name] = sums[name] + planes if name in sums else planes
        return sums


def _spread(planes: Tensor, task: Task) -> Tensor:
    """What is averaged for the disagreement of passes, of the prediction of one."""
    return (planes - _middle(planes, task)).square() if task.real else entropy(planes, task)


def entropy(probabilities: Tensor, task: Task) -> Tensor:
    """The entropy of probabilities as a share of the largest that there can be, from 0 to 1.

    Args:
        probabilities: ``[..., K, H, W]``.
        task: The head's task, whose target holds labels.

    Returns:
        ``[..., 1, H, W]`` for exclusive classes, ``[..., K, H, W]`` for others.

    Example:
        >>> from rsseg.task import Multiclass
        >>> entropy(torch.full((2, 1, 1), 0.5), Multiclass(("land", "water"))).item()
        1.0
    """
    if task.exclusive:
        terms = probabilities * probabilities.clamp_min(TINY).log2()
        return -terms.sum(-3, keepdim=True) / torch.tensor(float(task.channels)).log2()
    rest = 1 - probabilities
    return -(probabilities * probabilities.clamp_min(TINY).log2() + rest * rest.clamp_min(TINY).log2())


def disagreement(planes: Tensor, task: Task) -> Tensor:
    """The disagreement of the passes of a `Predictor`, from the planes ``[..., planes, H, W]`` that it gives.

    Of labels it is the mutual information between the label and the pass (Houlsby et al. 2011): the entropy of the mean less
    the mean entropy, as a share of the largest entropy. Of values it is their standard deviation.
    """
    mean, spread = planes[..., : task.outputs, :, :], planes[..., task.outputs :, :, :]
    if task.real:
        return (spread - _spread(mean, task)).clamp_min(0).sqrt()
    return (_spread(mean, task) - spread).clamp_min(0)


def _middle(planes: Tensor, task: Task) -> Tensor:
    """The mean of a regression's training values: squares about it keep their digits in float32."""
    return per_plane(getattr(task, "mean", ()) or (0.0,), planes)
