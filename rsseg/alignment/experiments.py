"""Three experiments with known answers: rsseg's losses, metrics and analysis beside what `theory` predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import expit
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer, RMSprop

from rsseg.alignment import theory
from rsseg.alignment.counts import Array, counts_of, overlap, per_scene, pooled
from rsseg.alignment.gradients import component_share, term_gradients
from rsseg.alignment.simulation import TASK, Outcome, exact_labels, fixed_and_tuned, train
from rsseg.losses import Composite, CrossEntropy, Dice, Focal, Jaccard, Lovasz, Tversky
from rsseg.metrics import Confusion

THRESHOLD = ((0.78, 0.05, 0.05, 0.04, 0.03, 0.02, 0.03), (0.01, 0.12, 0.25, 0.35, 0.45, 0.60, 0.92))
"""Experiment A: mass and posterior of seven pixel types."""

AGGREGATION = (
    ((0.60, 0.05, 0.05, 0.30), (0.01, 0.30, 0.55, 0.97)),
    ((0.955, 0.020, 0.015, 0.010), (0.002, 0.30, 0.42, 0.85)),
)
"""Experiment B: mass and posterior within two types of scene, as many of one as of the other."""

POINTS = ((1.0, 1.0), (2.0, 2.0), (0.0, -2.0), (-1.0, 1.0), (1.0, 2.0))
CAPACITY = ((0.70, 0.12, 0.10, 0.10, 0.12), (0.02, 0.8, 0.8, 0.4, 0.1))
"""Experiment C: mass and posterior at five points of the plane."""


def at(mass: ArrayLike, posterior: ArrayLike, threshold: float) -> float:
    """The expected IoU of ``{p > threshold}``."""
    return float(overlap(theory.expected_counts(mass, posterior, np.asarray(posterior) > threshold)))


def cutting_losses() -> dict[str, tuple[nn.Module, float | None]]:
    """The losses of A, and where each cuts posteriors when its model calls 0.5; None where no theory says so."""
    mass, posterior = theory.population(*THRESHOLD)
    base = float(mass @ posterior)
    inverse, optimal = (1 - base) / base, theory.iou_optimal_weight(theory.tversky_optimum(mass, posterior, 0.5, 0.5).value)
    ce, dice = CrossEntropy("binary"), Dice("binary", smooth=0)

    def expected_sum(z: Array) -> float:
        ce_part = theory.expected_focal(mass, posterior, expit(z), gamma=0)
        return ce_part - theory.expected_soft_dice(mass, posterior, expit(z))

    called = theory.numerical_optimum(np.zeros(len(mass)), expected_sum) > 0

    def cut(alpha: float, beta: float) -> float:
        return theory.tversky_optimum(mass, posterior, alpha, beta).threshold

    return {
        "CE": (ce, theory.weighted_ce_threshold(1)),
        "Focal, gamma 2": (Focal("binary", gamma=2), 0.5),
        f"CE, weight {inverse:.2f}": (CrossEntropy("binary", pos_weight=inverse), theory.weighted_ce_threshold(inverse)),
        f"CE, weight {optimal:.2f}": (CrossEntropy("binary", pos_weight=optimal), theory.weighted_ce_threshold(optimal)),
        "Dice": (dice, cut(0.5, 0.5)),
        "Jaccard": (Jaccard("binary", smooth=0), cut(1, 1)),
        "Tversky .3 / .7": (Tversky("binary", 0.3, 0.7, smooth=0), cut(0.3, 0.7)),
        "Tversky .7 / .3": (Tversky("binary", 0.7, 0.3, smooth=0), cut(0.7, 0.3)),
        "CE + Dice": (Composite({"ce": (1, ce), "dice": (1, dice)}), float(posterior[~called].max())),
        "Lovasz hinge": (Lovasz("binary"), None),
        "Lovasz, sigmoid": (Lovasz("binary", bins=512), None),
    }


def threshold_experiment(steps: int = 800) -> Iterator[Outcome]:
    """A: a free logit per pixel type. Where a loss puts its threshold decides its IoU; tuning it makes most equal."""
    kind, label = exact_labels(*THRESHOLD, 10_000)
    target, types = label.view(1, 100, 100), len(THRESHOLD[0])
    yield zero_logits(kind, target)
    best = theory.tversky_optimum(*THRESHOLD, 1, 1).value
    for name, (loss, cut) in cutting_losses().items():
        learnt = train(loss, lambda z: z[kind].view(1, 1, 100, 100), torch.zeros(types), target, steps, partial(Adam, lr=0.1))
        measured = fixed_and_tuned(learnt[kind].view(1, 1, 100, 100), target)
        predicted: dict[str, float] = {}
        if cut is None:
            measured["types within .02 of 0.5"] = float(((learnt.sigmoid() - 0.5).abs() < 0.02).sum())
        else:
            predicted = {"IoU at 0.5": at(*THRESHOLD, cut), "IoU tuned": best}
        yield Outcome("A", name, learnt.double().numpy(), measured, predicted)


def zero_logits(kind: Tensor, target: Tensor) -> Outcome:
    """A, before training: values of CE and Dice say one thing, their gradients another."""
    (m, p), start = theory.population(*THRESHOLD), torch.zeros(len(THRESHOLD[0]), requires_grad=True)
    both = Composite({"CE": (1.0, CrossEntropy("binary")), "Dice": (1.0, Dice("binary", smooth=0))})
    value = both(start[kind].view(1, 1, 100, 100), target)
    norms = component_share(term_gradients(value.weighted, start)).norm
    measured = {f"{name} value": float(part.detach()) for name, part in value.raw.items()}
    measured |= {f"{name} gradient norm": float(norm) for name, norm in zip(value.raw, norms, strict=True)}
    base = m @ p
    index = base / (0.5 + base)
    predicted = {
        "CE value": float(np.log(2)),
        "Dice value": float(1 - index),
        "CE gradient norm": float(np.linalg.norm(m * (0.5 - p))),
        "Dice gradient norm": float(np.linalg.norm(0.25 * m * (2 * p - index) / (0.5 + base))),
    }
    return Outcome("A", "CE and Dice, logits 0", start.detach().double().numpy(), measured, predicted)


def aggregation_experiment(steps: int = 600) -> Iterator[Outcome]:
    """B: two types of scene. A loss over the batch serves the pooled IoU, one over images the IoU per scene."""
    parts = [exact_labels(mass, posterior, 100_000) for mass, posterior in AGGREGATION]
    target = torch.stack([label for _, label in parts]).view(2, 250, 400)
    kinds = torch.stack([kind + 4 * i for i, (kind, _) in enumerate(parts)]).view(2, 1, 250, 400)
    mass, posterior = (np.concatenate(x) for x in zip(*AGGREGATION, strict=True))
    over_batch = np.full(8, theory.tversky_optimum(mass, posterior, 1, 1).threshold)
    over_image = np.repeat([theory.tversky_optimum(*scene, 1, 1).threshold for scene in AGGREGATION], 4)
    losses = {
        "CE": (CrossEntropy("binary"), np.full(8, 0.5)),
        "Jaccard over the batch": (Jaccard("binary", smooth=0), over_batch),
        "Jaccard over images": (Jaccard("binary", smooth=0, over="image"), over_image),
    }
    for name, (loss, threshold) in losses.items():
        learnt = train(loss, lambda z: z[kinds], torch.zeros(8), target, steps, partial(Adam, lr=0.1))
        confusion = Confusion(TASK, 2)
        confusion.update(learnt[kinds], target, torch.tensor([0, 1]))
        chosen = posterior > threshold
        expected = np.stack([theory.expected_counts(*AGGREGATION[i], chosen[4 * i : 4 * i + 4]) for i in range(2)])[:, None]
        measured, predicted = (
            {"pooled IoU": float(pooled(c)), "IoU per scene": float(per_scene(c))}
            for c in (counts_of(confusion.compute(), TASK), expected)
        )
        yield Outcome("B", name, learnt.double().numpy(), measured, predicted)


def capacity_experiment(steps: int = 4000) -> Iterator[Outcome]:
    """C: a linear model that can't tell all types apart. Here tuning CE's threshold does not reach what Dice learns."""
    kind, label = exact_labels(*CAPACITY, 1140)
    features, target = torch.tensor(POINTS)[kind], label.view(1, 1, -1)

    def logits(weights: Tensor) -> Tensor:
        return (features @ weights[:2] + weights[2]).view(1, 1, 1, -1)

    def fitted(name: str, loss: nn.Module, start: Tensor, how: str, predicted: dict[str, float]) -> Outcome:
        optimizer, number = OPTIMIZERS[how]
        learnt = train(loss, logits, start, target, number or steps, optimizer)
        return Outcome("C", f"{name}, {how}", learnt.double().numpy(), fixed_and_tuned(logits(learnt), target), predicted)

    ce = fitted("CE", CrossEntropy("binary"), torch.zeros(3), "Adam .05", {"IoU tuned": linear_focal(0)})
    yield ce
    yield fitted("Focal", Focal("binary", gamma=2), torch.zeros(3), "Adam .05", {"IoU tuned": linear_focal(2)})
    best = {"IoU at 0.5": theory.best_half_space(POINTS, *CAPACITY)}
    for name, loss in {"Dice": Dice("binary", smooth=0), "Jaccard": Jaccard("binary", smooth=0)}.items():
        for how in OPTIMIZERS:
            yield fitted(name, loss, torch.from_numpy(ce.learnt).float(), how, best if how == "Adam .05" else {})


OPTIMIZERS: dict[str, tuple[Callable[[list[Tensor]], Optimizer], int | None]] = {
    "Adam .05": (partial(Adam, lr=0.05), None),
    "Adam .01": (partial(Adam, lr=0.01), None),
    "RMSprop .05": (partial(RMSprop, lr=0.05), None),
    "SGD 1": (partial(SGD, lr=1.0), None),
    "L-BFGS": (partial(LBFGS, line_search_fn="strong_wolfe"), 100),
}
"""Of C, with a number of steps where it is their own. The theory speaks of the first."""


def linear_focal(gamma: float) -> float:
    """The best IoU at any threshold of the linear model that minimises the expected focal loss (CE for gamma 0)."""
    features = np.column_stack([POINTS, np.ones(len(POINTS))])

    def expected(w: Array) -> float:
        return theory.expected_focal(*CAPACITY, expit(features @ w), gamma)

    z = features @ theory.numerical_optimum(np.zeros(3), expected)
    return float(overlap(theory.expected_counts(*CAPACITY, z >= z[:, None])).max())
