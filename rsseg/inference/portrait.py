"""A dataset in one picture: its classes, scenes, objects, bands, and a few windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from rsseg.data.advice import THIN
from rsseg.data.balance import Balanced
from rsseg.data.census import PERCENTILES
from rsseg.data.objects import SMALL, SPECK, ObjectSizes
from rsseg.data.store import Store
from rsseg.figure import save
from rsseg.inference.objects import outline
from rsseg.inference.picture import GREY, colours, paint, stretch, with_grey
from rsseg.metrics.objects import labelled_objects
from rsseg.task import Centres, Regression

WINDOWS = 6
DARK, LIGHT = "#333333", "#aaaaaa"
TWO = ["#e3ddc8", "#0b5fa5"]  # black and white, as in other pictures, make poor bars


def draw_portrait(
    path: Path,
    stores: Mapping[str, Store],
    objects: Mapping[str, ObjectSizes],
    palette: Sequence[str] | None,
    window: int,
    bands: Sequence[int],
    rgb: Sequence[int] | None,
) -> None:
    """Write a PNG of class shares, their spread over scenes, object sizes, widths, bands, and windows with their masks.

    Args:
        path: The file.
        stores: The scenes by split; objects and windows are those of train.
        objects: By class.
        palette: The dataset's colours, if it has any.
        window: The side of the windows.
        bands: The numbers of the bands that are read.
        rgb: Those that windows are shown with; None: the first three.
    """
    train = stores["train"]
    names = train.task.label_names
    shades = colours(train.task, palette or (TWO if train.task.usual_colours else None))
    tints = shades[-len(names) :]
    heights = [0.24 * max(len(names), 4, 0.7 * len(train.census.bands.mean)) + 1.0, 0.24 * max(len(objects), 3) + 1.0]
    figure = Figure(figsize=(12, sum(heights) + 4.7), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[sum(heights), 4.7], squeeze=False)[:, 0]
    axes = upper.subplots(2, 3, height_ratios=heights)
    draw_shares(axes[0, 0], stores, names, tints)
    draw_spread(axes[0, 1], train, names, tints)
    draw_bands(axes[0, 2], train, bands)
    own = tints[-train.task.channels :]
    draw_areas(axes[1, 0], objects, own)
    draw_widths(axes[1, 1], objects, own)
    draw_specks(axes[1, 2], objects, own)
    draw_windows(lower, train, shades, window, [list(bands).index(b) for b in rgb] if rgb and set(rgb) <= set(bands) else None)
    save(figure, path, dpi=100)


def rows(axis: Axes, names: Sequence[str], title: str) -> None:
    """One line per class, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)


