"""A sweep over learning rates: some seeds choose each loss's rate, the others report on it.

A loss's rate is the one with the best mean score on the search seeds, those from `SEARCH_SEED` on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsseg.compare.runs import SEARCH_SEED, LeftOut, Run
from rsseg.contract import InputError


def reporting(runs: list[Run], rates: dict[str, tuple[float, list[float]]]) -> tuple[list[Run], list[LeftOut]]:
    """The runs on the other seeds, at the chosen rates; of each loss without any the search runs at its rate are named.

    Raises:
        InputError: If there are none.
    """
    chosen = [run for run in runs if run.label in rates and run.rate == rates[run.label][0]]
    kept = [run for run in chosen if not run.searching]
    if not kept:
        raise InputError(f"no run of a seed below {SEARCH_SEED} has a learning rate that the search chose: finish the sweep")
    silent = [run for run in chosen if run.label not in {run.label for run in kept}]
    why, remedy = "no seed reports on its loss at the learning rate that the search chose", "finish the sweep"
    return kept, [LeftOut(run.folder, why, remedy) for run in silent]


def pick_rates(runs: Sequence[Run], metric: str) -> dict[str, tuple[float, list[float]]]:
    """Each loss's learning rate with the best mean score over the search seeds, and all rates tried.

    Rates are compared on the seeds that all of a loss's rates were tried with.

    Args:
        runs: Labelled runs.
        metric: By which score in their ``summary.json``.

    Raises:
        InputError: If a loss has no such run, or no seed with which all its rates were tried.
    """
    unknown = [run.folder for run in runs if run.searching and metric not in run.summary]
    if unknown:
        raise InputError(
            f"metric={metric}: {unknown[0]} was not scored by it, so no learning rate can be chosen; take iou or dice"
        )
    rates = {}
    for label in sorted({run.label for run in runs}):
        scores = {(run.rate, run.seed): run.summary[metric] for run in runs if run.searching and run.label == label}
        tried = sorted({rate for rate, _ in scores})
        seeds = sorted({seed for _, seed in scores})
        seeds = [seed for seed in seeds if all((rate, seed) in scores for rate in tried)]
        if not seeds:
            raise InputError(
                f"{label} has no search seed with which all its learning rates {tried} were finished: finish the sweep"
            )
        rates[label] = (max(tried, key=lambda rate: float(np.mean([scores[rate, seed] for seed in seeds]))), tried)
    return rates
