"""Finished runs, read from their folders; what they were made with, what they differ in, and what their rows are called.

A key of what they were made with is one of a flattened ``config.yaml``, such as ``optimizer.lr``; keys that leave training as
it is are no part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from rsseg.compare.records import RecordError, Records, load_records
from rsseg.config.build import plain
from rsseg.config.folder import PLACE_KEYS, RunFolder, flat
from rsseg.config.targets import heads_of, tasks_of
from rsseg.contract import InputError, nearest
from rsseg.task import Task

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

SEARCH_SEED = 1000
"""In a sweep over learning rates the seeds from here on choose each loss's rate."""

REBALANCING = ("sampler", "augment", "balancing")
"""Where recipes live beside the loss: with one of them cross-entropy is not plain any more."""

Reason: TypeAlias = tuple[str, str]
"""Why a run is left out, and what to do."""

Column: TypeAlias = list[Hashable]
"""One value per run."""


class Run:
    """A finished run, read from its folder.

    Attributes:
        folder: Its folder.
        heads: The names of its heads.
        head: That of the head that is compared.
        config: Its resolved config.
        origin: ``run.json``: overrides, code, libraries.
        data: ``data.json``: scenes and fingerprints of the splits.
        summary: ``summary.json``: the scores of its best checkpoint.
        loss: The name of its loss composition.
        losses: The flattened loss of the head that is compared, and those of other heads if they differ from it.
        settings: All else that it was trained with, flattened, as text.
        seed: Its seed.
        task: The task of its head.
        without: The classes that are left out of its means.
        rate: Its learning rate, NaN where the optimiser has none.
        curve: ``step``, ``val_loss`` and `Task.class_scores` of every validation.
        classes: ``classes.csv``: class, scores and pixels of its head.
        records: What the recorder wrote; None without.
        unrecorded: Why there are none, and what to do.
        label: What its row is called; empty before rows are told apart.
        searching: Whether a learning rate is chosen on it, rather than reported.
        plain: Whether its row is cross-entropy and no more.

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
        self.task = tasks_of(node["dataset"])[heads[head]["target"]]
        self.data, self.summary = run.data(), run.summary()
        if "heads" in self.summary:
            self.summary = {**self.summary, **self.summary["heads"][head]}
        self.curve, self.classes = read_curve(run, head, self.task), pd.DataFrame(run.classes(head))
        losses = {name: flat(own.get("loss") or node["loss"]) for name, own in heads.items()}
        self.loss = self.origin.get("losses", {}).get(head) or self.origin["loss"] or "loss"
        self.losses = flat(losses[head] | {f"heads.{name}": losses[name] for name in others if losses[name] != losses[head]})
        self.settings, self.seed = settings(node), self.config.seed
        self.without = [name for name in self.config.metrics.without if len(heads) == 1 or name in self.task.classes]
        rate = node["optimizer"].get("lr")
        self.rate = float(rate) if isinstance(rate, int | float) else np.nan
        self.records: Records | None = None
        self.unrecorded: Reason | None = None
        try:
            self.records = load_records(folder, head)
        except RecordError as error:  # whether it may lack them depends on the other runs
            what = "it" if error.place == folder else error.place.relative_to(folder)
            self.unrecorded = f"{what} {error.found}", error.remedy
        self.label, self.searching, self.plain = "", False, False

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


def read_curve(run: RunFolder, head: str, task: Task) -> pd.DataFrame:
    """Validation loss and `Task.class_scores` of every validation of a run, in order; a loss that was NaN stays NaN.

    Steps are how many were done, as in records: ``metrics.csv`` counts them from 0.

    Raises:
        InputError: If the file can't be read, or holds no validation.
    """
    names = {"step": "step", "val/loss": "val_loss"} | {f"val/{head}/{score}": score for score in task.class_scores}
    curve = pd.DataFrame(run.metrics(), columns=list(names)).rename(columns=names).groupby("step", as_index=False).first()
    curve["step"] += 1
    scored = curve[curve[task.score].notna() | curve["val_loss"].notna()].reset_index(drop=True)
    if scored.empty:
        raise InputError(f"{run.metrics_file} holds no validation of head {head}: remove the folder, or train the run again")
    return scored


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """A config without its losses, its seed and the places it names, flattened, as text.

    Example:
        >>> settings({"seed": 1, "loss": {}, "output": "runs", "optimizer": {"lr": 0.1}})
        {'optimizer.lr': '0.1'}
    """
    kept = {}
    for key, value in flat(dict(config)).items():
        place = key.startswith("dataset.") and key.rpartition(".")[2] in ROOTS
        of_head = key.startswith("model.heads.") and ".loss." in f"{key}."
        if not (place or of_head or within(key, APART)):
            kept[key] = as_text(value)
    return kept


def within(key: str, nodes: Sequence[str]) -> bool:
    """Whether a key is one of some nodes of the config, or lies in one.

    Example:
        >>> within("sampler.power", ["sampler"]), within("steps", ["step"])
        (True, False)
    """
    return any(f"{key}.".startswith(f"{node}.") for node in nodes)


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


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys that some runs differ in, in the config's order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len(set(column(runs, key))) > 1]


def column(runs: Sequence[Run], key: str) -> Column:
    """What a key is in each run, as text; "none" where a run lacks it."""
    return [run.settings.get(key, "none") for run in runs]


def as_text(value: Any) -> str:
    """A setting as text; numbers alike whether they are written 1 or 1.0.

    Example:
        >>> as_text(1), as_text(1.0), as_text(None)
        ('1', '1', 'none')
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value)).removesuffix(".0")
    return "none" if value is None else str(value)


