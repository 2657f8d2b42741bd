"""A comparison as files: report.html, CSV tables, PNG figures; and what is printed of it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined, Template

from rsseg.comparison.caveats import caveats
from rsseg.comparison.datasets import AcrossDatasets, across_answer, across_table
from rsseg.comparison.figures import draw_across, draw_all
from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import Estimates, Interval
from rsseg.comparison.plans import CODE
from rsseg.comparison.runs import Run
from rsseg.comparison.selection import Comparison
from rsseg.comparison.style import BLUE, MOST, RULES, save, verdict
from rsseg.comparison.tables import all_tables
from rsseg.comparison.words import answer, listed, number, percent, span, statistics, unseen
from rsseg.config.plan import within
from rsseg.contract import counted
from rsseg.files import write_table, write_text
from rsseg.progress import duration
from rsseg.table import print_table

CHOSEN = "better where it chose the checkpoint"
"""The column of `Findings.optimism`."""

UNPRINTED = ("gained by tuning", CHOSEN, "best checkpoint is the last", "time")
"""What a terminal has no room for."""

SMALL = ("behind the best", "runs")
"""Where what stands small in the page is printed in brackets."""

MOST_SCENES = 15
"""Rows of the table of scenes in the page; ``scenes.csv`` holds all."""

MAKE = {
    "initial weights": ("model", "dataset", "training", "mean", "std", "library"),
    "windows": (
        "sampler", "window", "batch_size", "steps", "trainer.accumulate_grad_batches", "dataset", "training", "stopped",
    ),
    "augmentation": ("augment",),
}  # fmt: skip
"""What a seed fixes, and which differences between the rows undo that."""

log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """A cell's text, its CSS classes, and what stands small below it."""

    text: str
    kind: str = ""
    detail: str = ""


class Table(NamedTuple):
    """A table in the page: its columns' names, its rows, and the line above."""

    columns: list[Cell]
    rows: list[list[Cell]]
    title: str = ""


def write_report(found: Findings, out: Path, examples: Path | None = None) -> Path:
    """Print the ranking, and write the report with its tables and figures; returns the page.

    Args:
        found: What was found.
        out: The folder to write into.
        examples: A picture of windows that the losses disagree about.

    Raises:
        UnwritableError: If something can't be written there.
    """
    tables = all_tables(found)
    say(found, tables["comparison"])
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)
    figures = draw_all(found, out)
    if examples is not None:
        figures["examples"] = f"data:image/png;base64,{base64.b64encode(examples.read_bytes()).decode()}"
    page = out / "report.html"
    write_text(page, render(found, tables, figures))
    log.info("Report: %s; tables and figures beside it", page)
    return page


def write_across(across: AcrossDatasets, out: Path) -> Path:
    """Write the page, the table and the figure of several datasets, beside the folders of each.

    Raises:
        UnwritableError: If something can't be written there.
    """
    table, page = across_table(across), out / "report.html"
    write_table(out / "datasets.csv", table)
    with mpl.rc_context(RULES):
        figure = save(draw_across(across), out / "datasets.png")
    brief = table.drop(columns=["behind_low", "behind_high"]).rename(columns=lambda name: str(name).replace("_", " "))
    content = {
        "answer": across_answer(across),
        "table": shown(brief.reset_index()),
        "datasets": list(across.found),
        "figure": figure,
    }
    write_text(page, _template("across.html").render(content))
    log.info("Report: %s; those of each dataset in the folders beside it", page)
    return page


