"""Which runs can be compared with which: what differs but must not is named and left out.

Runs are compared where losses and seeds are crossed: every loss with every seed, on the same data, for equally many steps,
by the same code, and with the same settings but for what the sweep varies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsseg.compare.crossing import crossed, latest
from rsseg.compare.rates import pick_rates, reporting
from rsseg.compare.recipes import REBALANCING, by_design, column, differing, follows, is_cross_entropy, labels, within
from rsseg.compare.runs import DIVERGED, LOWER_RATE, SEARCH_SEED, LeftOut, Run, find_runs, read_runs
from rsseg.contract import InputError


@dataclass(frozen=True)
class Comparison:
    """Runs that can be compared.

    Attributes:
        labels: The losses.
        seeds: The seeds, the same for every loss.
        runs: One per loss and seed, ``[losses][seeds]``.
        left_out: The runs that are not among them.
        rates: By loss, the learning rate that the search seeds chose, and all that were tried; empty without a search.
        design: The settings that the rows differ in because the sweep varies them, but for rates that were searched.
        unfair: What else the rows differ in, kept because that was asked for.
    """

    labels: list[str]
    seeds: list[int]
    runs: list[list[Run]]
    left_out: list[LeftOut]
    rates: dict[str, tuple[float, list[float]]]
    design: list[str]
    unfair: list[str]


def gather(places: Sequence[Path], keep_unfair: bool = False, metric: str = "iou") -> Comparison:
    """Find runs and keep those that can be compared.

    Args:
        places: Run folders, or folders that hold them.
        keep_unfair: Compare runs of other training data, steps, code or settings all the same.
        metric: By which score learning rates that were searched are chosen.

    Raises:
        InputError: If nothing can be compared, or it is not clear which of several kinds of runs is meant.
    """
    finished, left_out = find_runs(places)
    runs, dropped = scored(read_runs(finished))
    left_out += dropped
    runs, dropped = alike(runs, keep_unfair)
    left_out += dropped
    design = by_design(runs)
    if not keep_unfair:
        runs, dropped = same_settings(runs, design)
        left_out += dropped
    runs, dropped = recorded(runs)
    left_out += dropped
    runs = named(runs)
    rates: dict[str, tuple[float, list[float]]] = {}
    if any(run.searching for run in runs):
        rates = pick_rates(runs, metric)
        runs, dropped = reporting(runs, rates)
        left_out += dropped
    runs, dropped = latest(runs)
    left_out += dropped
    grid, dropped = crossed(runs)
    kept = [run for row in grid for run in row]
    searched = [key for key in design if rates and follows(column(kept, key), [[run.rate for run in kept]])]
    unlike = [key for key in differing(kept) if key not in ("steps", *searched)]
    return Comparison(
        labels=[row[0].label for row in grid],
        seeds=[run.seed for run in grid[0]],
        runs=grid,
        left_out=left_out + dropped,
        rates=rates,
        design=[key for key in unlike if key in design],
        unfair=[name for name, fact in FACTS.items() if len({json.dumps(fact(run)) for run in kept}) > 1]
        + [key for key in unlike if key not in design],
    )


def named(runs: list[Run]) -> list[Run]:
    """The runs with their rows' labels, which of them a learning rate is searched on, and which are plain cross-entropy."""
    searched = len({run.rate for run in runs}) > 1 and len({run.seed >= SEARCH_SEED for run in runs}) == 2
    rows = labels(runs, searched)
    return [
        replace(
            run,
            label=label,
            searching=searched and run.seed >= SEARCH_SEED,
            plain=is_cross_entropy(run.losses) and not any(within(word.split("=")[0], REBALANCING) for word in label.split()),
        )
        for run, label in zip(runs, rows, strict=True)
    ]


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
    """Leave out runs that have diverged, or lack records or those of their best checkpoint; if most lack these, all do without.

    Raises:
        InputError: If all have diverged.
    """
    left_out = [found for run in runs if (found := _diverged(run))]
    runs = [run for run in runs if not _diverged(run)]
    if not runs:
        first = left_out[0]
        raise InputError(
            f"all {len(left_out)} runs have diverged, so none is compared. {first.run}: {first.why}; {first.remedy}"
        )
    for what in (_lacks_records, _lacks_best):
        lacking = [(run, found) for run in runs if (found := what(run))]
        if 2 * len(lacking) <= len(runs):
            left_out += [replace(found, why=f"{found.why}, unlike others") for _, found in lacking]
            runs = [run for run in runs if not what(run)]
        elif what is _lacks_records:
            return [replace(run, records=None) for run in runs], left_out
        else:
            runs = [replace(run, records=replace(run.records, best=None)) if run.records else run for run in runs]
    return runs, left_out


