"""Counts of a batch's pixels: pairs of labels and sums of errors. Without torchmetrics, for baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from rsseg.contract import IGNORE, known
from rsseg.devices import exact_dtype
from rsseg.task import Task


def count_pairs(predicted: Tensor, target: Tensor, scene: Tensor, scenes: int, task: Task) -> Tensor:
    """The counts of (target, prediction) pairs of a batch: int64 ``[scenes, P, K, K]``, rows the target.

    Multiclass has one matrix of all classes, other tasks a 2 x 2 matrix per label. Labels are as for `Confusion`.
    """
    planes, labels = len(task.matrices), task.labels
    shape = (len(target), planes, *target.shape[-2:])
    predicted, target = predicted.reshape(shape), task.hard_labels(target).long().reshape(shape)
    plane = torch.arange(planes, device=target.device)[:, None, None]
    cell = ((scene[:, None, None, None] * planes + plane) * labels + target) * labels + predicted
    cells = scenes * planes * labels**2
    cell = torch.where(target == IGNORE, cells, cell)  # an extra bin, which is cut off
    return torch.bincount(cell.flatten(), minlength=cells + 1)[:cells].view(scenes, planes, labels, labels)


def sum_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """`rsseg.metrics.scores.SUMS` of each image of a batch ``[B, V, H, W]``, without NaN: ``[B, V, 6]`` in `exact_dtype`."""
    there, dtype = known(target), exact_dtype(target.device)
    value = target.to(dtype).masked_fill(~there, 0)
    error = (predicted.to(dtype) - value).masked_fill(~there, 0)
    parts = (there.to(dtype), error, error.abs(), error.square(), value, value.square())
    return torch.stack([part.sum((2, 3)) for part in parts], dim=-1)