def say(found: Findings, comparison: pd.DataFrame) -> None:
    """Print the ranking, the answer and what weakens it; `comparison` is the table of the losses."""
    alike: dict[tuple[str, str], list[Path]] = {}
    for left in found.comparison.left_out:
        alike.setdefault((left.why, left.remedy), []).append(left.run)
    for (why, remedy), (first, *others) in alike.items():
        which = f"{first} and {len(others)} more are" if others else f"{first} is"
        log.warning("%s left out: %s; %s.", which, why, remedy)
    columns, rows, _ = ranking(found, comparison)
    names = [column.text for column in columns]

    def text(name: str, cell: Cell) -> str:
        return f"{cell.text} ({cell.detail})" if cell.detail and name in SMALL else cell.text

    told = [{name: text(name, cell) for name, cell in zip(names, row, strict=True) if name not in UNPRINTED} for row in rows]
    print_table(told, ranking_note(found, "In brackets"))
    for sentence in [*answer(found), *statistics(found)]:
        log.info("%s", sentence)
    for note in caveats(found):
        log.warning("%s", note)


def render(found: Findings, tables: dict[str, pd.DataFrame], figures: dict[str, str]) -> str:
    """The page, one HTML file that needs nothing else, of tables and of figures as data URIs, by name."""
    return _template("page.html").render(
        found=found,
        figures=figures,
        answer=answer(found),
        statistics=statistics(found),
        notes=caveats(found),
        metric=found.ranked.measure.label,
        tuned=found.metrics[found.tuned_for].label,
        best=found.labels[found.order[0]],
        dataset=found.comparison.runs[0][0].config.dataset.name,
        shown=f"the first {MOST} of {len(found.labels)} losses; " if len(found.labels) > MOST else "",
        ranking=ranking(found, tables["comparison"]),
        ranking_note=ranking_note(found),
        measures=_measures(tables["measures"]),
        where=_where(found, tables),
        cosines=shown(found.gradients.cosines, "Cosine between the terms' gradients, mean over the run"),
        protocol=protocol(found.comparison, found.ranked.measure.label, chosen_on(found)),
        runs=_runs(found, tables["runs"]),
        left_out=shown(tables["left_out"].reset_index()),
    )


def _template(name: str) -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def ranking(found: Findings, comparison: pd.DataFrame) -> Table:
    """The losses, best first, with intervals, and what is no loss at all below them: the table of the first screen."""
    several, chances, used = len(found.labels) > 1, found.chances if found.ranked.claims else None, ", tuned" * found.tune
    names = ["loss", found.ranked.measure.heading, *["behind the best"] * several]
    if found.tuned and found.gain:
        names += [f"{found.metrics[found.tuned_for].label} tuned", *["behind the best, tuned"] * several, "gained by tuning"]
    names += [f"probability of being the best{used}", f"expected on {unseen(found)}{used}"] if chances else []
    names += [CHOSEN, "best checkpoint is the last", "runs", "time"]
    rows = []
    for i in found.advised.order:
        row = [Cell(found.labels[i], "text"), *_score(found.ranked, i)]
        if found.tuned and found.gain:
            row += [*_score(found.tuned, i), _with_span(found.gained, i, sign=True)]
        if chances:
            row += [Cell(percent(chances.best[i])), Cell(number(chances.mean[i]))]
        facts, seeds = comparison.loc[found.labels[i]], len(found.seeds)
        trouble = ", ".join(f"{int(facts[what])} {what}" for what in ("failed", "collapsed") if facts[what])
        row += [
            Cell(number(facts["optimism_mean"], sign=True)),
            Cell(f"{int(facts['last_is_best'])} of {seeds}"),
            Cell(str(seeds), "worse" * bool(trouble), trouble),
            Cell(duration(3600 * facts["hours"])),
        ]
        rows.append(row)
    for name, score in found.baselines.items():
        rows.append([Cell(name, "text base"), Cell(number(score), "base"), *[Cell("", "base")] * (len(names) - 2)])
    return Table([Cell(name, "text" * (name == "loss")) for name in names], rows)


def _score(found: Estimates, i: int) -> list[Cell]:
    """A loss's score and, if there are several, how far it is behind the best one."""
    lead, best = found.lead(), found.order[0]
    behind = Cell("") if i == best else _with_span(lead, (best, i), "worse" * (i in found.behind))
    return [_with_span(found.score, i), *[behind] * (len(lead.value) > 1)]


