"""Which runs can be compared with which: what differs but must not is named and left out.

Runs are compared where losses and seeds are crossed: every loss with every seed, on the same data, for equally many steps,
by the same code, and with the same settings but for what the sweep varies. In a sweep over learning rates some seeds choose
each loss's rate, the one with the best mean score, and the others report on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.measures import measures
from rsseg.compare.runs import (
    DIVERGED,
    LOWER_RATE,
    SEARCH_SEED,
    LeftOut,
    NoSuchHeadError,
    Reason,
    Run,
    by_design,
    column,
    differing,
    find_runs,
    follows,
    set_labels,
)
from rsseg.contract import InputError, nearest
from rsseg.task import Task

SCENES = {"train": "training scenes or labels", "val": "validation scenes or labels"}
"""What a fingerprint is of; it says nothing to a reader itself."""

SPLIT_WITH_SOME = "choose a split that holds some"
"""What to do where nothing can be scored."""

Fact: TypeAlias = Callable[[Run], dict[str, str]]
"""What runs may differ in, by name."""

FACTS: dict[str, Fact] = {
    "data or splits (validation)": lambda run: {
        "dataset": run.config.dataset.name,
        "task": run.task.kind,
        "classes": ", ".join(run.task.classes),
        SCENES["val"]: run.data["fingerprint"]["val"],
    },
    "data or splits (training)": lambda run: {
        SCENES["train"]: run.data["fingerprint"]["train"],
        **{f"{name} of the images": ", ".join(f"{x:.5g}" for x in run.data[name]) for name in ("mean", "std")},
    },
    "numbers of steps": lambda run: {"steps": str(run.summary["steps"])},
    "code": lambda run: {
        "rsseg": run.origin["rsseg"],
        "code": f"{run.origin['git']['commit']}{' and uncommitted changes' * bool(run.origin['git']['changed'])}",
    },
    "libraries": lambda run: run.origin["libraries"],
}
"""What runs must have in common, in words. Other validation data can't be compared at all, the rest if asked."""


