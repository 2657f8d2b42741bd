"""What is recorded of a run: while it trains, and of the checkpoints that were chosen once training is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsseg.compare.counting import PointCounts
from rsseg.compare.panel import Panel
from rsseg.compare.recorder import HALVES, Recorder, Split
from rsseg.compare.records import read_arrays, write_arrays
from rsseg.compare.tuning import Overlap, shared, threshold_facts, tune
from rsseg.config.build import TERM, build
from rsseg.config.folder import RunFolder
from rsseg.contract import Batch, InputError
from rsseg.data.groups import group_names
from rsseg.data.sampling import Places
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows, TrainWindows
from rsseg.dataset import Data, Numbers
from rsseg.distributed import is_main
from rsseg.files import write_json
from rsseg.inference.picture import pick_windows
from rsseg.losses.class_weights import uncounted
from rsseg.metrics import LogitSample, Sample, choose_pixels
from rsseg.setup import Setup
from rsseg.task import Task

log = logging.getLogger(__name__)

PROBES = 4
"""Windows on which gradients, and gains, are recorded."""


def make_recorder(setup: Setup, run: RunFolder, data: Data, sampler: Places) -> Recorder:
    """The callback that records a run; its probe windows are the first of the training stream, not augmented.

    Args:
        setup: The setup.
        run: The run folder.
        data: The scenes.
        sampler: Where each training window lies.
    """
    val = data.stores["val"]
    stream = TrainWindows(data.stores["train"], setup.window, sampler)
    probes = [stream.batch([k]) for k in range(PROBES)] if is_main() else []
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
    cores = GridWindows(store, setup.window, setup.overlap).cores
    return {name: LogitSample(_pixels(store, task), cores, task) for name, task in labelled_tasks(setup).items()}


def _pixels(store: Store, task: Task) -> Any:
    """The pixels of the sample of a head."""
    layers = (store.arrays(scene)[1].get(task.target) for scene in range(len(store)))
    masks = (None if mask is None else task.hard_labels(np.asarray(mask)) for mask in layers)
    return choose_pixels(masks, len(store), task)


def _panel(setup: Setup, head: str, numbers: Numbers) -> Panel:
    """The losses that a head is valued by."""
    task, facts = setup.tasks[head], setup.panel(head, numbers)
    counted = numbers.targets[task.target]
    losses = {name: build(node, f"panel.{name}", TERM, task=task.kind) for name, node in facts.items()}
    clipped = [task.classes[c] for c in uncounted(task, counted.positives, counted.valid)] if facts else []
    return Panel(losses, facts, clipped)


Count = Callable[[Mapping[str, Tensor], Batch], None]
"""What takes a batch of logits by head."""


def cross(
    setup: Setup, run: RunFolder, store: Store, recorder: Recorder, predict: Callable[[str, GridWindows, Count], None]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Count each half of the scenes by the checkpoint that was chosen on the other, and write ``records/crossed.npz``.

    What such a file holds of the same checkpoint already is kept: a run may be scored again, or go on to more steps, when the
    weights of its halves are gone.

    Args:
        setup: The setup.
        run: The run folder.
        store: The validation scenes.
        recorder: What has recorded the run.
        predict: Gives the batches of logits of some windows, by the weights of a checkpoint.

    Returns:
        By head with labels, the arrays of the file.
    """
    tasks, first, steps = labelled_tasks(setup), recorder.first, recorder.chosen
    if not tasks:
        return {}
    path = run.records / "crossed.npz"
    before = read_arrays(path) if path.is_file() else {}
    whole = bool(first.all())  # one group: all scenes are counted by the best checkpoint
    parts = [("best", first, first)] if whole else list(zip(HALVES, (first, ~first), (~first, first), strict=True))
    if whole:
        steps = (int(run.load_state()[1]),) * 2
    found: dict[str, list[dict[str, NDArray[Any]]]] = {name: [] for name in tasks}
    for half, (checkpoint, chosen_on, counted) in enumerate(parts):
        same = {name: before[f"{name}/steps"][half] == steps[half] for name in tasks if f"{name}/steps" in before}
        if len(same) == len(tasks) and all(same.values()):
            for name in tasks:
                found[name].append(_rows(before, name, counted))
            continue
        thresholds, untuned = {}, {}
        for name, task in tasks.items():
            thresholds[name], untuned[name] = _tuned(recorder, name, task, None if whole else steps[half], chosen_on)
        windows = GridWindows(store, setup.window, setup.overlap, np.flatnonzero(counted))
        counts = PointCounts(tasks, store.sizes, windows.cores, thresholds)
        predict(checkpoint, windows, counts.count)
        for name in tasks:
            found[name].append(counts.arrays(name) | {"untuned": np.array(untuned[name])})
    result = {name: _joined(rows) | {"steps": np.array(steps)} for name, rows in found.items()}
    write_arrays(path, {f"{name}/{key}": value for name, arrays in result.items() for key, value in arrays.items()})
    return result


