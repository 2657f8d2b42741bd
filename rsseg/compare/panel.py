"""The panel: every loss that is a function of sums over pixels, valued on validation whichever loss trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.collective import global_sum
from rsseg.devices import exact_dtype
from rsseg.losses import Composite, Term
from rsseg.losses.sums import COUNT, Needs, Sum, Sums, pixel_sums
from rsseg.task import Task

PANEL: Mapping[str, Mapping[str, Any]] = {
    "ce": {"_target_": "rsseg.losses.CrossEntropy"},
    "weighted_ce": {"_target_": "rsseg.losses.CrossEntropy", "class_weights": "inverse_frequency"},
    "focal": {"_target_": "rsseg.losses.Focal", "gamma": 2.0},
    "dice": {"_target_": "rsseg.losses.Dice"},
    "jaccard": {"_target_": "rsseg.losses.Jaccard"},
    "tversky": {"_target_": "rsseg.losses.Tversky", "alpha": 0.3, "beta": 0.7},
    "focal_tversky": {"_target_": "rsseg.losses.FocalTversky", "alpha": 0.3, "beta": 0.7, "gamma": 0.75},
    "lovasz_binned": {"_target_": "rsseg.losses.Lovasz", "bins": 512},
}
"""Under the names of ``configs/loss/term``. Binned Lovasz joins the one pass, where the exact one would sort every error."""


class ErrorMeans:
    """The value of a loss of real values on each half of the scenes; it has the methods of `PanelSums`.

    Args:
        loss: Its weighted terms are functions of a mean over pixels, as those of `rsseg.losses` are.
        first: bool ``[scenes]``, which are the first half.
    """

    def __init__(self, loss: Composite, first: NDArray[np.bool_]) -> None:
        self.terms: dict[str, Any] = {name: loss.terms[name] for name, weight in loss.weights.items() if weight}
        self.weights, self.first = loss.weights, torch.from_numpy(np.asarray(first))
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._totals: Tensor | None = None  # [terms, 2, halves], errors and weights

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, weight: Tensor | None = None) -> None:
        """Add a batch: logits and target ``[B, V, H, W]``, scene int64 ``[B]``, weight ``[B, H, W]``."""
        exact = exact_dtype(logits.device)
        first = self.first.to(logits.device)[scene]
        member = torch.stack([first, ~first], dim=1).to(exact)
        parts = torch.stack([torch.stack(term.parts(logits, target, weight)) for term in self.terms.values()])
        total = parts.to(exact) @ member
        self._totals = total if self._totals is None else self._totals + total

    def values(self) -> NDArray[np.float64]:
        """The loss on each half, float64 ``[1, 2]``, NaN where nothing is known; every process has to call it."""
        if self._totals is None:
            return np.full((1, 2), np.nan)
        errors, share = global_sum(self._totals).cpu().double().unbind(1)
        means = zip(self.terms.items(), errors / share, strict=True)
        parts = [self.weights[name] * torch.stack([term.of_mean(half) for half in mean]) for (name, term), mean in means]
        return torch.stack(parts).sum(0, keepdim=True).numpy()


class PanelSums:
    """Sums of what the panel's losses are functions of, apart for the two halves of the scenes.

    The sums of all batches and processes are added up before the formulas are applied, once: the values are those of a
    half's pixels as one batch, whatever the batch size and the number of processes. Losses whose sums are over images are
    not of that kind.

    Args:
        task: The head's task.
        terms: The losses by name, functions of sums with ``over="batch"``.
        first: bool ``[scenes]``, which are the first half.

    Example:
        >>> from rsseg.task import Binary
        >>> from rsseg.losses import Dice
        >>> sums = PanelSums(Binary(("a",)), {"dice": Dice("binary", smooth=0)}, np.array([True, False]))
        >>> sums.update(torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> sums.values().round(3)
        array([[0.333, 0.333]])
    """

    def __init__(self, task: Task, terms: Mapping[str, Term | Composite], first: NDArray[np.bool_]) -> None:
        self.task, self.terms, self.first = task, terms, torch.from_numpy(np.asarray(first))
        self.needs: Needs = {(key, "image") for term in terms.values() for key, _ in term.needs}
        self._totals: dict[Sum, Tensor] = {}  # [halves, ..., C] or [halves, ..., C, bins]

    def reset(self) -> None:
        """Forget everything."""
        self._totals = {}

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            logits: ``[B, K, H, W]``.
            target: Labels ``[B, H, W]`` or ``[B, L, H, W]``, or shares if all losses take them; what is ignored is not counted.
            scene: int64 ``[B]``.
            weight: ``[B, H, W]``, what each pixel counts for; None: 1.
        """
        if not self.terms:
            return
        exact = exact_dtype(logits.device)
        first = self.first.to(logits.device)[scene]
        member = torch.stack([first, ~first]).to(exact)
        # per image: nothing is sent between processes
        found = pixel_sums(logits, target, self.task.kind, self.needs, weight=weight)
        for (key, _), value in found.items():
            part = torch.tensordot(member, value.to(exact), dims=([1], [1 if value.ndim == 3 else 2]))
            self._totals[key] = self._totals[key] + part if key in self._totals else part

    def values(self) -> NDArray[np.float64]:
        """The losses on each half, float64 ``[terms, 2]``, NaN where it has no labelled pixel; every process has to call it."""
        if not self._totals:
            return np.full((len(self.terms), 2), np.nan)
        whole = global_sum(torch.cat([total.flatten() for total in self._totals.values()])).cpu().double()
        parts = torch.split(whole, [total.numel() for total in self._totals.values()])
        sums = {key: part.view_as(total) for (key, total), part in zip(self._totals.items(), parts, strict=True)}
        return np.stack([self._half({key: total[half] for key, total in sums.items()}) for half in (0, 1)], axis=1)

    def _half(self, sums: Mapping[Sum, Tensor]) -> NDArray[np.float64]:
        if not sums[COUNT].any():
            return np.full(len(self.terms), np.nan)
        found: Sums = {(key, "batch"): total.unsqueeze(total.ndim - 1 - (total.ndim > 2)) for key, total in sums.items()}
        return np.array([float(term.from_sums(found)) for term in self.terms.values()])
