"""A comparison in words: what to train with, what a statistician asks about, and what weakens the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rsseg.compare.findings import Findings
from rsseg.compare.inference import CLAIMED, GROUPS, SEEDS, Estimates, effective_groups, sum_groups
from rsseg.compare.tuning import shared
from rsseg.config.plan import SEARCH_SEED, TRIALS
from rsseg.metrics import metrics
from rsseg.metrics.scores import class_pixels
from rsseg.task import Task

FEW = 5.0
"""A class that is as good as in fewer groups is named."""

LIKELY = 0.1
"""A loss that is the best one with at least this probability is recommended beside the first."""


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


def _ordered(estimates: Estimates) -> list[int]:
    value = estimates.mean.value
    return [int(i) for i in np.argsort(-value if estimates.measure.higher_is_better else value, kind="stable")]


def behind(estimates: Estimates) -> list[int]:
    """The losses that are surely behind the best one, the nearest first; none where nothing may be claimed."""
    first, *others = _ordered(estimates)
    return [i for i in others if estimates.lead().low[first, i] > 0]


def answer(found: Findings) -> list[str]:
    """What to train with, and whether to tune the threshold: the first screen."""
    if len(found.labels) < 2:
        return [f"There is only one loss, {found.labels[0]}: train others to compare it with, such as loss=ce,dice."]
    if not found.ranked.claims:
        first = found.order[0]
        return [
            f"{found.labels[first]} has the {_superlative(found)} {_name(found)} so far, {number(found.ranked.mean.value[first])}. "
            f"With {len(found.seeds)} seed{'s' * (len(found.seeds) > 1)} per loss no loss can be called better than another: train "
            f"at least {CLAIMED}, better {SEEDS}."
        ]
    tune = _worth_tuning(found)
    judged = found.tuned if tune and found.tuned is not None else found.ranked
    return [_train_with(found, judged, tune), *_tuning(found, judged, tune), *_behind(found, judged), *_expected(found)]


def _name(found: Findings) -> str:
    return found.ranked.measure.label


def _superlative(found: Findings) -> str:
    return "highest" if found.ranked.measure.higher_is_better else "lowest"


def _worth_tuning(found: Findings) -> bool:
    """Whether tuning surely helps the loss that is best with it; where losses are ranked by what it is tuned for."""
    if found.tuned is None or found.gain is None or found.metric != found.tuned_for:
        return False
    return bool(found.gain.score.low[_ordered(found.tuned)[0]] > 0)


def _train_with(found: Findings, judged: Estimates, tune: bool) -> str:
    first, *others = _ordered(judged)
    surely = behind(judged)
    near = [i for i in others if i not in surely]
    advice = f", and tune {found.task.all_tuned}" if tune else ""
    if not tune and found.gain is not None and found.metric == found.tuned_for:
        advice = f", and leave {found.task.all_tuned} as {'they are' if found.task.all_tuned.endswith('s') else 'it is'}"
    if not near:
        return f"Train with {found.labels[first]}{advice}: it is surely better than every other loss."
    names = [found.labels[i] for i in near]
    if len(near) == len(others):
        equal = (np.abs(judged.lead().low[first, near]) < found.equal_within).all() and (
            judged.lead().high[first, near] < found.equal_within
        ).all()
        if equal:
            return (
                f"Train with any of them{advice}: {found.labels[first]} is first, and no other differs from it by "
                f"{found.equal_within:g} or more."
            )
        return f"Train with {found.labels[first]}{advice}. No loss is surely better than another here."
    some = listed(names[:3], "or") if len(names) <= 3 else f"{', '.join(names[:3])} or {len(names) - 3} others"
    verb = "is" if len(names) == 1 else "are"
    return f"Train with {found.labels[first]}, or with {some}, which {verb} not surely behind it{advice}."


def _tuning(found: Findings, judged: Estimates, tune: bool) -> list[str]:
    """What tuning gains, beside what the losses differ by."""
    if found.gain is None or found.task.real:
        return []
    first = _ordered(judged)[0]
    gain, low, high = found.gain.score.at(first)
    label, all_tuned = found.labels[first], found.task.all_tuned
    metric = found.metrics[found.tuned_for].label
    fixed = found.estimates[found.tuned_for].mean.value
    gains = found.gain.mean.value
    sentence = f"Tuned on other areas, {all_tuned} of {label} {'gain' if all_tuned.endswith('s') else 'gains'} {number(gain)} of {metric}"
    sentence += f"{brackets(low, high, sign=True)}"
    if not tune and not np.isnan(low):
        sentence += ", which may be chance" if low <= 0 <= high else ""
    spread = float(np.nanmax(fixed) - np.nanmin(fixed))
    return [
        f"{sentence}.",
        f"From first to last the losses differ by {number(spread)} of {metric}; tuning gains them between "
        f"{number(float(gains.min()), True)} and {number(float(gains.max()), True)}.",
    ]


def _behind(found: Findings, judged: Estimates) -> list[str]:
    """The losses that are surely behind, each with its interval; of many the nearest."""
    first, lead = _ordered(judged)[0], judged.lead()
    unit = f" {judged.measure.unit}" * bool(judged.measure.unit)
    surely, tuned = behind(judged), "Tuned, " * (judged is found.tuned)
    said = []
    for i in surely[:4]:
        gap, low, high = lead.at(first, i)
        said.append(f"{tuned}{found.labels[i]} is surely behind, by {number(gap)}{unit}{brackets(low, high)}.")
    if len(surely) > 4:
        said.append(f"So are {len(surely) - 4} more: {listed([found.labels[i] for i in surely[4:]])}.")
    return said


def _expected(found: Findings) -> list[str]:
    chances, unit = found.chances, f" {found.ranked.measure.unit}" * bool(found.ranked.measure.unit)
    if chances is None:
        return []
    likely = int(np.argmax(chances.best))
    return [
        f"{found.labels[likely]} is the best of the {len(found.labels)} with a probability of {percent(chances.best[likely])}: "
        f"expect {_article(_name(found))} {_name(found)} of {number(chances.mean[likely])}{unit} on new areas. Where another loss is "
        f"the better one, choosing it costs {number(chances.regret[likely])}{unit} on average."
    ]


def _article(word: str) -> str:
    return "an" if word[:1] in "AEIOaeio" or word.startswith(("F", "MAE", "RMSE", "R2")) else "a"


def statistics(found: Findings) -> list[str]:
    """What a statistician asks about: what could be seen, what would decide, and what the figures hold for."""
    said, known = [], found.reach
    if known is not None and found.ranked.claims:
        limit = {"seeds": f"the {len(found.seeds)} seeds", "groups": f"the {found.group_count} {_areas(found)}"}[known.limit]
        said.append(f"Differences of less than {number(known.gap)} can't be told from chance here; {limit} limit that most.")
        said += _what_decides(found)
    said.append(_holds_for(found))
    optimism = np.nanmean(found.optimism) if not np.isnan(found.optimism).all() else np.nan
    if not np.isnan(optimism) and len(set(found.groups)) > 1:
        said.append(
            f"Every scene is scored by checkpoints and thresholds chosen on other {_areas(found)}. On the scenes that chose them, scores "
            f"would look better by {number(float(optimism))} on average."
        )
    return said


def _areas(found: Findings) -> str:
    """What the groups are called: scenes where each is one."""
    return "scenes" if len(set(found.groups)) == len(found.scenes) else "areas"


def _what_decides(found: Findings) -> list[str]:
    known, (first, second, *_) = found.reach, found.order
    low, high = (float(x[first, second]) for x in (found.ranked.lead().low, found.ranked.lead().high))
    if known is None or low > 0:
        return []
    pair = f"{found.labels[first]} and {found.labels[second]}"
    if max(-low, high) < found.equal_within:
        return [f"{pair} are practically equal: they differ by less than {found.equal_within:g}."]
    if known.seeds is not None:
        more = range(max(found.seeds) + 1, max(found.seeds) + 1 + known.seeds - len(found.seeds))
        command = found.comparison.plan.command(seeds=list(more)) if len(more) <= 100 else ""
        how = f": {command}" * bool(command)
        return [f"If {pair} differ as they seem to, about {known.seeds} seeds per loss would tell them apart{how}."]
    if known.groups is not None:
        return [
            f"If {pair} differ as they seem to, no number of seeds would tell them apart; about {known.groups} {_areas(found)} would."
        ]
    return [f"Neither more seeds nor more {_areas(found)} alone would tell {pair} apart."]


def _holds_for(found: Findings) -> str:
    first, runs = found.comparison.runs[0][0], found.comparison.all_runs
    rates = sorted({run.rate for run in runs if not np.isnan(run.rate)})
    rate = f", a learning rate of {rates[0]:g}" if len(rates) == 1 else ", each loss's learning rate" if rates else ""
    steps = sorted({int(run.summary["steps"]) for run in runs})
    return (
        f"All this holds for models trained on these {len(first.data['scenes']['train'])} training scenes, for areas like the "
        f"{found.group_count} that are scored, for {listed([f'{n:,}'.replace(',', ' ') for n in steps])} steps{rate}."
    )


def caveats(found: Findings) -> list[str]:
    """What weakens the answer, one sentence each, with what to do."""
    comparison = found.comparison
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
            f"Only {groups} independent {_areas(found)} are scored ({listed(list(dict.fromkeys(map(str, found.groups))))}): what they have in "
            "common is taken for what all have; validate on six or more, or let folds score every area (sweep=kfold)."
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
            f"{_kind(found.task)} {name} lies in one of {found.group_count} {areas}{nearly}: how it varies can't be known, so it is "
            f"left out of means. With it {found.metrics[found.tuned_for].label} is "
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
        f"Class {found.task.classes[c]} occurs in one half of the {_areas(found)} alone: its {found.task.tuned} could not be tuned on "
        "the one and scored on the other, and is left as it was."
        for c in np.flatnonzero(holds.any(0) & ~shared(holds, first))
    ]


def _training(found: Findings) -> list[str]:
    """Whether runs are trained to the end, and which of them failed or collapsed."""
    notes, last, runs = [], int(found.last_is_best.sum()), found.last_is_best.size
    if 2 * last > runs:
        notes.append(
            f"In {last} of {runs} runs the best checkpoint is the last one: they may not be trained to the end, and the order may "
            "change with more steps (steps=...)."
        )
    for label, row in zip(found.labels, found.collapsed, strict=True):
        if row.any():
            notes.append(
                f"{label}: {int(row.sum())} of {len(row)} runs collapsed; they give every pixel one label. A lower learning rate may "
                "help."
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
    for run in runs:
        if run.summary["steps"] < int(run.config.steps):
            notes.append(f"{run.label}, seed {run.seed}: stopped early, at step {run.summary['steps']} of {run.config.steps}.")
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
