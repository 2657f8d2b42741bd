"""Runs, read from their folders: what they were made with, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rsseg.compare.records import RecordError, Records, load_records
from rsseg.config.build import plain
from rsseg.config.folder import RunFolder, flat
from rsseg.config.plan import settings
from rsseg.config.targets import heads_of, tasks_of
from rsseg.contract import InputError, nearest

Reason: TypeAlias = tuple[str, str]
"""Why a run is left out, and what to do."""


class Begun:
    """A run that was begun, read from its folder: what it is made with.

    Attributes:
        folder: Its folder.
        heads: The names of its heads.
        head: That of the head that is compared.
        config: Its resolved config.
        origin: ``run.json``: overrides, code, libraries.
        loss: The name of its loss composition.
        losses: The flattened loss of the head that is compared, and those of other heads if they differ from it.
        settings: All else that it is trained with, flattened, as text.
        seed: Its seed.
        fold: The fold of a cross-validation that it leaves out; None without.
        rate: Its learning rate, NaN where the optimiser has none.
        label: What its row is called; empty before rows are told apart.

    Args:
        folder: The folder.
        head: The head to compare; empty: the first.

    Raises:
        InputError: If the folder holds files that can't be read, or that lack something; `NoSuchHeadError`.
    """

    def __init__(self, folder: Path, head: str = "") -> None:
        run = RunFolder(folder)
        self.folder, self.config, self.origin = folder, run.config(), run.origin()
        node = plain(self.config)
        heads = heads_of(node)
        if not heads:
            raise InputError(f"{run.config_file} names no model.heads: remove the folder, or train the run again")
        if head and head not in heads:
            raise NoSuchHeadError(folder, head, heads)
        self.heads = list(heads)
        self.head = head = head or self.heads[0]
        others = [name for name in heads if name != head]
        losses = {name: flat(own.get("loss") or node["loss"]) for name, own in heads.items()}
        self.loss = self.origin.get("losses", {}).get(head) or self.origin["loss"] or "loss"
        self.losses = flat(losses[head] | {f"heads.{name}": losses[name] for name in others if losses[name] != losses[head]})
        self.settings = settings(node)
        self.seed, self.fold = self.config.seed, node["dataset"].get("fold")
        rate = node["optimizer"].get("lr")
        self.rate = float(rate) if isinstance(rate, int | float) else np.nan
        self.label = ""


class Run(Begun):
    """A finished run, or the runs of one row and seed on all folds as one.

    Attributes:
        data: ``data.json``: scenes and fingerprints of the splits.
        summary: ``summary.json``: the scores of its best checkpoint.
        task: The task of its head.
        without: The classes that are left out of its means.
        records: What the recorder wrote; None without.
        unrecorded: Why there are none, and what to do.
        plain: Whether its row is cross-entropy and no more.

    Args:
        folder: The folder.
        head: The head to compare; empty: the first.

    Raises:
        InputError: As of `Begun`.
    """

    def __init__(self, folder: Path, head: str = "") -> None:
        super().__init__(folder, head)
        run, head = RunFolder(folder), self.head
        node = plain(self.config)
        self.task = tasks_of(node["dataset"])[heads_of(node)[head]["target"]]
        self.data, self.summary = run.data(), run.summary()
        if "heads" in self.summary:
            self.summary = {**self.summary, **self.summary["heads"][head]}
        self.without = [name for name in self.config.metrics.without if len(self.heads) == 1 or name in self.task.classes]
        self.plain = False
        self.records: Records | None = None
        self.unrecorded: Reason | None = None
        try:
            self.records = load_records(folder, head)
        except RecordError as error:  # whether it may lack them depends on the other runs
            what = "it" if error.place == folder else error.place.relative_to(folder)
            self.unrecorded = f"{what} {error.found}", error.remedy

    @property
    def recorded(self) -> Records:
        """Its records.

        Raises:
            InputError: If it has none.
        """
        if self.records is None:
            raise InputError(f"{self.folder} has no records")
        return self.records


class NoSuchHeadError(InputError):
    """A run lacks the head that is compared.

    Attributes:
        heads: The heads that it has.
    """

    def __init__(self, folder: Path, head: str, heads: Collection[str]) -> None:
        super().__init__(f"head={head}{nearest(head, heads)}: {folder} has {', '.join(heads)}")
        self.heads = heads


class LeftOut(NamedTuple):
    """A run that is not compared.

    Attributes:
        run: Its folder.
        why: What is wrong with it.
        remedy: What to do.
    """

    run: Path
    why: str
    remedy: str


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The folders of all runs in some folders, or those folders themselves.

    Raises:
        InputError: If a folder does not exist.
    """
    for place in places:
        if not place.is_dir():
            beside = [path.name for path in place.parent.glob("*/")]
            raise InputError(f"runs={place}: there is no such folder{nearest(place.name, beside)}")
    found = {name: {path.parent for place in places for path in place.rglob(name)} for name in ("run.json", "summary.json")}
    lost = {run for run in found["summary.json"] if RunFolder(run).begun}  # a run whose run.json is lost is not passed over
    return sorted(found["run.json"] | lost)


def is_cross_entropy(losses: Mapping[str, Any]) -> bool:
    """Whether a flattened loss is cross-entropy, not weighted and not smoothed; terms of weight 0 do not count.

    Example:
        >>> is_cross_entropy({"terms.ce._target_": "rsseg.losses.CrossEntropy", "terms.ce.weight": 1.0})
        True
    """
    terms = [key.removesuffix("._target_") for key in losses if key.endswith("._target_")]
    on = [term for term in terms if losses.get(f"{term}.weight", 1) != 0]
    if len(on) != 1 or str(losses[f"{on[0]}._target_"]).rpartition(".")[2] not in ("CrossEntropy", "BinaryCrossEntropy"):
        return False
    return not any(losses.get(f"{on[0]}.{name}") for name in ("class_weights", "pos_weight", "label_smoothing"))
