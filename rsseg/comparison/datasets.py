"""Sweeps of the same plan on several datasets: which loss is ahead on average, and where the order turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import rankdata

from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import Interval, critical
from rsseg.comparison.words import brackets, listed, number
from rsseg.contract import InputError
from rsseg.metrics.average import Array


def between(effects: ArrayLike, variances: ArrayLike) -> float:
    """The variance of true effects between datasets, from estimates and their own variances (Paule and Mandel 1982).

    Example:
        >>> between([0.1, 0.1, 0.1], [0.01, 0.01, 0.01]), round(between([0.0, 1.0, 2.0], [0.01, 0.01, 0.01]), 3)
        (0.0, 0.99)
    """
    effect, own = np.asarray(effects, dtype=np.float64), np.maximum(np.asarray(variances, dtype=np.float64), 1e-12)

    def excess(tau: float) -> float:
        weight = 1 / (own + tau)
        mean = (weight * effect).sum() / weight.sum()
        return float((weight * (effect - mean) ** 2).sum() - (len(effect) - 1))

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, 10 * float(np.ptp(effect)) ** 2 + 1e-9))


def pool(effects: ArrayLike, variances: ArrayLike, losses: int = 2) -> tuple[float, float, float]:
    """The mean effect over similar datasets and its 95 % interval, which is simultaneous for all pairs of `losses` losses.

    Random effects: the weight of an effect is one over the sum of its own variance and that between datasets. The interval is
    that of Hartung, Knapp, Sidik and Jonkman (2001) for a handful of datasets, but never narrower than without their factor.

    Example:
        >>> [round(x, 2) for x in pool([0.1, 0.2, 0.3], [0.0001] * 3)]
        [0.2, -0.05, 0.45]
    """
    effect, own = np.asarray(effects, dtype=np.float64), np.maximum(np.asarray(variances, dtype=np.float64), 1e-12)
    weight = 1 / (own + between(effect, own))
    mean = float((weight * effect).sum() / weight.sum())
    freedom = len(effect) - 1
    scale = max(float((weight * (effect - mean) ** 2).sum()) / freedom, 1.0)
    half = float(critical(losses, freedom) * np.sqrt(scale / weight.sum()))
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class AcrossDatasets:
    """Losses compared over several datasets. L losses, D datasets."""

    found: dict[str, Findings]  # of each dataset
    labels: list[str]  # the losses that all datasets share
    scores: Array  # [L, D], means over seeds
    lead: Interval  # [L, L], the lead of the row's loss over the column's on similar datasets; ends NaN: nothing is claimed
    ranks: Array  # [L, D], 1 is the best

    @property
    def order(self) -> list[int]:
        """The indices of the losses by mean rank; ties are ordered by their lead over the others."""
        return [int(i) for i in np.lexsort([-self.lead.value.sum(1), self.ranks.mean(1).round(9)])]


def across_datasets(found: Mapping[str, Findings]) -> AcrossDatasets:
    """Compare losses over several datasets, from the findings by dataset.

    Raises:
        InputError: If there is only one dataset, all share fewer than two losses, or they are ranked by different measures.
    """
    first, *others = found.values()
    if not others:
        raise InputError(f"{', '.join(found)} is the only dataset: name sweeps on two or more")
    ranked_by = list(dict.fromkeys(each.ranked.measure.heading for each in found.values()))
    if len(ranked_by) > 1:
        raise InputError(f"the datasets are ranked by {listed(ranked_by)}: name one metric that all have in one unit")
    labels = [label for label in first.labels if all(label in other.labels for other in others)]
    if len(labels) < 2:
        raise InputError(f"the datasets {', '.join(found)} share {len(labels)} losses: run one sweep on all of them")
    sign, chosen = first.ranked.measure.sign, []
    for each in found.values():
        at = [each.labels.index(label) for label in labels]
        mean, difference, pairs = each.ranked.mean, each.ranked.difference, np.ix_(at, at)
        chosen.append((mean.value[at], sign * difference.value[pairs], difference.variance[pairs]))
    scores, gaps, variances = (np.stack(numbers, axis=-1) for numbers in zip(*chosen, strict=True))
    ends = np.zeros((3, len(labels), len(labels)))
    claims = all(each.ranked.claims for each in found.values()) and not np.isnan(variances).any()
    for i, j in combinations(range(len(labels)), 2):
        ends[:, i, j] = pool(gaps[i, j], variances[i, j], len(labels)) if claims else (gaps[i, j].mean(), np.nan, np.nan)
        ends[:, j, i] = -ends[[0, 2, 1], i, j]
    return AcrossDatasets(dict(found), labels, scores, Interval(*ends), rankdata(-sign * scores, axis=0))


def turns(across: AcrossDatasets) -> list[tuple[str, str, str, str]]:
    """Pairs of losses whose order surely reverses: both labels, a dataset where the first leads, one where the second does."""
    sure: dict[tuple[str, str], list[str]] = {}
    for name, each in across.found.items():
        low = each.ranked.lead().low
        for a, b in combinations(across.labels, 2):
            for one, other in ((a, b), (b, a)):
                if low[each.labels.index(one), each.labels.index(other)] > 0:
                    sure.setdefault((one, other), []).append(name)
    return [(a, b, names[0], sure[b, a][0]) for (a, b), names in sure.items() if (b, a) in sure and a < b]


def across_answer(across: AcrossDatasets) -> list[str]:
    """The loss that leads over all datasets, in words."""
    best, *others = across.order
    label, measure, names = across.labels[best], next(iter(across.found.values())).ranked.measure, list(across.found)
    ranks = ", ".join(f"{across.labels[i]} {across.ranks[i].mean():.1f}" for i in across.order)
    said = [f"Over {len(names)} datasets, {listed(names)}, the mean ranks by {measure.label} are {ranks}."]
    if np.isnan(across.lead.low[best, others]).any():
        too_few = [name for name, each in across.found.items() if not each.ranked.claims or each.reach is None]
        return [*said, f"Nothing is claimed of other datasets: there are too few seeds or areas on {listed(too_few)}."]
    behind = [i for i in others if across.lead.low[best, i] > 0]
    for i in behind:
        gap, low, high = across.lead.at(best, i)
        much = f"{number(gap)} {measure.unit}".strip()
        said.append(f"{across.labels[i]} is surely behind it on datasets like these, by {much}{brackets(low, high)}.")
    if not behind:
        said.append(f"On datasets like these no loss is surely behind {label}: {len(names)} datasets tell little of others.")
    turned = [
        f"The order turns: {a} is surely ahead of {b} on {one}, and surely behind on {other}."
        for a, b, one, other in turns(across)
    ]
    return [*said, *(turned or ["No pair of losses surely changes its order between datasets."])]


def across_table(across: AcrossDatasets) -> pd.DataFrame:
    """One row per loss, by mean rank: its score on each dataset, and the lead of the first loss over it on similar datasets."""
    table = pd.DataFrame(across.scores, index=pd.Index(across.labels, name="loss"), columns=list(across.found))
    table.insert(0, "mean_rank", across.ranks.mean(1))
    lead = across.lead[across.order[0]]
    table["behind"], table["behind_low"], table["behind_high"] = lead.value, lead.low, lead.high
    return table.iloc[across.order]
