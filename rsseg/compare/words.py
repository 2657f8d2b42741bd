"""A comparison in words: what to train with, what a statistician asks about, and what weakens the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rsseg.compare.findings import Findings
from rsseg.compare.inference import CLAIMED, GROUPS, SEEDS, Reach, effective_groups, sum_groups
from rsseg.compare.tuning import shared
from rsseg.config.plan import SEARCH_SEED, TRIALS
from rsseg.metrics import metrics
from rsseg.metrics.scores import class_pixels
from rsseg.task import Task

FEW = 5.0
"""A class that is as good as in fewer groups is named."""


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


def brackets(low: float, high: float, sign: bool = False) -> str:
    """An interval in brackets behind a number; empty where it isn't known."""
    return "" if np.isnan(low) else f" ({span(low, high, sign)})"


def percent(share: float) -> str:
    """A probability; never 0 or 100 %, which no sample gives.

    Example:
        >>> percent(0.573), percent(0.9999), percent(0.0)
        ('57 %', '>99 %', '<1 %')
    """
    return ">99 %" if share > 0.99 else "<1 %" if share < 0.01 else f"{100 * share:.0f} %"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words as a list in a sentence.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a", "b"], "or")
        ('a, b and c', 'a or b')
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def answer(found: Findings) -> list[str]:
    """What to train with, and whether to tune the threshold: the first screen."""
    labels, seeds = found.labels, len(found.seeds)
    if len(labels) < 2:
        return [f"There is only one loss, {labels[0]}: train others to compare it with, such as loss=ce,dice."]
    if not found.ranked.claims:
        best, extreme = found.order[0], "highest" if found.ranked.measure.higher_is_better else "lowest"
        return [
            f"{labels[best]} has the {extreme} {_name(found)} so far, {_quantity(found, found.ranked.mean.value[best])}. With {seeds} "
            f"seed{'s' * (seeds > 1)} per loss no loss can be called better than another: train at least {CLAIMED}, better {SEEDS}."
        ]
    return [_train_with(found), *_behind(found), *_tuning(found), *_expected(found)]


def _name(found: Findings) -> str:
    return found.ranked.measure.label


def _quantity(found: Findings, value: float, sign: bool = False) -> str:
    """A score, or difference of scores, with its unit."""
    return f"{number(value, sign)} {found.ranked.measure.unit}".strip()


def _areas(found: Findings) -> str:
    """What the groups are called: scenes where each is one."""
    return "scenes" if found.group_count == len(found.scenes) else "areas"


def _train_with(found: Findings) -> str:
    best, *others = found.advised.order
    label, near = found.labels[best], [i for i in others if i not in found.advised.behind]
    how = ""
    if found.gain is not None and found.metric == found.tuned_for:
        how = f" and tune {found.task.all_tuned}" if found.tune else f" without tuning {found.task.all_tuned}"
    if not near:
        return f"Train with {label}{how}: it is surely better than every other loss."
    lead = found.advised.lead()
    if max(np.abs([lead.low[best, near], lead.high[best, near]]).max(), 0) < found.equal_within and len(near) == len(others):
        return f"Train with any of these losses{how}: none differs from {label} by {found.equal_within:g} of {_name(found)} or more."
    if len(near) == len(others):
        return f"Train with {label}{how}; no loss is surely better than another here."
    names = [found.labels[i] for i in near]
    some = listed([*names[:3], f"{len(names) - 3} others"] if len(names) > 3 else names, "or")
    return f"Train with {label}{how}, or with {some}: {'that is' if len(near) == 1 else 'these are'} not surely behind it."


def _behind(found: Findings) -> list[str]:
    """The losses that are surely behind, each with its interval; of many the nearest."""
    surely, lead, best = found.advised.behind, found.advised.lead(), found.advised.order[0]
    as_used = ", both tuned" * found.tune
    said = []
    for i in surely[:4]:
        gap, low, high = lead.at(best, i)
        said.append(f"{found.labels[i]} is surely behind it{as_used}, by {_quantity(found, gap)}{brackets(low, high)}.")
    if len(surely) > 4:
        said.append(f"So {'is' if len(surely) == 5 else 'are'} {listed([found.labels[i] for i in surely[4:]])}.")
    return said


def _tuning(found: Findings) -> list[str]:
    """What tuning gains, beside what the losses differ by."""
    if found.gain is None:
        return []
    best, metric = found.advised.order[0], found.metrics[found.tuned_for].label
    gain, low, high = found.gain.score.at(best)
    chance = ", which may be chance" if low <= 0 <= high else ""
    fixed, gains = found.estimates[found.tuned_for].mean.value, found.gain.mean.value
    return [
        f"For {found.labels[best]}, tuning {found.task.all_tuned} on other {_areas(found)} changes {metric} by "
        f"{number(gain, True)}{brackets(low, high, sign=True)}{chance}.",
        f"Tuning changes the losses' {metric} by {number(gains.min(), True)} to {number(gains.max(), True)}; untuned they differ by "
        f"{number(np.ptp(fixed))} from first to last.",
    ]


