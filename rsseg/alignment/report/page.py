"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from rsseg.alignment.bootstrap import Interval
from rsseg.alignment.fair import Comparison
from rsseg.alignment.findings import MEASURES, Findings
from rsseg.alignment.report.words import answer, caveats, number, span

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Picture:
    """A figure in the page: where it stands, what it shows in words, and the image as a data URI."""

    name: str
    uri: str
    alt: str
    caption: str
    wide: bool = False


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
            row.append(_with_span(tuned.score, i, kind))
        row.append(Cell("", kind) if i == best else _with_span(win.difference, (best, i), kind))
        if known:
            row.append(Cell("" if i == best else f"{100 * win.better[best, i]:.0f} %", kind))
        rows.append(row)
    return Shown([Column(name, name == "loss") for name in names], rows)


def _with_span(found: Interval, at: int | tuple[int, int], kind: str) -> Cell:
    return Cell(number(found.value[at]), kind, span(found.low[at], found.high[at]).strip(" ()"))


def ranking_note(found: Findings) -> str:
    """What the numbers of the ranking are."""
    seeds, scenes = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((len(found.seeds), "seed"), (len(found.scenes), "scene")))
    how = (
        "small: 95 % intervals by a bootstrap that draws seeds and scenes independently"
        if found.counts is not None
        else "small: 95 % intervals over seeds, for these scenes alone"
    )
    return (
        f"Mean over {seeds}, {scenes} of validation, each run's best checkpoint by validation IoU; pooled over scenes, mean "
        f"over the classes present; {how}. Each interval is of one comparison: among many losses some differ by chance."
    )


def protocol(comparison: Comparison, found: Findings) -> list[tuple[str, str]]:
    """What was compared, and how it was made."""
    first = comparison.runs[0][0]
    config, data, origin = first.config, first.data, first.origin
    finger = ", ".join(f"{split} {value}" for split, value in data["fingerprint"].items())
    steps = sorted({int(run.config.steps) for row in comparison.runs for run in row})
    made = {(r.origin["git"]["commit"], bool(r.origin["git"]["changed"])) for row in comparison.runs for r in row}
    commits = [f"{commit}{' with changes' * changed}" for commit, changed in sorted(made, key=str)]
    rows = [
        ("Data", f"{config.dataset.name}, {config.dataset.task}: {', '.join(config.dataset.classes)}"),
        ("Scenes", ", ".join(f"{len(names)} {split}" for split, names in data["scenes"].items())),
        ("Fingerprints", finger),
        ("Losses and seeds", f"{len(found.labels)} losses x {len(found.seeds)} seeds: {', '.join(map(str, found.seeds))}"),
        (
            "Training",
            f"{', '.join(map(str, steps))} steps of {config.batch_size} windows of {config.window} px; {config.model.encoder}",
        ),
        (
            "Fair by construction",
            "per seed all losses start from the same weights and see the same windows in the same augmentation",
        ),
        ("Checkpoint", "the one with the best validation IoU; it is chosen on the scenes that score it, for every loss alike"),
        ("Code", f"rsseg {origin['rsseg']}, {'; '.join(commits)}, Python {origin['python']}, {origin['platform']}"),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in origin["libraries"].items())),
    ]
    if comparison.rates:
        tried = "; ".join(
            f"{loss}: {rate:g} of {', '.join(f'{x:g}' for x in all_)}" for loss, (rate, all_) in comparison.rates.items()
        )
        rows.append(("Learning rates", f"chosen on search seeds that are not compared: {tried}"))
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
    return environment.from_string(TEMPLATE.read_text()).render(
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
    return show(brief.assign(rate=[f"{rate:g}" for rate in brief["rate"]]), index=False)


def _wrapped(table: Shown) -> Shown:
    """A table of sentences."""
    return Shown(table.columns, [[Cell(cell.text, "text wrap") for cell in row] for row in table.rows], table.title)
