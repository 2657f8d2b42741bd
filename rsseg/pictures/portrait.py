"""An overview of a dataset in one picture: classes, scenes, bands and objects from its description, and windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from rsseg.pictures.colours import colours
from rsseg.pictures.panels import fill_panels
from rsseg.pictures.windows import Row
from rsseg.savefig import save
from rsseg.task import Task

COLUMNS = 6
"""The number of windows in a row, which is also the least number of windows."""

LEAST = 4  # a chart has room for at least this many names

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

    `description` is the content of ``description.json``, `rows` are windows of train; the others are as for `draw_windows`.
    """
    splits, objects, limits = (description[key] for key in ("splits", "objects", "limits"))
    classes, bands = splits["train"]["classes"], splits["train"]["bands"]
    names = [name for name, own in classes.items() if own["pixels"]]
    tints = dict(zip(task.label_names, colours(task, palette)[-len(task.label_names) :], strict=True))
    lines = -(-len(rows) // COLUMNS)
    charts = [0.3 * max(count, LEAST) + 1.0 for count in (max(len(names), len(bands)), len(objects)) if count]
    heights = [sum(charts), 4.3 * lines + 0.7]
    figure = Figure(figsize=(12.8, sum(heights)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = upper.subplots(len(charts), 3, squeeze=False, height_ratios=charts)
    _draw_classes(axes[0], task, {name: tints[name] for name in names}, splits)
    values = [[value for name, value in band.items() if name.startswith("p")] for band in bands]
    of_bands = {f"band {band['band']} {band['name']}".strip(): BLUE for band in bands}
    ranges(axes[0, 2], of_bands, values, "train bands: 1-99, 5-95, 25-75 %, median")
    if objects:
        _draw_objects(axes[1], {name: tints[name] for name in objects}, objects, limits)
    panels = lower.subplots(2 * lines, COLUMNS, squeeze=False)
    pairs = panels.reshape(lines, 2, COLUMNS).transpose(0, 2, 1).reshape(-1, 2)
    for axis in pairs[len(rows) :].flat:
        axis.set_axis_off()
    lower.suptitle(f"train windows of {rows[0].image.shape[-1]} px", fontsize=10)
    fill_panels(lower, pairs[: len(rows)], task, palette, rows, shown)
    save(figure, path, dpi=100)


def _draw_classes(axes: Sequence[Axes], task: Task, tints: Mapping[str, str], splits: Mapping[str, Any]) -> None:
    """Draw the share of each class in every split, and its spread over the scenes of train."""
    key, of_scene = ("pixels", "objects in each") if task.directed else ("share", "share per")
    shares = {
        split: [part["classes"][name][key] / (part["scenes"] if task.directed else 1) for name in tints]
        for split, part in splits.items()
    }
    bars(axes[0], tints, shares, "objects per scene" if task.directed else "share of labelled pixels", not task.directed)
    spread = [splits["train"]["classes"][name]["scenes_p5_p50_p95"] for name in tints]
    ranges(axes[1], tints, spread, f"{of_scene} train scene: 5-95 %, median")
    if not task.directed:
        axes[1].set_xlim(-0.02, 1.02)
        axes[1].xaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_objects(
    axes: Sequence[Axes], tints: Mapping[str, str], objects: Mapping[str, Mapping[str, Any]], limits: Mapping[str, float]
) -> None:
    """Draw the sizes and widths of the objects of each class, and the number of specks."""
    counted = {f"{name} ({sizes['count']:,})": tints[name] for name, sizes in objects.items()}
    sizes = list(objects.values())
    areas = [own["pixels"] for own in sizes]
    ranges(axes[0], counted, areas, f"train object area, px: 5-95 %, median (dashed: {limits['small']})")
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))  # the default writes formulas
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].xaxis.set_major_locator(LogLocator(numticks=4))
    bars(axes[1], tints, {"": [own["width"] for own in sizes]}, f"train mean width, px (dashed: {limits['thin']}, thin)")
    for axis, limit in zip(axes, (limits["small"], limits["thin"]), strict=False):
        axis.axvline(limit, color=LIMIT, linestyle="--", linewidth=1)
    low, high = np.log10(axes[0].get_xlim())
    axes[0].set_xlim(10 ** np.floor(low), 10 ** np.ceil(high))
    specks = [own["specks"] / max(own["specks"] + own["count"], 1) for own in sizes]
    bars(axes[2], tints, {"": specks}, f"train specks (below {limits['speck']} px): share of regions", shares=True)


def bars(axis: Axes, tints: Mapping[str, str], values: Mapping[str, Sequence[float]], title: str, shares: bool = False) -> None:
    """Draw bars for each name, one per split, each paler than the last, with their values beside them."""
    step = 0.8 / len(values)
    for i, (split, lengths) in enumerate(values.items()):
        places = np.arange(len(tints)) + (i - (len(values) - 1) / 2) * step
        drawn = axis.barh(places, lengths, step * 0.9, color=list(tints.values()), alpha=0.7**i, edgecolor=DARK, label=split)
        axis.bar_label(drawn, fmt="{:.1%}" if shares else "{:.1f}", padding=3, fontsize=7)
    if len(values) > 1:
        axis.legend(fontsize=8, edgecolor="none", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(values))
    if shares:
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.locator_params(axis="x", nbins=5)
    axis.set_xlim(0, axis.get_xlim()[1] * 1.15)
    _name_rows(axis, tints, title)


def ranges(axis: Axes, tints: Mapping[str, str], values: Sequence[Sequence[float]], title: str) -> None:
    """Draw percentiles for each name as nested lines around the median, the inner ones thicker."""
    for y, (own, tint) in enumerate(zip(values, tints.values(), strict=True)):
        middle = len(own) // 2
        for i in range(middle):
            axis.plot([own[i], own[-1 - i]], [y, y], color=tint, linewidth=7 - 2.5 * (middle - 1 - i), solid_capstyle="butt")
        if own:
            axis.plot(own[middle], y, "o", color="white", markeredgecolor=DARK, markersize=5)
    axis.set_facecolor("#eeeeee")  # some classes are white
    _name_rows(axis, tints, title)


def _name_rows(axis: Axes, names: Mapping[str, str], title: str) -> None:
    """Label an axis with one row per name, the first on top; a few names are centred vertically."""
    axis.set_yticks(range(len(names)), list(names))
    margin = max(LEAST - len(names), 0) / 2
    axis.set_ylim(len(names) - 0.4 + margin, -0.6 - margin)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
