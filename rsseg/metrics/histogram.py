"""Histograms of the score by label: what every threshold, and calibration, can be computed from after training.

A score is a log-odds, ``log p / (1 - p)``: thresholds are swept over it and not over probabilities, which saturate.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import IGNORE, Head, TaskKind

BINS = 256
LIMIT = 16.0
"""Bins are 1/8 wide from -16 to 16, half-open below, ``(e, e + 1/8]``; scores beyond fall into the outermost ones."""

THRESHOLDS: NDArray[np.float64] = np.arange(1, BINS, dtype=np.float64) * (2 * LIMIT / BINS) - LIMIT
"""The 255 inner edges, 0 (a probability of 0.5) among them. Counts at these thresholds are exact."""

CENTRES: NDArray[np.float64] = (np.arange(BINS, dtype=np.float64) + 0.5) * (2 * LIMIT / BINS) - LIMIT
"""The middle of every bin."""


def log_odds(logits: Tensor) -> Tensor:
    """Softmax's log-odds of each class against all others: ``z_c - log sum_{j != c} exp z_j``.

    Args:
        logits: ``[B, C, ...]``, two classes or more.

    Example:
        >>> log_odds(torch.tensor([[0.0, 0.0, 0.0]])).exp()  # 1 : 2
        tensor([[0.5000, 0.5000, 0.5000]])
    """
    wide = logits.float()
    top = wide.max(dim=1, keepdim=True).indices
    others = wide.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)  # 1 - p would be lost where p is nearly 1 ...
    log_p = wide.log_softmax(1)
    odds = log_p - torch.log1p(-log_p.exp().clamp(max=0.5))  # ... as it is for the largest logit alone
    return odds.scatter(1, top, wide.gather(1, top) - others)


class ScoreHistogram(Metric):
    """Counts of pixels by label and score, per scene and plane.

    The state is int64 ``[S, P, 2, 256]``: 4 KiB per scene and plane. Plane c holds class c's log-odds by whether the pixel
    is labelled c. Multiclass heads have one plane more, the last: the log-odds of the predicted class, by whether it is
    right, for the calibration of the confidence. Labelled pixels with logits that are not finite are in no plane, but counted
    in `lost`: a model that has diverged has no scores. Counts are summed over processes.

    Args:
        head: Task and classes.
        scenes: The number of scenes.

    Example:
        >>> histogram = ScoreHistogram(Head(TaskKind.binary, ("building",)), scenes=1)
        >>> logits = torch.tensor([[[[2.0, -1.0, 3.0]]]])
        >>> histogram.update(logits, torch.tensor([[[1, 0, 255]]], dtype=torch.uint8), torch.tensor([0]))
        >>> histogram.compute()[0, 0].nonzero().tolist()
        [[0, 119], [1, 143]]
    """

    full_state_update = False
    counts: Tensor
    lost: Tensor

    def __init__(self, head: Head, scenes: int) -> None:
        super().__init__()
        self.head = head
        planes = head.channels + (head.task is TaskKind.multiclass)
        self.add_state("counts", torch.zeros(scenes, planes, 2, BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("lost", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, scene: Tensor) -> None:
        """Count a batch.

        Args:
            logits: ``[B, K, H, W]``.
            target: ``[B, H, W]`` or ``[B, L, H, W]``; `IGNORE` is not counted.
            scene: int64 ``[B]``.
        """
        score, label, valid = self._planes(logits, target.long())
        broken = ~logits.isfinite().all(1, keepdim=True)
        self.lost += (valid & broken).any(1).sum()
        valid = valid & ~broken
        planes = self.counts.shape[1]
        place = (score.float().nan_to_num().clamp(-LIMIT, LIMIT) + LIMIT) * (BINS / (2 * LIMIT))
        place = (place.ceil().long() - 1).clamp(min=0)
        plane = torch.arange(planes, device=logits.device)[:, None, None]
        cell = ((scene[:, None, None, None] * planes + plane) * 2 + label.long()) * BINS + place
        cells = self.counts.numel()
        cell = torch.where(valid, cell, cells)  # a bin more, cut off again
        self.counts += torch.bincount(cell.flatten(), minlength=cells + 1)[:cells].view_as(self.counts)

    def _planes(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and which are valid, all ``[B, P, H, W]``."""
        if self.head.task is not TaskKind.multiclass:
            target = target.view(logits.shape)
            return logits, target == 1, target != IGNORE
        score, predicted = log_odds(logits), logits.max(dim=1, keepdim=True).indices
        number = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
        own = target.unsqueeze(1)
        label = torch.cat([own == number, own == predicted], 1)
        return torch.cat([score, score.gather(1, predicted)], 1), label, (own != IGNORE).expand_as(label)

    def compute(self) -> Tensor:
        """The counts, int64 ``[S, P, 2, 256]``."""
        return self.counts


def threshold_counts(histogram: ArrayLike) -> NDArray[np.float64]:
    """True positives, false positives and false negatives at each of `THRESHOLDS`.

    Args:
        histogram: ``[..., 2, 256]``, by label and score.

    Returns:
        float64 ``[..., 255, 3]``.

    Example:
        >>> histogram = np.zeros((2, 256))
        >>> histogram[1, [100, 200]], histogram[0, 150] = 1, 1
        >>> threshold_counts(histogram)[127]  # at 0.5
        array([1., 1., 1.])
    """
    counts = np.asarray(histogram, dtype=np.float64)
    above = counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]
    missed = counts[..., 1, :].sum(-1, keepdims=True) - above[..., 1, :]
    return np.stack([above[..., 1, :], above[..., 0, :], missed], axis=-1)
