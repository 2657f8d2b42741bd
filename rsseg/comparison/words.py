"""A comparison in words: what to train with, what a statistician asks about, and what weakens the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import CLAIMED, MOST, SEEDS, Reach, effective_groups, sum_groups
from rsseg.comparison.selection import NO_HEAD
from rsseg.comparison.tuning import shared
from rsseg.config.plan import SEARCH_SEED, TRIALS
from rsseg.contract import ENOUGH_GROUPS
from rsseg.metrics import metrics
from rsseg.metrics.scores import class_pixels
from rsseg.task import Task

FEW = 5.0
"""A class of fewer `effective_groups` is named."""

AFFORDABLE = 10
"""The command for more seeds is given for this many times as many at most."""


def number(value: float, sign: bool = False) -> str:
    """Three decimals; a dash for NaN."""
    rounded = round(float(value), 3) + 0.0  # no minus before 0.000
    return "-" if np.isnan(value) else f"{rounded:+.3f}" if sign else f"{rounded:.3f}"


def span(low: float, high: float, sign: bool = False) -> str:
    """An interval; empty where it isn't known."""
    return "" if np.isnan(low) else f"{number(low, sign)} to {number(high, sign)}"


def brackets(low: float, high: float, sign: bool = False) -> str:
    """An interval in brackets behind a number; empty where it isn't known."""
    return "" if np.isnan(low) else f" ({span(low, high, sign)})"


def percent(share: float) -> str:
    """A probability; never 0 or 100 %, which no sample gives."""
    return ">99 %" if share > 0.99 else "<1 %" if share < 0.01 else f"{100 * share:.0f} %"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words as a list in a sentence: a, b and c."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def answer(found: Findings) -> list[str]:
    """What to train with, and whether to tune the threshold: the first screen."""
    if len(found.labels) < 2:
        return [f"There is only one loss, {found.labels[0]}: train others to compare it with, such as loss=ce,dice."]
    if not found.ranked.claims or found.reach is None:
        return [_so_far(found), *_unlearnt(found)]
    return [_train_with(found), *_unlearnt(found), *_absent(found), *_behind(found), *_tuning(found), *_expected(found)]


def _unlearnt(found: Findings) -> list[str]:
    """Whether a baseline is as good as every loss, so that there is nothing to choose yet."""
    sign, best = found.ranked.measure.sign, found.advised.mean.value[found.advised.order[0]]
    better = {name: score for name, score in found.baselines.items() if sign * (score - best) >= 0}
    if not better:
        return []
    name, score = max(better.items(), key=lambda item: sign * item[1])
    return [
        f"No loss is better than the baseline {name}, whose {_name(found)} is {_quantity(found, score)}: train longer "
        "before choosing."
    ]


def _absent(found: Findings) -> list[str]:
    """The losses of the plan that are not compared."""
    headless = {left.run for left in found.comparison.left_out if left.why.startswith(NO_HEAD)}
    planned = dict.fromkeys(label for run, label in found.comparison.plan.labels.items() if run not in headless)
    absent = [label for label in planned if label not in found.labels]
    return [f"Not compared: {listed(absent)}; the protocol says why."] if absent else []


def _name(found: Findings) -> str:
    return found.ranked.measure.label


def _quantity(found: Findings, value: float) -> str:
    """A score, or difference of scores, with its unit."""
    return f"{number(value)} {found.ranked.measure.unit}".strip()


def _equal(found: Findings) -> str:
    """Below what losses are practically equal."""
    return f"{found.equal_within:g} {found.ranked.measure.unit or _name(found)}"


def _areas(found: Findings) -> str:
    """What the groups are called: scenes where each is one."""
    return "scenes" if found.group_count == len(found.scenes) else "areas"


def _so_far(found: Findings) -> str:
    """Which loss leads, and why that can't be called sure."""
    best, seeds = found.order[0], len(found.seeds)
    extreme = "highest" if found.ranked.measure.higher_is_better else "lowest"
    leads = f"{found.labels[best]} has the {extreme} {_name(found)} so far, {_quantity(found, found.ranked.mean.value[best])}."
    if not found.ranked.claims:
        return (
            f"{leads} With {seeds} seed{'s' * (seeds > 1)} per loss no loss can be called better than another: train at least "
            f"{CLAIMED}, better {SEEDS}.{_command(found, SEEDS)}"
        )
    what = "all scenes lie" if found.group_count == 1 else f"a {found.task.score_of} lies"
    return (
        f"{leads} No loss can be called better than another: {what} in one area, so how scores vary between areas is not known."
    )


