"""Cross-fitting after training: each half of the scenes is counted by the checkpoint and thresholds of the other half."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.comparison.records import of_head, read_arrays, write_arrays
from rsseg.comparison.tuning import Overlap, shared, threshold_facts, tune
from rsseg.config.folder import RunFolder
from rsseg.contract import Batch, InputError
from rsseg.data.store import Store
from rsseg.data.windows import GridCell
from rsseg.files import write_json
from rsseg.metrics import SampledLogits
from rsseg.metrics.average import Array
from rsseg.metrics.scaling import scaling_facts
from rsseg.setup import Setup
from rsseg.task import Task
from rsseg.training.counting import SceneCounter
from rsseg.training.recorder import Recorder, labelled_tasks

log = logging.getLogger(__name__)

Count = Callable[[Mapping[str, Tensor], Batch], None]  # takes a batch of logits by head


class Crossing:
    """Counts each half of the scenes with the checkpoint that the other half chose, for ``records/crossed.npz``.

    If there is only one group, and so no other half, the best checkpoint counts all scenes. Counts of the same checkpoint that
    the file already holds are kept, because its weights may be gone when a run is scored again or resumed with more steps.
    """

    def __init__(self, setup: Setup, run: RunFolder, store: Store, recorder: Recorder, best: int) -> None:
        self._tasks, first, self._path = labelled_tasks(setup), recorder.first, run.records / "crossed.npz"
        self.steps = (best, best) if first.all() else recorder.chosen  # of the checkpoints that each half chose
        self._by = np.where(first, *self.steps[::-1])  # [S], the step of the checkpoint that counts each scene
        before = read_arrays(self._path) if self._path.is_file() else {}
        self._before = {name: of_head(before, name) for name in self._tasks}
        self._known = np.ones_like(first)  # [S], whether the file holds a scene's counts
        for own in self._before.values():
            if own:
                self._known &= np.where(first, *own["steps"][::-1]) == self._by
            else:
                self._known[:] = False
        self._todo = ~self._known
        self._counters, self._untuned = dict[str, SceneCounter](), dict[str, str]()
        for name, task in self._tasks.items() if self._todo.any() else ():
            thresholds, self._untuned[name] = self._tune(recorder, name, task)
            self._counters[name] = SceneCounter(task, store.sizes, thresholds)

    def _tune(self, recorder: Recorder, name: str, task: Task) -> tuple[dict[str, Array], str]:
        """Thresholds ``[S, channels]`` by score, each scene's tuned on the other half; or none and the reason."""
        first, holds = recorder.first, recorder.split.holds[task.target]
        classes, least = shared(holds, first), 1 + task.exclusive
        if first.all():
            return {}, "the validation scenes are of one group: validate on more, or take fewer folds"
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
        """The indices of the scenes that the checkpoint of a step still has to count."""
        return np.flatnonzero(self._todo & (self._by == step))

    def counter(self, step: int, cells: Sequence[GridCell]) -> Count:
        """A function that counts these scenes; call it once with each batch of the grid of windows."""
        wanted = self._todo & (self._by == step)
        self._todo &= ~wanted
        return partial(self._count, cells=cells, wanted=wanted)

    def _count(self, outputs: Mapping[str, Tensor], batch: Batch, cells: Sequence[GridCell], wanted: NDArray[np.bool_]) -> None:
        """Count the windows of a batch that are of the wanted scenes, bool ``[S]``."""
        here = torch.from_numpy(wanted).to(batch["scene"].device)[batch["scene"]]
        whole: Any = batch
        if here.any():
            part: Any = {key: value[here.to(value.device)] for key, value in whole.items() if key != "image"}
            for name, counter in self._counters.items():
                counter.update(outputs[name][here], part, cells)

    def write(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Write the file, unless it holds all counts already; returns its arrays by head."""
        if self._known.all():
            return self._before
        result = {}
        for name, counter in self._counters.items():
            found, untuned = counter.arrays(), self._untuned[name]
            if self._known.any():
                before = self._before[name]
                untuned = str(before["untuned"]) or untuned
                for key, value in found.items():
                    scenes = self._known.reshape(-1, *[1] * (value.ndim - 1 - (key == "counts")))
                    found[key] = np.where(scenes, before[key], value)
            result[name] = found | {"steps": np.array(self.steps), "untuned": np.array(untuned)}
        write_arrays(self._path, {f"{name}/{key}": value for name, own in result.items() for key, value in own.items()})
        return result


def keep_tuned(
    run: RunFolder,
    tasks: Mapping[str, Task],
    samples: Mapping[str, SampledLogits],
    step: int,
    recorder: Recorder,
    crossed: Mapping[str, Mapping[str, NDArray[Any]]],
) -> None:
    """Tune thresholds and fit scalings on samples of the best checkpoint, by head: ``threshold.json``, ``scaling.json``.

    A diverged checkpoint has no thresholds. Heads with real values have none either; without other heads no file is written.
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
