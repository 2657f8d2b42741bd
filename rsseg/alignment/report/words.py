"""A comparison in words: the answer in two sentences, and what one must know before believing it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsseg.alignment.bootstrap import SEEDS
from rsseg.alignment.counts import pooled
from rsseg.alignment.fair import Comparison
from rsseg.alignment.findings import MEASURES, Findings
from rsseg.alignment.runs import SEARCH_SEED
from rsseg.contract import TaskKind


def number(value: float, sign: bool = False) -> str:
    """Three decimals; a dash for NaN.

    Example:
        >>> number(0.12345), number(0.02, sign=True), number(float("nan"))
        ('0.123', '+0.020', '-')
    """
    return "-" if np.isnan(value) else f"{value:+.3f}" if sign else f"{value:.3f}"


def span(low: float, high: float, sign: bool = False) -> str:
    """An interval in brackets; nothing where it isn't known."""
    return "" if np.isnan(low) else f" ({number(low, sign)} to {number(high, sign)})"


def answer(found: Findings) -> list[str]:
    """Which loss is best, by how much and how surely; and whether tuning the threshold leaves the difference."""
    if len(found.labels) < 2:
        return [f"There is only one loss, {found.labels[0]}: train others to compare it with, such as loss=ce,dice."]
    return [_lead(found), _after_tuning(found)]


def _lead(found: Findings) -> str:
    best, second = found.order[:2]
    win, name = found.wins[found.metric], MEASURES[found.metric][0]
    score = f"{number(win.score.value[best])}{span(win.score.low[best], win.score.high[best])}"
    gap, low, high = (getattr(win.difference, end)[best, second] for end in ("value", "low", "high"))
    share = win.better[best, second]
    ahead = "" if np.isnan(share) else f", and is ahead with a confidence of {100 * share:.0f} %"
    by = f"{number(gap)}{span(low, high, sign=True)} above {found.labels[second]}, the next best{ahead}"
    weak = f" With {len(found.seeds)} seed{'s' * (len(found.seeds) > 1)} this is exploratory." if win.exploratory else ""
    leader = found.labels[best]
    if np.isnan(low):
        return f"{leader} has the highest {name}, {score}, {by}; how sure that is can't be said.{weak}"
    near = [found.labels[i] for i in found.order[1:] if not win.difference.low[best, i] > 0]
    if not near:
        return f"{leader} gives the best {name}: {score}, {by}.{weak}"
    but = "" if low > 0 else "but only "
    others = "" if near == [found.labels[second]] else f" Not told apart from it: {listed(near)}."
    return f"No loss is surely the best: {leader} has the highest {name}, {score}, {but}{by}.{others}{weak}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas; if they are many, the first of them and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=1)
        'a and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def reference(found: Findings) -> int:
    """The loss that the best one is held against after tuning: cross-entropy if it is there and not the best, else the next."""
    others = found.order[1:]
    return next((i for i in others if found.plain[i]), others[0])


def _after_tuning(found: Findings) -> str:
    if found.wins_tuned is None or found.fixed is None:
        return "Whether the difference survives tuning the threshold is not known; the notes say why."
    what = "biases per class" if found.head.task is TaskKind.multiclass else "thresholds"
    best, other = found.order[0], reference(found)
    scores = pooled(found.fixed, found.tuned_metric).mean(1)
    before = scores[best] - scores[other]
    after, low, high = (getattr(found.wins_tuned.difference, end)[best, other] for end in ("value", "low", "high"))
    gap = f"{MEASURES[found.tuned_metric][0]} {'lead over' if before > 0 else 'difference to'} {found.labels[other]}"
    ends = f"from {number(before, True)} to {number(after, True)}{span(low, high, True)}"
    said = f"With {what} tuned on other scenes its {gap} goes {ends}: {verdict(before, after, low, high)}."
    first = int(np.nanargmax(found.wins_tuned.score.value))
    if first == best:
        return said
    score = number(found.wins_tuned.score.value[first])
    return f"{said} Tuned, {found.labels[first]} has the highest {MEASURES[found.tuned_metric][0]}, {score}."


