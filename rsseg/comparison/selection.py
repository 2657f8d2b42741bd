"""The selection of runs that can be compared: one run per row and seed; runs that are left out are named.

A row is a combination of the settings that the plan varies, and has a run of every seed. Other settings may differ only if
the user allows it. In a sweep over learning rates, the search seeds choose each row's rate, the one with the best mean score,
and the other seeds report the score. In a cross-validation, the runs of all folds are pooled into one over all scenes.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rsseg.comparison.measures import measures
from rsseg.comparison.plans import differences, differing, one_plan, plans_of, table_of, unlike, validated_on
from rsseg.comparison.records import concatenate
from rsseg.comparison.runs import NO_HEAD, LeftOut, Run, find_runs, grouped
from rsseg.config.folder import RunFolder
from rsseg.config.plan import Plan, common
from rsseg.contract import InputError

Rates = dict[str, tuple[float, list[float]]]
"""By row, the learning rate that the search seeds chose, and all rates that were tried."""


@dataclass(frozen=True)
class Comparison:
    """Runs that can be compared."""

    runs: list[list[Run]]  # one per row and seed
    left_out: list[LeftOut]  # the runs that are not compared
    rates: Rates  # empty without a search
    plan: Plan  # the plan of these runs
    design: list[str]  # the settings that the plan varies between the rows, except searched learning rates
    different: list[str]  # further settings in which the rows differ, with allow_different=true
    failed: dict[str, int]  # by row, how many runs have diverged or have no score; includes rows that lost all their runs
    unfinished: dict[str, int]  # by row, how many planned runs are not finished

    @property
    def labels(self) -> list[str]:
        """The names of the rows."""
        return [row[0].label for row in self.runs]

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every row."""
        return [run.seed for run in self.runs[0]]

    @property
    def all_runs(self) -> list[Run]:
        """The runs of all rows."""
        return [run for row in self.runs for run in row]


def gather(
    places: Sequence[Path], allow_different: bool = False, metric: str = "", without: Sequence[str] = (), head: str = ""
) -> Comparison:
    """Find runs and keep those that can be compared.

    Args:
        places: Run folders, or folders that hold them.
        allow_different: Compare runs although they differ in settings that no plan varies.
        metric: The measure that chooses searched learning rates, see `rsseg.comparison.measures.measures`; empty:
            `Task.score`.
        without: Classes that means leave out; empty: those that the runs leave out.
        head: The head to compare, of the runs that have it; empty: the first of each run.

    Raises:
        InputError: If nothing can be compared, or the runs differ in settings that no plan varies and that is not allowed.
    """
    everything = read_runs(places, head)
    begun = [run for run in everything if not (run.left and run.left.why.startswith(NO_HEAD))]
    runs = [run for run in begun if not run.left]
    refuse_other_data(runs)
    plans = plans_of(begun)
    different = differences(runs, plans)
    if len(different.columns) and not allow_different:
        raise InputError(
            "these runs differ in settings that their plan does not vary, so a difference may not be due to the loss:\n"
            f"{table_of(different)}\nadd allow_different=true to compare them all the same, or name the folders of one kind"
        )
    plan = one_plan(begun, plans, places, different)
    labels = plan.labels
    for run in begun:
        run.label = labels[run.folder]
    rates, by_rate = Rates(), list[str]()
    if plan.search_seeds:
        by_rate = [key for row in grouped(runs, lambda run: run.label).values() for key in differing(row)]
        searching = [run for run in runs if run.seed in plan.search_seeds]
        rates = pick_rates(searching, metric or runs[0].task.score, without)
        runs = keep_reporting(runs, rates, plan.search_seeds)
    runs = drop_superseded(runs)
    grid = keep_grid(pool_folds(runs, plan.folds) if plan.folds else runs)
    compared = [run for row in grid for run in row]
    told_apart = different.loc[[run.folder for pooled in compared for run in pooled.folds or [pooled]]].nunique() > 1
    return Comparison(
        runs=grid,
        left_out=[run.left for run in everything if run.left],
        rates=rates,
        plan=plan,
        design=[key for key in differing(compared) if key not in different and key not in by_rate],
        different=list(different.columns[told_apart]),
        failed=dict(Counter(run.label for run in begun if run.failed)),
        unfinished=dict(Counter(label for folder, label in labels.items() if not RunFolder(folder).finished)),
    )


def read_runs(places: Sequence[Path], head: str) -> list[Run]:
    """All runs in the given folders; an InputError if none can be compared."""
    runs, which = [Run(folder, head) for folder in find_runs(places)], ", ".join(map(str, places))
    if not runs:
        raise InputError(f"no run in {which}: train first")
    if all(run.left for run in runs):
        first = next((run.left for run in runs if not run.failed), runs[0].left)
        assert first
        raise InputError(f"no run in {which} can be compared ({len(runs)} begun). {first.run}: {first.why}; {first.remedy}")
    return runs


def refuse_other_data(runs: Sequence[Run]) -> None:
    """Refuse runs that are scored on different scenes, labels or areas, which can't be compared at all."""
    different = unlike(runs, validated_on)
    if len(different.columns):
        raise InputError(
            f"these runs were scored on different data and can't be compared:\n{table_of(different)}\n"
            "name the folders of one kind"
        )


