"""What is recorded of a run, put together from its config, its scenes and its module."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.alignment.archive import write_arrays
from rsseg.alignment.recorder import Recorder
from rsseg.alignment.records import FOLDER, Snapshot, snapshot_arrays
from rsseg.alignment.snapshot import Snapshots, in_halves
from rsseg.alignment.threshold import halves
from rsseg.alignment.tuned import tune
from rsseg.assembly import Setup
from rsseg.config.build import TERM, build
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.sampling import Places
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows, TrainWindows
from rsseg.distributed import is_main
from rsseg.files import write_json
from rsseg.inference.picture import pick_windows
from rsseg.losses.class_weights import uncounted
from rsseg.module import SegmentationModule

log = logging.getLogger(__name__)

PROBES = 4
"""Windows on which gradients, and gains, are recorded."""


def make_recorder(
    setup: Setup,
    folder: Path,
    module: SegmentationModule,
    stores: Mapping[str, Store],
    sampler: Places,
    panel: Mapping[str, Mapping[str, Any]],
) -> Recorder:
    """The callback that records a run; its probe windows are the first of the training stream, not augmented.

    Args:
        setup: The setup.
        folder: The run folder.
        module: The module.
        stores: The tiles of train and val.
        sampler: Where each training window lies.
        panel: What the losses of the panel are made with, by name.
    """
    terms = {name: build(node, f"panel.{name}", TERM, task=setup.dataset.task.kind) for name, node in panel.items()}
    stream = TrainWindows(stores["train"], setup.window, sampler)
    probes = [stream.batch([k]) for k in range(PROBES)] if is_main() else []
    held_out = pick_windows(stores["val"], setup.window, PROBES) if setup.record.gain and is_main() else []
    names = [scene.name for scene in stores["val"].scenes]
    census, task = stores["train"].census, setup.dataset.task
    counts = census.positives.sum(axis=0).tolist(), census.valid.sum(axis=0).tolist()
    clipped = [task.classes[c] for c in uncounted(task, *counts)]
    snapshots = make_snapshots(setup, module, stores["val"])
    return Recorder(folder, names, terms, panel, clipped, snapshots, probes, held_out)


def validation_windows(setup: Setup, store: Store) -> GridWindows:
    """The windows of whole scenes; one half of the scenes comes first, so that the other can be counted at its biases."""
    return GridWindows(store, setup.window, setup.overlap, in_halves(halves(store.census.positives > 0)))


def make_snapshots(setup: Setup, module: SegmentationModule, store: Store) -> Snapshots:
    """What takes snapshots of a module while the scenes of a store are scored, by `validation_windows`."""
    return Snapshots(module.tasks, store.sizes, validation_windows(setup, store).cores, store.census.positives > 0)


def keep(folder: Path, name: str, taken: Mapping[str, Snapshot]) -> None:
    """Write snapshots, by head, as ``records/{name}.npz`` of a run folder."""
    arrays = {f"{head}/{key}": array for head, shot in taken.items() for key, array in snapshot_arrays(shot).items()}
    write_arrays(folder / FOLDER / f"{name}.npz", arrays)


def keep_thresholds(folder: Path, module: SegmentationModule, taken: Mapping[str, Snapshot], first: NDArray[np.bool_]) -> None:
    """Tune thresholds on snapshots, by head, and write ``threshold.json``; a head that has diverged gets none."""
    found = {}
    for head, snapshot in taken.items():
        try:
            found[head] = tune(snapshot, module.tasks[head], first)
        except InputError as error:
            log.warning("No threshold is tuned for head %s: %s", head, error)
    write_json(RunFolder(folder).thresholds_file, found)
