"""The formulas, as pure functions of logits and target.

All of them take logits ``[B, C, H, W]`` of any floating dtype and an integer target, ``[B, H, W]`` for binary and
multiclass or ``[B, L, H, W]`` for multilabel, compute in float32 (float64 for float64 logits) and return a scalar.
Pixels labelled `ignore_index` count for nothing: value and gradient are those of the batch without them, and 0 where
no pixel is left. Under DDP the batch is the global batch: sums go over all ranks before the formula.
"""

from rsseg.losses.overlap import Classes, Over, SoftCounts, lovasz, soft_counts, tversky
from rsseg.losses.pixelwise import binary_cross_entropy, cross_entropy, focal

__all__ = [
    "Classes",
    "Over",
    "SoftCounts",
    "binary_cross_entropy",
    "cross_entropy",
    "focal",
    "lovasz",
    "soft_counts",
    "tversky",
]
