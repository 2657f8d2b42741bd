"""Loss terms for segmentation, regression and object detection, and their combination.

Every term is a module called as ``term(logits, target)`` or ``term(logits, target, weight)``. It returns a float32 (float64 for
float64 logits) scalar, 0 if no pixel counts.

* logits: ``[B, C, H, W]``, any floating dtype.
* target: labels, integers ``[B, H, W]`` for binary and multiclass or ``[B, L, H, W]`` for multilabel. Terms that are `soft`
  also take class shares, floating point ``[B, C, H, W]``, NaN where ignored. Terms of the task `regression` take values instead
  of logits, and a target of real values; for those of the task `centres` see `rsseg.losses.terms.centres`.
* weight: floating point ``[B, H, W]``, the weight of each pixel; None: 1. Pixels of weight 0 or NaN are ignored.

A pixel labelled `ignore_index` has weight 0: it changes neither value nor gradient, whatever its logits. A batch is the global
batch: sums are taken over all ranks. Shapes that do not fit and, in the first calls, labels outside the classes raise
`InputError`. Common arguments of terms:

* over: `batch`: the loss of sums over the batch. `image`: the mean over the losses of all images with pixels that count.
* classes: The classes to average over: `all` classes of an image or batch with valid pixels, those `present` in the target, or
  a list of class numbers.
* class_weights: One number per class; None: 1.

Terms that are functions of a few sums share one pass over the logits, see `rsseg.losses.sums`.
"""

from rsseg.losses.class_weights import (
    WEIGHTING,
    effective_number,
    inverse_frequency,
    positive_weight,
    root_inverse_frequency,
)
from rsseg.losses.composite import Composite, CompositeValue, Weight
from rsseg.losses.derived_targets import EdgeWeight, presence_loss
from rsseg.losses.foreign import Foreign
from rsseg.losses.split_losses import SplitLosses
from rsseg.losses.terms.base import Term
from rsseg.losses.terms.centres import HeatFocal, OffsetSmoothL1, SizeSmoothL1
from rsseg.losses.terms.lovasz import Lovasz
from rsseg.losses.terms.overlap import MCC, Dice, FocalTversky, Jaccard, LogCoshDice, RegionSize, Tversky
from rsseg.losses.terms.pixelwise import (
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
from rsseg.losses.terms.regression import MAE, MSE, RMSE, BerHu, Huber, LogCosh, Pinball, SmoothL1
from rsseg.losses.terms.shape import Boundary, BoundaryDoU, ClDice, ComponentDice, SkeletonRecall

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
