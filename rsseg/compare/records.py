"""What a run records of itself, and how it is read again. docs/records.md describes the files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.archive import RecordError, checked_names, damaged, read_arrays
from rsseg.compare.counts import Array, counts_of
from rsseg.config.folder import resume_word
from rsseg.contract import InputError, nearest
from rsseg.files import read_json
from rsseg.metrics import SampledLogits
from rsseg.task import Task, make_task

FOLDER = "records"
ABOUT = "records.json"
OWN = "own"
"""The name of the training loss's own values."""
PLACES = ("logits", "layer")
"""Where gradients are taken: at the logits, and at the last layer that all terms share."""

Gradients = tuple[Array, Array]

ARRAYS = ("step", "confusion", "values", *(f"{place}.{kind}" for place in PLACES for kind in ("norm", "cosine")))
"""What a validation records of a head at least."""


class Crossfit(NamedTuple):
    """Confusion matrices of a multiclass head, int64 ``[S, 1, K, K]``, of all pixels of whole scenes.

    Attributes:
        fixed: At the argmax.
        iou: With the bias per class that was tuned for IoU on a sample of the half of the scenes that a scene is not in.
        dice: Likewise, tuned for Dice.
    """

    fixed: NDArray[np.int64]
    iou: NDArray[np.int64]
    dice: NDArray[np.int64]


@dataclass(frozen=True)
class Snapshot:
    """What whole scenes say of one checkpoint.

    Attributes:
        step: Its optimiser step.
        histogram: int64 ``[S, P, 2, 256]``, as `rsseg.metrics.ScoreHistogram` counts it.
        sample: Multiclass: some pixels' logits, see `rsseg.metrics.LogitSample`.
        boundary: int64 ``[S, classes, 3]``: TP, FP and FN of the bands along contours.
        crossfit: Multiclass, best checkpoint: the counts at biases that were tuned on the sample. None where there was
            nothing to tune on, and in records that were written before they were counted.
        lost: Labelled pixels with logits that are not finite; they are in no histogram.
    """

    step: int
    histogram: NDArray[np.int64] | None
    sample: SampledLogits | None
    boundary: NDArray[np.int64]
    crossfit: Crossfit | None = None
    lost: int = 0


class StoredSnapshot:
    """A snapshot in a file, with the attributes of `Snapshot`.

    Args:
        path: The file.
        head: The head's name.

    Raises:
        RecordError: If the file is damaged, or holds nothing of this head.
    """

    def __init__(self, path: Path, head: str) -> None:
        self.path, self.head = path, head
        self.names = checked_names(path)
        _need(
            path, head, [name.partition("/")[2] for name in self.names if name.partition("/")[0] == head], ("step", "boundary")
        )
        for part, fields in (("sample", SampledLogits._fields), ("crossfit", Crossfit._fields)):
            held = [name for name in fields if f"{head}/{part}.{name}" in self.names]
            if held and len(held) < len(fields):
                raise damaged(path, f"holds {', '.join(held)} of a {part} alone")
        self.step = int(self._array("step"))
        self.lost = int(self._array("lost")) if f"{head}/lost" in self.names else 0

    def _array(self, name: str) -> NDArray[Any]:
        return read_arrays(self.path, [f"{self.head}/{name}"])[f"{self.head}/{name}"]

    def _all(self, part: str, fields: tuple[str, ...]) -> list[NDArray[Any]]:
        return [self._array(f"{part}.{name}") for name in fields if f"{self.head}/{part}.{name}" in self.names]

    @property
    def histogram(self) -> NDArray[np.int64] | None:
        """See `Snapshot`."""
        return self._array("histogram") if f"{self.head}/histogram" in self.names else None

    @property
    def sample(self) -> SampledLogits | None:
        """See `Snapshot`."""
        found = self._all("sample", SampledLogits._fields)
        return SampledLogits(*map(torch.from_numpy, found)) if found else None

    @property
    def boundary(self) -> NDArray[np.int64]:
        """See `Snapshot`."""
        return self._array("boundary")

    @property
    def crossfit(self) -> Crossfit | None:
        """See `Snapshot`."""
        found = self._all("crossfit", Crossfit._fields)
        return Crossfit(*found) if found else None


