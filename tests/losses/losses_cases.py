"""Every term with every task kind that it fits, and random batches: shared by the tests of this folder."""

from contextlib import suppress
from dataclasses import fields
from functools import partial

import numpy as np
import torch
from omegaconf import OmegaConf
from tiny import CONFIGS

from rsseg.config.build import TERM, locate
from rsseg.contract import IGNORE, InputError, known
from rsseg.losses import (
    MCC,
    WEIGHTING,
    BerHu,
    BinaryCrossEntropy,
    BoundaryDoU,
    ClDice,
    ComponentDice,
    CrossEntropy,
    Dice,
    Focal,
    FocalTversky,
    GeneralizedCrossEntropy,
    HeatFocal,
    Huber,
    Jaccard,
    LogCoshDice,
    LogitAdjustedCrossEntropy,
    LogitMargin,
    Lovasz,
    OffsetSmoothL1,
    Pinball,
    Poly1CrossEntropy,
    RegionSize,
    SizeSmoothL1,
    SkeletonRecall,
    SmoothL1,
    SymmetricCrossEntropy,
    TopKCrossEntropy,
    Tversky,
)

CLASSES = 3
CHANNELS = {"binary": 1, "multiclass": CLASSES, "multilabel": CLASSES}
PRIORS = [0.125, 0.625, 0.25]
WEIGHTS = [0.5, 2.0, 0.75]  # exact in float32


def _weighted_ce(task):
    if task == "multiclass":
        return CrossEntropy(task, class_weights=WEIGHTS)
    return CrossEntropy(task, pos_weight=3.0 if task == "binary" else WEIGHTS)


def _alpha_focal(task):
    return Focal(task, gamma=0.5, alpha=WEIGHTS if task == "multiclass" else 0.25)


NODES = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted((CONFIGS / "loss/term").glob("*.yaml"))}
SHIPPED = {name: locate(node["_target_"], name, TERM) for name, node in NODES.items()}
"""The class of every config of a term."""


def shipped():
    """Every term with the parameters of its config, and by image; except those that count the training masks."""
    found = {}
    for name, kind in SHIPPED.items():
        own = {field.name: NODES[name][field.name] for field in fields(kind) if field.name in NODES[name]}
        if {"counted", *WEIGHTING}.isdisjoint(value for value in own.values() if isinstance(value, str)):
            found[name] = partial(kind, **own)
            if "over" in own:
                found[f"{name}_image"] = partial(kind, **{**own, "over": "image"})
    return found


TERMS = shipped() | {
    "ce_smooth": lambda task: CrossEntropy(task, label_smoothing=0.1),
    "ce_weighted": _weighted_ce,
    "ce_image": lambda task: CrossEntropy(task, label_smoothing=0.1, over="image"),
    "bce": lambda task: BinaryCrossEntropy(task, pos_weight=2.0),
    "focal_alpha": _alpha_focal,
    "focal_image": lambda task: Focal(task, gamma=1.5, over="image"),
    "dice_weighted": lambda task: Dice(task, class_weights=WEIGHTS[: CHANNELS[task]], smooth=0.5),
    "jaccard_present": lambda task: Jaccard(task, classes="present", smooth=0, over="image"),
    "tversky": lambda task: Tversky(task, alpha=0.3, beta=0.7, smooth=0),
    "tversky_list": lambda task: Tversky(task, classes=[CHANNELS[task] - 1]),
    "focal_tversky_image": lambda task: FocalTversky(task, gamma=1.5, over="image"),
    "lovasz_all": lambda task: Lovasz(task, classes="all"),
    "lovasz_weighted": lambda task: Lovasz(task, classes="all", class_weights=WEIGHTS[: CHANNELS[task]]),
    "levels": lambda task: Lovasz(task, bins=64),
    "levels_image": lambda task: Lovasz(task, bins=16, classes="all", over="image"),
    "generalized_ce_image": lambda task: GeneralizedCrossEntropy(task, q=0.3, over="image"),
    "symmetric_ce_image": lambda task: SymmetricCrossEntropy(task, alpha=0.5, over="image"),
    "poly1_ce": lambda task: Poly1CrossEntropy(task, epsilon=2.0),
    "poly1_ce_image": lambda task: Poly1CrossEntropy(task, epsilon=-1.0, over="image"),
    "top_k_ce": lambda task: TopKCrossEntropy(task, fraction=0.45),
    "top_k_ce_image": lambda task: TopKCrossEntropy(task, fraction=0.3, over="image"),
    "logit_adjusted_ce": lambda task: LogitAdjustedCrossEntropy(task, priors=PRIORS[: CHANNELS[task]]),
    "logit_adjusted_ce_image": lambda task: LogitAdjustedCrossEntropy(task, PRIORS[: CHANNELS[task]], tau=2, over="image"),
    "logit_margin": lambda task: LogitMargin(task, margin=0.5),
    "logit_margin_image": lambda task: LogitMargin(task, margin=1.0, over="image"),
    "log_cosh_dice_image": lambda task: LogCoshDice(task, classes="present", over="image"),
    "mcc_image": lambda task: MCC(task, smooth=0.1, classes="present", over="image"),
    "region_size_batch": lambda task: RegionSize(task, over="batch"),
    "skeleton_recall": lambda task: SkeletonRecall(task, radius=1),
    "skeleton_recall_image": lambda task: SkeletonRecall(task, radius=0, over="image"),
    "component_dice_image": lambda task: ComponentDice(task, smooth=0.5, over="image"),
    "boundary_dou_image": lambda task: BoundaryDoU(task, limit=0.5, classes="present", over="image"),
    "cl_dice": lambda task: ClDice(task, iterations=1),
    "cl_dice_image": lambda task: ClDice(task, iterations=2, over="image"),
    "huber": lambda task: Huber(task, delta=0.7),
    "smooth_l1": lambda task: SmoothL1(task, beta=0.7),
    "ber_hu": lambda task: BerHu(task, delta=0.7),
    "pinball": lambda task: Pinball(task, quantile=0.9),
    "heat_steep": lambda task: HeatFocal(task, alpha=3.0, beta=1.5),
    "size": lambda task: SizeSmoothL1(task, beta=0.7),
    "offset": lambda task: OffsetSmoothL1(task, beta=0.2),
}
"""Build with ``TERMS[name](task)``."""

