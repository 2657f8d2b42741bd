"""A comparison in words: what to train with, and what a statistician asks about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsseg.comparison.chances import MOST, Reach
from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import CLAIMED, SEEDS
from rsseg.comparison.selection import NO_HEAD

AFFORDABLE = 10
"""The command for more seeds is given where they are at most this many times those that there are."""


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
    early = unlearnt(found)
    if not found.ranked.claims or found.reach is None:
        return [*early, _so_far(found)]
    first = [*early, _leads(found)] if early else _train_with(found)
    return [*first, *_behind(found), *_absent(found), *_tuning(found), *_expected(found)]


def unlearnt(found: Findings) -> list[str]:
    """That there is no loss to choose yet, where a baseline is as good as every one."""
    sign, best = found.ranked.measure.sign, found.advised.mean.value[found.advised.order[0]]
    better = {name: score for name, score in found.baselines.items() if sign * (score - best) >= 0}
    if not better:
        return []
    name, score = max(better.items(), key=lambda item: sign * item[1])
    return [
        f"No loss to choose yet: none is better than the baseline {name} ({score_name(found)} {quantity(found, score)}). "
        "Train longer."
    ]


def _absent(found: Findings) -> list[str]:
    """The losses of the plan that are not compared."""
    headless = {left.run for left in found.comparison.left_out if left.why.startswith(NO_HEAD)}
    planned = dict.fromkeys(label for run, label in found.comparison.plan.labels.items() if run not in headless)
    absent = [label for label in planned if label not in found.labels]
    return [f"Not compared: {listed(absent)}; the protocol says why."] if absent else []


def score_name(found: Findings) -> str:
    """What people call the score that losses are ranked by."""
    return found.ranked.measure.label


def quantity(found: Findings, value: float) -> str:
    """A score, or difference of scores, with its unit."""
    return f"{number(value)} {found.ranked.measure.unit}".strip()


def _equal(found: Findings) -> str:
    """The difference below which losses are practically equal, with its unit."""
    return f"{found.equal_within:g} {found.ranked.measure.unit or score_name(found)}"


def area_word(found: Findings) -> str:
    """What the groups are called: where each scene is one, scenes or blocks."""
    return "areas" if found.group_count < len(found.scenes) else "blocks" if found.blocks else "scenes"


def of_blocks(side: int) -> str:
    """What scores say of other places, where scenes are blocks of images."""
    return (
        f"The scenes are blocks of {side} px of the images that train: scores hold for other parts of these images, not for "
        "other places."
    )


def unseen(found: Findings) -> str:
    """Where the expected score is expected."""
    return "other parts of these images" if found.blocks else "new areas"


def _leads(found: Findings) -> str:
    """Which loss is the best one, where that is no reason to train with it."""
    best, tuned = found.advised.order[0], f", {found.task.all_tuned} tuned" * found.tune
    return f"So far {found.labels[best]} comes first{tuned}: its {score_name(found)} is " + (
        f"{quantity(found, found.advised.mean.value[best])}."
    )


def _so_far(found: Findings) -> str:
    """Which loss leads, and why that can't be called sure."""
    best, seeds = found.order[0], len(found.seeds)
    extreme = "highest" if found.ranked.measure.higher_is_better else "lowest"
    leads = (
        f"{found.labels[best]} has the {extreme} {score_name(found)} so far, {quantity(found, found.ranked.mean.value[best])}."
    )
    if not found.ranked.claims:
        return (
            f"{leads} With {seeds} seed{'s' * (seeds > 1)} per loss no loss can be called better than another: train at least "
            f"{CLAIMED}, better {SEEDS}.{more_seeds(found, SEEDS)}"
        )
    what = "all scenes lie" if found.group_count == 1 else f"a {found.task.score_of} lies"
    return (
        f"{leads} No loss can be called better than another: {what} in one area, so how scores vary between areas is not known."
    )