@dataclass(frozen=True)
class Records:
    """What a run recorded of one head, V validations of S scenes.

    Attributes:
        scenes: The validation scenes' names.
        first: bool ``[S]``, which of them are the first half.
        task: The head's task.
        terms: The terms of the loss that trained.
        panel: The names of the panel's losses.
        steps: int64 ``[V]``, rising.
        counts: float64 ``[V, S, classes, 3]``, TP, FP and FN.
        values: float64 ``[V, len(panel), 2]``, every loss of the panel on each half of the scenes.
        own: float64 ``[V, 2]``, the loss that trained; NaN where it is no function of sums over pixels, None in records that
            were written before it was.
        gradient: By place (`PLACES`), of each weighted term: norms ``[V, T]``, cosines ``[V, T, T]``.
        gain: float64 ``[V, T]``, the one-step gains in IoU, if they were recorded.
        best: At the best checkpoint, once the run is finished. Snapshots of a file are read anew whenever they are asked for:
            those of many runs together would fill the memory.
        last: At the last one.
    """

    scenes: list[str]
    first: NDArray[np.bool_]
    task: Task
    terms: list[str]
    panel: list[str]
    steps: NDArray[np.int64]
    counts: Array
    values: Array
    own: Array | None
    gradient: dict[str, Gradients]
    gain: Array | None
    best: Snapshot | StoredSnapshot | None
    last: Snapshot | StoredSnapshot | None


def snapshot_arrays(snapshot: Snapshot) -> dict[str, ArrayLike]:
    """A snapshot as arrays to be written."""
    arrays: dict[str, ArrayLike] = {"step": snapshot.step, "boundary": snapshot.boundary, "lost": snapshot.lost}
    if snapshot.histogram is not None:
        arrays["histogram"] = snapshot.histogram
    if snapshot.sample is not None:
        arrays |= {f"sample.{name}": value.numpy() for name, value in snapshot.sample._asdict().items()}
    if snapshot.crossfit is not None:
        arrays |= {f"crossfit.{name}": value for name, value in snapshot.crossfit._asdict().items()}
    return arrays


def load_records(run: Path, head: str = "mask") -> Records:
    """The records of a run.

    Args:
        run: The run folder.
        head: The head's name.

    Raises:
        RecordError: If there are none, none of this head, or they are damaged.
    """
    folder = run / FOLDER
    if not (folder / ABOUT).is_file():
        raise RecordError(run, "has no records", "train it again with record.enabled=true")
    about, facts = _about(folder / ABOUT, head)
    paths = sorted(folder.glob("step-*.npz"), key=lambda path: int(path.stem.partition("-")[2]))
    if not paths:
        raise RecordError(run, "was not validated yet", f"go on with {resume_word(run)}")
    task = make_task(facts["task"], facts["classes"])
    rows = [_validation(path, head, task) for path in paths]
    scenes, panel = list(about["scenes"]), list(facts["panel"])
    try:
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    except (KeyError, ValueError):
        raise RecordError(run, "has records of different settings", "train it again in a new folder") from None
    counted = (columns["counts"].shape[1], columns["values"].shape[1])
    if counted != (len(scenes), len(panel)):
        found = f"holds {counted[0]} scenes and {counted[1]} losses, {ABOUT} names {len(scenes)} and {len(panel)}"
        raise damaged(paths[0], found)
    return Records(
        scenes=scenes,
        first=np.array(about["first_half"], dtype=bool),
        task=task,
        terms=list(facts["terms"]),
        panel=panel,
        steps=columns["step"],
        counts=columns["counts"],
        values=columns["values"],
        own=columns.get(OWN),
        gradient={place: (columns[f"{place}.norm"], columns[f"{place}.cosine"]) for place in PLACES},
        gain=columns.get("gain"),
        best=_snapshot(folder / "best.npz", head),
        last=_snapshot(folder / "last.npz", head),
    )


def _about(path: Path, head: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``records.json`` says, of all and of one head."""
    try:
        about = read_json(path)
    except InputError as error:
        raise damaged(path, str(error).removeprefix(f"{path} ")) from None
    kinds = {"scenes": list, "first_half": list, "heads": dict}
    if not all(isinstance(about.get(key), kind) for key, kind in kinds.items()):
        raise damaged(path, f"lacks {' or '.join(kinds)}")
    heads = about["heads"]
    if head not in heads:
        raise RecordError(path.parents[1], f"has no head '{head}'{nearest(head, heads)}", f"name {' or '.join(heads)}")
    lacking = [key for key in ("task", "classes", "terms", "panel") if key not in heads[head]]
    if lacking:
        raise damaged(path, f"lacks {', '.join(lacking)} of head {head}")
    return about, heads[head]


def _validation(path: Path, name: str, task: Task) -> dict[str, NDArray[Any]]:
    """What a validation recorded of a head; of its confusion matrices the counts, which are a K-th of them."""
    arrays = {key.partition("/")[2]: array for key, array in read_arrays(path).items() if key.partition("/")[0] == name}
    _need(path, name, arrays, ARRAYS)
    arrays["counts"] = counts_of(arrays.pop("confusion"), task)
    return arrays


def _need(path: Path, head: str, held: Iterable[str], needed: Iterable[str]) -> None:
    lacking = [name for name in needed if name not in set(held)]
    if lacking:
        raise damaged(path, f"lacks {', '.join(lacking)} of head {head}")


def _snapshot(path: Path, head: str) -> StoredSnapshot | None:
    return StoredSnapshot(path, head) if path.is_file() else None
