"""Loss terms for segmentation, and how they are combined.

* `terms` and `overlap_terms`: one `nn.Module` per loss, ``term(logits, target) -> scalar``.
* `functional`: the formulas as pure functions (`pixelwise` and `overlap`).
* `composite`: a weighted sum of terms that reports every part.
* `weighting`: class weights from pixel counts.
"""

from rsseg.losses.composite import Composite, CompositeValue
from rsseg.losses.overlap_terms import Dice, FocalTversky, Jaccard, Lovasz, Tversky
from rsseg.losses.terms import BinaryCrossEntropy, CrossEntropy, Focal, Term
from rsseg.losses.weighting import inverse_frequency, positive_weight

__all__ = [
    "BinaryCrossEntropy",
    "Composite",
    "CompositeValue",
    "CrossEntropy",
    "Dice",
    "Focal",
    "FocalTversky",
    "Jaccard",
    "Lovasz",
    "Term",
    "Tversky",
    "inverse_frequency",
    "positive_weight",
]
