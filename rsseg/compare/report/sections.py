"""What stands in the page between the first screen and the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rsseg.compare.fair import Comparison
from rsseg.compare.findings import MEASURES, Findings
from rsseg.compare.report import tables
from rsseg.compare.report.figures import FEW
from rsseg.compare.report.page import Picture, Section, Shown, show
from rsseg.compare.report.words import span

MOST_SCENES = 15
"""Rows of the table of scenes in the page; ``scenes.csv`` holds all."""

CAPTIONS = {
    "ranking": "{metric} with 95 % intervals; ticks on the blue lines: single seeds. Lines that overlap may still differ "
    "surely, as losses share seeds and scenes: the win matrix compares pairs.",
    "slopes": "{tuned} by {plain} and by {moved} tuned on other scenes, mean over seeds; blue: the best in the ranking. Lines "
    "that meet on the right differed by that alone.",
    "regrets": "Where {tuned} is lost. Threshold regret is regained by tuning; residual regret is what the best known loss has "
    "beyond that: the two add up to what is lost. Apart from them, selection regret is what choosing the checkpoint by the "
    "validation loss instead would cost. Bars to the left of 0: tuning did harm on other scenes, or the loss chose better than "
    "the metric. ?: not known.",
    "wins": "Win matrix in {metric}: {cells}.",
    "cross": "Mean ranks over seeds; dark blue: best. A row whose order differs much from the first is a measure that wants "
    "another loss. The best mean rank and the best mean score need not be one loss's.",
    "pareto": "Trade-offs of pooled IoU. Up and right is better in every panel; blue: no other loss is better in both.",
    "curves": "{tuned} on validation over the steps. Thick: mean over seeds; thin: single seeds; grey: means of the others.",
    "alignment": "Validation loss and {tuned} of every checkpoint, one line per run. tau is Kendall's rank correlation of "
    "falling loss and rising score, mean over seeds: 1 means that the loss orders checkpoints as the metric does.",
    "shares": "Shares of the weighted terms' gradient norms over the steps. Dashed: one half.",
    "gains": "One-step gain of each term. Above 0: a step along its gradient raises the metric on held-out windows.",
    "examples": "Windows that the models label most differently, those of seed {seed}.",
}


def sections(comparison: Comparison, found: Findings, uris: dict[str, str]) -> list[Section]:
    """The parts of the page; what was not recorded is said where it would stand.

    Args:
        comparison: The runs.
        found: What was found.
        uris: By name, the figures that there are.
    """
    words = {"metric": MEASURES[found.metric][0], "tuned": MEASURES[found.tuned_metric][0], "seed": found.seeds[0]}
    both = " and difference" * (len(found.labels) <= FEW)
    words["cells"] = f"confidence in % that the row's loss is better{both}. Red to blue: from surely worse to surely better"
    captions = dict(CAPTIONS)
    sure = not np.isnan(found.wins[found.metric].better).all()
    if not sure:
        captions["ranking"] = "{metric}, tuned and not; no intervals can be given."
        words["cells"] = "differences, of which nothing can be said how sure they are. Red to blue: from lower to higher"
    words |= {"plain": found.task.untuned, "moved": found.task.all_tuned}

    def pictures(*names: str) -> list[Picture]:
        known = [(name, captions[name].format(**words)) for name in names if name in uris]
        return [Picture(name, uris[name], text.split(". ")[0], text) for name, text in known]

    return [
        Section(
            "scores",
            "Scores",
            "Every loss with its interval, and which loss is best by which measure (small: 95\u00a0% intervals).",
            pictures("ranking"),
            [_best_by_measure(found)],
        ),
        _threshold(found, pictures),
        Section(
            "pairs",
            "Every loss against every other",
            f"How much better the row's loss is than the column's{', and how surely it is better at all' * sure}.",
            pictures("wins"),
        ),
        Section(
            "cross",
            "Every loss under every measure",
            "The models of each loss ranked under every metric and, below the line, under every loss; 1 is best.",
            pictures("cross"),
        ),
        Section("trade-offs", "Trade-offs", "What pooled IoU is traded for.", pictures("pareto")),
        Section("where", "Classes and scenes", "Where the losses differ.", [], _where(comparison, found)),
        Section(
            "training",
            "Training",
            "How the score went, and whether the validation loss orders checkpoints as the metric does.",
            pictures("curves", "alignment"),
        ),
        _gradients(found, pictures),
        *([Section("examples", "Where the losses disagree", EXAMPLES, pictures("examples"))] if "examples" in uris else []),
    ]


EXAMPLES = "The image, its mask, and what each loss's model makes of it."


def _best_by_measure(found: Findings) -> Shown:
    table = tables.best_by_measure(found)
    shown = show(table.drop(columns=["low", "high"]), index=False, signed=("difference",))
    for row, low, high in zip(shown.rows, table["low"], table["high"], strict=True):
        row[-1] = replace(row[-1], detail=span(low, high, sign=True).strip(" ()"))
    return shown


def _threshold(found: Findings, pictures: Callable[..., list[Picture]]) -> Section:
    several = found.task.exclusive
    text = "Not known; the notes above say why."
    if found.tuned is not None:
        text = (
            f"A loss may do no more than move the threshold. {'A bias per class' if several else 'The threshold'} is tuned on "
            "one half of the scenes and scored on the other, and the reverse."
        )
        if several:
            text += " It is tuned on a sample of logits; every pixel is then predicted anew with it."
    return Section("threshold", "Does the difference survive tuning?", text, pictures("slopes", "regrets"))


def _where(comparison: Comparison, found: Findings) -> list[Shown]:
    metric = MEASURES[found.tuned_metric][0]
    classes = tables.classes(found, comparison)
    if len(found.labels) > max(FEW, len(classes)):
        classes = classes.set_index("pixels", append=True).T.rename_axis("loss")
        classes.columns = [f"{name} ({pixels:,} px)" for name, pixels in classes.columns]
    shown = [show(classes, f"{metric} per class, pooled over scenes, mean over seeds")]
    scenes = tables.scenes(found)
    if scenes is None:
        return shown
    title = f"{metric} per scene, mean over the classes in it and over seeds (all in scenes.csv)"
    if len(scenes) > MOST_SCENES:
        title += f"; the {MOST_SCENES} of {len(scenes)} that losses differ in most"
    if len(scenes.columns) > FEW:
        title += f"; the first {FEW} losses"
    return [*shown, show(scenes.iloc[:MOST_SCENES, :FEW], title)]


def _gradients(found: Findings, pictures: Callable[..., list[Picture]]) -> Section:
    cosines = tables.cosines(found)
    text = "Not known: no composition of two terms or more among the runs, or no gradients recorded."
    if found.shares or found.gains:
        text = "A term's gradient, not its value, shows which term of a composition dominates."
    title = "Cosine between the terms' gradients, mean over the run"
    shown = [show(cosines, title, index=False)] if len(cosines) else []
    return Section("gradients", "Which term leads", text, pictures("shares", "gains"), shown)
