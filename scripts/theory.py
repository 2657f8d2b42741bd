"""Hold the losses to what theory predicts: python scripts/theory.py"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsseg.alignment import experiments as ex
from rsseg.alignment.simulation import Outcome
from rsseg.config.arguments import run_script

EXPERIMENTS: dict[str, Callable[[], Iterator[Outcome]]] = {
    "A": ex.threshold_experiment,
    "B": ex.aggregation_experiment,
    "C": ex.capacity_experiment,
}
TOLERANCE = 1e-3
AT_HALF, TUNED = "#0b5fa5", "#c8511b"


@dataclass
class Arguments:
    """Train rsseg's losses on pixels of known types and print what theory predicts beside what is measured.

    out=FILE    write a figure too, such as docs/theory.png

    Takes about a minute and a half on one core; ends with 1 if a measured number is more than 1e-3 off its prediction.
    """

    out: str | None = None


def show(outcome: Outcome) -> bool:
    """Print one loss; whether it is as predicted."""
    right = True
    for quantity, measured in outcome.measured.items():
        line = f"{outcome.experiment}  {outcome.loss:24}{quantity:24}"
        predicted = outcome.predicted.get(quantity)
        if predicted is None:
            print(f"{line}{'-':>10}{measured:10.4f}", flush=True)
            continue
        near = abs(measured - predicted) <= TOLERANCE
        right &= near
        print(f"{line}{predicted:10.4f}{measured:10.4f}{'' if near else '  DIFFERS'}", flush=True)
    return right


def draw_threshold(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """A: IoU at 0.5 and tuned, and the predictions as rings."""
    rows = [o for o in outcomes if "IoU at 0.5" in o.measured][::-1]
    for y, o in enumerate(rows):
        ends = [o.measured["IoU at 0.5"], o.measured["IoU tuned"]]
        axes.plot(ends, [y, y], color="#bbbbbb", zorder=1)
        for x, key, colour in zip(ends, ("IoU at 0.5", "IoU tuned"), (AT_HALF, TUNED), strict=True):
            axes.scatter(x, y, color=colour, s=26, zorder=3, label=key if y == 0 else None)
            if key in o.predicted:
                axes.scatter(o.predicted[key], y, s=110, facecolors="none", edgecolors="black", linewidths=0.8, zorder=2)
    axes.scatter([], [], s=110, facecolors="none", edgecolors="black", linewidths=0.8, label="predicted")
    axes.set_yticks(range(len(rows)), [o.loss for o in rows])
    axes.set(xlabel="IoU", title="A: where a loss cuts", xlim=(0.345, 0.475))
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 0.16), frameon=False)


def draw_aggregation(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """B: pooled and per-scene IoU."""
    places = np.arange(len(outcomes))
    for shift, key, colour in ((-0.2, "pooled IoU", AT_HALF), (0.2, "IoU per scene", TUNED)):
        values = [o.measured[key] for o in outcomes]
        axes.bar(places + shift, values, 0.38, color=colour, label=key)
        for x, value in zip(places + shift, values, strict=True):
            axes.annotate(f"{value:.4f}", (x, value), ha="center", va="bottom", fontsize=8)
        predicted = [o.predicted[key] for o in outcomes]
        axes.scatter(places + shift, predicted, marker="_", s=500, color="black", label="predicted" if shift > 0 else None)
    axes.set_xticks(places, [o.loss.replace(" over", "\nover") for o in outcomes])
    axes.set(ylim=(0.5, 0.95), ylabel="IoU (from 0.5)", title="B: what is averaged")
    axes.legend(fontsize=8, loc="upper center", ncols=3, frameon=False)


def draw_capacity(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """C: the five types in the plane and the lines that CE and Dice learn."""
    points, (mass, posterior) = np.array(ex.POINTS), ex.CAPACITY
    dots = axes.scatter(*points.T, s=np.array(mass) * 1500, c=posterior, cmap="cividis", vmin=0, vmax=1, edgecolors="black")
    for (x, y), p in zip(points, posterior, strict=True):
        axes.annotate(f"p = {p:g}", (x, y), xytext=(0, 16), textcoords="offset points", ha="center", fontsize=8)
    x, y = np.meshgrid(np.linspace(-2.4, 3.4, 200), np.linspace(-3.4, 3.6, 200))
    lines = {"CE, Adam .05": "black", "Dice, Adam .05": TUNED, "Dice, SGD 1": AT_HALF}
    for o in outcomes:
        if o.loss in lines:
            a, b, c = o.learnt
            field = (a * x + b * y + c) / np.hypot(a, b)
            axes.contour(x, y, field, levels=[0], colors=lines[o.loss])
            axes.contourf(x, y, field, levels=[0, 0.15], colors=[lines[o.loss]], alpha=0.3)
            axes.plot([], [], color=lines[o.loss], label=f"{o.loss}: {o.measured['IoU at 0.5']:.4f}")
    axes.set(title="C: what a linear model can tell apart", xlabel="first feature", ylabel="second feature")
    axes.legend(fontsize=8, loc="lower right", title="IoU at 0.5; shaded: called positive", title_fontsize=8)
    axes.figure.colorbar(dots, ax=axes, label="posterior", shrink=0.8)


def draw(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the figure of all three experiments."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[1.15, 1, 1.2])
    for axes, name, panel in zip(panels, "ABC", (draw_threshold, draw_aggregation, draw_capacity), strict=True):
        panel(axes, [o for o in outcomes if o.experiment == name])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(arguments: Arguments) -> None:
    """Run all experiments."""
    torch.set_num_threads(1)  # the tensors are small
    begin, right, outcomes = time.perf_counter(), True, []
    print(f"   {'loss':24}{'quantity':24}{'predicted':>10}{'measured':>10}")
    for experiment in EXPERIMENTS.values():
        for outcome in experiment():
            right &= show(outcome)
            outcomes.append(outcome)
    if arguments.out:
        draw(Path(arguments.out), outcomes)
    print(f"{'all' if right else 'NOT all'} predictions met to {TOLERANCE:g}, {time.perf_counter() - begin:.0f} s")
    if not right:
        sys.exit(1)


if __name__ == "__main__":
    run_script(Arguments, main)
