"""What a run records of itself, and how it is read again. docs/records.md describes the files."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rsseg.alignment.counts import Array
from rsseg.config.folder import resume_word
from rsseg.contract import Head, InputError, TaskKind, nearest
from rsseg.metrics import SampledLogits

FOLDER = "records"
ABOUT = "records.json"
PLACES = ("logits", "layer")
"""Where gradients are taken: at the logits, and at the last layer that all terms share."""

Gradients = tuple[Array, Array]

ARRAYS = ("step", "confusion", "values", *(f"{place}.{kind}" for place in PLACES for kind in ("norm", "cosine")))
"""What a validation records of a head at least."""


@dataclass(frozen=True)
class Snapshot:
    """What whole scenes say of one checkpoint.

    Attributes:
        step: Its optimiser step.
        histogram: int64 ``[S, P, 2, 256]``, as `rsseg.metrics.ScoreHistogram` counts it.
        sample: Multiclass: some pixels' logits, see `rsseg.metrics.LogitSample`.
        boundary: int64 ``[S, classes, 3]``: TP, FP and FN of the bands along contours.
        lost: Labelled pixels with logits that are not finite; they are in no histogram.
    """

    step: int
    histogram: NDArray[np.int64] | None
    sample: SampledLogits | None
    boundary: NDArray[np.int64]
    lost: int = 0


@dataclass(frozen=True)
class Records:
    """What a run recorded of one head, V validations of S scenes.

    Attributes:
        scenes: The validation scenes' names.
        head: Task and classes.
        terms: The terms of the loss that trained.
        panel: The names of the panel's losses.
        steps: int64 ``[V]``, rising.
        confusion: int64 ``[V, S, P, K, K]``, rows the target.
        values: float64 ``[V, len(panel), 2]``, every loss of the panel on each half of the scenes (`threshold.halves`).
        gradient: By place (`PLACES`), of each weighted term: norms ``[V, T]``, cosines ``[V, T, T]``.
        gain: float64 ``[V, T]``, the one-step gains in IoU, if they were recorded.
        best: At the best checkpoint, once the run is finished.
        last: At the last one.
    """

    scenes: list[str]
    head: Head
    terms: list[str]
    panel: list[str]
    steps: NDArray[np.int64]
    confusion: NDArray[np.int64]
    values: Array
    gradient: dict[str, Gradients]
    gain: Array | None
    best: Snapshot | None
    last: Snapshot | None


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write an npz file whole or not at all.

    Raises:
        InputError: If it can't be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez_compressed(file, **{name: np.asarray(a) for name, a in arrays.items()})  # type: ignore[arg-type]
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"the record {path} can't be written ({error}): free some space and go on with {resume_word(path.parents[1])}"
        ) from None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file.

    Raises:
        InputError: If it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, f"can't be read ({error})") from None


def snapshot_arrays(snapshot: Snapshot) -> dict[str, ArrayLike]:
    """A snapshot as arrays to be written."""
    arrays: dict[str, ArrayLike] = {"step": snapshot.step, "boundary": snapshot.boundary, "lost": snapshot.lost}
    if snapshot.histogram is not None:
        arrays["histogram"] = snapshot.histogram
    if snapshot.sample is not None:
        arrays |= {f"sample.{name}": value.numpy() for name, value in snapshot.sample._asdict().items()}
    return arrays


def load_records(run: Path, head: str = "mask") -> Records:
    """The records of a run.

    Args:
        run: The run folder.
        head: The head's name.

    Raises:
        InputError: If there are none, none of this head, or they are damaged.
    """
    folder = run / FOLDER
    if not (folder / ABOUT).is_file():
        raise InputError(f"{run} has no records: it was trained with record.enabled=false, or never began; train it again")
    about, facts = _about(folder / ABOUT, head)
    paths = sorted(folder.glob("step-*.npz"), key=lambda path: int(path.stem.partition("-")[2]))
    if not paths:
        raise InputError(f"{run} was not validated yet: go on with {resume_word(run)}")
    rows = [_of_head(path, head, ARRAYS) for path in paths]
    scenes, panel = list(about["scenes"]), list(facts["panel"])
    try:
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    except (KeyError, ValueError):
        raise InputError(f"{folder} mixes the records of different settings: train the run again in a new folder") from None
    counted = (columns["confusion"].shape[1], columns["values"].shape[1])
    if counted != (len(scenes), len(panel)):
        found = f"holds {counted[0]} scenes and {counted[1]} losses, {ABOUT} names {len(scenes)} and {len(panel)}"
        raise _damaged(paths[0], found)
    return Records(
        scenes=scenes,
        head=Head(TaskKind(facts["task"]), tuple(facts["classes"])),
        terms=list(facts["terms"]),
        panel=panel,
        steps=columns["step"],
        confusion=columns["confusion"],
        values=columns["values"],
        gradient={place: (columns[f"{place}.norm"], columns[f"{place}.cosine"]) for place in PLACES},
        gain=columns.get("gain"),
        best=_snapshot(folder / "best.npz", head),
        last=_snapshot(folder / "last.npz", head),
    )


def _about(path: Path, head: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``records.json`` says, of all and of one head."""
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"can't be read ({error})") from None
    if not isinstance(about, dict) or not isinstance(about.get("scenes"), list) or not isinstance(about.get("heads"), dict):
        raise _damaged(path, "lacks scenes or heads")
    heads = about["heads"]
    if head not in heads:
        raise InputError(f"{path.parents[1]} has no head '{head}'{nearest(head, heads)}: it has {', '.join(heads)}")
    lacking = [key for key in ("task", "classes", "terms", "panel") if key not in heads[head]]
    if lacking:
        raise _damaged(path, f"lacks {', '.join(lacking)} of head {head}")
    return about, heads[head]


def _of_head(path: Path, head: str, needed: Iterable[str]) -> dict[str, NDArray[Any]]:
    arrays = {key.partition("/")[2]: array for key, array in read_arrays(path).items() if key.partition("/")[0] == head}
    lacking = [name for name in needed if name not in arrays]
    if lacking:
        raise _damaged(path, f"lacks {', '.join(lacking)} of head {head}")
    return arrays


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"the record {path} {found}: train the run again in a new folder")


def _snapshot(path: Path, head: str) -> Snapshot | None:
    if not path.is_file():
        return None
    arrays = _of_head(path, head, ("step", "boundary"))
    parts = {name: arrays[f"sample.{name}"] for name in SampledLogits._fields if f"sample.{name}" in arrays}
    if parts and len(parts) < len(SampledLogits._fields):
        raise _damaged(path, f"holds {', '.join(parts)} of a sample alone")
    return Snapshot(
        step=int(arrays["step"]),
        histogram=arrays.get("histogram"),
        sample=SampledLogits(**{name: torch.from_numpy(part) for name, part in parts.items()}) if parts else None,
        boundary=arrays["boundary"],
        lost=int(arrays.get("lost", 0)),
    )
