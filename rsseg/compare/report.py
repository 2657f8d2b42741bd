"""A comparison as files: report.html, CSV tables, PNG figures; and what is printed of it."""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from rsseg.compare.figures import draw_all
from rsseg.compare.findings import Findings
from rsseg.compare.runs import Run
from rsseg.compare.scores import Interval
from rsseg.compare.selection import Comparison
from rsseg.compare.style import FEW
from rsseg.compare.tables import all_tables
from rsseg.compare.words import answer, caveats, listed, number, percent, span
from rsseg.config.plan import within
from rsseg.files import write_table, write_text
from rsseg.metrics.average import Array
from rsseg.table import print_table

TEMPLATE = Path(__file__).with_name("page.html")

PRINTED = (
    "iou", "dice", "scene_iou", "boundary_iou", "class_ece", "rmse", "mae", "r2", "absolute_bias", "f1", "precision",
    "recall", "scene_f1",
)  # fmt: skip
"""The measures that fit into a terminal; ``comparison.csv`` holds all."""

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
    """A cell's text, its CSS classes, and what stands small beside it."""

    text: str
    kind: str = ""
    detail: str = ""


class Table(NamedTuple):
    """A table in the page: its columns' names and whether they hold text, its rows, and the line above."""

    columns: list[tuple[str, bool]]
    rows: list[list[Cell]]
    title: str = ""


def write_report(found: Findings, out: Path, examples: Path | None = None) -> Path:
    """Print the ranking, and write the report with its tables and figures.

    Args:
        found: What was found.
        out: The folder to write into.
        examples: A picture of windows that the losses disagree about.

    Returns:
        The page.

    Raises:
        UnwritableError: If something can't be written there.
    """
    say(found)
    tables = all_tables(found)
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)
    figures = draw_all(found, out)
    if examples is not None:
        figures["examples"] = f"data:image/png;base64,{base64.b64encode(examples.read_bytes()).decode()}"
    page = out / "report.html"
    write_text(page, render(found, tables, figures))
    log.info("Report: %s; tables and figures beside it", page)
    return page


def say(found: Findings) -> None:
    """Print the ranking, the answer and what weakens it."""
    for left in found.comparison.left_out:
        log.warning("%s is left out: %s; %s.", left.run, left.why, left.remedy)
    columns = {
        found.measures[name].heading: found.wins[name].values
        for name in dict.fromkeys([found.metric, *PRINTED])
        if name in found.wins
    }
    columns |= {"tau whole run": found.tau[..., 0], "tau last half": found.tau[..., 1]}
    rows = []
    for i in found.order:
        each = {name: _mean_and_deviation(values[i]) for name, values in columns.items()}
        rows.append({"loss": found.labels[i], "seeds": len(found.seeds), **each})
    print_table(
        rows,
        "Best checkpoint on validation, mean ± standard deviation over seeds\n"
        f"tau: rank correlation of falling loss and {'rising metric' if found.task.higher_is_better else 'falling error'}",
    )
    for sentence in answer(found):
        log.info("%s", sentence)
    for note in caveats(found):
        log.warning("%s", note)


def _mean_and_deviation(values: Array) -> str:
    known = values[~np.isnan(values)]
    if not len(known):
        return "-"
    return f"{known.mean():.3f}" if len(known) < 2 else f"{known.mean():.3f} ± {known.std(ddof=1):.3f}"


