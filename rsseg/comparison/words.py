"""A comparison in words: the advice for a practitioner, and the details for a statistician."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsseg.comparison.chances import Reach
from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import SEEDS
from rsseg.comparison.runs import NO_HEAD
from rsseg.config.naming import path_text
from rsseg.contract import counted

NAMED = 4
"""The largest number of losses that a text names or describes; further ones are only counted or named."""

AFFORDABLE = 10
"""The command for more seeds is given if it takes at most this many times the present seeds."""


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


def score_name(found: Findings) -> str:
    """The name of the score that ranks the losses."""
    return found.ranked.measure.label


def quantity(found: Findings, value: float) -> str:
    """A score, or difference of scores, with its unit."""
    return f"{number(value)} {found.ranked.measure.unit}".strip()


def area_word(found: Findings) -> str:
    """The word for groups: scenes, or blocks, if each group is a single one."""
    return "areas" if found.group_count < len(found.scenes) else "blocks" if found.blocks else "scenes"


def of_blocks(side: int) -> str:
    """The caveat about scores if scenes are blocks of images."""
    return (
        f"The scenes are blocks of {side} px of the images that train: scores hold for other parts of these images, not for "
        "other places."
    )


def answer(found: Findings) -> list[str]:
    """The first screen: the loss to train with, and whether to tune its threshold."""
    if len(found.labels) < 2:
        return [f"There is only one loss, {found.labels[0]}: train others to compare it with, such as loss=ce,dice."]
    early = unlearnt(found)
    if not found.ranked.claims or found.reach is None:
        return [*early, _so_far(found), *next_step(found)]
    first = [*early, _leads(found)] if early else [_train_with(found)]
    return [*first, *_behind(found), *_absent(found), *_tuning(found), *_expected(found), *next_step(found)]


def unlearnt(found: Findings) -> list[str]:
    """The sentence that no loss can be chosen yet, if a baseline is at least as good as every loss."""
    if not found.beaten_by:
        return []
    name, score = next(iter(found.beaten_by.items()))
    return [f"No loss to choose yet: none is better than the baseline {name} ({score_name(found)} {quantity(found, score)})."]


def next_step(found: Findings) -> list[str]:
    """What to train next, with the command if that of a sweep is known: longer runs come before more seeds."""
    seeds, known, plan, runs = len(found.seeds), found.reach, found.comparison.plan, found.comparison.all_runs
    if found.undertrained:
        steps = 2 * max(int(run.summary["steps"]) for run in runs)
        place = {"hydra.sweep.dir": path_text(Path(f"{runs[0].folder.parent}_{steps}_steps"))}
        command = "" if "steps" in plan.varied else plan.command(steps=steps, **place)
        return [f"Next, train longer: {command or f'steps={steps}'}"]
    enough = SEEDS
    if known is not None and known.seeds and known.seeds <= AFFORDABLE * seeds and _is_open(found):
        enough = max(SEEDS, known.seeds)
    newest = max(found.seeds)
    command = plan.command(seed=",".join(str(newest + 1 + i) for i in range(enough - seeds)))
    return [f"Next, train {enough} seeds per loss{f': {command}' if command else '.'}"] if enough > seeds else []


def _leads(found: Findings) -> str:
    """The loss that is the best so far."""
    best = found.advised.order[0]
    score = quantity(found, found.advised.mean.value[best])
    return f"So far {found.labels[best]}{_tuned(found)} comes first: its {score_name(found)} is {score}."


def _so_far(found: Findings) -> str:
    """The loss that leads, and the reason why its lead is not sure."""
    seeds = len(found.seeds)
    if not found.ranked.claims:
        return f"{_leads(found)} With {seeds} seed{'s' * (seeds > 1)} per loss no loss can be called better than another."
    what = "all scenes lie" if found.group_count == 1 else f"a {found.task.score_of} lies"
    return (
        f"{_leads(found)} No loss can be called better than another: {what} in one area, so how scores vary between areas is "
        "not known."
    )


def _train_with(found: Findings) -> str:
    """The loss to take, how to use it, and how sure its lead is."""
    best, *others = found.advised.order
    label, behind, lead = found.labels[best], found.advised.behind, found.advised.lead()
    near = [i for i in others if i not in behind]
    if not near:
        return f"Train with {label}{_use(found)}. It is surely better than every other loss."
    if not behind and np.abs([lead.low[best, near], lead.high[best, near]]).max() < found.equal_within:
        return f"Train with any of these losses{_use(found)}. None differs from {label}, the first, by {_equal(found)} or more."
    names = [found.labels[i] for i in near]
    some = listed([*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"] if len(names) > NAMED else names)
    rest = f"{some} {'is' if len(near) == 1 else 'are'} not surely behind it."
    if not behind:
        return f"Not decided: {label}{_tuned(found)} comes first, but {rest}"
    return f"Train with {label}{_use(found)}. {rest}"


def _equal(found: Findings) -> str:
    """The difference below which losses are practically equal, with its unit."""
    return f"{found.equal_within:g} {found.ranked.measure.unit or score_name(found)}"


def _use(found: Findings) -> str:
    """Whether to tune the thresholds, or biases, of the loss that is advised; empty where that is not known."""
    if found.gain is None or not found.tunes:
        return ""
    if found.tune:
        return f" and tune {found.task.all_tuned}"
    if found.gain.mean.value[found.advised.order[0]] > 0:
        return ""
    if found.task.exclusive:
        return f", and leave out {found.task.all_tuned}"
    return f", and leave the {found.task.all_tuned} at {found.task.untuned.rpartition(' ')[2]}"


def _tuned(found: Findings) -> str:
    """Words behind the name of a loss whose thresholds, or biases, are tuned."""
    return f" with tuned {found.task.all_tuned}" * found.tune


def _behind(found: Findings) -> list[str]:
    """The losses that are surely behind: the nearest with their intervals, the others by name."""
    surely, lead, best = found.advised.behind, found.advised.lead(), found.advised.order[0]
    said, used = [], ", both tuned" * found.tune
    for i in surely[:NAMED]:
        gap, low, high = lead.at(best, i)
        said.append(f"{found.labels[i]} is surely behind it{used}, by {quantity(found, gap)}{brackets(low, high)}.")
    if len(surely) > NAMED:
        said.append(f"Further behind: {listed([found.labels[i] for i in surely[NAMED:]])}.")
    return said


def _absent(found: Findings) -> list[str]:
    """The losses of the plan that are not compared."""
    headless = {left.run for left in found.comparison.left_out if left.why.startswith(NO_HEAD)}
    planned = dict.fromkeys(label for run, label in found.comparison.plan.labels.items() if run not in headless)
    absent = [label for label in planned if label not in found.labels]
    return [f"Not compared: {listed(absent)}; left_out.csv says why."] if absent else []


def _tuning(found: Findings) -> list[str]:
    """The gain by tuning, beside the differences between losses."""
    if found.gain is None:
        return []
    best, metric = found.advised.order[0], found.tuned_label
    gain, low, high = found.gained.at(best)
    chance = ", which may be chance" if low <= 0 <= high else ""
    fixed, gains = found.estimates[found.tuned_score].mean.value, found.gain.mean.value
    least, most = number(gains.min(), sign=True), number(gains.max(), sign=True)
    return [
        f"For {found.labels[best]}, tuning {found.task.all_tuned} on other {area_word(found)} changes {metric} by "
        f"{number(gain, sign=True)}{brackets(low, high, sign=True)}{chance}.",
        f"Depending on the loss, tuning changes {metric} by {least} to {most}. Untuned, {metric} differs by "
        f"{number(np.ptp(fixed))} between the best and the worst loss.",
    ]


def _expected(found: Findings) -> list[str]:
    """The probability that the advised loss is the best, and its expected score."""
    if found.chances is None:
        return []
    best, tuned, chances = found.advised.order[0], ", tuned," * found.tune, found.chances
    chance, expected, regret = float(chances.best[best]), float(chances.mean[best]), float(chances.regret[best])
    return [
        f"With a probability of {percent(chance)} {found.labels[best]} is the best of the {len(found.labels)} losses. Its "
        f"expected {score_name(found)}{tuned} on new {area_word(found)} is {quantity(found, expected)}; choosing it loses "
        f"{quantity(found, regret)} on average to the loss that is truly best."
    ]


def statistics(found: Findings) -> list[str]:
    """Details for a statistician: the detectable difference, the sample size that would decide, and the scope."""
    said, known = [], found.reach
    if known is not None and found.ranked.claims:
        limit = f"{len(found.seeds)} seeds" if known.limit == "seeds" else f"{found.group_count} {area_word(found)}"
        least, most = (quantity(found, gap) for gap in known.gaps)
        some = most if least == most else f"{least} to {most}, depending on the pair,"
        said.append(f"Differences below {some} can't be detected here, mostly because there are only {limit}.")
        if not found.undertrained:
            said += _what_decides(found, known)
    choices = ["checkpoints"] * found.choice + [found.task.all_tuned] * (found.tuned is not None)
    chosen = f"Every scene is scored by {listed(choices)} that were chosen"
    if not choices:
        said.append("Every scene is scored by the only checkpoint of a run: nothing was chosen.")
    elif not found.validated:
        said.append(f"{chosen} on the validation split.")
    elif found.group_count > 1:
        better = f"; a checkpoint scores {quantity(found, float(np.mean(found.optimism)))} better on those that chose it"
        said.append(f"{chosen} on other {area_word(found)}{better * (not np.isnan(found.optimism).any())}.")
    return [*said, _holds_for(found)]


def _what_decides(found: Findings, known: Reach) -> list[str]:
    """The number of further seeds or areas that would separate the best two losses."""
    first, second, *_ = found.advised.order
    _, low, high = found.advised.lead().at(first, second)
    pair, areas = f"{found.labels[first]} and {found.labels[second]}", area_word(found)
    if max(-low, high) < found.equal_within:
        return [f"{pair} are practically equal: they differ by less than {_equal(found)}."]
    if low > 0:
        return []
    enough = [f"about {known.seeds} seeds per loss"] if known.seeds else []
    enough += [f"about {known.groups} {areas}"] if known.groups else []
    if not enough:
        return [f"To separate {pair}, both more seeds and more {areas} are needed."]
    return [f"If {pair} differ as measured, {listed(enough, 'or')} would separate them."]


def _is_open(found: Findings) -> bool:
    """Whether it is not known which of the best two losses is better, and they may differ by more than practically equal."""
    _, low, high = found.advised.lead().at(*found.advised.order[:2])
    return low <= 0 and max(-low, high) >= found.equal_within


def _holds_for(found: Findings) -> str:
    """The scope of the results: what was trained, and on what."""
    runs = found.comparison.all_runs
    trained = counted(len(runs[0].data["scenes"]["train"]), "training scene")
    fold = " (less a fold)" * bool(found.comparison.plan.folds)
    rates = sorted({run.rate for run in runs if not np.isnan(run.rate)})
    rate = f" at a learning rate of {rates[0]:g}" if len(rates) == 1 else " at each loss's learning rate" if rates else ""
    steps = listed([str(n) for n in sorted({int(run.summary["steps"]) for run in runs})], "or")
    return (
        f"This holds for models trained on {trained}{fold} for {steps} steps{rate}, and for {area_word(found)} like the "
        f"{found.group_count} that {'score' if found.group_count > 1 else 'scores'} them."
    )