def _train_with(found: Findings) -> list[str]:
    """The loss to take, how to use it, and how sure its lead is, in two sentences."""
    best, *others = found.advised.order
    label, behind = found.labels[best], found.advised.behind
    near = [i for i in others if i not in behind]
    take, lead = f"Train with {label}{_use(found)}.", found.advised.lead()
    if not near:
        equal = [found.labels[i] for i in others if lead.high[best, i] < found.equal_within]
        close = f", but practically equal to {listed(equal)}: the lead is below {_equal(found)}" if equal else ""
        return [f"{take} It is surely better than every other loss{close}."]
    furthest = np.abs([lead.low[best, near], lead.high[best, near]]).max()
    if furthest < found.equal_within and not behind:
        take = f"Train with any of these losses{_use(found)}."
        return [f"{take} None differs from {label}, the first, by {_equal(found)} or more."]
    if not behind and len(near) > 1:
        return [f"{take} Its lead may be chance: no other loss is surely behind it."]
    names = [found.labels[i] for i in near]
    some = listed([*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else names)
    return [f"{take} {some} {'is' if len(near) == 1 else 'are'} not surely behind it."]


def _use(found: Findings) -> str:
    """Whether to tune the thresholds, or biases, of the loss that is advised; empty where that is not known."""
    if found.gain is None or found.metric != found.tuned_for:
        return ""
    if found.tune:
        return f" and tune {found.task.all_tuned}"
    if found.gain.mean.value[found.advised.order[0]] > 0:
        return ""
    untuned = found.task.untuned.rpartition(" ")[2]
    return f", and leave the {'labels to' if found.task.exclusive else f'{found.task.all_tuned} at'} {untuned}"


def _behind(found: Findings) -> list[str]:
    """The losses that are surely behind, each with its interval; of many the nearest."""
    surely, lead, best = found.advised.behind, found.advised.lead(), found.advised.order[0]
    as_used = ", both tuned" * found.tune
    said = []
    for i in surely[:4]:
        gap, low, high = lead.at(best, i)
        said.append(f"{found.labels[i]} is surely behind it{as_used}, by {quantity(found, gap)}{brackets(low, high)}.")
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
        f"For {found.labels[best]}, tuning {found.task.all_tuned} on other {area_word(found)} changes {metric} by "
        f"{number(gain, sign=True)}{brackets(low, high, sign=True)}{chance}.",
        f"Depending on the loss, tuning changes {metric} by {least} to {most}. Untuned, the best and the worst loss differ by "
        f"{number(np.ptp(fixed))}.",
    ]


def _expected(found: Findings) -> list[str]:
    """How probably the advised loss is the best one, and what it will score."""
    if found.chances is None:
        return []
    best, tuned, chances = found.advised.order[0], ", tuned," * found.tune, found.chances
    chance, expected, regret = float(chances.best[best]), float(chances.mean[best]), float(chances.regret[best])
    loses = f"; choosing it loses {quantity(found, regret)} on average to the loss that is truly best"
    behind = loses if number(regret) != number(0) else ""
    return [
        f"With a probability of {percent(chance)} {found.labels[best]} is the best of the {len(found.labels)} losses. Its "
        f"expected {score_name(found)}{tuned} on {unseen(found)} is {quantity(found, expected)}{behind}."
    ]


def statistics(found: Findings) -> list[str]:
    """What a statistician asks about: what could be seen, what would decide, and what the figures hold for."""
    said, known = [], found.reach
    if known is not None and found.ranked.claims:
        limit = f"{len(found.seeds)} seeds" if known.limit == "seeds" else f"{found.group_count} {area_word(found)}"
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
    if len(optimism) and found.group_count > 1 and not validated_once(found):
        better = float(optimism.mean())
        seem = f"{quantity(found, better)} better" if number(better) > number(0) else "no better"
        said.append(
            f"Every scene is scored by {chosen} that were chosen on other {area_word(found)}. A checkpoint scores {seem} on "
            f"average on the {area_word(found)} that chose it."
        )
    return [*said, _holds_for(found)]


def _what_decides(found: Findings, known: Reach) -> list[str]:
    """How many more seeds or areas would separate the best two losses."""
    first, second, *_ = found.advised.order
    _, low, high = found.advised.lead().at(first, second)
    pair, areas, seeds = f"{found.labels[first]} and {found.labels[second]}", area_word(found), len(found.seeds)
    if low > 0:
        return []
    if max(-low, high) < found.equal_within:
        return [f"{pair} are practically equal: they differ by less than {_equal(found)}."]
    if known.seeds is None and known.groups is None:
        together = f"; about {known.both[0]} seeds on {known.both[1]} {areas} would" if known.both else ""
        more = _more_blocks(found) if known.both else ""
        return [f"Neither more seeds alone nor more {areas} alone would tell {pair} apart, up to {MOST}{together}.{more}"]
    enough = [f"about {known.seeds} seeds per loss"] if known.seeds is not None else []
    enough += [f"about {known.groups} {areas}"] if known.groups is not None else []
    other = areas if known.groups is None else "seeds"
    never = f", but no number of {other} below {MOST} would" * (len(enough) == 1)
    how = more_seeds(found, known.seeds) if known.seeds is not None and known.seeds <= AFFORDABLE * seeds else ""
    more = _more_blocks(found) if known.groups is not None else ""
    return [f"If {pair} differ as they seem to, {listed(enough, 'or')} would tell them apart{never}.{more}{how}"]


def _more_blocks(found: Findings) -> str:
    """Where more blocks come from; empty where scenes are no blocks."""
    in_turn = "" if found.comparison.plan.folds else ", or every block in turn (sweep=kfold)"
    return f" More blocks take more images{in_turn}." if found.blocks else ""


def more_seeds(found: Findings, seeds: int) -> str:
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
    scored = "one that scores" if found.group_count == 1 else f"{found.group_count} {area_word(found)} that score"
    return f"This holds for models trained on {scenes} for {steps} steps{rate}, and for areas like the {scored} them."


def validated_once(found: Findings) -> bool:
    """Whether most runs have one validation, so that no checkpoint is chosen."""
    runs = found.comparison.all_runs
    return 2 * sum(len(run.records.steps) == 1 for run in runs) > len(runs)
