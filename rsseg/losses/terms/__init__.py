"""Loss terms: one thin module per loss over the pure functions of `formulas`, `lovasz`, `shape` and so on.

Every term is called as ``term(logits, target)`` or ``term(logits, target, weight)`` and returns a float32 (float64 for
float64 logits) scalar.

* logits: ``[B, C, H, W]``, any floating dtype.
* target: labels, integers ``[B, H, W]`` for binary and multiclass or ``[B, L, H, W]`` for multilabel. Terms that are `soft`
  also take class shares, floating point ``[B, C, H, W]``, NaN where ignored. Terms of the task `regression` take values instead
  of logits, and a target of real values.
* weight: ``[B, H, W]``, what each pixel counts for. An ignored pixel is one of weight 0.

Misfitting shapes and, in the first calls, labels outside the classes raise `InputError`.
"""

from rsseg.losses.terms.likelihood import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjustedCrossEntropy,
    LogitMargin,
    Poly1CrossEntropy,
    SymmetricCrossEntropy,
    TopKCrossEntropy,
)
from rsseg.losses.terms.overlap import MCC, Dice, FocalTversky, Jaccard, LogCoshDice, Lovasz, RegionSize, Tversky
from rsseg.losses.terms.regression import MAE, MSE, RMSE, Huber, LogCosh, SmoothL1
from rsseg.losses.terms.shape import Boundary, BoundaryDoU, ClDice, ComponentDice, SkeletonRecall
from rsseg.losses.terms.term import Term

__all__ = [
    "MAE",
    "MCC",
    "MSE",
    "RMSE",
    "BinaryCrossEntropy",
    "Boundary",
    "BoundaryDoU",
    "ClDice",
    "ComponentDice",
    "CrossEntropy",
    "Dice",
    "Focal",
    "FocalTversky",
    "GeneralizedCrossEntropy",
    "Huber",
    "Jaccard",
    "LogCosh",
    "LogCoshDice",
    "LogitAdjustedCrossEntropy",
    "LogitMargin",
    "Lovasz",
    "Poly1CrossEntropy",
    "RegionSize",
    "SkeletonRecall",
    "SmoothL1",
    "SymmetricCrossEntropy",
    "Term",
    "TopKCrossEntropy",
    "Tversky",
]
