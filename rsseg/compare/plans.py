"""The one plan of the runs that are compared, and what they differ in that no plan varies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from rsseg.compare.runs import Begun, Run
from rsseg.config.plan import FOLD, LOSS, SEED, TRIALS, Plan, as_text, read_plan

Values: TypeAlias = dict[str, list[Path]]
"""The folders of the runs that have each value of something, the usual one first."""

AnyRun = TypeVar("AnyRun", bound=Begun)


def plans_of(runs: Iterable[Begun]) -> dict[Path, Plan]:
    """The plans of the folders that runs lie in; a search's trials differ by what it searched."""
    inside: dict[Path, list[Begun]] = {}
    for run in runs:
        inside.setdefault(run.folder.parent, []).append(run)
    plans = {folder: read_plan(folder) or plan_of_trials(folder, some) for folder, some in inside.items()}
    return {folder: plan for folder, plan in plans.items() if plan}


def plan_of_trials(folder: Path, trials: Sequence[Begun]) -> Plan | None:
    """The plan of a search's trials, which vary what its table names; None where there is no such table."""
    if not (folder / TRIALS).is_file():
        return None
    columns = (folder / TRIALS).read_text(encoding="utf-8").partition("\n")[0].split(",")
    runs = {}
    for run in trials:
        told = dict(word.lstrip("+").split("=", 1) for word in run.origin["overrides"] if "=" in word)
        runs[run.folder] = {LOSS: run.loss} | {key: told[key] for key in columns if key in told} | {SEED: str(run.seed)}
    unlike = differing(trials)
    return Plan(runs, {key: value for key, value in trials[0].settings.items() if key not in unlike})


def differing(runs: Sequence[Begun]) -> list[str]:
    """The settings that some runs differ in, in the config's order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key, "none") for run in runs}) > 1]


def differences(runs: Sequence[Run], plans: Mapping[Path, Plan]) -> dict[str, Values]:
    """What runs differ in that their plans do not vary: settings, training data, code and libraries, by their values.

    A setting is varied by design where every run has a plan that varies it, and runs of one row share it.
    """
    own = {run.folder: plan for run in runs if (plan := plans.get(run.folder.parent)) and run.folder in plan.runs}
    rows: dict[object, list[Run]] = {}
    for run in runs:
        told = own[run.folder].runs[run.folder].items() if run.folder in own else [(LOSS, run.loss)]
        rows.setdefault((run.folder.parent, *((key, value) for key, value in told if key not in (SEED, FOLD))), []).append(run)
    by_seed = {key for row in rows.values() for key in differing(row)}
    found = {}
    for key in differing(runs):
        designed = all(run.folder in own and key not in own[run.folder].common for run in runs)
        if not designed or key in by_seed:
            found[key] = _by_value((run, run.settings.get(key, "none")) for run in runs)
    return found | unlike_facts([(run, made_by(run)) for run in runs])


def validated_on(run: Run) -> dict[str, str]:
    """What a run was validated on."""
    return {
        "dataset": run.config.dataset.name,
        "task": run.task.kind,
        "classes": ", ".join(run.task.classes),
        f"validation scenes or labels{_of_fold(run)}": run.data["fingerprint"]["val"],
    }


def made_by(run: Run) -> dict[str, str]:
    """What a run was trained on and by beside its settings."""
    of_fold = _of_fold(run)
    stopped = run.summary["steps"] < int(run.config.steps)
    git = run.origin["git"]
    return {
        f"training scenes or labels{of_fold}": run.data["fingerprint"]["train"],
        **{f"{name} of the images{of_fold}": ", ".join(f"{x:.5g}" for x in run.data[name]) for name in ("mean", "std")},
        "stopped early": f"at step {run.summary['steps']}" if stopped else "no",
        "rsseg": run.origin["rsseg"],
        "code": f"{git['commit']}{' and uncommitted changes' * bool(git['changed'])}",
        **{f"library {name}": version for name, version in run.origin["libraries"].items()},
    }


def _of_fold(run: Run) -> str:
    return "" if run.fold is None else f" of fold {run.fold}"


def unlike_facts(facts: Sequence[tuple[Run, Mapping[str, str]]]) -> dict[str, Values]:
    """The facts that those runs differ in that have them."""
    keys = dict.fromkeys(key for _, known in facts for key in known)
    by_key = {key: _by_value((run, known[key]) for run, known in facts if key in known) for key in keys}
    return {key: values for key, values in by_key.items() if len(values) > 1}


def _by_value(pairs: Iterable[tuple[Run, str]]) -> Values:
    found: Values = {}
    for run, value in pairs:
        found.setdefault(value, []).append(run.folder)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def table_of(unlike: Mapping[str, Values], most: int = 12) -> str:
    """What runs differ in, as a table: a setting, its values, and how many runs have each, or which if they are few."""
    rows = [("setting", "value", "runs")]
    for key, values in list(unlike.items())[:most]:
        for number, (value, runs) in enumerate(list(values.items())[:most]):
            which = f": {runs[0]}{', ...' * (len(runs) > 1)}" if number else ""
            rows.append((key * (number == 0), value if len(value) <= 40 else f"{value[:37]}...", f"{len(runs)}{which}"))
    if len(unlike) > most:
        rows.append((f"and {len(unlike) - most} more", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"  {setting:{widths[0]}}  {value:{widths[1]}}  {runs}".rstrip() for setting, value, runs in rows)


def one_plan(runs: Sequence[Begun], plans: Mapping[Path, Plan], places: Sequence[Path], different: Collection[str]) -> Plan:
    """The plan of all runs: what their own plans vary, what else they differ in, and what losses of one name differ in.

    Args:
        runs: All that were begun.
        plans: By folder, the plan of the runs that lie in it.
        places: Where runs were looked for: of a plan in one of them all runs are meant, those that were not begun too.
        different: What runs differ in that their plans do not vary.
    """
    told: dict[Path, dict[str, str]] = {}
    told_apart = [key for key in different if not (key.startswith("model.heads.") and "heads" in different)]
    for folder, plan in plans.items():
        if any(place == folder or place in folder.parents for place in places):
            told |= {
                run: {**values, **{key: plan.common[key] for key in told_apart if key in plan.common}}
                for run, values in plan.runs.items()
            }
    for run in runs:
        plan = plans.get(run.folder.parent, Plan({}, {}))
        own = plan.runs.get(run.folder)
        values = own or {LOSS: run.loss, **({} if run.fold is None else {FOLD: str(run.fold)}), SEED: str(run.seed)}
        added = [key for key in told_apart if key in run.settings and (own is None or key in plan.common)]
        told[run.folder] = values | {key: run.settings[key] for key in added}
    commands = [command for plan in plans.values() for command in plan.commands]
    unlike = differing(runs)
    whole = Plan(told, {key: value for key, value in runs[0].settings.items() if key not in unlike}, commands)
    for same in rows_of(runs, whole.labels).values():
        keys = dict.fromkeys(key for run in same for key in run.losses)
        for key in (key for key in keys if len({as_text(run.losses.get(key)) for run in same}) > 1):
            for run in same:
                told[run.folder][f"{LOSS}.{key}"] = as_text(run.losses.get(key))
    return whole


def rows_of(runs: Iterable[AnyRun], labels: Mapping[Path, str]) -> dict[str, list[AnyRun]]:
    """The runs of each row."""
    found: dict[str, list[AnyRun]] = {}
    for run in runs:
        found.setdefault(labels[run.folder], []).append(run)
    return found
