"""What is recorded of a run, put together from its config, its scenes and its module."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rsseg.compare.recorder import Holds, Panel, Recorder, Snapshot, Snapshots, first_half, in_halves
from rsseg.compare.records import write_arrays
from rsseg.compare.tuning import tune_thresholds
from rsseg.config.build import TERM, build
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.sampling import Places
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows, TrainWindows
from rsseg.dataset import Data, Numbers
from rsseg.distributed import is_main
from rsseg.files import write_json
from rsseg.inference.picture import pick_windows
from rsseg.losses.class_weights import uncounted
from rsseg.module import SegmentationModule
from rsseg.setup import Setup

log = logging.getLogger(__name__)

PROBES = 4
"""Windows on which gradients, and gains, are recorded."""


def make_recorder(setup: Setup, run: RunFolder, module: SegmentationModule, data: Data, sampler: Places) -> Recorder:
    """The callback that records a run; its probe windows are the first of the training stream, not augmented.

    Args:
        setup: The setup.
        run: The run folder.
        module: The module.
        data: The scenes.
        sampler: Where each training window lies.
    """
    val = data.stores["val"]
    stream = TrainWindows(data.stores["train"], setup.window, sampler)
    probes = [stream.batch([k]) for k in range(PROBES)] if is_main() else []
    held_out = pick_windows(val, setup.window, PROBES) if setup.record.gain and is_main() else []
    names = [scene.name for scene in val.scenes]
    panels = {head: _panel(setup, head, data.numbers) for head in setup.tasks}
    return Recorder(run.records, names, panels, make_snapshots(setup, module, val), probes, held_out)


def _panel(setup: Setup, head: str, numbers: Numbers) -> Panel:
    """The losses that a head is valued by."""
    task, facts = setup.tasks[head], setup.panel(head, numbers)
    counted = numbers.targets[task.target]
    losses = {name: build(node, f"panel.{name}", TERM, task=task.kind) for name, node in facts.items()}
    clipped = [task.classes[c] for c in uncounted(task, counted.positives, counted.valid)] if facts else []
    return Panel(losses, facts, clipped)


def _holds(store: Store) -> Holds:
    return {name: census.positives > 0 for name, census in store.censuses.items()}


def validation_windows(setup: Setup, store: Store) -> GridWindows:
    """The windows of whole scenes; one half of the scenes comes first, so that the other can be counted at its biases."""
    return GridWindows(store, setup.window, setup.overlap, in_halves(first_half(_holds(store))))


def make_snapshots(setup: Setup, module: SegmentationModule, store: Store) -> Snapshots:
    """What takes snapshots of a module while the scenes of a store are scored, by `validation_windows`."""
    return Snapshots(module.tasks, store.sizes, validation_windows(setup, store).cores, _holds(store))


def keep(run: RunFolder, name: str, taken: Mapping[str, Snapshot]) -> None:
    """Write snapshots, by head, as ``records/{name}.npz`` of a run folder."""
    arrays = {f"{head}/{key}": array for head, snapshot in taken.items() for key, array in snapshot.items()}
    write_arrays(run.records / f"{name}.npz", arrays)


def keep_thresholds(
    run: RunFolder, module: SegmentationModule, taken: Mapping[str, Snapshot], first: NDArray[np.bool_]
) -> None:
    """Tune thresholds on snapshots, by head, and write ``threshold.json``; a head that has diverged gets none.

    Real values have none: without another head there is no such file.
    """
    labelled, found = {head: snapshot for head, snapshot in taken.items() if not module.tasks[head].real}, {}
    for head, snapshot in labelled.items():
        try:
            found[head] = tune_thresholds(snapshot, module.tasks[head], first)
        except InputError as error:
            log.warning("No threshold is tuned for head %s: %s", head, error)
    if labelled:
        write_json(run.thresholds_file, found)
