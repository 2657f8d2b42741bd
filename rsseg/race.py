"""A race: a sweep seed by seed, in which what is surely behind is not trained on further seeds.

After three seeds and after each one more all pairs of the rows that are still in are compared. A row is dropped where its
difference to another one is surely below 0. The looks share one error rate, `ALPHA`, by a spending function. In simulated races
of equally good rows 0 to 7 % drop any of them.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy.stats import norm

from rsseg.compare.findings import EQUAL, Findings
from rsseg.compare.inference import Interval
from rsseg.compare.selection import gather
from rsseg.config.cli import compose
from rsseg.config.folder import RunFolder, quoted
from rsseg.config.plan import SEED, read_plan
from rsseg.config.sweep import value_text
from rsseg.contract import InputError
from rsseg.files import read_json, write_json

FILE = "race.json"

ALPHA = 0.05
"""How many of all races between equally good rows may drop one."""

FIRST_LOOK = 3
"""Seeds before the first look: with two, a spread is hardly known."""

log = logging.getLogger(__name__)


class Decision(NamedTuple):
    """The outcome of a look.

    Attributes:
        behind: By row that is dropped, the row that it is most surely behind.
        equal: Whether all that are left are practically equal.
    """

    behind: dict[int, int]
    equal: bool


def spent(share: float, alpha: float = ALPHA) -> float:
    """The error rate that may be spent until a share of all seeds is there: Lan and DeMets 1983, after O'Brien and Fleming.

    Example:
        >>> [round(spent(share), 4) for share in (0.3, 0.6, 1.0)]
        [0.0003, 0.0114, 0.05]
    """
    return float(2 * norm.sf(norm.isf(alpha / 2) / np.sqrt(share)))


def decide(leads: Callable[[float], Interval], alpha: float, equal_within: float) -> Decision:
    """What to do at a look.

    Args:
        leads: How much better each row is than each other, ``[L, L]``, in intervals that hold together with a confidence.
        alpha: The error rate that this look may spend.
        equal_within: A difference of no practical use. That the rest is equal is told at `ALPHA`: to end a race early by
            mistake costs seeds that would have told rows apart, and drops none.
    """
    sure, usual = leads(1 - alpha), leads(1 - ALPHA)
    behind = {int(row): int(sure.low[:, row].argmax()) for row in np.flatnonzero((sure.low > 0).any(0))}
    rest = [row for row in range(len(sure.low)) if row not in behind]
    return Decision(behind, bool((np.abs(usual.high[np.ix_(rest, rest)]) <= equal_within).all()))


class Race:
    """A sweep that is raced.

    Attributes:
        folder: The sweep's folder.
        key: What is varied beside the seed.
        values: Its values, as words of the command line.
        seeds: All seeds.
        equal_within: A difference of no practical use.

    Args:
        configs: The folder with `train.yaml`.
        words: The words of the sweep's command line.
        equal_within: As said.

    Raises:
        InputError: If the sweep varies more or less than one setting and the seed, or has too few seeds.
    """

    def __init__(self, configs: Path, words: Sequence[str], equal_within: float = EQUAL) -> None:
        config = compose(configs, words, multirun=True)
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        given = OverridesParser.create().parse_overrides([*params, *words])
        swept = {o.get_key_element(): list(o.sweep_string_iterator()) if o.is_sweep_override() else [] for o in given}
        several = {key: values for key, values in swept.items() if len(values) > 1 and key != SEED}
        self.seeds = [int(seed) for seed in swept.get(SEED, ())]
        if len(several) != 1:
            raise InputError(f"race=true races the values of one setting; this sweep varies {', '.join(several) or 'none'}")
        if len(self.seeds) <= FIRST_LOOK:
            raise InputError(f"race=true looks after {FIRST_LOOK} seeds: give more, as in seed=1,2,3,4,5,6,7,8")
        ((self.key, self.values),) = several.items()
        self.folder, self.equal_within = Path(config.hydra.sweep.dir), equal_within
        apart = (self.key, SEED, "hydra.sweep.dir")
        self.common = [word for word in words if word.lstrip("+").partition("=")[0] not in apart]
        self.common.append(f"hydra.sweep.dir={quoted(self.folder)}")

    def train(self, script: Path, values: Sequence[str], seed: int) -> None:
        """Train some rows on a seed: a sweep like any other, with its launcher; nothing where all runs are finished.

        Raises:
            InputError: If a run is not finished afterwards.
        """
        done = self.runs(values, [seed])
        if len(done) == len(values) and all(RunFolder(folder).finished for folder in done):
            return
        words = ["-m", *self.common, f"{self.key}={','.join(values)}", f"{SEED}={seed}"]
        log.info("Race: %s", shlex.join(["train.py", *words]))
        subprocess.run([sys.executable, str(script), *words], check=False)  # it fails where a run has diverged, too
        lacking = len(values) - sum(RunFolder(folder).finished for folder in self.runs(values, [seed]))
        if lacking:
            raise InputError(
                f"{lacking} of {len(values)} runs of seed {seed} did not finish, as said above; the same command goes on"
            )

    def look(self, values: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
        """Compare the rows that are in: which failed, which are surely behind and by how much, whether the rest is equal."""
        runs = self.runs(values, seeds)
        found = gather(list(runs), allow_different=True)
        failed = {value for folder, value in runs.items() if found.plan.labels[folder] in found.failed}
        told: dict[str, Any] = {"seeds": list(seeds), "level": 0.0, "failed": sorted(failed), "dropped": [], "equal": False}
        left = [value for value in values if value not in failed]
        if len(seeds) < FIRST_LOOK or len(left) < 2:
            return told
        found = gather([folder for folder, value in runs.items() if value in left], allow_different=True)
        names, ranked = [runs[row[0].folder] for row in found.runs], Findings(found).ranked
        before = 0.0 if len(seeds) == FIRST_LOOK else spent((len(seeds) - 1) / len(self.seeds))
        alpha = spent(len(seeds) / len(self.seeds)) - before
        leads = partial(ranked.lead, pooled=False)
        decision, lead = decide(leads, alpha, self.equal_within), leads(1 - alpha)
        dropped = [
            {"row": names[row], "behind": names[by], **dict(zip(("by", "low", "high"), lead.at(by, row), strict=True))}
            for row, by in decision.behind.items()
        ]
        means = dict(zip(names, ranked.mean.value.tolist(), strict=True))
        return told | {"level": alpha, "scores": means, "dropped": dropped, "equal": decision.equal}

    def identity(self) -> dict[str, Any]:
        """What must be the same for two races to be one."""
        return {
            "varied": self.key,
            "values": self.values,
            "seeds": self.seeds,
            "equal_within": self.equal_within,
            "alpha": ALPHA,
        }

    def begun(self) -> list[dict[str, Any]]:
        """The looks of this race that were taken before it was stopped.

        Raises:
            InputError: If the folder holds another race.
        """
        path = self.folder / FILE
        content = read_json(path) if path.is_file() else {}
        other = [key for key, value in self.identity().items() if content and content.get(key) != value]
        if other:
            raise InputError(
                f"{path} is of another race ({', '.join(other)} differ): choose another folder, hydra.sweep.dir=..."
            )
        return list(content.get("looks", []))

    def runs(self, values: Sequence[str], seeds: Sequence[int]) -> dict[Path, str]:
        """The folders of the runs of some rows and seeds, with the value of each."""
        plan, parser = read_plan(self.folder), OverridesParser.create()
        value_of = {value_text(parser.parse_override(f"{self.key}={value}")): value for value in self.values}
        found = {}
        for folder, planned in plan.runs.items() if plan else ():
            value = value_of.get(planned.get(self.key, ""), "")
            if value in values and int(planned[SEED]) in seeds:
                found[folder] = value
        return found


def race(configs: Path, script: Path, words: Sequence[str]) -> None:
    """Race a sweep, and write ``race.json`` into its folder. The same call goes on with one that was stopped.

    Args:
        configs: The folder with `train.yaml`.
        script: train.py.
        words: Its command line, with race=true and perhaps equal_within=0.01.

    Raises:
        InputError: For what can't be raced, and where a run fails.
    """
    flags = get_args_parser().parse_args(list(words))
    own = dict(word.split("=", 1) for word in flags.overrides if word.startswith(("race=", "equal_within=")))
    if not flags.multirun:
        raise InputError("race=true is many runs: add -m")
    others = [word for word in flags.overrides if word.partition("=")[0] not in own]
    others += [f"hydra.searchpath=[file://{Path(flags.config_dir).resolve()}]"] if flags.config_dir else []
    try:
        raced = Race(configs, others, float(own.get("equal_within", EQUAL)))
    except ValueError:
        raise InputError(f"equal_within={own['equal_within']}: a number is expected") from None
    looks, left = raced.begun(), list(raced.values)
    for number, seed in enumerate(raced.seeds, start=1):
        if number > len(looks):
            raced.train(script, left, seed)
            looks.append(raced.look(left, raced.seeds[:number]))
            write_json(raced.folder / FILE, raced.identity() | {"looks": looks})
            log_look(looks[-1], len(raced.seeds))
        gone = [*looks[number - 1]["failed"], *(drop["row"] for drop in looks[number - 1]["dropped"])]
        left = [value for value in left if value not in gone]
        if len(left) < 2 or looks[number - 1]["equal"]:
            break
    why = "all seeds are done" if len(left) > 1 else "no other is left"
    log.info("The race is over: %s. Left: %s.", "these are practically equal" if looks[-1]["equal"] else why, ", ".join(left))
    log.info("Compare them: python scripts/compare.py runs='%s'", raced.folder)


def log_look(look: Mapping[str, Any], seeds: int) -> None:
    """Log the outcome of a look."""
    log.info("Race, seed %d of %d, level %.4f", len(look["seeds"]), seeds, look["level"])
    for value in look["failed"]:
        log.warning("  %s is out: a run of it has diverged, or has no score", value)
    for drop in look["dropped"]:
        log.info("  %s is out: %.3f (%.3f to %.3f) behind %s", *(drop[key] for key in ("row", "by", "low", "high", "behind")))
