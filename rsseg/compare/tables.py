"""The tables of a comparison, one function each, and all of them by the names of their files."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from rsseg.compare.findings import Findings
from rsseg.compare.scores import seed_interval
from rsseg.metrics.average import Array


def all_tables(found: Findings) -> dict[str, pd.DataFrame]:
    """Every table that the records allow, by the name of its file."""
    tables = {
        "comparison": losses(found),
        "pairs": pairs(found).set_index("metric"),
        "ranks": cross(found),
        "measures": best_by_measure(found).set_index("measure"),
        "classes": classes(found),
        "shares": found.gradients.shares.set_index("loss"),
        "cosines": found.gradients.cosines.set_index("loss"),
        "checkpoints": checkpoints(found).set_index("run"),
        "runs": runs(found).set_index("run"),
        "left_out": left_out(found).set_index("run"),
    }
    if found.counts is not None:
        tables["scenes"] = scenes(found, found.counts)
    if len(found.gradients.gains):
        tables["gains"] = found.gradients.gains.set_index("loss")
    return tables


def losses(found: Findings) -> pd.DataFrame:
    """One row per loss, best first: mean and standard deviation over seeds of every measure, regrets, rank alignment."""
    table = pd.DataFrame(index=pd.Index(found.labels, name="loss"))
    table["seeds"] = len(found.seeds)
    columns = {name: win.values for name, win in found.wins.items()} | {"last": found.last}
    if found.tuning is not None:
        columns["tuned"] = found.tuning.wins.values
        columns["threshold_regret"] = found.tuning.threshold_regret
        columns["residual_regret"] = found.tuning.residual_regret
    if found.selection is not None:
        columns["selection_regret"] = found.selection
    taus = {"tau": found.tau[..., 0], "tau_last_half": found.tau[..., 1]}
    for name, values in (columns | taus).items():
        known = seed_interval(values)
        table[f"{name}_mean"] = known.value
        table[f"{name}_std"] = pd.DataFrame(values).std(axis=1).to_numpy()  # of the seeds that the mean is over
        if np.isnan(values).any():
            table[f"{name}_seeds"] = (~np.isnan(values)).sum(axis=1)
        if name in taus:
            table[f"{name}_low"], table[f"{name}_high"] = known.low, known.high
    return table.iloc[found.order]


def pairs(found: Findings) -> pd.DataFrame:
    """One row per metric and ordered pair of losses: the difference, its interval, how surely it is above 0."""
    wins = dict(found.wins)
    if found.tuning is not None:
        wins[f"{found.tuned_metric}, tuned"] = found.tuning.wins
    rows = []
    for metric, win in wins.items():
        for a in found.order:
            for b in found.order:
                if a != b:
                    ends = win.difference.at(a, b)
                    rows.append((metric, found.labels[a], found.labels[b], *ends, win.better[a, b], win.p_value[a, b]))
    columns = ["metric", "loss", "against", "difference", "low", "high", "better", "p_value_seeds"]
    return pd.DataFrame(rows, columns=columns)


def ranks(found: Findings) -> tuple[list[str], Array]:
    """The measures and losses that everything is ranked by, and the mean ranks ``[L, measures]``."""
    keys = [key for key in found.measures if key in found.wins]
    names, up = [found.measures[key].label for key in keys], [found.measures[key].higher_is_better for key in keys]
    values = [found.wins[key].values for key in keys]
    if found.panel:
        names += [f"loss {name}" for name in found.panel]
        values += list(np.moveaxis(found.values, -1, 0))
        up += [False] * len(found.panel)
    return names, cross_evaluation(np.stack(values, axis=-1), up)


def cross_evaluation(values: ArrayLike, higher_is_better: ArrayLike) -> Array:
    """The rank of every loss's models under every measure, mean over seeds; 1 is the best, ties share theirs.

    Args:
        values: ``[losses, seeds, measures]``.
        higher_is_better: bool ``[measures]``; False for losses and errors.

    Returns:
        ``[losses, measures]``; NaN for a measure that lacks a value.

    Example:
        >>> cross_evaluation([[[0.5, 0.1]], [[0.7, 0.3]]], [True, False]).tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """
    found = np.asarray(values, dtype=np.float64)
    ordered = np.where(np.asarray(higher_is_better, dtype=bool), -found, found)
    ranks: Array = rankdata(ordered, axis=0, nan_policy="propagate").mean(axis=1)
    return ranks


def cross(found: Findings) -> pd.DataFrame:
    """Mean ranks of every loss under every measure and loss."""
    names, table = ranks(found)
    return pd.DataFrame(table, index=pd.Index(found.labels, name="loss"), columns=names).iloc[found.order]


def best_by_measure(found: Findings) -> pd.DataFrame:
    """One row per measure: the loss that is best by it, and by how much."""
    columns, rows = ["measure", "best loss", "value", "next", "difference", "low", "high"], []
    for key, win in found.wins.items():
        measure, mean = found.measures[key], win.values.mean(1)
        best, *others = np.argsort(-mean if measure.higher_is_better else mean, kind="stable")
        row = (measure.label, found.labels[best], mean[best])
        if others:
            rows.append((*row, found.labels[others[0]], *win.difference.at(best, others[0])))
        else:
            rows.append((*row, "-", np.nan, np.nan, np.nan))
    return pd.DataFrame(rows, columns=columns)


def classes(found: Findings) -> pd.DataFrame:
    """One row per class: pixels, and each loss's score, mean over seeds; NaN where the class is absent."""
    grid = found.comparison.runs
    table = grid[0][0].classes.set_index("class")[["pixels"]]
    for i in found.order:
        if found.counts is not None:
            scores = [found.metrics[f"{found.class_score}/{name}"](found.counts[i]).mean(0) for name in table.index]
            table[found.labels[i]] = scores
        else:
            seeds = [run.classes.set_index("class")[found.class_score] for run in grid[i]]
            table[found.labels[i]] = sum(seeds).reindex(table.index) / len(seeds)
    return table


