"""What each loss should lead to: closed forms for pixels of known types.

A population is a mass per pixel type and the posterior probability that a pixel of the type is positive. A model that
tells all types apart and is trained to the optimum of a loss ends with a set of types called positive; for the losses
here it is ``{p > tau}``, and tau is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog, minimize
from scipy.special import xlogy

from rsseg.alignment.counts import Array, overlap
from rsseg.contract import InputError


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
