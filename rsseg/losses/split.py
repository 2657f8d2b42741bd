"""The losses of a head on a whole split: sums of all batches are added up before formulas are applied, once."""

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
from rsseg.losses.composite import Composite, label_key
from rsseg.losses.sums import COUNT, AllSums, Needs, pixel_sums
from rsseg.losses.terms.regression import Quotient
from rsseg.losses.terms.term import Term
from rsseg.task import Task

Totals: TypeAlias = dict[Any, Tensor]
"""What is added up, ``[2, ...]``: apart for the two halves of the scenes."""


class SplitValues(NamedTuple):
    """The losses of a split.

    Attributes:
        raw: Every term's value by name, float64 ``[3]``: on the first half of the scenes, the second, and all; NaN where
            nothing is labelled.
        weighted: Every term's value times its weight.
        own: float64 ``[2]``, the weighted sum on each half; NaN if a term is no function of sums over pixels.
        panel: float64 ``[losses, 2]``, likewise.
        labelled: The labelled pixels, each counted by its weight.
    """

    raw: dict[str, NDArray[np.float64]]
    weighted: dict[str, NDArray[np.float64]]
    own: NDArray[np.float64]
    panel: NDArray[np.float64]
    labelled: float


class SplitLosses:
    """The value of a composition, and of a panel of losses, on each half of the scenes as one batch, from one pass.

    The value does not depend on the batch size or the number of processes where a term is a function of sums, or of a mean,
    over pixels. Any other term, such as exact Lovasz or a loss per image, is averaged over batches by labelled pixels.

    Args:
        loss: The composition that trains, at its full weights.
        task: Its task.
        first: bool ``[scenes]``, which are the first half.
        panel: Further losses by name, functions of sums with ``over="batch"``, on the labels as they are and without weights.

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
        self._needs: Needs = {need for term in self.panel.values() for need in term.needs}
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._totals: Totals = {}
        self._values: SplitValues | None = None

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, weight: Tensor | None = None) -> None:
        """Add a batch, of the scenes int64 ``[B]``."""
        first = self.first.to(logits.device)[scene]
        member = torch.stack([first, ~first])
        given = self.loss.given(logits, target, weight)
        joined = given.weight is None and not target.is_floating_point()
        found = self.loss.image_sums(logits, given, {label_key(self.task.kind): self._needs} if joined and self._needs else {})
        for key, sums in found.items():
            self._add(key, sums, member)
        if self._needs and not joined:
            self._add("panel", pixel_sums(logits, self.task.hard_labels(target), self.task.kind, _images(self._needs)), member)
        labelled = _labelled(target, weight, member.to(exact_dtype(logits.device)))
        self._count("labelled", labelled)
        beside = () if given.weight is None else (given.weight,)
        for name, term in self.loss.terms.items():
            if isinstance(term, Quotient):
                parts = torch.stack(term.parts(logits, given.target(term), given.weight))
                self._count(name, member.to(labelled) @ parts.to(labelled).T)
            elif not _is_exact(term):
                known_sums = self.loss.sums_of(term, found)
                value: Tensor = (
                    term(logits, given.target(term), *beside) if known_sums is None else term.from_sums(known_sums)  # type: ignore[operator]
                )
                self._count(name, value.to(labelled) * labelled)

    def _add(self, key: Any, sums: AllSums, member: Tensor) -> None:
        """Add sums of images."""
        for (name, _), value in sums.items():
            exact = value.to(exact_dtype(value.device))
            self._count((key, name), torch.tensordot(member.to(exact), exact, dims=([1], [1 if value.ndim == 3 else 2])))

    def _count(self, key: Any, value: Tensor) -> None:
        self._totals[key] = self._totals[key] + value if key in self._totals else value

    def values(self) -> SplitValues:
        """The losses of what was added by all processes; every one has to call it."""
        if self._values is None:
            self._values = self._compute()
        return self._values

    def _compute(self) -> SplitValues:
        totals = dict(zip(self._totals, global_sums(list(self._totals.values())), strict=True))
        pieces = [{key: total[half] for key, total in totals.items()} for half in (0, 1)]
        pieces.append({key: total.sum(0) for key, total in totals.items()})
        raw = {name: np.array([self._term(name, piece) for piece in pieces]) for name in self.loss.terms}
        weights = self.loss.weights
        weighted = {name: weights[name] * value if weights[name] else np.zeros(3) for name, value in raw.items()}
        own = sum((value[:2] for name, value in weighted.items() if weights[name]), start=np.zeros(2))
        if not all(_is_exact(term) or isinstance(term, Quotient) for name, term in self.loss.terms.items() if weights[name]):
            own = np.full(2, np.nan)
        at = "panel" if "panel" in {key[0] for key in totals if isinstance(key, tuple)} else label_key(self.task.kind)
        panel = [[_of_sums(term, piece, at, cpu=True) for piece in pieces[:2]] for term in self.panel.values()]
        labelled = float(pieces[2]["labelled"])
        return SplitValues(raw, weighted, own, np.array(panel, dtype=np.float64).reshape(-1, 2), labelled)

    def _term(self, name: str, totals: Totals) -> float:
        """The value of a term; NaN where nothing is labelled."""
        term: Any = self.loss.terms[name]
        if not float(totals["labelled"]):
            return float("nan")
        if isinstance(term, Quotient):
            errors, share = totals[name].unbind()
            return float(term.of_mean(errors / torch.where(share > 0, share, 1)))
        if _is_exact(term):
            return _of_sums(term, totals, self.loss.key_of(term))
        return float(totals[name] / totals["labelled"])


def _of_sums(term: Any, totals: Totals, at: Any, cpu: bool = False) -> float:
    """The value of a term from the sums of one pass; NaN where it has counted nothing."""
    sums = {key[1]: total.cpu() if cpu else total for key, total in totals.items() if isinstance(key, tuple) and key[0] == at}
    if not sums[COUNT].any():
        return float("nan")
    return float(term.from_sums({key: total.unsqueeze(total.ndim - 1 - (total.ndim > 2)) for key, total in sums.items()}))


def _images(needs: Needs) -> Needs:
    """The same sums, of each image."""
    return {(key, "image") for key, _ in needs}


def _is_exact(term: Any) -> bool:
    """Whether a term is a function of sums over the pixels of a batch."""
    return isinstance(term, Term) and bool(term.needs) and {over for _, over in term.needs} == {"batch"}


def _labelled(target: Tensor, weight: Tensor | None, member: Tensor) -> Tensor:
    """The labelled pixels of a target in each half ``[2]``, each counted by its weight."""
    there: Tensor = known(target)
    if weight is not None:
        exact = weight.nan_to_num(0).to(member)
        there = there * (exact if target.ndim == 3 else exact.unsqueeze(1))
    return member @ there.flatten(1).sum(1).to(member)