def pick_rates(runs: Sequence[Run], metric: str, without: Sequence[str] = ()) -> Rates:
    """Each row's learning rate with the best mean score over the search seeds that have runs at all of the row's rates."""
    rates = {}
    for label, own in sorted(grouped(runs, lambda run: run.label).items()):
        rows = [(run.rate, f"{run.seed} {run.fold}", _score(run, metric, without)) for run in own]
        scores = pd.DataFrame(rows, columns=["rate", "on", "score"]).pivot_table(index="rate", columns="on", values="score")
        complete = scores.dropna(axis=1)
        if complete.empty:
            tried = [*scores.index]
            raise InputError(
                f"{label} has no search seed with which all its learning rates {tried} were finished: finish the sweep"
            )
        rates[label] = (float(complete.mean(axis=1).idxmax()), [float(rate) for rate in scores.index])
    return rates


def _score(run: Run, metric: str, without: Sequence[str]) -> float:
    """A run's score from its records; more is better, so errors are negated."""
    measure = measures(run.task, without or run.without, metric)[metric]
    sums = measure.recorded(run.records)
    if sums is None:
        raise InputError(f"metric={metric}: {run.folder} was not scored by it, so no learning rate can be chosen")
    return measure.sign * float(measure.average(sums.sum(0)))


def keep_reporting(runs: Sequence[Run], rates: Rates, search_seeds: Collection[int]) -> list[Run]:
    """The runs of reporting seeds at the chosen rates; a row without such runs is left out with its search runs."""
    at_rate = [run for run in runs if run.label in rates and run.rate == rates[run.label][0]]
    kept = [run for run in at_rate if run.seed not in search_seeds]
    if not kept:
        raise InputError("no run of a seed that reports has a learning rate that the search chose: finish the sweep")
    reported = {run.label for run in kept}
    for run in at_rate:
        if run.label not in reported:
            run.leave_out("no seed reports on its loss at the learning rate that the search chose", "finish the sweep")
    return kept


def drop_superseded(runs: Sequence[Run]) -> list[Run]:
    """Leave out all runs of the same row, seed and fold except the one that finished last."""
    newest: dict[tuple[object, ...], Run] = {}
    for run in sorted(runs, key=lambda run: str(run.summary["finished"])):
        place = run.label, run.seed, run.fold
        if place in newest:
            newest[place].leave_out(f"{run.folder} has the same loss and seed and was finished later", "name one of them alone")
        newest[place] = run
    return list(newest.values())


def pool_folds(runs: Sequence[Run], folds: Collection[str]) -> list[Run]:
    """Pool the runs of each row and seed into one over the scenes of all folds; a seed without all folds is left out."""
    pooled = []
    in_order = sorted(runs, key=lambda run: str(run.fold))
    for parts in grouped(in_order, lambda run: (run.label, run.seed)).values():
        whole = copy.copy(parts[0])
        whole.folds = parts
        missing = set(folds) - {str(run.fold) for run in parts}
        if missing:
            why = f"its seed lacks fold {', '.join(sorted(missing))}"
            whole.leave_out(why, "finish the sweep, and train diverged runs again")
            continue
        pooled.append(whole)
        if len(parts) == 1:
            continue
        data, summaries = [run.data for run in parts], [run.summary for run in parts]
        names = {split: dict.fromkeys(name for each in data for name in each["scenes"][split]) for split in data[0]["scenes"]}
        whole.data = {
            "fingerprint": {split: " ".join(each["fingerprint"][split] for each in data) for split in data[0]["fingerprint"]},
            "scenes": {split: list(own) for split, own in names.items()},
        }
        whole.summary = {
            "steps": max(each["steps"] for each in summaries),
            "seconds": sum(each["seconds"] for each in summaries),
        }
        whole.settings, whole.records = common([run.settings for run in parts]), concatenate([run.records for run in parts])
    if not pooled:
        raise InputError(f"no seed of any row has all folds, {', '.join(folds)}: finish the sweep")
    return pooled


def keep_grid(runs: Sequence[Run]) -> list[list[Run]]:
    """The largest complete grid of runs, ``[losses][seeds]``, see `full_grid`; the other runs are left out."""
    table = pd.Series(list(runs), index=pd.MultiIndex.from_tuples([(run.label, run.seed) for run in runs])).unstack()
    kept = full_grid(table.notna())
    if len(kept) == 1 < len(table):
        each = "\n".join(f"  - {name}: {', '.join(map(str, row.dropna().index))}" for name, row in table.iterrows())
        raise InputError(f"these losses share too few seeds to be compared; train them on the same seeds:\n{each}")
    for run in runs:
        if run.label not in kept.index:
            why = f"its loss has not all seeds that are compared, {', '.join(map(str, kept.columns))}"
            run.leave_out(why, "train it on their seeds")
        elif run.seed not in kept.columns:
            run.leave_out("not every loss that is compared has its seed", "train the other losses on it")
    return table.loc[kept.index, kept.columns].to_numpy().tolist()


def full_grid(present: pd.DataFrame) -> pd.DataFrame:
    """The part of a table ``[losses, seeds]`` without gaps: the rows or columns with most gaps are removed first.

    Example:
        >>> full_grid(pd.DataFrame([[True, True], [True, True], [True, False]], ["ce", "dice", "focal"], [1, 2])).shape
        (2, 2)
    """
    while not present.all(axis=None):
        by_loss, by_seed = present.mean(axis=1), present.mean(axis=0)
        present = present.drop(by_loss.idxmin()) if by_loss.min() < by_seed.min() else present.drop(columns=by_seed.idxmin())
    return present
