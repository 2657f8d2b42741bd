"""What is recorded of a run: while it trains, and of the checkpoints that were chosen once training is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsseg.comparison.records import of_head, read_arrays, write_arrays
from rsseg.comparison.tuning import Overlap, shared, threshold_facts, tune
from rsseg.config.build import TERM, build
from rsseg.config.folder import RunFolder
from rsseg.contract import Batch, InputError
from rsseg.data.groups import group_names
from rsseg.data.sampling import Places
from rsseg.data.store import Store
from rsseg.data.windows import GridCell, GridWindows, StoreWindows
from rsseg.dataset import Data, TrainStatistics
from rsseg.distributed import is_main
from rsseg.files import write_json
from rsseg.losses.class_weights import counted_weights
from rsseg.metrics import Sample, choose_pixels
from rsseg.metrics.counters import LogitSample
from rsseg.metrics.scaling import scaling_facts
from rsseg.pictures.windows import pick_windows
from rsseg.setup import Setup
from rsseg.task import Task
from rsseg.training.counting import PointCounts, Thresholds
from rsseg.training.recorder import Panel, Recorder, Split

log = logging.getLogger(__name__)

PANEL: Mapping[str, Mapping[str, Any]] = {
    "ce": {"_target_": "rsseg.losses.CrossEntropy"},
    "weighted_ce": {"_target_": "rsseg.losses.CrossEntropy", "class_weights": "inverse_frequency"},
    "focal": {"_target_": "rsseg.losses.Focal", "gamma": 2.0},
    "dice": {"_target_": "rsseg.losses.Dice"},
    "jaccard": {"_target_": "rsseg.losses.Jaccard"},
    "tversky": {"_target_": "rsseg.losses.Tversky", "alpha": 0.3, "beta": 0.7},
    "focal_tversky": {"_target_": "rsseg.losses.FocalTversky", "alpha": 0.3, "beta": 0.7, "gamma": 0.75},
    "lovasz_binned": {"_target_": "rsseg.losses.Lovasz", "bins": 512},
}
"""The panel: losses that value each validation, whichever one trains, under the names of ``configs/loss/term``.

Binned Lovasz joins the one pass, where the exact one would sort every error.
"""

PROBES = 4  # windows, at most a batch of them, on which gradients, and gains, are recorded


def make_recorder(setup: Setup, run: RunFolder, data: Data, sampler: Places) -> Recorder:
    """The callback that records a run; its probe windows are the first of the training stream, not augmented."""
    val = data.stores["val"]
    stream = StoreWindows(data.stores["train"], setup.window, sampler)
    probes = [stream.batch([k]) for k in range(min(PROBES, setup.batch_size))] if is_main() else []
    held_out = pick_windows(val, setup.window, PROBES) if setup.record.gain and is_main() else []
    panels = {head: _panel(setup, head, data.numbers) for head in setup.tasks}
    return Recorder(run.records, recorded_split(val), panels, make_samples(setup, val), probes, held_out)


def recorded_split(store: Store) -> Split:
    """The scenes of a store, as they are recorded."""
    names, groups = [scene.name for scene in store.scenes], group_names(store.scenes)
    return Split(names, groups, {target: census.positives > 0 for target, census in store.censuses.items()})


def labelled_tasks(setup: Setup) -> dict[str, Task]:
    """The tasks of the heads whose targets hold labels."""
    return {name: task for name, task in setup.tasks.items() if not task.real}


def make_samples(setup: Setup, store: Store) -> dict[str, LogitSample]:
    """By head with labels, what gathers the logits of a sample of pixels while the grid over all scenes is predicted."""
    cores = GridWindows(store, setup.window, setup.margin).cores
    return {name: LogitSample(_pixels(store, task), cores, task) for name, task in labelled_tasks(setup).items()}


def _pixels(store: Store, task: Task) -> Any:
    """The pixels of the sample of a head."""
    layers = (store.arrays(scene)[1].get(task.target) for scene in range(len(store)))
    masks = (None if mask is None else task.hard_labels(np.asarray(mask)) for mask in layers)
    return choose_pixels(masks, len(store), task)


def panel_facts(task: Task, numbers: TrainStatistics) -> dict[str, dict[str, Any]]:
    """What the losses of a head's panel are made with, counted weights as numbers, by name; none for real values."""
    losses, counted = {} if task.real else PANEL, numbers.targets[task.target]
    return {name: counted_weights(node, f"panel.{name}", task, counted) for name, node in losses.items()}


def _panel(setup: Setup, head: str, numbers: TrainStatistics) -> Panel:
    """The losses that a head is valued by."""
    task = setup.tasks[head]
    facts = panel_facts(task, numbers)
    return Panel({name: build(node, f"panel.{name}", TERM, task=task.kind) for name, node in facts.items()}, facts)


Count = Callable[[Mapping[str, Tensor], Batch], None]  # what takes a batch of logits by head


