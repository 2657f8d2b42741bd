"""How figures look: one width, one size of type, colours that colour-blind readers and grey print keep apart."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from rsseg.figure import plain_text
from rsseg.figure import save as write_figure
from rsseg.metrics.average import Array

BLUE, RED, GREEN, SKY, PURPLE, AMBER, GREY = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#cc79a7", "#e69f00", "#9a9a9a"
"""From Okabe and Ito's palette. In every figure blue is what the figure is about, grey the others, and red what is tuned."""

TERMS = (AMBER, GREEN, PURPLE, SKY, GREY, "#444444")
"""Colours of a loss's terms."""

HATCHES = ("", "//", "..", "xx", "\\\\", "oo")
WIDTH = 5.2
"""Inches: so narrow that type of ten points can still be read where a phone shrinks it."""

FEW = 7
"""So many losses have room for their names, or for two numbers in a cell."""

RULES: Any = {
    "font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "svg.fonttype": "path", "svg.hashsalt": "rsseg", "legend.frameon": False,
}  # fmt: skip


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, whose pixels are points until it is saved."""
    return Figure(figsize=(width, height), dpi=72, layout="constrained")


def grid(axis: Axes, which: Any = "both") -> None:
    """Faint lines."""
    axis.grid(color="#e2e2e2", linewidth=0.7, axis=which)
    axis.tick_params(length=0)


def wrap(name: str, width: int = 20) -> str:
    r"""A name on several lines, for those of recipes are long.

    Example:
        >>> wrap("focal_dice sampler=Balanced")
        'focal_dice\nsampler=Balanced'
    """
    return "\n".join(textwrap.wrap(name, width, break_on_hyphens=False))


def rows_height(names: Sequence[str], least: float = 0.36) -> float:
    """Inches that rows with these names need together."""
    return len(names) * max(least, 0.15 * max(name.count("\n") + 1 for name in names) + 0.08)


def panels(titles: Sequence[str], across: str, up: str, height: float = 1.8) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels in two columns that share both axes; the axes that are too many are not there."""
    number, columns = len(titles), 2
    lines = -(-number // columns)
    figure = canvas(height * lines + 0.4)
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[number:]:
        axis.set_axis_off()
    for axis in axes[max(0, number - columns) : number]:
        axis.tick_params(labelbottom=True)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, loc="left", fontweight="bold", fontsize=9)
    figure.supxlabel(across, fontsize=10)
    figure.supylabel(up, fontsize=10)
    return figure, axes[:number]


def heat_map(down: list[str], across: list[str], shade: Array, text: NDArray[np.object_], height: float) -> tuple[Figure, Axes]:
    """A table of coloured cells ``[down, across]`` with text in them, of this height in inches."""
    upright = len(across) > FEW or max(map(len, across)) > 14
    down, across = [wrap(name, 26) for name in down], [wrap(name, 40) for name in across]
    longest = max(len(line) for name in across for line in name.split("\n"))
    width = 1.9 + rows_height(across, 0.27) * upright
    figure = canvas(rows_height(down, height) + 0.5 + 0.07 * longest * (1 if upright else 0.6), max(WIDTH, width))
    axis = figure.subplots()
    axis.imshow(shade, aspect="auto")
    for (row, column), said in np.ndenumerate(text):
        axis.text(column, row, said, ha="center", va="center", fontsize=7.5, color=_readable_on(shade[row, column, :3]))
    turn = {"rotation": 90, "va": "center"} if upright else {"rotation": 35}
    axis.set_xticks(range(len(across)), across, ha="right", rotation_mode="anchor", fontsize=8.5, **turn)
    axis.set_yticks(range(len(down)), down, fontsize=8.5)
    for place in range(1, len(across)):
        axis.axvline(place - 0.5, color="white")
    for place in range(1, len(down)):
        axis.axhline(place - 0.5, color="white")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure, axis


def _readable_on(colour: Any) -> str:
    red, green, blue = mpl.colors.to_rgb(colour)
    return "#111111" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.55 else "white"


def spread(places: Array, gap: float) -> Array:
    """Move places on a line apart until none is closer than a gap to the next, as little as possible.

    Example:
        >>> spread(np.array([0.0, 0.1, 5.0]), 1.0).round(2).tolist()
        [-0.45, 0.55, 5.0]
    """
    order, steps = np.argsort(places, kind="stable"), gap * np.arange(len(places))
    moved = np.empty(len(places))
    moved[order] = isotonic_regression(places[order] - steps).x + steps
    return moved


def name_points(axis: Axes, points: Array, names: list[str]) -> None:
    """Names ``[N]`` beside points ``[N, 2]``, where each covers the least of the other points and names."""
    places, frame = axis.transData.transform(points), axis.get_window_extent().get_points()
    taken = [np.stack([place - 5, place + 5]) for place in places]
    turns = np.array([0, 180, 90, 270, 45, 135, 225, 315]) * np.pi / 180
    for at, place, name in zip(points, places, names, strict=True):
        half = np.array([2.6 * len(name), 5.5])
        moves = [(far + half) * (np.cos(turn), np.sin(turn)) for far in (6, 14, 24, 36) for turn in turns]
        boxes = [np.stack([place + move - half, place + move + half]) for move in moves]
        best = min(range(len(moves)), key=lambda i: _covered(boxes[i], taken, frame))  # the nearest of those alike
        taken.append(boxes[best])
        axis.annotate(
            name, at, moves[best], textcoords="offset points", ha="center", va="center", fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5 * (best >= len(turns)), "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def _covered(box: Array, taken: list[Array], frame: Array) -> float:
    """The area of a box ``[2, 2]``, lower and upper corner, that others cover or that is out of the frame."""

    def common(other: Array) -> float:
        return float((np.minimum(box[1], other[1]) - np.maximum(box[0], other[0])).clip(0).prod())

    return sum(map(common, taken)) + float((box[1] - box[0]).prod()) - common(frame)


def save(figure: Figure, path: Path) -> str:
    """Write a figure as PNG, and return it as SVG in a data URI."""
    write_figure(figure, path, dpi=150)
    drawn = io.BytesIO()
    with plain_text(figure):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode()}"
