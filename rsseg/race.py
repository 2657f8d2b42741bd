"""A race: a sweep that trains seed by seed, and drops rows that are surely behind another row.

After `FIRST_LOOK` seeds, and after each further seed, all pairs of the remaining rows are compared. A row is dropped if its
difference to another row is surely below 0. The looks share one error rate, `ALPHA`, by a spending function. In simulations
with equally good rows, 0 to 7 % of races drop a row.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy.stats import norm

from rsseg.comparison.findings import Findings
from rsseg.comparison.intervals import Interval
from rsseg.comparison.question import EQUAL, Question
from rsseg.comparison.selection import gather
from rsseg.config.arguments import typed
from rsseg.config.cli import compose, refusing
from rsseg.config.entry import CONFIGS, ENTRY, invocation, search_path
from rsseg.config.folder import RunFolder
from rsseg.config.naming import quoted
from rsseg.config.plan import FOLD, SEARCH_SEED, SEED, read_plan
from rsseg.config.sweep import value_text
from rsseg.contract import InputError, check_number
from rsseg.files import read_json, write_json

FILE = "race.json"

ALPHA = 0.05
"""The share of races between equally good rows that may drop a row."""

FIRST_LOOK = 3
"""The number of seeds before the first look; two say too little about the variance."""

log = logging.getLogger(__name__)


class Decision(NamedTuple):
    """The outcome of a look."""

    behind: dict[int, int]  # the dropped rows, and for each the row that is most surely ahead of it
    equal: bool  # whether all remaining rows are practically equal


def spent(share: float, alpha: float = ALPHA) -> float:
    """The error rate to spend until this share of all seeds is trained (Lan and DeMets 1983, after O'Brien and Fleming).

    Example:
        >>> [round(spent(share), 4) for share in (0.3, 0.6, 1.0)]
        [0.0003, 0.0114, 0.05]
    """
    return float(2 * norm.sf(norm.isf(alpha / 2) / np.sqrt(share)))


def decide(leads: Callable[[float], Interval], alpha: float, equal_within: float) -> Decision:
    """The decision at a look, which may spend an error rate of `alpha`.

    `leads` gives simultaneous intervals ``[L, L]`` of the leads of rows over columns at a confidence level. Whether the rest is
    equal is decided at level `ALPHA`, because a race that ends too early lacks seeds, but drops no row.
    """
    sure, usual = leads(1 - alpha), leads(1 - ALPHA)
    behind = {int(row): int(sure.low[:, row].argmax()) for row in np.flatnonzero((sure.low > 0).any(0))}
    rest = [row for row in range(len(sure.low)) if row not in behind]
    equal = len(rest) > 1 and bool((np.abs(usual.high[np.ix_(rest, rest)]) <= equal_within).all())
    return Decision(behind, equal)


class Race:
    """A race.

    `rows` hold, by name, the values of the varied keys other than the seed, as on the command line.
    """

    def __init__(
        self,
        folder: Path,  # the folder of the sweep
        words: Sequence[str],  # the words of rsseg train that all runs share, except the folder
        rows: Mapping[str, Mapping[str, str]],
        seeds: Sequence[int],  # the seeds of the full race
        metric: str = "",  # the metric that ranks the rows; empty: `Task.score`
        equal_within: float = EQUAL,  # rows whose scores differ by at most this are practically equal
    ) -> None:
        if len(seeds) <= FIRST_LOOK:
            raise InputError(f"a race looks after {FIRST_LOOK} seeds: give more, as in seed=1,2,3,4,5,6,7,8")
        if max(seeds) >= SEARCH_SEED:
            raise InputError(f"a race has no seeds that choose a learning rate: give seeds below {SEARCH_SEED}")
        self.folder, self.words = folder, [*words, f"hydra.sweep.dir={quoted(str(folder))}"]
        self.rows, self.seeds, self.metric = rows, list(seeds), metric
        parse = OverridesParser.create().parse_override
        each = {name: [parse(f"{key}={value}") for key, value in row.items()] for name, row in rows.items()}
        self.planned = {name: {o.get_key_element(): value_text(o) for o in row} for name, row in each.items()}
        self.equal_within = equal_within

    def run(self) -> None:
        """Run the race, and write ``race.json`` after each look; looks of an earlier call are not repeated."""
        looks, left = self.begun(), list(self.rows)
        for count, seed in enumerate(self.seeds, start=1):
            if count > len(looks):
                self.train(left, seed)
                looks.append(self.look(left, self.seeds[:count]))
                write_json(self.folder / FILE, self.identity() | {"looks": looks})
                log_look(looks[-1], len(self.seeds))
            gone = [*looks[count - 1]["failed"], *(drop["row"] for drop in looks[count - 1]["dropped"])]
            left = [name for name in left if name not in gone]
            if len(left) < 2 or looks[count - 1]["equal"]:
                break
        equal = ", practically equal" * looks[-1]["equal"]
        log.info("The race is over. Left%s: %s.", equal, "; ".join(left) or "none")
        log.info("Compare them: %s runs='%s'", invocation("compare"), self.folder)

    def train(self, names: Sequence[str], seed: int) -> None:
        """Train those of the rows that are not finished on a seed, as sweeps with the chosen launcher."""
        if self.finished(names, seed) < len(names):
            for words in self.sweeps(names, seed):
                log.info("Race: %s %s", invocation("train"), shlex.join(words))
                sweep = subprocess.Popen([*ENTRY, "train", *words])
                try:
                    sweep.wait()  # it also fails if a run has diverged
                except KeyboardInterrupt:
                    sweep.wait()  # the sweep is interrupted too, and saves its run first
                    raise
        if lacking := len(names) - self.finished(names, seed):
            raise InputError(f"{lacking} of {len(names)} runs of seed {seed} did not finish; run the same command again")

    def finished(self, names: Sequence[str], seed: int) -> int:
        """The number of finished runs of the given rows with a seed."""
        return sum(RunFolder(folder).finished for folder in self.runs(names, [seed]))

    def sweeps(self, names: Sequence[str], seed: int) -> list[list[str]]:
        """The words of the sweeps that train the rows on a seed: one sweep for all rows that differ only in the last key."""
        *others, last = next(iter(self.rows.values()))
        together: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            fixed = tuple(f"{key}=choice({self.rows[name][key]})" for key in others)
            together.setdefault(fixed, []).append(self.rows[name][last])
        return [
            ["-m", *self.words, *fixed, f"{last}=choice({','.join(values)})", f"{SEED}={seed}"]
            for fixed, values in together.items()
        ]

    def look(self, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
        """Compare the given rows: which failed, which are surely behind and by how much, and whether the rest is equal."""
        runs = self.runs(names, seeds)
        found = gather(list(runs), allow_different=True)
        failed = {name for folder, name in runs.items() if found.plan.labels[folder] in found.failed}
        told: dict[str, Any] = {"seeds": list(seeds), "level": 0.0, "failed": sorted(failed), "dropped": [], "equal": False}
        left = [name for name in names if name not in failed]
        if len(seeds) < FIRST_LOOK or len(left) < 2:
            return told
        found = gather([folder for folder, name in runs.items() if name in left], allow_different=True)
        compared, ranked = [runs[row[0].folder] for row in found.runs], Findings(found, self.metric).ranked
        before = 0.0 if len(seeds) == FIRST_LOOK else spent((len(seeds) - 1) / len(self.seeds))
        alpha = spent(len(seeds) / len(self.seeds)) - before
        leads = partial(ranked.lead, pooled=False)
        decision, lead = decide(leads, alpha, self.equal_within), leads(1 - alpha)
        dropped = [
            {"row": compared[row], "behind": compared[by], **dict(zip(("by", "low", "high"), lead.at(by, row), strict=True))}
            for row, by in decision.behind.items()
        ]
        means = dict(zip(compared, ranked.mean.value.tolist(), strict=True))
        return told | {"level": alpha, "scores": means, "dropped": dropped, "equal": decision.equal}

    def identity(self) -> dict[str, Any]:
        """The facts that have to be equal for another call to continue this race."""
        return {"rows": self.rows, "seeds": self.seeds, "equal_within": self.equal_within}

    def begun(self) -> list[dict[str, Any]]:
        """The looks of an earlier call of this race; an `InputError` if the folder holds another race."""
        path = self.folder / FILE
        content = read_json(path) if path.is_file() else {}
        other = [key for key, value in self.identity().items() if content and content.get(key) != value]
        if other:
            raise InputError(
                f"{path} is of another race ({', '.join(other)} differ): choose another folder, hydra.sweep.dir=..."
            )
        return list(content.get("looks", []))

    def runs(self, names: Sequence[str], seeds: Sequence[int]) -> dict[Path, str]:
        """The run folders of the given rows and seeds, with the name of each run's row."""
        plan, found = read_plan(self.folder), {}
        for folder, values in plan.runs.items() if plan else ():
            for name in names:
                if self.planned[name].items() <= values.items() and int(values[SEED]) in seeds:
                    found[folder] = name
        return found


def race(words: Sequence[str]) -> None:
    """Race a sweep, and write ``race.json`` into its folder. The same call continues a race that was stopped.

    Args:
        words: The command line of rsseg train, with race=true and perhaps equal_within=0.01.

    Raises:
        InputError: If the settings can't be raced, or a run fails.
    """
    flags = get_args_parser().parse_args(list(words))
    if not flags.multirun:
        raise InputError("race=true is many runs: add -m")
    if flags.cfg or flags.info:
        raise InputError("race=true trains: leave out --cfg and --info, or race=true")
    own = dict(word.split("=", 1) for word in flags.overrides if word.startswith(("race=", "equal_within=")))
    given = [word for word in flags.overrides if word.partition("=")[0] not in own]
    given += search_path(Path(flags.config_dir) if flags.config_dir else None)
    del own["race"]
    equal_within = check_number("equal_within", typed(Question, own).equal_within)
    config = compose(CONFIGS, given, multirun=True)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    with refusing():
        (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*params, *given]), None)
    runs = [dict(word.split("=", 1) for word in job) for job in jobs]
    seeds = list(dict.fromkeys(run[SEED] for run in runs if SEED in run))
    if not all(seed.isdecimal() for seed in seeds):
        raise InputError(f"seed={','.join(seeds)}: whole numbers are expected")
    several = [key for key in runs[0] if key != SEED and len({run[key] for run in runs}) > 1]
    if FOLD in several:
        raise InputError(f"race=true races settings over seeds: {FOLD} can't be varied beside them")
    if not several:
        raise InputError("race=true races the values of a setting; this sweep varies none but the seed")
    rows = {}
    for run in runs:
        row = {key: run[key] for key in several}
        rows[row[several[0]] if len(row) == 1 else ",".join(f"{key}={value}" for key, value in row.items())] = row
    apart = (*several, SEED, "hydra.sweep.dir")
    common = [word for word in given if word.partition("=")[0] not in apart]
    Race(Path(config.hydra.sweep.dir), common, rows, list(map(int, seeds)), equal_within=equal_within).run()


def log_look(look: Mapping[str, Any], seeds: int) -> None:
    """Log the outcome of a look."""
    for name in look["failed"]:
        log.warning("%s is dropped: one of its runs has diverged or has no score", name)
    done = f"Race, {len(look['seeds'])} of {seeds} seeds"
    if not look["level"]:
        log.info("%s: nothing is compared before seed %d.", done, FIRST_LOOK)
        return
    scores = ", ".join(f"{name} {score:.3f}" for name, score in sorted(look["scores"].items(), key=lambda item: -item[1]))
    log.info("%s, error rate of this look %.2f %%: %s", done, 100 * look["level"], scores)
    for drop in look["dropped"]:
        log.info("  %s is out: %.3f (%.3f to %.3f) behind %s", *(drop[key] for key in ("row", "by", "low", "high", "behind")))
