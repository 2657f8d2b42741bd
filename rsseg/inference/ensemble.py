"""Trained models that predict as one, and what is counted of one or several while whole scenes are predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rsseg.contract import Batch, InputError, layers_of
from rsseg.inference.trained import TrainedModel
from rsseg.metrics import AnyScores
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.counters import SCENE_SUMS, Confusion, ScoreHistogram, score_scenes
from rsseg.metrics.scaling import KINDS
from rsseg.task import Centres, Task
from rsseg.task.task import per_plane

WEIGHTS = ("equal", "quality")
"""How the members of an ensemble may be weighted."""


def pooled_logits(logits: Sequence[Tensor], tasks: Sequence[Task], weights: Sequence[float]) -> Tensor:
    """Logits of the weighted mean of several models' probabilities, or of their values in their units.

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


class Ensemble:
    """Trained models that predict together by the weighted mean of their scaled probabilities; one model by its own logits.

    Args:
        models: They have to be alike, see `check_alike`.
        weights: One of `WEIGHTS`.
        scaling: The scaling of the probabilities that are averaged, one of `KINDS` or ``none``. A single model is not scaled.
        heads: The heads that count; None: all.

    Attributes:
        tasks: The first model's, by head.
        shares: The weight of each model; they sum to 1.
        thresholds: By head, the mean of the models' tuned thresholds or biases, see `mean_threshold`, where all have some.
        kinds: By head, ``none`` and the kinds of scaling that some model has.

    Raises:
        InputError: If there is no such kind of weight or scaling, or a model has no quality to be weighed by.
    """

    def __init__(
        self, models: Sequence[TrainedModel], weights: str = "equal", scaling: str = "none", heads: Sequence[str] | None = None
    ) -> None:
        if scaling not in ("none", *KINDS):
            raise InputError(f"scaling={scaling}: none, {' or '.join(KINDS)} is expected")
        self.models, self.scaling = list(models), "none" if len(models) == 1 else scaling
        found = models[0].spec.heads
        self.tasks = {name: head.task for name, head in found.items() if heads is None or name in heads}
        self.shares = member_shares(models, weights)
        fitted = {name: {kind for model in models for kind in model.spec.heads[name].scaling} for name in self.tasks}
        self.kinds = {name: ("none", *(kind for kind in KINDS if kind in fitted[name])) for name in self.tasks}
        means = {name: mean_threshold(self.models, name, self.scaling, self.shares) for name in self.tasks}
        self.thresholds = {name: mean for name, mean in means.items() if mean is not None}

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.models[0].device

    def pool(self, each: Sequence[Mapping[str, Tensor]], head: str, kind: str) -> Tensor:
        """The logits of a head of all models together: those of each, scaled by this kind where it was fitted."""
        heads = [model.spec.heads[head] for model in self.models]
        logits = [own.scaled(logits[head], kind) for own, logits in zip(heads, each, strict=True)]
        return pooled_logits(logits, [own.task for own in heads], self.shares)

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """The logits by head of stored pixels, as labels are found by them."""
        each = [model.logits(pixels) for model in self.models]
        return {head: self.pool(each, head, self.scaling) for head in self.tasks}


def mean_threshold(models: Sequence[TrainedModel], head: str, scaling: str, shares: Sequence[float]) -> Tensor | None:
    """The mean of several models' tuned thresholds of a head, as `Task.predict` takes it; None where a model has none.

    Thresholds are averaged as probabilities, biases as they are, both for logits that are scaled by this kind.
    """
    found = [own for model in models if (own := model.spec.heads[head].tuned(scaling)) is not None]
    if len(found) < len(models):
        return None
    if len(found) == 1:
        return found[0]
    weights = torch.tensor(shares)[:, None]
    if models[0].spec.heads[head].task.exclusive:
        return (torch.stack(found) * weights).sum(0)
    return (torch.stack(found).sigmoid() * weights).sum(0).logit()


