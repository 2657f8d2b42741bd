"""From runs that can be compared to the measures of a comparison: pure calls of this room's functions, no files."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np

from rsseg.alignment.bootstrap import SEEDS, WinMatrix, p_values, win_matrix
from rsseg.alignment.counts import Array, Overlap, counts_of, overlap, per_scene, pooled, present_mean
from rsseg.alignment.fair import Comparison
from rsseg.alignment.findings import Cosines, Findings, Gains, Grid, Shares
from rsseg.alignment.ranks import kendall, seed_interval
from rsseg.alignment.records import Records, Snapshot
from rsseg.alignment.runs import Run
from rsseg.alignment.threshold import selection_regret
from rsseg.alignment.tuning import crossfit_histogram, crossfit_sample
from rsseg.contract import Head, InputError, TaskKind, nearest
from rsseg.metrics import calibration


def analyse(comparison: Comparison, metric: str = "iou") -> Findings:
    """Compute every measure that the runs' records allow.

    Args:
        comparison: The runs.
        metric: What losses are ranked by: `iou`, `dice` or `boundary_iou`.

    Raises:
        InputError: For a metric that nobody recorded.
    """
    grid, head = comparison.runs, head_of(comparison.runs[0][0])
    shares, cosines, gains = _gradients(comparison)
    has_records = grid[0][0].records is not None
    counts = _each(grid, lambda run: counts_of(best_confusion(run), head)) if has_records else None
    snapshots = has_records and all(_best(run) is not None for row in grid for run in row)
    boundary = _each(grid, lambda run: np.asarray(_snapshot(run).boundary, dtype=np.float64)) if snapshots else None
    fixed, tuned = _tuned(grid, "dice" if metric == "dice" else "iou") if snapshots else (None, None)
    panel = _shared_panel(grid) if has_records else []
    measures = _measures(grid, head, counts, boundary)
    by_metric = {"iou": counts, "dice": counts, "boundary_iou": boundary}
    wins = {
        name: paired(measures[name]) if given is None else win_matrix(given, "dice" if name == "dice" else "iou")
        for name, given in by_metric.items()
        if name in measures
    }
    if metric not in wins:
        raise InputError(
            f"metric={metric}: nobody recorded it{nearest(metric, wins)}; losses can be ranked by {', '.join(wins)}"
        )
    return Findings(
        labels=comparison.labels,
        plain=[row[0].plain for row in grid],
        seeds=comparison.seeds,
        scenes=list(grid[0][0].data["scenes"]["val"]),
        head=head,
        metric=metric,
        measures=measures,
        last=np.array([[run.curve["dice" if metric == "dice" else "iou"].iloc[-1] for run in row] for row in grid]),
        wins=wins,
        counts=counts,
        fixed=fixed,
        tuned=tuned,
        wins_tuned=None if tuned is None else win_matrix(tuned, "dice" if metric == "dice" else "iou"),
        panel=panel,
        values=_each(grid, lambda run: _panel_values(run, panel)) if has_records else None,
        selection=_each(grid, lambda run: selection(run, head, "dice" if metric == "dice" else "iou")) if has_records else None,
        tau=_each(grid, lambda run: taus(run, "dice" if metric == "dice" else "iou")),
        shares=shares,
        cosines=cosines,
        gains=gains,
    )


def head_of(run: Run) -> Head:
    """Task and classes of a run."""
    return Head(TaskKind(run.config.dataset.task), tuple(run.config.dataset.classes))


def paired(values: Array) -> WinMatrix:
    """Compare losses by ``[L, R]`` scores alone: Student's intervals over seeds, for these scenes and no others.

    Example:
        >>> paired(np.array([[0.5, 0.6], [0.4, 0.4]])).difference.value[0, 1].round(2).item()
        0.15
    """
    gaps = values[:, None] - values[None]
    unknown = np.full(gaps.shape[:2], np.nan)
    losses, seeds = values.shape
    return WinMatrix(
        seed_interval(values), seed_interval(gaps), unknown, p_values(gaps, losses * (losses - 1) // 2), seeds < SEEDS
    )


def _shared_panel(grid: Grid) -> list[str]:
    """The losses that every run was valued under."""
    first, *others = (_records(run).panel for row in grid for run in row)
    return [name for name in first if all(name in other for other in others)]


def _panel_values(run: Run, panel: list[str]) -> Array:
    """Their values at the best checkpoint, mean over the halves of the scenes."""
    records = _records(run)
    return present_mean(records.values[best_index(run)][[records.panel.index(name) for name in panel]])


def best_index(run: Run) -> int:
    """Which validation the best checkpoint comes from."""
    records = _records(run)
    steps = np.asarray(records.steps)
    if records.best is not None and records.best.step in steps:
        return int(np.flatnonzero(steps == records.best.step)[-1])
    return int(np.nanargmax(pooled(counts_of(records.confusion, records.head))))


def best_confusion(run: Run) -> Array:
    """The confusion matrices at the best checkpoint, ``[S, P, K, K]``."""
    return np.asarray(_records(run).confusion[best_index(run)])


def selection(run: Run, head: Head, metric: Overlap) -> float:
    """What choosing the checkpoint by the run's own validation loss costs; NaN where a half of the scenes can't tell.

    The loss's value on each half is known where the panel holds the very loss that trained; else that on all scenes is taken.
    """
    records = _records(run)
    changed = any("loss." in override.split("=")[0] for override in run.origin["overrides"])
    if run.loss in records.panel and not changed:
        own = np.asarray(records.values)[:, records.panel.index(run.loss)]
    elif len(run.curve) == len(records.steps):
        own = run.curve["val_loss"].to_numpy(dtype=np.float64)
    else:
        return float("nan")
    try:
        return selection_regret(own, counts_of(records.confusion, head), metric)
    except InputError:
        return float("nan")


def taus(run: Run, metric: str) -> Array:
    """Rank alignment of a run's own validation loss: over the whole run, and over the last half of its validations."""
    known = run.curve.dropna()
    half = known.iloc[len(run.curve) // 2 - len(run.curve) :] if len(known) == len(run.curve) else known.iloc[len(known) // 2 :]
    return np.array([kendall(part["val_loss"], part[metric]) for part in (known, half)])


def _measures(grid: Grid, head: Head, counts: Array | None, boundary: Array | None) -> dict[str, Array]:
    """Every measure that is known, ``[L, R]``."""
    if counts is None:
        names = ("iou", "dice", "scene_iou", "scene_dice")
        return {name: np.array([[run.summary[name] for run in row] for row in grid]) for name in names}
    found = {name: pooled(counts, name) for name in get_args(Overlap)}
    found |= {f"scene_{name}": per_scene(counts, name) for name in get_args(Overlap)}
    if boundary is None:
        return found
    found["boundary_iou"] = pooled(boundary)
    if all(_snapshot(run).histogram is not None for row in grid for run in row):
        said = [[calibration(_histogram(run), head) for run in row] for row in grid]
        found |= {name: np.array([[value[name] for value in row] for row in said]) for name in said[0][0]}
    return found


def _tuned(grid: Grid, metric: Overlap) -> tuple[Array | None, Array | None]:
    """Counts at 0.5 and at cross-fitted thresholds; None where scenes are too few or nothing was recorded to tune on."""
    scenes = len(_snapshot(grid[0][0]).boundary)
    multiclass = head_of(grid[0][0]).task is TaskKind.multiclass
    samples = [_snapshot(run).sample if multiclass else _snapshot(run).histogram for row in grid for run in row]
    if scenes < 2 or any(x is None for x in samples):
        return None, None

    def both(run: Run) -> Array:
        sample = _snapshot(run).sample
        if multiclass and sample is not None:
            return np.stack(crossfit_sample(sample, scenes, metric))
        return np.stack(crossfit_histogram(_histogram(run), metric))

    found = _each(grid, both)
    return found[:, :, 0], found[:, :, 1]


def _gradients(comparison: Comparison) -> tuple[Shares, Cosines, Gains]:
    """Means over the seeds that were validated at the same steps as the first."""
    shares: Shares = {}
    cosines: Cosines = {}
    gains: Gains = {}
    for label, row in zip(comparison.labels, comparison.runs, strict=True):
        known = [run.records for run in row if run.records is not None]
        records = [r for r in known if np.array_equal(r.steps, known[0].steps)]
        for place in known[0].gradient if known and len(known[0].terms) > 1 else ():
            norms, angles = (np.array([r.gradient[place][i] for r in records]) for i in (0, 1))
            total = norms.sum(-1, keepdims=True)
            share = np.where(total > 0, norms / np.where(total > 0, total, 1), 0).mean(0)
            shares[label, place] = (records[0].terms, records[0].steps, share)
            cosines[label, place] = angles.mean(0)
        measured = [r.gain for r in records if r.gain is not None]
        if measured:
            gains[label] = (records[0].terms, records[0].steps, np.mean(measured, axis=0))
    return shares, cosines, gains


def _each(grid: Grid, value: Callable[[Run], Array | float]) -> Array:
    return np.array([[value(run) for run in row] for row in grid], dtype=np.float64)


def _records(run: Run) -> Records:
    if run.records is None:
        raise InputError(f"{run.folder} has no records")
    return run.records


def _best(run: Run) -> Snapshot | None:
    return _records(run).best


def _snapshot(run: Run) -> Snapshot:
    best = _best(run)
    if best is None:
        raise InputError(f"{run.folder} recorded no best checkpoint")
    return best


def _histogram(run: Run) -> Array:
    return np.asarray(_snapshot(run).histogram, dtype=np.float64)


def class_scores(counts: Array, metric: Overlap = "iou") -> Array:
    """Per class, pooled over scenes: ``[L, R, S, C, 3]`` to ``[L, R, C]``."""
    return overlap(counts.sum(-3), metric)