class Crossing:
    """Counts each half of the scenes by the checkpoint that was chosen on the other, for ``records/crossed.npz``.

    Scenes of one group have no other half: they are counted by the best checkpoint. What the file holds of the same checkpoint
    already is kept: a run may be scored again, or go on to more steps, when the weights of its halves are gone.
    """

    def __init__(self, setup: Setup, run: RunFolder, store: Store, recorder: Recorder, best: int) -> None:
        self._tasks, first, self._path = labelled_tasks(setup), recorder.first, run.records / "crossed.npz"
        self.steps = (best, best) if first.all() else recorder.chosen  # of the checkpoints that were chosen on each half
        self._by = np.where(first, *self.steps[::-1])  # the checkpoint that each scene is counted by
        before = read_arrays(self._path) if self._path.is_file() else {}
        self._before = {name: of_head(before, name) for name in self._tasks}
        self._known = np.ones_like(first)  # what is counted already
        for own in self._before.values():
            self._known &= np.where(first, *own["steps"][::-1]) == self._by if own else False
        self._todo = ~self._known
        tuned = {name: self._tune(recorder, name, task) for name, task in self._tasks.items()}
        self._untuned = {name: why for name, (_, why) in tuned.items()}
        self._counts = PointCounts(self._tasks, store.sizes, {name: thresholds for name, (thresholds, _) in tuned.items()})

    def _tune(self, recorder: Recorder, name: str, task: Task) -> tuple[Thresholds, str]:
        """The thresholds of each scene, tuned on the half that it is not in; none, and why, where that can't be done."""
        first, holds = recorder.first, recorder.split.holds[task.target]
        classes, least = shared(holds, first), 1 + task.exclusive
        if first.all():
            return {}, "the validation scenes are of one group: validate on more"
        if classes.sum() < least:
            return {}, (
                f"tuning on one half of the scenes and scoring on the other needs {least} class{'es' * (least > 1)} with "
                f"labels in both; found {int(classes.sum())} in {len(holds)} scenes: label more scenes"
            )
        found = {of: np.zeros((len(first), task.channels)) for of in get_args(Overlap)}
        for step, half in zip(self.steps, (first, ~first), strict=True):
            if not self._todo[~half].any():
                continue
            try:
                sample = recorder.sample(name, step)
                for of, thresholds in found.items():
                    thresholds[~half] = tune(sample, task, half, classes, of)
            except InputError as error:
                log.warning("Head %s is not counted at tuned %s: %s", name, task.all_tuned, error)
                return {}, str(error)
        return found, ""

    def scenes(self, step: int) -> NDArray[np.intp]:
        """The scenes that are still to be counted by the checkpoint of a step."""
        return np.flatnonzero(self._todo & (self._by == step))

    def counter(self, step: int, cores: Sequence[GridCell]) -> Count:
        """What counts these scenes, once, from the batches of a grid of windows."""
        wanted = self._todo & (self._by == step)
        self._todo &= ~wanted
        return partial(self._counts.count, cores=cores, wanted=wanted)

    def write(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Write the file; returns its arrays by head."""
        result = {name: self._counts.arrays(name) for name in self._tasks}
        for name, found in result.items():
            untuned = self._untuned[name]
            if self._known.any():
                before = self._before[name]
                untuned = str(before["untuned"]) or untuned
                for key, value in found.items():
                    scenes = self._known.reshape(-1, *[1] * (value.ndim - 1 - (key == "counts")))
                    found[key] = np.where(scenes, before[key], value)
            found |= {"steps": np.array(self.steps), "untuned": np.array(untuned)}
        if result:
            write_arrays(self._path, {f"{name}/{key}": value for name, own in result.items() for key, value in own.items()})
        return result


def keep_tuned(
    run: RunFolder,
    tasks: Mapping[str, Task],
    samples: Mapping[str, Sample],
    step: int,
    recorder: Recorder,
    crossed: Mapping[str, Mapping[str, NDArray[Any]]],
) -> None:
    """Tune thresholds and fit scalings on samples of the best checkpoint, by head: ``threshold.json``, ``scaling.json``.

    A checkpoint that has diverged has none. Real values have none: without another head there are no such files.
    """
    thresholds, scalings = {}, {}
    for head, sample in samples.items():
        counts, classes = crossed[head]["counts"][:2], shared(recorder.split.holds[tasks[head].target], recorder.first)
        known = not np.isnan(counts).any() and not recorder.first.all()
        try:
            if crossed[head]["lost"].any():
                raise InputError("the run has diverged; lower its learning rate")
            thresholds[head] = threshold_facts(sample, tasks[head], step, classes, counts if known else None)
        except InputError as error:
            log.warning("No threshold is tuned for head %s: %s", head, error)
        try:
            scalings[head] = scaling_facts(sample, tasks[head], step, recorder.first)
        except InputError as error:
            log.warning("No scaling is fitted for head %s: %s", head, error)
    if samples:
        write_json(run.thresholds_file, thresholds)
        write_json(run.scaling_file, scalings)
