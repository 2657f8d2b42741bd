"""A comparison in words: the answer in two sentences, and what one must know before believing it."""

from __future__ import annotations

import numpy as np

from rsseg.alignment.bootstrap import SEEDS
from rsseg.alignment.counts import pooled
from rsseg.alignment.fair import Comparison, differences
from rsseg.alignment.findings import MEASURES, PLAIN, Findings
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
    if low > 0:
        return f"{leader} gives the best {name}: {score}, {by}.{weak}"
    return f"No loss is surely the best: {leader} has the highest {name}, {score}, but only {by}.{weak}"


def reference(found: Findings) -> int:
    """The loss that the best one is held against after tuning: cross-entropy if it is there and not the best, else the next."""
    others = found.order[1:]
    return next((i for i in others if is_plain(found.labels[i])), others[0])


def is_plain(label: str) -> bool:
    """Whether a label says cross-entropy and no more.

    Example:
        >>> is_plain("ce"), is_plain("ce imbalance/ce"), is_plain("ce imbalance/paste")
        (True, True, False)
    """
    loss, *rest = label.split()
    return loss in PLAIN and all(word.rsplit("/")[-1] == loss for word in rest)


def _after_tuning(found: Findings) -> str:
    if found.wins_tuned is None or found.fixed is None:
        return (
            "Whether the difference survives tuning the threshold is not known: nothing was recorded to tune on, or one scene."
        )
    what = "biases per class" if found.head.task is TaskKind.multiclass else "thresholds"
    best, other = found.order[0], reference(found)
    scores = pooled(found.fixed, found.tuned_metric).mean(1)
    before = scores[best] - scores[other]
    after, low, high = (getattr(found.wins_tuned.difference, end)[best, other] for end in ("value", "low", "high"))
    name = MEASURES[found.tuned_metric][0]
    change = (
        f"with {what} tuned on other scenes its {name} lead over {found.labels[other]} goes from {number(before, True)} to "
        f"{number(after, True)}{span(low, high, True)}"
    )
    if np.isnan(low):
        verdict = "what remains can't be told from chance"
    elif low > 0:
        verdict = "the difference survives" if after >= before / 2 else "most of it was a matter of the threshold"
    elif high < 0:
        verdict = "the order turns round"
    elif after >= before / 2 > 0:
        verdict = "the difference stays, but may be chance"
    else:
        verdict = "no difference that could be told from zero is left"
    return f"{change[0].upper()}{change[1:]}: {verdict}."


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
        notes.append(
            "No run has records: intervals are over seeds alone, and thresholds, contours, calibration and gradients are not "
            "known; train again with this version of rsseg and recording on."
        )
    else:
        lacking = [name for key, (name, _) in MEASURES.items() if key not in found.measures]
        lacking += [] if found.tuned is not None or scenes == 1 else ["tuned thresholds"]
        if lacking:
            notes.append(f"Not recorded, so not compared: {', '.join(lacking)}.")
    if found.estimated:
        old = [run for run in runs if run.records and run.records.best and run.records.best.crossfit is None]
        notes.append(
            f"Scores at tuned biases are estimates from samples of logits: {len(old)} of {len(runs)} runs, such as "
            f"{old[0].folder}, have no counts at tuned biases (crossfit in records/best.npz), as an earlier version of rsseg "
            "did not make them; train them again to have every pixel counted."
        )
    absent = runs[0].classes[(runs[0].classes["pixels"] == 0) & (runs[0].classes["class"] != "mean")]["class"]
    notes += [f"Class {name} does not occur in the validation scenes: it is in no mean; add scenes with it." for name in absent]
    notes += found.notes + _trouble(comparison)
    if not any(is_plain(label) for label in found.labels):
        notes.append(
            "No plain cross-entropy among the runs: whether the best loss gives more than cross-entropy with a tuned threshold "
            "is not known; add loss=ce."
        )
    return notes + _rates(comparison)


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
    kept = differences(runs)
    if kept:
        notes.append(f"Unfair, and kept because unfair=keep asked for it: the runs have different {', '.join(kept)}.")
    if any(run.origin["git"]["changed"] for run in runs):
        notes.append("Some runs were made with uncommitted changes: their commit does not say which code ran.")
    if comparison.left_out:
        notes.append(f"{len(comparison.left_out)} runs are left out; the protocol below says why.")
    return notes


def _rates(comparison: Comparison) -> list[str]:
    """How learning rates were chosen."""
    notes = []
    for label, (rate, tried) in comparison.rates.items():
        if label in comparison.labels and len(tried) > 1 and rate in (tried[0], tried[-1]):
            notes.append(
                f"{label}: the search seeds chose learning rate {rate:g}, the {'smallest' if rate == tried[0] else 'largest'} "
                "tried; a wider search may do better."
            )
    if not comparison.rates and len({run.rate for row in comparison.runs for run in row}) > 1:
        notes.append(
            f"Learning rates differ, but there are no seeds from {SEARCH_SEED} on to choose among them: every rate is a row of "
            "its own. The best of several rows looks better than it is; use sweep=losses_lr."
        )
    return notes