def render(found: Findings, tables: dict[str, pd.DataFrame], figures: dict[str, str]) -> str:
    """The page, one HTML file that needs nothing else.

    Args:
        found: What was found.
        tables: By name, as `rsseg.compare.tables.all_tables` makes them.
        figures: By name, the figures that there are, as data URIs.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        found=found,
        figures=figures,
        answer=answer(found),
        notes=caveats(found),
        metric=found.measures[found.metric].label,
        tuned=found.measures[found.tuned_metric].label,
        score=found.task.score_name,
        sure=_is_sure(found),
        few=len(found.labels) <= FEW,
        dataset=found.comparison.runs[0][0].config.dataset.name,
        ranking=ranking(found),
        ranking_note=ranking_note(found),
        measures=_measures(tables["measures"]),
        where=_where(found, tables),
        cosines=_shown(found.gradients.cosines, "Cosine between the terms' gradients, mean over the run", index=False),
        protocol=protocol(found.comparison, found.measures[found.metric].label),
        runs=_runs(found, tables["runs"].reset_index()),
        left_out=_left_out(tables["left_out"]),
    )


def _is_sure(found: Findings) -> bool:
    """Whether there are intervals."""
    return bool(not np.isnan(found.wins[found.metric].better).all())


def _shown(table: pd.DataFrame, title: str = "", index: bool = True) -> Table:
    """A data frame for the page: numbers rounded, NaN as a dash."""
    flat = table.reset_index() if index else table
    texts = [not pd.api.types.is_numeric_dtype(flat[name]) for name in flat.columns]
    columns = [(str(name), is_text) for name, is_text in zip(flat.columns, texts, strict=True)]
    kinds = ["text" * is_text for is_text in texts]
    rows = [[Cell(_text(value), kind) for value, kind in zip(row, kinds, strict=True)] for row in flat.itertuples(index=False)]
    return Table(columns, rows, title)


def _text(value: Any) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float | np.floating):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def ranking(found: Findings) -> Table:
    """The losses, best first, with intervals: the table of the first screen."""
    win, best, tuning, sure = found.wins[found.metric], found.order[0], found.tuning, _is_sure(found)
    names = ["loss", found.measures[found.metric].heading]
    if tuning is not None:
        names.append(f"{found.measures[found.tuned_metric].label} tuned")
    names += ["behind the best"] + ["best is ahead"] * sure
    rows = []
    for i in found.order:
        kind = "best" if i == best else ""
        row = [Cell(found.labels[i], f"text {kind}".strip()), _with_span(win.score, i, kind)]
        if tuning is not None:
            row.append(_with_span(tuning.wins.score, i, "best" if i == np.nanargmax(tuning.wins.score.value) else ""))
        row.append(Cell("", kind) if i == best else _with_span(win.lead, (best, i), kind))
        if sure:
            row.append(Cell("" if i == best else percent(win.better[best, i]), kind))
        rows.append(row)
    return Table([(name, name == "loss") for name in names], rows)


def _with_span(found: Interval, at: int | tuple[int, int], kind: str) -> Cell:
    return Cell(number(found.value[at]), kind, span(found.low[at], found.high[at]))


def ranking_note(found: Findings) -> str:
    """What the numbers of the ranking are."""
    seeds, scenes = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((len(found.seeds), "seed"), (len(found.scenes), "scene")))
    how = "small: 95 % intervals over seeds, for these scenes alone"
    if found.counts is not None:
        how = "small: 95 % intervals by a bootstrap that draws seeds and scenes independently"
    each = "Each interval is of one comparison: among many losses some differ by chance."
    if np.isnan(found.wins[found.metric].score.low).all():
        how, each = "no intervals", ""
    means = {"value": "values that are known", "class": "classes present"}[found.task.score_of]
    return (
        f"Mean over {seeds}, {scenes} of validation, each run's best checkpoint by validation {found.task.score_name}; pooled "
        f"over scenes, mean over the {means}; {how}. {each}"
    )


def _measures(table: pd.DataFrame) -> Table:
    """Which loss is best by which measure."""
    shown = _shown(table.drop(columns=["low", "high"]))
    for row, difference, low, high in zip(shown.rows, table["difference"], table["low"], table["high"], strict=True):
        row[-1] = Cell(number(difference, sign=True), detail=span(low, high, sign=True))
    return shown


def _where(found: Findings, tables: dict[str, pd.DataFrame]) -> list[Table]:
    """Scores by class and by scene."""
    of_classes, of_scenes, classes = found.metrics[found.class_score].label, found.scene_metric.label, tables["classes"]
    each, unit = found.task.score_of, found.task.unit
    classes = classes.rename(columns={"pixels": unit})
    if len(found.labels) > max(FEW, len(classes)):
        classes = classes.set_index(unit, append=True).T.rename_axis("loss")
        classes.columns = [f"{name} ({number:,} {unit})" for name, number in classes.columns]
    shown = [_shown(classes, f"{of_classes} per {each}, pooled over scenes, mean over seeds")]
    if "scenes" in tables:
        scenes = tables["scenes"]
        title = f"{of_scenes} per scene, mean over seeds (all in scenes.csv)"
        if len(scenes) > MOST_SCENES:
            title += f"; the {MOST_SCENES} of {len(scenes)} that losses differ in most"
        if len(scenes.columns) > FEW:
            title += f"; the first {FEW} losses"
        shown.append(_shown(scenes.iloc[:MOST_SCENES, :FEW], title))
    return shown


def _runs(found: Findings, runs: pd.DataFrame) -> Table:
    """What the page says of each run; ``runs.csv`` says more."""
    scores = list(dict.fromkeys([found.metric, *found.wins]))[:2]
    brief = runs[["loss", "seed", "rate", *scores, "steps", "seconds"]]
    brief = brief.rename(columns={key: found.measures[key].heading for key in scores})
    seconds = brief["seconds"].round().astype(int)
    return _shown(brief.assign(rate=[f"{rate:g}" for rate in brief["rate"]], seconds=seconds), index=False)


def _left_out(table: pd.DataFrame) -> Table:
    """The runs that are left out, in sentences."""
    shown = _shown(table)
    return Table(shown.columns, [[Cell(cell.text, "text wrap") for cell in row] for row in shown.rows])


def protocol(comparison: Comparison, metric: str) -> list[tuple[str, str]]:
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
            f"the one with the best validation {first.task.score_name}; it is chosen on the scenes that score it, for every "
            "loss alike",
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
    if "code" in unlike:
        return "not known: the runs were made by different code"
    broken = {what: [key for key in unlike if within(key.partition(" ")[0], nodes)] for what, nodes in MAKE.items()}
    alike = [what for what, keys in broken.items() if not keys]
    other = [f"{what} ({listed(keys)})" for what, keys in broken.items() if keys]
    return "; ".join([", ".join(alike) or "nothing"] + ([f"not alike: {', '.join(other)}"] if other else []))
