"""Which runs are compared: rows by what the plan varies, with the same seeds; whatever is left out is named.

Runs are compared where rows and seeds are crossed: every row with every seed. What they differ in beside loss and seed is
varied by their plan, or asked for. In a sweep over learning rates some seeds choose each row's rate, the one with the best mean
score, and the others report on it. In a cross-validation the runs of all folds are one, over the scenes of all.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.comparison.measures import measures
from rsseg.comparison.plans import differences, differing, one_plan, plans_of, table_of, unlike, validated_on
from rsseg.comparison.records import concatenate
from rsseg.comparison.runs import LeftOut, NoSuchHeadError, Run, find_runs, grouped, is_cross_entropy
from rsseg.config.folder import RunFolder
from rsseg.config.plan import Plan, common, within
from rsseg.contract import InputError, nearest

NO_HEAD = "it has no head"
"""How the reason begins why a run of other heads is left out."""

REBALANCING = ("sampler", "augment", "balancing")
"""Where recipes live beside the loss: with one of them cross-entropy is not plain any more."""

Rates = dict[str, tuple[float, list[float]]]
"""By row, the learning rate that the search seeds chose, and all that were tried."""


@dataclass(frozen=True)
class Comparison:
    """Runs that can be compared."""

    runs: list[list[Run]]  # one per row and seed
    left_out: list[LeftOut]  # the runs that are not among them
    rates: Rates  # empty without a search
    plan: Plan  # of these runs
    design: list[str]  # the settings that the plan varies between the rows, but for rates that were searched
    different: list[str]  # what else the rows differ in, compared because that was asked for
    failed: dict[str, int]  # by row, how many runs have diverged or have no score; rows that lost all their runs too
    unfinished: dict[str, int]  # by row, how many planned runs are not finished

    @property
    def labels(self) -> list[str]:
        """What the rows are called."""
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
        allow_different: Compare runs that differ in what no plan varies all the same.
        metric: By which score learning rates that were searched are chosen, see `rsseg.comparison.measures.measures`; empty:
            `Task.score`.
        without: As for `rsseg.comparison.findings.Findings`.
        head: The head to compare, of the runs that have it; empty: the first of each run.

    Raises:
        InputError: If nothing can be compared, or the runs differ in what no plan varies and that was not asked for.
    """
    begun, headless = read_runs(places, head)
    runs = [run for run in begun if not run.left]
    refuse_other_data(runs)
    plans = plans_of(begun)
    different = differences(runs, plans)
    if len(different.columns) and not allow_different:
        raise InputError(
            "these runs differ in what their plan does not vary, so that their losses are not told apart from it:\n"
            f"{table_of(different)}\nadd allow_different=true to compare them all the same, or name the folders of one kind"
        )
    plan = one_plan(begun, plans, places, different)
    labels = plan.labels
    for run in begun:
        run.label = labels[run.folder]
    set_plain(runs)
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
        left_out=[*headless, *(run.left for run in begun if run.left)],
        rates=rates,
        plan=plan,
        design=[key for key in differing(compared) if key not in different and key not in by_rate],
        different=list(different.columns[told_apart]),
        failed=dict(Counter(run.label for run in begun if run.failed)),
        unfinished=dict(Counter(label for folder, label in labels.items() if not RunFolder(folder).finished)),
    )


def read_runs(places: Sequence[Path], head: str) -> tuple[list[Run], list[LeftOut]]:
    """All runs in some folders that have a head, and those that lack it; refused if none can be compared."""
    runs, headless = list[Run](), dict[Path, Collection[str]]()
    for folder in find_runs(places):
        try:
            runs.append(Run(folder, head))
        except NoSuchHeadError as error:
            headless[folder] = error.heads
    if not runs and headless:
        known = dict.fromkeys(name for heads in headless.values() for name in heads)
        raise InputError(f"head={head}{nearest(head, known)}: the runs have {', '.join(known)}")
    if not runs:
        raise InputError(f"no run in {', '.join(map(str, places))}: train first")
    if all(run.left for run in runs):
        first = next((run.left for run in runs if not run.failed), runs[0].left)
        assert first
        which = ", ".join(map(str, places))
        raise InputError(f"no run in {which} can be compared ({len(runs)} begun). {first.run}: {first.why}; {first.remedy}")
    remedy = "compare it by a head that it has: "
    return runs, [LeftOut(folder, f"{NO_HEAD} {head}", remedy + ", ".join(heads)) for folder, heads in headless.items()]


def refuse_other_data(runs: Sequence[Run]) -> None:
    """Refuse runs that are scored on different scenes, labels or areas, which can't be compared at all."""
    different = unlike(runs, validated_on)
    if len(different.columns):
        raise InputError(
            f"these runs were scored on different data and can't be compared:\n{table_of(different)}\n"
            "name the folders of one kind"
        )


