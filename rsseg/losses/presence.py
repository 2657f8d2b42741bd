"""Which classes an image shows, as the target of a classifier beside a segmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from rsseg.contract import IGNORE, known, unknown
from rsseg.losses.terms.likelihood import BinaryCrossEntropy
from rsseg.task import Task

CROSS_ENTROPY = BinaryCrossEntropy("multilabel")  # one for all calls: it reads labels, which waits for the device, in the first


def presence(target: Tensor, task: Task, weight: Tensor | None = None) -> Tensor:
    """Which classes occur among the labelled pixels of each image.

    Args:
        target: Labels or shares, see `rsseg.losses`.
        task: The head's task.
        weight: ``[B, H, W]``, what each pixel counts for; pixels of weight 0 or NaN are not looked at. None: all are.

    Returns:
        uint8 ``[B, C]``: 1 where a class occurs, 0 where it does not, `IGNORE` where no pixel says so.

    Example:
        >>> from rsseg.task import Multiclass
        >>> presence(torch.tensor([[[0, 2, 255]], [[255, 255, 255]]]), Multiclass(("land", "water", "road")))
        tensor([[  1,   0,   1],
                [255, 255, 255]], dtype=torch.uint8)
    """
    planes = target if target.ndim == 4 else target.unsqueeze(1)
    if weight is not None:
        planes = planes.masked_fill(~(weight > 0).unsqueeze(1), unknown(target))
    labelled = known(planes)
    if task.exclusive and target.ndim == 3:
        shown = torch.zeros(len(target), IGNORE + 1, dtype=torch.bool, device=target.device)
        shown.scatter_(1, planes.flatten(1).long(), value=True)
        shown = shown[:, : task.channels]
    else:
        shown = ((planes > 0) & labelled).flatten(2).any(2)
    return shown.to(torch.uint8).masked_fill(~labelled.flatten(2).any(2), IGNORE)


def presence_loss(logits: Tensor, target: Tensor, task: Task, weight: Tensor | None = None) -> Tensor:
    """The binary cross-entropy of a classifier's logits ``[B, C]`` against `presence`, over what is known of it."""
    shown = presence(target, task, weight)
    return CROSS_ENTROPY(logits[..., None, None], shown[..., None, None])
