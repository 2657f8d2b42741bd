"""Pooled IoU against what it is traded for, and the placing of names beside points."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rsseg.compare.counts import Array
from rsseg.compare.findings import MEASURES, Findings
from rsseg.compare.ranks import pareto_front
from rsseg.compare.report.figures import FEW
from rsseg.compare.report.style import BLUE, GREY, canvas, grid, wrap

FRONT = ("scene_iou", "boundary_iou", "class_ece")
"""What pooled IoU is traded for."""


def draw_pareto(found: Findings) -> Figure:
    """Pooled IoU against IoU per scene, boundary IoU and calibration: which losses no other one beats in both."""
    others = [key for key in FRONT if key in found.measures]
    numbered = len(found.labels) > FEW
    figure = canvas(1.7 * len(others) + 0.4 + 0.1 * len(found.labels) * numbered)
    axes = figure.subplots(len(others), 1, squeeze=False, sharex=True)[:, 0]
    x = found.measures["iou"].mean(1)[found.order]
    names = [str(place + 1) if numbered else found.labels[i] for place, i in enumerate(found.order)]
    for axis, key in zip(axes, others, strict=True):
        name, up = MEASURES[key]
        y = found.measures[key].mean(1)[found.order]
        front = pareto_front(np.stack([x, y], axis=-1), [True, up])
        along = np.flatnonzero(front)[np.argsort(x[front])]
        axis.plot(x[along], y[along], color=BLUE, linewidth=1.2, zorder=1)
        axis.scatter(x[~front], y[~front], s=34, facecolor="white", edgecolor=GREY, linewidth=1.5, zorder=2)
        axis.scatter(x[front], y[front], s=46, color=BLUE, zorder=3)
        axis.set_ylabel(wrap(name, 17) + "\n(up: better)")
        if not up:
            axis.invert_yaxis()
        axis.margins(0.14)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        grid(axis)
    axes[-1].set_xlabel("IoU, pooled over scenes (right: better)")
    if numbered:
        keys = [wrap(f"{name}  {found.labels[i]}", 34) for name, i in zip(names, found.order, strict=True)]
        empty = [Line2D([], [], linestyle="")] * len(keys)
        figure.legend(empty, keys, loc="outside lower left", ncols=2, fontsize=8.5, handlelength=0, handletextpad=0)
    figure.draw_without_rendering()  # names are placed by where the axes stand
    for axis, key in zip(axes, others, strict=True):
        _name_points(axis, np.stack([x, found.measures[key].mean(1)[found.order]], axis=-1), names)
    return figure


def _name_points(axis: Axes, points: Array, names: list[str]) -> None:
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