def by_design(runs: Sequence[Run]) -> list[str]:
    """The keys that follow from what a sweep varies beside losses and seeds.

    It varies what every run's command line names, with several values for one loss at least; an experiment is a recipe by
    itself. So the batch size is by design where losses were trained with each of several, but not where every loss has another.
    """
    told = [dict(word.lstrip("+").split("=", 1) for word in run.origin["overrides"] if "=" in word) for run in runs]
    shared = [key for key in told[0] if not key.startswith("loss") and key != "seed" and all(key in words for words in told)]
    varied = []
    for key in shared:
        values = {(run.loss, words[key]) for run, words in zip(runs, told, strict=True)}
        if key == "experiment" or len(values) > len({run.loss for run in runs}):
            varied.append([words[key] for words in told])
    return [key for key in differing(runs) if follows(column(runs, key), varied)]


def follows(values: Column, known: Sequence[Sequence[Hashable]]) -> bool:
    """Whether other columns say what a column holds.

    Example:
        >>> follows([1, 2, 2], [["a", "b", "b"]]), follows([1, 2, 3], [["a", "b", "b"]])
        (True, False)
    """
    causes = list(zip(*known, strict=True)) or [()] * len(values)
    return len(set(causes)) == len(set(zip(causes, values, strict=True)))


def set_labels(runs: Sequence[Run]) -> None:
    """Give runs their rows' labels, and say which of them a learning rate is searched on, and which are plain cross-entropy."""
    searched = len({run.rate for run in runs}) > 1 and len({run.seed >= SEARCH_SEED for run in runs}) == 2
    for run, label in zip(runs, _labels(runs, searched), strict=True):
        rebalanced = any(within(word.split("=")[0], REBALANCING) for word in label.split())
        run.label, run.searching = label, searched and run.seed >= SEARCH_SEED
        run.plain = is_cross_entropy(run.losses) and not rebalanced


def _labels(runs: Sequence[Run], searched: bool) -> list[str]:
    """What each run's row is called: its loss, its heads if others have other ones, and what most others do not share.

    As briefly as tells all rows apart.

    Where learning rates are searched these, and what follows from them, tell no rows apart.
    """
    losses: Column = [run.loss for run in runs]
    loss_keys = dict.fromkeys(key for run in runs for key in run.losses)
    own: dict[str, Column] = {key: [as_text(run.losses.get(key)) for run in runs] for key in loss_keys}
    other = {key: column(runs, key) for key in differing(runs)}
    told = {word.split("=")[0].lstrip("+").removeprefix("loss.") for run in runs for word in run.origin["overrides"]}
    rates: list[Column] = [[run.rate for run in runs]] if searched else []
    heads: Column = ["+".join(run.heads) for run in runs]
    words: list[list[str]] = [[run.loss] for run in runs]
    if len(set(heads)) > 1:
        words = [[run.loss, f"heads={name}"] for run, name in zip(runs, heads, strict=True)]
    for key, values in [*_telling(own, [losses, heads], told), *_telling(other, [*rates, heads])]:
        usual, often = Counter(values).most_common(1)[0]
        short = [str(value).rpartition(".")[2] if key.endswith("_target_") else _rounded(str(value)) for value in values]
        exact = len(set(short)) == len(set(values))
        for i, value in enumerate(values):
            of_loss = {v for v, loss in zip(values, losses, strict=True) if loss == losses[i]}
            follows_loss = key in own and len(of_loss) == 1
            if not follows_loss and (value != usual or 2 * often <= len(runs)):
                name = key.removesuffix("._target_").removeprefix("terms.")
                words[i].append(f"{name}={short[i] if exact else value}")
    return [" ".join(row) for row in words]


def _rounded(text: str) -> str:
    """A number to four digits, such as one that a search drew."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def _telling(columns: Mapping[str, Column], known: Sequence[Column], told: Collection[str] = ()) -> list[tuple[str, Column]]:
    """The columns that were told apart or do not follow from those before them: ``sampler=Balanced`` says its power too.

    Shallow ones come first. Where every trial of a search has numbers of its own one would say them all, and hide the others.
    """
    chosen: list[tuple[str, Column]] = []
    ordered = sorted(columns, key=lambda key: (key.removesuffix("._target_").count("."), not key.endswith("._target_")))
    for key in ordered:
        several = key in told and len(set(columns[key])) > 1
        if several or not follows(columns[key], [*known, *(values for _, values in chosen)]):
            chosen.append((key, columns[key]))
    return chosen
