"""What records a run while it trains: a callback for every validation, and snapshots of whole scenes at chosen checkpoints."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rsseg.compare.gradients import probe
from rsseg.compare.panel import ErrorMeans, PanelSums
from rsseg.compare.records import ABOUT, CROSSFIT, OWN, write_arrays
from rsseg.compare.tuning import Overlap, halves, scenes_bias, tunable
from rsseg.contract import IGNORE, Batch, InputError, layers_of
from rsseg.data.windows import Core
from rsseg.files import write_json
from rsseg.losses import Composite, Term
from rsseg.metrics import Boundary, Confusion, LogitSample, ScoreHistogram
from rsseg.module import SegmentationModule
from rsseg.task import Task

SAMPLE = 2**15
"""Pixels whose logits are kept of a multiclass run, at most 1024 and at least one per class and scene."""

Snapshot: TypeAlias = dict[str, NDArray[Any]]
"""What whole scenes say of a checkpoint of a head: arrays by name, as docs/records.md describes them."""

log = logging.getLogger(__name__)


class Panel(NamedTuple):
    """The losses that every validation of a head is valued by.

    Attributes:
        losses: By name, functions of sums over the batch.
        facts: By name, what each of them was made with.
        clipped: The classes whose weight in the weighted cross-entropy could not be counted.
    """

    losses: Mapping[str, Term]
    facts: Mapping[str, Any]
    clipped: list[str]


class Recorder(L.Callback):
    """Writes ``records/step-000240.npz`` of the run folder after every validation; see docs/records.md.

    A file holds, per head, every scene's confusion matrix (of V real values: 6 V sums of errors; of objects of K
    classes: 3 K counts), the value of every loss of
    the panel, and of the one that trains, on each half of the scenes, and each weighted term's gradient norms and cosines on
    the probe windows. With S scenes, P planes of K x K counts, N losses in the panel and T terms its arrays take
    ``8 (S P K^2 + 2 N + 2 T (T + 1) + T + 3)`` bytes (6 V for P K^2), before they are compressed. A resumed run writes the
    validations that it repeats again, under their names.

    Attributes:
        taken: The snapshots of the last step by head, if one process alone has validated it: contours need whole scenes.

    Args:
        folder: The folder of its records.
        scenes: The validation scenes' names.
        panels: By head, the losses to be valued.
        snapshots: Takes the snapshots, and knows which scenes are the first half.
        windows: The probe windows; needed in the main process alone.
        held_out: The windows of the one-step gain; none: it is not recorded.
    """

    def __init__(
        self,
        folder: Path,
        scenes: Sequence[str],
        panels: Mapping[str, Panel],
        snapshots: Snapshots,
        windows: Sequence[Batch],
        held_out: Sequence[Batch] = (),
    ) -> None:
        self.folder, self.scenes, self.panels = folder, list(scenes), dict(panels)
        self.windows, self.held_out = list(windows), list(held_out)
        self.snapshots, self.first = snapshots, snapshots.first
        self.taken: dict[str, Snapshot] | None = None
        self._sums: dict[str, PanelSums] = {}  # of the panel, on labels
        self._own: dict[str, PanelSums | ErrorMeans] = {}  # of the loss that trains, on what it is given
        self._gradients: dict[str, dict[str, ArrayLike]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what the numbers are about."""
        module, heads = _segmentation(pl_module), {}
        for name, task in module.tasks.items():
            loss, panel = module.losses[name], self.panels[name]
            self._sums[name] = PanelSums(task, panel.losses, self.first)
            if isinstance(loss, Composite) and task.real and _of_means(loss):
                self._own[name] = ErrorMeans(copy.deepcopy(loss), self.first)
            elif isinstance(loss, Composite) and _of_sums(loss):
                self._own[name] = PanelSums(task, {OWN: copy.deepcopy(loss).cpu()}, self.first)
            heads[name] = {
                "task": task.kind,
                "classes": list(task.classes),
                "terms": list(loss.terms),  # type: ignore[arg-type]
                "weights": loss.weights,
                "panel": dict(panel.facts),
                "clipped": panel.clipped,
            }
        if trainer.is_global_zero:
            write_json(self.folder / ABOUT, {"scenes": self.scenes, "first_half": self.first.tolist(), "heads": heads})

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Probe the weights that are being scored: averaged ones are in place between the first batch and the last."""
        if batch_idx:
            return
        for sums in (*self._sums.values(), *self._own.values()):
            sums.reset()
        if trainer.is_global_zero:
            found = probe(trainer, _segmentation(pl_module), self.windows, self.held_out)
            self._gradients = {head: {key: value.numpy() for key, value in values.items()} for head, values in found.items()}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *given: Any, **_: Any) -> None:
        """Add a batch to the sums."""
        outputs, batch = given[:2]
        module, layers = _segmentation(pl_module), layers_of(batch)
        for name, sums in self._sums.items():
            task = module.tasks[name]
            sums.update(outputs[name], task.hard_labels(layers[task.target]), batch["scene"])
        for name, own in self._own.items():
            given = outputs[name], layers[module.tasks[name].target], layers.get("weight")
            _, target, weight = module.losses[name].given(*given)  # type: ignore[operator]
            own.update(outputs[name], target, batch["scene"], weight)
        if _last_alone(trainer):
            self.snapshots.count(outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record; Lightning calls this before the module forgets its counts and before the checkpoint."""
        module = _segmentation(pl_module)
        arrays: dict[str, ArrayLike] = {}
        for name, sums in self._sums.items():
            own = self._own[name].values()[0] if name in self._own else np.full(2, np.nan)
            found = {"step": np.int64(trainer.global_step), OWN: own}
            found |= {"values": sums.values(), **self._gradients.get(name, {})}
            found[module.tasks[name].counted] = module.scene_sums[name].compute().cpu().numpy()  # type: ignore[operator]
            arrays |= {f"{name}/{key}": value for key, value in found.items()}
        if trainer.is_global_zero:
            write_arrays(self.folder / f"step-{trainer.global_step:06d}.npz", arrays)
        if _last_alone(trainer):
            self.taken = self.snapshots.take(trainer.global_step)


