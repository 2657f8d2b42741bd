"""Finished runs, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.alignment.archive import RecordError
from rsseg.alignment.recipes import settings
from rsseg.alignment.records import Records, load_records
from rsseg.config.build import plain
from rsseg.config.folder import flat, in_training, resume_word
from rsseg.contract import InputError, nearest

TRIALS = "trials.csv"
"""What `rsseg.search` writes beside the runs that are its trials."""

SEARCH_SEED = 1000
"""In a sweep over learning rates the seeds from here on choose each loss's rate, and the others report on it."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        loss: The name of its loss composition.
        label: What its row is called; empty before rows are told apart.
        seed: Its seed.
        rate: Its learning rate, NaN where the optimiser has none.
        searching: Whether a learning rate is chosen on it, rather than reported.
        plain: Whether its row is cross-entropy and no more.
        losses: The flattened loss of the head that is compared, and those of other heads if they differ from it.
        settings: All else that it was trained with, flattened.
        config: Its resolved config.
        origin: ``run.json``: overrides, code, libraries.
        data: ``data.json``: scenes and fingerprints of the splits.
        summary: ``summary.json``: the scores of its best checkpoint.
        curve: ``step``, ``val_loss``, ``iou`` and ``dice`` of every validation.
        classes: ``classes.csv``: class, iou, dice, pixels of its head.
        records: What the recorder wrote; None without.
        unrecorded: Why there are none, and what to do.
    """

    folder: Path
    loss: str
    label: str
    seed: int
    rate: float
    searching: bool
    plain: bool
    losses: dict[str, Any]
    settings: dict[str, Any]
    config: Any
    origin: dict[str, Any]
    data: dict[str, Any]
    summary: dict[str, Any]
    curve: pd.DataFrame
    classes: pd.DataFrame
    records: Records | None
    unrecorded: LeftOut | None

    @property
    def recorded(self) -> Records:
        """Its records.

        Raises:
            InputError: If it has none.
        """
        if self.records is None:
            raise InputError(f"{self.folder} has no records")
        return self.records


@dataclass(frozen=True)
class LeftOut:
    """A run that is not compared.

    Attributes:
        run: Its folder.
        why: What is wrong with it.
        remedy: What to do.
    """

    run: Path
    why: str
    remedy: str


def find_runs(places: Sequence[Path]) -> tuple[list[Path], list[LeftOut]]:
    """Finished run folders in some folders, or those folders themselves; and why others are not finished.

    Raises:
        InputError: If a folder does not exist or no run in it is finished.
    """
    for place in places:
        if not place.is_dir():
            beside = [path.name for path in place.parent.glob("*/")]
            raise InputError(f"runs={place}: there is no such folder{nearest(place.name, beside)}")
    begun = sorted({path.parent for place in places for path in place.rglob("run.json")})
    finished = [run for run in begun if (run / "summary.json").is_file()]
    left_out = [_unfinished(run) for run in begun if run not in finished]
    if not finished:
        found = f" ({len(begun)} begun; {left_out[0].run}: {left_out[0].why})" if begun else ""
        remedy = left_out[0].remedy if begun else "train first"
        raise InputError(f"no finished run in {', '.join(map(str, places))}{found}: {remedy}")
    return finished, left_out


def _unfinished(run: Path) -> LeftOut:
    if in_training(run):
        return LeftOut(run, "it is training now", "wait until it is finished")
    return LeftOut(run, "it is not finished", f"go on with python train.py {resume_word(run)}")


NEEDED = {
    "run.json": ("overrides", "loss", "git.commit", "git.changed", "rsseg", "python", "platform", "libraries"),
    "data.json": ("fingerprint.train", "fingerprint.val", "scenes.val", "mean", "std"),
    "summary.json": ("iou", "dice", "scene_iou", "scene_dice", "finished", "steps", "seconds"),
    "config.yaml": (
        "seed", "steps", "batch_size", "window", "optimizer", "loss", "dataset.name", "dataset.task", "dataset.classes",
        "model.encoder", "model.heads",
    ),
    "classes.csv": ("head", "class", "iou", "dice", "pixels"),
}  # fmt: skip
"""What each file of a finished run has to hold for a comparison."""


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read finished runs; their rows have no labels yet.

    Raises:
        InputError: If a folder holds files that can't be read, or that lack something.
    """
    return [_read(folder) for folder in folders]


def _read(folder: Path) -> Run:
    origin, data, summary = (_mapping(folder / f"{name}.json") for name in ("run", "data", "summary"))
    node = _mapping(folder / "config.yaml")
    heads = node["model"]["heads"]
    if not heads:
        raise _unusable(folder / "config.yaml", "it has no model.heads")
    head, *others = heads
    losses = {name: (heads[name] or {}).get("loss") or node["loss"] for name in heads}
    classes = _table(folder / "classes.csv", NEEDED["classes.csv"])
    records = _records(folder, head)
    config: Any = OmegaConf.create(node)
    return Run(
        folder=folder,
        loss=origin["loss"] or "loss",
        label="",
        seed=int(config.seed),
        rate=float(config.optimizer.get("lr", np.nan)),
        searching=False,
        plain=False,
        losses=flat(losses[head] | {f"heads.{name}": losses[name] for name in others if losses[name] != losses[head]}),
        settings=settings(node),
        config=config,
        origin=origin,
        data=data,
        summary=summary,
        curve=read_curve(folder / "metrics.csv", head),
        classes=classes[classes["head"] == head].drop(columns="head"),
        records=records if isinstance(records, Records) else None,
        unrecorded=records if isinstance(records, LeftOut) else None,
    )


def _mapping(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file of a run says."""
    try:
        found = json.loads(path.read_text()) if path.suffix == ".json" else plain(OmegaConf.load(path))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise _unusable(path, " ".join(str(error).split())) from None
    lacking = [key for key in NEEDED[path.name] if not _has(found, key.split("."))]
    if lacking:
        raise _unusable(path, f"it lacks {', '.join(lacking)}")
    return dict(found)


def _has(node: Any, names: list[str]) -> bool:
    return not names or (isinstance(node, Mapping) and names[0] in node and _has(node[names[0]], names[1:]))


def _table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    try:
        found = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from None
    lacking = [name for name in columns if name not in found]
    if lacking:
        raise _unusable(path, f"it lacks the columns {', '.join(lacking)}")
    return found


def _unusable(path: Path, found: str) -> InputError:
    return InputError(
        f"{path.parent} can't be read as a finished run; {path.name}: {found}. Remove the folder, or train the run again"
    )


def _records(folder: Path, head: str) -> Records | LeftOut:
    try:
        return load_records(folder, head)
    except RecordError as error:  # whether it may lack them depends on the other runs
        what = "it" if error.place == folder else error.place.relative_to(folder)
        return LeftOut(folder, f"{what} {error.found}", error.remedy)


def read_curve(path: Path, head: str) -> pd.DataFrame:
    """Validation loss, IoU and Dice of every validation in a ``metrics.csv``, in order; a loss that was NaN stays NaN.

    Steps are how many were done, as in records: the file counts them from 0.

    Raises:
        InputError: If the file can't be read, or holds no validation.
    """
    names = {"step": "step", "val/loss": "val_loss", f"val/{head}/iou": "iou", f"val/{head}/dice": "dice"}
    metrics = _table(path, names)
    curve = metrics[list(names)].rename(columns=names).groupby("step", as_index=False).first()
    curve["step"] += 1
    scored = curve[curve["iou"].notna() | curve["val_loss"].notna()].reset_index(drop=True)
    if scored.empty:
        raise _unusable(path, "it holds no validation")
    return scored
