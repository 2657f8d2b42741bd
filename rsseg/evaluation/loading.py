"""Trained runs by their folders, and their networks with the best weights.

Lightning is not imported, since it takes time and memory.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from rsseg.checkpoints import fill
from rsseg.comparison.runs import find_runs
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError, nearest
from rsseg.dataset import TrainStatistics
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.setup import Setup

log = logging.getLogger(__name__)


def load_trained(run: RunFolder, setup: Setup) -> TrainedModel:
    """The network of a run with its best weights, ready for any scene."""
    saved, weights = run.data(), run.load_state()[0]
    network, numbers = setup.network(pretrained=False), TrainStatistics.read(saved, setup.dataset.tasks)
    own = {key.removeprefix("network."): w for key, w in weights.items() if key.startswith("network.")}
    fill(network, own, f"checkpoints/best.ckpt of {run}")
    summary = run.summary() if run.finished else {}
    heads = {}
    for name, task in setup.tasks.items():
        palette, threshold = setup.palette(name), None
        with suppress(InputError):  # unfinished runs, and runs without records, have no thresholds
            threshold = None if task.real else tuple(run.thresholds({name: task})[name].tolist())
        scalings = run.scalings(name, task.channels)
        heads[name] = Head(numbers.scaled(task), None if palette is None else tuple(palette), threshold, scalings)
    spec = Spec(
        name=str(run),
        heads=heads,
        bands=tuple(setup.dataset.read_bands),
        mean=tuple(numbers.mean),
        std=tuple(numbers.std),
        window=setup.window,
        margin=setup.margin,
        batch_size=setup.batch_size,
        dtype=saved.get("dtype", ""),
        resolution=saved.get("resolution"),
        quality=setup.task.quality(summary) if setup.task.score in summary else None,
        rgb=setup.dataset.rgb,
        nodata=setup.dataset.nodata,
        precision=str(setup.plain["trainer"].get("precision", "auto")),
        image=setup.image_patterns,
    )
    return TrainedModel(network, spec)


def runs_in(place: Path) -> list[RunFolder]:
    """The run in a folder, or if the folder is not a run, all runs below it; the folder itself if there are none."""
    found = [] if RunFolder(place).begun or not place.is_dir() else find_runs([place])
    return [RunFolder(path) for path in found or [place]]


def finished_runs(places: Sequence[Path]) -> list[RunFolder]:
    """The runs of the given folders: run folders themselves, and the finished runs in other folders."""
    found: dict[Path, RunFolder] = {}
    for place in places:
        runs = runs_in(place)
        if runs[0].path != place:
            every, runs = len(runs), [run for run in runs if run.finished and "diverged" not in run.summary()]
            if not runs:
                raise InputError(f"run={place}: none of its {every} runs is finished; train them first")
            if len(runs) < every:
                line = "%d of %d runs in %s are left out: they are not finished, or have diverged."
                log.info(line, every - len(runs), every, place)
        found |= {run.path.absolute(): run for run in runs}
    return list(found.values())


def known_head(name: str, heads: Collection[str]) -> str:
    """The name of a head, or of the first head if it is empty; an InputError if there is no such head."""
    if name and name not in heads:
        raise InputError(f"head={name}{nearest(name, heads)}: the run has {', '.join(heads)}")
    return name or next(iter(heads))