def _diverged(run: Run) -> LeftOut | None:
    lost = run.records.best.lost if run.records and run.records.best else 0
    why = f"{DIVERGED}: {lost} pixels of its best checkpoint have logits that are not finite"
    return LeftOut(run.folder, why, LOWER_RATE, run.loss) if lost else None


def _lacks_records(run: Run) -> LeftOut | None:
    return run.unrecorded


def _lacks_best(run: Run) -> LeftOut | None:
    if run.records is None or run.records.best is not None:
        return None
    return LeftOut(run.folder, "it has no records of its best checkpoint (records/best.npz)", "train it again")


SCENES = {"train": "training scenes or labels", "val": "validation scenes or labels"}
"""What a fingerprint is of; it says nothing to a reader itself."""

FACTS: dict[str, Callable[[Run], dict[str, str]]] = {
    "data or splits (validation)": lambda run: {
        "dataset": run.config.dataset.name,
        "task": str(run.config.dataset.task),
        "classes": ", ".join(run.config.dataset.classes),
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


def alike(runs: list[Run], keep_unfair: bool) -> tuple[list[Run], list[LeftOut]]:
    """Keep the runs that most others are like, by one of `FACTS` after the other.

    Raises:
        InputError: If there are as many runs of one kind as of another.
    """
    left_out: list[LeftOut] = []
    for number, fact in enumerate(FACTS.values()):
        if number and keep_unfair:
            break
        runs, dropped = _majority(runs, fact, optional=number > 0)
        left_out += dropped
    return runs, left_out


def same_settings(runs: list[Run], design: Sequence[str]) -> tuple[list[Run], list[LeftOut]]:
    """Keep the runs whose settings most others share, but for those that differ by design.

    Raises:
        InputError: If there are as many runs of one kind as of another.
    """
    keys = [key for key in differing(runs) if key not in design]
    texts = {key: dict(zip((run.folder for run in runs), column(runs, key), strict=True)) for key in keys}
    return _majority(runs, lambda run: {key: str(texts[key][run.folder]) for key in keys}, optional=True)


def _majority(runs: list[Run], fact: Callable[[Run], dict[str, str]], optional: bool) -> tuple[list[Run], list[LeftOut]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(fact(run)), []).append(run)
    ordered = sorted(groups.values(), key=len, reverse=True)
    told = [fact(group[0]) for group in ordered]
    way_out = "name the folders of one kind" + (", or compare them all the same with unfair=keep" if optional else "")
    unlike = [key for key in dict.fromkeys(key for one in told for key in one) if len({one.get(key) for one in told}) > 1]
    if len(ordered) > 1 and len(ordered[0]) == len(ordered[1]):
        kinds = "\n".join(_kind(group, one, unlike) for group, one in zip(ordered, told, strict=True))
        raise InputError(f"these runs have different {', '.join(unlike)} and can't be compared; {way_out}:\n{kinds}")
    left_out = [
        LeftOut(run.folder, f"different {_difference(own, told[0])}", way_out)
        for own, group in zip(told[1:], ordered[1:], strict=True)
        for run in group
    ]
    return ordered[0], left_out


def _kind(group: list[Run], own: dict[str, str], unlike: Sequence[str]) -> str:
    name = f"{len(group)} runs such as {group[0].folder}" if len(group) > 1 else str(group[0].folder)
    told = ", ".join(f"{key} {own.get(key, 'none')}" for key in unlike if key not in SCENES.values())
    return f"  - {name}: {_brief(told)}".rstrip(": ")


def _difference(own: dict[str, str], usual: dict[str, str]) -> str:
    keys = [key for key in own | usual if own.get(key) != usual.get(key)]
    told = (
        key if key in SCENES.values() else f"{key} ({own.get(key, 'none')}, the others {usual.get(key, 'none')})"
        for key in keys
    )
    return _brief(", ".join(told))


def _brief(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
