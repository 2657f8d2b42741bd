"""The plan of a sweep: its runs and the settings that they vary. A sweep writes ``sweep.json`` before its first run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsseg.config.contents import FOLDS, flat
from rsseg.config.entry import invocation
from rsseg.config.folder import PLACE_KEYS
from rsseg.contract import InputError
from rsseg.files import read_json, write_json

FILE = "sweep.json"
FORMAT = 1

TRIALS = "trials.csv"  # the table that `rsseg.search` writes beside its trials' runs

LOSS, EXPERIMENT, SEED, RATE, FOLD = "loss", "experiment", "seed", "optimizer.lr", "dataset.fold"

SEARCH_SEED = 1000  # in a sweep over learning rates, seeds of at least this number choose each loss's rate

APART = (LOSS, SEED, FOLD, "record", "dataset.palette", "dataset.rgb", *PLACE_KEYS)
"""Settings that `settings` leaves out: loss, seed and fold, which plans name, and settings that do not affect training."""

ROOTS = ("root", "paths")  # keys that hold the folder of a dataset; its fingerprint and statistics identify the data in it


@dataclass(frozen=True)
class Plan:
    """The runs of one or several sweeps, or runs that were started by hand.

    A row of a comparison has one run per seed and fold; these runs share the loss and the other settings that the sweep varies.

    Attributes:
        runs: By run folder, the values of the varied settings as text, with the run's loss or experiment and its seed.
        common: The settings that all runs share, flattened, as text; all others differ by design.
        commands: The words of the train.py commands that train these runs; empty for runs that were started by hand.

    Example:
        >>> runs = {Path(f"seed={seed}"): {"loss": "ce", "seed": seed} for seed in "12"}
        >>> plan = Plan(runs, {}, [["loss=ce", "seed=1,2"]])
        >>> plan.varied, plan.seeds, plan.labels[Path("seed=2")]
        (['seed'], [1, 2], 'ce')
        >>> plan.command(seed="3,4")
        'python train.py -m loss=ce seed=3,4'
    """

    runs: dict[Path, dict[str, str]]
    common: dict[str, str]
    commands: list[list[str]] = field(default_factory=list)

    @property
    def varied(self) -> list[str]:
        """The keys whose values differ between runs, in the order of the sweep."""
        keys = dict.fromkeys(key for values in self.runs.values() for key in values)
        return [key for key in keys if len({values.get(key) for values in self.runs.values()}) > 1]

    @property
    def seeds(self) -> list[int]:
        """All seeds, in order."""
        return sorted({int(values[SEED]) for values in self.runs.values()})

    @property
    def search_seeds(self) -> list[int]:
        """The seeds that choose a learning rate; empty if rates are not varied, or no other seeds report the score."""
        searching = [seed for seed in self.seeds if seed >= SEARCH_SEED]
        return searching if RATE in self.varied and len(searching) < len(self.seeds) else []

    @property
    def folds(self) -> list[str]:
        """The folds of a cross-validation; empty without one."""
        return sorted({values[FOLD] for values in self.runs.values() if FOLD in values})

    @property
    def labels(self) -> dict[Path, str]:
        """The row label of each run: its loss, or its experiment if that is varied, then the other varied settings."""
        apart = {LOSS, SEED, FOLD, *([RATE] if self.search_seeds else [])}
        keys = [key for key in self.varied if key not in apart]
        short = {key: _shortened([values[key] for values in self.runs.values() if key in values]) for key in keys}

        def label(values: Mapping[str, str]) -> str:
            by_loss = LOSS in values
            name = values[LOSS] if by_loss else values[EXPERIMENT].rpartition("/")[2]
            told = (key for key in keys if key in values and (by_loss or key != EXPERIMENT))
            brief = {key: key.removesuffix("._target_").removeprefix("loss.").removeprefix("terms.") for key in told}
            return " ".join([name, *(f"{shown}={short[key][values[key]]}" for key, shown in brief.items())])

        return {folder: label(values) for folder, values in self.runs.items()}

    def command(self, **settings: object) -> str:
        """The commands, one line per sweep, that train every row with other settings; empty without a sweep."""
        given = [f"{key}={value}" for key, value in settings.items()]
        others = ([w for w in words if w.partition("=")[0] not in settings] for words in self.commands)
        return "\n".join(f"{invocation('train')} -m {shlex.join([*words, *given])}" for words in others)

    def merged(self, other: Plan) -> Plan:
        """This plan joined with a later one.

        If one of the plans has all rows, only its commands are kept.
        """
        before, now = set(self.labels.values()), set(other.labels.values())
        commands = other.commands if now >= before else self.commands if before >= now else self.commands + other.commands
        return Plan(self.runs | other.runs, common([self.common, other.common]), commands)

    def write(self, folder: Path) -> None:
        """Write the plan of the runs in a folder.

        Raises:
            UnwritableError: If it can't be written.
        """
        content = {
            "format": FORMAT,
            "name": folder.name,
            "commands": self.commands,
            "varied": self.varied,
            "seeds": self.seeds,
            "search_seeds": self.search_seeds,
            "runs": {path.name: values for path, values in self.runs.items()},
            "common": self.common,
        }
        write_json(folder / FILE, content)


def read_plan(folder: Path) -> Plan | None:
    """The plan of the runs in a folder; None: there is none.

    Raises:
        InputError: If it can't be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} has the format {content.get('format')}, {FORMAT} is expected: start the sweep's command again"
        )
    try:
        runs = {folder / name: {key: str(value) for key, value in values.items()} for name, values in content["runs"].items()}
        if not all(values[SEED].lstrip("-").isdigit() and {LOSS, EXPERIMENT} & values.keys() for values in runs.values()):
            raise ValueError("a run without seed or loss")
        common = dict(content["common"])
        folds = common.pop(f"dataset.{FOLDS}", "none")
        if folds != "none":
            for values in runs.values():
                values[FOLD] = f"{values[FOLD]}/{folds}"
        return Plan(runs, common, [list(words) for words in content["commands"]])
    except (AttributeError, KeyError, TypeError, ValueError):
        remedy = "remove it and start the sweep's command again, which goes on with its runs"
        raise InputError(f"{path} holds no plan of a sweep: {remedy}") from None


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """A config without the settings in `APART`, flattened, as text, and the names of its heads.

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
    heads = config.get("model", {}).get("heads", {})
    return kept | ({"heads": "+".join(heads)} if heads else {})


def common(configs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The settings that have the same value in all of the flattened configs."""
    first, *others = configs
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def within(key: str, nodes: Iterable[str]) -> bool:
    """Whether a dotted key is one of the given nodes of the config, or inside one.

    Example:
        >>> within("sampler.power", ["sampler"]), within("steps", ["step"])
        (True, False)
    """
    return any(f"{key}.".startswith(f"{node}.") for node in nodes)


def as_text(value: Any) -> str:
    """A setting as text; equal numbers give equal text, whether they are written 1 or 1.0.

    Example:
        >>> as_text(1), as_text(1.0), as_text(None)
        ('1', '1', 'none')
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value)).removesuffix(".0")
    return "none" if value is None else str(value)


def _shortened(values: Sequence[str]) -> dict[str, str]:
    """Values as row labels show them: classes without their modules, numbers to four digits, unless two would become equal."""

    def short(value: str) -> str:
        try:
            return f"{float(value):.4g}"
        except ValueError:
            return value.rpartition(".")[2] if value.startswith("rsseg.") else value

    brief = {value: short(value) for value in dict.fromkeys(values)}
    return brief if len(set(brief.values())) == len(brief) else {value: value for value in brief}
