"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from rsseg.compare.bootstrap import Interval
from rsseg.compare.fair import Comparison
from rsseg.compare.findings import MEASURES, Findings
from rsseg.compare.recipes import within
from rsseg.compare.report.words import answer, caveats, listed, number, percent, span
from rsseg.compare.runs import Run

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Picture:
    """A figure in the page: where it stands, what it shows in words, and the image as a data URI."""

    name: str
    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Cell:
    """A cell's text, its CSS classes, and what stands small beside it."""

    text: str
    kind: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Column:
    """A column's name, and whether it holds text."""

    name: str
    text: bool


@dataclass(frozen=True)
class Shown:
    """A table in the page."""

    columns: list[Column]
    rows: list[list[Cell]]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    text: str
    figures: Sequence[Picture] = ()
    tables: Sequence[Shown] = field(default_factory=list)


def show(table: pd.DataFrame, title: str = "", index: bool = True, digits: int = 3, signed: tuple[str, ...] = ()) -> Shown:
    """A data frame for the page: numbers rounded, NaN as a dash."""
    flat = table.reset_index() if index else table
    text = [not pd.api.types.is_numeric_dtype(flat[name]) for name in flat.columns]
    columns = [Column(str(name), is_text) for name, is_text in zip(flat.columns, text, strict=True)]
    rows = [
        [
            Cell(_text(value, digits, name in signed), "text" if is_text else "")
            for name, value, is_text in zip(flat.columns, row, text, strict=True)
        ]
        for row in flat.itertuples(index=False)
    ]
    return Shown(columns, rows, title)


def _text(value: Any, digits: int, signed: bool) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float | np.floating):
        return "-" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}"
    return str(value)


def ranking(found: Findings) -> Shown:
    """The losses, best first, with intervals: the table of the first screen."""
    win, best, tuned = found.wins[found.metric], found.order[0], found.wins_tuned
    known = bool(not np.isnan(win.better[best]).all())
    names = ["loss", MEASURES[found.metric][0]]
    names += (
        [f"{MEASURES[found.tuned_metric][0]} tuned"] * (tuned is not None) + ["behind the best"] + ["best is ahead"] * known
    )
    rows = []
    for i in found.order:
        kind = "best" if i == best else ""
        row = [Cell(found.labels[i], f"text {kind}".strip()), _with_span(win.score, i, kind)]
        if tuned is not None:
            row.append(_with_span(tuned.score, i, "best" if i == np.nanargmax(tuned.score.value) else ""))
        row.append(Cell("", kind) if i == best else _with_span(win.difference, (best, i), kind))
        if known:
            row.append(Cell("" if i == best else percent(win.better[best, i]), kind))
        rows.append(row)
    return Shown([Column(name, name == "loss") for name in names], rows)


def _with_span(found: Interval, at: int | tuple[int, int], kind: str) -> Cell:
    return Cell(number(found.value[at]), kind, span(found.low[at], found.high[at]).strip(" ()"))


def ranking_note(found: Findings) -> str:
    """What the numbers of the ranking are."""
    seeds, scenes = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((len(found.seeds), "seed"), (len(found.scenes), "scene")))
    how = "small: 95 % intervals over seeds, for these scenes alone"
    if found.counts is not None:
        how = "small: 95 % intervals by a bootstrap that draws seeds and scenes independently"
    each = "Each interval is of one comparison: among many losses some differ by chance."
    if np.isnan(found.wins[found.metric].score.low).all():
        how, each = "no intervals", ""
    return (
        f"Mean over {seeds}, {scenes} of validation, each run's best checkpoint by validation IoU; pooled over scenes, mean "
        f"over the classes present; {how}. {each}"
    )


MAKE = {
    "initial weights": ("model", "dataset", "data", "libraries"),
    "windows": (
        "sampler",
        "window",
        "batch_size",
        "steps",
        "trainer.accumulate_grad_batches",
        "dataset",
        "data",
        "numbers of steps",
    ),
    "augmentation": ("augment",),
}
"""What a seed fixes, and which differences between the rows undo that."""


