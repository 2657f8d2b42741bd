"""Every term with every task kind that it fits, and random batches: shared by the tests of this folder."""

import torch

from rsseg.contract import IGNORE
from rsseg.losses import (
    BinaryCrossEntropy,
    Boundary,
    ClDice,
    CrossEntropy,
    Dice,
    Focal,
    FocalTversky,
    Jaccard,
    Lovasz,
    Tversky,
)

CLASSES = 3
CHANNELS = {"binary": 1, "multiclass": CLASSES, "multilabel": CLASSES}
WEIGHTS = [0.5, 2.0, 0.75]  # exact in float32


def _weighted_ce(task):
    if task == "multiclass":
        return CrossEntropy(task, class_weights=WEIGHTS)
    return CrossEntropy(task, pos_weight=3.0 if task == "binary" else WEIGHTS)


def _alpha_focal(task):
    return Focal(task, gamma=0.5, alpha=WEIGHTS if task == "multiclass" else 0.25)


TERMS = {
    "ce": CrossEntropy,
    "ce_smooth": lambda task: CrossEntropy(task, label_smoothing=0.1),
    "ce_weighted": _weighted_ce,
    "ce_image": lambda task: CrossEntropy(task, label_smoothing=0.1, over="image"),
    "bce": lambda task: BinaryCrossEntropy(task, pos_weight=2.0),
    "focal": Focal,
    "focal_alpha": _alpha_focal,
    "focal_image": lambda task: Focal(task, gamma=1.5, over="image"),
    "dice": Dice,
    "dice_image": lambda task: Dice(task, over="image"),
    "dice_weighted": lambda task: Dice(task, class_weights=WEIGHTS[: CHANNELS[task]], smooth=0.5),
    "jaccard": Jaccard,
    "jaccard_present": lambda task: Jaccard(task, classes="present", smooth=0, over="image"),
    "tversky": lambda task: Tversky(task, alpha=0.3, beta=0.7, smooth=0),
    "tversky_list": lambda task: Tversky(task, classes=[CHANNELS[task] - 1]),
    "focal_tversky": FocalTversky,
    "focal_tversky_image": lambda task: FocalTversky(task, gamma=1.5, over="image"),
    "lovasz": Lovasz,
    "lovasz_all": lambda task: Lovasz(task, classes="all"),
    "lovasz_image": lambda task: Lovasz(task, over="image"),
    "lovasz_weighted": lambda task: Lovasz(task, classes="all", class_weights=WEIGHTS[: CHANNELS[task]]),
    "levels": lambda task: Lovasz(task, bins=64),
    "levels_image": lambda task: Lovasz(task, bins=16, classes="all", over="image"),
    "boundary": Boundary,
    "cl_dice": lambda task: ClDice(task, iterations=1),
    "cl_dice_image": lambda task: ClDice(task, iterations=2, over="image"),
}
CASES = [(name, task) for name in TERMS for task in CHANNELS if (name, task) != ("bce", "multiclass")]
"""Names and tasks; build with ``TERMS[name](task)``."""

PIXELWISE = [c for c in CASES if not c[0].startswith(("boundary", "cl_dice"))]
"""Those that do not look at a pixel's surroundings."""

SMOOTH = [c for c in CASES if not c[0].startswith("levels")]
"""Those that are differentiable functions of the logits; rounded errors make steps."""


def batch(task, seed=0, images=2, size=(3, 4), ignored=0.3, dtype=torch.float64):
    """Random logits and target; a pixel of multilabel is ignored in all planes or in none."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, CHANNELS[task], *size, generator=g, dtype=torch.float64)
    shape = (images, CLASSES, *size) if task == "multilabel" else (images, *size)
    target = torch.randint(0, CLASSES if task == "multiclass" else 2, shape, generator=g, dtype=torch.uint8)
    drop = torch.rand(images, *size, generator=g) < ignored
    drop = drop.unsqueeze(1).expand_as(target) if task == "multilabel" else drop
    return logits.to(dtype), target.masked_fill(drop, IGNORE)


def over(term):
    return getattr(term, "over", "batch")


def value_and_gradient(term, logits, target):
    leaf = logits.detach().clone().requires_grad_()
    value = term(leaf, target)
    value.backward()
    return value.detach(), leaf.grad
