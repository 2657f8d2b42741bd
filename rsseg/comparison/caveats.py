"""Caveats: the weaknesses of a comparison's answer, one sentence each, with the remedy."""

from __future__ import annotations

from collections import Counter

from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import CLAIMED, SEEDS
from rsseg.comparison.words import area_word, listed, number, of_blocks, score_name
from rsseg.contract import ENOUGH_GROUPS, counted
from rsseg.metrics import metrics


def caveats(found: Findings) -> list[str]:
    """All weaknesses of the answer, one sentence each, with the remedy."""
    return [*_sample(found), *_classes(found), *_training(found), *_runs(found)]


def _sample(found: Findings) -> list[str]:
    """Too few runs, seeds or areas."""
    notes, seeds, groups = [], len(found.seeds), found.group_count
    if unfinished := found.comparison.unfinished:
        each, planned = listed([f"{label} {many}" for label, many in unfinished.items()]), len(found.comparison.plan.runs)
        notes.append(
            f"An early look: {sum(unfinished.values())} of {planned} planned runs are not finished ({each}). Repeated looks "
            "find differences by chance: decide when the sweep is finished."
        )
    if CLAIMED <= seeds < SEEDS:
        notes.append(f"Exploratory: with {seeds} seeds per loss, intervals are unreliable. Train {SEEDS} or more.")
    if groups == 1:
        chose = ", and the same scenes chose the checkpoint, so scores are too high" * (found.validated and found.choice)
        notes.append(
            f"All scenes lie in one area: no interval can be given{chose}. Score more areas, or name them by "
            "dataset.source.group."
        )
    elif groups < ENOUGH_GROUPS:
        names = listed(list(dict.fromkeys(map(str, found.groups))))
        notes.append(
            f"Only {groups} {area_word(found)} are scored, {names}: intervals are unreliable for other areas. Score "
            f"{ENOUGH_GROUPS} or more, or every area in turn (sweep=kfold)."
        )
    return [*notes, of_blocks(found.blocks)] if found.blocks else notes


def _classes(found: Findings) -> list[str]:
    """The classes, or values of a regression, that are in no mean."""
    task, kind = found.task, found.task.score_of.capitalize()
    pixels = metrics(task)[task.score].pixels(found.counts[0, 0]).sum(0)
    absent = [name for name, many in zip(task.classes, pixels, strict=True) if many == 0]
    notes = [f"{kind} {name} does not occur in the scenes that are scored: means leave it out." for name in absent]
    if found.rare:
        names, areas = listed(found.rare), f"one of the {found.group_count} {area_word(found)}"
        what = f"Means leave {names} out" if found.omitted else f"Intervals are unreliable for {names}"
        notes.append(f"{what}: most pixels of the {task.score_of} lie in {areas}, so its variance can't be estimated.")
    if found.omitted and found.leaves_out and found.metric in found.metrics:
        metric = metrics(task, found.without)[found.metric]
        whole = metric(found.counts).mean(1)
        each = [f"{number(whole[i])} for {found.labels[i]}" for i in found.order[:3]]
        notes[-1] += f" With {names}, {metric.label} is {listed(each)}."
    return notes


def _training(found: Findings) -> list[str]:
    """Runs that are not trained to the end, and the reason why the gain by tuning is not known."""
    notes, task, last, runs = [], found.task, int(found.last_is_best.sum()), found.last_is_best.size
    if 2 * last > runs:
        notes.append(
            f"In {last} of {runs} runs the best checkpoint is the last one: they are not trained to the end, and the order may "
            "change with more steps."
        )
    if found.tuned is None and not task.real:
        why = next(
            (run.records.untuned for run in found.comparison.all_runs if run.records.untuned), "a run has no tuned counts"
        )
        notes.append(f"The gain by tuning is not known: {why}.")
    elif found.tuned is not None and not found.tunes:
        tuned, score = found.task.all_tuned.capitalize(), metrics(task)[found.tuned_for].label
        if len(task.classes) - len(found.without) > 1:
            score = f"the mean {score}"
        if found.tuned_score == found.metric:
            notes.append(f"{tuned} are tuned for {score}, not for {score_name(found)} alone.")
        else:
            notes.append(f"{tuned} are tuned for {score}: what tuning does to {score_name(found)} is not known.")
    return notes


def _runs(found: Findings) -> list[str]:
    """Runs that are left out or missing, and differences between runs that the plan does not vary."""
    comparison, notes = found.comparison, []
    if comparison.different:
        notes.append(f"The rows differ in {listed(comparison.different)} as well: a lead may not be the loss's.")
    if comparison.left_out:
        reasons = Counter(left.why for left in comparison.left_out).most_common(3)
        said = "; ".join(f"{why} ({times})" for why, times in reasons)
        many = len(comparison.left_out)
        notes.append(f"{counted(many, 'run')} {'are' if many > 1 else 'is'} left out: {said}. left_out.csv names all.")
    if not found.task.real and not any(run.is_cross_entropy for run in comparison.all_runs):
        notes.append(
            "No plain cross-entropy among the runs: whether the best loss gives more than cross-entropy with a tuned threshold "
            "is not known; add loss=ce."
        )
    return notes
