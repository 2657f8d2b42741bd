"""The figures that losses are judged by, one function each: `Findings` to a figure, or None where nothing was recorded."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rsseg.alignment.counts import Array, pooled
from rsseg.alignment.findings import MEASURES, Findings
from rsseg.alignment.ranks import cross_evaluation, pareto_front, seed_interval
from rsseg.alignment.report.style import AMBER, BLUE, GREEN, GREY, HATCHES, RED, WIDTH, canvas, grid, on, spread
from rsseg.alignment.threshold import residual_regret


def draw_ranking(found: Findings) -> Figure:
    """Every loss's score with its interval, as it is and tuned."""
    order, win = found.order[::-1], found.wins[found.metric]
    figure = canvas(0.42 * len(order) + 1.1)
    axis, places = figure.subplots(), np.arange(len(order), dtype=float)
    tuned = found.wins_tuned if found.metric == found.tuned_metric else None
    series = [(win.score, BLUE, "o", BLUE, "threshold 0.5", 0.12 if tuned else 0.0)]
    if tuned:
        series.append((tuned.score, RED, "D", "white", "threshold tuned on other scenes", -0.12))
    for score, colour, marker, fill, name, shift in series:
        value, low, high = (getattr(score, end)[order] for end in ("value", "low", "high"))
        axis.hlines(places + shift, low, high, color=colour, linewidth=2)
        axis.plot(value, places + shift, marker, color=colour, markerfacecolor=fill, markersize=7, label=name)
    axis.plot(found.measures[found.metric][order], places + win.score.value[0] * 0, "|", color="#555555", markersize=5)
    axis.set_yticks(places, [found.labels[i] for i in order])
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
    ends = np.stack([pooled(counts, found.tuned_metric).mean(1) for counts in (found.fixed, found.tuned)])  # [2, L]
    height = max(3.2, 0.3 * len(found.labels) + 1)
    figure = canvas(height)
    axis = figure.subplots()
    low, high = float(ends.min()), float(ends.max())
    gap = max(high - low, 1e-3) * 0.19 / (height - 1)
    names = [spread(side, gap) for side in ends]
    best = found.order[0]
    inches = 0.07 * (max(map(len, found.labels)) + 8)  # of the widest text
    margin = max(0.9, inches / max(0.3, figure.get_figwidth() - 2 * inches))
    for i, label in enumerate(found.labels):
        colour = RED if i == best else BLUE
        axis.plot([0, 1], ends[:, i], "o-", color=colour, linewidth=2 if i == best else 1.3, markersize=5)
        for x, side, text in ((0, "right", f"{label}  {ends[0, i]:.3f}"), (1, "left", f"{ends[1, i]:.3f}  {label}")):
            axis.annotate(
                text,
                (x, ends[x, i]),
                (x + (0.08 * margin if x else -0.08 * margin), names[x][i]),
                ha=side,
                va="center",
                color=colour,
                fontsize=9,
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0},
            )
    axis.set(
        xlim=(-margin, 1 + margin),
        xticks=[0, 1],
        ylim=(min(low, *(n.min() for n in names)) - gap, max(high, *(n.max() for n in names)) + gap),
    )
    axis.set_xticklabels(["at 0.5", "tuned"])
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    return figure


def draw_regrets(found: Findings) -> Figure | None:
    """What each loss lacks to the best known score, by where it is lost."""
    if found.fixed is None or found.tuned is None:
        return None
    fixed, tuned = (pooled(counts, found.tuned_metric) for counts in (found.fixed, found.tuned))
    parts = [("residual", residual_regret(tuned), GREY), ("threshold", tuned - fixed, AMBER)]
    if found.selection is not None and not np.isnan(found.selection).all():
        parts.append(("selection", found.selection, BLUE))
    values = np.array([seed_interval(part).value for _, part, _ in parts])  # [parts, L]
    names = [
        f"{label} (selection: ?)" if lost else label for label, lost in zip(found.labels, np.isnan(values[-1]), strict=True)
    ]
    values = np.nan_to_num(values)
    order = np.argsort(values.sum(0), kind="stable")[::-1]
    figure = canvas(0.42 * len(order) + 1.2)
    axis, left, right = figure.subplots(), np.zeros(len(order)), np.zeros(len(order))
    for (name, _, colour), value, hatch in zip(parts, values[:, order], HATCHES, strict=False):
        start = np.where(value < 0, left, right)  # what is negative grows to the left
        axis.barh(range(len(order)), value, left=start, color=colour, hatch=hatch, edgecolor="white", label=name, height=0.62)
        left, right = left + np.minimum(value, 0), right + np.maximum(value, 0)
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.set_yticks(range(len(order)), [names[i] for i in order])
    figure.supxlabel(f"{MEASURES[found.tuned_metric][0]} lost to the best known", fontsize=10)
    grid(axis, "x")
    figure.legend(loc="outside upper left", ncols=3, title="regret", alignment="left")
    return figure


