"""Runs loaded again with their best weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rsseg.assembly import make_module
from rsseg.comparison.runs import find_runs
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.store import Store
from rsseg.dataset import TrainStatistics, open_split
from rsseg.evaluation.labelled import labelled_scenes
from rsseg.module import SegmentationModule
from rsseg.setup import Setup
from rsseg.training.scoring import load_checkpoint

log = logging.getLogger(__name__)


def open_labelled(run: RunFolder, setup: Setup, split: str) -> tuple[SegmentationModule, Store]:
    """A run's module with its best weights, in evaluation mode, and the scenes of a split.

    Raises:
        InputError: If they can't be used, or some scenes have no labels.
    """
    scenes = labelled_scenes(setup, split)
    numbers = TrainStatistics.read(run.data(), setup.dataset.tasks)
    module = make_module(setup, setup.network(pretrained=False), numbers, len(scenes)).eval()
    load_checkpoint(module, run)  # before any scene is decoded
    store = open_split(setup.dataset, scenes, split)
    store.fill = module.mean.numpy().ravel()
    return module, store


def runs_in(place: Path) -> list[RunFolder]:
    """The runs that a folder stands for: itself, or all in it where it is none and holds some."""
    found = [] if RunFolder(place).begun or not place.is_dir() else find_runs([place])
    return [RunFolder(path) for path in found or [place]]


def finished_runs(places: Sequence[Path]) -> list[RunFolder]:
    """The runs that folders stand for: a run for itself, a folder that holds runs for those that are finished.

    Raises:
        InputError: If none of them is.
    """
    found: dict[Path, RunFolder] = {}
    for place in places:
        runs = runs_in(place)
        if runs[0].path != place:
            finished = [run for run in runs if run.finished and "diverged" not in run.summary()]
            if not finished:
                raise InputError(f"run={place}: none of its {len(runs)} runs is finished; train them first")
            if len(finished) < len(runs):
                line = "%d of %d runs in %s are left out: they are not finished, or have diverged."
                log.info(line, len(runs) - len(finished), len(runs), place)
            runs = finished
        found |= {run.path.absolute(): run for run in runs}
    return list(found.values())
