"""The figures of a comparison, one function each: `Findings` to a figure, or None where nothing was recorded."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.findings import Findings
from rsseg.compare.scores import seed_interval
from rsseg.compare.style import (
    BLUE,
    FEW,
    GREY,
    HATCHES,
    PURPLE,
    RED,
    RULES,
    TERMS,
    WIDTH,
    canvas,
    grid,
    heat_map,
    name_points,
    panels,
    rows_height,
    save,
    spread,
    wrap,
)
from rsseg.compare.tables import ranks
from rsseg.compare.words import percent

FRONT = {
    "iou": ("scene_iou", "boundary_iou", "class_ece"),
    "rmse": ("scene_rmse", "mae", "absolute_bias"),
    "f1": ("scene_f1", "precision", "recall"),
}
"""What `Task.score`, pooled over scenes, is traded for."""


def draw_all(found: Findings, out: Path) -> dict[str, str]:
    """Write every figure that the records allow as PNG.

    Returns:
        By name, the figures as data URIs.
    """
    with mpl.rc_context(RULES):
        drawn = {name: draw(found) for name, draw in FIGURES.items()}
        return {name: save(figure, out / f"{name}.png") for name, figure in drawn.items() if figure is not None}


def draw_ranking(found: Findings) -> Figure:
    """Every loss's score with its interval, as it is and tuned."""
    order, win = found.order[::-1], found.wins[found.metric]
    labels = [wrap(found.labels[i]) for i in order]
    figure = canvas(rows_height(labels) + 1.1)
    axis, places = figure.subplots(), np.arange(len(order), dtype=float)
    tuning = found.tuning if found.metric == found.tuned_metric else None
    shift = 0.12 if tuning else 0.0
    series = [(win.score, BLUE, "o", BLUE, found.task.untuned, shift)]
    if tuning:
        series.append((tuning.wins.score, RED, "D", "white", f"{found.task.all_tuned} tuned on other scenes", -0.16))
    for score, colour, marker, fill, name, up in series:
        axis.hlines(places + up, score.low[order], score.high[order], color=colour, linewidth=2)
        axis.plot(score.value[order], places + up, marker, color=colour, markerfacecolor=fill, markersize=7, label=name)
    axis.plot(win.values[order], places + shift, "|", color=BLUE, markersize=8)
    axis.set_yticks(places, labels)
    axis.set(ylim=(-0.6, len(order) - 0.4))
    figure.supxlabel(f"{found.measures[found.metric].heading}, validation", fontsize=10)
    grid(axis, "x")
    if tuning:
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def draw_slopes(found: Findings) -> Figure | None:
    """From the score at 0.5 to the score at tuned thresholds, one line per loss."""
    if found.tuning is None:
        return None
    scores = np.stack([values.mean(1) for values in (found.tuning.fixed, found.tuning.wins.values)])  # [2, L]
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
    if found.tuning is None:
        return None
    parts = [("residual", found.tuning.residual_regret, GREY), ("threshold", found.tuning.threshold_regret, RED)]
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
    figure.supxlabel(f"{found.measures[found.tuned_metric].label} lost to the best known", fontsize=10)
    grid(axis, "x")
    figure.legend(loc="outside upper left", ncols=3, title="regret", alignment="left")
    return figure


def draw_wins(found: Findings) -> Figure | None:
    """How surely each loss beats each other, and by how much."""
    if len(found.labels) < 2:
        return None
    order, win = found.order, found.wins[found.metric]
    better, gaps = win.better[np.ix_(order, order)], win.lead.value[np.ix_(order, order)]
    names, sure, room = [found.labels[i] for i in order], bool(not np.isnan(better[0, -1])), len(order) <= FEW
    text = np.full(gaps.shape, "", dtype=object)
    for at in zip(*np.nonzero(~np.eye(len(order), dtype=bool)), strict=True):
        confidence = percent(better[at]).removesuffix("" if room else " %")
        text[at] = "\n".join([confidence] * sure + [f"{gaps[at]:+.3f}"] * (room or not sure))
    limit = max(1e-9, float(np.nanmax(np.abs(gaps))))
    shade = mpl.colormaps["RdBu"](better if sure else 0.5 + gaps / limit / 2)
    shade[np.eye(len(order), dtype=bool)] = 1
    figure, axis = heat_map(names, names, shade, text, 0.45 if room else 0.3)
    axis.set(ylabel="this loss ...", xlabel="... against this one")
    return figure


