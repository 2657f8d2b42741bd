"""The recorder of a run in training: the counts of every scene and the losses at every validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rsseg.comparison.records import ABOUT, FORMAT, chosen_index, half_quality, read_arrays, write_arrays
from rsseg.comparison.tuning import halves
from rsseg.config.build import TERM, build
from rsseg.config.folder import RunFolder
from rsseg.contract import Batch
from rsseg.data.groups import group_names
from rsseg.data.sampling import Places
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows, StoreWindows
from rsseg.dataset import Data, TrainStatistics
from rsseg.distributed import is_main
from rsseg.files import write_json
from rsseg.losses import Term
from rsseg.losses.class_weights import counted_weights
from rsseg.metrics import SampledLogits, choose_pixels, metrics
from rsseg.metrics.counters import LogitSample
from rsseg.metrics.scores import class_counts
from rsseg.module import SegmentationModule
from rsseg.pictures.windows import pick_windows
from rsseg.setup import Setup
from rsseg.task import Task
from rsseg.training.gradients import probe

HALVES = ("first", "second")
"""The names of the checkpoints that are the best on each half of the scenes."""

KEPT = 2**28
"""The most bytes of logits and targets that are kept of the last validation, to avoid predicting its scenes again."""


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
"""The panel: losses that are computed at each validation, whichever loss trains, by their names in ``configs/loss/term``.

Lovasz is binned: it is computed in the same single pass as the others, while the exact one would sort all errors.
"""

PROBES = 4  # windows, at most a batch of them, on which gradients, and gains, are recorded


class Panel(NamedTuple):
    """The losses that are computed at every validation of a head."""

    losses: Mapping[str, Term]  # by name, functions of sums over the batch
    facts: Mapping[str, Any]  # by name, the parameters of each


@dataclass(frozen=True)
class RecordedScenes:
    """The facts of a split's scenes for records."""

    scenes: list[str]  # the names of the scenes
    groups: list[str]  # the independent area of each scene
    holds: Mapping[str, NDArray[np.bool_]]  # [S, classes] by target, whether a scene's labels contain a class

    @property
    def first(self) -> NDArray[np.bool_]:
        """Whether each scene is in the first half, bool ``[S]``: if possible, both halves hold all classes of all targets."""
        return halves(np.concatenate(list(self.holds.values()), axis=1), self.groups)