def alike_per_seed(comparison: Comparison) -> str:
    """What all losses of a seed had in common, by what the rows differ in; nothing is sure of different code."""
    unlike = [*comparison.design, *comparison.unfair]
    if "code" in unlike:
        return "not known: the runs were made by different code"
    broken = {what: [key for key in unlike if within(key.partition(" or ")[0], nodes)] for what, nodes in MAKE.items()}
    alike = [what for what, keys in broken.items() if not keys]
    other = [f"{what} ({listed(keys)})" for what, keys in broken.items() if keys]
    return "; ".join([", ".join(alike) or "nothing"] + ([f"not alike: {', '.join(other)}"] if other else []))


def protocol(comparison: Comparison, found: Findings) -> list[tuple[str, str]]:
    """What was compared, and how it was made."""
    runs = [run for row in comparison.runs for run in row]
    first = runs[0]
    config, data = first.config, first.data

    def each(value: Callable[[Run], Any]) -> str:
        return ", ".join(dict.fromkeys(str(value(run)) for run in runs))

    def code(run: Run) -> str:
        git = run.origin["git"]
        return f"rsseg {run.origin['rsseg']}, {git['commit']}{' with changes' * bool(git['changed'])}"

    rows = [
        ("Data", f"{config.dataset.name}, {config.dataset.task}: {', '.join(config.dataset.classes)}"),
        ("Scenes", ", ".join(f"{len(names)} {split}" for split, names in data["scenes"].items())),
        ("Fingerprints", each(lambda r: "; ".join(f"{split} {value}" for split, value in r.data["fingerprint"].items()))),
        ("Losses and seeds", f"{len(found.labels)} losses x {len(found.seeds)} seeds: {', '.join(map(str, found.seeds))}"),
        (
            "Training",
            f"{each(lambda r: r.config.steps)} steps of {each(lambda r: r.config.batch_size)} windows of "
            f"{each(lambda r: r.config.window)} px; {each(lambda r: r.config.model.encoder)}",
        ),
        ("Alike per seed", alike_per_seed(comparison)),
        ("Checkpoint", "the one with the best validation IoU; it is chosen on the scenes that score it, for every loss alike"),
        ("Code", "; ".join(dict.fromkeys(code(run) for run in runs))),
        ("Made on", each(lambda run: f"Python {run.origin['python']} on {run.origin['platform']}")),
        (
            "Libraries",
            "; ".join(dict.fromkeys(", ".join(f"{k} {v}" for k, v in run.origin["libraries"].items()) for run in runs)),
        ),
    ]
    if comparison.rates:
        tried = "; ".join(
            f"{loss}: {rate:g} of {', '.join(f'{x:g}' for x in all_)}" for loss, (rate, all_) in comparison.rates.items()
        )
        rows.append(
            ("Learning rates", f"chosen by mean {MEASURES[found.metric][0]} on search seeds that are not compared: {tried}")
        )
    return rows


def render(
    comparison: Comparison, found: Findings, sections: Sequence[Section], runs: pd.DataFrame, left_out: pd.DataFrame
) -> str:
    """The page.

    Args:
        comparison: The runs.
        found: What was found.
        sections: Between the first screen and the protocol.
        runs: The table of runs.
        left_out: The table of those left out.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Which loss for {MEASURES[found.metric][0]} on {comparison.runs[0][0].config.dataset.name}?",
        answer=answer(found),
        ranking=ranking(found),
        ranking_note=ranking_note(found),
        notes=caveats(comparison, found),
        sections=sections,
        protocol=protocol(comparison, found),
        runs=_briefly(runs),
        left_out=_wrapped(show(left_out, index=False)),
    )


def _briefly(runs: pd.DataFrame) -> Shown:
    """What the page says of each run; ``runs.csv`` says more."""
    scores = [name for name in MEASURES if name in runs][:2]
    brief = runs[["loss", "seed", "rate", *scores, "steps", "seconds"]].rename(
        columns={key: MEASURES[key][0] for key in scores}
    )
    return show(
        brief.assign(rate=[f"{rate:g}" for rate in brief["rate"]], seconds=brief["seconds"].round().astype(int)), index=False
    )


def _wrapped(table: Shown) -> Shown:
    """A table of sentences."""
    return Shown(table.columns, [[Cell(cell.text, "text wrap") for cell in row] for row in table.rows], table.title)