def _expected(found: Findings) -> list[str]:
    if found.chances is None:
        return []
    best = found.advised.order[0]
    chance, expected, regret = (x[best] for x in (found.chances.best, found.chances.mean, found.chances.regret))
    return [
        f"With a probability of {percent(chance)} {found.labels[best]} is the best of the {len(found.labels)}; expect "
        f"{_quantity(found, expected)} of {_name(found)} on new areas, {_quantity(found, regret)} from the best one on average."
    ]


def statistics(found: Findings) -> list[str]:
    """What a statistician asks about: what could be seen, what would decide, and what the figures hold for."""
    said, known = [], found.reach
    if known is not None and found.ranked.claims:
        limit = f"the {len(found.seeds)} seeds" if known.limit == "seeds" else f"the {found.group_count} {_areas(found)}"
        said.append(f"Differences below {_quantity(found, known.gap)} can't be told from chance here: {limit} limit that most.")
        said += _what_decides(found, known)
    optimism = found.optimism[~np.isnan(found.optimism)]
    if len(optimism) and found.group_count > 1:
        said.append(
            f"Every scene is scored by checkpoints and thresholds that were chosen on other {_areas(found)}. On the scenes that chose "
            f"them, scores look better by {_quantity(found, float(optimism.mean()))} on average."
        )
    return [*said, _holds_for(found)]


def _what_decides(found: Findings, known: Reach) -> list[str]:
    first, second, *_ = found.advised.order
    low, high = (float(ends[first, second]) for ends in (found.advised.lead().low, found.advised.lead().high))
    pair, areas = f"{found.labels[first]} and {found.labels[second]}", _areas(found)
    if low > 0:
        return []
    if max(-low, high) < found.equal_within:
        return [f"{pair} are practically equal: they differ by less than {found.equal_within:g}."]
    if known.seeds is not None:
        newest = max(found.seeds)
        command = found.comparison.plan.command(range(newest + 1, newest + 1 + known.seeds - len(found.seeds)))
        how = f": {command}" if command and known.seeds <= 50 else ""
        return [f"If {pair} differ as they seem to, about {known.seeds} seeds per loss tell them apart{how}."]
    if known.groups is not None:
        return [f"If {pair} differ as they seem to, no number of seeds tells them apart, but about {known.groups} {areas} do."]
    return [f"{pair} are so close that neither more seeds nor more {areas} alone tell them apart."]


def _holds_for(found: Findings) -> str:
    runs = found.comparison.all_runs
    trained = len(runs[0].data["scenes"]["train"])
    rates = sorted({run.rate for run in runs if not np.isnan(run.rate)})
    rate = f" at a learning rate of {rates[0]:g}" if len(rates) == 1 else " at each loss's learning rate" if rates else ""
    steps = listed([str(n) for n in sorted({int(run.summary["steps"]) for run in runs})])
    return (
        f"This holds for models trained on these {trained} scenes for {steps} steps{rate}, and for areas like the "
        f"{found.group_count} that score them."
    )


def caveats(found: Findings) -> list[str]:
    """What weakens the answer, one sentence each, with what to do."""
    notes = _sample(found) + _classes(found) + _training(found)
    if found.metric != found.tuned_for and found.tuned is not None:
        notes.append(f"Thresholds are tuned for {found.tuned_for}: what tuning does to {_name(found)} is not known.")
    if found.tuned is None and not found.task.real:
        notes.append(f"What tuning gains is not known: {_why_untuned(found)}.")
    notes += found.gradients.notes + _trouble(found)
    if not found.task.real and not any(found.plain):
        notes.append(
            "No plain cross-entropy among the runs: whether the best loss gives more than cross-entropy with a tuned threshold "
            "is not known; add loss=ce."
        )
    return notes + _rates(found)


def _sample(found: Findings) -> list[str]:
    """Too few seeds or areas, or records."""
    notes, seeds, groups = [], len(found.seeds), found.group_count
    if CLAIMED <= seeds < SEEDS:
        notes.append(f"Exploratory: {seeds} seeds per loss, whose spread says little of others'. Train {SEEDS} or more.")
    if groups == 1:
        notes.append(
            "All scenes lie in one area: no interval can be given, and every score is of the scenes that chose the checkpoint; "
            "validate on more areas, or name them by dataset.source.group."
        )
    elif groups < GROUPS:
        notes.append(
            f"Only {groups} independent {_areas(found)} are scored, {listed(list(dict.fromkeys(map(str, found.groups))))}: intervals say "
            f"little of others. Validate on {GROUPS} or more, or score every area in turn (sweep=kfold)."
        )
    lacking = [measure.label for name, measure in found.measures.items() if name not in found.estimates]
    if lacking:
        notes.append(f"Not recorded, so not compared: {', '.join(lacking)}.")
    return notes


