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

from rsseg.figure import plain_text
from rsseg.figure import save as write_figure

BLUE, RED, GREEN, SKY, PURPLE, AMBER, GREY = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#cc79a7", "#e69f00", "#9a9a9a"
"""From Okabe and Ito's palette. In every figure blue is what the figure is about, grey the others, and red what is tuned."""

TERMS = (AMBER, GREEN, PURPLE, SKY, GREY, "#444444")
"""Colours of a loss's terms."""

HATCHES = ("", "//", "..", "xx", "\\\\", "oo")
WIDTH = 5.2
"""Inches: so narrow that type of ten points can still be read where a phone shrinks it."""

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


def panels(number: int, height: float = 1.8, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels that share both axes; the axes that are too many are not there."""
    lines = -(-number // columns)
    figure = canvas(height * lines + 0.4)
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[number:]:
        axis.set_axis_off()
    for axis in axes[max(0, number - columns) : number]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:number]


def on(colour: Any) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return "#111111" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.55 else "white"


def spread(places: np.ndarray[Any, Any], gap: float) -> np.ndarray[Any, Any]:
    """Move places on a line apart until none is closer than a gap to the next, as little as possible.

    Example:
        >>> spread(np.array([0.0, 0.1, 5.0]), 1.0).round(2).tolist()
        [-0.45, 0.55, 5.0]
    """
    groups: list[list[float]] = []  # places that touch: their sum and their number
    for place in np.sort(places):
        groups.append([float(place), 1])
        while len(groups) > 1 and _centre(groups[-1]) - _centre(groups[-2]) < gap * (groups[-1][1] + groups[-2][1]) / 2:
            total, many = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + many]
    moved = [_centre(g) + gap * (i - (g[1] - 1) / 2) for g in groups for i in range(int(g[1]))]
    out = np.empty(len(places))
    out[np.argsort(places, kind="stable")] = moved
    return out


def _centre(group: list[float]) -> float:
    return group[0] / group[1]


def save(figure: Figure, path: Path) -> str:
    """Write a figure as PNG, and return it as SVG in a data URI.

    Args:
        figure: The figure.
        path: The PNG.
    """
    write_figure(figure, path, dpi=150)
    drawn = io.BytesIO()
    with plain_text(figure):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode()}"
