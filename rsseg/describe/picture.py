"""A dataset in one picture: its classes, scenes, objects, bands, and windows that show every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from rsseg.data.balance import Balanced
from rsseg.data.census import PERCENTILES
from rsseg.data.store import Store
from rsseg.describe.facts import THIN, label_shares, present_labels
from rsseg.describe.objects import SMALL, SPECK, ObjectSizes
from rsseg.figure import save
from rsseg.inference.objects import outline
from rsseg.inference.picture import GREY, colours, paint, stretch, value_shades
from rsseg.metrics.objects import labelled_objects
from rsseg.setup import Setup
from rsseg.task import Centres, Regression, Task

COLUMNS = 6
"""Windows side by side, and how many there are at least."""

DRAWN = 8
"""Windows of each class that are drawn to choose from."""

DARK, LIGHT, LIMIT = "#333333", "#aaaaaa", "#c8511b"
TWO = ["#e3ddc8", "#0b5fa5"]  # black and white, as in other pictures, make poor bars


def draw_dataset(path: Path, train: Store, splits: Mapping[str, Any], objects: Mapping[str, ObjectSizes], setup: Setup) -> None:
    """Write a PNG of class shares, their spread over scenes, object sizes, widths, bands, and windows with their masks.

    Args:
        path: The file.
        train: The scenes of train, whose classes and windows are drawn.
        splits: What `split_facts` says, by split.
        objects: Of train, by class; empty: there are none.
        setup: The setup.
    """
    task, shown = train.task, present_labels(train)
    palette = setup.dataset.palette(task.target)
    shades = colours(task, palette or (TWO if task.usual_colours else None))
    tints = dict(zip(task.label_names, shades[-len(task.label_names) :], strict=True))
    names, places = [task.label_names[i] for i in shown], choose_windows(train, setup.window)
    bands, lines = len(train.census.bands.mean), -(-len(places) // COLUMNS)
    line = 0.1 * len(splits) + 0.04
    heights = [line * max(len(names), 4, 0.7 * bands) + 1.0, *([0.24 * max(len(objects), 3) + 1.0] if objects else [])]
    figure = Figure(figsize=(12, sum(heights) + 4.0 * lines + 0.7), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[sum(heights), 4.0 * lines + 0.7], squeeze=False)[:, 0]
    axes = upper.subplots(len(heights), 3, height_ratios=heights, squeeze=False)
    own = [tints[name] for name in names]
    draw_shares(axes[0, 0], splits, names, own, task)
    draw_spread(axes[0, 1], train, shown, own)
    draw_bands(axes[0, 2], train, setup.dataset.read_bands)
    if objects:
        own = [tints[name] for name in objects]
        draw_areas(axes[1, 0], objects, own)
        widths = {name: sizes.width for name, sizes in objects.items()}
        draw_bars(axes[1, 1], widths, own, f"mean width, px (dashed: {THIN}, thin)")
        axes[1, 1].axvline(THIN, color=LIMIT, linestyle="--", linewidth=1)
        specks = {name: sizes.speck_share for name, sizes in objects.items()}
        draw_bars(axes[1, 2], specks, own, f"specks (below {SPECK} px): share of regions")
        axes[1, 2].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes[1, 2].set_xlim(0, max(0.05, 1.15 * max(specks.values())))
        for y, sizes in enumerate(objects.values()):
            write_beside(axes[1, 2], sizes.speck_share, y, f"{sizes.specks:,}")
    draw_windows(lower, train, places, shades, setup)
    save(figure, path, dpi=100)


def label_rows(axis: Axes, names: Sequence[str], title: str) -> None:
    """One line per class, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)


def write_beside(axis: Axes, x: float, y: float, text: str) -> None:
    """A number to the right of the end of a bar."""
    axis.annotate(text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)


def draw_shares(axis: Axes, splits: Mapping[str, Any], names: Sequence[str], tints: Sequence[str], task: Task) -> None:
    """The share of each class in each split, or objects per scene."""
    step = 0.8 / len(splits)
    hatches = dict(zip(splits, (None, "////", "...."), strict=False))
    for i, (split, facts) in enumerate(splits.items()):
        own = [facts["classes"][name] for name in names]
        share = [part["pixels"] / facts["scenes"] if task.directed else part["share"] for part in own]
        where = np.arange(len(names)) + (i - (len(splits) - 1) / 2) * step
        axis.barh(where, share, step * 0.9, color=tints, edgecolor=DARK, linewidth=0.5, hatch=hatches[split])
        for y, value in zip(where, share, strict=True):
            write_beside(axis, value, y, f"{value:.1f}" if task.directed else f"{value:.1%}")
    title = "objects per scene" if task.directed else "share of labelled pixels"
    label_rows(axis, names, title)
    axis.xaxis.set_major_formatter("{x:g}" if task.directed else PercentFormatter(1.0))
    axis.set_xlim(0, axis.get_xlim()[1] * 1.12)
    handles = [Patch(facecolor="white", edgecolor=DARK, hatch=hatch, label=split) for split, hatch in hatches.items()]
    axis.legend(handles=handles, fontsize=8, edgecolor="none", loc="lower right")


def draw_spread(axis: Axes, store: Store, shown: Sequence[int], tints: Sequence[str]) -> None:
    """The share of each class in each scene, or its objects, as points, and the median."""
    task, shares, rng = store.task, label_shares(store), np.random.default_rng(0)
    for y, (label, tint) in enumerate(zip(shown, tints, strict=True)):
        share = shares[np.isfinite(shares[:, label]), label]
        picked = share if len(share) <= 500 else rng.choice(share, 500, replace=False)
        shake = rng.uniform(-0.22, 0.22, len(picked))
        axis.scatter(picked, y + shake, s=14, color=tint, edgecolors=DARK, linewidths=0.4, alpha=0.8)
        axis.plot([np.median(share)] * 2, [y - 0.32, y + 0.32], color=DARK, linewidth=2)
    what = "objects in each" if task.directed else "share per"
    label_rows(axis, [task.label_names[i] for i in shown], f"{what} train scene (line: median)")
    if not task.directed:
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_xlim(-0.02, 1.02)


