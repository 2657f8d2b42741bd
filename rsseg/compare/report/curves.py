"""The figures of what happened during training, one function each: findings and runs to a figure, or None."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rsseg.compare.findings import MEASURES, Findings, Grid
from rsseg.compare.ranks import seed_interval
from rsseg.compare.report.style import BLUE, GREY, HATCHES, TERMS, grid, panels, wrap

TITLE: Any = {"loc": "left", "fontweight": "bold", "fontsize": 9}


def draw_curves(found: Findings, runs: Grid) -> Figure:
    """The validation score over steps: per panel one loss's seeds, the other losses' means in grey."""
    metric = found.tuned_metric
    lines = [[run.curve.set_index("step")[metric] for run in row] for row in runs]
    figure, axes = panels(len(found.labels))
    for axis, i in zip(axes, found.order, strict=True):
        for other in found.order:
            if other != i:
                axis.plot(*_mean(lines[other]), color="#cfcfcf", linewidth=1)
        for score in lines[i]:
            axis.plot(score.index, score, color=BLUE, linewidth=0.8, alpha=0.6)
        axis.plot(*_mean(lines[i]), "o-", color=BLUE, linewidth=2.2, markersize=3)
        axis.set_title(wrap(found.labels[i], 24), **TITLE)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        grid(axis)
    figure.supxlabel("optimiser step", fontsize=10)
    figure.supylabel(f"{MEASURES[metric][0]}, validation", fontsize=10)
    return figure


def _mean(lines: list[pd.Series]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The mean over seeds at the steps that all of them were scored at."""
    mean = pd.concat(lines, axis=1, join="inner").mean(axis=1, skipna=False)
    return mean.index.to_numpy(), mean.to_numpy()


def draw_alignment(found: Findings, runs: Grid) -> Figure:
    """Validation loss against the score, one point per checkpoint: whether the loss orders checkpoints as the metric does."""
    metric = found.tuned_metric
    figure, axes = panels(len(found.labels))
    for axis, i in zip(axes, found.order, strict=True):
        for run in runs[i]:
            known = run.curve.dropna()
            order = known.assign(place=known["val_loss"].rank()).sort_values("place")
            axis.plot(order["place"], order[metric], "o-", color=BLUE, markersize=3.5, linewidth=0.6, alpha=0.7)
        tau = seed_interval(found.tau[i, :, 0])
        said = f"tau {tau.value:.2f}"
        said += "" if np.isnan(tau.low) else f" ({max(tau.low, -1.0):.2f} to {min(tau.high, 1.0):.2f})"
        axis.set_title(f"{wrap(found.labels[i], 24)}\n{said.replace('nan', '-')}", **TITLE)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.margins(0.1)
        grid(axis)
    figure.supxlabel("checkpoints of a run by validation loss, 1: the lowest", fontsize=10)
    figure.supylabel(f"{MEASURES[metric][0]}, validation", fontsize=10)
    return figure


def draw_shares(found: Findings) -> Figure | None:
    """How much of a composition's gradient comes from each term, over the steps."""
    if not found.shares:
        return None
    figure, axes = panels(len(found.shares), height=2.5)
    for axis, ((label, place), (terms, steps, shares)) in zip(axes, found.shares.items(), strict=True):
        if len(steps) == 1:  # an area needs two points
            steps, shares = np.array([0, steps[0]]), np.repeat(shares, 2, axis=0)
        layers = axis.stackplot(steps, shares.T, colors=TERMS, labels=terms, edgecolor="white", linewidth=0.8)
        for layer, hatch in zip(layers, HATCHES * 3, strict=False):
            layer.set_hatch(hatch)
        axis.axhline(0.5, color="#111111", linewidth=1.2, linestyle="--")
        axis.set_title(wrap(f"{label}, {'at the logits' if place == 'logits' else 'at the last layer'}", 26), **TITLE)
        axis.set(ylim=(0, 1), xlim=(steps[0], steps[-1]))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8.5)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supxlabel("optimiser step", fontsize=10)
    figure.supylabel("share of the gradient's norm", fontsize=10)
    return figure


def draw_gains(found: Findings) -> Figure | None:
    """The one-step gain of each term, over the steps."""
    if not found.gains:
        return None
    figure, axes = panels(len(found.gains))
    for axis, (label, (terms, steps, gains)) in zip(axes, found.gains.items(), strict=True):
        for term, gain, colour, marker in zip(terms, gains.T, TERMS, "osD^vP", strict=False):
            axis.plot(steps, gain, f"{marker}-", color=colour, markersize=3.5, label=term)
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.set_title(wrap(label, 24), **TITLE)
        axis.legend(fontsize=8.5)
        grid(axis)
    figure.supxlabel("optimiser step", fontsize=10)
    figure.supylabel("gain per unit step", fontsize=10)
    return figure
