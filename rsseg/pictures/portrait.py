"""A dataset in one picture: its classes, scenes, bands and objects as its description says, and windows of every class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from rsseg.figure import save
from rsseg.pictures.colours import colours
from rsseg.pictures.panels import fill_panels
from rsseg.pictures.windows import Row
from rsseg.task import Task

COLUMNS = 6
"""Windows beside each other, and how many there are at least."""

DARK, LIMIT, BLUE = "#333333", "#c8511b", "#0b5fa5"


def draw_dataset(
    path: Path,
    task: Task,
    palette: Sequence[str] | None,
    description: Mapping[str, Any],
    rows: Sequence[Row],
    shown: Sequence[int] | None = None,
) -> None:
    """Write a PNG of class shares, their spread over scenes, bands, object sizes and widths, and windows with their labels.

    `description` is what ``description.json`` holds, `rows` are windows of train, the rest is as for `draw_windows`.
    """
    splits, objects, limits = (description[key] for key in ("splits", "objects", "limits"))
    classes, bands = splits["train"]["classes"], splits["train"]["bands"]
    names = [name for name, own in classes.items() if own["pixels"]]
    tints = dict(zip(task.label_names, colours(task, palette)[-len(task.label_names) :], strict=True))
    lines = -(-len(rows) // COLUMNS)
    heights = [(0.1 * len(splits) + 0.04) * max(len(names), 4, 0.7 * len(bands)) + 1.0]
    heights += [0.24 * max(len(objects), 3) + 1.0] * bool(objects)
    upper_height, lower_height = sum(heights), 4.3 * lines + 0.7
    figure = Figure(figsize=(12.8, upper_height + lower_height), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[upper_height, lower_height], squeeze=False)[:, 0]
    axes = upper.subplots(len(heights), 3, height_ratios=heights, squeeze=False)
    percent, own = PercentFormatter(1.0), [tints[name] for name in names]

    key = "pixels" if task.directed else "share"
    shares = {
        split: [part["classes"][name][key] / (part["scenes"] if task.directed else 1) for name in names]
        for split, part in splits.items()
    }
    form = "{:.1f}" if task.directed else "{:.1%}"
    bars(axes[0, 0], names, shares, own, "objects per scene" if task.directed else "share of labelled pixels", form.format)
    spread = [classes[name]["scenes_p5_p50_p95"] for name in names]
    what = "objects in each" if task.directed else "share per"
    ranges(axes[0, 1], names, spread, own, f"{what} train scene: 5-95 %, median")
    if not task.directed:
        axes[0, 1].set_xlim(-0.02, 1.02)
        for axis in axes[0, :2]:
            axis.xaxis.set_major_formatter(percent)
    values = [[value for name, value in band.items() if name.startswith("p")] for band in bands]
    of_bands = [f"band {band['band']}" for band in bands]
    ranges(axes[0, 2], of_bands, values, [BLUE] * len(bands), "band values: 1-99, 5-95, 25-75 %, median")
    if objects:
        own = [tints[name] for name in objects]
        title = f"object area, px: 5-95 %, median (dashed: {limits['small']})"
        counted = [f"{name} ({sizes['count']:,})" for name, sizes in objects.items()]
        ranges(axes[1, 0], counted, [sizes["pixels"] for sizes in objects.values()], own, title)
        axes[1, 0].set_xscale("log")
        low, high = axes[1, 0].get_xlim()
        axes[1, 0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes[1, 0].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))  # the axis's own would write formulas
        axes[1, 0].xaxis.set_minor_formatter(NullFormatter())
        widths = {"": [sizes["width"] for sizes in objects.values()]}
        bars(axes[1, 1], list(objects), widths, own, f"mean width, px (dashed: {limits['thin']}, thin)", "{:.1f}".format)
        for axis, limit in zip(axes[1], (limits["small"], limits["thin"]), strict=False):
            axis.axvline(limit, color=LIMIT, linestyle="--", linewidth=1)
        specks = [sizes["specks"] / max(sizes["specks"] + sizes["count"], 1) for sizes in objects.values()]
        title = f"specks (below {limits['speck']} px): share of regions"
        bars(axes[1, 2], list(objects), {"": specks}, own, title, "{:.1%}".format)
        axes[1, 2].xaxis.set_major_formatter(percent)
        axes[1, 2].set_xlim(0, max(0.05, 1.2 * max(specks)))

    panels = lower.subplots(2 * lines, COLUMNS, squeeze=False)
    pairs = panels.reshape(lines, 2, COLUMNS).transpose(0, 2, 1).reshape(-1, 2)
    for axis in pairs[len(rows) :].flat:
        axis.set_axis_off()
    lower.suptitle(f"train windows of {rows[0].image.shape[-1]} px", fontsize=10)
    fill_panels(lower, pairs[: len(rows)], task, palette, rows, shown)
    save(figure, path, dpi=100)


def bars(
    axis: Axes,
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    tints: Sequence[str],
    title: str,
    form: Callable[[float], str],
) -> None:
    """Bars per name, one for each split, with their numbers beside them."""
    step, hatches = 0.8 / len(values), dict(zip(values, (None, "////", "...."), strict=False))
    for i, (split, lengths) in enumerate(values.items()):
        where = np.arange(len(names)) + (i - (len(values) - 1) / 2) * step
        axis.barh(where, lengths, step * 0.9, color=tints, edgecolor=DARK, linewidth=0.5, hatch=hatches[split])
        for y, value in zip(where, lengths, strict=True):
            if np.isfinite(value):
                axis.annotate(form(value), (value, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
    if len(values) > 1:
        handles = [Patch(facecolor="white", edgecolor=DARK, hatch=hatch, label=split) for split, hatch in hatches.items()]
        axis.legend(handles=handles, fontsize=8, edgecolor="none", loc="lower right")
    axis.set_xlim(0, axis.get_xlim()[1] * 1.12)
    name_rows(axis, names, title)


def ranges(axis: Axes, names: Sequence[str], values: Sequence[Sequence[float]], tints: Sequence[str], title: str) -> None:
    """Per name percentiles, the same number on both sides of the median: the inner ones thicker."""
    for y, (own, tint) in enumerate(zip(values, tints, strict=True)):
        middle = len(own) // 2
        for i in range(middle):
            width = 7 - 2.5 * (middle - 1 - i)
            for colour, grown in ((DARK, width + 1.2), (tint, width)):
                axis.plot([own[i], own[-1 - i]], [y, y], color=colour, linewidth=grown, solid_capstyle="butt")
        if own:
            axis.plot(own[middle], y, "o", color="white", markeredgecolor=DARK, markersize=5)
    name_rows(axis, names, title)


def name_rows(axis: Axes, names: Sequence[str], title: str) -> None:
    """One line per name, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