def draw_cross(found: Findings) -> Figure:
    """The rank of every loss under every measure and under every loss."""
    names, table = ranks(found)
    table = table[found.order].T
    shade = mpl.colormaps["Blues_r"](0.15 + 0.8 * (table - 1) / (max(2, len(found.labels)) - 1))
    shade[np.isnan(table)] = mpl.colors.to_rgba("#eeeeee")
    text = np.array([["-" if np.isnan(rank) else f"{rank:.3g}" for rank in row] for row in table], dtype=object)
    figure, axis = heat_map(names, [found.labels[i] for i in found.order], shade, text, 0.3)
    axis.set(xlabel="trained with", ylabel="judged by")
    if len(found.wins) < len(names):
        axis.axhline(len(found.wins) - 0.5, color="#111111", linewidth=2)
    return figure


def draw_pareto(found: Findings) -> Figure:
    """`Task.score` against what it is traded for: which losses no other one beats in both."""
    score = found.measures[found.task.score]
    others = [key for key in FRONT[found.task.score] if key in found.wins]
    numbered = len(found.labels) > FEW
    figure = canvas(1.7 * len(others) + 0.4 + 0.1 * len(found.labels) * numbered)
    axes = figure.subplots(len(others), 1, squeeze=False, sharex=True)[:, 0]
    x = found.wins[found.task.score].values.mean(1)[found.order]
    points = {key: np.stack([x, found.wins[key].values.mean(1)[found.order]], axis=-1) for key in others}
    names = [str(place + 1) if numbered else found.labels[i] for place, i in enumerate(found.order)]
    for axis, (key, point) in zip(axes, points.items(), strict=True):
        measure, y = found.measures[key], point[:, 1]
        front = pareto_front(point, [score.higher_is_better, measure.higher_is_better])
        along = np.flatnonzero(front)[np.argsort(x[front])]
        axis.plot(x[along], y[along], color=BLUE, linewidth=1.2, zorder=1)
        axis.scatter(x[~front], y[~front], s=34, facecolor="white", edgecolor=GREY, linewidth=1.5, zorder=2)
        axis.scatter(x[front], y[front], s=46, color=BLUE, zorder=3)
        axis.set_ylabel(f"{wrap(measure.label, 17)}{measure.heading.removeprefix(measure.label)}\n(up: better)")
        if not measure.higher_is_better:
            axis.invert_yaxis()
        axis.margins(0.14)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        grid(axis)
    axes[-1].set_xlabel(f"{score.heading}, pooled over scenes (right: better)")
    if not score.higher_is_better:
        axes[-1].invert_xaxis()  # of all, which share it
    if numbered:
        keys = [wrap(f"{name}  {found.labels[i]}", 34) for name, i in zip(names, found.order, strict=True)]
        empty = [Line2D([], [], linestyle="")] * len(keys)
        figure.legend(empty, keys, loc="outside lower left", ncols=2, fontsize=8.5, handlelength=0, handletextpad=0)
    figure.draw_without_rendering()  # names are placed by where the axes stand
    for axis, point in zip(axes, points.values(), strict=True):
        name_points(axis, point, names)
    return figure


def pareto_front(values: ArrayLike, higher_is_better: ArrayLike) -> NDArray[np.bool_]:
    """Which losses no other one beats in one measure without losing in another: bool ``[losses]``.

    Args:
        values: ``[losses, measures]``, such as pooled IoU and calibration error; with a NaN among them a loss is not in front.
        higher_is_better: bool ``[measures]``.

    Example:
        >>> pareto_front([[0.8, 0.1], [0.7, 0.05], [0.7, 0.1]], [True, False]).tolist()
        [True, True, False]
    """
    found = np.asarray(values, dtype=np.float64)
    good = np.where(np.asarray(higher_is_better, dtype=bool), found, -found)
    no_worse = (good[:, None] >= good[None]).all(-1)
    beats = no_worse & (good[:, None] > good[None]).any(-1)
    return np.asarray(~beats.any(0) & ~np.isnan(good).any(-1))


