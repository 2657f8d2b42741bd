"""What weakens the answer of a comparison: a sentence each, with what to do."""

from __future__ import annotations

from collections import Counter

import numpy as np

from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import CLAIMED, SEEDS, effective_groups, sum_groups
from rsseg.comparison.tuning import shared
from rsseg.comparison.words import (
    area_word,
    listed,
    more_seeds,
    number,
    of_blocks,
    quantity,
    score_name,
    unlearnt,
    validated_once,
)
from rsseg.config.plan import SEARCH_SEED, TRIALS
from rsseg.contract import ENOUGH_GROUPS
from rsseg.metrics import metrics
from rsseg.metrics.scores import class_pixels
from rsseg.task import Task

FEW = 5.0
"""A class that occurs in fewer `effective_groups` is named in a caveat."""


def caveats(found: Findings) -> list[str]:
    """What weakens the answer, one sentence each, with what to do."""
    notes = _sample(found) + _classes(found) + _training(found)
    if found.metric != found.tuned_for and found.tuned is not None:
        tuned, what = found.task.all_tuned.capitalize(), found.metrics[found.tuned_for].label
        notes.append(f"{tuned} are tuned for {what}: what tuning does to {score_name(found)} is not known.")
    if found.tuned is None and not found.task.real:
        notes.append(f"What tuning gains is not known: {_why_untuned(found)}.")
    notes += found.gradients.notes + _trouble(found)
    if not found.task.real and not any(row[0].is_baseline for row in found.comparison.runs):
        notes.append(
            "No plain cross-entropy among the runs: whether the best loss gives more than cross-entropy with a tuned threshold "
            "is not known; add loss=ce."
        )
    return notes + _rates(found)


def _sample(found: Findings) -> list[str]:
    """Too few seeds or areas, runs or records."""
    notes, seeds, groups = [], len(found.seeds), found.group_count
    if unfinished := found.comparison.unfinished:
        each, planned = listed([f"{label} {many}" for label, many in unfinished.items()]), len(found.comparison.plan.runs)
        notes.append(
            f"An early look: {sum(unfinished.values())} of {planned} planned runs are not finished ({each}). Who looks often "
            "finds differences by chance: decide when the sweep is finished."
        )
    folds = found.comparison.plan.folds
    if folds and (planned := _folds(found)) > len(folds):
        notes.append(f"Of {planned} folds only {len(folds)} are compared: the scenes of the others are not scored.")
    if CLAIMED <= seeds < SEEDS:
        notes.append(
            f"Exploratory: {seeds} seeds per loss say little about others. Train {SEEDS} or more.{more_seeds(found, SEEDS)}"
        )
    if groups == 1:
        chose = ", and every score is of the scenes that chose the checkpoint" * found.validated
        notes.append(
            f"All scenes lie in one area: no interval can be given{chose}. Score more areas, or name them by "
            "dataset.source.group."
        )
    elif groups < ENOUGH_GROUPS:
        names, in_turn = listed(list(dict.fromkeys(map(str, found.groups)))), ", or every area in turn (sweep=kfold)"
        independent = "independent " * (not found.blocks)
        notes.append(
            f"Only {groups} {independent}{area_word(found)} are scored, {names}: intervals say little about others. "
            f"Score {ENOUGH_GROUPS} or more{'' if found.comparison.plan.folds else in_turn}."
        )
    if found.blocks:
        notes.append(of_blocks(found.blocks))
    lacking = [measure.label for name, measure in found.measures.items() if name not in found.estimates]
    if lacking:
        notes.append(f"Not recorded by every run, so not compared: {', '.join(lacking)}.")
    return notes


def _folds(found: Findings) -> int:
    """How many folds the scenes are dealt to by the runs' configs; 0 where that is not known."""
    run = found.comparison.runs[0][0]
    folds = run.config.dataset.get("folds")
    groups = (run.folds or [run])[0].data.get("groups", {})
    return len({*groups.get("train", ()), *groups.get("val", ())}) if folds == "groups" else folds or 0


def _kind(task: Task, many: bool = False) -> str:
    """What each score is given for, a class or a value of a regression, as the first word of a sentence."""
    return {"class": ("Class", "Classes"), "value": ("Value", "Values")}[task.score_of][many]


def _classes(found: Findings) -> list[str]:
    """The classes that are absent, or occur in few areas, or were not tuned."""
    task, areas = found.task, area_word(found)
    metric = metrics(task, found.without)[found.metric if found.metric in found.metrics else found.tuned_for]
    pixels = metrics(task)[task.score].pixels(found.counts[0, 0])
    grouped = sum_groups(pixels, found.groups)
    absence = "is known nowhere" if task.score_of == "value" else "does not occur"
    notes = [
        f"{_kind(task)} {task.classes[c]} {absence} in the scenes that are scored: it is in no mean."
        for c in np.flatnonzero(pixels.sum(0) == 0)
    ]
    for name in found.lone:
        holding = int((grouped[:, task.classes.index(name)] > 0).sum())
        where = "lies" if holding == 1 else f"lies in {holding} of {found.group_count} {areas}, but nearly all of it"
        with_it = metric(found.counts).mean(1)
        each = listed([f"{number(with_it[i])} for {found.labels[i]}" for i in found.order[:3]])
        known = f" With it, {metric.label} is {each}." if found.leaves_out and found.metric in found.metrics else ""
        notes.append(
            f"{_kind(task)} {name} {where} in one of {found.group_count} {areas}: how its score varies can't be known, "
            f"and it is in no mean.{known}"
        )
    good = effective_groups(grouped)
    few = [
        f"{task.classes[c]} (about {good[c]:.0f})"
        for c in np.flatnonzero(good < FEW)
        if task.classes[c] not in [*found.lone, *found.without]
    ]
    if few and found.group_count >= FEW:
        their = "their scores are" if len(few) > 1 else "its score is"
        notes.append(f"Few {areas} hold most of {_kind(task, len(few) > 1).lower()} {listed(few)}: {their} uncertain.")
    return notes + _one_sided(found)