def draw_bands(axis: Axes, store: Store, numbers: Sequence[int]) -> None:
    """Per band the percentiles."""
    bands = store.census.bands
    at = {p: bands.percentiles[i] for i, p in enumerate(PERCENTILES)}
    y = np.arange(len(bands.mean))
    axis.hlines(y, at[1], at[99], color=LIGHT, linewidth=2)
    axis.hlines(y, at[5], at[95], color="#7a9cc0", linewidth=4)
    axis.hlines(y, at[25], at[75], color="#0b5fa5", linewidth=7)
    axis.plot(at[50], y, "o", color="white", markeredgecolor=DARK, markersize=5)
    label_rows(axis, [f"band {number}" for number in numbers], "band values: 1-99, 5-95, 25-75 %, median")


def draw_areas(axis: Axes, objects: Mapping[str, ObjectSizes], tints: Sequence[str]) -> None:
    """Per class the 5th, 50th and 95th percentile of object areas."""
    for y, (sizes, tint) in enumerate(zip(objects.values(), tints, strict=True)):
        if not sizes.count:
            continue
        low, median, high = sizes.pixels
        axis.plot([low, high], [y, y], color=DARK, linewidth=7, solid_capstyle="butt")
        axis.plot([low, high], [y, y], color=tint, linewidth=5.5, solid_capstyle="butt")
        axis.plot(median, y, "o", color="white", markeredgecolor=DARK, markersize=6)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))  # the axis's own would write formulas
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.axvline(SMALL, color=LIMIT, linestyle="--", linewidth=1)
    names = [f"{name} ({sizes.count:,})" for name, sizes in objects.items()]
    label_rows(axis, names, f"object area, px: 5-95 %, median (dashed: {SMALL})")


def draw_bars(axis: Axes, values: Mapping[str, float], tints: Sequence[str], title: str) -> None:
    """A number per class."""
    axis.barh(range(len(values)), list(values.values()), 0.6, color=tints, edgecolor=DARK, linewidth=0.5)
    label_rows(axis, list(values), title)


def draw_windows(
    figure: SubFigure, store: Store, places: Sequence[tuple[int, int, int]], shades: Sequence[str], setup: Setup
) -> None:
    """Train windows and their masks below."""
    task, lines = store.task, -(-len(places) // COLUMNS)
    axes = figure.subplots(2 * lines, COLUMNS, squeeze=False)
    windows = [store.read(*place, setup.window) for place in places]
    for axis in axes.flat:
        axis.set_axis_off()
    values = value_shades(np.stack([mask[0] for _, mask in windows])) if isinstance(task, Regression) else {}
    for i, (image, mask) in enumerate(windows):
        above, below = axes[i // COLUMNS * 2 : i // COLUMNS * 2 + 2, i % COLUMNS]
        above.imshow(stretch(image, setup.shown_bands))
        if isinstance(task, Centres):
            below.imshow(stretch(image, setup.shown_bands))
            objects = labelled_objects(task.standardise(torch.from_numpy(mask)[None]), task).numpy()
            outline(below, objects, [shades[int(label)] for label in objects[:, 1]])
        elif values:
            scale = below.imshow(mask[0], interpolation="nearest", **values)
        else:
            below.imshow(paint(task.flatten(task.hard_labels(mask)), shades), interpolation="nearest")
    figure.suptitle(f"train windows of {setup.window} px", fontsize=10)
    if values:
        figure.colorbar(scale, ax=axes[-1], location="bottom", label=task.classes[0], shrink=0.5, aspect=40)
        return
    absent = {name for i, name in enumerate(task.label_names) if i not in present_labels(store)}
    entries = [(shade, name) for shade, name in zip(shades, task.drawn_names, strict=True) if name not in absent]
    if store.census.blocks.counts[:, -1].any() and not isinstance(task, Centres):
        entries.append((GREY, "ignored"))
    patches = [Patch(facecolor=shade, edgecolor="#888888", label=name) for shade, name in entries]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(8, len(patches)), frameon=False, fontsize=9)


def choose_windows(store: Store, window: int) -> list[tuple[int, int, int]]:
    """Scene, top and left of windows that together show every class of the split.

    Windows are drawn around pixels of each class. Chosen are, one after the other, those that show most classes which are not
    seen yet, then those in another scene, then those with most classes.

    Args:
        store: The scenes.
        window: The side of the windows.
    """
    task, shares = store.task, dict[tuple[int, int, int], np.ndarray[tuple[int], np.dtype[np.float64]]]()
    labels = present_labels(store)
    for label in labels:
        weights = {task.label_names[label]: 1.0}
        sampler = Balanced(0, store.sizes, window, store.census.blocks, task, store.read, weights=weights)
        for place in map(sampler, range(DRAWN)):
            if place not in shares:
                mask = store.read(*place, window)[1]
                shares[place] = np.array([task.label_mask(mask, each).mean() for each in labels])
    seen, chosen = np.zeros(len(labels), bool), list[tuple[int, int, int]]()
    while len(chosen) < len(shares) and (len(chosen) < COLUMNS or not seen.all()):
        scenes = {place[0] for place in chosen}
        best = max(
            (place for place in shares if place not in chosen),
            key=lambda p: ((shares[p] > 0)[~seen].sum(), p[0] not in scenes, np.sqrt(shares[p]).sum()),
        )
        seen |= shares[best] > 0
        chosen.append(best)
    return chosen
