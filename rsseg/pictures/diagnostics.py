"""Pictures of a run: the confusion matrix, and curves of class scores, losses and balancing weights over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rsseg.contract import log_name
from rsseg.metrics import Scores
from rsseg.pictures.colours import as_rgb, colours
from rsseg.pictures.panels import legend
from rsseg.savefig import save
from rsseg.task import Task

READABLE = 30  # the largest number of classes whose numbers and names a picture has room for


def draw_confusion(path: Path, scores: Scores) -> None:
    """Write a PNG of the confusion matrix, labels in rows, normalised by row; independent labels have a panel each.

    With more than `READABLE` classes, there are no numbers, and only about this many names.
    """
    planes = np.asarray(scores.sums, dtype=np.float64).sum(0)
    panels = scores.task.matrices
    count = len(panels[0])
    side, every = max(2.6, 0.62 * min(count, READABLE) + 1.6), -(-count // READABLE)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(side * columns + 1, side * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, counts, names in zip(axes, planes, panels, strict=False):
        total = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
        axis.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(0, count, every), names[::every], rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(0, count, every), names[::every])
        axis.set(xlabel="predicted", ylabel="labelled")
        if every > 1:
            continue
        for (row, column), share in np.ndenumerate(shares):
            text = "-" if np.isnan(share) else f"{100 * share:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if share > 0.6 else "#222222")
    for axis in list(axes)[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(
        "% of each label's pixels; -: no such pixel"
        if every == 1
        else "share of each label's pixels, from white (0) to blue (1)",
        fontsize=10,
    )
    save(figure, path, dpi=110)


def draw_curves(
    path: Path, head: str, tasks: Mapping[str, Task], palette: Sequence[str] | None, rows: Sequence[Mapping[str, float]]
) -> None:
    """Write a PNG of every class's score and of the losses over the steps, from the rows of ``metrics.csv``."""
    task = tasks[head]
    figure = Figure(figsize=(10.4, 3.8 + 0.05 * task.channels), layout="constrained")
    left, right = figure.subplots(1, 2)
    score = log_name("val", head, task.score, tasks)
    shades = colours(task, palette)[-task.channels :]
    for shade, name in zip(shades, task.classes, strict=True):
        left.plot(*_column(rows, f"{score}/{name}"), marker="o", markersize=3, color=_visible(shade), label=name)
    if task.channels > 1:
        left.plot(*_column(rows, score), color="black", linewidth=2, marker="o", markersize=3, label="mean")
    left.set(xlabel="step", ylabel=f"{task.score_name}, validation", ylim=(0, 1 if task.higher_is_better else None))
    legend(figure, left.lines)
    right.plot(*_column(rows, "train/loss"), label="train/loss", color="#999999")
    right.plot(*_column(rows, "val/loss"), label="val/loss", color="#d1495b", marker="o", markersize=3)
    right.set(xlabel="step", ylabel="loss")
    right.legend(frameon=False, fontsize=8)
    _save_steps(figure, path)


def draw_balance(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a PNG of the weights that a run has found, over the steps; none where no weight was logged."""
    prefix = "train/balance/"
    parts = dict.fromkeys(name for row in rows for name in row if name.startswith(prefix))
    if not parts:
        return
    figure, shown = Figure(figsize=(7.2, 3.8), layout="constrained"), list[float]()
    axis = figure.subplots()
    for name in parts:
        steps, weights = _column(rows, name)
        axis.plot(steps, weights, label=name.removeprefix(prefix))
        shown += [weight for weight in weights if weight > 0]  # 0: a term that has not begun
    axis.set(xlabel="step", ylabel="weight in training", yscale="log", ylim=(min(shown) / 2, max(shown) * 2))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(frameon=False, fontsize=8)
    _save_steps(figure, path)


def _save_steps(figure: Figure, path: Path) -> None:
    """Write a figure whose axes show steps from left to right."""
    for axis in figure.axes:
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, path, dpi=110)


def _column(rows: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    pairs = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _visible(colour: str) -> str:
    """A colour as it is, or darker where it would vanish on white."""
    levels = as_rgb([colour])[0].tolist()
    factor = min(1.0, 190 / max(1, float(np.dot((0.3, 0.6, 0.1), levels))))
    return "#" + bytes(int(level * factor) for level in levels).hex()
