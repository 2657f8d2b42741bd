"""Reproduction: a run is trained again from its record, and the results of both runs are compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

from rsseg.comparison.runs import find_runs
from rsseg.config.contents import flat
from rsseg.config.folder import RunFolder
from rsseg.config.provenance import Chosen, provenance
from rsseg.contract import InputError
from rsseg.run import train

log = logging.getLogger(__name__)


def reproduce(folder: Path, out: Path | None = None, trust: Sequence[str] = ()) -> bool:
    """Check code, versions and data of a finished run, train it again, and log whether the outcome is the same.

    Args:
        folder: The run folder.
        out: The folder of the new run; None: ``<name>-again`` beside the run folder.
        trust: Packages whose classes the run's config may name.

    Returns:
        Whether weights and scores are identical, or the scores differ by no more than between seeds.

    Raises:
        InputError: If the run is not finished, `out` holds another run, or the run's data can't be used any more.
    """
    folder = folder.resolve()
    before, after = RunFolder(folder), RunFolder((out or folder.with_name(f"{folder.name}-again")).resolve())
    if not before.finished or "diverged" in before.summary():
        raise InputError(f"run={folder}: it is not finished, or has diverged: there is nothing to reproduce")
    if after.finished or (after.path.exists() and not after.begun):
        raise InputError(f"out={after}: it is there already: remove it, or take another folder")
    origin, config = before.origin(), before.config()
    config.trust = list(trust)
    chosen = Chosen(list(origin["overrides"]), str(origin["loss"]), dict(origin.get("losses") or {}))
    extended = [entry for entry in origin.get("continued", []) if entry["new_schedule"]]
    causes = [f"it went on from step {entry['step']} with {' '.join(entry['overrides'])}" for entry in extended]
    causes += changed_environment(origin, provenance(chosen))
    for cause in causes:
        log.info("Different from then: %s", cause)
    train(config, after.path, chosen.overrides, chosen.loss, chosen.of_heads)
    causes += changed_data(before.data(), after.data())
    why = f"; differences: {'; '.join(causes)}" if causes else "; code, versions and data are the same"
    scores, again = _scores(before.summary()), _scores(after.summary())
    gaps = {name: abs(again.get(name, math.inf) - value) for name, value in scores.items()}
    if not any(gaps.values()) and same_weights(before, after):
        log.info("Identical: %d scores and all weights of the best checkpoint.", len(scores))
        return True
    noise = seed_noise(before)

    def deviations(name: str) -> float:
        """The distance of a score from the recorded one, in standard deviations of other seeds."""
        if not gaps[name]:
            return 0.0
        return gaps[name] / noise[name] if noise.get(name) else math.inf

    worst = max(gaps, key=deviations)
    said = f"of {len(scores)} scores {worst} differs most: it was {scores[worst]:.4f} and is {again.get(worst, math.nan):.4f}"
    if not noise:
        log.info("Different: %s. There are no runs of other seeds beside it to say how much that is%s.", said, why)
        return False
    within = deviations(worst) <= 2
    verdict = "Within the noise" if within else "Different"
    log.info("%s: %s; runs of other seeds deviate by %.2g%s.", verdict, said, noise.get(worst, 0), why)
    return within


def _scores(summary: Mapping[str, Any]) -> dict[str, float]:
    """The known scores of all heads in a summary, without times and steps."""
    return {name: x for name, x in flat(summary).items() if isinstance(x, float) and not math.isnan(x) and name != "seconds"}


def changed_environment(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The differences between the code, libraries and machine of two records, one text each."""
    names = {"code": "rsseg's code", "python": "Python", "platform": "the platform"}
    old, new = ({name: record.get(key) for key, name in names.items()} | record["libraries"] for record in (then, now))
    for name in [*names.values(), *sorted(then["libraries"].keys() | now["libraries"].keys())]:
        if old.get(name) != new.get(name):
            yield f"{name} {old.get(name)} -> {new.get(name)}"


def changed_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between the data of two records, one text for each split."""
    changed = []
    for what, name in (("pixels", "images"), ("fingerprint", "labels")):
        old, new = then.get(what) or {}, now.get(what) or {}
        changed += [f"the {name} of the {split} split" for split in old if old[split] != new.get(split)]
    return changed


def same_weights(before: RunFolder, after: RunFolder) -> bool:
    """Whether the best checkpoints of two runs hold the same weights, bit for bit."""
    (old, _), (new, _) = before.load_state(), after.load_state()
    return old.keys() == new.keys() and all(torch.equal(weights, new[name]) for name, weights in old.items())


def seed_noise(run: RunFolder) -> dict[str, float]:
    """The standard deviation of each score over the runs beside a run that differ only in the seed, if at least two have it."""
    config, found = run.config(), dict[str, list[float]]()
    for other in map(RunFolder, find_runs([run.path.parent])):
        with suppress(InputError):  # a damaged folder beside the run tells nothing of the noise
            if other.finished and set(other.differences(config)) == {"seed"}:
                for name, value in _scores(other.summary()).items():
                    found.setdefault(name, []).append(value)
    return {name: stdev(values) for name, values in found.items() if len(values) > 1}
