"""What a run records of itself, and how it is read again. docs/records.md describes the files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.tuning import cross_fit
from rsseg.config.folder import resume_word
from rsseg.contract import InputError, nearest
from rsseg.files import atomic_write, read_json
from rsseg.metrics import metrics
from rsseg.metrics.average import Array
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.errors import SUMS
from rsseg.metrics.scores import class_counts
from rsseg.task import Task, make_task

FOLDER = "records"
ABOUT = "records.json"
OWN = "own"
"""The name of the training loss's own values."""

PLACES = ("logits", "layer")
"""Where gradients are taken: at the logits, and at the last layer that all terms share."""

ARRAYS = ("step", "values", *(f"{place}.{kind}" for place in PLACES for kind in ("norm", "cosine")))
"""What a validation records of a head at least, beside `Task.counted`."""

CROSSFIT = ("fixed", "iou", "dice")
"""What whole scenes of a multiclass head are counted at together: the argmax, and biases of the other half of the scenes."""

POINTS = ("untuned", "iou", "dice", "contours")
"""Operating points of a checkpoint, beside `fixed`, 0.5 or the argmax as it was validated: the same as it was counted together
with the tuned points; each scene at what was tuned for IoU, or Dice, on the half that it is not in; bands along contours."""

COUNTED = {"errors": len(SUMS), "matches": 3}
"""How many numbers are counted of real values and of objects, by `Task.counted`; TN of objects there are none."""

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class RecordError(InputError):
    """What is wrong with a run's records.

    Attributes:
        place: The run folder, or a file in it.
        found: What is wrong with that.
        remedy: What to do.
    """

    def __init__(self, place: Path, found: str, remedy: str = "train the run again in a new folder") -> None:
        super().__init__(f"{place} {found}: {remedy}")
        self.place, self.found, self.remedy = place, found, remedy