@dataclass(frozen=True)
class Comparison:
    """Runs that can be compared.

    Attributes:
        runs: One per loss and seed, ``[losses][seeds]``.
        left_out: The runs that are not among them.
        rates: By loss, the learning rate that the search seeds chose, and all that were tried; empty without a search.
        design: The settings that the rows differ in because the sweep varies them, but for rates that were searched.
        unfair: What else the rows differ in, kept because that was asked for.
    """

    runs: list[list[Run]]
    left_out: list[LeftOut]
    rates: dict[str, tuple[float, list[float]]]
    design: list[str]
    unfair: list[str]

    @property
    def labels(self) -> list[str]:
        """The losses."""
        return [row[0].label for row in self.runs]

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every loss."""
        return [run.seed for run in self.runs[0]]

    @property
    def all_runs(self) -> list[Run]:
        """The runs of all losses."""
        return [run for row in self.runs for run in row]


@dataclass
class Selection:
    """The runs that may still be compared, and those that are left out."""

    runs: list[Run]
    left_out: list[LeftOut]

    def drop(self, reasons: Mapping[Path, Reason]) -> None:
        """Leave out the runs in some folders."""
        losses = {run.folder: run.loss for run in self.runs}
        self.left_out += [LeftOut(folder, *reason, losses[folder]) for folder, reason in reasons.items()]
        self.runs = [run for run in self.runs if run.folder not in reasons]


def gather(
    places: Sequence[Path], keep_unfair: bool = False, metric: str = "", without: Sequence[str] = (), head: str = ""
) -> Comparison:
    """Find runs and keep those that can be compared.

    Args:
        places: Run folders, or folders that hold them.
        keep_unfair: Compare runs of other training data, steps, code or settings all the same.
        metric: By which score learning rates that were searched are chosen, see `rsseg.compare.measures.measures`; empty:
            `Task.score`.
        without: As for `rsseg.compare.findings.Findings`.
        head: The head to compare, of the runs that have it; empty: the first of each run.

    Raises:
        InputError: If nothing can be compared, or it is not clear which of several kinds of runs is meant.
    """
    folders, left_out = find_runs(places)
    chosen = with_head(folders, head)
    chosen.left_out += left_out
    drop_unscored(chosen)
    for number, fact in enumerate(FACTS.values()):
        if number == 0 or not keep_unfair:
            chosen.drop(minority(chosen.runs, fact, optional=number > 0))
    design = by_design(chosen.runs)
    if not keep_unfair:
        keys = [key for key in differing(chosen.runs) if key not in design]
        chosen.drop(minority(chosen.runs, lambda run: {key: run.settings.get(key, "none") for key in keys}, optional=True))
    drop_unrecorded(chosen)
    set_labels(chosen.runs)
    rates: dict[str, tuple[float, list[float]]] = {}
    if any(run.searching for run in chosen.runs):
        rates = pick_rates(chosen.runs, metric or chosen.runs[0].task.score, without)
        keep_reporting(chosen, rates)
    chosen.runs.sort(key=lambda run: str(run.summary["finished"]))
    chosen.drop(older(chosen.runs))
    grid = crossed(chosen)
    kept = [run for row in grid for run in row]
    searched = [key for key in design if rates and follows(column(kept, key), [[run.rate for run in kept]])]
    unlike = [key for key in differing(kept) if key not in ("steps", *searched)]
    unequal = [name for name, fact in FACTS.items() if len({json.dumps(fact(run)) for run in kept}) > 1]
    return Comparison(
        runs=grid,
        left_out=chosen.left_out,
        rates=rates,
        design=[key for key in unlike if key in design],
        unfair=unequal + [key for key in unlike if key not in design],
    )


def with_head(folders: Sequence[Path], head: str) -> Selection:
    """The runs that have a head, and why the others are left out.

    Raises:
        InputError: If none has it.
    """
    runs, lacking = [], dict[Path, NoSuchHeadError]()
    for folder in folders:
        try:
            runs.append(Run(folder, head))
        except NoSuchHeadError as error:
            lacking[folder] = error
    if not runs:
        heads = dict.fromkeys(name for error in lacking.values() for name in error.heads)
        raise InputError(f"head={head}{nearest(head, heads)}: the runs have {', '.join(heads)}")
    left_out = [
        LeftOut(folder, f"it has no head {head}", f"compare it by a head that it has: {', '.join(error.heads)}")
        for folder, error in lacking.items()
    ]
    return Selection(runs, left_out)


def drop_unscored(chosen: Selection) -> None:
    """Leave out runs whose IoU, or RMSE, is NaN.

    Raises:
        InputError: If none is left.
    """
    task, reasons = chosen.runs[0].task, {}
    for run in chosen.runs:
        if np.isnan(run.summary[run.task.score]):
            why = f"its {run.task.score_name} is NaN: {_nothing(run.task)} its validation scenes"
            reasons[run.folder] = (why, SPLIT_WITH_SOME)
    chosen.drop(reasons)
    if not chosen.runs:
        raise InputError(f"no run has an {task.score_name}: {_nothing(task)} the validation scenes; {SPLIT_WITH_SOME}")


def _nothing(task: Task) -> str:
    return "no value is known, or a prediction is not finite, in" if task.score_of == "value" else "no class occurs in"


def drop_unrecorded(chosen: Selection) -> None:
    """Leave out runs that have diverged, or lack records or those of their best checkpoint; if most lack these, all do without.

    Raises:
        InputError: If all have diverged.
    """
    lost = {run.folder: run.records.crossed.lost for run in chosen.runs if run.records and run.records.crossed}
    why = f"{DIVERGED}: {{}} pixels of its best checkpoint have logits that are not finite"
    diverged = {folder: (why.format(many), LOWER_RATE) for folder, many in lost.items() if many}
    if len(diverged) == len(chosen.runs):
        folder, (why, remedy) = next(iter(diverged.items()))
        raise InputError(f"all {len(diverged)} runs have diverged, so none is compared. {folder}: {why}; {remedy}")
    chosen.drop(diverged)
    lacking = {run.folder: run.unrecorded for run in chosen.runs if run.unrecorded}
    if 2 * len(lacking) > len(chosen.runs):
        for run in chosen.runs:
            run.records = None
        return
    chosen.drop({folder: (f"{why}, unlike others", remedy) for folder, (why, remedy) in lacking.items()})
    reason = ("it has no records of its chosen checkpoints (records/crossed.npz), unlike others", "train it again")
    unfinished = {run.folder: reason for run in chosen.runs if run.recorded.crossed is None and not run.task.real}
    if 2 * len(unfinished) > len(chosen.runs):
        for run in chosen.runs:
            run.records = replace(run.recorded, crossed=None)
    else:
        chosen.drop(unfinished)


def minority(runs: Sequence[Run], fact: Fact, optional: bool) -> dict[Path, Reason]:
    """The runs that most others do not share a fact with; `optional`: they can be compared if that is asked for.

    Raises:
        InputError: If there are as many runs of one kind as of another.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(fact(run)), []).append(run)
    ordered = sorted(groups.values(), key=len, reverse=True)
    told = [fact(group[0]) for group in ordered]
    way_out = "name the folders of one kind" + (", or compare them all the same with unfair=keep" if optional else "")
    if len(ordered) > 1 and len(ordered[0]) == len(ordered[1]):
        unlike = [key for key in dict.fromkeys(key for one in told for key in one) if len({one.get(key) for one in told}) > 1]
        kinds = "\n".join(_kind(group, one, unlike) for group, one in zip(ordered, told, strict=True))
        raise InputError(f"these runs have different {', '.join(unlike)} and can't be compared; {way_out}:\n{kinds}")
    return {
        run.folder: (f"different {_difference(own, told[0])}", way_out)
        for own, group in zip(told[1:], ordered[1:], strict=True)
        for run in group
    }


