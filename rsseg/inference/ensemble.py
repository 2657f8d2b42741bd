"""Ensembles: the mean prediction of trained models, and their disagreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsseg.contract import InputError, check_choice
from rsseg.inference.options import MEMBER_WEIGHTS
from rsseg.inference.trained import Spec, TrainedModel
from rsseg.task import SCALINGS, Centres, Task
from rsseg.task.task import per_plane

TINY = 1e-12
"""Probabilities are clamped to at least this before their logarithm is taken."""

MULTIPLE = 32
"""Every network of smp accepts windows whose sides are multiples of this."""


class View(NamedTuple):
    """A view of a window for a network: transposed, then flipped along rows and columns, then scaled.

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
        """Transform windows ``[B, C, H, W]`` into this view for the network."""
        shown = pixels.transpose(-2, -1) if self.transposed else pixels
        shown = shown.flip(self._flips) if self._flips else shown
        if self.scale == 1:
            return shown
        sides = [max(MULTIPLE, round(side * self.scale / MULTIPLE) * MULTIPLE) for side in shown.shape[-2:]]
        return F.interpolate(shown.float(), sides, mode="bilinear", antialias=True)

    def undo(self, activated: Tensor, task: Task, size: tuple[int, int]) -> Tensor:
        """Transform the prediction ``[B, K, h, w]`` for this view back to a window of `size`, ``[B, K, H, W]``."""
        if self.scale != 1:
            activated = F.interpolate(activated, size, mode="bilinear", antialias=True)
        activated = activated.flip(self._flips) if self._flips else activated
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


