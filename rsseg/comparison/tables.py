"""The tables of a comparison, one function each, and all of them by the names of their files."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rsseg.comparison.findings import Findings, term_cosines
from rsseg.comparison.intervals import sum_groups
from rsseg.metrics import metrics
from rsseg.metrics.average import Array, present_mean


def all_tables(found: Findings) -> dict[str, pd.DataFrame]:
    """All tables by file name without ending; the first columns of a file are the table's index."""
    return {
        "comparison": losses(found),
        "pairs": pairs(found).set_index("metric"),
        "ranks": ranks(found),
        "classes": classes(found),
        "scenes": scenes(found),
        "terms": found.terms.set_index("loss"),
        "cosines": term_cosines(found.comparison).set_index("loss"),
        "checkpoints": checkpoints(found).set_index("run"),
        "runs": runs(found).set_index("run"),
        "left_out": left_out(found).set_index("run"),
    }


def losses(found: Findings) -> pd.DataFrame:
    """One row per loss, best first: every measure with its interval, chances, regrets, rank alignment, and failed runs.

    ``behind`` is the difference to the best loss, with intervals that hold for all pairs together. ``p_best``, ``expected``
    and ``expected_regret`` are for the advised use, tuned if ``used_tuned``. Where some seeds have no value, a column
    ``..._seeds`` gives the number of seeds in the mean.
    """
    lead, seeds = found.ranked.lead()[found.order[0]], len(found.seeds)
    columns: dict[str, ArrayLike] = {"seeds": np.full(len(found.labels), seeds)}
    for name, estimates in found.estimates.items():
        score, values = estimates.score, estimates.values
        columns[f"{name}_mean"] = score.value
        columns[f"{name}_std"] = values.std(axis=1, ddof=1) if seeds > 1 else np.full(len(values), np.nan)
        columns[f"{name}_low"], columns[f"{name}_high"] = score.low, score.high
    for name, ends in {"behind": lead.value, "behind_low": lead.low, "behind_high": lead.high}.items():
        columns[name] = ends + 0.0  # no -0.0
    if found.chances is not None:
        columns["p_best"], columns["expected"] = found.chances.best, found.chances.mean
        columns["expected_regret"] = found.chances.regret
        columns["used_tuned"] = np.full(len(found.labels), found.tune)
    each = {
        "optimism": found.optimism,
        "selection_regret": found.selection_regret,
        "residual_regret": found.residual,
        "tau": found.tau,
    }
    for name, values in each.items():
        known = ~np.isnan(values)
        columns[f"{name}_mean"] = present_mean(values)
        if not known.all():
            columns[f"{name}_seeds"] = known.sum(1)
    columns["last_is_best"], columns["collapsed"] = found.last_is_best.sum(1), found.collapsed.sum(1)
    columns["failed"] = [found.comparison.failed.get(label, 0) for label in found.labels]
    columns["hours"] = [sum(run.summary["seconds"] for run in row) / 3600 for row in found.comparison.runs]
    return pd.DataFrame(columns, index=pd.Index(found.labels, name="loss")).iloc[found.order]


def pairs(found: Findings) -> pd.DataFrame:
    """One row per metric and ordered pair of losses: the difference and its interval, simultaneous for all pairs."""
    rows = []
    for metric, estimates in found.estimates.items():
        difference = estimates.lead() if estimates.measure.higher_is_better else -estimates.lead()
        for a in found.order:
            rows += [(metric, found.labels[a], found.labels[b], *difference.at(a, b)) for b in found.order if a != b]
    return pd.DataFrame(rows, columns=["metric", "loss", "against", "difference", "low", "high"])


def ranks(found: Findings) -> pd.DataFrame:
    """The mean rank of each loss's runs by every measure, and by every loss of the panel."""
    down = {each.measure.label: -each.measure.sign * each.values for each in found.estimates.values()}
    down |= {f"loss {name}": found.panel_values[..., place] for place, name in enumerate(found.panel)}
    columns = {name: mean_ranks(values) for name, values in down.items()}
    return pd.DataFrame(columns, index=pd.Index(found.labels, name="loss")).iloc[found.order]


def mean_ranks(values: Array) -> Array:
    """The mean rank of each loss over seeds, from values ``[L, R]``: the lowest has rank 1, ties share a rank, NaN: not known.

    Example:
        >>> mean_ranks(np.array([[0.5, 0.7], [0.6, 0.7]])).tolist()
        [1.25, 1.75]
    """
    return pd.DataFrame(values).rank().mean(axis=1, skipna=False).to_numpy()


def classes(found: Findings) -> pd.DataFrame:
    """One row per class: its pixels, the groups that hold it, and each loss's mean score over seeds; NaN if it is absent."""
    known = metrics(found.task)
    pixels = known[found.task.score].pixels(found.counts[0, 0])
    holding = (sum_groups(pixels, found.groups) > 0).sum(0)
    table = pd.DataFrame(
        {"pixels": pixels.sum(0).astype(int), "groups": holding}, index=pd.Index(found.task.classes, name="class")
    )
    for i in found.order:
        table[found.labels[i]] = [known[f"{found.scene_metric.score}/{name}"](found.counts[i]).mean(0) for name in table.index]
    return table


def scenes(found: Findings) -> pd.DataFrame:
    """One row per scene: its group, and each loss's mean score over seeds; scenes where losses differ most come first."""
    values = found.scene_metric.each(found.counts).mean(1)  # [L, S]
    table = pd.DataFrame(values.T, index=pd.Index(found.scenes, name="scene"), columns=found.labels)
    table = table.iloc[:, found.order]
    width = (table.max(axis=1) - table.min(axis=1)).fillna(-1)
    table.insert(0, "group", list(found.groups))
    return table.iloc[np.argsort(-width.to_numpy(), kind="stable")]


def checkpoints(found: Findings) -> pd.DataFrame:
    """One row per run and validation: step, mean validation loss of both halves, `Task.class_scores`, the score that ranks."""
    frames = []
    for run in found.comparison.all_runs:
        facts = {"run": str(run.folder), "loss": run.label, "seed": run.seed, "step": run.records.steps}
        names = dict.fromkeys([*found.task.class_scores, found.tuned_score])
        scores = {name: found.metrics[name](run.records.counts) for name in names}
        frames.append(pd.DataFrame({**facts, "val_loss": present_mean(run.records.own), **scores}))
    return pd.concat(frames, ignore_index=True)


def runs(found: Findings) -> pd.DataFrame:
    """One row per run that is compared: folder, seed, scores, steps, seconds, code."""
    rows = []
    for (i, j), run in zip(np.ndindex(len(found.labels), len(found.seeds)), found.comparison.all_runs, strict=True):
        facts = {"run": str(run.folder), "loss": run.label, "seed": run.seed, "rate": f"{run.rate:g}"}
        scores = {name: estimates.values[i, j] for name, estimates in found.estimates.items()}
        made = {
            "steps": run.summary["steps"],
            "seconds": round(run.summary["seconds"], 1),
            "commit": run.origin["git"]["commit"],
        }
        rows.append(facts | scores | made)
    return pd.DataFrame(rows)


def left_out(found: Findings) -> pd.DataFrame:
    """One row per run that is not compared: the reason and the remedy."""
    rows = [(str(left.run), left.why, left.remedy) for left in found.comparison.left_out]
    return pd.DataFrame(rows, columns=["run", "why", "what to do"])