def _kind(group: list[Run], own: dict[str, str], unlike: Sequence[str]) -> str:
    name = f"{len(group)} runs such as {group[0].folder}" if len(group) > 1 else str(group[0].folder)
    told = ", ".join(f"{key} {own.get(key, 'none')}" for key in unlike if key not in SCENES.values())
    return f"  - {name}: {_brief(told)}".rstrip(": ")


def _difference(own: dict[str, str], usual: dict[str, str]) -> str:
    told = []
    for key in own | usual:
        if own.get(key) != usual.get(key):
            both = f" ({own.get(key, 'none')}, the others {usual.get(key, 'none')})"
            told.append(key + both * (key not in SCENES.values()))
    return _brief(", ".join(told))


def _brief(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def pick_rates(runs: Sequence[Run], metric: str, without: Sequence[str] = ()) -> dict[str, tuple[float, list[float]]]:
    """Each loss's learning rate with the best mean score over the search seeds, and all rates tried.

    Rates are compared on the seeds that all of a loss's rates were tried with.

    Raises:
        InputError: If a loss has no such run, or no seed with which all its rates were tried.
    """
    rates = {}
    for label in sorted({run.label for run in runs}):
        scores = {(run.rate, run.seed): _score(run, metric, without) for run in runs if run.searching and run.label == label}
        tried = sorted({rate for rate, _ in scores})
        seeds = [seed for seed in sorted({seed for _, seed in scores}) if all((rate, seed) in scores for rate in tried)]
        if not seeds:
            raise InputError(
                f"{label} has no search seed with which all its learning rates {tried} were finished: finish the sweep"
            )
        means = {rate: float(np.mean([scores[rate, seed] for seed in seeds])) for rate in tried}
        rates[label] = (max(means, key=means.__getitem__), tried)
    return rates


def _score(run: Run, metric: str, without: Sequence[str]) -> float:
    """A run's score, as ``summary.json`` has it, or from its records; more is better, so an error has a minus.

    Raises:
        InputError: If neither has it.
    """
    measure = measures(run.task, without or run.without, metric)[metric]
    sums = measure.sums(run.records) if run.records else None
    if metric in run.summary and not without:
        score = float(run.summary[metric])
    elif sums is not None and not np.isnan(sums).any():
        score = float(measure.score(sums.sum(0)))
    else:
        way_out = " or ".join(run.task.class_scores)
        raise InputError(
            f"metric={metric}: {run.folder} was not scored by it, so no learning rate can be chosen; take {way_out}"
        )
    return score if measure.higher_is_better else -score


def keep_reporting(chosen: Selection, rates: Mapping[str, tuple[float, list[float]]]) -> None:
    """Keep the runs on the other seeds, at the chosen rates; of each loss without any the search runs at its rate are named.

    Raises:
        InputError: If there are none.
    """
    at_rate = [run for run in chosen.runs if run.label in rates and run.rate == rates[run.label][0]]
    kept = [run for run in at_rate if not run.searching]
    if not kept:
        raise InputError(f"no run of a seed below {SEARCH_SEED} has a learning rate that the search chose: finish the sweep")
    reason = ("no seed reports on its loss at the learning rate that the search chose", "finish the sweep")
    reported = {run.label for run in kept}
    chosen.drop({run.folder: reason for run in at_rate if run.label not in reported})
    chosen.runs = kept


def older(runs: Sequence[Run]) -> dict[Path, Reason]:
    """Of runs in the order in which they were finished, those of which another one with the same label and seed came later."""
    newest: dict[tuple[str, int], Run] = {}
    reasons = {}
    for run in runs:
        before = newest.get((run.label, run.seed))
        if before:
            why = f"{run.folder} has the same loss and seed and was finished later"
            reasons[before.folder] = (why, "name one of them alone")
        newest[run.label, run.seed] = run
    return reasons


def crossed(chosen: Selection) -> list[list[Run]]:
    """The runs by loss and seed, ``[losses][seeds]``; those that other losses lack a seed of are left out.

    Raises:
        InputError: If there are several losses, but no two of them share a seed.
    """
    names, seeds = sorted({run.label for run in chosen.runs}), sorted({run.seed for run in chosen.runs})
    found = {(run.label, run.seed): run for run in chosen.runs}
    there = [[(label, seed) in found for seed in seeds] for label in names]
    plain = {run.label for run in chosen.runs if run.plain}
    rows, columns = largest_grid(there, [label in plain for label in names])
    if rows.sum() == 1 < len(names):
        listed = "\n".join(f"  - {name}: {', '.join(str(s) for s in seeds if (name, s) in found)}" for name in names)
        raise InputError(f"no two losses share a seed, so none can be compared; train them on the same seeds:\n{listed}")
    kept = [name for name, keep in zip(names, rows, strict=True) if keep]
    shared = [seed for seed, keep in zip(seeds, columns, strict=True) if keep]
    remedy = "train the other losses on it, or this one on their seeds"
    chosen.drop(
        {
            run.folder: (f"not every loss has seed {run.seed}", remedy)
            for run in chosen.runs
            if run.label not in kept or run.seed not in shared
        }
    )
    return [[found[label, seed] for seed in shared] for label in kept]


def largest_grid(present: ArrayLike, plain: Sequence[bool] = ()) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The losses and seeds to keep so that every loss has every seed and most runs are left: bool ``[losses]``, ``[seeds]``.

    Two losses at least are kept, and plain cross-entropy among them, wherever they share a seed; of equally many runs, those
    of more losses.

    Args:
        present: bool ``[losses, seeds]``, which runs there are.
        plain: ``[losses]``, which are plain cross-entropy.

    Example:
        >>> rows, columns = largest_grid([[1, 1, 1], [1, 1, 1], [1, 0, 0]])
        >>> rows.tolist(), columns.tolist()
        ([True, True, False], [True, True, True])
        >>> largest_grid([[1, 1, 1], [1, 1, 1], [1, 0, 0]], plain=[False, False, True])[1].tolist()
        [True, False, False]
    """
    there = np.asarray(present, dtype=bool)
    shared: set[tuple[bool, ...]] = set()  # the seeds that some losses share; all losses that have these seeds are kept
    for row in there:
        shared |= {tuple((row & other).tolist()) for other in shared} | {tuple(row.tolist())}
    keep_plain = np.array([*plain] or [False] * len(there))

    def worth(columns: NDArray[np.bool_]) -> tuple[int, ...]:
        rows = there[:, columns].all(1)
        losses, seeds = int(rows.sum()), int(columns.sum())
        return int(seeds > 0), min(losses, 2), int((rows & keep_plain).any()), losses * seeds, losses

    best = max((np.array(columns) for columns in sorted(shared, reverse=True)), key=worth)
    return np.asarray(there[:, best].all(1)), best
