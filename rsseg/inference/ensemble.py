"""Trained models that predict as one, and what is counted of each and of all in one pass over the windows of whole scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
"""What members of an ensemble may count by."""


def pooled_logits(logits: Sequence[Tensor], tasks: Sequence[Task], weights: Sequence[float]) -> Tensor:
    """Logits of the weighted mean of what several models' logits stand for: probabilities, or values in their units.

    Args:
        logits: ``[B, K, H, W]`` of each; a single one's are given back as they are.
        tasks: The task of each model's head, which may differ in the mean and the deviation of real values.
        weights: What each counts for; they sum to 1.

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
        return _as_logits(task, torch.stack(values).sum(0))
    shares = np.log(weights).tolist()
    if task.exclusive:
        return reduce(torch.logaddexp, (each.log_softmax(1) + share for each, share in zip(logits, shares, strict=True)))
    yes, no = (
        reduce(torch.logaddexp, (F.logsigmoid(sign * each) + share for each, share in zip(logits, shares, strict=True)))
        for sign in (1, -1)
    )
    return yes - no


def _as_logits(task: Task, values: Tensor) -> Tensor:
    """What `Task.activate` makes such values of: those of a regression in their units, or scores, sides and offsets."""
    if not isinstance(task, Centres):
        return task.standardise(values)
    planes = values.clone()
    planes[:, :-4] = values[:, :-4].logit(eps=1e-6)
    if task.mean and task.sized:
        planes[:, -4:-2] = (values[:, -4:-2] - per_plane(task.mean, values)) / per_plane(task.std, values)
    return planes


class Ensemble:
    """Trained models that predict as one, by the weighted mean of their scaled probabilities; of one model by its own logits.

    Args:
        models: They have to be alike, see `check_alike`.
        weights: One of `WEIGHTS`.
        scaling: The kind of scaling of the probabilities that are averaged, or ``none``. One model's labels are not scaled.
        heads: The heads that count; None: all.

    Attributes:
        tasks: The first model's, by head.
        shares: What each model counts for; they sum to 1.
        thresholds: By head, what was tuned, as `Task.predict` takes it: the mean of the models' own, of probabilities or of
            biases. A head of which a model has none has none.
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
        self.kinds = {
            name: ("none", *(kind for kind in KINDS if not task.real and any(kind in self._scalings(m, name) for m in models)))
            for name, task in self.tasks.items()
        }
        means = {name: mean_threshold(self.models, name, self.scaling, self.shares) for name in self.tasks}
        self.thresholds = {name: mean for name, mean in means.items() if mean is not None}

    @staticmethod
    def _scalings(model: TrainedModel, head: str) -> Mapping[str, Any]:
        return model.spec.heads[head].scaling or {}

    def members(self, scenes: int) -> list[Counted]:
        """What is to be counted of each model in so many scenes, at its own thresholds; of one model nothing besides."""
        if len(self.models) == 1:
            return []
        return [
            Counted(
                model.spec.name,
                {name: model.spec.heads[name].task for name in self.tasks},
                scenes,
                {n: torch.tensor(own) for n in self.tasks if (own := model.spec.heads[n].threshold) is not None},
                self.kinds,
            )
            for model in self.models
        ]

    def to(self, device: torch.device) -> Ensemble:
        """Bring the models to a device."""
        for model in self.models:
            model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.models[0].device

    def each(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        """The logits of each model, by head, of stored pixels ``[B, C, H, W]``; not scaled."""
        return [model.logits(pixels) for model in self.models]

    def pool(self, each: Sequence[Mapping[str, Tensor]], head: str, kind: str) -> Tensor:
        """A head's logits of all models together, each scaled in this way if it can be."""
        logits = [self.scaled(m, own[head], head, kind) for m, own in enumerate(each)]
        return pooled_logits(logits, [model.spec.heads[head].task for model in self.models], self.shares)

    def scaled(self, member: int, logits: Tensor, head: str, kind: str) -> Tensor:
        """Logits of a model, scaled if it has such a scaling."""
        scaling = self._scalings(self.models[member], head).get(kind)
        return logits if scaling is None else scaling.apply(logits)

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """The logits by head of stored pixels, as labels are found by them."""
        each = self.each(pixels)
        return {head: self.pool(each, head, self.scaling) for head in self.tasks}