def verdict(before: float, after: float, low: float, high: float) -> str:
    """What tuning makes of a difference, whose interval after tuning is known.

    Where losses are ranked by another metric than thresholds are tuned for, the leader may be behind before tuning.

    Example:
        >>> verdict(before=0.06, after=0.05, low=0.02, high=0.08), verdict(before=-0.06, after=-0.05, low=-0.08, high=-0.02)
        ('the difference survives', 'it is behind with and without tuning')
    """
    if np.isnan(low):
        return "what remains can't be told from chance"
    if low > 0:
        if before <= 0:
            return "only tuning puts it ahead"
        return "the difference survives" if after >= before / 2 else "most of it was a matter of the threshold"
    if high < 0:
        return "the order turns round" if before > 0 else "it is behind with and without tuning"
    if before > 0 and after >= before / 2:
        return "the difference stays, but may be chance"
    return "no difference that could be told from zero is left"


def caveats(comparison: Comparison, found: Findings) -> list[str]:
    """What weakens the answer, one sentence each, with what to do."""
    runs = [run for row in comparison.runs for run in row]
    notes = []
    seeds, scenes = len(found.seeds), len(found.scenes)
    if seeds == 1:
        notes.append(f"Only seed {found.seeds[0]}: no interval can be given; train at least {SEEDS} seeds per loss.")
    elif seeds < SEEDS:
        notes.append(f"Exploratory: {seeds} seeds per loss. Train {SEEDS} or more before you rely on an order.")
    if scenes == 1:
        notes.append("One validation scene: no interval and no cross-fitted threshold; validate on more scenes.")
    if found.counts is None:
        some = sum(run.unrecorded is None for run in runs)
        few = f"Only {some} of {len(runs)} runs {'have' if some > 1 else 'has'} records" if some else "No run has records"
        notes.append(
            f"{few}: intervals are over seeds alone, and thresholds, contours, calibration and gradients are not known; train "
            "again with this version of rsseg and recording on."
        )
    else:
        lacking = [name for key, (name, _) in MEASURES.items() if key not in found.measures]
        if lacking:
            notes.append(f"Not recorded, so not compared: {', '.join(lacking)}.")
    absent = runs[0].classes[(runs[0].classes["pixels"] == 0) & (runs[0].classes["class"] != "mean")]["class"]
    notes += [f"Class {name} does not occur in the validation scenes: it is in no mean; add scenes with it." for name in absent]
    notes += found.notes + _trouble(comparison)
    if not any(found.plain):
        notes.append(
            "No plain cross-entropy among the runs: whether the best loss gives more than cross-entropy with a tuned threshold "
            "is not known; add loss=ce."
        )
    return notes + _rates(comparison, found)


def _trouble(comparison: Comparison) -> list[str]:
    """What runs had trouble with, or differ in."""
    runs = [run for row in comparison.runs for run in row]
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
    if comparison.unfair:
        what = listed(comparison.unfair)
        notes.append(f"Unfair, and kept because unfair=keep asked for it: the runs have different {what}.")
    if comparison.design:
        nodes = list(dict.fromkeys(key.split(".")[0] for key in comparison.design))
        notes.append(
            f"The rows are recipes: by design they differ in {listed(nodes)} as well, so a lead may not be the loss's."
        )
    if len({(run.origin["platform"], run.origin["python"]) for run in runs}) > 1:
        notes.append(
            "The runs were made on different platforms, which may change scores a little; the protocol below names them."
        )
    heads = list(runs[0].config.model.heads)
    if len(heads) > 1:
        notes.append(f"The runs have {len(heads)} heads, {listed(heads)}: {heads[0]} alone is compared.")
    if any(run.origin["git"]["changed"] for run in runs):
        notes.append("Some runs were made with uncommitted changes: their commit does not say which code ran.")
    if comparison.left_out:
        many = len(comparison.left_out)
        notes.append(f"{many} run{'s are' if many > 1 else ' is'} left out; the protocol below says why.")
    return notes


def _rates(comparison: Comparison, found: Findings) -> list[str]:
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
    if rates and found.metric != "iou":
        notes.append(f"Learning rates were chosen by IoU, not by {MEASURES[found.metric][0]}.")
    if not comparison.rates and len({run.rate for row in comparison.runs for run in row}) > 1:
        notes.append(
            f"Learning rates differ, but there are no seeds from {SEARCH_SEED} on to choose among them: every rate is a row of "
            "its own. The best of several rows looks better than it is; use sweep=losses_lr."
        )
    return notes