def set_plain(runs: Sequence[Run]) -> None:
    """Say which runs are cross-entropy and no more: where runs are rebalanced in different ways, those that are not at all."""
    rebalanced = any(within(key, REBALANCING) for key in differing(runs))
    for run in runs:
        usual = {"sampler._target_": "Uniform", "balancing._target_": "Fixed"}
        ordinary = all(run.settings.get(key, name).endswith(name) for key, name in usual.items())
        pasted = any(within(key, ["augment.paste"]) for key in run.settings)
        run.is_baseline = is_cross_entropy(run.losses) and not (rebalanced and (pasted or not ordinary))


def pick_rates(runs: Sequence[Run], metric: str, without: Sequence[str] = ()) -> Rates:
    """Each row's learning rate with the best mean score over the search seeds that all of its rates were tried with."""
    rates = {}
    for label in sorted({run.label for run in runs}):
        scores = {(run.rate, (run.seed, run.fold)): _score(run, metric, without) for run in runs if run.label == label}
        tried = sorted({rate for rate, _ in scores})
        seeds = [seed for seed in dict.fromkeys(seed for _, seed in scores) if all((rate, seed) in scores for rate in tried)]
        if not seeds:
            raise InputError(
                f"{label} has no search seed with which all its learning rates {tried} were finished: finish the sweep"
            )
        means = {rate: float(np.mean([scores[rate, seed] for seed in seeds])) for rate in tried}
        rates[label] = (max(means, key=means.__getitem__), tried)
    return rates


def _score(run: Run, metric: str, without: Sequence[str]) -> float:
    """A run's score, as ``summary.json`` has it, or from its records; more is better, so an error has a minus."""
    measure = measures(run.task, without or run.without, metric)[metric]
    if metric in run.summary and not without:
        return measure.sign * float(run.summary[metric])
    sums = measure.recorded(run.records)
    if sums is None:
        way_out = " or ".join(run.task.class_scores)
        raise InputError(
            f"metric={metric}: {run.folder} was not scored by it, so no learning rate can be chosen; take {way_out}"
        )
    return measure.sign * float(measure.average(sums.sum(0)))


def keep_reporting(runs: Sequence[Run], rates: Rates, search_seeds: Collection[int]) -> list[Run]:
    """The runs on the other seeds, at the chosen rates; of each row without any the search runs at its rate are left out."""
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
    """Of runs of the same row, seed and fold leave out all but the one that was finished last."""
    newest: dict[tuple[object, ...], Run] = {}
    for run in sorted(runs, key=lambda run: str(run.summary["finished"])):
        place = run.label, run.seed, run.fold
        if place in newest:
            newest[place].leave_out(f"{run.folder} has the same loss and seed and was finished later", "name one of them alone")
        newest[place] = run
    return list(newest.values())


def pool_folds(runs: Sequence[Run], folds: Collection[str]) -> list[Run]:
    """The runs of each row and seed as one over the scenes of all folds; a seed that lacks a fold is left out."""
    pooled = []
    in_order = sorted(runs, key=lambda run: str(run.fold))
    for parts in grouped(in_order, lambda run: (run.label, run.seed)).values():
        whole = copy.copy(parts[0])
        whole.folds = parts
        missing = set(folds) - {str(run.fold) for run in parts}
        if missing:
            why = f"its seed lacks fold {', '.join(sorted(missing))}"
            whole.leave_out(why, "finish the sweep, and train again what has diverged")
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
    """The runs by loss and seed, ``[losses][seeds]``; those that other losses lack a seed of are left out."""
    names, seeds = sorted({run.label for run in runs}), sorted({run.seed for run in runs})
    found = {(run.label, run.seed): run for run in runs}
    there = [[(label, seed) in found for seed in seeds] for label in names]
    plain = {run.label for run in runs if run.is_baseline}
    rows, columns = largest_grid(there, [label in plain for label in names])
    if rows.sum() == 1 < len(names):
        listed = "\n".join(f"  - {name}: {', '.join(str(s) for s in seeds if (name, s) in found)}" for name in names)
        raise InputError(f"no two losses share a seed, so none can be compared; train them on the same seeds:\n{listed}")
    kept = [name for name, keep in zip(names, rows, strict=True) if keep]
    shared = [seed for seed, keep in zip(seeds, columns, strict=True) if keep]
    for run in runs:
        if run.label not in kept or run.seed not in shared:
            why = f"its loss has not all seeds that are compared, {', '.join(map(str, shared))}"
            why = "not every loss that is compared has its seed" if run.label in kept else why
            run.leave_out(why, "train the other losses on it, or this one on their seeds")
    return [[found[label, seed] for seed in shared] for label in kept]


def largest_grid(present: ArrayLike, plain: Sequence[bool] = ()) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The losses and seeds to keep so that every loss has every seed and most runs are left: bool ``[losses]``, ``[seeds]``.

    Of runs that are `present`, bool ``[losses, seeds]``, two losses at least are kept, and `plain` cross-entropy among them,
    wherever they share a seed; of equally many runs, those of more losses.

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
