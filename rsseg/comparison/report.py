"""A comparison as files: report.html, CSV tables, PNG figures; and its printed form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd

from rsseg.comparison.caveats import caveats
from rsseg.comparison.datasets import AcrossDatasets, across_answer, across_table
from rsseg.comparison.figures import RULES, data_uri, draw_across, draw_all, save
from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import Estimates, Interval
from rsseg.comparison.page import html_figure, html_table, write_page
from rsseg.comparison.runs import Run
from rsseg.comparison.tables import all_tables
from rsseg.comparison.words import answer, area_word, listed, number, percent, span, statistics
from rsseg.console import print_table
from rsseg.contract import counted
from rsseg.files import write_table
from rsseg.metrics.average import Array
from rsseg.pictures.colours import errors_shown
from rsseg.progress import duration

UNPRINTED = ("gained by tuning", "expected", "optimism", "best checkpoint", "time")
"""The ranking's columns that begin with these words are not printed: a terminal has no room for them."""

MOST_SCENES = 15
"""The largest number of rows in the page's table of scenes; ``scenes.csv`` holds all."""

OPTIMISM = " Optimism is how much better a checkpoint scores on the scenes that chose it; no other score uses those."
SURE = "Pale blue: surely better; pale orange: surely worse, by intervals that hold for all pairs at once."

EXAMPLES = "Windows that the first seed's models predict most differently, and their scores."

log = logging.getLogger(__name__)


class Cells(NamedTuple):
    """A table of text, with intervals on the second lines of its cells, and the CSS classes of its cells."""

    text: pd.DataFrame
    kinds: pd.DataFrame


def write_report(found: Findings, out: Path) -> Path:
    """Print the ranking, write the report with its tables and figures, and return the page's path.

    If the folder already holds ``examples.png``, a picture of windows that the losses disagree about, the page shows it.

    Raises:
        UnwritableError: If a file can't be written.
    """
    say(found)
    tables = all_tables(found)
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)
    with mpl.rc_context(RULES):
        pictures = {name: save(drawn, out / f"{name}.png") for name, drawn in draw_all(found, tables).items()}
    if (examples := out / "examples.png").is_file():
        pictures["examples"] = data_uri("png", examples.read_bytes())
    page = out / "report.html"
    dataset = found.comparison.runs[0][0].config.dataset.name
    without = f" without {listed(found.leaves_out)}" * bool(found.leaves_out)
    write_page(
        page,
        title=f"Which loss for {found.ranked.measure.label}{without} on {dataset}?",
        answer=answer(found),
        statistics=statistics(found),
        notes=caveats(found),
        ranking=html_table(*ranking(found)),
        note=f"{ranking_note(found)}{OPTIMISM * bool(np.isfinite(found.optimism).any())}",
        figure=html_figure(pictures, "forest", "Differences to the best loss; bars are coloured where they exclude 0."),
        sections=sections(found, tables, pictures),
    )
    log.info("Report: %s; tables and figures beside it", page)
    return page


def write_across(across: AcrossDatasets, out: Path) -> Path:
    """Write the page, table and figure that compare datasets, beside the folders of the single datasets.

    Raises:
        UnwritableError: If a file can't be written.
    """
    table, page, said = across_table(across), out / "report.html", across_answer(across)
    write_table(out / "datasets.csv", table)
    with mpl.rc_context(RULES):
        pictures = {"datasets": save(draw_across(across), out / "datasets.png")}
    for sentence in said:
        log.info("%s", sentence)
    caption = "Differences to the best loss, on each dataset and over datasets like these; thresholds are not tuned here."
    write_page(
        page,
        title=f"Which loss, over {len(across.found)} datasets?",
        answer=said,
        ranking=html_table(table),
        note="Datasets are taken as a random sample of all that are like them.",
        figure=html_figure(pictures, "datasets", caption),
        links=list(across.found),
    )
    log.info("Report: %s; those of each dataset in the folders beside it", page)
    return page


def say(found: Findings) -> None:
    """Print the ranking, the answer and its caveats."""
    ranked = ranking(found).text
    shown = ranked.loc[:, ~ranked.columns.str.startswith(UNPRINTED)].reset_index(names="loss")
    print_table(shown.to_dict("records"), ranking_note(found))
    for sentence in [*answer(found), *statistics(found)]:
        log.info("%s", sentence)
    for note in caveats(found):
        log.warning("%s", note)