def draw_wins(found: Findings) -> Figure:
    """How surely each loss beats each other, and by how much."""
    order, win = found.order, found.wins[found.metric]
    better, gaps = win.better[np.ix_(order, order)], win.difference.value[np.ix_(order, order)]
    names, shown = [found.labels[i] for i in order], bool(not np.isnan(better[0, -1]))
    figure = canvas(0.5 * len(order) + 1.6, max(WIDTH, 0.55 * len(order) + 1.6))
    axis, colours = figure.subplots(), mpl.colormaps["PuOr"]
    limit = max(1e-9, float(np.nanmax(np.abs(gaps))))
    for (row, column), gap in np.ndenumerate(gaps):
        if row == column:
            continue
        colour = colours(better[row, column] if shown else 0.5 + gap / limit / 2)
        axis.add_patch(mpl.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
        text = [f"{100 * better[row, column]:.0f} %"] * shown + [f"{gap:+.3f}"] * (not shown or len(order) <= FEW)
        axis.text(column, row, "\n".join(text), ha="center", va="center", fontsize=8, color=on(colour))
    axis.set(
        xlim=(-0.5, len(order) - 0.5), ylim=(len(order) - 0.5, -0.5), ylabel="this loss ...", xlabel="... against this one"
    )
    axis.set_xticks(range(len(order)), names, rotation=30, ha="right", rotation_mode="anchor", fontsize=9)
    axis.set_yticks(range(len(order)), names, fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


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
    order = found.order
    figure = canvas(0.3 * len(order) + 2.1, max(WIDTH, 0.36 * len(names) + 2))
    axis, colours = figure.subplots(), mpl.colormaps["Blues_r"]
    top = max(2, len(order))
    for (row, column), rank in np.ndenumerate(table[order]):
        colour = "#eeeeee" if np.isnan(rank) else colours(0.15 + 0.8 * (rank - 1) / (top - 1))
        axis.add_patch(mpl.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
        axis.text(column, row, "-" if np.isnan(rank) else f"{rank:.3g}", ha="center", va="center", fontsize=8, color=on(colour))
    axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(order) - 0.5, -0.5), ylabel="trained with")
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
    axis.set_yticks(range(len(order)), [found.labels[i] for i in order])
    measures = len(found.measures)
    if measures < len(names):
        axis.axvline(measures - 0.5, color="#111111", linewidth=2)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


FEW = 7
"""So many losses have room for their names, or for two numbers in a cell."""

FRONT = ("scene_iou", "boundary_iou", "class_ece")
"""What pooled IoU is traded for."""


def draw_pareto(found: Findings) -> Figure:
    """Pooled IoU against IoU per scene, boundary IoU and calibration: which losses no other one beats in both."""
    others = [key for key in FRONT if key in found.measures]
    figure = canvas(2.7 * len(others) + 0.2)
    axes = figure.subplots(len(others), 1, squeeze=False, sharex=True)[:, 0]
    x = found.measures["iou"].mean(1)
    places = {label: str(place) for place, label in enumerate((found.labels[i] for i in found.order), start=1)}
    names = found.labels if len(found.labels) <= FEW else [places[label] for label in found.labels]
    for axis, key in zip(axes, others, strict=True):
        name, up = MEASURES[key]
        y = found.measures[key].mean(1)
        front = pareto_front(np.stack([x, y], axis=-1), [True, up])
        along = np.flatnonzero(front)[np.argsort(x[front])]
        axis.plot(x[along], y[along], color=GREEN, linewidth=1.2, zorder=1)
        axis.scatter(x[~front], y[~front], s=34, facecolor="white", edgecolor=GREY, linewidth=1.5, zorder=2)
        axis.scatter(x[front], y[front], s=46, color=GREEN, zorder=3)
        axis.set(ylabel=name if up else f"{name} (up: better)")
        if not up:
            axis.invert_yaxis()
        axis.margins(0.14)
        _name_points(axis, x, y, names)
        axis.tick_params(labelbottom=True)
        axis.xaxis.set_major_locator(MaxNLocator(6))
        grid(axis)
    axes[-1].set_xlabel("IoU, pooled over scenes (right: better)")
    return figure


def _name_points(axis: Axes, x: Array, y: Array, names: list[str]) -> None:
    """Names right of their points, or left of those that have another one close to their right."""
    width, height = (max(float(np.ptp(v)), 1e-9) for v in (x, y))
    for i, name in enumerate(names):
        right, near = x - x[i], np.abs(y - y[i]) < 0.08 * height
        crowded = bool((near & (right > 0) & (right < 0.3 * width)).any()) or right.max() == 0
        place, side = ((-6, 4), "right") if crowded else ((6, 4), "left")
        axis.annotate(name, (x[i], y[i]), place, textcoords="offset points", ha=side, fontsize=8.5)
