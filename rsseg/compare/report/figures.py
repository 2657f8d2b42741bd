"""The figures that losses are judged by, one function each: `Findings` to a figure, or None where nothing was recorded."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rsseg.compare.counts import Array, pooled
from rsseg.compare.findings import MEASURES, Findings
from rsseg.compare.ranks import cross_evaluation, seed_interval
from rsseg.compare.report.style import BLUE, GREY, HATCHES, PURPLE, RED, WIDTH, canvas, grid, on, rows_height, spread, wrap
from rsseg.compare.report.words import percent
from rsseg.compare.threshold import residual_regret

FEW = 7
"""So many losses have room for their names, or for two numbers in a cell."""


def draw_ranking(found: Findings) -> Figure:
    """Every loss's score with its interval, as it is and tuned."""
    order, win = found.order[::-1], found.wins[found.metric]
    labels = [wrap(found.labels[i]) for i in order]
    figure = canvas(rows_height(labels) + 1.1)
    axis, places = figure.subplots(), np.arange(len(order), dtype=float)
    tuned = found.wins_tuned if found.metric == found.tuned_metric else None
    plain, moved = found.task.untuned, found.task.all_tuned
    series = [(win.score, BLUE, "o", BLUE, plain, 0.12 if tuned else 0.0)]
    if tuned:
        series.append((tuned.score, RED, "D", "white", f"{moved} tuned on other scenes", -0.16))
    for score, colour, marker, fill, name, shift in series:
        value, low, high = (getattr(score, end)[order] for end in ("value", "low", "high"))
        axis.hlines(places + shift, low, high, color=colour, linewidth=2)
        axis.plot(value, places + shift, marker, color=colour, markerfacecolor=fill, markersize=7, label=name)
    axis.plot(found.measures[found.metric][order], places + series[0][-1], "|", color=BLUE, markersize=8)
    axis.set_yticks(places, labels)
    axis.set(ylim=(-0.6, len(order) - 0.4))
    figure.supxlabel(f"{MEASURES[found.metric][0]}, validation", fontsize=10)
    grid(axis, "x")
    if tuned:
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def draw_slopes(found: Findings) -> Figure | None:
    """From the score at 0.5 to the score at tuned thresholds, one line per loss."""
    if found.fixed is None or found.tuned is None:
        return None
    scores = np.stack([pooled(counts, found.tuned_metric).mean(1) for counts in (found.fixed, found.tuned)])  # [2, L]
    labels = [wrap(label, 40) for label in found.labels]
    lines = 1 + max(label.count("\n") for label in labels)
    height = max(3.2, 0.3 * lines * len(labels) + 1)
    figure = canvas(height)
    axis = figure.subplots()
    low, high = float(scores.min()), float(scores.max())
    gap = max(high - low, 1e-3) * 0.19 * lines / (height - 1)
    names = [spread(side, gap) for side in scores]
    left, right = 0.7, 0.8 + 0.075 * max(len(line) for label in labels for line in label.split("\n"))
    inch = 1 / max(0.5, WIDTH - 0.2 - left - right)  # of the axis' unit, which is the way from one end to the other
    for i, label in enumerate(labels):
        best = i == found.order[0]
        axis.plot([0, 1], scores[:, i], "o-", color=BLUE if best else GREY, linewidth=2.4 if best else 1.3, markersize=5)
        for x, side, text in ((0, "right", f"{scores[0, i]:.3f}"), (1, "left", f"{scores[1, i]:.3f}  {label}")):
            axis.annotate(
                text,
                (x, scores[x, i]),
                (x + (0.2 if x else -0.2) * inch, names[x][i]),
                ha=side,
                va="center",
                color=BLUE if best else "#333333",
                fontsize=9,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "relpos": (1 - x, 0.5)},
            )
    axis.set(
        xlim=(-left * inch, 1 + right * inch),
        xticks=[0, 1],
        ylim=(min(low, *(n.min() for n in names)) - gap, max(high, *(n.max() for n in names)) + gap),
    )
    axis.set_xticklabels([found.task.untuned.replace("threshold", "at"), "tuned"])
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    return figure