def ranking(found: Findings) -> Cells:
    """The table of the first screen: the losses, best first, with intervals, and the trivial baselines below them."""
    table, used, chances = pd.DataFrame(index=found.labels), ", tuned" * found.tune, found.chances
    worse = {}
    for estimates in filter(None, (found.ranked, found.tuned)):
        score, (best, *others) = estimates.measure.heading, estimates.order
        table[score] = with_spans(telling(estimates))
        if others:
            worse[f"{score}: behind the best"] = estimates.behind
            table[f"{score}: behind the best"] = with_spans(estimates.lead()[best])
            table.iloc[best, -1] = ""
    if found.gain is not None:
        table["gained by tuning"] = with_spans(found.gained, sign=True)
    if chances is not None and found.ranked.claims:
        table[f"probability of being the best{used}"] = [percent(chance) for chance in chances.best]
        table[f"expected on new {area_word(found)}{used}"] = [number(mean) for mean in chances.mean]
    table["optimism"] = with_spans(over_seeds(found.optimism), sign=True)
    table["best checkpoint is the last"] = [f"{last} of {len(found.seeds)}" for last in found.last_is_best.sum(1)]
    collapsed = [f"{len(found.seeds)}" + f"\n{many} collapsed" * bool(many) for many in found.collapsed.sum(1)]
    failed = [found.comparison.failed.get(label, 0) for label in found.labels]
    table["runs"] = [said + f"\n{many} failed" * bool(many) for said, many in zip(collapsed, failed, strict=True)]
    table["time"] = [duration(sum(run.summary["seconds"] for run in row)) for row in found.comparison.runs]
    kinds = pd.DataFrame("", index=table.index, columns=table.columns)
    for column, behind in worse.items():
        kinds.loc[[found.labels[i] for i in behind], column] = "worse"
    kinds.loc[table["runs"].str.contains("\n"), "runs"] = "worse"
    table, kinds = table.iloc[found.advised.order], kinds.iloc[found.advised.order]
    for name, baseline in found.baselines.items():
        table.loc[name], kinds.loc[name] = "", "base"
        table.loc[name, found.ranked.measure.heading] = number(baseline)
    return Cells(table, kinds)


def telling(estimates: Estimates) -> Interval:
    """The scores with their intervals, which are not known where they hold all possible scores."""
    found, (low, high) = estimates.score, estimates.measure.limits
    return replace(found, low=np.where((found.low > low) | (found.high < high), found.low, np.nan))


def with_spans(found: Interval, sign: bool = False) -> list[str]:
    """Values as text, each with its interval on a second line if that is known."""
    ends = zip(found.value, found.low, found.high, strict=True)
    return [f"{number(value, sign)}\n{span(low, high, sign)}".rstrip() for value, low, high in ends]


def over_seeds(values: Array) -> Interval:
    """The mean, smallest and largest of values ``[L, R]`` over seeds; NaN is left out."""
    seeds = pd.DataFrame(values)
    return Interval(*(seeds.agg(how, axis=1).to_numpy() for how in ("mean", "min", "max")))


def ranking_note(found: Findings) -> str:
    """The explanation of the ranking's numbers, and of those on the second lines of its cells."""
    metric, without = found.metrics.get(found.metric, found.metrics[found.tuned_for]), listed(found.leaves_out)
    areas = counted(len(found.scenes), "block" if found.blocks else "scene")
    if found.group_count < len(found.scenes):
        areas = f"{counted(len(found.scenes), 'scene')} in {counted(found.group_count, 'area')}"
    said = f"Mean over {counted(len(found.seeds), 'seed')} on {areas}"
    if len(metric.parts(np.ones((len(found.task.classes), found.counts.shape[-1]))[metric.classes])) > 1:
        said += f", and over every {found.task.score_of} that is there{f' without {without}' * bool(without)}"
    if metric.by_scene:
        said += f", scene by scene, of the {_scored_scenes(found)} that have a score"
    few = f"too few {'seeds' if len(found.seeds) < 2 else area_word(found)}"
    unknown, together = np.isnan(telling(found.ranked).low).all(), "hold for all losses together"
    if unknown and np.isnan(found.ranked.lead().low).all():
        return f"{said}. No intervals can be given: {few}."
    if not found.ranked.claims:
        return f"{said}. Below: 95 % intervals; too few seeds to call one loss better than another."
    if unknown:
        return f"{said}. Scores have no intervals: {few}. Below: 95 % intervals of differences and gains, which {together}."
    return f"{said}. Below: 95 % intervals; those of differences to the best, and of gains, {together}."


def _scored_scenes(found: Findings) -> str:
    """The number of scenes that have a score: those that hold a scored class."""
    scored = int((~np.isnan(found.scene_metric.each(found.counts[0, 0]))).sum())
    return f"{scored} of {counted(len(found.scenes), 'scene')}"


def sections(found: Findings, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, str]) -> dict[str, list[str]]:
    """The tables and figures that are folded below the first screen, by title."""
    coloured = (
        SURE if found.ranked.claims else "Nothing is coloured: three seeds are needed to call one loss better than another."
    )
    metric, runs = found.ranked.measure.label, tables["runs"].reset_index(drop=True)
    every = {
        "Every loss against every other, and by every measure": [
            html_table(*pairs(found), title=f"How much better in {metric} the row's loss is than the column's. {coloured}"),
            html_table(*by_measure(found), title="The best loss's score, and how much better than it the others are."),
        ],
        "Thresholds, checkpoints and training": [
            html_table(
                *regrets(found), title="Gain by tuning, regret, and rank correlation of loss and score; below: range over seeds"
            ),
            html_figure(pictures, "curves", "Validation score. Thick: mean over seeds; thin: seeds; grey: means of others."),
        ],
        "Classes and scenes": where(found, tables),
        "Which term of a composition leads": [
            html_figure(pictures, "terms", "Shares of the terms in the gradient's norm, and one-step gains where recorded."),
            html_table(tables["cosines"], title="Cosine between the terms' gradients, mean over the run"),
        ],
        "Where the losses disagree": [
            html_figure(pictures, "examples", f"{EXAMPLES} The column of a loss shows {errors_shown(found.task)}."),
        ],
        "Protocol and runs": [
            html_table(protocol(found), title="Protocol"),
            html_table(tables["left_out"], title="Left out"),
            html_table(runs[["loss", "seed", "rate", found.metric, "steps", "seconds"]], title="Runs; their folders: runs.csv"),
        ],
    }
    if len(found.labels) < 2:
        every.pop("Every loss against every other, and by every measure")
    shown = {title: [part for part in parts if part] for title, parts in every.items()}
    return {title: parts for title, parts in shown.items() if parts}


