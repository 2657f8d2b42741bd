"""A comparison as files: report.html, CSV tables, PNG figures."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from rsseg.compare.counts import Array
from rsseg.compare.fair import Comparison
from rsseg.compare.findings import MEASURES, Findings
from rsseg.compare.report import curves, figures, pareto, tables
from rsseg.compare.report.page import render
from rsseg.compare.report.sections import sections
from rsseg.compare.report.style import RULES, save
from rsseg.compare.report.words import answer, caveats
from rsseg.files import write_table, write_text
from rsseg.table import print_table

log = logging.getLogger(__name__)

PRINTED = ("iou", "dice", "scene_iou", "boundary_iou", "class_ece")
"""The measures that fit into a terminal; ``comparison.csv`` holds all."""


def write_report(comparison: Comparison, found: Findings, out: Path, examples: Path | None = None) -> Path:
    """Print the ranking, and write the report with its tables and figures.

    Args:
        comparison: The runs.
        found: What was found.
        out: The folder to write into.
        examples: A picture of windows that the losses disagree about.

    Returns:
        The page.

    Raises:
        UnwritableError: If something can't be written there.
    """
    say(comparison, found)
    left_out = pd.DataFrame(
        [{"run": str(left.run), "why": left.why, "what to do": left.remedy} for left in comparison.left_out],
        columns=["run", "why", "what to do"],
    )
    runs = tables.runs(found, comparison)
    for name, table in _all_tables(comparison, found, runs, left_out).items():
        write_table(out / f"{name}.csv", table)
    pictures = draw_all(comparison, found, out)
    if examples is not None:
        pictures["examples"] = _embed(examples)
    page = out / "report.html"
    write_text(page, render(comparison, found, sections(comparison, found, pictures), runs, left_out))
    log.info("Report: %s; tables and figures beside it", page)
    return page


def say(comparison: Comparison, found: Findings) -> None:
    """Print the ranking, the answer and what weakens it."""
    for left in comparison.left_out:
        log.warning("%s is left out: %s; %s.", left.run, left.why, left.remedy)
    tau = {f"tau {name}": found.tau[..., i] for i, name in enumerate(("whole run", "last half"))}
    rows = [
        {"loss": found.labels[i], "seeds": len(found.seeds)}
        | {MEASURES[name][0]: _mean_and_deviation(found.measures[name][i]) for name in PRINTED if name in found.measures}
        | {name: _mean_and_deviation(values[i]) for name, values in tau.items()}
        for i in found.order
    ]
    print_table(
        rows,
        "Best checkpoint on validation, mean ± standard deviation over seeds\n"
        "tau: rank correlation of falling loss and rising metric",
    )
    for sentence in answer(found):
        log.info("%s", sentence)
    for note in caveats(comparison, found):
        log.warning("%s", note)


def _mean_and_deviation(values: Array) -> str:
    known = values[~np.isnan(values)]
    if not len(known):
        return "-"
    return f"{known.mean():.3f}" if len(known) < 2 else f"{known.mean():.3f} ± {known.std(ddof=1):.3f}"


def _all_tables(comparison: Comparison, found: Findings, runs: pd.DataFrame, left_out: pd.DataFrame) -> dict[str, pd.DataFrame]:
    scenes = tables.scenes(found)
    return {
        "comparison": tables.losses(found),
        "pairs": tables.pairs(found).set_index("metric"),
        "ranks": tables.cross(found),
        "measures": tables.best_by_measure(found).set_index("measure"),
        "classes": tables.classes(found, comparison),
        **({} if scenes is None else {"scenes": scenes}),
        "shares": tables.shares(found).set_index("loss"),
        **({"gains": tables.gains(found).set_index("loss")} if found.gains else {}),
        "cosines": tables.cosines(found).set_index("loss"),
        "checkpoints": tables.checkpoints(comparison).set_index("run"),
        "runs": runs.set_index("run"),
        "left_out": left_out.set_index("run"),
    }


def draw_all(comparison: Comparison, found: Findings, out: Path) -> dict[str, str]:
    """Write every figure that the records allow as PNG.

    Returns:
        By name, the figures as data URIs.
    """
    with mpl.rc_context(RULES):
        drawn = {
            "ranking": figures.draw_ranking(found),
            "slopes": figures.draw_slopes(found),
            "regrets": figures.draw_regrets(found),
            "wins": figures.draw_wins(found) if len(found.labels) > 1 else None,
            "cross": figures.draw_cross(found),
            "pareto": pareto.draw_pareto(found),
            "curves": curves.draw_curves(found, comparison.runs),
            "alignment": curves.draw_alignment(found, comparison.runs),
            "shares": curves.draw_shares(found),
            "gains": curves.draw_gains(found),
        }
        return {name: save(figure, out / f"{name}.png") for name, figure in drawn.items() if figure is not None}


def _embed(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
