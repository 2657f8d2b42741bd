"""A comparison as tables and a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rsseg.alignment.analyse import METRICS, find_runs, rank_alignment, read_curves, read_runs, summarise

log = logging.getLogger(__name__)


def print_table(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print rows as a table: numbers to the right, NaN as a dash."""
    table = Table()
    for name, value in rows[0].items():
        table.add_column(escape(name), justify="left" if isinstance(value, str) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=None if Console().is_terminal else 120)
    console.print(escape(title))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4f}"
    return escape(str(value))


def write_comparison(places: Sequence[Path], out: Path) -> Path:
    """Compare the finished runs in some folders.

    Writes ``comparison.csv`` (losses x metrics, mean and spread over seeds, rank correlation), ``runs.csv``,
    ``checkpoints.csv`` and ``comparison.png``.

    Args:
        places: Run folders, or folders that hold them.
        out: The folder to write into.

    Raises:
        InputError: If there is nothing to compare, or the runs can't be compared.
    """
    finished, begun = find_runs(places)
    for run in begun:
        log.warning("%s is not finished and left out.", run)
    runs = read_runs(finished)
    curves = read_curves(runs)
    table = summarise(runs).join(rank_alignment(curves, "iou")).join(rank_alignment(curves, "dice"))
    shown = [
        {"loss": loss, "seeds": int(row["seeds"])}
        | {metric: _mean_and_spread(row[f"{metric}_mean"], row[f"{metric}_std"]) for metric in METRICS}
        | {f"tau {metric}": _mean_and_spread(row[f"tau_{metric}_mean"], row[f"tau_{metric}_std"]) for metric in ("iou", "dice")}
        for loss, row in table.iterrows()
    ]
    print_table(
        shown,
        "Best checkpoint on validation, mean ± spread over seeds; tau: rank correlation of falling loss and metric",
    )
    if runs.groupby("loss")["seed"].nunique().min() < 5:
        log.info("Fewer than five seeds per loss: exploratory. Differences of the size of the spread mean nothing.")
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "comparison.csv")
    runs.to_csv(out / "runs.csv", index=False)
    curves.to_csv(out / "checkpoints.csv", index=False)
    draw_alignment(out / "comparison.png", table, curves)
    log.info("Tables and picture: %s", out)
    return out


def _mean_and_spread(mean: float, spread: float) -> str:
    if mean != mean:
        return "-"
    return f"{mean:.3f}" if spread != spread else f"{mean:.3f} ± {spread:.3f}"


def draw_alignment(path: Path, table: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Write a PNG: per loss one panel of validation loss against IoU and Dice, one point per checkpoint."""
    losses = list(table.index)
    columns = min(3, len(losses))
    lines = -(-len(losses) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    top = float(curves[["iou", "dice"]].max().max())
    for axis, loss in zip(axes.flat, losses, strict=False):
        points = curves[curves["loss"] == loss]
        for metric, colour, marker in (("iou", "#0b5fa5", "o"), ("dice", "#c8511b", "^")):
            tau = table.loc[loss, f"tau_{metric}_mean"]
            name = f"{ {'iou': 'IoU', 'dice': 'Dice'}[metric] }, tau {_mean_and_spread(tau, float('nan'))}"
            axis.scatter(
                points["val_loss"], points[metric], s=16, c=colour, marker=marker, alpha=0.75, linewidths=0, label=name
            )
        axis.set(title=loss, xlabel="validation loss", ylabel="validation score", ylim=(0, min(1.0, top * 1.08)))
        if points["val_loss"].max() > 10 * points["val_loss"].min() > 0:
            axis.set_xscale("log")  # the first checkpoints' losses would squeeze all others into a line
        else:
            axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.legend(frameon=False, fontsize=8, loc="lower left")
    for axis in axes.flat[len(losses) :]:
        axis.set_axis_off()
    with mpl.rc_context({"font.size": 9}):
        figure.savefig(path, dpi=120)
