"""Which runs can be compared with which: what differs but must not is named and left out.

Runs are compared where losses and seeds are crossed: every loss with every seed, on the same data, for equally many steps,
by the same code, and with the same settings but for what the sweep varies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsseg.alignment.crossing import crossed, latest
from rsseg.alignment.rates import pick_rates, reporting
from rsseg.alignment.recipes import REBALANCING, by_design, column, differing, follows, is_cross_entropy, labels, within
from rsseg.alignment.runs import SEARCH_SEED, UNUSED, LeftOut, Run, find_runs, read_runs
from rsseg.config.folder import resume_word
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


def gather(places: Sequence[Path], keep_unfair: bool = False) -> Comparison:
    """Find runs and keep those that can be compared.

    Args:
        places: Run folders, or folders that hold them.
        keep_unfair: Compare runs of other training data, steps, code or settings all the same.

    Raises:
        InputError: If nothing can be compared, or it is not clear which of several kinds of runs is meant.
    """
    finished, begun = find_runs(places)
    left_out = [LeftOut(run, "it is not finished", f"go on with python train.py {resume_word(run)}") for run in begun]
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
        rates = pick_rates(runs)
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
    """Leave out runs that lack records, or those of their best checkpoint; where most lack them, the others do without.

    Logits that are not finite are no record: no threshold can be tuned on them.
    """
    left_out: list[LeftOut] = []
    remedy = "train it again with recording on; if it diverged, at a lower learning rate"
    for what in (_lacks_records, _lacks_best):
        why = [what(run) for run in runs]
        lacking = [run for run, reason in zip(runs, why, strict=True) if reason]
        if 2 * len(lacking) <= len(runs):
            left_out += [
                LeftOut(run.folder, f"{reason}; most others have them", remedy)
                for run, reason in zip(runs, why, strict=True)
                if reason
            ]
            runs = [run for run in runs if run not in lacking]
        elif what is _lacks_records:
            return [replace(r, records=None, unrecorded=UNUSED) if r.records else r for r in runs], left_out
        else:
            runs = [replace(run, records=replace(run.records, best=None)) if run.records else run for run in runs]
    return runs, left_out


def _lacks_records(run: Run) -> str:
    return f"it has no records ({run.unrecorded})" if run.records is None else ""


def _lacks_best(run: Run) -> str:
    if run.records is None:
        return ""
    if run.records.best is None:
        return "it has no records of its best checkpoint (records/best.npz)"
    lost = run.records.best.lost
    return f"{lost} pixels of its best checkpoint have logits that are not finite, so it has no use for records" if lost else ""


FACTS: dict[str, Callable[[Run], Any]] = {
    "data or splits (validation)": lambda run: [
        run.config.dataset.name, str(run.config.dataset.task), list(run.config.dataset.classes), run.data["fingerprint"]["val"]
    ],
    "data or splits (training)": lambda run: [
        run.data["fingerprint"]["train"],
        *(f"{name} {', '.join(f'{x:.5g}' for x in run.data[name])}" for name in ("mean", "std")),  # of the images
    ],
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
        runs, dropped = _majority(runs, name, fact, optional=number > 0)
        left_out += dropped
    return runs, left_out


def same_settings(runs: list[Run], design: Sequence[str]) -> tuple[list[Run], list[LeftOut]]:
    """Keep the runs whose settings most others share, but for those that differ by design.

    Raises:
        InputError: If there are as many runs of one kind as of another.
    """
    keys = [key for key in differing(runs) if key not in design]
    texts = {key: dict(zip((run.folder for run in runs), column(runs, key), strict=True)) for key in keys}
    return _majority(runs, ", ".join(keys), lambda run: ", ".join(str(texts[key][run.folder]) for key in keys), optional=True)


def _majority(runs: list[Run], name: str, fact: Callable[[Run], Any], optional: bool) -> tuple[list[Run], list[LeftOut]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(fact(run)), []).append(run)
    ordered = sorted(groups.items(), key=lambda pair: -len(pair[1]))
    way_out = "name the folders of one kind" + (", or compare them all the same with unfair=keep" if optional else "")
    if len(ordered) > 1 and len(ordered[0][1]) == len(ordered[1][1]):
        listed = "\n".join(f"  - {len(g)} runs such as {g[0].folder}: {_brief(what)}" for what, g in ordered)
        raise InputError(f"these runs have different {name} and can't be compared; {way_out}:\n{listed}")
    left_out = [
        LeftOut(run.folder, f"different {name}: {_brief(what)}, the others {_brief(ordered[0][0])}", way_out)
        for what, group in ordered[1:]
        for run in group
    ]
    return ordered[0][1], left_out


def _brief(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
