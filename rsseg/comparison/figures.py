"""The figures of a comparison, one function each: `Findings` to a figure, or None where nothing was recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rsseg.comparison.datasets import AcrossDatasets
from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import Interval
from rsseg.comparison.style import (
    BAND,
    BLUE,
    GREY,
    HATCHES,
    INK,
    MOST,
    RED,
    RULES,
    TERMS,
    difference_map,
    mark,
    panels,
    rows,
    save,
    wrap,
)
from rsseg.metrics.average import Array, present_mean

Draw = Callable[[Findings], Figure | None]

MOST_DATASETS = 5
"""Of more datasets only what holds over all of them is drawn."""


def draw_all(found: Findings, out: Path) -> dict[str, str]:
    """Write every figure that the records allow as PNG; returns them as data URIs, by name."""
    figures = FIGURES if len(found.labels) < 2 else FIGURES_OF_SEVERAL | FIGURES
    with mpl.rc_context(RULES):
        drawn = ((name, draw(found)) for name, draw in figures.items())  # one at a time in memory
        return {name: save(figure, out / f"{name}.png") for name, figure in drawn if figure is not None}


def draw_forest(found: Findings) -> Figure:
    """How much worse every loss is than the best, before tuning and after it, with intervals that hold together."""
    measure, order, first = found.ranked.measure, found.advised.order, found.order[0]
    names = [found.labels[i] for i in order]
    baselines = {name: measure.sign * (score - found.ranked.mean.value[first]) for name, score in found.baselines.items()}
    series, best = [(found.ranked.lead()[order, first], "o", found.task.untuned)], found.labels[first]
    if found.tuned is not None and found.metric == found.tuned_for:
        after = found.tuned.order[0]
        series.append((found.tuned.lead()[order, after], "D", f"{found.task.all_tuned} tuned on other areas"))
        if after != first:
            best = f"{best} ({found.task.untuned}) or {found.labels[after]} (tuned)"
    unit = f" in {measure.unit}" * bool(measure.unit)
    figure, (axis,) = rows([*names, *baselines], [""], f"{measure.label}{unit}, difference to the best: {best}", 0.45)
    axis.axvspan(-found.equal_within, found.equal_within, color=BAND, zorder=0)
    shifts = (-0.13, 0.17) if len(series) > 1 else (0,)
    for (differences, marker, _), shift in zip(series, shifts, strict=True):
        mark(axis, differences, shift, marker, filled=marker == "o")
    left, right = axis.get_xlim()
    for place, difference in enumerate(baselines.values(), len(names)):
        edge = 0.02 * (right - left)
        at = float(np.clip(difference, left + edge, right - edge))
        axis.plot(at, place, "x" if at == difference else "<" if difference < left else ">", color=GREY, markersize=6)
        inwards = 1 if at < (left + right) / 2 else -1
        axis.annotate(
            f"{difference:+.3f}", (at, place), (8 * inwards, 0), textcoords="offset points", va="center",
            ha="left" if inwards > 0 else "right", color=INK, fontsize=8.5,
        )  # fmt: skip
    if baselines:
        axis.axhline(len(names) - 0.5, color=GREY, linewidth=0.8)
    axis.set_xlim(left, right)
    keys: list[Artist] = [
        Line2D([], [], color=INK, marker=marker, linestyle="", markerfacecolor=INK if marker == "o" else "white", label=name)
        for _, marker, name in series
        if len(series) > 1
    ]
    keys += [Patch(color=BAND, label=f"practically equal (±{found.equal_within:g})")]
    keys += [Patch(color=RED, label="surely behind")] if any((each.high < 0).any() for each, *_ in series) else []
    figure.legend(handles=keys, loc="outside upper left", ncols=2)
    return figure


def draw_across(across: AcrossDatasets) -> Figure:
    """How much worse every loss is than the best over all datasets: on each of them, and over datasets like these."""
    order, best = across.order, across.order[0]
    shown = across.found if len(across.found) <= MOST_DATASETS else {}
    titles = [wrap(name, 15) for name in shown] + ["datasets\nlike these"]
    names, measure = [across.labels[i] for i in order], next(iter(across.found.values())).ranked.measure
    figure, axes = rows(names, titles, f"{measure.heading}, worse (left) or better than {across.labels[best]}")
    for axis in axes:
        axis.locator_params(axis="x", nbins=2)
    for axis, found in zip(axes, shown.values(), strict=False):
        at = [found.labels.index(name) for name in names]
        mark(axis, found.ranked.lead()[at, at[0]])
    mark(axes[-1], across.lead[order, best], marker="D")
    return figure


def draw_regrets(found: Findings) -> Figure | None:
    """What tuning gains, what is left to the best known score, and what choosing checkpoints by their loss would cost."""
    parts: dict[str, tuple[Array, Interval]] = {}
    regret = found.selection_regret
    if found.gain is not None and found.residual is not None:
        parts["gained\nby tuning"] = found.gain.values, found.gained
        parts["then left to\nthe best known"] = found.residual, Interval.unknown(present_mean(found.residual))
    if not np.isnan(regret).all():
        parts["cost of\nchoosing by\nvalidation loss"] = regret, Interval.unknown(present_mean(regret))
    if not parts:
        return None
    order, label = found.order, found.metrics[found.tuned_for].label
    figure, axes = rows([found.labels[i] for i in order], list(parts), f"{label}; small ticks: single seeds")
    for axis, (values, whole) in zip(axes, parts.values(), strict=True):
        axis.update_datalim([(-found.equal_within, 0), (found.equal_within, 0)])  # what is less is not looked at closely
        axis.plot(values[order], np.arange(len(order)) + 0.25, "|", color=GREY, markersize=5)
        mark(axis, whole[order])
    return figure


def draw_pairs(found: Findings) -> Figure:
    """How much better each loss is than each other."""
    order = found.order[:MOST]
    shown = found.ranked.lead()[np.ix_(order, order)]
    names, text = [found.labels[i] for i in order], brief(shown.value)
    np.fill_diagonal(text, "")
    figure, axis = difference_map(names, names, shown, text)
    axis.set(ylabel="this loss ...", xlabel="... against this one")
    return figure


def draw_measures(found: Findings) -> Figure:
    """How each loss differs from the best one by every measure."""
    leads = [estimates.lead()[found.order[:MOST], found.order[0]] for estimates in found.estimates.values()]
    ends = [np.stack([getattr(lead, end) for lead in leads]) for end in ("value", "low", "high")]
    text = brief(ends[0])
    text[:, 0] = [f"{estimates.mean.value[found.order[0]]:.3f}" for estimates in found.estimates.values()]
    measures = [found.measures[name].heading for name in found.estimates]
    figure, axis = difference_map(measures, [found.labels[i] for i in found.order[:MOST]], Interval(*ends), text)
    axis.set(xlabel="trained with", ylabel="scored by")
    axis.axvline(0.5, color=INK, linewidth=1.2)
    return figure


def brief(differences: Array) -> np.ndarray:
    """Differences as text for narrow cells; a dash for what is not known."""
    rounded = np.round(differences, 3).ravel() + 0.0  # no -0
    said = ["-" if np.isnan(x) else f"{x:+.3f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:+.2f}" for x in rounded]
    return np.array(said, dtype=object).reshape(differences.shape)


def draw_curves(found: Findings) -> Figure:
    """The validation score over steps: per panel one loss's seeds, the other losses' means in grey."""
    metric = found.tuned_for
    lines = [[found.curve(run).set_index("step")[metric] for run in row] for row in found.comparison.runs]
    means = [pd.concat(seeds, axis=1, join="inner").mean(axis=1, skipna=False) for seeds in lines]  # at the steps of all
    titles = [found.labels[i] for i in found.order]
    figure, axes = panels(titles, "optimiser step", f"{found.measures[metric].heading}, validation")
    for axis, i in zip(axes, found.order, strict=True):
        for other in found.order:
            if other != i:
                axis.plot(means[other].index, means[other], color="#cfcfcf", linewidth=1)
        for score in lines[i]:
            axis.plot(score.index, score, color=BLUE, linewidth=0.8, alpha=0.6)
        axis.plot(means[i].index, means[i], "o-", color=BLUE, linewidth=2.2, markersize=3)
    return figure


def draw_alignment(found: Findings) -> Figure | None:
    """The score of every checkpoint by the place of its validation loss: whether the loss orders them as the metric does."""
    metric, tau = found.metrics[found.tuned_for], found.tau[..., 0]
    rows_known = [i for i in found.order if not np.isnan(tau[i]).all()]
    if not rows_known:
        return None
    titles = [
        f"{found.labels[i]}\n{np.nanmean(tau[i]):.2f} ({np.nanmin(tau[i]):.2f} to {np.nanmax(tau[i]):.2f})" for i in rows_known
    ]
    across = "checkpoints of a run by validation loss, 1: the lowest"
    figure, axes = panels(titles, across, f"{found.measures[found.tuned_for].heading}, validation")
    for axis, i in zip(axes, rows_known, strict=True):
        for run in found.comparison.runs[i]:
            points = pd.DataFrame({"loss": present_mean(run.records.own), "score": metric(run.records.counts)}).dropna()
            points["place"] = points["loss"].rank()
            points = points.sort_values("place")
            axis.plot(points["place"], points["score"], "o-", color=BLUE, markersize=3.5, linewidth=0.6, alpha=0.7)
        axis.margins(0.1)
    return figure


def draw_shares(found: Findings) -> Figure | None:
    """How much of a composition's gradient comes from each term, over the steps."""
    groups = dict(list(found.gradients.shares.groupby(["loss", "place"], sort=False)))
    if not groups:
        return None
    titles = [f"{loss}\n{'at the logits' if place == 'logits' else 'at the last layer'}" for loss, place in groups]
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
    return figure


def draw_gains(found: Findings) -> Figure | None:
    """The one-step gain of each term, over the steps."""
    groups = dict(list(found.gradients.gains.groupby("loss", sort=False)))
    if not groups:
        return None
    figure, axes = panels(list(groups), "optimiser step", "gain per unit step")
    for axis, group in zip(axes, groups.values(), strict=True):
        for term, colour, marker in zip(group["term"].unique(), TERMS, "osD^vP", strict=False):
            gain = group[group["term"] == term]
            axis.plot(gain["step"], gain["gain"], f"{marker}-", color=colour, markersize=3.5, label=term)
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.legend(fontsize=8.5)
    return figure


FIGURES_OF_SEVERAL: dict[str, Draw] = {"forest": draw_forest, "pairs": draw_pairs, "measures": draw_measures}
"""Of two losses or more, by the name of the file."""

FIGURES: dict[str, Draw] = {
    "regrets": draw_regrets, "curves": draw_curves, "alignment": draw_alignment, "shares": draw_shares, "gains": draw_gains,
}  # fmt: skip
"""By the name of the file."""