def member_shares(models: Sequence[TrainedModel], weights: str) -> list[float]:
    """The weight of each model: equal, or proportional to its validation score (IoU or F1; of values 1 / squared error).

    Raises:
        InputError: If there is no such kind of weight, or a model has no score.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights={weights}: {' or '.join(WEIGHTS)} is expected")
    if weights == "equal" or len(models) == 1:
        return [1 / len(models)] * len(models)
    better = next(iter(models[0].spec.heads.values())).task.higher_is_better
    found = []
    for model in models:
        quality = model.spec.quality
        if quality is None or not np.isfinite(quality) or quality == 0:
            raise InputError(f"weights=quality: {model.spec.name} has no validation score above 0; take weights=equal")
        found.append(quality if better else 1 / quality**2)
    return [share / sum(found) for share in found]


def check_alike(models: Sequence[TrainedModel]) -> None:
    """Refuse models that can't be averaged.

    Raises:
        InputError: If their heads, classes, tasks or bands differ.
    """

    def facts(model: TrainedModel) -> dict[str, Any]:
        heads = model.spec.heads
        return {
            "heads": list(heads),
            "tasks": {name: head.task.kind for name, head in heads.items()},
            "classes": {name: list(head.task.classes) for name, head in heads.items()},
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


class Counted:
    """What is counted of an ensemble, or of one model, while whole scenes are predicted.

    Args:
        ensemble: The models.
        scenes: The number of scenes.
        kinds: By head, the kinds of scaling whose calibration is counted.

    Attributes:
        name: What it is called.
        points: By operating point and head, what is counted of each scene; ``tuned`` lacks the heads that have no thresholds.
        histograms: By head with labels and kind of scaling, the histograms of scores of each scene.
    """

    def __init__(self, ensemble: Ensemble, scenes: int, kinds: Mapping[str, Sequence[str]]) -> None:
        self.ensemble, self.tasks = ensemble, ensemble.tasks
        self.name = ensemble.models[0].spec.name if len(ensemble.models) == 1 else "ensemble"
        tuned = ensemble.thresholds.items()
        self.points: dict[str, dict[str, Any]] = {
            "fixed": {head: SCENE_SUMS[task.counted](task, scenes) for head, task in self.tasks.items()},
            "tuned": {head: Confusion(self.tasks[head], scenes, threshold) for head, threshold in tuned},
        }
        self.histograms = {
            head: {kind: ScoreHistogram(task, scenes) for kind in kinds[head]}
            for head, task in self.tasks.items()
            if not task.real
        }

    def update(self, each: Sequence[Mapping[str, Tensor]], batch: Batch) -> None:
        """Count a batch by the logits of each model."""
        layers, device = layers_of(batch), self.ensemble.device
        for head, task in self.tasks.items():
            logits, target = self.ensemble.pool(each, head, self.ensemble.scaling), layers[task.target]
            for sums in self.points.values():
                if head in sums:
                    sums[head].to(device).update(logits, task.standardise(target), batch["scene"], batch.get("corner"))
            for kind, histogram in self.histograms.get(head, {}).items():
                scaled = self.ensemble.pool(each, head, kind)
                histogram.to(device).update(scaled, task.hard_labels(target), batch["scene"])

    def scores(self, point: str, without: Mapping[str, Sequence[str]]) -> dict[str, AnyScores]:
        """The scores of each head at a point, or where it has none, at the fixed one."""
        sums = {head: self.points[point].get(head, fixed) for head, fixed in self.points["fixed"].items()}
        return {head: score_scenes(own, self.tasks[head], without[head]) for head, own in sums.items()}

    def calibration_sums(self, head: str, kind: str) -> dict[str, np.ndarray[Any, Any]]:
        """What the scores of a head's calibration are functions of, see `rsseg.metrics.calibration.calibration_sums`."""
        return calibration_sums(self.histograms[head][kind].compute().cpu().numpy(), self.tasks[head])