def _of_sums(loss: Composite) -> bool:
    """Whether a loss is a function of sums over the pixels of a batch, and can be valued on half of the scenes."""
    terms = [term for name, term in loss.terms.items() if loss.weights[name]]
    if loss.label_smoothing and not all(getattr(term, "soft", False) for term in terms):  # sums of two targets
        return False
    return all(isinstance(term, Term) and term.needs and {over for _, over in term.needs} == {"batch"} for term in terms)


def _of_means(loss: Composite) -> bool:
    """Whether a loss of real values is a function of means over pixels."""
    return all(hasattr(term, "of_mean") for name, term in loss.terms.items() if loss.weights[name])


def _last_alone(trainer: L.Trainer) -> bool:
    """Whether one process alone validates the run's last step."""
    return trainer.world_size == 1 and trainer.global_step == trainer.max_steps


def _segmentation(module: L.LightningModule) -> SegmentationModule:
    assert isinstance(module, SegmentationModule)
    return module


Holds: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""By target, which classes each scene's labels hold: bool ``[S, K]``."""


def first_half(holds: Holds) -> NDArray[np.bool_]:
    """Which scenes are the first half: bool ``[S]``, such that each half holds every class of every target if it can."""
    return halves(np.concatenate(list(holds.values()), axis=1))