def draw_regrets(found: Findings) -> Figure | None:
    """What each loss lacks to the best known score, by where it is lost; and what its choice of the checkpoint would cost."""
    if found.fixed is None or found.tuned is None:
        return None
    fixed, tuned = (pooled(counts, found.tuned_metric) for counts in (found.fixed, found.tuned))
    parts = [("residual", residual_regret(tuned), GREY), ("threshold", tuned - fixed, RED)]
    values = np.array([seed_interval(part).value for _, part, _ in parts])  # [parts, L]
    order = np.argsort(values.sum(0), kind="stable")[::-1]
    names = [wrap(found.labels[i]) for i in order]
    figure = canvas(rows_height(names, 0.4) + 1.2)
    axis, left, right = figure.subplots(), np.zeros(len(order)), np.zeros(len(order))
    rows = np.arange(len(order))
    for (name, _, colour), value, hatch in zip(parts, values[:, order], HATCHES, strict=False):
        start = np.where(value < 0, left, right)  # what is negative grows to the left
        axis.barh(rows + 0.12, value, left=start, color=colour, hatch=hatch, edgecolor="white", label=name, height=0.46)
        left, right = left + np.minimum(value, 0), right + np.maximum(value, 0)
    if found.selection is not None and not np.isnan(found.selection).all():
        chosen, name = seed_interval(found.selection).value[order], "selection (apart)"
        axis.barh(rows - 0.26, np.nan_to_num(chosen), color=PURPLE, hatch=HATCHES[2], edgecolor="white", label=name, height=0.2)
        for row in np.flatnonzero(np.isnan(chosen)):
            axis.annotate("?", (0, row - 0.26), (4, 0), textcoords="offset points", va="center", color=PURPLE, fontsize=8)
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.set_yticks(rows, names)
    axis.set(ylim=(-0.7, len(order) - 0.4))
    figure.supxlabel(f"{MEASURES[found.tuned_metric][0]} lost to the best known", fontsize=10)
    grid(axis, "x")
    figure.legend(loc="outside upper left", ncols=3, title="regret", alignment="left")
    return figure


def draw_wins(found: Findings) -> Figure:
    """How surely each loss beats each other, and by how much."""
    order, win = found.order, found.wins[found.metric]
    better, gaps = win.better[np.ix_(order, order)], win.difference.value[np.ix_(order, order)]
    names, shown = [found.labels[i] for i in order], bool(not np.isnan(better[0, -1]))
    limit = max(1e-9, float(np.nanmax(np.abs(gaps))))
    text = np.full(gaps.shape, "", dtype=object)
    for at in zip(*np.nonzero(~np.eye(len(order), dtype=bool)), strict=True):
        said = [percent(better[at]).removesuffix(" %" * (len(order) > FEW))] * shown
        text[at] = "\n".join(said + [f"{gaps[at]:+.3f}"] * (not shown or len(order) <= FEW))
    shade = mpl.colormaps["RdBu"](better if shown else 0.5 + gaps / limit / 2)
    shade[np.eye(len(order), dtype=bool)] = 1
    figure, axis = heat_map(names, names, shade, text, 0.45 if len(names) <= FEW else 0.3)
    axis.set(ylabel="this loss ...", xlabel="... against this one")
    return figure


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
        axis.text(column, row, said, ha="center", va="center", fontsize=7.5, color=on(shade[row, column, :3]))
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


def ranks(found: Findings) -> tuple[list[str], Array]:
    """The measures and losses that everything is ranked by, and the mean ranks ``[L, measures]``."""
    keys = [key for key in MEASURES if key in found.measures]
    values, up = [found.measures[key] for key in keys], [MEASURES[key][1] for key in keys]
    names = [MEASURES[key][0] for key in keys]
    if found.values is not None:
        names += [f"loss {name}" for name in found.panel]
        values += list(np.moveaxis(found.values, -1, 0))
        up += [False] * len(found.panel)
    return names, cross_evaluation(np.stack(values, axis=-1), up)


def draw_cross(found: Findings) -> Figure:
    """The rank of every loss under every measure and under every loss."""
    names, table = ranks(found)
    table = table[found.order].T
    shade = mpl.colormaps["Blues_r"](0.15 + 0.8 * (table - 1) / (max(2, len(found.labels)) - 1))
    shade[np.isnan(table)] = mpl.colors.to_rgba("#eeeeee")
    text = np.array([["-" if np.isnan(rank) else f"{rank:.3g}" for rank in row] for row in table], dtype=object)
    figure, axis = heat_map(names, [found.labels[i] for i in found.order], shade, text, 0.3)
    axis.set(xlabel="trained with", ylabel="judged by")
    if len(found.measures) < len(names):
        axis.axhline(len(found.measures) - 0.5, color="#111111", linewidth=2)
    return figure