def draw_curves(found: Findings) -> Figure:
    """The validation score over steps: per panel one loss's seeds, the other losses' means in grey."""
    metric = found.tuned_metric
    lines = [[run.curve.set_index("step")[metric] for run in row] for row in found.comparison.runs]
    means = [pd.concat(seeds, axis=1, join="inner").mean(axis=1, skipna=False) for seeds in lines]  # at the steps of all
    titles = [wrap(found.labels[i], 24) for i in found.order]
    figure, axes = panels(titles, "optimiser step", f"{found.measures[metric].heading}, validation")
    for axis, i in zip(axes, found.order, strict=True):
        for other in found.order:
            if other != i:
                axis.plot(means[other].index, means[other], color="#cfcfcf", linewidth=1)
        for score in lines[i]:
            axis.plot(score.index, score, color=BLUE, linewidth=0.8, alpha=0.6)
        axis.plot(means[i].index, means[i], "o-", color=BLUE, linewidth=2.2, markersize=3)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        grid(axis)
    return figure


def draw_alignment(found: Findings) -> Figure:
    """Validation loss against the score, one point per checkpoint: whether the loss orders checkpoints as the metric does."""
    metric, titles = found.tuned_metric, []
    for i in found.order:
        tau = seed_interval(found.tau[i, :, 0])
        said = f"tau {tau.value:.2f}"
        said += "" if np.isnan(tau.low) else f" ({max(tau.low, -1.0):.2f} to {min(tau.high, 1.0):.2f})"
        titles.append(f"{wrap(found.labels[i], 24)}\n{said.replace('nan', '-')}")
    across = "checkpoints of a run by validation loss, 1: the lowest"
    figure, axes = panels(titles, across, f"{found.measures[metric].heading}, validation")
    for axis, i in zip(axes, found.order, strict=True):
        for run in found.comparison.runs[i]:
            known = run.curve.dropna()
            order = known.assign(place=known["val_loss"].rank()).sort_values("place")
            axis.plot(order["place"], order[metric], "o-", color=BLUE, markersize=3.5, linewidth=0.6, alpha=0.7)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.margins(0.1)
        grid(axis)
    return figure


def draw_shares(found: Findings) -> Figure | None:
    """How much of a composition's gradient comes from each term, over the steps."""
    groups = dict(list(found.gradients.shares.groupby(["loss", "place"], sort=False)))
    if not groups:
        return None
    titles = [wrap(f"{loss}, {'at the logits' if place == 'logits' else 'at the last layer'}", 26) for loss, place in groups]
    figure, axes = panels(titles, "optimiser step", "share of the gradient's norm", height=2.5)
    for axis, group in zip(axes, groups.values(), strict=True):
        shares = group.pivot(index="step", columns="term", values="share")[group["term"].unique()]
        if len(shares) == 1:  # an area needs two points
            shares = pd.concat([shares.rename(index=lambda _: 0), shares])
        layers = axis.stackplot(
            shares.index, shares.to_numpy().T, colors=TERMS, labels=shares.columns, edgecolor="white", linewidth=0.8
        )
        for layer, hatch in zip(layers, HATCHES * 3, strict=False):
            layer.set_hatch(hatch)
        axis.axhline(0.5, color="#111111", linewidth=1.2, linestyle="--")
        axis.set(ylim=(0, 1), xlim=(shares.index[0], shares.index[-1]))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8.5)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure


def draw_gains(found: Findings) -> Figure | None:
    """The one-step gain of each term, over the steps."""
    groups = dict(list(found.gradients.gains.groupby("loss", sort=False)))
    if not groups:
        return None
    figure, axes = panels([wrap(loss, 24) for loss in groups], "optimiser step", "gain per unit step")
    for axis, group in zip(axes, groups.values(), strict=True):
        for term, colour, marker in zip(group["term"].unique(), TERMS, "osD^vP", strict=False):
            gain = group[group["term"] == term]
            axis.plot(gain["step"], gain["gain"], f"{marker}-", color=colour, markersize=3.5, label=term)
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.legend(fontsize=8.5)
        grid(axis)
    return figure


FIGURES = {
    "ranking": draw_ranking, "slopes": draw_slopes, "regrets": draw_regrets, "wins": draw_wins, "cross": draw_cross,
    "pareto": draw_pareto, "curves": draw_curves, "alignment": draw_alignment, "shares": draw_shares, "gains": draw_gains,
}  # fmt: skip
"""By the name of the file."""
