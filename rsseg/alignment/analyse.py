"""From finished runs to the numbers of a comparison: pure functions on tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from rsseg.alignment.ranks import kendall
from rsseg.contract import InputError

METRICS = ("iou", "dice", "scene_iou", "scene_dice", "accuracy")


def find_runs(places: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Finished and unfinished run folders in some folders, or those folders themselves.

    Raises:
        InputError: If a folder does not exist or no run in it is finished.
    """
    for place in places:
        if not place.is_dir():
            raise InputError(f"runs={place}: there is no such folder")
    begun = sorted({path.parent for place in places for path in place.rglob("run.json")})
    finished = [run for run in begun if (run / "summary.json").is_file()]
    if not finished:
        raise InputError(
            f"no finished run in {', '.join(map(str, places))} ({len(begun)} begun): train first, or go on with resume="
        )
    return finished, [run for run in begun if run not in finished]


def read_runs(runs: Sequence[Path]) -> pd.DataFrame:
    """One row per run: folder, label of the loss, seed, scores of the best checkpoint.

    The label is what the run's overrides say beyond those that all runs share and the seed; at least the loss's name.

    Raises:
        InputError: If the runs were trained or scored on different data or for a different number of steps.
    """
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    data = [json.loads((run / "data.json").read_text()) for run in runs]
    configs: list[Any] = [OmegaConf.load(run / "config.yaml") for run in runs]
    _same("data or splits", runs, [json.dumps(d["fingerprint"]) for d in data])
    _same("numbers of steps", runs, [str(c.steps) for c in configs])
    shared = set.intersection(*(set(r["overrides"]) for r in records))
    rows = []
    for run, record, config in zip(runs, records, configs, strict=True):
        own = [o for o in record["overrides"] if o not in shared and not o.startswith(("seed=", "loss="))]
        summary = json.loads((run / "summary.json").read_text())
        label = " ".join([record["loss"] or "loss", *own])
        rows.append({"run": str(run), "loss": label, "seed": config.seed, **{m: summary[m] for m in METRICS}})
    return pd.DataFrame(rows)


def _same(what: str, runs: Sequence[Path], facts: Sequence[str]) -> None:
    groups: dict[str, list[Path]] = {}
    for run, fact in zip(runs, facts, strict=True):
        groups.setdefault(fact, []).append(run)
    if len(groups) > 1:
        listed = "\n".join(f"  - {len(g)} runs such as {g[0]}" for g in groups.values())
        raise InputError(f"these runs have different {what} and can't be compared; name the folders of one kind:\n{listed}")


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each metric per loss, best mean IoU first; the spread of one seed is NaN."""
    grouped = runs.groupby("loss")[list(METRICS)]
    mean, spread = grouped.mean(), grouped.std(ddof=1)
    table = pd.concat({"mean": mean, "std": spread}, axis=1).swaplevel(axis=1)
    table.columns = [f"{metric}_{kind}" for metric, kind in table.columns]
    table.insert(0, "seeds", runs.groupby("loss")["seed"].nunique())
    order = [f"{metric}_{kind}" for metric in METRICS for kind in ("mean", "std")]
    return table[["seeds", *order]].sort_values("iou_mean", ascending=False)


def read_curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Validation loss, IoU and Dice of every checkpoint of every run."""
    frames = []
    for row in runs.itertuples():
        metrics = pd.read_csv(Path(row.run) / "metrics.csv")
        head = next(
            c.split("/")[1] for c in metrics.columns if c.startswith("val/") and c.endswith("/iou") and c.count("/") == 2
        )
        names = {"step": "step", "val/loss": "val_loss", f"val/{head}/iou": "iou", f"val/{head}/dice": "dice"}
        frame = metrics[list(names)].rename(columns=names).groupby("step", as_index=False).first().dropna()
        frames.append(frame.assign(run=row.run, loss=row.loss, seed=row.seed))
    return pd.concat(frames, ignore_index=True)


def rank_alignment(curves: pd.DataFrame, metric: str) -> pd.DataFrame:
    """How far a falling validation loss means a rising metric: Kendall's tau-b over checkpoints, per loss.

    Computed per run, then averaged over seeds: 1 means the loss orders checkpoints as the metric does, 0 not at all.

    Args:
        curves: As `read_curves` gives them.
        metric: "iou" or "dice".
    """
    rows = [{"loss": loss, "tau": kendall(run["val_loss"], run[metric])} for (loss, _), run in curves.groupby(["loss", "run"])]
    taus = pd.DataFrame(rows).groupby("loss")["tau"]
    return pd.DataFrame({f"tau_{metric}_mean": taus.mean(), f"tau_{metric}_std": taus.std(ddof=1)})