@dataclass(frozen=True)
class Checkpoint:
    """What whole scenes say of one checkpoint.

    Attributes:
        step: Its optimiser step.
        counts: float64 ``[point, S, classes, 3]``, at `POINTS`; NaN where it was not counted.
        calibration: By score, what `rsseg.metrics.calibration.calibration_sums` gives, ``[S, ...]``; empty: not recorded.
        untuned: Why no tuned points were counted, where that is known.
        lost: Labelled pixels with logits that are not finite; they are in no histogram.
    """

    step: int
    counts: Array
    calibration: dict[str, Array]
    untuned: str = ""
    lost: int = 0


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
        counts: float64 ``[V, S, classes, 4]``, TP, FP, FN and TN; of real values `rsseg.metrics.errors.SUMS`, of objects no TN.
        values: float64 ``[V, len(panel), 2]``, every loss of the panel on each half of the scenes.
        own: float64 ``[V, 2]``, the loss that trained; NaN where it is no function of sums over pixels, None in records that
            were written before it was.
        gradient: By place (`PLACES`), of each weighted term: norms ``[V, T]``, cosines ``[V, T, T]``.
        gain: float64 ``[V, T]``, the one-step gains in IoU, if they were recorded.
        best: The best checkpoint, once the run is finished.
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
    gradient: dict[str, tuple[Array, Array]]
    gain: Array | None
    best: Checkpoint | None

    @property
    def best_index(self) -> int:
        """Which validation the best checkpoint comes from."""
        if self.best is not None and self.best.step in self.steps:
            return int(np.flatnonzero(self.steps == self.best.step)[-1])
        return int(np.nanargmax(metrics(self.task)[self.task.score].quality(self.counts)))

    def at(self, point: str) -> Array:
        """The counts of the best checkpoint, ``[S, classes, 4]`` at `fixed`, without TN at `POINTS`; NaN: not counted."""
        fixed: Array = self.counts[self.best_index]
        if point == "fixed":
            return fixed
        return np.full_like(fixed[..., :3], np.nan) if self.best is None else self.best.counts[POINTS.index(point)]

    @property
    def calibration(self) -> dict[str, Array]:
        """By score, the sums of the best checkpoint's calibration; empty: not recorded."""
        return {} if self.best is None else self.best.calibration


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write an npz file of a run's records, whole or not at all.

    Raises:
        UnwritableError: If it can't be written.
    """
    with atomic_write(path) as part:
        np.savez_compressed(part, **{name: np.asarray(a) for name, a in arrays.items()})  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, once its check sums are seen to be right.

    Raises:
        RecordError: If it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = error if isinstance(error, OSError) else "it is damaged"  # NumPy takes what is no archive for a pickle
        raise RecordError(path, f"can't be read ({why})") from None


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
    task, first = make_task(facts["task"], facts["classes"]), np.array(about["first_half"], dtype=bool)
    rows = [_validation(path, head, task) for path in paths]
    scenes, panel = list(about["scenes"]), list(facts["panel"])
    try:
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    except (KeyError, ValueError):
        raise RecordError(run, "has records of different settings") from None
    counted = (columns["counts"].shape[1], columns["values"].shape[1])
    if counted != (len(scenes), len(panel)):
        found = f"holds {counted[0]} scenes and {counted[1]} losses, {ABOUT} names {len(scenes)} and {len(panel)}"
        raise RecordError(paths[0], found)
    best = folder / "best.npz"
    return Records(
        scenes=scenes,
        first=first,
        task=task,
        terms=list(facts["terms"]),
        panel=panel,
        steps=columns["step"],
        counts=columns["counts"],
        values=columns["values"],
        own=columns.get(OWN),
        gradient={place: (columns[f"{place}.norm"], columns[f"{place}.cosine"]) for place in PLACES},
        gain=columns.get("gain"),
        best=_checkpoint(best, head, task, first) if best.is_file() else None,
    )


def checkpoint_of(arrays: Arrays, task: Task, first: NDArray[np.bool_]) -> Checkpoint:
    """What the arrays of a snapshot say of a checkpoint: see docs/records.md.

    Args:
        arrays: By name, of one head.
        task: The head's task.
        first: bool ``[S]``, which scenes are the first half.
    """
    if task.real:
        return Checkpoint(
            int(arrays["step"]), np.full((len(POINTS), len(first), task.channels, COUNTED[task.counted]), np.nan), {}
        )
    histogram, untuned = arrays.get("histogram"), ""
    counts = np.full((len(POINTS), *arrays["boundary"].shape), np.nan)
    counts[-1] = arrays["boundary"]
    if f"crossfit.{CROSSFIT[0]}" in arrays:
        counts[:3] = [class_counts(arrays[f"crossfit.{name}"], task)[..., :3] for name in CROSSFIT]
    elif histogram is not None and not task.exclusive and not first.all():
        try:
            counts[0], counts[1] = cross_fit(histogram, "iou", first)
            counts[2] = cross_fit(histogram, "dice", first)[1]
        except InputError as error:
            untuned = str(error)
    calibration = {} if histogram is None else calibration_sums(histogram, task)
    return Checkpoint(int(arrays["step"]), counts, calibration, untuned, int(arrays.get("lost", 0)))


def _about(path: Path, head: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``records.json`` says, of all and of one head."""
    try:
        about = read_json(path)
    except InputError as error:
        raise RecordError(path, str(error).removeprefix(f"{path} ")) from None
    kinds = {"scenes": list, "first_half": list, "heads": dict}
    if not all(isinstance(about.get(key), kind) for key, kind in kinds.items()):
        raise RecordError(path, f"lacks {' or '.join(kinds)}")
    heads = about["heads"]
    if head not in heads:
        raise RecordError(path.parents[1], f"has no head '{head}'{nearest(head, heads)}", f"name {' or '.join(heads)}")
    _need(path, head, heads[head], ("task", "classes", "terms", "panel"))
    return about, heads[head]


def _validation(path: Path, head: str, task: Task) -> dict[str, NDArray[Any]]:
    """What a validation recorded of a head; of its confusion matrices the counts, which are a K-th of them."""
    arrays = _of_head(path, head, (*ARRAYS, task.counted))
    counted = arrays.pop(task.counted)
    arrays["counts"] = counted if task.real else class_counts(counted, task)
    return arrays


def _checkpoint(path: Path, head: str, task: Task, first: NDArray[np.bool_]) -> Checkpoint:
    """What a file of snapshots says of a head."""
    return checkpoint_of(_of_head(path, head, ("step",) if task.real else ("step", "boundary")), task, first)


def _of_head(path: Path, head: str, needed: Iterable[str]) -> dict[str, NDArray[Any]]:
    arrays = {key.partition("/")[2]: array for key, array in read_arrays(path).items() if key.partition("/")[0] == head}
    _need(path, head, arrays, needed)
    if any(key.startswith("crossfit.") for key in arrays):
        _need(path, head, arrays, (f"crossfit.{name}" for name in CROSSFIT))
    return arrays


def _need(path: Path, head: str, found: Iterable[str], needed: Iterable[str]) -> None:
    lacking = [name for name in needed if name not in set(found)]
    if lacking:
        raise RecordError(path, f"lacks {', '.join(lacking)} of head {head}")
