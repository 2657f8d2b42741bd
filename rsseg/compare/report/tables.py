"""The tables of a comparison, one function each."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from rsseg.compare.analyse import class_scores
from rsseg.compare.bootstrap import WinMatrix
from rsseg.compare.counts import overlap, pooled
from rsseg.compare.fair import Comparison
from rsseg.compare.findings import MEASURES, Findings
from rsseg.compare.ranks import seed_interval
from rsseg.compare.report.figures import ranks
from rsseg.compare.threshold import residual_regret
from rsseg.metrics.average import present_mean


def losses(found: Findings) -> pd.DataFrame:
    """One row per loss, best first: mean and standard deviation over seeds of every measure, regrets, rank alignment."""
    table = pd.DataFrame(index=pd.Index(found.labels, name="loss"))
    table["seeds"] = len(found.seeds)
    columns = dict(found.measures) | {"last": found.last}
    if found.fixed is not None and found.tuned is not None:
        fixed, tuned = (pooled(counts, found.tuned_metric) for counts in (found.fixed, found.tuned))
        columns |= {"tuned": tuned, "threshold_regret": tuned - fixed, "residual_regret": residual_regret(tuned)}
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
    wins: dict[str, WinMatrix] = dict(found.wins)
    if found.wins_tuned is not None:
        wins[f"{found.tuned_metric}, tuned"] = found.wins_tuned
    rows = [
        {
            "metric": metric, "loss": found.labels[a], "against": found.labels[b], "difference": win.difference.value[a, b],
            "low": win.difference.low[a, b], "high": win.difference.high[a, b], "better": win.better[a, b],
            "p_value_seeds": win.p_value[a, b],
        }
        for metric, win in wins.items() for a in found.order for b in found.order if a != b
    ]  # fmt: skip
    columns = ["metric", "loss", "against", "difference", "low", "high", "better", "p_value_seeds"]
    return pd.DataFrame(rows, columns=columns)


def cross(found: Findings) -> pd.DataFrame:
    """Mean ranks of every loss under every measure and loss."""
    names, table = ranks(found)
    return pd.DataFrame(table, index=pd.Index(found.labels, name="loss"), columns=names).iloc[found.order]


def classes(found: Findings, comparison: Comparison) -> pd.DataFrame:
    """One row per class: pixels, and each loss's score, mean over seeds; NaN where the class is absent."""
    table = comparison.runs[0][0].classes.set_index("class")[["pixels"]]
    for i in found.order:
        if found.counts is not None:
            table[found.labels[i]] = class_scores(found.counts, found.tuned_metric)[i].mean(0)
        else:
            seeds = [run.classes.set_index("class")[found.tuned_metric] for run in comparison.runs[i]]
            table[found.labels[i]] = sum(seeds).reindex(table.index) / len(seeds)
    return table


def scenes(found: Findings) -> pd.DataFrame | None:
    """One row per scene: each loss's score, mean over classes and seeds; the scenes they differ in most first."""
    if found.counts is None:
        return None
    values = present_mean(overlap(found.counts, found.tuned_metric)).mean(1)  # [L, S]
    table = pd.DataFrame(values.T, index=pd.Index(found.scenes, name="scene"), columns=found.labels)
    table = table.iloc[:, found.order]
    width = (table.max(axis=1) - table.min(axis=1)).fillna(-1)
    return table.loc[width.sort_values(ascending=False, kind="stable").index]


def shares(found: Findings) -> pd.DataFrame:
    """One row per composition, place, step and term: its share of the gradient."""
    rows = [
        {"loss": label, "place": place, "step": int(step), "term": term, "share": share}
        for (label, place), (terms, steps, values) in found.shares.items()
        for step, row in zip(steps, values, strict=True)
        for term, share in zip(terms, row, strict=True)
    ]
    return pd.DataFrame(rows, columns=["loss", "place", "step", "term", "share"])


def gains(found: Findings) -> pd.DataFrame:
    """One row per loss, step and term: its one-step gain."""
    rows = [
        {"loss": label, "step": int(step), "term": term, "gain": gain}
        for label, (terms, steps, values) in found.gains.items()
        for step, row in zip(steps, values, strict=True)
        for term, gain in zip(terms, row, strict=True)
    ]
    return pd.DataFrame(rows, columns=["loss", "step", "term", "gain"])


def cosines(found: Findings) -> pd.DataFrame:
    """One row per composition, place and pair of terms: the mean cosine of their gradients over the run."""
    rows = [
        (label, place, f"{first}, {second}", float(present_mean(values[:, a, b])))
        for (label, place), values in found.cosines.items()
        for (a, first), (b, second) in combinations(enumerate(found.shares[label, place][0]), 2)
    ]
    return pd.DataFrame(rows, columns=["loss", "place", "terms", "cosine"])


def runs(found: Findings, comparison: Comparison) -> pd.DataFrame:
    """One row per run that is compared: folder, seed, scores, steps, seconds, code."""
    rows = []
    for i, row in enumerate(comparison.runs):
        for j, run in enumerate(row):
            scores = {name: values[i, j] for name, values in found.measures.items()}
            facts = {"run": str(run.folder), "loss": run.label, "seed": run.seed, "rate": run.rate}
            made = {"steps": run.summary["steps"], "seconds": run.summary["seconds"], "commit": run.origin["git"]["commit"]}
            rows.append(facts | scores | made)
    return pd.DataFrame(rows)


def checkpoints(comparison: Comparison) -> pd.DataFrame:
    """One row per run and validation: step, validation loss, IoU, Dice."""
    frames = [run.curve.assign(run=str(run.folder), loss=run.label, seed=run.seed) for row in comparison.runs for run in row]
    return pd.concat(frames, ignore_index=True)


def best_by_measure(found: Findings) -> pd.DataFrame:
    """One row per measure: the loss that is best by it, and by how much."""
    rows = []
    for key, values in found.measures.items():
        name, up = MEASURES[key]
        mean = values.mean(1)
        order = np.argsort(-mean if up else mean, kind="stable")
        gap = found.wins[key].difference
        at = (order[0], order[min(1, len(order) - 1)])
        rows.append(
            {
                "measure": name, "best loss": found.labels[order[0]], "value": mean[order[0]],
                "next": found.labels[order[1]] if len(order) > 1 else "-",
                **{name: end[at] if len(order) > 1 else np.nan for name, end in
                   (("difference", gap.value), ("low", gap.low), ("high", gap.high))},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