def pairs(found: Findings) -> Cells:
    """The lead of each loss over each other."""
    lead, order = found.ranked.lead(), found.order
    labels = [found.labels[i] for i in order]
    return _differences([lead[i, order] for i in order], labels, labels)


def by_measure(found: Findings) -> Cells:
    """By measure, the best loss's score and the lead of each other loss over it; positive is better, for errors too."""
    order, known = found.order, found.estimates.values()
    leads = [estimates.lead()[order, order[0]] for estimates in known]
    found_by = _differences(leads, [each.measure.heading for each in known], [found.labels[i] for i in order])
    found_by.text.iloc[:, 0] = [number(each.mean.value[order[0]]) for each in known]
    return found_by


def _differences(leads: Sequence[Interval], down: Sequence[str], across: Sequence[str]) -> Cells:
    """A table of differences; those whose intervals exclude 0 are coloured."""
    text = [[number(value, sign=True) for value in lead.value] for lead in leads]
    kinds = [np.select([lead.low > 0, lead.high < 0], ["better", "worse"], "") for lead in leads]
    return Cells(pd.DataFrame(text, down, across), pd.DataFrame(kinds, down, across))


def regrets(found: Findings) -> Cells:
    """Gain by tuning, remaining regret, cost of choosing by validation loss, and rank correlation of loss and score."""
    columns = {
        "gained by tuning": found.gain.values if found.gain else np.full_like(found.residual, np.nan),
        "tuned: below the expected best": found.residual,
        "cost of choosing by validation loss": found.selection_regret,
        "rank correlation of loss and score": found.tau,
    }
    known = {name: with_spans(over_seeds(values)) for name, values in columns.items() if not np.isnan(values).all()}
    table = pd.DataFrame(known, index=found.labels).iloc[found.order]
    return Cells(table, pd.DataFrame("", table.index, table.columns))


def where(found: Findings, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Scores by class, if there are several classes, and by scene."""
    classes, scenes = tables["classes"].drop(columns="groups"), tables["scenes"].drop(columns="group")
    most = f", the {MOST_SCENES} of {len(scenes)} that losses differ in most" * (len(scenes) > MOST_SCENES)
    title = f"{found.scene_metric.label} per scene{most}; {_scored_scenes(found)} have one, and are in means over scenes"
    of_scenes = html_table(scenes.head(MOST_SCENES), title=title)
    label = f"{found.metrics[found.scene_metric.score].label} per {found.task.score_of}, pooled over scenes"
    return [*([html_table(classes, title=label)] if len(classes) > 1 else []), of_scenes]


def protocol(found: Findings) -> pd.DataFrame:
    """The data, settings, code and machines of a comparison."""
    comparison = found.comparison
    first, runs = comparison.runs[0][0], comparison.all_runs

    def each(value: Callable[[Run], Any]) -> str:
        return "; ".join(dict.fromkeys(str(value(run)) for run in runs))

    def named(facts: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)

    rows = {
        "Data": f"{first.config.dataset.name}, {first.task.kind}: {', '.join(first.task.classes)}",
        "Scenes": named({split: len(names) for split, names in first.data["scenes"].items()}),
        "Fingerprints": each(lambda run: named(run.data["fingerprint"])),
        "Losses and seeds": f"{len(found.labels)} losses x {len(found.seeds)} seeds: {', '.join(map(str, found.seeds))}",
        "Steps, batch, window": each(lambda run: f"{run.config.steps}, {run.config.batch_size}, {run.config.window} px"),
        "Encoder": each(lambda run: run.config.model.encoder),
        "Varied beside the loss": ", ".join([*comparison.design, *comparison.different]) or "nothing",
        "Checkpoint": f"the one with the best validation {first.task.score_name}",
        "Code": each(lambda run: named({"rsseg": run.origin["rsseg"]} | run.origin["git"])),
        "Made on": each(lambda run: f"Python {run.origin['python']} on {run.origin['platform']}"),
        "Libraries": each(lambda run: named(run.origin["libraries"])),
    }
    for loss, (rate, tried) in comparison.rates.items():
        rows[f"Rate of {loss}"] = f"{rate:g}, chosen of {', '.join(f'{x:g}' for x in tried)} on search seeds"
    return pd.DataFrame({"": rows})