def _with_span(found: Interval, at: int | tuple[int, int], kind: str = "", sign: bool = False) -> Cell:
    value, low, high = found.at(*np.atleast_1d(at))
    return Cell(number(value, sign), kind, span(low, high, sign))


def chosen_on(found: Findings) -> str:
    """By which checkpoints the scenes are scored."""
    if not found.validated:
        return "scored by the checkpoints that were chosen on the validation scenes"
    if found.group_count == 1:
        return "scored by the checkpoints that were chosen on them"
    return "each scored by a checkpoint that was chosen on others"


def ranking_note(found: Findings, beside: str = "Small") -> str:
    """What the numbers of the ranking are, and those that stand small, or in brackets, beside them."""
    runs, groups, scenes = len(found.seeds), found.group_count, len(found.scenes)
    areas = counted(scenes, "block" if found.blocks else "scene")
    if groups < scenes:
        areas = f"{counted(scenes, 'scene')} in {counted(groups, 'area' if found.blocks else 'independent area')}"
    said = f"Mean over {counted(runs, 'seed')}; {areas}, {chosen_on(found)}{_means(found)}."
    if np.isnan(found.ranked.score.low).all():
        return f"{said} No intervals can be given."
    if not found.ranked.claims:
        return f"{said} {beside}: 95 % intervals of each loss alone; so few seeds tell no losses apart."
    gains = ', those of "gained by tuning" for all losses' * (found.gain is not None)
    return f'{said} {beside}: 95 % intervals; those of "behind the best" hold for all pairs at once{gains}.'


def _means(found: Findings) -> str:
    """What the score that losses are ranked by is a mean over, if anything."""
    metric, without = found.metrics.get(found.metric, found.metrics[found.tuned_for]), found.leaves_out
    several = {"value": "values that are known", "class": "classes present"}[found.task.score_of]
    several += f" without {listed(without)}" * bool(without)
    parts = metric.parts(np.ones((len(found.task.classes), found.counts.shape[-1]))[metric.classes])
    said = f"; mean over the {several}" * (len(parts) > 1)
    return f"{said}, then over the {_scored_scenes(found)} that have a score" if metric.by_scene else said


def _scored_scenes(found: Findings) -> str:
    """How many of the scenes have a score: those that hold what it is of."""
    scored = int((~np.isnan(found.scene_metric.each(found.counts[0, 0]))).sum())
    return f"{scored} of {counted(len(found.scenes), 'scene')}"


def shown(table: pd.DataFrame, title: str = "") -> Table:
    """A data frame for the page: numbers rounded, NaN as a dash."""
    kinds = ["" if pd.api.types.is_numeric_dtype(table[name]) else "text" for name in table.columns]
    columns = [Cell(str(name), kind) for name, kind in zip(table.columns, kinds, strict=True)]
    rows = [[Cell(_text(value), kind) for value, kind in zip(row, kinds, strict=True)] for row in table.itertuples(index=False)]
    return Table(columns, rows, title)


def _text(value: Any) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", "\u202f")
    return number(float(value)) if isinstance(value, float | np.floating) else str(value)


def _measures(table: pd.DataFrame) -> Table:
    """Which loss is best by which measure."""
    found = shown(table.drop(columns=["low", "high"]).reset_index())
    for row, (_, facts) in zip(found.rows, table.iterrows(), strict=True):
        ends = facts["low"], facts["high"]
        row[-1] = Cell(number(facts["ahead by"], sign=True), "better" * (verdict(*ends) == BLUE), span(*ends, sign=True))
    return found


