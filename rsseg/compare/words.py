"""A comparison in words: the answer in two sentences, and what one must know before believing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from rsseg.compare.findings import Findings, own_loss
from rsseg.compare.scores import SEEDS, effective_scenes
from rsseg.compare.selection import DIVERGED, Comparison
from rsseg.compare.tuning import shared
from rsseg.config.plan import SEARCH_SEED, TRIALS
from rsseg.metrics import metrics
from rsseg.metrics.average import Array
from rsseg.metrics.scores import class_pixels
from rsseg.task import Task

Ends: TypeAlias = tuple[float, float, float]
"""An estimate and the two ends of its interval."""

FEW_SCENES = 5.0
"""A class that is as good as in fewer scenes is named."""


def number(value: float, sign: bool = False) -> str:
    """Three decimals; a dash for NaN.

    Example:
        >>> number(0.12345), number(0.02, sign=True), number(float("nan"))
        ('0.123', '+0.020', '-')
    """
    return "-" if np.isnan(value) else f"{value:+.3f}" if sign else f"{value:.3f}"


def span(low: float, high: float, sign: bool = False) -> str:
    """An interval; empty where it isn't known.

    Example:
        >>> span(0.1, 0.25)
        '0.100 to 0.250'
    """
    return "" if np.isnan(low) else f"{number(low, sign)} to {number(high, sign)}"


def _brackets(low: float, high: float, sign: bool = False) -> str:
    return "" if np.isnan(low) else f" ({span(low, high, sign)})"


def percent(share: float) -> str:
    """A confidence; never 0 or 100 %, which no sample gives.

    Example:
        >>> percent(0.573), percent(0.9999), percent(0.0)
        ('57 %', '>99 %', '<1 %')
    """
    return ">99 %" if share > 0.99 else "<1 %" if share < 0.01 else f"{100 * share:.0f} %"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas; if they are many, the first of them and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=1)
        'a and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def answer(found: Findings) -> list[str]:
    """Which loss is best, by how much and how surely; and, of labels, whether tuning the threshold leaves the difference."""
    if len(found.labels) < 2:
        return [f"There is only one loss, {found.labels[0]}: train others to compare it with, such as loss=ce,dice."]
    return [_lead(found)] if found.task.real else [_lead(found), _after_tuning(found)]


def _lead(found: Findings) -> str:
    best, second, *_ = found.order
    win, measure, leader = found.wins[found.metric], found.measures[found.metric], found.labels[best]
    name, highest, above = measure.label, "highest", "above"
    if not measure.higher_is_better:
        highest, above = "lowest", "below"
    unit = f" {measure.unit}" * bool(measure.unit)
    score = f"{number(win.score.value[best])}{unit}{_brackets(win.score.low[best], win.score.high[best])}"
    gap, low, high = win.lead.at(best, second)
    share = win.better[best, second]
    ahead = "" if np.isnan(share) else f", and is ahead with a confidence of {percent(share)}"
    by = f"{number(gap)}{unit}{_brackets(low, high, sign=True)} {above} {found.labels[second]}, the next best{ahead}"
    if np.isnan(low):
        return f"{leader} has the {highest} {name}, {score}, {by}; how sure that is can't be said."
    others = found.order[1:]
    if (win.lead.low[best, others] > 0).all():  # each at 97.5 %: so sure is that it beats all
        return f"{leader} gives the best {name}: {score}, {by}."
    near = [found.labels[i] for i in others if not win.better[best, i] > 1 - 0.025 / len(others)]
    but = "" if low > 0 else "but only "
    rest = "" if near == [found.labels[second]] else f"; not told apart from it, when all are compared: {listed(near)}"
    return f"No loss is surely the best: {leader} has the {highest} {name}, {score}, {but}{by}{rest}."


def _after_tuning(found: Findings) -> str:
    """What tuning leaves of the lead over cross-entropy, or over the next best where that leads or is not there."""
    if found.tuning is None:
        return "Whether the difference survives tuning the threshold is not known; the notes say why."
    best, *others = found.order
    other = next((i for i in others if found.plain[i]), others[0])
    name, wins = found.measures[found.tuned_metric].label, found.tuning.wins
    before, after = (win.difference.at(best, other) for win in (found.wins[found.tuned_metric], wins))
    gap = f"{name} {'lead over' if before[0] > 0 else 'difference to'} {found.labels[other]}"
    ends = f"from {number(before[0], True)} to {number(after[0], True)}{_brackets(*after[1:], sign=True)}"
    left = verdict(before, after, found.tuning.moved.at(best, other))
    said = f"With {found.task.all_tuned} tuned on other scenes its {gap} goes {ends}: {left}"
    first = int(np.nanargmax(wins.score.value))
    if first == best:
        return f"{said}."
    return f"{said}; {found.labels[first]} then has the highest {name}, {number(wins.score.value[first])}."


def verdict(before: Ends, after: Ends, moved: Ends) -> str:
    """What tuning makes of a difference between two losses, from the estimates and intervals of three differences.

    It is said to be a matter of the threshold only where tuning surely makes it smaller. Where losses are ranked by another
    metric than thresholds are tuned for, the leader may be behind before tuning.

    Args:
        before: The difference before tuning.
        after: After it.
        moved: After less before.

    Example:
        >>> verdict((0.06, 0.03, 0.09), (0.05, 0.02, 0.08), (-0.01, -0.03, 0.01))
        'the difference survives'
        >>> verdict((0.06, 0.03, 0.09), (0.0, -0.02, 0.02), (-0.06, -0.09, -0.03))
        'it was a matter of the threshold'
        >>> verdict((0.06, 0.03, 0.09), (0.02, -0.02, 0.06), (-0.04, -0.09, 0.01))
        'what is left of it may be chance'
    """
    if np.isnan(after[1]):
        return "what remains can't be told from chance"
    if after[1] > 0:
        if before[0] > 0:
            shrunk = moved[2] < 0 and after[0] < before[0] / 2
            return "a part survives, but most of it was a matter of the threshold" if shrunk else "the difference survives"
        return "only tuning puts it ahead" if moved[1] > 0 else "tuned, it is ahead"
    if after[2] < 0:
        return "the order turns round" if before[1] > 0 else "tuned, it is behind"
    if before[1] <= 0 <= before[2]:
        return "neither can be told from zero"
    sure = "it was a matter of the threshold" if before[0] > 0 else "tuning makes up for it"
    return sure if moved[2] < 0 < before[0] or moved[1] > 0 > before[0] else "what is left of it may be chance"


def caveats(found: Findings) -> list[str]:
    """What weakens the answer, one sentence each, with what to do."""
    notes, comparison = _sample(found), found.comparison
    classes = comparison.runs[0][0].classes
    absent = classes["class"][classes["pixels"] == 0]
    absence = "does not occur in the validation scenes: it is in no mean; add scenes with it"
    if found.task.score_of == "value":
        absence = "is known nowhere in the validation scenes: it is in no mean; add scenes where it is"
    notes += [f"{_kind(found.task)} {name} {absence}." for name in absent]
    if found.metric != found.tuned_metric and found.tuning is not None:
        name = found.measures[found.metric].label
        notes.append(f"Thresholds are tuned for IoU and scored by it: what tuning does to {name} is not known.")
    notes += found.why_untuned + found.gradients.notes
    if found.counts is not None:
        notes += rare(found.task, found.counts) + _untuned(found, found.counts)
    notes += unselected(comparison, found.selection) + _unknown(found) + _trouble(comparison)
    if not found.task.real and not any(found.plain):
        notes.append(
            "No plain cross-entropy among the runs: whether the best loss gives more than cross-entropy with a tuned threshold "
            "is not known; add loss=ce."
        )
    return notes + _rates(comparison)


def _kind(task: Task, many: bool = False) -> str:
    """What a score of its own is of."""
    return {"class": ("Class", "Classes"), "value": ("Value", "Values")}[task.score_of][many]


def _sample(found: Findings) -> list[str]:
    """Too few seeds or scenes, or records."""
    notes = []
    seeds, runs = len(found.seeds), found.comparison.all_runs
    if seeds == 1:
        notes.append(f"Only seed {found.seeds[0]}: no interval can be given; train at least {SEEDS} seeds per loss.")
    elif seeds < SEEDS:
        notes.append(
            f"Exploratory: {seeds} seeds per loss, whose spread says little of others', so that intervals reach far beyond "
            f"them. Train {SEEDS} or more before you rely on an order."
        )
    if len(found.scenes) == 1:
        threshold = "" if found.task.real else " and no cross-fitted threshold"
        notes.append(f"One validation scene: no interval{threshold}; validate on more scenes.")
    lacking = [measure.label for name, measure in found.measures.items() if name not in found.wins]
    if found.counts is None:
        some = sum(run.unrecorded is None for run in runs)
        few = f"Only {some} of {len(runs)} runs {'have' if some > 1 else 'has'} records" if some else "No run has records"
        lost = "gradients" if found.task.real else "thresholds, contours, calibration and gradients"
        notes.append(
            f"{few}: intervals are over seeds alone, and {lost} are not known; train again with this version of rsseg and "
            "recording on."
        )
    elif lacking:
        notes.append(f"Not recorded, so not compared: {', '.join(lacking)}.")
    return notes


def rare(task: Task, counts: Array) -> list[str]:
    """The classes that occur, or values that are known, in few scenes, by counts ``[L, R, S, C, N]``."""
    pixels = metrics(task)[task.score].pixels(counts[0, 0])
    if len(pixels) < 2:
        return []
    good, holding = effective_scenes(pixels), (pixels > 0).sum(0)
    wide = [f"Only {len(pixels)} validation scenes: intervals are wide; validate on more."] * (len(pixels) < FEW_SCENES)
    few = []
    for c in np.flatnonzero((good < FEW_SCENES) & (holding < len(pixels))):
        small = f" (as good as {good[c]:.1f} of equal size)" * bool(good[c] < 0.75 * holding[c])
        few.append(f"{task.classes[c]} in {holding[c]}{small}")
    if not few:
        return wide
    lone = [task.classes[c] for c in np.flatnonzero(holding == 1)]
    effect = f"; no score that counts {', '.join(lone)} has an interval" if lone else ""
    where = f"{_kind(task, many=True)} in few of {len(pixels)} validation scenes: {', '.join(few)}"
    return [*wide, f"{where}. Intervals are wide for that{effect}; validate on more scenes that hold them."]


def _untuned(found: Findings, counts: Array) -> list[str]:
    """The classes whose threshold, or bias, was not tuned, as they occur in one half of the scenes alone."""
    first = found.comparison.runs[0][0].recorded.first
    if first.all() or found.task.real:
        return []
    holds = class_pixels(counts[0, 0]) > 0
    lost = holds.any(0) & ~shared(holds, first)
    return [
        f"Class {found.task.classes[c]} occurs in one half of the validation scenes alone: its {found.task.tuned} could not be "
        "tuned on the one and scored on the other, and is left as it was; validate on more scenes that hold it."
        for c in np.flatnonzero(lost)
    ]


def unselected(comparison: Comparison, regret: Array | None) -> list[str]:
    """The losses whose selection regret ``[L, R]`` is not known of some seed, and why."""
    if regret is None or len(comparison.runs[0][0].data["scenes"]["val"]) < 2:
        return []
    names: dict[str, list[str]] = {
        "their loss is not a function of sums over pixels, or was not recorded by half of the scenes": [],
        "a half of the scenes has no loss, or no score, in some seed": [],
    }
    no_loss, no_score = names.values()
    for row in np.flatnonzero(np.isnan(regret).any(1)):
        runs = comparison.runs[row]
        (no_loss if any(own_loss(run) is None for run in runs) else no_score).append(runs[0].label)
    told = "Selection regret is known of some losses alone, not of"
    return [f"{told} {', '.join(losses)}: {why}." for why, losses in names.items() if losses]


def _unknown(found: Findings) -> list[str]:
    """The runs whose value is NaN where others have one: means over seeds leave them out."""
    values = {found.measures[key].label: win.values for key, win in found.wins.items()}
    values |= {"tau over the run": found.tau[..., 0], "tau over its last half": found.tau[..., 1]}
    notes = []
    for name, scores in values.items():
        lacking = np.isnan(scores)
        if lacking.all():
            notes.append(f"No run has a {name}.")
            continue
        for label, row in zip(found.labels, lacking, strict=True):
            if row.any():
                seeds = ", ".join(str(seed) for seed, lost in zip(found.seeds, row, strict=True) if lost)
                left = f"its mean is over {int((~row).sum())} of {len(row)} seeds" if not row.all() else "it has no mean"
                notes.append(f"{label}: {name} is not known of seed {seeds}; {left}.")
    return notes


def _trouble(comparison: Comparison) -> list[str]:
    """What runs had trouble with, or differ in."""
    runs = comparison.all_runs
    notes = []
    for run in runs:
        lost = run.curve[run.curve["val_loss"].isna()]
        if len(lost):
            notes.append(
                f"{run.label}, seed {run.seed}: its validation loss is NaN at step {lost['step'].iloc[0]}; its best "
                "checkpoint is compared all the same. A lower learning rate may help."
            )
        if run.summary["steps"] < int(run.config.steps):
            notes.append(f"{run.label}, seed {run.seed}: stopped early, at step {run.summary['steps']} of {run.config.steps}.")
    if any((run.folder.parent / TRIALS).is_file() for run in runs):
        notes.append(
            "The runs are trials of a search, proposed for their scores on these scenes: the best of many looks better than it "
            "is; train it again on other seeds, or score it on the test split."
        )
    if comparison.different:
        what = listed(comparison.different)
        notes.append(f"Compared all the same because allow_different=true asked for it: the runs have different {what}.")
    if comparison.design:
        nodes = list(dict.fromkeys(key.split(".")[0] for key in comparison.design))
        notes.append(
            f"The rows are recipes: by design they differ in {listed(nodes)} as well, so a lead may not be the loss's."
        )
    if len({(run.origin["platform"], run.origin["python"]) for run in runs}) > 1:
        notes.append(
            "The runs were made on different platforms, which may change scores a little; the protocol below names them."
        )
    heads = list(dict.fromkeys(head for run in runs for head in run.heads))
    if len(heads) > 1:
        notes.append(
            f"The runs have {len(heads)} heads, {listed(heads)}: {runs[0].head} is compared, head=... compares another."
        )
    if any(run.origin["git"]["changed"] for run in runs):
        notes.append("Some runs were made with uncommitted changes: their commit does not say which code ran.")
    diverged = [left for left in comparison.left_out if left.why.startswith(DIVERGED)]
    if diverged:
        each = listed([f"{many} of {loss}" for loss, many in Counter(left.loss for left in diverged).items()])
        notes.append(
            f"Runs that diverged are left out, {each}, such as {diverged[0].run}: their losses are worse than they look."
        )
    if comparison.left_out:
        many = len(comparison.left_out)
        notes.append(f"{many} run{'s are' if many > 1 else ' is'} left out; the protocol below says why.")
    return notes


def _rates(comparison: Comparison) -> list[str]:
    """How learning rates were chosen."""
    notes = []
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