class Recorder(L.Callback):
    """Writes ``records/step-000240.npz`` of the run folder after every validation; see docs/runs.md.

    For a validation that is the best so far on a half of the scenes, it also writes the logits of a sample of pixels, on which
    thresholds are tuned after training. A resumed run overwrites the files of validations that it repeats.
    """

    def __init__(
        self,
        folder: Path,  # the folder of the records
        split: RecordedScenes,  # the validation scenes
        panels: Mapping[str, Panel],  # by head, the losses to compute
        samples: Mapping[str, LogitSample],  # by head with labels, the pixels whose logits are kept
        windows: Sequence[Batch],  # the windows for gradients; only the main process needs them
        held_out: Sequence[Batch] = (),  # the windows for the one-step gain; empty: it is not recorded
    ) -> None:
        self.folder, self.split, self.panels, self.samples = folder, split, dict(panels), dict(samples)
        self.windows, self.held_out = list(windows), list(held_out)
        self.first = split.first
        self.improved = list[str]()  # the `HALVES` on which the last validation is the best so far
        # Logits by head and batches of the last step's validation; empty if larger than `KEPT`, or with several processes.
        self.kept: list[tuple[Mapping[str, Tensor], Batch]] = []
        self._quality: dict[int, list[float]] = {}  # by step, on the first half, the second, and all
        self._gradients: dict[str, dict[str, ArrayLike]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The scores of the validations so far."""
        return {"quality": self._quality}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore these scores."""
        self._quality = dict(state_dict["quality"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the description of the recorded arrays, and let the module compute the losses by half."""
        module: SegmentationModule = pl_module
        heads = {}
        module.value_by(self.first, {name: panel.losses for name, panel in self.panels.items()})
        for name, task in module.tasks.items():
            loss, panel = module.losses[name], self.panels[name]
            heads[name] = {
                "task": task.kind,
                "classes": list(task.classes),
                "terms": list(loss.terms),  # type: ignore[arg-type]
                "panel": dict(panel.facts),
            }
        about = {"format": FORMAT, "scenes": self.split.scenes, "groups": self.split.groups}
        if trainer.is_global_zero:
            write_json(self.folder / ABOUT, about | {"first_half": self.first.tolist(), "heads": heads})

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record the gradients of the weights that are scored: averaged weights are in place from the first batch on."""
        if batch_idx:
            return
        self.forget()
        if trainer.is_global_zero:
            found = probe(trainer, pl_module, self.windows, self.held_out)
            self._gradients = {head: {key: value.numpy() for key, value in values.items()} for head, values in found.items()}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, *given: Any, **_: Any) -> None:
        """Add the batch to the sample; at the run's last step keep its logits too if all fit into `KEPT`."""
        outputs, batch, batch_idx = given[:3]
        self.gather(outputs, batch)
        if trainer.global_step < trainer.max_steps or trainer.world_size > 1 or len(self.kept) < batch_idx:
            return
        kept: Any = {**batch, "image": batch["image"][:0]}
        self.kept.append((outputs, kept))
        if _nbytes(self.kept) > KEPT:
            self.kept.clear()

    def forget(self) -> None:
        """Drop the sample and the kept logits."""
        self.kept.clear()
        for sample in self.samples.values():
            sample.reset()

    def gather(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Add a batch's logits by head to the sample."""
        for name, sample in self.samples.items():
            sample.update(outputs[name], batch["k"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the record; Lightning calls this before the module resets its counts and before the checkpoint is written."""
        module: SegmentationModule = pl_module
        step = trainer.global_step
        arrays: dict[str, ArrayLike] = {}
        quality: list[float] = []
        for name, task in module.tasks.items():
            counted = module.scene_sums[name].compute().cpu().numpy()  # type: ignore[operator]
            counts = counted if task.real else class_counts(counted, task).astype(np.int64)
            losses = module.split_losses[name].values()
            if not quality:  # the first head chooses
                metric = metrics(task, module.without[name])[task.score]
                quality = half_quality(metric, counts.astype(np.float64), self.first).tolist()
            found = {"step": np.int64(step), "counts": counts, "values": losses.panel, "own": losses.own, "quality": quality}
            arrays |= {f"{name}/{key}": value for key, value in {**found, **self._gradients.get(name, {})}.items()}
        self._quality = {at: known for at, known in self._quality.items() if at < step} | {step: quality}
        self.improved = [name for name, at in zip(HALVES, self.chosen, strict=True) if at == step and not self.first.all()]
        if self.improved:
            sampled = {f"{name}/logits": sample.compute().logits for name, sample in self.samples.items()}
        if trainer.is_global_zero:
            if self.improved:
                write_arrays(self._sample_file(step), sampled, packed=False)
            write_arrays(self.folder / f"step-{step:06d}.npz", arrays)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Remove the samples of checkpoints that are no longer the best on a half."""
        if trainer.is_global_zero:
            self.remove_samples(self.chosen)

    @property
    def chosen(self) -> tuple[int, int]:
        """The steps of the best validations so far on the first and on the second half of the scenes."""
        steps, quality = list(self._quality), np.array(list(self._quality.values()))
        one, other = (steps[chosen_index(quality[:, half])] for half in (0, 1))
        return one, other

    def sample(self, head: str, step: int | None = None) -> SampledLogits:
        """The sample of the checkpoint of a step that is the best on a half; None: the sample in memory."""
        sample = self.samples[head]
        if step is None:
            return sample.compute()
        return sample.of(read_arrays(self._sample_file(step))[f"{head}/logits"])

    def remove_samples(self, but: Sequence[int] = ()) -> None:
        """Remove the samples of all checkpoints except those of the steps `but`."""
        for path in self.folder.glob("sample-*.npz"):
            if path not in map(self._sample_file, but):
                path.unlink(missing_ok=True)

    def _sample_file(self, step: int) -> Path:
        return self.folder / f"sample-{step:06d}.npz"


def _nbytes(kept: Sequence[tuple[Mapping[str, Tensor], Batch]]) -> int:
    values = (value for outputs, batch in kept for value in (*outputs.values(), *batch.values()))
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def make_recorder(setup: Setup, run: RunFolder, data: Data, sampler: Places) -> Recorder:
    """The callback that records a run; its gradient windows are the first of the training stream, without augmentation."""
    val = data.stores["val"]
    stream = StoreWindows(data.stores["train"], setup.window, sampler)
    probes = [stream.batch([k]) for k in range(min(PROBES, setup.batch_size))] if is_main() else []
    held_out = pick_windows(val, setup.window, PROBES) if setup.record.gain and is_main() else []
    panels = {head: _panel(setup, head, data.numbers) for head in setup.tasks}
    return Recorder(run.records, recorded_split(val), panels, make_samples(setup, val), probes, held_out)


def recorded_split(store: Store) -> RecordedScenes:
    """The facts of a store's scenes for records."""
    names, groups = [scene.name for scene in store.scenes], group_names(store.scenes)
    return RecordedScenes(names, groups, {target: census.positives > 0 for target, census in store.censuses.items()})


def labelled_tasks(setup: Setup) -> dict[str, Task]:
    """The tasks of the heads whose targets hold labels."""
    return {name: task for name, task in setup.tasks.items() if not task.real}


def make_samples(setup: Setup, store: Store) -> dict[str, LogitSample]:
    """By head with labels, the sampler of logits, which is fed while the grid over all scenes is predicted."""
    cells = GridWindows(store, setup.window, setup.margin).cells
    return {name: LogitSample(_pixels(store, task), cells, task) for name, task in labelled_tasks(setup).items()}


def _pixels(store: Store, task: Task) -> Any:
    """The pixels to sample for a head."""
    layers = (store.arrays(scene)[1].get(task.target) for scene in range(len(store)))
    masks = (None if mask is None else task.hard_labels(np.asarray(mask)) for mask in layers)
    return choose_pixels(masks, len(store), task)


def panel_facts(task: Task, numbers: TrainStatistics) -> dict[str, dict[str, Any]]:
    """The parameters of each loss of a head's panel, by name, with class weights as numbers; empty for real values."""
    losses, counted = {} if task.real else PANEL, numbers.targets[task.target]
    return {name: counted_weights(node, f"panel.{name}", task, counted) for name, node in losses.items()}


def _panel(setup: Setup, head: str, numbers: TrainStatistics) -> Panel:
    """The panel of a head."""
    task = setup.tasks[head]
    facts = panel_facts(task, numbers)
    return Panel({name: build(node, f"panel.{name}", TERM, task=task.kind) for name, node in facts.items()}, facts)
