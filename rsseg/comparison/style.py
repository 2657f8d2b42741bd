"""How figures look: one width, one size of type, colours that colour-blind readers and grey print keep apart."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from rsseg.comparison.intervals import Interval
from rsseg.figure import plain_text
from rsseg.figure import save as write_figure

BLUE, RED, GREEN, SKY, PURPLE, AMBER = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#cc79a7", "#e69f00"
"""From Okabe and Ito's palette. Of differences blue is surely better, red surely worse, and ink neither."""

INK, GREY, BAND = "#3c3c3c", "#9a9a9a", "#ebebeb"
TINTS = {BLUE: "#b5d6ec", RED: "#f6c6a4", INK: "#ffffff"}
"""The same behind text."""

TERMS = (AMBER, GREEN, PURPLE, SKY, GREY, "#444444")
"""Colours of a loss's terms."""

HATCHES = ("", "//", "..", "xx", "\\\\", "oo")
WIDTH = 5.2
"""Inches: so narrow that type of ten points can still be read where a phone shrinks it."""

MOST = 12
"""As many losses have room in a map of differences."""

RULES: Any = {
    "font.size": 10, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "rsseg",
    "legend.frameon": False, "legend.fontsize": 9, "axes.grid": True, "grid.color": "#e2e2e2", "grid.linewidth": 0.7,
    "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip


def verdict(low: float, high: float) -> str:
    """The colour of a difference by its interval: better where it is above 0, worse below; neutral where it is not known."""
    return BLUE if low > 0 else RED if high < 0 else INK


def canvas(height: float) -> Figure:
    """An empty figure, whose pixels are points until it is saved."""
    return Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")


def wrap(name: str, width: int = 20) -> str:
    r"""A name broken into lines; line breaks of its own stay.

    Example:
        >>> wrap("focal_dice sampler=Balanced")
        'focal_dice\nsampler=Balanced'
    """
    return "\n".join("\n".join(textwrap.wrap(line, width, break_on_hyphens=False)) for line in name.split("\n"))


def rows_height(names: Sequence[str], least: float = 0.3) -> float:
    """Inches that rows with these names need together."""
    return len(names) * max(least, 0.165 * max(name.count("\n") + 1 for name in names) + 0.1)


def rows(names: Sequence[str], titles: Sequence[str], across: str, legend: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure of rows, the first on top, with panels side by side that share them; `legend` inches are left above."""
    labels, across = [wrap(name, 20 if len(titles) < 2 else 17) for name in names], wrap(across, 64)
    figure = canvas(
        rows_height(labels) + legend + 0.65 + 0.17 * across.count("\n") + 0.15 * max(title.count("\n") for title in titles)
    )
    axes = list(figure.subplots(1, len(titles), squeeze=False, sharey=True)[0])
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=8.5)
        axis.axvline(0, color=INK, linewidth=0.9, zorder=1)
        axis.grid(visible=False, axis="y")
        axis.locator_params(axis="x", nbins=6 if len(titles) < 2 else 3)
    axes[0].set_yticks(range(len(labels)), labels, fontsize=10 if len(titles) < 2 else 9)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.supxlabel(across, fontsize=10)
    return figure, axes


def mark(axis: Axes, found: Interval, shift: float = 0.0, marker: str = "o", filled: bool = True) -> None:
    """Values in rows with their intervals, in the colours of `verdict`."""
    for place, (value, low, high) in enumerate(zip(found.value, found.low, found.high, strict=True)):
        colour = verdict(low, high)
        axis.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.8, zorder=2, solid_capstyle="butt")
        axis.plot(
            value, place + shift, marker, color=colour, markerfacecolor=colour if filled else "white", markersize=6, zorder=3
        )


def panels(titles: Sequence[str], across: str, up: str, height: float = 1.8) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels in two or three columns that share both axes; surplus axes are hidden."""
    number, columns = len(titles), 2 if len(titles) < 7 else 3
    lines, titles = -(-number // columns), [wrap(title, 48 // columns) for title in titles]
    figure = canvas((height * 2 / columns + 0.14 * max(title.count("\n") for title in titles)) * lines + 0.4)
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[number:]:
        axis.set_axis_off()
    for axis in axes[max(0, number - columns) : number]:
        axis.tick_params(labelbottom=True)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=9 if columns < 3 else 8)
        axis.locator_params(axis="x", nbins=4, integer=True)
    figure.supxlabel(across, fontsize=10)
    figure.supylabel(up, fontsize=10)
    return figure, axes[:number]


def difference_map(down: Sequence[str], across: Sequence[str], found: Interval, text: NDArray[Any]) -> tuple[Figure, Axes]:
    """A table of differences ``[down, across]``, coloured where they are sure, with text in the cells."""
    down, across = [wrap(name, 19) for name in down], [wrap(name, 28) for name in across]
    longest = max(len(line) for name in across for line in name.split("\n"))
    upright = longest * len(across) > 48
    figure = canvas(rows_height(down) + 0.7 + (0.075 * longest if upright else 0.2))
    axis = figure.subplots()
    for (row, column), said in np.ndenumerate(text):
        tint = TINTS[verdict(*found.at(row, column)[1:])]
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=tint, edgecolor="#d0d0d0", linewidth=0.6))
        axis.text(column, row, said, ha="center", va="center", fontsize=8 if len(across) < 9 else 6.5, color="#111111")
    axis.set_xticks(range(len(across)), across, rotation=90 if upright else 0, fontsize=8.5)
    axis.set_yticks(range(len(down)), down, fontsize=8.5)
    axis.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
    axis.xaxis.set_ticks_position("top")
    axis.xaxis.set_label_position("top")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    return figure, axis


def save(figure: Figure, path: Path) -> str:
    """Write a figure as PNG, and return it as SVG in a data URI."""
    drawn = io.BytesIO()
    with plain_text(figure):
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # it is laid out: not again for each format
        write_figure(figure, path, dpi=150)
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode()}"