def _one_sided(found: Findings) -> list[str]:
    """The classes whose threshold, or bias, was not tuned, as they occur in one half of the scenes alone."""
    first = found.comparison.runs[0][0].records.first
    if first.all() or found.task.real or not found.validated:
        return []
    holds = class_pixels(found.counts[0, 0]) > 0
    return [
        f"Class {found.task.classes[c]} occurs in one half of the {area_word(found)} alone: its {found.task.tuned} can't be "
        "tuned on the one and scored on the other, and is left as it is."
        for c in np.flatnonzero(holds.any(0) & ~shared(holds, first))
    ]


def _training(found: Findings) -> list[str]:
    """Whether runs are trained to the end, and which of them failed, collapsed or learned nothing."""
    notes, last, runs = [], int(found.last_is_best.sum()), found.last_is_best.size
    if validated_once(found):
        once = sum(len(run.records.steps) == 1 for run in found.comparison.all_runs)
        notes.append(f"{once} of {runs} runs were validated only once: no checkpoint is chosen; train longer (steps=...).")
    elif 2 * last > runs:
        notes.append(
            f"In {last} of {runs} runs the best checkpoint is the last one: they are not trained to the end, and the order may "
            "change with more steps (steps=...)."
        )
    for label, row in zip(found.labels, found.collapsed, strict=True):
        if row.any():
            which = f"{row.sum()} of {len(row)} runs give{'s' * int(row.sum() == 1)}"
            notes.append(f"{label}: {which} every pixel one label; a lower learning rate may help.")
    sign = found.ranked.measure.sign
    for name, score in found.baselines.items() if not unlearnt(found) else ():
        worse = [found.labels[i] for i in found.order if sign * (found.advised.mean.value[i] - score) <= 0]
        if worse:
            notes.append(
                f"{listed(worse)}: no better than the baseline {name}, whose {score_name(found)} is {quantity(found, score)}."
            )
    for label, many in found.comparison.failed.items():
        which = f"{many} runs failed and are" if many > 1 else "1 run failed and is"
        looks = "it is worse than it looks" if label in found.labels else "it is not compared"
        notes.append(f"{label}: {which} not scored: {looks}.")
    return notes


def _why_untuned(found: Findings) -> str:
    runs, lacking = found.comparison.all_runs, "has no counts at tuned thresholds"
    reasons = [f"{run.folder} {lacking}" for run in runs if run.records.chosen is None] + [run.records.untuned for run in runs]
    return next(filter(None, reasons), f"some run {lacking}")


def _trouble(found: Findings) -> list[str]:
    """What runs had trouble with, or differ in."""
    comparison, notes = found.comparison, []
    runs = comparison.all_runs
    stopped = [run for run in runs if run.summary["steps"] < int(run.config.steps)]
    if stopped:
        many, run = len(stopped), stopped[0]
        which = f"{run.label}, seed {run.seed}, at step {run.summary['steps']} of {run.config.steps}"
        notes.append(f"{many} run{'s' * (many > 1)} stopped early{', such as' if many > 1 else ':'} {which}.")
    if found.validated and any((run.folder.parent / TRIALS).is_file() for run in runs):
        notes.append(
            "The runs are trials of a search, proposed for their scores on these scenes: the best of many looks better than it "
            "is; train it again on other seeds, or score it on the test split (split=test)."
        )
    if comparison.different:
        notes.append(f"The rows differ in {listed(comparison.different)} as well: a lead may not be the loss's.")
    if len({(run.origin["platform"], run.origin["python"]) for run in runs}) > 1:
        notes.append("The runs were made on different platforms, which may change scores a little; the protocol names them.")
    heads = list(dict.fromkeys(head for run in runs for head in run.heads))
    if len(heads) > 1:
        notes.append(
            f"The runs have {len(heads)} heads, {listed(heads)}: {runs[0].head} is compared, head=... compares another."
        )
    if any(run.origin["git"]["changed"] for run in runs):
        notes.append("Some runs were made with uncommitted changes: their commit does not say which code ran.")
    if comparison.left_out:
        many, reasons = len(comparison.left_out), Counter(left.why for left in comparison.left_out).most_common(3)
        said = "; ".join(f"{why} ({times})" for why, times in reasons)
        notes.append(f"{many} run{'s are' if many > 1 else ' is'} left out: {said}. The protocol names all.")
    return notes


def _rates(found: Findings) -> list[str]:
    """How learning rates were chosen."""
    notes, comparison = [], found.comparison
    rates = {label: comparison.rates[label] for label in comparison.labels if label in comparison.rates}
    for label, (rate, tried) in rates.items():
        if len(tried) > 1 and rate in (tried[0], tried[-1]):
            notes.append(
                f"{label}: the search seeds chose learning rate {rate:g}, the {'smallest' if rate == tried[0] else 'largest'} "
                "tried; a wider search may do better."
            )
    if len({tuple(tried) for _, tried in rates.values()}) > 1:
        each = ", ".join(f"{label} {len(tried)}" for label, (_, tried) in rates.items())
        notes.append(
            f"Unequal search: not every loss tried the same learning rates ({each}); one that tried more has an advantage."
        )
    if not comparison.rates and len({run.rate for run in comparison.all_runs}) > 1:
        notes.append(
            f"Learning rates differ, but there are no seeds from {SEARCH_SEED} on to choose among them: every rate is a row of "
            "its own. The best of several rows looks better than it is; use sweep=losses_lr."
        )
    return notes
