"""Sums per scene on the device: confusion matrices of labels, errors of real values, and histograms of the score by label.

A score is a log-odds, ``log(p / (1 - p))``, since probabilities saturate.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import IGNORE
from rsseg.devices import exact_dtype
from rsseg.metrics.calibration import BINS, LIMIT
from rsseg.metrics.pixels import count_pairs, sum_errors
from rsseg.metrics.scores import SUMS
from rsseg.task import Task


class SceneCounts(Metric):
    """Base class of counts per scene ``[S, ...]``, which are summed over processes."""

    full_state_update = False
    counts: Tensor

    def __init__(self, task: Task, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.task = task
        self.add_state("counts", torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The counts."""
        return self.counts


class Confusion(SceneCounts):
    """Counter of (target, prediction) pairs ``[S, P, K, K]``, see `count_pairs`.

    The threshold is as for `Task.predict`, ``[K]``, or one for each scene, ``[S, K]``.

    Example:
        >>> from rsseg.task import Binary
        >>> confusion = Confusion(Binary(("building",)), scenes=1)
        >>> logits = torch.tensor([[[[2.0, -1.0, 3.0]]]])
        >>> confusion.update(logits, torch.tensor([[[1, 0, 255]]], dtype=torch.uint8), torch.tensor([0]))
        >>> confusion.compute().tolist()
        [[[[1, 0], [0, 1]]]]
    """

    def __init__(self, task: Task, scenes: int, threshold: Tensor | None = None) -> None:
        super().__init__(task, (scenes, len(task.matrices), task.labels, task.labels))
        self.threshold = threshold

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Count a batch. `scene`, int64 ``[B]``, are the scenes' numbers; `corner` is not used.

        Logits are ``[B, K, H, W]``; targets are labels ``[B, H, W]`` or ``[B, L, H, W]``, or shares, which count by their
        `Task.hard_labels`; `IGNORE` does not count.
        """
        own = self.threshold
        if own is not None and own.ndim == 2:
            own = own.to(scene.device)[scene]
        predicted = self.task.predict(logits, own)
        self.counts += count_pairs(predicted, target, scene, len(self.counts), self.task)


class ErrorSums(SceneCounts):
    """Counter of `SUMS`, in the target's unit, ``[S, V, 6]`` in `exact_dtype`."""

    def __init__(self, task: Task, scenes: int) -> None:
        device = torch.device("mps" if torch.backends.mps.is_available() else "cpu")  # where the state may be moved to
        super().__init__(task, (scenes, task.channels, len(SUMS)), exact_dtype(device))

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Add a batch; arguments are as for `Confusion`, but the target is standardised as for the loss; NaN does not count."""
        sums = sum_errors(self.task.predict(logits), self.task.predict(target))
        self.counts.index_add_(0, scene, sums.to(self.counts))


def log_odds(logits: Tensor) -> Tensor:
    """The log-odds of each class against all others, ``z_c - log sum_{j != c} exp z_j``, from softmax logits ``[B, C, ...]``.

    In float32, whose range limits log-odds to 87.
    """
    wide = logits.float()
    largest, top = wide.max(dim=1, keepdim=True)
    gap = wide - largest
    each = gap.exp()
    others = each.scatter(1, top, 0.0).sum(1, keepdim=True)
    rest = 1 + others - each  # for the largest logit, this would round off values much smaller than 1
    return gap - rest.scatter_(1, top, others.clamp(min=torch.finfo(torch.float32).tiny)).log_()


class ScoreHistogram(SceneCounts):
    """Counter of pixels by label and score, per scene and plane.

    The state is int64 ``[S, P, 2, 256]``: 4 KiB per scene and plane. Plane c is the histogram of class c's log-odds, by whether
    the pixel is labelled c. Multiclass heads have one more plane, the last: the log-odds of the predicted class, by whether the
    prediction is correct, for the calibration of the confidence. Labelled pixels with logits that are not finite, as after a
    divergence, are in no plane, but counted in `lost` ``[S]``.

    Example:
        >>> from rsseg.task import Binary
        >>> histogram = ScoreHistogram(Binary(("building",)), scenes=1)
        >>> logits = torch.tensor([[[[2.0, -1.0, 3.0]]]])
        >>> histogram.update(logits, torch.tensor([[[1, 0, 255]]], dtype=torch.uint8), torch.tensor([0]))
        >>> histogram.compute()[0, 0].nonzero().tolist()
        [[0, 119], [1, 143]]
    """

    lost: Tensor

    def __init__(self, task: Task, scenes: int) -> None:
        super().__init__(task, (scenes, task.channels + task.exclusive, 2, BINS))
        self.add_state("lost", torch.zeros(scenes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, scene: Tensor) -> None:
        """Count a batch; the arguments are those of `Confusion`."""
        target = target.long().view(len(target), -1, *target.shape[-2:])
        broken = ~logits.isfinite().all(1, keepdim=True)
        labelled = target != IGNORE
        self.lost.index_add_(0, scene, (labelled & broken).any(1).sum((-2, -1)))
        valid = (labelled & ~broken).expand(-1, self.counts.shape[1], -1, -1)
        scenes, number = len(self.counts), scene.view(-1, 1, 1)
        for plane, (score, label) in enumerate(self._planes(logits, target)):  # one plane at a time stays in the cache
            steps = score.float().clamp(-LIMIT, LIMIT).mul_(BINS / (2 * LIMIT)).ceil_()  # from 0, to which a sum would round
            place = steps.add_(BINS // 2 - 1).clamp_(min=0)
            cell = torch.where(valid[:, plane], (2 * number + label) * BINS + place.long(), scenes * 2 * BINS)
            counts = torch.bincount(cell.flatten(), minlength=scenes * 2 * BINS + 1)[:-1]  # the last: pixels that are not valid
            self.counts[:, plane] += counts.view(scenes, 2, BINS)

    def _planes(self, logits: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Score and label, by plane, both ``[B, H, W]``; `target` is ``[B, 1 or L, H, W]``."""
        scores = log_odds(logits) if self.task.exclusive else logits
        for c in range(logits.shape[1]):
            yield scores[:, c], target[:, 0] == c if self.task.exclusive else target[:, c] == 1
        if self.task.exclusive:
            predicted = logits.max(1, keepdim=True).indices
            yield scores.gather(1, predicted)[:, 0], (target == predicted)[:, 0]
