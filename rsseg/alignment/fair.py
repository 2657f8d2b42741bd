"""Which runs can be compared with which: what differs but must not is named and left out.

Runs are compared where losses and seeds are crossed: every loss with every seed, on the same data, for equally many steps,
by the same code. A sweep over learning rates is searched first: each loss's rate is the one with the best mean IoU on the
search seeds, those from `SEARCH_SEED` on, and the other seeds report on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.alignment.runs import SEARCH_SEED, Run, find_runs, read_runs
from rsseg.config.folder import resume_word
from rsseg.contract import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class LeftOut:
    """A run that is not compared.

    Attributes:
        run: Its folder.
        why: What is wrong with it.
        remedy: What to do.
    """

    run: Path
    why: str
    remedy: str


@dataclass(frozen=True)
class Comparison:
    """Runs that can be compared.

    Attributes:
        labels: The losses.
        seeds: The seeds, the same for every loss.
        runs: One per loss and seed, ``[losses][seeds]``.
        left_out: The runs that are not among them.
        rates: By loss, the learning rate that the search seeds chose, and all that were tried; empty without a search.
    """

    labels: list[str]
    seeds: list[int]
    runs: list[list[Run]]
    left_out: list[LeftOut]
    rates: dict[str, tuple[float, list[float]]]


def gather(places: Sequence[Path], keep_unfair: bool = False) -> Comparison:
    """Find runs and keep those that can be compared.

    Args:
        places: Run folders, or folders that hold them.
        keep_unfair: Compare runs of other training data, steps or code all the same.

    Raises:
        InputError: If nothing can be compared, or it is not clear which of several kinds of runs is meant.
    """
    finished, begun = find_runs(places)
    left_out = [LeftOut(run, "it is not finished", f"go on with python train.py {resume_word(run)}") for run in begun]
    runs = read_runs(finished)
    for keep in (scored, lambda found: alike(found, keep_unfair), recorded):
        runs, dropped = keep(runs)
        left_out += dropped
    rates: dict[str, tuple[float, list[float]]] = {}
    if any(run.searching for run in runs):
        rates = pick_rates(runs)
        runs, dropped = reporting(runs, rates)
        left_out += dropped
    runs, dropped = latest(runs)
    left_out += dropped
    labels, seeds = sorted({run.label for run in runs}), sorted({run.seed for run in runs})
    found = {(run.label, run.seed): run for run in runs}
    rows, columns = largest_grid([[(label, seed) in found for seed in seeds] for label in labels])
    labels, seeds = (
        [x for x, keep in zip(labels, rows, strict=True) if keep],
        [x for x, keep in zip(seeds, columns, strict=True) if keep],
    )
    for (label, seed), run in found.items():
        if label not in labels or seed not in seeds:
            left_out.append(
                LeftOut(
                    run.folder, f"not every loss has seed {seed}", "train the other losses on it, or this one on their seeds"
                )
            )
    return Comparison(labels, seeds, [[found[label, seed] for seed in seeds] for label in labels], left_out, rates)


def scored(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Leave out runs whose IoU is NaN.

    Raises:
        InputError: If none is left.
    """
    kept = [run for run in runs if not np.isnan(run.summary["iou"])]
    if not kept:
        raise InputError("no run has an IoU: no class occurs in the validation scenes; choose a split that holds some")
    why, remedy = "its IoU is NaN: no class occurs in its validation scenes", "choose a split that holds some"
    return kept, [LeftOut(run.folder, why, remedy) for run in runs if run not in kept]


