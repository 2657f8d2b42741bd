"""Hold the losses to what theory predicts: python examples/theory.py

Three experiments with known answers, see docs/evidence.md. A population is a mass per pixel type and the posterior probability
that a pixel of the type is positive. A model that tells all types apart and is trained to the optimum of a loss ends with a set
of types called positive; for the losses here that set is ``{p > tau}``, and tau has a closed form. rsseg's losses are trained
on such pixels and scored by rsseg's metrics, and what theory predicts is printed beside what is measured. The labels are
exact: every type has its positives in the exact proportion, so nothing is left to sampling.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.optimize import linprog, minimize
from scipy.special import expit, xlogy
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer, RMSprop

from rsseg.comparison.tuning import tune_threshold
from rsseg.config.arguments import run_command
from rsseg.contract import InputError
from rsseg.losses import Composite, CrossEntropy, Dice, Focal, Jaccard, Lovasz, Tversky
from rsseg.losses.balancing import term_gradients
from rsseg.metrics import metrics
from rsseg.metrics.average import Array
from rsseg.metrics.counters import Confusion
from rsseg.metrics.scores import class_counts, overlap, pooled
from rsseg.task import Binary
from rsseg.training.gradients import norms_and_cosines

# The closed forms


@dataclass(frozen=True)
class Optimum:
    """The best set of types.

    Attributes:
        value: Its score.
        threshold: tau: the best set is ``{p > tau}``.
        chosen: bool ``[types]``.
    """

    value: float
    threshold: float
    chosen: Array


def population(mass: ArrayLike, posterior: ArrayLike) -> tuple[Array, Array]:
    """Mass, scaled to sum to 1, and posterior, once they are seen to be of one length and in range.

    Raises:
        InputError: If they are not.
    """
    m, p = np.asarray(mass, dtype=np.float64), np.asarray(posterior, dtype=np.float64)
    if m.ndim != 1 or m.shape != p.shape or not m.size:
        raise InputError(f"mass and posterior need one number per pixel type; found shapes {m.shape} and {p.shape}")
    if not (np.isfinite(m).all() and (m >= 0).all() and m.sum() > 0 and ((p >= 0) & (p <= 1)).all()):
        raise InputError("mass has to be 0 or more and not all 0, posterior from 0 to 1")
    return m / m.sum(), p


def expected_counts(mass: ArrayLike, posterior: ArrayLike, chosen: ArrayLike) -> Array:
    """Expected shares of TP, FP and FN where some types are called positive.

    Args:
        mass: ``[types]``, scaled to sum to 1.
        posterior: ``[types]``.
        chosen: ``[..., types]``: which are called positive, or with which probability each is.

    Returns:
        ``[..., 3]``.

    Example:
        >>> expected_counts([0.5, 0.5], [0.25, 0.75], [False, True])
        array([0.375, 0.125, 0.125])
    """
    m, p = population(mass, posterior)
    called = np.asarray(chosen, dtype=np.float64)
    return np.stack([called @ (m * p), called @ (m * (1 - p)), (1 - called) @ (m * p)], axis=-1)


def tversky_optimum(mass: ArrayLike, posterior: ArrayLike, alpha: float, beta: float) -> Optimum:
    """The pooled optimum of Tversky's index ``T = TP / (TP + alpha FP + beta FN)``.

    The best set is ``{p > tau}`` with ``tau = alpha T / (1 - (1 - alpha - beta) T)`` at the best T: a type raises T if and
    only if its p is above tau. Dice (1/2, 1/2) has ``tau = D / 2`` and Jaccard (1, 1) ``J / (1 + J)``, which is the same.

    Args:
        mass: ``[types]``, any scale.
        posterior: ``[types]``, the probability of being positive.
        alpha: The weight of false positives.
        beta: The weight of false negatives.

    Raises:
        InputError: For a population without positives, or numbers that are none.

    Example:
        >>> best = tversky_optimum([0.5, 0.5], [0.25, 0.75], 0.5, 0.5)  # Dice
        >>> best.value, best.threshold, best.chosen.tolist()
        (0.75, 0.375, [False, True])
    """
    _, p = population(mass, posterior)
    if not (np.asarray(mass, dtype=np.float64) * p).sum() > 0:
        raise InputError("no type has positives, so every overlap is 0: give one a posterior above 0")
    sets = p >= np.unique(p)[:, None]
    hits, wrong, missed = np.moveaxis(expected_counts(mass, p, sets), -1, 0)
    index = hits / (hits + alpha * wrong + beta * missed)
    best = int(index.argmax())
    value = float(index[best])
    return Optimum(value, alpha * value / (1 - (1 - alpha - beta) * value), sets[best])


def dice_threshold(dice: float) -> float:
    """The threshold on p that the best attainable Dice D implies: D / 2 (Lipton et al. 2014)."""
    return dice / 2


def jaccard_threshold(jaccard: float) -> float:
    """The threshold on p that the best attainable Jaccard index J implies: J / (1 + J)."""
    return jaccard / (1 + jaccard)


def weighted_ce_threshold(weight: float) -> float:
    """The posterior above which cross-entropy with this weight of positives gives logits above 0: 1 / (1 + w)."""
    return 1 / (1 + weight)


def iou_optimal_weight(dice: float) -> float:
    """The weight of positives with which cross-entropy cuts at the set of best IoU: 2 / D - 1, D the best Dice.

    Example:
        >>> weighted_ce_threshold(iou_optimal_weight(0.5)) == dice_threshold(0.5)
        True
    """
    return 2 / dice - 1


def best_half_space(points: ArrayLike, mass: ArrayLike, posterior: ArrayLike) -> float:
    """The best IoU of a linear classifier over types that lie at points: all separable sets are tried.

    Args:
        points: ``[types, features]``; a dozen types at most, since 2^types sets are tried.
        mass: ``[types]``.
        posterior: ``[types]``.

    Example:
        >>> round(best_half_space([[0], [1], [2]], [1, 1, 1], [0.9, 0.1, 0.9]), 3)  # both ends can't be had alone
        0.633
    """
    x = np.asarray(points, dtype=np.float64)
    features = np.column_stack([x, np.ones(len(x))])

    def separable(chosen: Array) -> bool:
        sides = np.where(chosen, 1.0, -1.0)[:, None] * features
        found = linprog(np.zeros(features.shape[1]), -sides, -np.ones(len(x)), bounds=(None, None))
        return bool(found.success)

    sets = np.array([chosen for chosen in product([False, True], repeat=len(x)) if separable(np.array(chosen))])
    return float(overlap(expected_counts(mass, posterior, sets)).max())


def numerical_optimum(start: ArrayLike, loss: Callable[[Array], float]) -> Array:
    """The parameters that minimise an expected loss, in float64: for losses and models without a closed form.

    Args:
        start: ``[parameters]``.
        loss: Of the parameters, smooth.

    Returns:
        ``[parameters]``.

    Example:
        >>> float(numerical_optimum([0.0], lambda z: (z[0] - 3) ** 2).round(3)[0])
        3.0
    """
    found: Array = minimize(loss, np.asarray(start, dtype=np.float64), method="BFGS", options={"gtol": 1e-7}).x
    return found


def expected_focal(mass: ArrayLike, posterior: ArrayLike, probability: Array, gamma: float) -> float:
    """The expected focal loss where each type is given a probability of being positive; cross-entropy for gamma 0."""
    (m, p), q = population(mass, posterior), probability
    return -float(m @ ((1 - q) ** gamma * xlogy(p, q) + q**gamma * xlogy(1 - p, 1 - q)))


def expected_soft_dice(mass: ArrayLike, posterior: ArrayLike, probability: Array) -> float:
    """The soft Dice index of the expected labels."""
    return float(overlap(expected_counts(mass, posterior, probability), "dice"))


# Training on pixels of known types


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
    """IoU at 0.5 and at the tuned threshold of one scene ``[1, 1, H, W]``."""
    threshold = tune_threshold(logits.flatten(), target.flatten(), np.ones(target.numel()))
    found = {}
    for name, at in (("IoU at 0.5", None), ("IoU tuned", torch.tensor([threshold]))):
        confusion = Confusion(TASK, 1, at)
        confusion.update(logits, target, torch.tensor([0]))
        found[name] = float(pooled(class_counts(confusion.compute(), TASK)))
    return found


# The experiments


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
    return float(overlap(expected_counts(mass, posterior, np.asarray(posterior) > threshold)))


def cutting_losses() -> dict[str, tuple[nn.Module, float | None]]:
    """The losses of A, and where each cuts posteriors when its model calls 0.5; None where no theory says so."""
    mass, posterior = population(*THRESHOLD)
    base = float(mass @ posterior)
    inverse, optimal = (1 - base) / base, iou_optimal_weight(tversky_optimum(mass, posterior, 0.5, 0.5).value)
    ce, dice = CrossEntropy("binary"), Dice("binary", smooth=0)

    def expected_sum(z: Array) -> float:
        ce_part = expected_focal(mass, posterior, expit(z), gamma=0)
        return ce_part - expected_soft_dice(mass, posterior, expit(z))

    called = numerical_optimum(np.zeros(len(mass)), expected_sum) > 0

    def cut(alpha: float, beta: float) -> float:
        return tversky_optimum(mass, posterior, alpha, beta).threshold

    return {
        "CE": (ce, weighted_ce_threshold(1)),
        "Focal, gamma 2": (Focal("binary", gamma=2), 0.5),
        f"CE, weight {inverse:.2f}": (CrossEntropy("binary", pos_weight=inverse), weighted_ce_threshold(inverse)),
        f"CE, weight {optimal:.2f}": (CrossEntropy("binary", pos_weight=optimal), weighted_ce_threshold(optimal)),
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
    best = tversky_optimum(*THRESHOLD, 1, 1).value
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
    (m, p), start = population(*THRESHOLD), torch.zeros(len(THRESHOLD[0]), requires_grad=True)
    both = Composite({"CE": (1.0, CrossEntropy("binary")), "Dice": (1.0, Dice("binary", smooth=0))})
    value = both(start[kind].view(1, 1, 100, 100), target)
    norms, _ = norms_and_cosines(term_gradients(value.weighted, start))
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
    over_batch = np.full(8, tversky_optimum(mass, posterior, 1, 1).threshold)
    over_image = np.repeat([tversky_optimum(*scene, 1, 1).threshold for scene in AGGREGATION], 4)
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
        expected = np.stack([expected_counts(*AGGREGATION[i], chosen[4 * i : 4 * i + 4]) for i in range(2)])[:, None]
        measured, predicted = (
            {"pooled IoU": float(pooled(c)), "IoU per scene": float(metrics(TASK)["scene_iou"](c))}
            for c in (class_counts(confusion.compute(), TASK), expected)
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
    best = {"IoU at 0.5": best_half_space(POINTS, *CAPACITY)}
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
        return expected_focal(*CAPACITY, expit(features @ w), gamma)

    z = features @ numerical_optimum(np.zeros(3), expected)
    return float(overlap(expected_counts(*CAPACITY, z >= z[:, None])).max())


# The table and the figure


EXPERIMENTS: dict[str, Callable[[], Iterator[Outcome]]] = {
    "A": threshold_experiment,
    "B": aggregation_experiment,
    "C": capacity_experiment,
}
TOLERANCE = 1e-3
AT_HALF, TUNED = "#0b5fa5", "#c8511b"


@dataclass
class Arguments:
    """Train rsseg's losses on pixels of known types and print what theory predicts beside what is measured.

    out=FILE    write a figure too, such as docs/theory.png

    Takes about a minute and a half on one core; ends with 1 if a measured number is more than 1e-3 off its prediction.
    """

    out: str | None = None


def show(outcome: Outcome) -> bool:
    """Print one loss; whether it is as predicted."""
    right = True
    for quantity, measured in outcome.measured.items():
        line = f"{outcome.experiment}  {outcome.loss:24}{quantity:24}"
        predicted = outcome.predicted.get(quantity)
        if predicted is None:
            print(f"{line}{'-':>10}{measured:10.4f}", flush=True)
            continue
        near = abs(measured - predicted) <= TOLERANCE
        right &= near
        print(f"{line}{predicted:10.4f}{measured:10.4f}{'' if near else '  DIFFERS'}", flush=True)
    return right


def draw_threshold(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """A: IoU at 0.5 and tuned, and the predictions as rings."""
    rows = [o for o in outcomes if "IoU at 0.5" in o.measured][::-1]
    for y, o in enumerate(rows):
        ends = [o.measured["IoU at 0.5"], o.measured["IoU tuned"]]
        axes.plot(ends, [y, y], color="#bbbbbb", zorder=1)
        for x, key, colour in zip(ends, ("IoU at 0.5", "IoU tuned"), (AT_HALF, TUNED), strict=True):
            axes.scatter(x, y, color=colour, s=26, zorder=3, label=key if y == 0 else None)
            if key in o.predicted:
                axes.scatter(o.predicted[key], y, s=110, facecolors="none", edgecolors="black", linewidths=0.8, zorder=2)
    axes.scatter([], [], s=110, facecolors="none", edgecolors="black", linewidths=0.8, label="predicted")
    axes.set_yticks(range(len(rows)), [o.loss for o in rows])
    axes.set(xlabel="IoU", title="A: where a loss cuts", xlim=(0.345, 0.475))
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 0.16), frameon=False)


def draw_aggregation(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """B: pooled and per-scene IoU."""
    places = np.arange(len(outcomes))
    for shift, key, colour in ((-0.2, "pooled IoU", AT_HALF), (0.2, "IoU per scene", TUNED)):
        values = [o.measured[key] for o in outcomes]
        axes.bar(places + shift, values, 0.38, color=colour, label=key)
        for x, value in zip(places + shift, values, strict=True):
            axes.annotate(f"{value:.4f}", (x, value), ha="center", va="bottom", fontsize=8)
        predicted = [o.predicted[key] for o in outcomes]
        axes.scatter(places + shift, predicted, marker="_", s=500, color="black", label="predicted" if shift > 0 else None)
    axes.set_xticks(places, [o.loss.replace(" over", "\nover") for o in outcomes])
    axes.set(ylim=(0.5, 0.95), ylabel="IoU (from 0.5)", title="B: what is averaged")
    axes.legend(fontsize=8, loc="upper center", ncols=3, frameon=False)


def draw_capacity(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """C: the five types in the plane and the lines that CE and Dice learn."""
    (x, y), (mass, posterior) = np.array(POINTS).T, CAPACITY
    dots = axes.scatter(x, y, s=np.array(mass) * 1500, c=posterior, cmap="cividis", vmin=0, vmax=1, edgecolors="black")
    for place, p in zip(POINTS, posterior, strict=True):
        axes.annotate(f"p = {p:g}", place, xytext=(0, 16), textcoords="offset points", ha="center", fontsize=8)
    x, y = np.meshgrid(np.linspace(-2.4, 3.4, 200), np.linspace(-3.4, 3.6, 200))
    lines = {"CE, Adam .05": "black", "Dice, Adam .05": TUNED, "Dice, SGD 1": AT_HALF}
    for o in outcomes:
        if o.loss in lines:
            a, b, c = o.learnt
            field = (a * x + b * y + c) / np.hypot(a, b)
            axes.contour(x, y, field, levels=[0], colors=lines[o.loss])
            axes.contourf(x, y, field, levels=[0, 0.15], colors=[lines[o.loss]], alpha=0.3)
            axes.plot([], [], color=lines[o.loss], label=f"{o.loss}: {o.measured['IoU at 0.5']:.4f}")
    axes.set(title="C: what a linear model can tell apart", xlabel="first feature", ylabel="second feature")
    axes.legend(fontsize=8, loc="lower right", title="IoU at 0.5; shaded: called positive", title_fontsize=8)
    axes.figure.colorbar(dots, ax=axes, label="posterior", shrink=0.8)


def draw(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the figure of all three experiments."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[1.15, 1, 1.2])
    for axes, name, panel in zip(panels, "ABC", (draw_threshold, draw_aggregation, draw_capacity), strict=True):
        panel(axes, [o for o in outcomes if o.experiment == name])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(arguments: Arguments) -> None:
    """Run all experiments."""
    torch.set_num_threads(1)  # the tensors are small
    begin, right, outcomes = time.perf_counter(), True, []
    print(f"   {'loss':24}{'quantity':24}{'predicted':>10}{'measured':>10}")
    for experiment in EXPERIMENTS.values():
        for outcome in experiment():
            right &= show(outcome)
            outcomes.append(outcome)
    if arguments.out:
        draw(Path(arguments.out), outcomes)
    print(f"{'all' if right else 'NOT all'} predictions met to {TOLERANCE:g}, {time.perf_counter() - begin:.0f} s")
    if not right:
        sys.exit(1)


if __name__ == "__main__":
    run_command(Arguments, main)
