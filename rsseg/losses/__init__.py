"""Loss terms for segmentation and regression, and how they are combined.

* `terms`, `overlap_terms`, `shape_terms` and `regression_terms`: one `nn.Module` per loss, ``term(logits, target) ->
  scalar``, over the pure functions of `functional`.
* `composite`: a weighted sum of terms that reports every part.
* `statistics`: the sums that most losses are functions of; `onepass` takes them all in one pass over the logits.
* `weighting`: class weights from pixel counts.
"""

from rsseg.losses.composite import Composite, CompositeValue
from rsseg.losses.overlap_terms import Dice, FocalTversky, Jaccard, Lovasz, Tversky
from rsseg.losses.regression_terms import MAE, MSE, RMSE, Huber, LogCosh, SmoothL1
from rsseg.losses.shape_terms import Boundary, ClDice
from rsseg.losses.terms import BinaryCrossEntropy, CrossEntropy, Focal, Term
from rsseg.losses.weighting import WEIGHTING, effective_number, inverse_frequency, positive_weight, root_inverse_frequency

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
