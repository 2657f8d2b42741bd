"""The losses of a head on a whole split: sums are accumulated over all batches, then each formula is applied once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.collective import global_sums
from rsseg.contract import known
from rsseg.devices import exact_dtype
from rsseg.losses.composite import Composite
from rsseg.losses.pieces import pixel_share
from rsseg.losses.sums import COUNT, Sums, pixel_sums
from rsseg.losses.terms.base import Term, is_of_sums
from rsseg.losses.terms.regression import Quotient
from rsseg.task import Task

Totals: TypeAlias = dict[Any, Tensor]
"""Sums ``[2, ...]`` by key, separately for the two halves of the scenes."""

PANEL = "panel"
"""The key of the panel's own pass, if it can't share the composition's."""


class SplitValues(NamedTuple):
    """The losses of a split.

    Attributes:
        raw: By term, float64 ``[3]``: on the first half of the scenes, the second half, and all; NaN without labelled pixels.
        weighted: The values of `raw` times the term's weight.
        own: float64 ``[2]``, the sum of weighted terms on each half; NaN if a term is no function of sums over pixels.
        panel: float64 ``[losses, 2]``, the value of each loss of the panel on each half.
        labelled: The sum of the weights of labelled pixels.
    """

    raw: dict[str, NDArray[np.float64]]
    weighted: dict[str, NDArray[np.float64]]
    own: NDArray[np.float64]
    panel: NDArray[np.float64]
    labelled: float


class SplitLosses:
    """The values of a composition and of a panel of losses, with each half of the scenes as one batch, from one pass.

    The value of a term that is a function of sums, or of a mean, over pixels does not depend on batch size and processes. Any
    other term, such as exact Lovasz or a loss per image, is averaged over batches, weighted by their labelled pixels.

    Args:
        loss: The composition that trains, with its full weights.
        task: The task of the head.
        first: bool ``[scenes]``, true for the first half.
        panel: Further losses by name, functions of sums with ``over="batch"``, on the original labels and without weights.

    Example:
        >>> from rsseg.task import Binary
        >>> from rsseg.losses import Dice
        >>> loss = Composite({"dice": (1.0, Dice("binary", smooth=0))})
        >>> losses = SplitLosses(loss, Binary(("a",)), np.array([True, False]))
        >>> losses.update(torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> losses.values().raw["dice"].round(3)
        array([0.333, 0.333, 0.333])
    """

    def __init__(self, loss: Composite, task: Task, first: NDArray[np.bool_], panel: Mapping[str, Term] | None = None) -> None:
        self.loss, self.task, self.first, self.panel = loss, task, torch.from_numpy(np.asarray(first)), dict(panel or {})
        self._asked = {name for term in self.panel.values() for name in term.sums}
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._totals: Totals = {}
        self._values: SplitValues | None = None

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, weight: Tensor | None = None) -> None:
        """Add a batch; `scene` holds the scenes' numbers, int64 ``[B]``."""
        first = self.first.to(logits.device)[scene]
        member = torch.stack([first, ~first]).to(exact_dtype(logits.device))
        given = self.loss.given(logits, target, weight)
        joined = given.weight is None and not target.is_floating_point()
        found: dict[Any, Sums] = {**self.loss.sums(logits, given, self._asked if joined else ())}
        if self._asked and not joined:
            found[PANEL] = pixel_sums(logits, self.task.hard_labels(target), self.task.kind, self._asked)
        for key, sums in found.items():
            for wanted, each in sums.items():
                images = 1 if each.ndim == 3 else 2
                self._add((key, wanted), torch.tensordot(member, each.to(member), dims=([1], [images])))
        there = known(target if target.ndim == 4 else target.unsqueeze(1))
        labelled = member @ pixel_share(there, weight, member.dtype).flatten(1).sum(1)
        self._add("labelled", labelled)
        for name, term in self.loss.terms.items():
            if isinstance(term, Quotient):
                parts = torch.stack(term.parts(logits, given.labels, given.weight))
                self._add(name, member @ parts.to(member).T)
            elif not _is_exact(term):
                value = term.from_sums(found[self.loss.softens(term)]) if is_of_sums(term) else given.value(term, logits)
                self._add(name, value.to(labelled) * labelled)

    def _add(self, key: Any, value: Tensor) -> None:
        self._totals[key] = self._totals[key] + value if key in self._totals else value

    def values(self) -> SplitValues:
        """The losses from the sums of all processes; every process has to call it."""
        if self._values is None:
            self._values = self._compute()
        return self._values

    def _compute(self) -> SplitValues:
        totals = dict(zip(self._totals, global_sums(list(self._totals.values())), strict=True))
        parts = [{key: total[half] for key, total in totals.items()} for half in (0, 1)]
        parts.append({key: total.sum(0) for key, total in totals.items()})
        terms, weights = self.loss.terms, self.loss.weights
        raw = {name: np.array([self._value(name, term, part) for part in parts]) for name, term in terms.items()}
        weighted = {name: weights[name] * value if weights[name] else np.zeros(3) for name, value in raw.items()}
        learnt = [name for name in terms if weights[name]]
        own = sum((weighted[name][:2] for name in learnt), start=np.zeros(2))
        if not all(_is_exact(terms[name]) or isinstance(terms[name], Quotient) for name in learnt):
            own = np.full(2, np.nan)
        at = PANEL if (PANEL, COUNT) in totals else False
        panel = [[_of_sums(term, part, at) for part in parts[:2]] for term in self.panel.values()]
        return SplitValues(raw, weighted, own, np.array(panel, np.float64).reshape(-1, 2), float(parts[2]["labelled"]))

    def _value(self, name: str, term: Any, totals: Totals) -> float:
        """The value of a term; NaN without labelled pixels."""
        labelled = totals["labelled"]
        if not labelled:
            return float("nan")
        if isinstance(term, Quotient):
            errors, share = totals[name]
            return float(term.of_mean(errors / torch.where(share > 0, share, 1)))
        return _of_sums(term, totals, self.loss.softens(term)) if _is_exact(term) else float(totals[name] / labelled)


def _of_sums(term: Term, totals: Totals, at: Any) -> float:
    """The value of a term from the sums of the pass `at`; NaN if no pixel counts."""
    if not totals[at, COUNT].any():
        return float("nan")
    sums = {name: totals[at, name] for name in (COUNT, *term.sums)}
    return float(term.from_sums({name: total.unsqueeze(1 if total.ndim == 2 else 2) for name, total in sums.items()}))


def _is_exact(term: Any) -> bool:
    """Whether a term is a function of sums over the pixels of a batch."""
    return is_of_sums(term) and not term.by_image
