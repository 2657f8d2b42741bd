"""Trained models that predict as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rsseg.contract import InputError
from rsseg.inference.trained import TrainedModel
from rsseg.metrics.scaling import SCALINGS
from rsseg.task import Centres, Task
from rsseg.task.task import per_plane

WEIGHTS = ("equal", "quality")
"""How the members of an ensemble may be weighted."""


class Ensemble:
    """Trained models that predict together by the weighted mean of their scaled probabilities; one model by its own logits.

    Args:
        models: The models, of the same heads, classes and bands.
        weights: ``equal``, or ``quality``: by their validation scores (IoU or F1; of values 1 / squared error).
        scaling: The scaling of the probabilities that are averaged, as for `TrainedModel`.
        heads: The heads that count; None: all.
        tuned: Whether `labels` are found at tuned thresholds where there are some, not at fixed ones.

    Attributes:
        tasks: The first model's, by head.
        shares: The weight of each model; they sum to 1.
        thresholds: By head, the mean of the models' tuned thresholds or biases for scaled logits, where all have some.

    Raises:
        InputError: If the models do not go together, there is no such kind of weight, or a model has no score.
    """

    def __init__(
        self,
        models: Sequence[TrainedModel],
        weights: str = "equal",
        scaling: str = "none",
        heads: Sequence[str] | None = None,
        tuned: bool = False,
    ) -> None:
        _check_alike(models)
        self.models, self.scaling, self.tuned = list(models), scaling, tuned
        self.tasks = {name: task for name, task in models[0].tasks.items() if heads is None or name in heads}
        self.shares = _member_shares(models, weights)
        self.thresholds = {name: mean for name in self.tasks if (mean := self._mean_threshold(name)) is not None}

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.models[0].device

    def kinds(self, head: str) -> tuple[str, ...]:
        """``none``, and the kinds of scaling that some model has of a head."""
        fitted = {kind for model in self.models for kind in model.spec.heads[head].scaling}
        return ("none", *(kind for kind in SCALINGS if kind in fitted))

    def logits(self, pixels: Tensor) -> dict[str, Tensor]:
        """The logits by head of stored pixels, by which labels are found."""
        each = [model.logits(pixels) for model in self.models]
        return {head: self.pool(each, head, self.scaling) for head in self.tasks}

    def labels(self, head: str, logits: Tensor) -> Tensor:
        """The labels, or values, of a head's logits."""
        return self.tasks[head].predict(logits, self.thresholds.get(head) if self.tuned else None)

    def pool(self, each: Sequence[Mapping[str, Tensor]], head: str, kind: str) -> Tensor:
        """The logits of a head of all models together: those of each, scaled by this kind where it was fitted."""
        heads = [model.spec.heads[head] for model in self.models]
        logits = [own.scaled(logits[head], kind) for own, logits in zip(heads, each, strict=True)]
        return pooled_logits(logits, [own.task for own in heads], self.shares)

    def tuned_threshold(self, head: str) -> Tensor:
        """The tuned threshold, or biases, of a head's scaled probabilities.

        Raises:
            InputError: If a model has none.
        """
        if head not in self.thresholds:
            raise InputError(
                f"threshold=tuned: head {head} of {self.models[0].spec.name} has no tuned threshold: it holds real values, the "
                "run is not finished, was trained with record.enabled=false or has diverged; leave threshold=tuned out"
            )
        return self.thresholds[head]

    def _mean_threshold(self, head: str) -> Tensor | None:
        """The mean of thresholds as probabilities, or of biases as they are; None where a model has none."""
        found = [tuned for model in self.models if (tuned := model.spec.heads[head].tuned(self.scaling)) is not None]
        if len(found) < len(self.models):
            return None
        if len(found) == 1:
            return found[0]
        weights = torch.tensor(self.shares)[:, None]
        if self.tasks[head].exclusive:
            return (torch.stack(found) * weights).sum(0)
        return (torch.stack(found).sigmoid() * weights).sum(0).logit()


def pooled_logits(logits: Sequence[Tensor], tasks: Sequence[Task], weights: Sequence[float]) -> Tensor:
    """Logits of the weighted mean of several models' probabilities, or of their values in their units.

    They are computed from logits, since log-odds go further than float32's probabilities.

    Args:
        logits: ``[B, K, H, W]`` of each model; those of a single one are returned unchanged.
        tasks: The task of each model's head, which may differ in the mean and the deviation of real values.
        weights: The weight of each; they sum to 1.

    Returns:
        ``[B, K, H, W]``, to be read by the first task.

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
    shares = np.log(weights).tolist()
    if task.exclusive:
        return reduce(torch.logaddexp, (each.log_softmax(1) + share for each, share in zip(logits, shares, strict=True)))
    yes, no = (
        reduce(torch.logaddexp, (F.logsigmoid(sign * each) + share for each, share in zip(logits, shares, strict=True)))
        for sign in (1, -1)
    )
    return yes - no


def _inactivate(task: Task, values: Tensor) -> Tensor:
    """The logits from which `Task.activate` gives these values of a regression, or scores, sides and offsets."""
    if not isinstance(task, Centres):
        return task.standardise(values)
    planes = values.clone()
    planes[:, :-4] = values[:, :-4].logit(eps=1e-6)
    if task.mean and task.sized:
        planes[:, -4:-2] = (values[:, -4:-2] - per_plane(task.mean, values)) / per_plane(task.std, values)
    return planes


def _member_shares(models: Sequence[TrainedModel], weights: str) -> list[float]:
    """The weight of each model."""
    if weights not in WEIGHTS:
        raise InputError(f"weights={weights}: {' or '.join(WEIGHTS)} is expected")
    if weights == "equal" or len(models) == 1:
        return [1 / len(models)] * len(models)
    better = next(iter(models[0].tasks.values())).higher_is_better
    found = []
    for model in models:
        quality = model.spec.quality
        if quality is None or not np.isfinite(quality) or quality == 0:
            raise InputError(f"weights=quality: {model.spec.name} has no validation score above 0; take weights=equal")
        found.append(quality if better else 1 / quality**2)
    return [share / sum(found) for share in found]


def _check_alike(models: Sequence[TrainedModel]) -> None:
    """Refuse models whose heads, classes, tasks or bands differ: they can't be averaged."""

    def facts(model: TrainedModel) -> dict[str, Any]:
        return {
            "heads": list(model.tasks),
            "tasks": {name: task.kind for name, task in model.tasks.items()},
            "classes": {name: list(task.classes) for name, task in model.tasks.items()},
            "bands": list(model.spec.bands),
        }

    first = facts(models[0])
    for model in models[1:]:
        for what, found in facts(model).items():
            if found != first[what]:
                one, two = (next(iter(f.values())) if isinstance(f, dict) and len(f) == 1 else f for f in (first[what], found))
                raise InputError(
                    f"{models[0].spec.name} and {model.spec.name} can't be averaged: their {what} are {one} and {two}"
                )


def check_threshold(threshold: str) -> None:
    """Check the setting `threshold`.

    Raises:
        InputError: If it is neither ``fixed`` nor ``tuned``.
    """
    if threshold not in ("fixed", "tuned"):
        raise InputError(f"threshold={threshold}: fixed (0.5, or the largest probability) or tuned is expected")