def draw_shares(axis: Axes, stores: Mapping[str, Store], names: Sequence[str], tints: Sequence[str]) -> None:
    """The share of each class in each split, or objects per scene."""
    counted = any(isinstance(store.task, Centres) for store in stores.values())
    step = 0.8 / len(stores)
    for i, (split, store) in enumerate(stores.items()):
        share = shares(store).sum(axis=0)[0] / np.maximum(shares(store).sum(axis=0)[1], 1)
        where = np.arange(len(names)) + (i - (len(stores) - 1) / 2) * step
        axis.barh(where, share, step * 0.9, color=tints, edgecolor=DARK, linewidth=0.5, hatch="////" * i or None, label=split)
        for y, value in zip(where, share, strict=True):
            axis.annotate(
                f"{value:.1f}" if counted else f"{value:.1%}",
                (value, y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    rows(axis, names, "objects per scene" if counted else "share of labelled pixels")
    axis.xaxis.set_major_formatter("{x:g}" if counted else PercentFormatter(1.0))
    axis.set_xlim(0, axis.get_xlim()[1] * 1.12)
    plain = [Patch(facecolor="white", edgecolor=DARK, hatch="////" * i or None, label=split) for i, split in enumerate(stores)]
    axis.legend(handles=plain, fontsize=8, frameon=False, loc="lower right")


def shares(store: Store) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Per scene the pixels of each row of the picture, and the labelled ones; or its objects, and 1: ``[S, 2, rows]``."""
    if isinstance(store.task, Centres):
        return np.stack([store.census.positives, np.ones_like(store.census.positives)], axis=1)
    return np.stack(store.task.label_counts(store.census.positives, store.census.valid), axis=1)


def draw_spread(axis: Axes, store: Store, names: Sequence[str], tints: Sequence[str]) -> None:
    """The share of each class in each scene, or its objects, as points, and the median."""
    counted = isinstance(store.task, Centres)
    own, valid = shares(store).transpose(1, 0, 2)
    rng = np.random.default_rng(0)
    for y, tint in enumerate(tints[: len(names)]):
        share = own[valid[:, y] > 0, y] / valid[valid[:, y] > 0, y]
        picked = share if len(share) <= 500 else rng.choice(share, 500, replace=False)
        shake = rng.uniform(-0.22, 0.22, len(picked))
        axis.scatter(picked, y + shake, s=14, color=tint, edgecolors=DARK, linewidths=0.4, alpha=0.8)
        axis.plot([np.median(share)] * 2, [y - 0.32, y + 0.32], color=DARK, linewidth=2)
    rows(axis, names, f"{'objects in each' if counted else 'share per'} train scene (line: median)")
    if not counted:
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
    rows(axis, [f"band {number}" for number in numbers], "band values: 1-99, 5-95, 25-75 %, median")


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
    axis.axvline(SMALL, color="#c8511b", linestyle="--", linewidth=1)
    names = [f"{name} ({sizes.count:,})" for name, sizes in objects.items()]
    rows(axis, names, f"object area, px: 5-95 %, median (dashed: {SMALL})")


def draw_widths(axis: Axes, objects: Mapping[str, ObjectSizes], tints: Sequence[str]) -> None:
    """Per class the mean width of its objects."""
    width = [sizes.width for sizes in objects.values()]
    axis.barh(range(len(width)), width, 0.6, color=tints, edgecolor=DARK, linewidth=0.5)
    axis.axvline(THIN, color="#c8511b", linestyle="--", linewidth=1)
    rows(axis, list(objects), f"mean width, px (dashed: {THIN}, thin)")


def draw_specks(axis: Axes, objects: Mapping[str, ObjectSizes], tints: Sequence[str]) -> None:
    """Per class the share of specks among its objects."""
    share = [sizes.specks / max(sizes.specks + sizes.count, 1) for sizes in objects.values()]
    axis.barh(range(len(share)), share, 0.6, color=tints, edgecolor=DARK, linewidth=0.5)
    for y, (sizes, value) in enumerate(zip(objects.values(), share, strict=True)):
        axis.annotate(f"{sizes.specks:,}", (value, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    rows(axis, list(objects), f"specks (below {SPECK} px): share of regions")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlim(0, max(0.05, max(share) * 1.15))


def draw_windows(figure: SubFigure, store: Store, shades: Sequence[str], window: int, shown: Sequence[int] | None) -> None:
    """Train windows and their masks below."""
    picked = show_all(store, window, WINDOWS)
    axes = figure.subplots(2, WINDOWS, squeeze=False)
    task, regression = store.task, isinstance(store.task, Regression)
    low, high = (store.census.values.min[0], store.census.values.max[0]) if regression else (None, None)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, (image, mask) in zip(axes.T, picked, strict=False):
        column[0].imshow(stretch(image, shown))
        if isinstance(task, Centres):
            column[1].imshow(stretch(image, shown))
            objects = labelled_objects(task.standardise(torch.from_numpy(mask)[None]), task).numpy()
            outline(column[1], objects, [shades[int(label)] for label in objects[:, 1]])
        elif regression:
            column[1].imshow(mask[0], cmap=with_grey("viridis"), vmin=low, vmax=high, interpolation="nearest")
        else:
            column[1].imshow(paint(store.task.flatten(store.task.hard_labels(mask)), shades), interpolation="nearest")
    figure.suptitle(f"train windows of {window} px", fontsize=10)
    if regression:
        figure.colorbar(axes[1, 0].images[0], ax=axes[1], location="bottom", label=store.task.classes[0], shrink=0.5, aspect=40)
        return
    patches = [Patch(facecolor=c, edgecolor="#888888", label=n) for c, n in zip(shades, store.task.drawn_names, strict=True)]
    if not isinstance(task, Centres):
        patches.append(Patch(facecolor=GREY, edgecolor="#888888", label="ignored"))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(8, len(patches)), frameon=False, fontsize=9)


def show_all(store: Store, window: int, count: int) -> list[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    """Of some windows drawn by class those that show a class not seen yet, lie in another scene, and hold most classes.

    Args:
        store: The scenes.
        window: The side of the windows.
        count: How many.
    """
    places = Balanced(0, store.sizes, window, store.census.blocks, store.task, store.read)
    drawn = list(dict.fromkeys(places(k) for k in range(8 * count)))
    windows = {place: store.read(*place, window) for place in drawn}
    shares = {place: np.array([has.mean() for has in store.task.class_masks(mask)]) for place, (_, mask) in windows.items()}
    seen, chosen = np.zeros(store.task.channels, bool), list[tuple[int, int, int]]()
    while len(chosen) < min(count, len(drawn)):
        scenes = {place[0] for place in chosen}
        best = max(
            (place for place in drawn if place not in chosen),
            key=lambda p: ((shares[p] > 0)[~seen].sum(), p[0] not in scenes, np.sqrt(shares[p]).sum()),
        )
        seen |= shares[best] > 0
        chosen.append(best)
    return [windows[place] for place in chosen]