REAL = ("regression", "centres")


def tasks_of(make):
    """The kinds of tasks that a term fits; one that fits labels fits binary ones."""
    for task in ("binary", *REAL):
        with suppress(InputError):
            return make(task).tasks
    raise AssertionError("no kind fits")


CASES = [(name, task) for name, make in TERMS.items() for task in tasks_of(make)]
"""Names and tasks."""

OF_LABELS = [case for case in CASES if case[1] in CHANNELS]

PIXELWISE = [case for case in OF_LABELS if not type(TERMS[case[0]](case[1])).__module__.endswith(".shape")]
"""Those that do not look at a pixel's surroundings."""

SMOOTH = [case for case in CASES if getattr(TERMS[case[0]](case[1]), "bins", None) is None]
"""Those that are differentiable functions of the logits; rounded errors make steps."""


def batch(task, seed=0, images=2, size=(3, 4), ignored=0.3, dtype=torch.float64):
    """Random logits and target; a pixel of several planes is ignored in all planes or in none."""
    g = torch.Generator().manual_seed(seed)
    if task in REAL:
        logits, target = (2 * torch.randn(images, 6, *size, generator=g, dtype=torch.float64) for _ in range(2))
        drop = torch.rand(images, *size, generator=g) < ignored
        if task == "centres":
            target[:, :2] = target[:, :2].sigmoid() ** 3
            target[:, 2:] = torch.where(torch.rand(images, 1, *size, generator=g) < 0.3, target[:, 2:], torch.nan)
            target[:, 0] = torch.where(target[:, 2].isnan(), target[:, 0], 1)
        return logits.to(dtype), target.masked_fill(drop.unsqueeze(1), torch.nan)
    logits = 2 * torch.randn(images, CHANNELS[task], *size, generator=g, dtype=torch.float64)
    shape = (images, CLASSES, *size) if task == "multilabel" else (images, *size)
    target = torch.randint(0, CLASSES if task == "multiclass" else 2, shape, generator=g, dtype=torch.uint8)
    drop = torch.rand(images, *size, generator=g) < ignored
    drop = drop.unsqueeze(1).expand_as(target) if task == "multilabel" else drop
    return logits.to(dtype), target.masked_fill(drop, IGNORE)


def kept(target):
    """Bool ``[B, H, W]``, where a pixel is not ignored."""
    there = known(target)
    return there[:, 0] if target.ndim == 4 else there


def pixels(logits, target, task):
    """Per class a list of (probability, logit, is it this class?, image), of the valid pixels."""
    z, t = logits.numpy(), target.numpy()
    found = [[] for _ in range(z.shape[1])]
    for b, c, i, j in np.ndindex(z.shape):
        label = t[b, c, i, j] if task == "multilabel" else t[b, i, j]
        if label == IGNORE:
            continue
        if task == "multiclass":
            p = np.exp(z[b, c, i, j]) / sum(np.exp(z[b, k, i, j]) for k in range(z.shape[1]))
        else:
            p = 1 / (1 + np.exp(-z[b, c, i, j]))
        found[c].append((p, z[b, c, i, j], label == (c if task == "multiclass" else 1), b))
    return found


def over(term):
    return getattr(term, "over", "batch")


def value_and_gradient(term, logits, target):
    leaf = logits.detach().clone().requires_grad_()
    value = term(leaf, target)
    value.backward()
    return value.detach(), leaf.grad
