"""The formulas, as pure functions.

Those of `pixelwise` and `overlap` are functions of `statistics`, which takes logits ``[B, C, H, W]`` of any floating
dtype and an integer target, ``[B, H, W]`` for binary and multiclass or ``[B, L, H, W]`` for multilabel: take the sums of
several losses together, and all of them cost one pass over the logits. `lovasz`, `boundary` and `cl_dice` take logits
and target themselves. Those of `regression` take real values, see there.

All compute in float32 (float64 for float64 logits) and return a scalar. Pixels labelled `ignore_index` count for
nothing: value and gradient are those of the batch without them, and 0 where no pixel is left. Under DDP the batch is the
global batch: sums go over all ranks before the formula.
"""

from rsseg.losses.average import Classes
from rsseg.losses.lovasz import lovasz
from rsseg.losses.overlap import lovasz_levels, tversky
from rsseg.losses.pixelwise import binary_cross_entropy, binary_focal, cross_entropy, focal
from rsseg.losses.regression import huber, log_cosh, mae, mse, rmse, smooth_l1
from rsseg.losses.shape import boundary, cl_dice
from rsseg.losses.statistics import Backend, Needs, Over, Statistics, statistics
from rsseg.losses.sums import COUNT, NLL, SOFT, SPREAD, Sum

__all__ = [
    "COUNT",
    "NLL",
    "SOFT",
    "SPREAD",
    "Backend",
    "Classes",
    "Needs",
    "Over",
    "Statistics",
    "Sum",
    "binary_cross_entropy",
    "binary_focal",
    "boundary",
    "cl_dice",
    "cross_entropy",
    "focal",
    "huber",
    "log_cosh",
    "lovasz",
    "lovasz_levels",
    "mae",
    "mse",
    "rmse",
    "smooth_l1",
    "statistics",
    "tversky",
]