def _train_with(found: Findings) -> str:
    best, *others = found.advised.order
    label, behind = found.labels[best], found.advised.behind
    near = [i for i in others if i not in behind]
    how = ""
    if found.gain is not None and found.metric == found.tuned_for:
        useless = found.gain.mean.value[best] <= 0
        how = f" and tune {found.task.all_tuned}" if found.tune else f" without tuning {found.task.all_tuned}" * bool(useless)
    lead = found.advised.lead()
    if not near:
        equal = [found.labels[i] for i in others if lead.high[best, i] < found.equal_within]
        close = f", but practically equal to {listed(equal)}: the lead is below {_equal(found)}" if equal else ""
        return f"Train with {label}{how}: it is surely better than every other loss{close}."
    furthest = np.abs([lead.low[best, near], lead.high[best, near]]).max()
    if furthest < found.equal_within and not behind:
        return f"Train with any of these losses{how}: none differs from {label}, the first, by {_equal(found)} or more."
    if not behind and len(near) > 1:
        return f"Train with {label}{how}, but its lead may be chance: no other loss is surely behind it."
    names = [found.labels[i] for i in near]
    some = listed([*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else names, "or")
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
    gain, low, high = found.gained.at(best)
    chance = ", which may be chance" if low <= 0 <= high else ""
    fixed, gains = found.estimates[found.tuned_for].mean.value, found.gain.mean.value
    least, most = number(gains.min(), sign=True), number(gains.max(), sign=True)
    return [
        f"For {found.labels[best]}, tuning {found.task.all_tuned} on other {_areas(found)} changes {metric} by "
        f"{number(gain, sign=True)}{brackets(low, high, sign=True)}{chance}.",
        f"Over all losses, tuning changes {metric} by {least} at least and {most} at most; untuned, the first and the last "
        f"differ by {number(np.ptp(fixed))}.",
    ]


def _expected(found: Findings) -> list[str]:
    """How probably the advised loss is the best one, and what it will score."""
    if found.chances is None:
        return []
    best, tuned, chances = found.advised.order[0], ", tuned," * found.tune, found.chances
    chance, expected, regret = float(chances.best[best]), float(chances.mean[best]), float(chances.regret[best])
    loses = f"; choosing it loses {_quantity(found, regret)} on average to the loss that is truly best"
    behind = loses if number(regret) != number(0) else ""
    return [
        f"With a probability of {percent(chance)} {found.labels[best]} is the best of the {len(found.labels)} losses. Its "
        f"expected {_name(found)}{tuned} on new areas is {_quantity(found, expected)}{behind}."
    ]


def statistics(found: Findings) -> list[str]:
    """What a statistician asks about: what could be seen, what would decide, and what the figures hold for."""
    said, known = [], found.reach
    if known is not None and found.ranked.claims:
        limit = f"{len(found.seeds)} seeds" if known.limit == "seeds" else f"{found.group_count} {_areas(found)}"
        least, most = (number(gap) for gap in known.gaps)
        unit = f" {found.ranked.measure.unit}".rstrip()
        some = f"{most}{unit}" if least == most else f"{least} to {most}{unit}, by the pair,"
        if most != number(0):
            said.append(
                f"Two losses have to differ by {some} to be told from chance here, mostly because there are only {limit}."
            )
        said += _what_decides(found, known)
    chosen = f"checkpoints{f' and {found.task.all_tuned}' * (found.tuned is not None)}"
    if not found.validated:
        said.append(f"Every scene is scored by {chosen} that were chosen on the validation split.")
    optimism = found.optimism[~np.isnan(found.optimism)]
    if len(optimism) and found.group_count > 1 and not _validated_once(found):
        better = float(optimism.mean())
        seem = f"{_quantity(found, better)} better" if number(better) > number(0) else "no better"
        said.append(
            f"Every scene is scored by {chosen} that were chosen on other {_areas(found)}: where it was chosen itself, a "
            f"checkpoint looks {seem} on average."
        )
    return [*said, _holds_for(found)]


def _what_decides(found: Findings, known: Reach) -> list[str]:
    """How many more seeds or areas would separate the best two losses."""
    first, second, *_ = found.advised.order
    _, low, high = found.advised.lead().at(first, second)
    pair, areas, seeds = f"{found.labels[first]} and {found.labels[second]}", _areas(found), len(found.seeds)
    if low > 0:
        return []
    if max(-low, high) < found.equal_within:
        return [f"{pair} are practically equal: they differ by less than {_equal(found)}."]
    if known.seeds is None and known.groups is None:
        together = f"; about {known.both[0]} seeds on {known.both[1]} {areas} would" if known.both else ""
        return [f"Neither more seeds alone nor more {areas} alone would tell {pair} apart, up to {MOST}{together}."]
    enough = [f"about {known.seeds} seeds per loss"] if known.seeds is not None else []
    enough += [f"about {known.groups} {areas}"] if known.groups is not None else []
    other = areas if known.groups is None else "seeds"
    never = f", but no number of {other} below {MOST} would" * (len(enough) == 1)
    how = _command(found, known.seeds) if known.seeds is not None and known.seeds <= AFFORDABLE * seeds else ""
    return [f"If {pair} differ as they seem to, {listed(enough, 'or')} would tell them apart{never}.{how}"]


def _command(found: Findings, seeds: int) -> str:
    """The command that trains every loss on further seeds, so that there are so many; empty where no sweep says how."""
    newest = max(found.seeds)
    command = found.comparison.plan.command(range(newest + 1, newest + 1 + seeds - len(found.seeds)))
    return f" To train them: {command}" if command else ""


def _holds_for(found: Findings) -> str:
    runs = found.comparison.all_runs
    trained = len(runs[0].data["scenes"]["train"])
    scenes = "this training scene" if trained == 1 else f"these {trained} training scenes"
    scenes = f"{scenes}, less a fold," if found.comparison.plan.folds else scenes
    rates = sorted({run.rate for run in runs if not np.isnan(run.rate)})
    rate = f" at a learning rate of {rates[0]:g}" if len(rates) == 1 else " at each loss's learning rate" if rates else ""
    steps = listed([str(n) for n in sorted({int(run.summary["steps"]) for run in runs})], "or")
    scored = "one that scores" if found.group_count == 1 else f"{found.group_count} {_areas(found)} that score"
    return f"This holds for models trained on {scenes} for {steps} steps{rate}, and for areas like the {scored} them."


def caveats(found: Findings) -> list[str]:
    """What weakens the answer, one sentence each, with what to do."""
    notes = _sample(found) + _classes(found) + _training(found)
    if found.metric != found.tuned_for and found.tuned is not None:
        tuned, what = found.task.all_tuned.capitalize(), found.metrics[found.tuned_for].label
        notes.append(f"{tuned} are tuned for {what}: what tuning does to {_name(found)} is not known.")
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
            f"Exploratory: {seeds} seeds per loss say little about others. Train {SEEDS} or more.{_command(found, SEEDS)}"
        )
    if groups == 1:
        chose = ", and every score is of the scenes that chose the checkpoint" * found.validated
        notes.append(
            f"All scenes lie in one area: no interval can be given{chose}. Score more areas, or name them by "
            "dataset.source.group."
        )
    elif groups < ENOUGH_GROUPS:
        names, in_turn = listed(list(dict.fromkeys(map(str, found.groups)))), ", or every area in turn (sweep=kfold)"
        notes.append(
            f"Only {groups} independent {_areas(found)} are scored, {names}: intervals say little about others. "
            f"Score {ENOUGH_GROUPS} or more{'' if found.comparison.plan.folds else in_turn}."
        )
    split = (found.comparison.runs[0][0].config.dataset.get("source") or {}).get("split")
    if isinstance(split, Mapping) and split.get("blocks"):
        notes.append(
            f"The {_areas(found)} are blocks of {split['blocks']} px of the images that train: this holds for other parts of "
            "these images, not for other places."
        )
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
    """What a score of its own is of."""
    return {"class": ("Class", "Classes"), "value": ("Value", "Values")}[task.score_of][many]


