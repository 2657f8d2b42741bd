"""Training losses on pixels of known types: exact labels, a bare loop, and rsseg's own scoring of what was learnt.

Labels are exact: every pixel type has its positives in the exact proportion, so nothing is left to sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.optim import Optimizer

from rsseg.alignment.counts import Array, counts_of, pooled
from rsseg.alignment.theory import population
from rsseg.alignment.threshold import threshold_regret
from rsseg.contract import InputError
from rsseg.losses import Composite
from rsseg.metrics import Confusion, ScoreHistogram
from rsseg.task import Binary

TASK = Binary(("positive",))


@dataclass(frozen=True)
class Outcome:
    """One trained loss.

    Attributes:
        experiment: A, B or C.
        loss: Its name.
        learnt: What was trained: a logit per pixel type, or the two weights and the bias.
        measured: By quantity.
        predicted: By quantity, where theory says something.
    """

    experiment: str
    loss: str
    learnt: Array
    measured: Mapping[str, float]
    predicted: Mapping[str, float] = field(default_factory=dict)


def exact_labels(mass: ArrayLike, posterior: ArrayLike, pixels: int) -> tuple[Tensor, Tensor]:
    """Pixels of every type with its positives in the exact proportion.

    Args:
        mass: ``[types]``, scaled to sum to 1.
        posterior: ``[types]``.
        pixels: How many there are in all.

    Returns:
        The type and the label of each pixel, int64 ``[pixels]``.

    Raises:
        InputError: If that many pixels do not divide exactly.

    Example:
        >>> [x.tolist() for x in exact_labels([0.5, 0.5], [0.5, 0.0], 4)]
        [[0, 0, 1, 1], [1, 0, 0, 0]]
    """
    m, p = population(mass, posterior)
    shares = pixels * np.stack([m * p, m * (1 - p)], axis=1)  # [types, (positive, negative)]
    numbers = np.rint(shares).astype(np.int64)
    if np.abs(shares - numbers).max() > 1e-6:
        raise InputError(f"{pixels} pixels can't hold every type's labels in the exact proportion: take a multiple")
    kind = np.repeat(np.arange(len(m)), numbers.sum(1))
    label = np.repeat(np.tile([1, 0], len(m)), numbers.ravel())
    return torch.from_numpy(kind), torch.from_numpy(label)


def train(
    loss: nn.Module,
    logits: Callable[[Tensor], Tensor],
    start: Tensor,
    target: Tensor,
    steps: int,
    optimizer: Callable[[list[Tensor]], Optimizer],
) -> Tensor:
    """Minimise a loss of ``logits(learnt)`` from a start; what was learnt is returned.

    Args:
        loss: A term of `rsseg.losses`, or a `Composite`.
        logits: From the trained tensor to logits ``[B, 1, H, W]``.
        start: The trained tensor's first value.
        target: ``[B, H, W]``.
        steps: Of the optimizer.
        optimizer: Made from the list of trained tensors.
    """
    learnt = start.clone().requires_grad_()
    stepper = optimizer([learnt])

    def closure() -> Tensor:
        stepper.zero_grad()
        found = loss(logits(learnt), target)
        value: Tensor = found.total if isinstance(loss, Composite) else found
        value.backward()  # type: ignore[no-untyped-call]
        return value

    for _ in range(steps):
        stepper.step(closure)  # type: ignore[arg-type]
    return learnt.detach()


def fixed_and_tuned(logits: Tensor, target: Tensor) -> dict[str, float]:
    """IoU at 0.5 and at the tuned threshold of one scene ``[1, 1, H, W]``, counted twice: both halves are alike."""
    histogram, confusion = ScoreHistogram(TASK, 2), Confusion(TASK, 2)
    for scene in range(2):
        histogram.update(logits, target, torch.tensor([scene]))
        confusion.update(logits, target, torch.tensor([scene]))
    tuned = threshold_regret(histogram.compute().numpy()).tuned
    return {"IoU at 0.5": float(pooled(counts_of(confusion.compute(), TASK))), "IoU tuned": tuned}
