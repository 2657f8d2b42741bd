"""Runs, read from their folders: settings, provenance and results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rsseg.comparison.records import RecordError, Records, load_records
from rsseg.config.build import plain
from rsseg.config.contents import flat
from rsseg.config.folder import RunFolder
from rsseg.config.plan import settings
from rsseg.config.targets import heads_of, tasks_of
from rsseg.contract import InputError, nearest
from rsseg.task import Task

NO_HEAD = "it has no head"
"""The beginning of the reason why a run that lacks the head is left out."""

LOWER_RATE = "train it again at a lower learning rate (optimizer.lr)"
"""The remedy for a run that has diverged."""

Key = TypeVar("Key", bound=Hashable)


class LeftOut(NamedTuple):
    """A run that is not compared: its folder, the reason, and the remedy."""

    run: Path
    why: str
    remedy: str


class Run:
    """A run: its settings and, once it is finished, its results.

    Args:
        folder: Its folder.
        head: The head that is compared; empty: the first.

    Raises:
        InputError: If a file of the folder can't be read, or lacks a value.
    """

    label = ""  # the label of its row, once rows have labels
    left: LeftOut | None = None  # why it is not compared; a run that is left out may lack the attributes below `folds`
    failed = False  # whether it is left out because it diverged or has no score
    folds: Sequence[Run] = ()  # the runs that are pooled into this one

    task: Task
    without: list[str]  # the classes that its means leave out
    data: dict[str, Any]  # data.json: scenes and fingerprints of the splits
    summary: dict[str, Any]  # summary.json: the scores of its best checkpoint
    records: Records

    def __init__(self, folder: Path, head: str = "") -> None:
        run = RunFolder(folder)
        self.folder, self.config, self.origin = folder, run.config(), run.origin()
        node = plain(self.config)
        heads = heads_of(node)
        if not heads:
            raise InputError(f"{run.config_file} names no model.heads: remove the folder, or train the run again")
        self.heads = list(heads)
        self.head = head = head or self.heads[0]
        self.seed, self.fold = self.config.seed, node["dataset"].get("fold")
        rate = node["optimizer"].get("lr")
        self.rate = float(rate) if isinstance(rate, int | float) else np.nan
        if head not in heads:
            self.leave_out(f"{NO_HEAD} {head}", f"compare it by {' or '.join(heads)}{nearest(head, heads)}")
            return
        losses = {name: flat(own.get("loss") or node["loss"]) for name, own in heads.items()}
        others = {f"heads.{name}": loss for name, loss in losses.items() if loss != losses[head]}
        self.loss = self.origin.get("losses", {}).get(head) or self.origin["loss"] or "loss"
        self.losses, self.settings = flat(losses[head] | others), settings(node)
        if run.finished:
            self._read(run, heads[head]["target"])
        elif run.in_training:
            self.leave_out("it is training now", "wait until it is finished")
        else:
            self.leave_out("it is not finished", f"go on with {run.resume_command}")

    def _read(self, run: RunFolder, target: str) -> None:
        """Read the results of a finished run."""
        summary = run.summary()
        if summary.get("diverged"):
            self.leave_out(f"it has diverged at step {summary['diverged']['step']}", LOWER_RATE, failed=True)
            return
        self.task, self.data = tasks_of(plain(self.config)["dataset"])[target], run.data()
        self.summary = summary | summary.get("heads", {}).get(self.head, {})
        self.without = [name for name in self.config.metrics.without if len(self.heads) == 1 or name in self.task.classes]
        if np.isnan(self.summary[self.task.score]):
            why = f"its {self.task.score_name} is NaN: nothing can be scored in its validation scenes"
            self.leave_out(why, "choose a split that holds labels", failed=True)
            return
        try:
            self.records = load_records(self.folder, self.head)
        except RecordError as error:
            what = "it" if error.place == self.folder else error.place.relative_to(self.folder)
            self.leave_out(f"{what} {error.found}", error.remedy)
            return
        if self.records.lost:
            why = f"it has diverged: {self.records.lost} pixels of its best checkpoint have logits that are not finite"
            self.leave_out(why, LOWER_RATE, failed=True)
        elif self.records.chosen is None and not self.task.real:
            self.leave_out("it has no records of its chosen checkpoints (records/crossed.npz)", "train it again")

    @property
    def is_cross_entropy(self) -> bool:
        """Whether its loss is plain cross-entropy, without weights and label smoothing."""
        terms = [str(value) for key, value in self.losses.items() if key.endswith("._target_")]
        changed = [key.rpartition(".")[2] for key, value in self.losses.items() if value]
        plain = len(terms) == 1 and terms[0].endswith("CrossEntropy")
        return plain and not {"class_weights", "pos_weight", "label_smoothing"} & set(changed)

    def leave_out(self, why: str, remedy: str, failed: bool = False) -> None:
        """Record why this run, or every run that is pooled into it, is not compared."""
        for run in self.folds or [self]:
            run.left, run.failed = LeftOut(run.folder, why, remedy), failed


def grouped(runs: Iterable[Run], key: Callable[[Run], Key]) -> dict[Key, list[Run]]:
    """Runs grouped by a key, in order."""
    found: dict[Key, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The run folders among the given folders and anywhere below them.

    Raises:
        InputError: If a folder does not exist.
    """
    for place in places:
        if not place.is_dir():
            beside = [path.name for path in place.parent.glob("*/")]
            raise InputError(f"runs={place}: there is no such folder{nearest(place.name, beside)}")
    found = {name: {path.parent for place in places for path in place.rglob(name)} for name in ("run.json", "summary.json")}
    lost = {run for run in found["summary.json"] if RunFolder(run).begun}  # runs without run.json are reported, not ignored
    return sorted(found["run.json"] | lost)
