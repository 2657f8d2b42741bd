"""Records of a run: counts, losses and gradients of every validation, as arrays and files. See docs/runs.md."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.config.folder import RunFolder
from rsseg.contract import InputError, nearest
from rsseg.files import atomic_write, read_json
from rsseg.metrics.average import Array
from rsseg.metrics.base import Metric
from rsseg.task import Task, make_task

FOLDER = "records"
ABOUT = "records.json"
FORMAT = 2

PLACES = ("logits", "layer")
"""The places of gradients: the logits, and the last layer that all terms share."""

CALIBRATED = ("ece", "class_ece", "brier")
"""Further recorded arrays of heads with labels at the chosen checkpoints; see `rsseg.metrics.calibration.calibration_sums`."""

POINTS = ("fixed", "iou", "dice", "contours")
"""Operating points: 0.5 or the argmax; thresholds (biases) tuned for IoU; those tuned for Dice; bands along contours at 0.5."""


class RecordError(InputError):
    """A run's records can't be used: `place` is the run folder or the file, `found` the fault, `remedy` the way out."""

    def __init__(self, place: Path, found: str, remedy: str = "train the run again in a new folder") -> None:
        super().__init__(f"{place} {found}: {remedy}")
        self.place, self.found, self.remedy = place, found, remedy


@dataclass(frozen=True)
class Records:
    """The records of one head of a run, V validations of S scenes; or of all folds' runs, see `concatenate`.

    For each of `POINTS`, `chosen` holds the counts of each scene, predicted with the checkpoint and thresholds that the other
    half of the scenes chose; NaN if a point was not counted. With ``split="test"``, `chosen`, `scenes`, `groups` and
    `calibration` describe the test split, scored by the best checkpoint at the thresholds of ``threshold.json``.
    """

    scenes: list[str]  # the names of the validation scenes
    groups: NDArray[np.str_]  # [S], the independent area of each scene
    first: NDArray[np.bool_]  # [S], whether a scene is in the first half; all are if there is only one group
    task: Task
    terms: list[str]  # the T terms of the training loss
    panel: list[str]  # the names of the panel's losses, see rsseg.training.recorder.PANEL
    steps: NDArray[np.int64]  # [V], increasing
    counts: Array  # [V, S, classes, N]: TP, FP, FN and TN; for real values rsseg.metrics.scores.SUMS; for objects no TN
    quality: Array  # [V, 3], the score that chooses checkpoints, more is better: on the first half, the second, and all
    values: Array  # [V, len(panel), 2], every loss of the panel on each half of the scenes
    own: Array  # [V, 2], the training loss on each half; NaN if it is not a function of sums over pixels
    gradient: dict[str, tuple[Array, Array]]  # by place: norms [V, T] and cosines [V, T, T] of the weighted terms' gradients
    gain: Array  # [V, T], the one-step gains in Task.quality; NaN: not recorded
    chosen: Array | None = None  # [point, S, classes, N]; None before training ends and for real values; contours have TN 0
    calibration: Mapping[str, Array] = field(default_factory=dict)  # by score, rsseg.metrics.calibration.calibration_sums
    untuned: str = ""  # the reason why there are no counts at tuned thresholds; empty: there are
    version: str = ""  # the version of another split's scenes, see rsseg.dataset_source.scenes_version; empty: not known
    lost: int = 0  # labelled pixels with logits that are not finite: the run has diverged
    folds: tuple[Records, ...] = ()  # the records of each fold, in the order of their scenes here; empty: a single run

    @property
    def best_index(self) -> int:
        """The validation with the best score on all scenes, as best.ckpt holds it."""
        return chosen_index(self.quality[:, 2])

    @property
    def last_is_best(self) -> bool:
        """Whether the best checkpoint is the last of several, so that the score may still rise; for folds, in half of them."""
        runs = self.folds or (self,)
        return 2 * sum(run.best_index == len(run.steps) - 1 > 0 for run in runs) >= len(runs)

    @property
    def optimistic(self) -> Array:
        """The counts ``[S, classes, N]`` of the checkpoint that was chosen on all of these scenes."""
        return np.concatenate([run.counts[run.best_index] for run in self.folds or (self,)])

    def at(self, point: str) -> Array:
        """The counts ``[S, classes, N]`` at one of `POINTS`; a scene is counted by the checkpoint that the other half chose.

        If there is only one group, and so no other half, the best checkpoint is used. NaN: not counted.
        """
        if self.chosen is not None:
            return self.chosen[POINTS.index(point)]
        if point != "fixed":
            return np.full_like(self.optimistic, np.nan)
        if self.first.all():
            return self.optimistic
        on_first, on_second = (chosen_index(self.quality[:, half]) for half in (0, 1))
        return np.where(self.first[:, None, None], self.counts[on_second], self.counts[on_first])


def concatenate(folds: Sequence[Records]) -> Records:
    """Join the records of folds: each scene is counted by the run that did not train on it, at the validations of all runs.

    Values that are not sums over scenes, such as gradients, are means over the folds.
    """
    steps = reduce(np.intersect1d, [fold.steps for fold in folds])
    rows = [np.isin(fold.steps, steps) for fold in folds]

    def mean(of: Callable[[Records], Array]) -> Array:
        return np.mean([of(fold)[kept] for fold, kept in zip(folds, rows, strict=True)], axis=0)

    def one_gradient(place: str) -> tuple[Array, Array]:
        return mean(lambda fold: fold.gradient[place][0]), mean(lambda fold: fold.gradient[place][1])

    return replace(
        folds[0],
        scenes=[scene for fold in folds for scene in fold.scenes],
        groups=np.concatenate([fold.groups for fold in folds]),
        first=np.concatenate([fold.first for fold in folds]),
        steps=steps,
        counts=np.concatenate([fold.counts[kept] for fold, kept in zip(folds, rows, strict=True)], axis=1),
        quality=mean(lambda fold: fold.quality),
        values=mean(lambda fold: fold.values),
        own=mean(lambda fold: fold.own),
        gradient={place: one_gradient(place) for place in folds[0].gradient},
        gain=mean(lambda fold: fold.gain),
        chosen=np.stack([np.concatenate([fold.at(point) for fold in folds]) for point in POINTS]),
        calibration={name: np.concatenate([fold.calibration[name] for fold in folds]) for name in folds[0].calibration},
        untuned=next((f"in a fold {fold.untuned}" for fold in folds if fold.untuned), ""),
        lost=sum(fold.lost for fold in folds),
        folds=tuple(folds),
    )


def half_quality(metric: Metric, counts: Array, first: NDArray[np.bool_]) -> Array:
    """The score of counts ``[..., S, classes, N]`` on the first half of the scenes, the second, and all: ``[..., 3]``.

    More is better. NaN for a half without a score.
    """
    return np.stack([metric.quality(counts[..., part, :, :]) for part in (first, ~first, np.ones_like(first))], axis=-1)


def chosen_index(quality: Array) -> int:
    """The index of the largest value of ``[V]``, the first of equal ones, ignoring NaN; 0 if all are NaN."""
    return int(np.argmax(np.where(np.isnan(quality), -np.inf, quality)))


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike], packed: bool = True) -> None:
    """Write an npz file of a run's records atomically; `packed` compresses it, which pays if numbers repeat.

    Raises:
        UnwritableError: If it can't be written.
    """
    write: Any = np.savez_compressed if packed else np.savez
    with atomic_write(path) as part:
        write(part, **{name: np.asarray(a) for name, a in arrays.items()})


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, whose checksums are verified.

    Raises:
        RecordError: If it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = error if isinstance(error, OSError) else "it is damaged"  # NumPy takes any other file for a pickle
        raise RecordError(path, f"can't be read ({why})") from None


def of_head(arrays: Mapping[str, NDArray[Any]], head: str) -> dict[str, NDArray[Any]]:
    """The arrays of a head, whose keys begin with its name (``mask/counts``), by the rest of the key."""
    return {key.removeprefix(f"{head}/"): value for key, value in arrays.items() if key.startswith(f"{head}/")}


def load_records(run: Path, head: str = "mask", split: str = "val") -> Records:
    """The records of a run.

    Args:
        run: The run folder.
        head: The head's name.
        split: ``val``, or ``test`` for scores of the best checkpoint on the test split; see `Records.chosen`.

    Raises:
        RecordError: If there are no records, or none of this head or split; or if they are damaged or of another version.
    """
    folder = run / FOLDER
    if not (folder / ABOUT).is_file():
        raise RecordError(run, "has no records", "train it again with record.enabled=true")
    try:
        about = read_json(folder / ABOUT)
    except InputError as error:
        raise RecordError(folder / ABOUT, str(error).removeprefix(f"{folder / ABOUT} ")) from None
    if about.get("format") != FORMAT:
        found = f"has records of format {about.get('format', 1)}, and this version of rsseg reads format {FORMAT}"
        raise RecordError(run, found)
    heads = about.get("heads", {})
    if head not in heads:
        raise RecordError(run, f"has no head '{head}'{nearest(head, heads)}", f"name {' or '.join(heads)}")
    validations = sorted(folder.glob("step-*.npz"), key=lambda path: int(path.stem.removeprefix("step-")))
    if not validations:
        raise RecordError(run, "was not validated yet", f"go on with {RunFolder(run).resume_command}")
    rows = [of_head(read_arrays(path), head) for path in validations]
    path = folder / ("crossed.npz" if split == "val" else f"{split}.npz")
    if split != "val" and not path.is_file():
        raise RecordError(run, f"has no records of the {split} split", "compare with split=test, which makes them")
    crossed = read_arrays(path) if path.is_file() else {}
    try:
        records = _records(about, heads[head], rows)
        return _with_chosen(records, crossed, head) if split != "val" or of_head(crossed, head) else records
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise RecordError(folder, f"are damaged, or not of one run ({error})") from None


def _records(about: Mapping[str, Any], facts: Mapping[str, Any], rows: Sequence[Mapping[str, NDArray[Any]]]) -> Records:
    """The records of the validations of a head."""
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    norms = columns["logits.norm"]
    found = Records(
        scenes=about["scenes"],
        groups=np.array(about["groups"], dtype=np.str_),
        first=np.array(about["first_half"], dtype=bool),
        task=make_task(facts["task"], facts["classes"]),
        terms=list(facts["terms"]),
        panel=list(facts["panel"]),
        steps=columns["step"],
        counts=columns["counts"].astype(np.float64),
        quality=columns["quality"],
        values=columns["values"],
        own=columns["own"],
        gradient={place: (columns[f"{place}.norm"], columns[f"{place}.cosine"]) for place in PLACES},
        gain=columns.get("gain", np.full_like(norms, np.nan)),
    )
    if not len(found.scenes) == len(found.groups) == len(found.first) == found.counts.shape[1]:
        raise ValueError("the scenes of records.json and of the validations differ in number")
    return found


def _with_chosen(found: Records, crossed: Mapping[str, NDArray[Any]], head: str) -> Records:
    """Add the counts of chosen checkpoints to records; they are of the scenes that the file names, if it names any."""
    own = of_head(crossed, head)
    if "scenes" in crossed:
        names, groups = (crossed[name].astype(np.str_) for name in ("scenes", "groups"))
        found = replace(found, scenes=names.tolist(), groups=groups, version=str(crossed.get("version", "")))
    chosen = own["counts"].astype(np.float64)
    if not len(found.scenes) == len(found.groups) == chosen.shape[1]:
        raise ValueError("the scenes that chosen checkpoints were counted on differ in number")
    return replace(
        found,
        chosen=chosen,
        calibration={name: own[name] for name in CALIBRATED if name in own},
        untuned=str(own["untuned"]),
        lost=int(own["lost"].sum()),
    )