def _classes(found: Findings) -> list[str]:
    """The classes that are absent, or occur in few areas, or were not tuned."""
    task, areas = found.task, _areas(found)
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
        f"{task.classes[c]} (as good as {good[c]:.1f} {areas} of equal size)"
        for c in np.flatnonzero(good < FEW)
        if task.classes[c] not in [*found.lone, *found.without]
    ]
    if few and found.group_count >= FEW:
        their = "Their scores are" if len(few) > 1 else "Its score is"
        notes.append(f"{_kind(task, len(few) > 1)} in few {areas}: {listed(few)}. {their} uncertain.")
    return notes + _one_sided(found)


def _one_sided(found: Findings) -> list[str]:
    """The classes whose threshold, or bias, was not tuned, as they occur in one half of the scenes alone."""
    first = found.comparison.runs[0][0].records.first
    if first.all() or found.task.real or not found.validated:
        return []
    holds = class_pixels(found.counts[0, 0]) > 0
    return [
        f"Class {found.task.classes[c]} occurs in one half of the {_areas(found)} alone: its {found.task.tuned} can't be tuned "
        "on the one and scored on the other, and is left as it is."
        for c in np.flatnonzero(holds.any(0) & ~shared(holds, first))
    ]


def _validated_once(found: Findings) -> bool:
    """Whether most runs have one validation, so that no checkpoint is chosen."""
    runs = found.comparison.all_runs
    return 2 * sum(len(run.records.steps) == 1 for run in runs) > len(runs)


def _training(found: Findings) -> list[str]:
    """Whether runs are trained to the end, and which of them failed, collapsed or learned nothing."""
    notes, last, runs = [], int(found.last_is_best.sum()), found.last_is_best.size
    if _validated_once(found):
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
    for name, score in found.baselines.items() if not _unlearnt(found) else ():
        worse = [found.labels[i] for i in found.order if sign * (found.advised.mean.value[i] - score) <= 0]
        if worse:
            notes.append(
                f"{listed(worse)}: no better than the baseline {name}, whose {_name(found)} is {_quantity(found, score)}."
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
        why = "; ".join(f"{why} ({number})" for why, number in reasons)
        notes.append(f"{many} run{'s are' if many > 1 else ' is'} left out: {why}. The protocol names all.")
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