def _rows(before: Mapping[str, NDArray[Any]], name: str, counted: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """What a file holds of some scenes of a head, 0 for the others."""
    own = {key.partition("/")[2]: value for key, value in before.items() if key.startswith(f"{name}/")}
    counts, untuned = own.pop("counts"), own.pop("untuned")
    del own["steps"]
    kept = {key: np.where(counted.reshape(-1, *[1] * (value.ndim - 1)), value, 0) for key, value in own.items()}
    return kept | {"counts": np.where(counted[:, None, None], counts, 0), "untuned": untuned}


def _joined(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The sums of what was counted of each half."""
    untuned = next((part["untuned"] for part in parts if str(part["untuned"])), np.array(""))
    counted = [key for key in sorted(parts[0]) if key != "untuned"]
    return {key: np.sum([part[key] for part in parts], axis=0) for key in counted} | {"untuned": untuned}


def _tuned(
    recorder: Recorder, name: str, task: Task, step: int | None, part: NDArray[np.bool_]
) -> tuple[dict[str, NDArray[np.float64]], str]:
    """What is tuned for a head on a half of the scenes; none, and why, where it can't be scored on the other."""
    holds = recorder.split.holds[task.target]
    classes = shared(holds, part)
    least = 1 + task.exclusive
    if step is None:
        return {}, "the validation scenes are of one group: validate on more"
    if classes.sum() < least:
        return {}, (
            f"tuning on one half of the scenes and scoring on the other needs {least} class{'es' * (least > 1)} with labels in "
            f"both; found {int(classes.sum())} in {len(holds)} scenes: label more scenes"
        )
    try:
        sample = recorder.sample(name, step)
        return {of: tune(sample, task, part, classes, of) for of in get_args(Overlap)}, ""
    except InputError as error:
        log.warning("Head %s is not counted at tuned %s: %s", name, task.all_tuned, error)
        return {}, str(error)


def keep_thresholds(
    run: RunFolder,
    tasks: Mapping[str, Task],
    samples: Mapping[str, Sample],
    step: int,
    recorder: Recorder,
    crossed: Mapping[str, Mapping[str, NDArray[Any]]],
) -> None:
    """Tune thresholds on samples of the best checkpoint, by head, and write ``threshold.json``; one that has diverged has none.

    Real values have none: without another head there is no such file.
    """
    found = {}
    for head, sample in samples.items():
        known = not np.isnan(crossed[head]["counts"][:2]).any() and not recorder.first.all()
        counts, classes = crossed[head]["counts"][:2], shared(recorder.split.holds[tasks[head].target], recorder.first)
        try:
            if crossed[head]["lost"].any():
                raise InputError("the run has diverged; lower its learning rate")
            found[head] = threshold_facts(sample, tasks[head], step, classes, counts if known else None)
        except InputError as error:
            log.warning("No threshold is tuned for head %s: %s", head, error)
    if samples:
        write_json(run.thresholds_file, found)
