"""The common plan of the runs that are compared, and their differences that no plan varies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from rsseg.comparison.runs import Run, grouped
from rsseg.config.plan import FOLD, LOSS, SEED, Plan, as_text, read_plan

CODE = "code of rsseg"
"""The name of the code in the table of differences."""


def plans_of(runs: Iterable[Run]) -> dict[Path, Plan]:
    """The plans by folder, of the folders that hold the runs; folders without a plan are left out."""
    plans = {folder: read_plan(folder) for folder in dict.fromkeys(run.folder.parent for run in runs)}
    return {folder: plan for folder, plan in plans.items() if plan}


def unlike(runs: Sequence[Run], facts: Callable[[Run], Mapping[str, str]]) -> pd.DataFrame:
    """The facts that differ among the runs that have them: a row per run folder, a column per fact."""
    table = pd.DataFrame([facts(run) for run in runs], index=[run.folder for run in runs])
    return table.loc[:, table.nunique() > 1]


def differing(runs: Sequence[Run]) -> pd.DataFrame:
    """The settings in which some runs differ, in the config's order; a setting that a run lacks is ``none``."""
    absent = dict.fromkeys((key for run in runs for key in run.settings), "none")
    return unlike(runs, lambda run: absent | run.settings)


def differences(runs: Sequence[Run], plans: Mapping[Path, Plan]) -> pd.DataFrame:
    """The differences of runs that their plans do not vary: settings, training data, code and libraries.

    A setting is varied by design if every run has a plan that varies it, and all runs of a row share its value.
    """
    own = {run.folder: plan for run in runs if (plan := plans.get(run.folder.parent)) and run.folder in plan.runs}

    def row(run: Run) -> tuple[object, ...]:
        values = own[run.folder].runs[run.folder] if run.folder in own else {LOSS: run.loss}
        return (run.folder.parent, *(item for item in values.items() if item[0] not in (SEED, FOLD)))

    within_rows = {key for same in grouped(runs, row).values() for key in differing(same)}

    def by_design(key: str) -> bool:
        return key not in within_rows and all(run.folder in own and key not in own[run.folder].common for run in runs)

    of_settings = differing(runs)
    return of_settings[[key for key in of_settings if not by_design(key)]].join(unlike(runs, made_by))


def validated_on(run: Run) -> dict[str, str]:
    """The data that a run was validated on."""
    records, of_fold = run.records, _of_fold(run)
    pairs = sorted(zip(records.scenes, records.groups.tolist(), strict=True))
    digest = hashlib.blake2b(repr((records.scenes, pairs)).encode(), digest_size=4).hexdigest()
    return {
        "dataset": run.config.dataset.name,
        "task": run.task.kind,
        "classes": ", ".join(run.task.classes),
        f"validation scenes or labels{of_fold}": run.data["fingerprint"]["val"],
        f"areas of the scenes{of_fold}": f"{len(set(records.groups))} areas ({digest})",
    }


def made_by(run: Run) -> dict[str, str]:
    """The data, code and libraries of a run, beside its settings."""
    of_fold = _of_fold(run)
    stopped = run.summary["steps"] < int(run.config.steps)
    git = run.origin["git"]
    before = f"{str(git['commit'])[:10]}{' and uncommitted changes' * bool(git['changed'])}"
    return {
        f"training scenes or labels{of_fold}": run.data["fingerprint"]["train"],
        **{f"{name} of the images{of_fold}": ", ".join(f"{x:.5g}" for x in run.data[name]) for name in ("mean", "std")},
        **{f"pixels of {split}{of_fold}": run.data.get("pixels", {}).get(split, "not known") for split in ("train", "val")},
        "stopped early": f"at step {run.summary['steps']}" if stopped else "no",
        "rsseg": run.origin["rsseg"],
        CODE: run.origin.get("code", before),
        **{f"library {name}": version for name, version in run.origin["libraries"].items()},
    }


def _of_fold(run: Run) -> str:
    return "" if run.fold is None else f" of fold {run.fold}"


def table_of(different: pd.DataFrame, most: int = 12) -> str:
    """Differences of runs as text: each setting's values, the usual one first, and how many runs have them."""
    rows = [("setting", "value", "runs")]
    for key in different.columns[:most]:
        by_value = [(str(value), list(some)) for value, some in different.index.groupby(different[key]).items()]
        by_value.sort(key=lambda item: (-len(item[1]), different.index.get_loc(item[1][0])))
        for number, (value, runs) in enumerate(by_value[:most]):
            which = f": {runs[0]}{', ...' * (len(runs) > 1)}" if number else ""
            rows.append((key * (number == 0), value if len(value) <= 40 else f"{value[:37]}...", f"{len(runs)}{which}"))
    if different.shape[1] > most:
        rows.append((f"and {different.shape[1] - most} more", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"  {setting:{widths[0]}}  {value:{widths[1]}}  {runs}".rstrip() for setting, value, runs in rows)


def one_plan(runs: Sequence[Run], plans: Mapping[Path, Plan], places: Sequence[Path], different: Collection[str]) -> Plan:
    """The joint plan of all runs: settings that their plans vary, the `different` ones, and those of losses with one label.

    If a plan's folder is one of `places` or below it, all its runs are included, also those that have not begun.
    """
    named_by = [key for key in different if not (key.startswith("model.heads.") and "heads" in different)]
    told: dict[Path, dict[str, str]] = {}
    for folder, plan in plans.items():
        if any(place == folder or place in folder.parents for place in places):
            shared = {key: plan.common[key] for key in named_by if key in plan.common}
            told |= {run: values | shared for run, values in plan.runs.items()}
    for run in runs:
        plan = plans.get(run.folder.parent, Plan({}, {}))
        planned = plan.runs.get(run.folder)
        values = planned or {LOSS: run.loss, **({} if run.fold is None else {FOLD: str(run.fold)}), SEED: str(run.seed)}
        added = [key for key in named_by if key in run.settings and (planned is None or key in plan.common)]
        told[run.folder] = values | {key: run.settings[key] for key in added}
    whole = Plan(told, {}, [command for plan in plans.values() for command in plan.commands])
    labels = whole.labels
    for same in grouped(runs, lambda run: labels[run.folder]).values():
        keys = dict.fromkeys(key for run in same for key in run.losses)
        own = unlike(same, lambda run: {key: as_text(run.losses.get(key)) for key in keys})  # noqa: B023
        for folder, losses in own.to_dict("index").items():
            told[folder] |= {f"{LOSS}.{key}": value for key, value in losses.items()}
    return whole