def scenes(found: Findings, counts: Array) -> pd.DataFrame:
    """One row per scene: each loss's score, mean over seeds; the scenes they differ in most first."""
    values = found.scene_metric.each(counts).mean(1)  # [L, S]
    table = pd.DataFrame(values.T, index=pd.Index(found.scenes, name="scene"), columns=found.labels)
    table = table.iloc[:, found.order]
    width = (table.max(axis=1) - table.min(axis=1)).fillna(-1)
    return table.loc[width.sort_values(ascending=False, kind="stable").index]


def checkpoints(found: Findings) -> pd.DataFrame:
    """One row per run and validation: step, validation loss, `Task.class_scores`."""
    frames = [run.curve.assign(run=str(run.folder), loss=run.label, seed=run.seed) for run in found.comparison.all_runs]
    return pd.concat(frames, ignore_index=True)


def runs(found: Findings) -> pd.DataFrame:
    """One row per run that is compared: folder, seed, scores, steps, seconds, code."""
    rows = []
    for (i, j), run in zip(np.ndindex(len(found.labels), len(found.seeds)), found.comparison.all_runs, strict=True):
        facts = {"run": str(run.folder), "loss": run.label, "seed": run.seed, "rate": run.rate}
        scores = {name: win.values[i, j] for name, win in found.wins.items()}
        made = {"steps": run.summary["steps"], "seconds": run.summary["seconds"], "commit": run.origin["git"]["commit"]}
        rows.append(facts | scores | made)
    return pd.DataFrame(rows)


def left_out(found: Findings) -> pd.DataFrame:
    """One row per run that is not compared: why, and what to do."""
    rows = [(str(left.run), left.why, left.remedy) for left in found.comparison.left_out]
    return pd.DataFrame(rows, columns=["run", "why", "what to do"])
