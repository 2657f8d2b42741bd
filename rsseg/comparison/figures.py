"""The figures of a comparison, in one width, one size of type, and colours that colour-blind readers keep apart."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rsseg.comparison.datasets import AcrossDatasets
from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import Interval
from rsseg.comparison.records import PLACES
from rsseg.comparison.words import area_word
from rsseg.savefig import plain_text
from rsseg.savefig import save as write_figure

BLUE, RED, INK, GREY, BAND = "#0072b2", "#d55e00", "#3c3c3c", "#9a9a9a", "#ebebeb"
"""Colours of differences: blue is surely better, red is surely worse, ink is neither."""

TERMS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", GREY, "#444444")
"""Colours of a loss's terms; these and the first two are from Okabe and Ito's palette."""

WIDTH = 5.2
"""The width of a figure in inches; its text is ten points high."""

RULES: Any = {
    "font.size": 10, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "rsseg",
    "legend.frameon": False, "legend.fontsize": 9, "axes.grid": True, "grid.color": "#e2e2e2", "grid.linewidth": 0.7,
    "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip


def draw_all(found: Findings, tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """All figures that have data to show, by file name without ending."""
    figures = {"forest": draw_forest(found)} if len(found.labels) > 1 else {}
    figures["curves"] = draw_curves(found, tables["checkpoints"])
    several = found.terms.groupby("loss")["term"].transform("nunique") > 1
    terms = found.terms[several | found.terms["gain"].notna()]
    return figures | ({"terms": draw_terms(terms)} if len(terms) else {})


def draw_forest(found: Findings) -> Figure:
    """The difference of every loss to the best, before and after tuning, with simultaneous intervals."""
    order, first = found.advised.order, found.order[0]
    series, best = [(found.ranked.lead()[order, first], "o", found.task.untuned)], found.labels[first]
    if found.tuned is not None and found.tunes:
        after = found.tuned.order[0]
        series.append((found.tuned.lead()[order, after], "D", f"{found.task.all_tuned} tuned on other {area_word(found)}"))
        if after != first:
            best = f"{best} ({found.task.untuned}) or {found.labels[after]} (tuned)"
    names, across = [found.labels[i] for i in order], f"{found.ranked.measure.heading}, difference to the best: {best}"
    figure, (axis,) = rows(names, [""], across, legend=0.45)
    axis.axvspan(-found.equal_within, found.equal_within, color=BAND, zorder=0)
    shifts = (-0.13, 0.17) if len(series) > 1 else (0,)
    for (differences, marker, _), shift in zip(series, shifts, strict=True):
        mark(axis, differences, shift, marker)
    keys: list[Artist] = [
        Line2D([], [], color=INK, marker=marker, linestyle="", markerfacecolor=INK if marker == "o" else "white", label=name)
        for _, marker, name in series
    ]
    keys += [Patch(color=BAND, label=f"practically equal (±{found.equal_within:g})"), Patch(color=RED, label="surely behind")]
    figure.legend(handles=keys, loc="outside upper left", ncols=2)
    return figure


def draw_across(across: AcrossDatasets) -> Figure:
    """The difference of every loss to the best: on each dataset, and over datasets like these."""
    order, best = across.order, across.order[0]
    names, measure = [across.labels[i] for i in order], next(iter(across.found.values())).ranked.measure
    titles = [*across.found, "datasets like these"]
    figure, axes = rows(names, titles, f"{measure.heading}, worse (left) or better than {across.labels[best]}")
    for axis, found in zip(axes, across.found.values(), strict=False):
        at = [found.labels.index(name) for name in names]
        mark(axis, found.ranked.lead()[at, at[0]])
    mark(axes[-1], across.lead[order, best], marker="D")
    return figure


def draw_curves(found: Findings, checkpoints: pd.DataFrame) -> Figure:
    """The validation score over the steps: per panel one loss's seeds and their mean, the other losses' means in grey."""
    score = found.tuned_score
    means = checkpoints.groupby(["loss", "step"])[score].agg(lambda seeds: seeds.mean(skipna=False))
    titles = [found.labels[i] for i in found.order]
    figure, axes = panels(titles, "optimiser step", f"{found.measures[score].heading}, validation")
    for axis, label in zip(axes, titles, strict=True):
        for other in titles:
            axis.plot(means[other].index, means[other], color="#cfcfcf", linewidth=1)
        for _, seed in checkpoints[checkpoints["loss"] == label].groupby("seed"):
            axis.plot(seed["step"], seed[score], color=BLUE, linewidth=0.8, alpha=0.6)
        axis.plot(means[label].index, means[label], "o-", color=BLUE, linewidth=2.2, markersize=3)
    return figure


def draw_terms(terms: pd.DataFrame) -> Figure:
    """The share that each term has of a loss's gradient, and its one-step gain where that was recorded, over the steps."""
    columns = {f"share_{place}": f"share at the {'last ' * (place == 'layer')}{place}" for place in PLACES}
    columns["gain"] = "one-step gain"
    drawn = [
        (loss, own, name) for loss, own in terms.groupby("loss", sort=False) for name in columns if own[name].notna().any()
    ]
    titles = [f"{loss}\n{columns[name]}" for loss, _, name in drawn]
    figure, axes = panels(titles, "optimiser step", "", share_y=False)
    for axis, (_, own, name) in zip(axes, drawn, strict=True):
        for (term, values), colour, marker in zip(own.groupby("term", sort=False), TERMS * 2, "osD^vPosD^vP", strict=False):
            axis.plot(values["step"], values[name], f"{marker}-", color=colour, markersize=3.5, label=term)
        if name != "gain":
            axis.set_ylim(0, 1)
        axis.legend(fontsize=8, labelspacing=0.2)
    return figure


