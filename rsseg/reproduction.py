"""A run trained again from its own record, and whether it gives what it gave."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

from rsseg.comparison.runs import find_runs
from rsseg.config.folder import RunFolder
from rsseg.config.provenance import Chosen, provenance
from rsseg.contract import InputError
from rsseg.run import train

log = logging.getLogger(__name__)


def reproduce(folder: Path, out: Path | None = None, trust: Sequence[str] = ()) -> bool:
    """Check code, versions and data of a finished run, train it again, and log whether the outcome is the same.

    Args:
        folder: The run folder.
        out: Where it is trained again; None: beside it, ``<name>-again``.
        trust: Packages whose classes the run's config may name.

    Returns:
        Whether weights and scores are identical, or the scores differ by no more than those of other seeds.

    Raises:
        InputError: If the run is not finished, `out` holds another run, or its data can't be used any more.
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
    causes = list(changed_environment(origin, provenance(chosen)))
    for cause in causes:
        log.info("Different from then: %s", cause)
    train(config, after.path, chosen.overrides, chosen.loss, chosen.of_heads)
    causes += changed_data(before.data(), after.data())
    why = f"; what differs: {'; '.join(causes)}" if causes else "; code, versions and data are the same"
    numbers = {name: value for name, value in before.summary().items() if isinstance(value, float) and not math.isnan(value)}
    results = [name for name in numbers if "second" not in name and "hours" not in name]  # not what the run took
    scores = {name: (numbers[name], after.summary().get(name)) for name in results}
    gap = max((math.inf if new is None else abs(new - old) for old, new in scores.values()), default=0.0)
    if gap == 0 and same_weights(before, after):
        log.info("Identical: %d scores and all weights of the best checkpoint.", len(scores))
        return True
    noise = seed_noise(before, next(iter(scores)))
    first, (old, new) = next(iter(scores.items()))
    said = f"{first} was {old:.4f} and is {new:.4f}; the largest difference of {len(scores)} scores is {gap:.2g}"
    if noise is None:
        log.info("Different: %s. There are no runs of other seeds beside it to say how much that is%s.", said, why)
        return False
    within = gap <= 2 * noise
    verdict = "Within the noise" if within else "Different"
    log.info("%s: %s; runs of other seeds deviate by %.2g%s.", verdict, said, noise, why)
    return within


def changed_environment(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs between the code, the libraries and the machine of two records, one text each."""
    names = {"code": "rsseg's code", "python": "Python", "platform": "the platform"}
    for key, name in names.items():
        if then.get(key) != now[key]:
            yield f"{name} {then.get(key)} -> {now[key]}"
    libraries = then["libraries"]
    for name in sorted(libraries.keys() | now["libraries"].keys()):
        old, new = libraries.get(name), now["libraries"].get(name)
        if old != new:
            yield f"{name} {old} -> {new}"


def changed_data(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of which split is another."""
    changed = []
    for what, name in (("pixels", "images"), ("fingerprint", "labels")):
        old, new = then.get(what) or {}, now.get(what) or {}
        changed += [f"the {name} of the {split} split" for split in old if old[split] != new.get(split)]
    return changed


def same_weights(before: RunFolder, after: RunFolder) -> bool:
    """Whether the best checkpoints of two runs hold the same weights, bit for bit."""
    (old, _), (new, _) = before.load_state(), after.load_state()
    return old.keys() == new.keys() and all(torch.equal(weights, new[name]) for name, weights in old.items())


def seed_noise(run: RunFolder, score: str) -> float | None:
    """The standard deviation of a score over the runs beside a run that differ in the seed alone; None: fewer than two."""
    config, found = run.config(), dict[int, float]()
    for path in find_runs([run.path.parent]):
        other = RunFolder(path)
        if other.finished and set(other.differences(config)) == {"seed"}:
            found[other.config().seed] = float(other.summary().get(score, math.nan))
    known = [value for value in found.values() if not math.isnan(value)]
    return stdev(known) if len(known) > 1 else None