def _where(found: Findings, tables: dict[str, pd.DataFrame]) -> list[Table]:
    """Scores by class, of two classes or more, and by scene."""
    tell, unit, names = found.task.score_of, found.task.unit, [found.labels[i] for i in found.order[:MOST]]
    first = f"; the first {MOST} losses" if len(found.labels) > MOST else ""
    classes, scenes = tables["classes"], tables["scenes"]
    most = f" (the {MOST_SCENES} of {len(scenes)} that losses differ in most)" if len(scenes) > MOST_SCENES else ""
    title = f"{found.scene_metric.label} per scene{most}{first}; {_scored_scenes(found)} have one, and are in means over scenes"
    of_scenes = shown(scenes[names].head(MOST_SCENES).reset_index(), title)
    if len(classes) < 2:
        return [of_scenes]
    of_classes = classes[["pixels", *names]].rename(columns={"pixels": unit}).reset_index()
    title = f"{found.metrics[found.scene_metric.score].label} per {tell}, pooled over scenes{first}"
    return [shown(of_classes, title), of_scenes]


def _runs(found: Findings, runs: pd.DataFrame) -> Table:
    """The columns of ``runs.csv`` that the page shows."""
    brief = runs[["loss", "seed", "rate", found.metric, "steps", "seconds"]]
    brief = brief.assign(rate=[f"{rate:g}" for rate in brief["rate"]], seconds=brief["seconds"].round().astype(int))
    return shown(brief.rename(columns={found.metric: found.ranked.measure.heading, "rate": "learning rate"}))


def protocol(comparison: Comparison, metric: str, how: str) -> list[tuple[str, str]]:
    """What was compared, and how it was made; `metric` is the label of what losses are ranked by."""
    first, runs = comparison.runs[0][0], comparison.all_runs
    config, data = first.config, first.data

    def each(value: Callable[[Run], Any], between: str = ", ") -> str:
        return between.join(dict.fromkeys(str(value(run)) for run in runs))

    def code(run: Run) -> str:
        git = run.origin["git"]
        return f"rsseg {run.origin['rsseg']}, {git['commit']}{' with changes' * bool(git['changed'])}"

    losses, seeds = len(comparison.labels), comparison.seeds
    rows = [
        ("Data", f"{config.dataset.name}, {first.task.kind}: {', '.join(first.task.classes)}"),
        ("Scenes", ", ".join(f"{len(names)} {split}" for split, names in data["scenes"].items())),
        ("Fingerprints", each(lambda run: "; ".join(f"{name} {value}" for name, value in run.data["fingerprint"].items()))),
        ("Losses and seeds", f"{losses} losses x {len(seeds)} seeds: {', '.join(map(str, seeds))}"),
        (
            "Training",
            f"{each(lambda run: run.config.steps)} steps of {each(lambda run: run.config.batch_size)} windows of "
            f"{each(lambda run: run.config.window)} px; {each(lambda run: run.config.model.encoder)}",
        ),
        ("Alike per seed", alike_per_seed(comparison)),
        (
            "Checkpoint",
            f"the one with the best validation {first.task.score_name}; the scenes are {how}",
        ),
        ("Code", each(code, "; ")),
        ("Made on", each(lambda run: f"Python {run.origin['python']} on {run.origin['platform']}")),
        ("Libraries", each(lambda run: ", ".join(f"{k} {v}" for k, v in run.origin["libraries"].items()), "; ")),
    ]
    if comparison.rates:
        tried = [f"{loss}: {rate:g} of {', '.join(f'{x:g}' for x in all_)}" for loss, (rate, all_) in comparison.rates.items()]
        how = f"chosen by mean {metric} on search seeds that are not compared"
        rows.append(("Learning rates", f"{how}: {'; '.join(tried)}"))
    return rows


def alike_per_seed(comparison: Comparison) -> str:
    """What all losses of a seed had in common, by what the rows differ in; nothing is sure of different code."""
    unlike = [*comparison.design, *comparison.different]
    if CODE in unlike:
        return "not known: the runs were made by different code"
    broken = {what: [key for key in unlike if within(key.partition(" ")[0], nodes)] for what, nodes in MAKE.items()}
    alike = [what for what, keys in broken.items() if not keys]
    other = [f"{what} ({listed(keys)})" for what, keys in broken.items() if keys]
    return "; ".join([", ".join(alike) or "nothing"] + ([f"not alike: {', '.join(other)}"] if other else []))