def mark(axis: Axes, found: Interval, shift: float = 0.0, marker: str = "o") -> None:
    """Values in rows with their intervals, coloured where these exclude 0."""
    for place, (value, low, high) in enumerate(zip(found.value, found.low, found.high, strict=True)):
        colour = BLUE if low > 0 else RED if high < 0 else INK
        axis.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.8, zorder=2, solid_capstyle="butt")
        face = colour if marker == "o" else "white"
        axis.plot(value, place + shift, marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)


def wrap(name: str, width: int = 20) -> str:
    r"""A name wrapped into lines of at most `width` characters; its own line breaks are kept.

    Example:
        >>> wrap("focal_dice sampler=Balanced")
        'focal_dice\nsampler=Balanced'
    """
    return "\n".join("\n".join(textwrap.wrap(line, width, break_on_hyphens=False)) for line in name.split("\n"))


def lines_of(names: Sequence[str]) -> int:
    """The largest number of lines among the names."""
    return max(name.count("\n") for name in names) + 1


def rows(names: Sequence[str], titles: Sequence[str], across: str, legend: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure of labelled rows, the first on top, in panels side by side; `legend` inches are reserved above them."""
    labels, titles, across = [wrap(name) for name in names], [wrap(title, 15) for title in titles], wrap(across, 64)
    height = len(labels) * max(0.3, 0.165 * lines_of(labels) + 0.1)
    figure = canvas(height + 0.5 + legend + 0.17 * lines_of([across]) + 0.15 * lines_of(titles))
    axes = list(figure.subplots(1, len(titles), squeeze=False, sharey=True)[0])
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=8.5)
        axis.axvline(0, color=INK, linewidth=0.9, zorder=1)
        axis.grid(visible=False, axis="y")
        axis.locator_params(axis="x", nbins=6 if len(titles) < 2 else 2)
    axes[0].set_yticks(range(len(labels)), labels, fontsize=9)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.supxlabel(across, fontsize=10)
    return figure, axes


def panels(titles: Sequence[str], across: str, up: str, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels in two or three columns with a common x axis; surplus axes are hidden."""
    number, columns = len(titles), 2 if len(titles) < 7 else 3
    lines, titles = -(-number // columns), [wrap(title, 48 // columns) for title in titles]
    figure = canvas((3.6 / columns + 0.14 * lines_of(titles)) * lines + 0.4)
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=share_y).flat)
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


def canvas(height: float) -> Figure:
    """An empty figure of 72 dpi, so that a pixel is a point while it is laid out."""
    return Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")


def save(figure: Figure, path: Path) -> str:
    """Write a figure as PNG, and return it as SVG in a data URI."""
    drawn = io.BytesIO()
    with plain_text(figure), mpl.rc_context(RULES):
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # the layout is done: saving must not repeat it
        write_figure(figure, path, dpi=150)
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri("svg+xml", drawn.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """A picture as a data URI, to be embedded in a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