def _kind(task: Task, many: bool = False) -> str:
    """What a score of its own is of."""
    return {"class": ("Class", "Classes"), "value": ("Value", "Values")}[task.score_of][many]


def _classes(found: Findings) -> list[str]:
    """The classes that are absent, or occur in few areas, or were not tuned."""
    pixels = metrics(found.task)[found.task.score].pixels(found.counts[0, 0])
    grouped, areas, notes = sum_groups(pixels, found.groups), _areas(found), []
    absence = "is known nowhere" if found.task.score_of == "value" else "does not occur"
    notes += [
        f"{_kind(found.task)} {found.task.classes[c]} {absence} in the scenes that are scored: it is in no mean."
        for c in np.flatnonzero(pixels.sum(0) == 0)
    ]
    for name in found.lone:
        c = found.task.classes.index(name)
        holding = int((grouped[:, c] > 0).sum())
        nearly = "" if holding == 1 else f", nearly all of it in one ({holding} hold some)"
        with_it = metrics(found.task, found.without)[found.tuned_for](found.counts).mean(1)
        notes.append(
            f"{_kind(found.task)} {name} lies in one of {found.group_count} {areas}{nearly}: how it varies can't be known, and it is in "
            f"no mean. With it, {found.metrics[found.tuned_for].label} is "
            + listed([f"{number(with_it[i])} for {found.labels[i]}" for i in found.order[:3]])
            + "."
        )
    if len(grouped[0]) > 1:
        good = effective_groups(grouped)
        few = [
            f"{found.task.classes[c]} (as good as {good[c]:.1f} {areas} of equal size)"
            for c in np.flatnonzero(good < FEW)
            if found.task.classes[c] not in found.lone
        ]
        if few and found.group_count >= FEW:
            notes.append(f"{_kind(found.task, many=True)} in few {areas}: {', '.join(few)}. Their scores are uncertain.")
    return notes + _one_sided(found)


def _one_sided(found: Findings) -> list[str]:
    """The classes whose threshold, or bias, was not tuned, as they occur in one half of the scenes alone."""
    first = found.comparison.runs[0][0].recorded.first
    if first.all() or found.task.real or len(first) != len(found.scenes):
        return []
    holds = class_pixels(found.counts[0, 0]) > 0
    return [
        f"Class {found.task.classes[c]} occurs in one half of the {_areas(found)} alone: its {found.task.tuned} can't be tuned on "
        "the one and scored on the other, and is left as it is."
        for c in np.flatnonzero(holds.any(0) & ~shared(holds, first))
    ]


def _training(found: Findings) -> list[str]:
    """Whether runs are trained to the end, and which of them failed or collapsed."""
    notes, last, runs = [], int(found.last_is_best.sum()), found.last_is_best.size
    if 2 * last > runs:
        notes.append(
            f"In {last} of {runs} runs the best checkpoint is the last one: they are not trained to the end, and the order may change "
            "with more steps (steps=...)."
        )
    for label, row in zip(found.labels, found.collapsed, strict=True):
        if row.any():
            notes.append(
                f"{label}: {int(row.sum())} of {len(row)} runs give every pixel one label; a lower learning rate may help."
            )
    for label, many in found.comparison.failed.items():
        notes.append(
            f"{label}: {many} run{'s' * (many > 1)} failed and {'are' if many > 1 else 'is'} not scored: it is worse than it looks."
        )
    return notes


def _why_untuned(found: Findings) -> str:
    for run in found.comparison.all_runs:
        crossed = run.recorded.crossed
        if crossed is None:
            return f"{run.folder} has no counts at tuned thresholds"
        if crossed.untuned:
            return crossed.untuned
    return "some run has no counts at tuned thresholds"


def _trouble(found: Findings) -> list[str]:
    """What runs had trouble with, or differ in."""
    comparison, notes = found.comparison, []
    runs = comparison.all_runs
    notes += [
        f"{run.label}, seed {run.seed}: stopped early, at step {run.summary['steps']} of {run.config.steps}."
        for run in runs
        if run.summary["steps"] < int(run.config.steps)
    ]
    if any((run.folder.parent / TRIALS).is_file() for run in runs):
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
        many, why = len(comparison.left_out), Counter(left.why for left in comparison.left_out).most_common(1)[0][0]
        notes.append(f"{many} run{'s are' if many > 1 else ' is'} left out, such as: {why}; the protocol says why of each.")
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