def recorded(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Leave out runs without records where others have some."""
    kept = [run for run in runs if run.records is not None]
    if not kept:
        return runs, []
    lacking = [run for run in runs if run.records is None]
    remedy = "train it again with recording on"
    return kept, [LeftOut(r.folder, f"it has no records, as the others have: {r.unrecorded}", remedy) for r in lacking]


FACTS: dict[str, Callable[[Run], Any]] = {
    "data or splits (validation)": lambda run: [
        run.config.dataset.name, str(run.config.dataset.task), list(run.config.dataset.classes), run.data["fingerprint"]["val"]
    ],
    "data or splits (training)": lambda run: run.data["fingerprint"]["train"],
    "numbers of steps": lambda run: int(run.config.steps),
    "code": lambda run: [run.origin["rsseg"], run.origin["git"]],
    "libraries": lambda run: run.origin["libraries"],
}  # fmt: skip
"""What runs must have in common. Other validation data can't be compared at all, the rest if asked."""


def alike(runs: list[Run], keep_unfair: bool) -> tuple[list[Run], list[LeftOut]]:
    """Keep the runs that most others are like, by one of `FACTS` after the other.

    Raises:
        InputError: If there are as many runs of one kind as of another.
    """
    left_out: list[LeftOut] = []
    for number, (name, fact) in enumerate(FACTS.items()):
        if number and keep_unfair:
            break
        groups: dict[str, list[Run]] = {}
        for run in runs:
            groups.setdefault(json.dumps(fact(run)), []).append(run)
        ordered = sorted(groups.items(), key=lambda pair: -len(pair[1]))
        way_out = "name the folders of one kind" + (", or compare them all the same with unfair=keep" if number else "")
        if len(ordered) > 1 and len(ordered[0][1]) == len(ordered[1][1]):
            listed = "\n".join(f"  - {len(g)} runs such as {g[0].folder}: {what}" for what, g in ordered)
            raise InputError(f"these runs have different {name} and can't be compared; {way_out}:\n{listed}")
        for what, group in ordered[1:]:
            why = f"different {name}: {_brief(what)}, the others {_brief(ordered[0][0])}"
            left_out += [LeftOut(run.folder, why, way_out) for run in group]
        runs = ordered[0][1]
    return runs, left_out


def differences(runs: Sequence[Run]) -> list[str]:
    """The names of `FACTS` that differ among runs."""
    return [name for name, fact in FACTS.items() if len({json.dumps(fact(run)) for run in runs}) > 1]


def _brief(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def latest(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Of several runs with the same label and seed keep the one that was finished last."""
    kept: dict[tuple[str, int], Run] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: str(run.summary["finished"])):
        older = kept.get((run.label, run.seed))
        if older:
            why = f"{run.folder} has the same loss and seed and was finished later"
            left_out.append(LeftOut(older.folder, why, "name one of them alone"))
        kept[run.label, run.seed] = run
    return list(kept.values()), left_out


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


def pick_rates(runs: Sequence[Run]) -> dict[str, tuple[float, list[float]]]:
    """Each loss's learning rate with the best mean IoU over the search seeds, and all rates tried.

    Rates are compared on the seeds that all of a loss's rates were tried with.

    Raises:
        InputError: If a loss has no such run, or no seed with which all its rates were tried.
    """
    rates = {}
    for label in sorted({run.label for run in runs}):
        scores = {(run.rate, run.seed): run.summary["iou"] for run in runs if run.searching and run.label == label}
        tried = sorted({rate for rate, _ in scores})
        seeds = sorted({seed for _, seed in scores})
        seeds = [seed for seed in seeds if all((rate, seed) in scores for rate in tried)]
        if not seeds:
            raise InputError(
                f"{label} has no search seed with which all its learning rates {tried} were finished: finish the sweep"
            )
        rates[label] = (max(tried, key=lambda rate: float(np.mean([scores[rate, seed] for seed in seeds]))), tried)
    return rates


def largest_grid(present: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The losses and seeds to keep so that every loss has every seed and many runs are left.

    Losses are given up in the order of how few seeds they have; of equally many runs, those of more losses are kept.

    Args:
        present: bool ``[losses, seeds]``, which runs there are.

    Returns:
        bool ``[losses]`` and bool ``[seeds]``.

    Example:
        >>> rows, columns = largest_grid([[1, 1, 1], [1, 1, 1], [1, 0, 0]])
        >>> rows.tolist(), columns.tolist()
        ([True, True, False], [True, True, True])
    """
    there = np.asarray(present, dtype=bool)
    order = np.argsort(-there.sum(1), kind="stable")
    shared = np.logical_and.accumulate(there[order], axis=0)  # seeds of the first n losses
    runs = shared.sum(1) * np.arange(1, len(order) + 1)
    many = len(order) - 1 - int(np.argmax(runs[::-1]))
    rows = np.zeros(len(order), dtype=bool)
    rows[order[: many + 1]] = True
    return rows, shared[many]
