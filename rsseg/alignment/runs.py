"""Finished runs, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from rsseg.alignment.records import Records, load_records
from rsseg.config.folder import PLACE_KEYS
from rsseg.contract import InputError

RATE = "optimizer.lr="
"""The override that sets a learning rate."""

SEARCH_SEED = 1000
"""In a sweep over learning rates the seeds from here on choose each loss's rate, and the others report on it."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        loss: The name of its loss composition.
        label: The loss, and what else its overrides say that not all runs share.
        seed: Its seed.
        rate: Its learning rate, NaN where the optimiser has none.
        searching: Whether a learning rate is chosen on it, rather than reported.
        config: Its resolved config.
        origin: ``run.json``: overrides, code, libraries.
        data: ``data.json``: scenes and fingerprints of the splits.
        summary: ``summary.json``: the scores of its best checkpoint.
        curve: ``step``, ``val_loss``, ``iou`` and ``dice`` of every validation.
        classes: ``classes.csv``: class, iou, dice, pixels of its head.
        records: What the recorder wrote; None without.
        unrecorded: Why there are none.
    """

    folder: Path
    loss: str
    label: str
    seed: int
    rate: float
    searching: bool
    config: Any
    origin: dict[str, Any]
    data: dict[str, Any]
    summary: dict[str, Any]
    curve: pd.DataFrame
    classes: pd.DataFrame
    records: Records | None
    unrecorded: str


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


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read finished runs and name them by what tells them apart.

    Raises:
        InputError: If a folder holds files that can't be read.
    """
    runs = [_read(folder) for folder in folders]
    shared = set.intersection(*(set(run.origin["overrides"]) for run in runs))
    searched = len({run.rate for run in runs}) > 1 and len({run.seed >= SEARCH_SEED for run in runs}) == 2
    passed = ("seed=", "loss=", *(f"{key}=" for key in PLACE_KEYS), *([RATE] if searched else []))
    named = []
    for run in runs:
        own = [o for o in run.origin["overrides"] if o not in shared and not o.startswith(passed)]
        brief = [o.removeprefix("experiment=").replace("loss.terms.", "") for o in own]
        label = " ".join([run.loss, *brief])
        named.append(replace(run, label=label, searching=searched and run.seed >= SEARCH_SEED))
    return named


def _read(folder: Path) -> Run:
    try:
        origin, data, summary = (json.loads((folder / f"{name}.json").read_text()) for name in ("run", "data", "summary"))
        config: Any = OmegaConf.load(folder / "config.yaml")
        head = next(iter(config.model.heads))
        curve, classes = read_curve(folder / "metrics.csv", head), pd.read_csv(folder / "classes.csv")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} can't be read as a finished run ({error}): remove it, or train it again") from None
    records, unrecorded = _records(folder, head)
    return Run(
        folder=folder,
        loss=origin["loss"] or "loss",
        label="",
        seed=int(config.seed),
        rate=float(config.optimizer.get("lr", np.nan)),
        searching=False,
        config=config,
        origin=origin,
        data=data,
        summary=summary,
        curve=curve,
        classes=classes[classes["head"] == head].drop(columns="head"),
        records=records,
        unrecorded=unrecorded,
    )


def _records(folder: Path, head: str) -> tuple[Records | None, str]:
    try:
        return load_records(folder, head), ""
    except InputError as error:  # whether it may lack them depends on the other runs
        return None, str(error)


def read_curve(path: Path, head: str) -> pd.DataFrame:
    """Validation loss, IoU and Dice of every validation in a ``metrics.csv``, in order; a loss that was NaN stays NaN."""
    metrics = pd.read_csv(path)
    names = {"step": "step", "val/loss": "val_loss", f"val/{head}/iou": "iou", f"val/{head}/dice": "dice"}
    curve = metrics[list(names)].rename(columns=names).groupby("step", as_index=False).first()
    return curve[curve["iou"].notna() | curve["val_loss"].notna()].reset_index(drop=True)