def mean_threshold(models: Sequence[TrainedModel], head: str, scaling: str, shares: Sequence[float]) -> Tensor | None:
    """The mean of what was tuned for a head of several models, as `Task.predict` takes it; None: one has none.

    It is a mean of probabilities, or of biases, each moved as the scaling moves its model's logits.
    """
    task, found = models[0].spec.heads[head].task, []
    for model in models:
        own, fitted = model.spec.heads[head].threshold, (model.spec.heads[head].scaling or {}).get(scaling)
        if own is None:
            return None
        values = torch.tensor(own)
        if fitted is not None:
            values = fitted.threshold(values, task.exclusive)
        found.append(values)
    if len(found) == 1:
        return found[0]
    weights = torch.tensor(shares)[:, None]
    if task.exclusive:
        return (torch.stack(found) * weights).sum(0)
    return (torch.stack(found).sigmoid() * weights).sum(0).logit()


def member_shares(models: Sequence[TrainedModel], weights: str) -> list[float]:
    """What each model counts for: the same, or as its validation score says: IoU or F1, of values one over the squared error.

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
    """Let models that say different things not be averaged.

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
    """What is counted of a model, or of an ensemble, while whole scenes are predicted.

    Args:
        name: What it is called.
        tasks: The task of each head.
        scenes: The number of scenes.
        thresholds: By head, what was tuned; a head without one is counted at the fixed point alone.
        kinds: By head, the kinds of scaling.

    Attributes:
        points: By operating point and head, what is counted of each scene.
        histograms: By head with labels and kind of scaling, the histograms of scores of each scene.
    """

    def __init__(
        self,
        name: str,
        tasks: Mapping[str, Task],
        scenes: int,
        thresholds: Mapping[str, Tensor],
        kinds: Mapping[str, Sequence[str]],
    ) -> None:
        self.name, self.tasks = name, dict(tasks)
        self.points: dict[str, dict[str, Any]] = {
            "fixed": {head: SCENE_SUMS[task.counted](task, scenes) for head, task in tasks.items()},
            "tuned": {head: Confusion(tasks[head], scenes, threshold) for head, threshold in thresholds.items()},
        }
        self.histograms = {
            head: {kind: ScoreHistogram(task, scenes) for kind in kinds[head]} for head, task in tasks.items() if not task.real
        }

    def update(self, head: str, logits: Tensor, batch: Batch) -> None:
        """Count the logits of a batch by which labels are found."""
        target = self.tasks[head].standardise(layers_of(batch)[self.tasks[head].target])
        for sums in self.points.values():
            if head in sums:
                sums[head].to(logits.device).update(logits, target, batch["scene"], batch.get("corner"))

    def update_calibration(self, head: str, kind: str, logits: Tensor, batch: Batch) -> None:
        """Count scaled logits of a batch."""
        target = self.tasks[head].hard_labels(layers_of(batch)[self.tasks[head].target])
        self.histograms[head][kind].to(logits.device).update(logits, target, batch["scene"])

    def scores(self, point: str, without: Mapping[str, Sequence[str]]) -> dict[str, AnyScores]:
        """The scores of each head at a point, or where it has none, at the fixed one."""
        sums = {head: self.points[point].get(head, fixed) for head, fixed in self.points["fixed"].items()}
        return {head: score_scenes(own, self.tasks[head], without[head]) for head, own in sums.items()}

    def calibration_sums(self, head: str, kind: str) -> dict[str, np.ndarray[Any, Any]]:
        """What the scores of a head's calibration are functions of, see `rsseg.metrics.calibration.calibration_sums`."""
        return calibration_sums(self.histograms[head][kind].compute().cpu().numpy(), self.tasks[head])


@torch.inference_mode()
def count(ensemble: Ensemble, batches: Iterable[Batch], members: Sequence[Counted], together: Counted) -> None:
    """Count batches of windows of whole scenes.

    Args:
        ensemble: The models, on their device.
        batches: The windows.
        members: What is counted of each model; none: nothing is.
        together: What is counted of all of them as one.
    """
    for given in batches:
        moved = {key: value if key == "k" else value.to(ensemble.device) for key, value in given.items()}  # type: ignore[attr-defined]
        batch: Any = moved
        each = ensemble.each(batch["image"])
        for head, kinds in ensemble.kinds.items():
            together.update(head, ensemble.pool(each, head, ensemble.scaling), batch)
            for m, member in enumerate(members):
                member.update(head, each[m][head], batch)
            for kind in kinds if head in together.histograms else ():
                together.update_calibration(head, kind, ensemble.pool(each, head, kind), batch)
                for m, member in enumerate(members):
                    member.update_calibration(head, kind, ensemble.scaled(m, each[m][head], head, kind), batch)