def in_halves(first: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The scenes, the first half before the second.

    Example:
        >>> in_halves(np.array([False, True, True, False]))
        array([1, 2, 0, 3])
    """
    return np.argsort(~first, kind="stable")


class Snapshots:
    """Takes the snapshot of a module while one process validates it, window after window of whole scenes.

    A bias is tuned on one half of the scenes to score the other. When the first half is through its sample is complete, so
    that the second is counted at its bias at once; the first half needs half a validation more, see `count_again`.

    A snapshot takes at most ``4 KiB * S * (K + 1)`` for histograms, ``24 S K`` bytes for contours, and for a multiclass
    sample ``(4 K + 24) max(SAMPLE, S K)`` bytes. While a scene is put together and its bands are counted, 16 bytes per pixel of
    it are in memory. Of real values it says the step alone: they have no threshold to tune and no contours.

    Args:
        tasks: Each head's task.
        sizes: ``[S, 2]``, the scenes' heights and widths.
        cores: The windows, scene after scene, those of the first half before the others.
        holds: By target, bool ``[S, K]``: which classes each scene's labels hold.

    Raises:
        ValueError: If the windows come in another order.
    """

    def __init__(self, tasks: Mapping[str, Task], sizes: NDArray[np.int64], cores: Sequence[Core], holds: Holds) -> None:
        self.tasks, self.sizes, self.cores = dict(tasks), sizes, cores
        self.first = first_half(holds)
        if np.diff(self.first[[core.scene for core in cores]].astype(int)).max(initial=0) > 0:
            raise ValueError("a window of the first half comes after one of the second: see in_halves")
        scenes = len(sizes)
        labelled = {name: task for name, task in tasks.items() if not task.real}
        self.histograms = {name: ScoreHistogram(task, scenes) for name, task in labelled.items()}
        self.boundaries = {name: Boundary(task, scenes) for name, task in labelled.items()}
        self.samples = {
            name: LogitSample(task.channels, scenes, most=min(1024, max(1, SAMPLE // (scenes * task.channels))))
            for name, task in tasks.items()
            if task.exclusive
        }
        self.halves = [TunedCounts(tasks, self.samples, holds, part) for part in (~self.first, self.first)]
        self._scenes: dict[str, tuple[Tensor, Tensor]] = {}  # prediction and mask of the scene that is being put together

    def count(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch, logits by head."""
        layers, scene, k = layers_of(batch), batch["scene"], batch["k"]
        for name, histogram in self.histograms.items():
            logits, task = outputs[name], self.tasks[name]
            truth = task.hard_labels(layers[task.target])
            histogram.to(logits.device).update(logits, truth, scene)
            if name in self.samples:
                self.samples[name].update(logits, truth, scene, k)
            predicted = task.predict(logits).to(torch.uint8)
            for labels, target, number in zip(predicted, truth, k.tolist(), strict=True):
                self._place(name, labels, target, number)
        self.halves[0].count(outputs, batch)

    @property
    def tuned(self) -> bool:
        """Whether there are biases, once all scenes have been counted."""
        return any(self.halves[0].at.values())

    def count_again(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch of the first half at the biases of the second, once all scenes have been counted."""
        self.halves[1].count(outputs, batch)

    def _place(self, name: str, labels: Tensor, target: Tensor, k: int) -> None:
        """Put a window's inner part into its scene; a scene that is complete is counted."""
        core = self.cores[k]
        if k == 0 or self.cores[k - 1].scene != core.scene:
            shape = (*target.shape[:-2], *self.sizes[core.scene].tolist())
            empty = torch.full(shape, IGNORE, dtype=torch.uint8, device=target.device)
            self._scenes[name] = empty, empty.clone()
        for whole, part in zip(self._scenes[name], (labels, target), strict=True):
            rows, columns = (core.inner_top, core.inner_bottom), (core.inner_left, core.inner_right)
            there = whole[..., core.top + rows[0] : core.top + rows[1], core.left + columns[0] : core.left + columns[1]]
            there.copy_(part[..., slice(*rows), slice(*columns)])
        if k == len(self.cores) - 1 or self.cores[k + 1].scene != core.scene:
            predicted, mask = (whole.unsqueeze(0) for whole in self._scenes.pop(name))
            number = torch.tensor([core.scene], device=mask.device)
            self.boundaries[name].to(mask.device).update(predicted, mask, number)

    def take(self, step: int) -> dict[str, Snapshot]:
        """The snapshots by head, of a checkpoint of this step; with counts at biases where both halves have them."""
        taken = {name: {"step": np.array(step)} for name in self.tasks}
        for name, histogram in self.histograms.items():
            taken[name] |= {
                "boundary": self.boundaries[name].counts.cpu().numpy(),
                "lost": np.array(int(histogram.lost)),
                "histogram": histogram.counts.cpu().numpy(),
            }
            if name in self.samples:
                sample = self.samples[name].compute()._asdict()
                taken[name] |= {f"sample.{part}": value.numpy() for part, value in sample.items()}
            one, other = (half.at.get(name) or {} for half in self.halves)
            for of in CROSSFIT if one and other else ():
                taken[name][f"crossfit.{of}"] = (one[of][1].counts + other[of][1].counts).cpu().numpy()
        return taken


class TunedCounts:
    """Counts the scenes of one half at biases that were tuned on a sample of the other half, while these are validated.

    Counts take ``24 S K^2`` bytes a head from when it is tuned.

    Args:
        tasks: Each head's task.
        samples: Of multiclass heads, complete for the other half before the first scene of this one is counted.
        holds: By target, bool ``[S, K]``: which classes each scene's labels hold.
        part: bool ``[S]``, the scenes that are counted.
    """

    def __init__(
        self, tasks: Mapping[str, Task], samples: Mapping[str, LogitSample], holds: Holds, part: NDArray[np.bool_]
    ) -> None:
        self.tasks, self.samples, self.holds, self.part = tasks, samples, holds, part
        self.counted = torch.from_numpy(part)
        self.at: dict[str, dict[str, tuple[Tensor, Confusion]]] = {}  # the biases of a head, and what is counted at them

    def count(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch, logits by head."""
        layers, scene = layers_of(batch), batch["scene"]
        here = self.counted.to(scene.device)[scene].nonzero().flatten()
        if not len(here):
            return
        for name in self.samples:
            if name not in self.at:
                biases = self._tune(name)
                self.at[name] = {of: (bias, Confusion(self.tasks[name], len(self.part))) for of, bias in biases.items()}
            for bias, confusion in self.at[name].values():
                moved = outputs[name][here] + bias.to(here.device).view(-1, 1, 1)
                confusion.to(here.device).update(moved, layers[self.tasks[name].target][here], scene[here])

    def _tune(self, name: str) -> dict[str, Tensor]:
        """The biases by what they are tuned for; none if there is nothing to tune on."""
        try:
            classes = tunable(self.holds[self.tasks[name].target], self.part, least=2)
            sample = self.samples[name].compute()
            tuned = {of: scenes_bias(sample, ~self.part, of, classes) for of in get_args(Overlap)}
        except InputError as error:
            log.warning("Head %s is not counted at tuned biases: %s", name, error)
            return {}
        return {of: torch.from_numpy(bias).float() for of, bias in tuned.items()} | {"fixed": torch.zeros(len(classes))}
