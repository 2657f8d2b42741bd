"""Finished runs, read from their folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from rsseg.compare.records import RecordError, Records, load_records
from rsseg.config.build import plain
from rsseg.config.folder import PLACE_KEYS, RunFolder, flat
from rsseg.contract import InputError, nearest

TRIALS = "trials.csv"
"""What `rsseg.search` writes beside the runs that are its trials."""

DIVERGED = "it has diverged"
"""How the reason begins why such a run is left out."""

LOWER_RATE = "train it again at a lower learning rate (optimizer.lr)"
"""What to do about it."""

APART = ("loss", "seed", "record", "dataset.palette", "dataset.rgb", *PLACE_KEYS)
"""What is compared, and what training does not depend on."""

ROOTS = ("root", "paths")
"""How keys of a dataset are called that say where it lies; what lies there is told by its fingerprint and its statistics."""

Reason: TypeAlias = tuple[str, str]
"""Why a run is left out, and what to do."""


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
    unrecorded: Reason | None

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
        loss: The name of its loss; empty where it was not read.
    """

    run: Path
    why: str
    remedy: str
    loss: str = ""


def find_runs(places: Sequence[Path]) -> tuple[list[Path], list[LeftOut]]:
    """Finished run folders in some folders, or those folders themselves; and why others are not finished.

    Raises:
        InputError: If a folder does not exist or no run in it is finished.
    """
    for place in places:
        if not place.is_dir():
            beside = [path.name for path in place.parent.glob("*/")]
            raise InputError(f"runs={place}: there is no such folder{nearest(place.name, beside)}")
    found = {name: {path.parent for place in places for path in place.rglob(name)} for name in ("run.json", "summary.json")}
    lost = {run for run in found["summary.json"] if RunFolder(run).begun}  # a run whose run.json is lost is not passed over
    begun = sorted(found["run.json"] | lost)
    ended = [run for run in begun if RunFolder(run).finished]
    left_out = [_unfinished(run) for run in begun if run not in ended] + list(_diverged(ended))
    finished = [run for run in ended if run not in {left.run for left in left_out}]
    if not finished:
        which = f" ({len(begun)} begun; {left_out[0].run}: {left_out[0].why})" if begun else ""
        remedy = left_out[0].remedy if begun else "train first"
        raise InputError(f"no finished run in {', '.join(map(str, places))}{which}: {remedy}")
    return finished, left_out


def _unfinished(run: Path) -> LeftOut:
    if RunFolder(run).in_training:
        return LeftOut(run, "it is training now", "wait until it is finished")
    return LeftOut(run, "it is not finished", f"go on with python train.py {RunFolder(run).resume_word}")


def _diverged(runs: Sequence[Path]) -> Iterator[LeftOut]:
    for run in runs:
        facts = RunFolder(run).summary().get("diverged")
        if facts:
            yield LeftOut(run, f"{DIVERGED} at step {facts['step']}", LOWER_RATE, RunFolder(run).origin()["loss"])


def read_run(folder: Path) -> Run:
    """Read a finished run; its row has no label yet.

    Raises:
        InputError: If the folder holds files that can't be read, or that lack something.
    """
    run = RunFolder(folder)
    config, origin = run.config(), run.origin()
    node = plain(config)
    heads = node["model"]["heads"]
    if not heads:
        raise InputError(f"{run.config_file} names no model.heads: remove the folder, or train the run again")
    head, *others = heads
    losses = {name: flat(heads[name].get("loss") or node["loss"]) for name in heads}
    rate = node["optimizer"].get("lr")
    records, unrecorded = _records(folder, head)
    return Run(
        folder=folder,
        loss=origin["loss"] or "loss",
        label="",
        seed=config.seed,
        rate=float(rate) if isinstance(rate, int | float) else np.nan,
        searching=False,
        plain=False,
        losses=flat(losses[head] | {f"heads.{name}": losses[name] for name in others if losses[name] != losses[head]}),
        settings=settings(node),
        config=config,
        origin=origin,
        data=run.data(),
        summary=run.summary(),
        curve=read_curve(run, head),
        classes=pd.DataFrame(run.classes(head)),
        records=records,
        unrecorded=unrecorded,
    )


def _records(folder: Path, head: str) -> tuple[Records | None, Reason | None]:
    try:
        return load_records(folder, head), None
    except RecordError as error:  # whether it may lack them depends on the other runs
        what = "it" if error.place == folder else error.place.relative_to(folder)
        return None, (f"{what} {error.found}", error.remedy)


def read_curve(run: RunFolder, head: str) -> pd.DataFrame:
    """Validation loss, IoU and Dice of every validation of a run, in order; a loss that was NaN stays NaN.

    Steps are how many were done, as in records: ``metrics.csv`` counts them from 0.

    Raises:
        InputError: If the file can't be read, or holds no validation.
    """
    names = {"step": "step", "val/loss": "val_loss", f"val/{head}/iou": "iou", f"val/{head}/dice": "dice"}
    curve = pd.DataFrame(run.metrics(), columns=list(names)).rename(columns=names).groupby("step", as_index=False).first()
    curve["step"] += 1
    scored = curve[curve["iou"].notna() | curve["val_loss"].notna()].reset_index(drop=True)
    if scored.empty:
        raise InputError(f"{run.metrics_file} holds no validation of head {head}: remove the folder, or train the run again")
    return scored


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without its losses, its seed and the places it names, flattened.

    Example:
        >>> settings({"seed": 1, "loss": {}, "output": "runs", "optimizer": {"lr": 0.1}})
        {'optimizer.lr': 0.1}
    """
    kept = {}
    for key, value in flat(dict(config)).items():
        place = key.startswith("dataset.") and key.rpartition(".")[2] in ROOTS
        of_head = key.startswith("model.heads.") and ".loss." in f"{key}."
        if not (place or of_head or within(key, APART)):
            kept[key] = value
    return kept


def within(key: str, nodes: Sequence[str]) -> bool:
    """Whether a key is one of some nodes of the config, or lies in one.

    Example:
        >>> within("sampler.power", ["sampler"]), within("steps", ["step"])
        (True, False)
    """
    return any(f"{key}.".startswith(f"{node}.") for node in nodes)
