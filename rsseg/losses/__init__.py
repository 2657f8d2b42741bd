"""Loss terms for segmentation, regression and objects, and how they are combined.

* `terms`: one `nn.Module` per loss, ``term(logits, target) -> scalar``, over the pure functions of `formulas`, `lovasz`,
  `pixelwise`, `shape` and `regression`.
* `composite`: a weighted sum of terms that reports every part.
* `split`: the losses of a whole split, from one pass.
* `foreign`: losses that were not written for rsseg, as terms.
* `targets`: what is made of a target before: weights near borders, softened labels.
* `presence`: the loss of a classifier of whole images.
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
from rsseg.losses.composite import Composite, CompositeValue, Weight
from rsseg.losses.foreign import Foreign
from rsseg.losses.presence import presence_loss
from rsseg.losses.split import SplitLosses
from rsseg.losses.targets import EdgeWeight
from rsseg.losses.terms.centres import HeatFocal, OffsetSmoothL1, SizeSmoothL1
from rsseg.losses.terms.likelihood import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjustedCrossEntropy,
    LogitMargin,
    OneClass,
    Poly1CrossEntropy,
    SymmetricCrossEntropy,
    TopKCrossEntropy,
)
from rsseg.losses.terms.overlap import MCC, Dice, FocalTversky, Jaccard, LogCoshDice, Lovasz, RegionSize, Tversky
from rsseg.losses.terms.regression import MAE, MSE, RMSE, BerHu, Huber, LogCosh, Pinball, SmoothL1
from rsseg.losses.terms.shape import Boundary, BoundaryDoU, ClDice, ComponentDice, SkeletonRecall
from rsseg.losses.terms.term import Term

__all__ = [
    "MAE",
    "MCC",
    "MSE",
    "RMSE",
    "WEIGHTING",
    "BerHu",
    "BinaryCrossEntropy",
    "Boundary",
    "BoundaryDoU",
    "ClDice",
    "ComponentDice",
    "Composite",
    "CompositeValue",
    "CrossEntropy",
    "Dice",
    "EdgeWeight",
    "Focal",
    "FocalTversky",
    "Foreign",
    "GeneralizedCrossEntropy",
    "HeatFocal",
    "Huber",
    "Jaccard",
    "LogCosh",
    "LogCoshDice",
    "LogitAdjustedCrossEntropy",
    "LogitMargin",
    "Lovasz",
    "OffsetSmoothL1",
    "OneClass",
    "Pinball",
    "Poly1CrossEntropy",
    "RegionSize",
    "SizeSmoothL1",
    "SkeletonRecall",
    "SmoothL1",
    "SplitLosses",
    "SymmetricCrossEntropy",
    "Term",
    "TopKCrossEntropy",
    "Tversky",
    "Weight",
    "effective_number",
    "inverse_frequency",
    "positive_weight",
    "presence_loss",
    "root_inverse_frequency",
]