class Ensemble(nn.Module):
    """One or more trained models, which predict the weighted mean of their scaled probabilities, or values, over views.

    Args:
        models: The models, of the same heads, classes and bands.
        weights: ``equal``, or ``quality``: proportional to validation IoU or F1, for real values to 1 / RMSE^2.
        scaling: The kind of scaling of logits: ``none``, ``temperature`` or ``vector``; heads without one are not scaled.
        tta: The kind of test-time augmentation, a key of `VIEWS`.
        disagreement: Whether `forward` also returns the planes that `disagreement` needs.
        heads: The heads to predict; None: all.

    Attributes:
        tasks: The tasks of the first model, by head.
        specs: The description of each model.
        shares: The weight of each model; they sum to 1.
        thresholds: By head, the mean of the models' tuned thresholds or biases for scaled logits, if all models have them.

    Raises:
        InputError: If the models differ in heads or bands, a setting has an unknown value, or a model has no score.
    """

    def __init__(
        self,
        models: Sequence[TrainedModel],
        weights: str = "equal",
        scaling: str = "none",
        tta: str = "none",
        disagreement: bool = False,
        heads: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_choice("scaling", scaling, ("none", *SCALINGS))
        check_choice("tta", tta, VIEWS)
        self.models, self.specs = nn.ModuleList(models), [model.spec for model in models]
        _check_alike(self.specs)
        self.scaling, self.views, self.disagreement = scaling, VIEWS[tta], disagreement
        self.tasks = {name: task for name, task in models[0].tasks.items() if heads is None or name in heads}
        self.shares = _member_shares(self.specs, weights)
        self.thresholds = {name: mean for name in self.tasks if (mean := self._mean_threshold(name)) is not None}
        for name, task in self.tasks.items():
            if tta == "scales" and isinstance(task, Centres):
                raise InputError(f"tta=scales: head {name} finds objects, whose sizes are in pixels; take tta=flips or d4")

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return next(self.buffers()).device

    def planes(self, head: str) -> int:
        """The number of planes that `forward` returns for a head."""
        task = self.tasks[head]
        if not self.disagreement or isinstance(task, Centres):
            return task.outputs
        return task.outputs + (1 if task.exclusive else task.channels)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """The mean prediction of stored pixels ``[B, C, H, W]``.

        Returns:
            By head, float32 ``[B, planes, H, W]``: the mean of `Task.activate`, and with `disagreement` the mean of `spread`.
        """
        size, sums = (int(pixels.shape[-2]), int(pixels.shape[-1])), dict[str, Tensor]()
        for view in self.views:
            shown = view.show(pixels)
            for model, spec, share in zip(self.models, self.specs, self.shares, strict=True):
                for name, activated in self._activate(model(shown), spec).items():
                    task, weight = self.tasks[name], share / len(self.views)
                    planes = view.undo(activated, task, size)
                    if self.disagreement and not isinstance(task, Centres):
                        planes = torch.cat([planes, spread(planes, task)], dim=1)
                    planes = planes if weight == 1 else planes * weight
                    sums[name] = sums[name] + planes if name in sums else planes
        return sums

    def _activate(self, logits: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
        """The probabilities or values of a model's logits."""
        heads = {name: spec.heads[name] for name in self.tasks}
        return {name: head.task.activate(head.scaled(logits[name], self.scaling)) for name, head in heads.items()}

    def logits(self, pixels: Tensor) -> dict[str, Tensor]:
        """The logits ``[B, K, H, W]`` by head of the mean prediction of stored pixels, without views; see `pool`."""
        each = [model(pixels) for model in self.models]
        return {head: self.pool(each, head, self.scaling) for head in self.tasks}

    def pool(self, each: Sequence[Mapping[str, Tensor]], head: str, kind: str) -> Tensor:
        """Pool the models' logits of a head, each scaled by this kind of scaling if it was fitted; see `pooled_logits`."""
        heads = [spec.heads[head] for spec in self.specs]
        logits = [own.scaled(logits[head], kind) for own, logits in zip(heads, each, strict=True)]
        return pooled_logits(logits, [own.task for own in heads], self.shares)

    def kinds(self, head: str) -> tuple[str, ...]:
        """``none``, and the kinds of scaling that were fitted for a head of at least one model."""
        fitted = {kind for spec in self.specs for kind in spec.heads[head].scaling}
        return ("none", *(kind for kind in SCALINGS if kind in fitted))

    def tuned_threshold(self, head: str) -> Tensor:
        """The tuned threshold, or biases, of a head's scaled logits.

        Raises:
            InputError: If a model has no tuned threshold.
        """
        if head not in self.thresholds:
            raise InputError(
                f"threshold=tuned: head {head} of {self.specs[0].name} has no threshold.json: it holds real values, the run is "
                "not finished, was trained with record.enabled=false or has diverged; leave threshold=tuned out"
            )
        return self.thresholds[head]

    def _mean_threshold(self, head: str) -> Tensor | None:
        """The weighted mean of thresholds, as probabilities, or of biases; None if a model has none."""
        found = [tuned for spec in self.specs if (tuned := spec.heads[head].tuned(self.scaling)) is not None]
        if len(found) < len(self.specs):
            return None
        if len(found) == 1:
            return found[0]
        each, weights = torch.stack(found), torch.tensor(self.shares)[:, None]
        return (each * weights).sum(0) if self.tasks[head].exclusive else (each.sigmoid() * weights).sum(0).logit()


def pooled_logits(logits: Sequence[Tensor], tasks: Sequence[Task], weights: Sequence[float]) -> Tensor:
    """Logits of the weighted mean of several models' probabilities, or of their values in their units.

    They are computed from logits, because float32 probabilities lose extreme log-odds; the first task applies to the result.

    Args:
        logits: ``[B, K, H, W]`` of each model; those of a single one are returned unchanged.
        tasks: The task of each model's head, which may differ in the mean and the deviation of real values.
        weights: The weight of each model; they sum to 1.

    Example:
        >>> from rsseg.task import Binary
        >>> two = [torch.logit(torch.full((1, 1, 1, 1), p)) for p in (0.5, 0.9)]
        >>> round(pooled_logits(two, [Binary(("road",))] * 2, [0.5, 0.5]).sigmoid().item(), 4)
        0.7
    """
    if len(logits) == 1:
        return logits[0]
    task = tasks[0]
    if task.real:
        values = [own.activate(each) * weight for own, each, weight in zip(tasks, logits, weights, strict=True)]
        return _inactivate(task, torch.stack(values).sum(0))
    each = torch.stack(list(logits))
    shares = each.new_tensor(weights).log().view(-1, 1, 1, 1, 1)
    if task.exclusive:
        return torch.logsumexp(each.log_softmax(2) + shares, 0)
    return torch.logsumexp(F.logsigmoid(each) + shares, 0) - torch.logsumexp(F.logsigmoid(-each) + shares, 0)


def entropy(probabilities: Tensor, task: Task) -> Tensor:
    """The entropy of probabilities ``[..., K, H, W]``, divided by its maximum so that it is from 0 to 1.

    Returns ``[..., 1, H, W]`` for exclusive classes, ``[..., K, H, W]`` otherwise.

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


def spread(planes: Tensor, task: Task) -> Tensor:
    """The planes whose mean `disagreement` needs: the entropy, or for real values their squares about the training mean."""
    if not task.real:
        return entropy(planes, task)
    return (planes - per_plane(getattr(task, "mean", ()) or (0.0,), planes)).square()


def disagreement(planes: Tensor, task: Task) -> Tensor:
    """The disagreement of the predictions that an `Ensemble` averages, from its output ``[..., planes, H, W]``.

    For labels, this is the mutual information between label and model (Houlsby et al. 2011): the entropy of the mean minus the
    mean entropy, divided by the largest entropy. For real values, it is their standard deviation.
    """
    mean, mean_spread = planes[..., : task.outputs, :, :], planes[..., task.outputs :, :, :]
    difference = spread(mean, task) - mean_spread
    return (-difference).clamp_min(0).sqrt() if task.real else difference.clamp_min(0)


def _inactivate(task: Task, values: Tensor) -> Tensor:
    """The inverse of `Task.activate` for the values of a regression, or for the scores, sides and offsets of objects."""
    if not isinstance(task, Centres):
        return task.standardise(values)
    planes = values.clone()
    planes[:, :-4] = values[:, :-4].logit(eps=1e-6)
    if task.mean and task.sized:
        planes[:, -4:-2] = (values[:, -4:-2] - per_plane(task.mean, values)) / per_plane(task.std, values)
    return planes


def _member_shares(specs: Sequence[Spec], weights: str) -> list[float]:
    """The weight of each model."""
    check_choice("weights", weights, MEMBER_WEIGHTS)
    if weights == "equal" or len(specs) == 1:
        return [1 / len(specs)] * len(specs)
    better = next(iter(specs[0].heads.values())).task.higher_is_better
    found = []
    for spec in specs:
        if not spec.quality or not np.isfinite(spec.quality):
            raise InputError(f"weights=quality: {spec.name} has no validation score above 0; take weights=equal")
        found.append(spec.quality if better else 1 / spec.quality**2)
    return [share / sum(found) for share in found]


def _check_alike(specs: Sequence[Spec]) -> None:
    """Refuse models whose heads, classes, tasks or bands differ: they can't be averaged."""

    def facts(spec: Spec) -> dict[str, object]:
        tasks = {name: head.task for name, head in spec.heads.items()}
        of_heads = {f"classes of {name}": f"{task.kind} {list(task.classes)}" for name, task in tasks.items()}
        return {"heads": list(tasks), "bands": list(spec.bands)} | of_heads

    first = facts(specs[0])
    for spec in specs[1:]:
        for what, found in facts(spec).items():
            if found != first[what]:
                raise InputError(
                    f"{specs[0].name} and {spec.name} can't be averaged: their {what} are {first[what]} and {found}"
                )
