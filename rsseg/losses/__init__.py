"""Loss terms for segmentation and regression, and how they are combined.

* `terms`: one `nn.Module` per loss, ``term(logits, target) -> scalar``, over the pure functions of `formulas`, `lovasz`,
  `shape` and `regression`.
* `composite`: a weighted sum of terms that reports every part.
* `targets`: what is made of a target before: weights near borders, softened labels.
* `sums`: the sums that most losses are functions of, taken in one pass over the logits.
* `checks`: what is refused.
* `class_weights`: class weights from pixel counts.
"""

from rsseg.losses.class_weights import (
    WEIGHTING,
    effective_number,
    inverse_frequency,
    positive_weight,
    root_inverse_frequency,
)
from rsseg.losses.composite import Composite, CompositeValue
from rsseg.losses.targets import EdgeWeight
from rsseg.losses.terms import (
    MAE,
    MSE,
    RMSE,
    BinaryCrossEntropy,
    Boundary,
    ClDice,
    CrossEntropy,
    Dice,
    Focal,
    FocalTversky,
    Huber,
    Jaccard,
    LogCosh,
    Lovasz,
    SmoothL1,
    Term,
    Tversky,
)

__all__ = [
    "MAE",
    "MSE",
    "RMSE",
    "WEIGHTING",
    "BinaryCrossEntropy",
    "Boundary",
    "ClDice",
    "Composite",
    "CompositeValue",
    "CrossEntropy",
    "Dice",
    "EdgeWeight",
    "Focal",
    "FocalTversky",
    "Huber",
    "Jaccard",
    "LogCosh",
    "Lovasz",
    "SmoothL1",
    "Term",
    "Tversky",
    "effective_number",
    "inverse_frequency",
    "positive_weight",
    "root_inverse_frequency",
]
