"""From runs that can be compared to the measures of a comparison: pure calls of this room's functions, no files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rsseg.compare.bootstrap import WinMatrix, compare, win_matrix
from rsseg.compare.checkpoints import best_counts, best_index, selection
from rsseg.compare.counts import Array, Overlap, counts_of, overlap
from rsseg.compare.fair import Comparison
from rsseg.compare.findings import Findings, Grid
from rsseg.compare.gaps import rare, unknown, unselected, untuned
from rsseg.compare.leading import mean_gradients
from rsseg.compare.measures import Measure, of_calibration, of_counts, of_scenes, of_tuning
from rsseg.compare.ranks import rank_alignment, seed_interval
from rsseg.compare.records import Snapshot, StoredSnapshot
from rsseg.compare.runs import Run
from rsseg.compare.threshold import crossfit_histogram
from rsseg.contract import InputError, nearest
from rsseg.metrics.average import present_mean
from rsseg.metrics.calibration import calibration_sums
from rsseg.task import Task, make_task

RANKED = ("iou", "dice", "boundary_iou")
"""What losses can be ranked by."""


def check_metric(metric: str) -> None:
    """Refuse a metric that losses can't be ranked by."""
    if metric not in RANKED:
        near = nearest(metric, RANKED)
        raise InputError(f"metric={metric}: losses can't be ranked by it{near}; take {', '.join(RANKED[:-1])} or {RANKED[-1]}")


def analyse(comparison: Comparison, metric: str = "iou") -> Findings:
    """Compute every measure that the runs' records allow.

    Args:
        comparison: The runs.
        metric: What losses are ranked by: `iou`, `dice` or `boundary_iou`.

    Raises:
        InputError: For a metric that not every run recorded.
    """
    grid, dataset = comparison.runs, comparison.runs[0][0].config.dataset
    task = make_task(dataset.task, dataset.classes)
    scored: Overlap = "dice" if metric == "dice" else "iou"
    shares, cosines, gains, skipped = mean_gradients(comparison)
    has_records = grid[0][0].records is not None
    counts = _each(grid, best_counts) if has_records else None
    snapshots = has_records and all(run.recorded.best is not None for row in grid for run in row)
    panel = _shared_panel(grid) if has_records else []
    fixed, tuned, why = _tuned(grid, scored)
    measures = {} if counts is None else _measures(grid, task, counts, snapshots)
    values = {name: measure.values for name, measure in measures.items()} or _summaries(grid)
    wins = {name: compare(measure) for name, measure in measures.items()} or {n: paired(v) for n, v in values.items()}
    if metric not in wins:
        known = [name for name in RANKED if name in wins]
        raise InputError(f"metric={metric}: not every run recorded it; take {' or '.join(known)}")
    tau = _each(grid, lambda run: rank_alignment(run.curve["val_loss"], run.curve[scored]))
    regret = _each(grid, lambda run: selection(run, scored)) if has_records else None
    return Findings(
        labels=comparison.labels,
        plain=[row[0].plain for row in grid],
        seeds=comparison.seeds,
        scenes=list(grid[0][0].data["scenes"]["val"]),
        task=task,
        metric=metric,
        measures=values,
        last=np.array([[run.curve[scored].iloc[-1] for run in row] for row in grid]),
        wins=wins,
        counts=counts,
        fixed=fixed,
        tuned=tuned,
        wins_tuned=None if tuned is None else win_matrix(tuned, scored),
        moved=None if fixed is None or tuned is None else compare(of_tuning(fixed, tuned, scored)).difference,
        panel=panel,
        values=_each(grid, lambda run: _panel_values(run, panel)) if has_records else None,
        selection=regret,
        tau=tau,
        shares=shares,
        cosines=cosines,
        gains=gains,
        notes=[
            *why,
            *rare(task, counts),
            *untuned(comparison, task, counts),
            *unselected(comparison, regret),
            *unknown(comparison, {**values, "tau over the run": tau[..., 0], "tau over its last half": tau[..., 1]}),
            *skipped,
        ],
    )


def paired(values: Array) -> WinMatrix:
    """Compare losses by ``[L, R]`` scores alone, higher is better: intervals over seeds, for these scenes and no others.

    Example:
        >>> paired(np.array([[0.5, 0.6], [0.4, 0.4]])).difference.value[0, 1].round(2).item()
        0.15
    """
    gaps = values[:, None] - values[None]
    return WinMatrix.of(seed_interval(values), seed_interval(gaps), gaps)


def _summaries(grid: Grid) -> dict[str, Array]:
    """What runs without records say of themselves, ``[L, R]``."""
    names = ("iou", "dice", "scene_iou", "scene_dice")
    return {name: np.array([[run.summary[name] for run in row] for row in grid]) for name in names}


def _shared_panel(grid: Grid) -> list[str]:
    """The losses that every run was valued under."""
    first, *others = (run.recorded.panel for row in grid for run in row)
    return [name for name in first if all(name in other for other in others)]


def _panel_values(run: Run, panel: list[str]) -> Array:
    """Their values at the best checkpoint, mean over the halves of the scenes."""
    records = run.recorded
    return present_mean(records.values[best_index(run)][[records.panel.index(name) for name in panel]])


def _measures(grid: Grid, task: Task, counts: Array, snapshots: bool) -> dict[str, Measure]:
    """Every measure that is known of all runs."""
    found = {str(name): of_counts(counts, name) for name in get_args(Overlap)}
    found |= {f"scene_{name}": of_scenes(counts, name) for name in get_args(Overlap)}
    if not snapshots:
        return found
    found["boundary_iou"] = of_counts(_each(grid, lambda run: np.asarray(_snapshot(run).boundary, dtype=np.float64)))
    with suppress(InputError):  # some have no histogram
        found |= of_calibration([[calibration_sums(_histogram(run), task) for run in row] for row in grid])
    return found


def _tuned(grid: Grid, metric: Overlap) -> tuple[Array | None, Array | None, list[str]]:
    """Counts at 0.5 and at cross-fitted thresholds; None, and a sentence why, where some run has none."""
    if grid[0][0].records is None or grid[0][0].recorded.first.all():  # said already
        return None, None, []

    def both(run: Run) -> Array:
        best, task = _snapshot(run), run.recorded.task
        if not task.exclusive:
            return np.stack(crossfit_histogram(_histogram(run), metric, run.recorded.first))
        if best.crossfit is None:
            raise InputError(f"{run.folder} was not counted at tuned biases; its train.log says why")
        return counts_of(np.stack([best.crossfit.fixed, getattr(best.crossfit, metric)]), task)

    try:
        found = _each(grid, both)
    except InputError as error:
        return None, None, [f"Tuned thresholds are not compared: {error}."]
    return found[:, :, 0], found[:, :, 1], []


def _each(grid: Grid, value: Callable[[Run], Array | float]) -> Array:
    return np.array([[value(run) for run in row] for row in grid], dtype=np.float64)


def _snapshot(run: Run) -> Snapshot | StoredSnapshot:
    best = run.recorded.best
    if best is None:
        raise InputError(f"{run.folder} recorded no best checkpoint")
    return best


def _histogram(run: Run) -> NDArray[np.int64]:
    histogram = _snapshot(run).histogram
    if histogram is None:
        raise InputError(f"{run.folder} recorded no histogram of its best checkpoint")
    return histogram


def class_scores(counts: Array, metric: Overlap = "iou") -> Array:
    """Per class, pooled over scenes: ``[L, R, S, C, 3]`` to ``[L, R, C]``."""
    return overlap(counts.sum(-3), metric)
