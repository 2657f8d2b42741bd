"""The LightningModule: batch -> logits -> loss terms -> metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from rsseg.contract import Batch, InputError, Layers, known, layers_of
from rsseg.devices import exact_dtype
from rsseg.losses import Composite
from rsseg.metrics import SCENE_SUMS, AnyScores, Confusion, metrics, score_scenes
from rsseg.task import Task

Augmentation = Callable[[Tensor, Layers, Tensor], tuple[Tensor, Layers]]


def logged_names(tasks: Mapping[str, Task], terms: Mapping[str, Sequence[str]]) -> list[str]:
    """What a callback can monitor: all that a run logs at every validation, and what it logs there if it is monitored.

    Args:
        tasks: Each head's task.
        terms: The names of each head's loss terms.
    """
    found = ["val/loss"]
    for name, task in tasks.items():
        found += [f"val/{name}/{score}" for score in metrics(task)]
        found += [f"val/{name}/loss/{term}{kind}" for term in terms[name] for kind in ("", ".weighted")]
    return found


class SegmentationModule(L.LightningModule):
    """Trains and scores a network with one composition of losses per head.

    Logged per head: ``{stage}/{head}/loss/{term}`` and ``.../{term}.weighted`` for every term, ``{stage}/loss`` for the sum,
    and for validation ``val/{head}/{score}`` for each of `Task.scores`, per class ``val/{head}/{score}/{class}`` for each of
    `Task.class_scores`, and what is monitored.

    Args:
        network: Maps an image to logits by head.
        losses: The composition of each head.
        tasks: Each head's task.
        mean: Per band, what is subtracted from stored pixels.
        std: Per band, what they are divided by then.
        scenes: The number of scenes that are scored.
        steps: The run's optimiser steps, which the terms' weights may depend on; 0: all steps have the full weights. Validation
            always has them, so that its losses can be compared.
        seed: The run's seed; dropout at step s is a function of (seed, s).
        augmentations: Applied in turn to normalised training batches, on the device.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the schedule, stepped every optimiser step, from the optimizer.
        without: Classes that are left out of mean scores.
        monitored: Names of scores that are logged beside the usual ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        losses: Mapping[str, Composite],
        tasks: Mapping[str, Task],
        mean: Sequence[float],
        std: Sequence[float],
        scenes: int,
        steps: int = 0,
        seed: int = 0,
        augmentations: Sequence[Augmentation] = (),
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        scheduler: Callable[..., Any] | None = None,
        without: Sequence[str] = (),
        monitored: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.losses = nn.ModuleDict(losses)
        self.scene_sums = nn.ModuleDict({name: SCENE_SUMS[task.counted](task, scenes) for name, task in tasks.items()})
        self.tasks = dict(tasks)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.steps, self.seed = steps, seed
        self.lr: float | None = None  # where Lightning's LearningRateFinder leaves what it found
        self.terms: dict[str, Tensor] = {}  # the losses of the last training batch, by their names in the log
        self.gradient_norm: Tensor | None = None  # of the step that is about to be taken, if a callback has taken it
        self.augmentations, self._optimizer, self._scheduler = list(augmentations), optimizer, scheduler
        self.without, self.monitored = tuple(without), tuple(monitored)
        self.scores: dict[str, AnyScores] = {}
        self._val_losses: dict[str, Tensor] = {}

    def normalise(self, image: Tensor) -> Tensor:
        """Stored pixels ``[B, C, H, W]`` as float32 of about zero mean and unit deviation; NaN becomes 0, the mean."""
        values = torch.nan_to_num((image.float() - self.mean) / self.std, nan=0.0, posinf=0.0, neginf=0.0)
        return values.contiguous(memory_format=torch.channels_last)

    def standardised(self, layers: Layers) -> Layers:
        """Layers as losses see them: real values are standardised."""
        return layers | {"mask": next(iter(self.tasks.values())).standardise(layers["mask"])}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, K, H, W]`` by head of a normalised image ``[B, C, H, W]``."""
        logits: dict[str, Tensor] = self.network(image)
        return logits

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch, all but the window numbers: they seed generators on the CPU."""
        numbers = batch["k"]
        moved: Batch = super().transfer_batch_to_device({**batch, "k": None}, device, dataloader_idx)
        moved["k"] = numbers
        return moved

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise and (in training) augment, on the device."""
        image, layers = self.normalise(batch["image"]), layers_of(batch)
        if self.trainer.training:
            for augment in self.augmentations:
                image, layers = augment(image, layers, batch["k"])
        image = image.contiguous(memory_format=torch.channels_last)
        ready: Any = {**batch, "image": image, **self.standardised(layers)}
        return cast(Batch, ready)

    def tune(self, thresholds: Mapping[str, Tensor]) -> None:
        """Score and predict at these thresholds by head, see `Task.predict`."""
        for name, threshold in thresholds.items():
            cast(Confusion, self.scene_sums[name]).threshold = threshold

    def labels(self, head: str, logits: Tensor) -> Tensor:
        """The labels, or values, of a head's logits, as they are scored."""
        return self.tasks[head].predict(logits, cast(Confusion, self.scene_sums[head]).threshold)

    def _loss(self, logits: Mapping[str, Tensor], batch: Batch, stage: str) -> tuple[Tensor, dict[str, Tensor]]:
        total, values = batch["mask"].new_zeros((), dtype=torch.float32), {}
        done = self.global_step / self.steps if self.steps and stage == "train" else 1.0
        for name, composite in self.losses.items():
            value = composite(logits[name], batch["mask"], batch.get("weight"), done)
            total = total + value.total
            for term in value.raw:
                values[f"{stage}/{name}/loss/{term}"] = value.raw[term]
                values[f"{stage}/{name}/loss/{term}.weighted"] = value.weighted[term]
        return total, {f"{stage}/loss": total, **values}

    def on_train_start(self) -> None:
        """Keep the factors between the rates of groups of parameters where `LearningRateFinder` has set all to one."""
        if self.lr is not None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.lr * group.get("lr_scale", 1.0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the batch and the process, so that a resumed run goes on as it would have."""
        number = self.global_step * self.trainer.accumulate_grad_batches + batch_idx % self.trainer.accumulate_grad_batches
        draw = np.random.SeedSequence([self.seed, number, self.trainer.global_rank])
        torch.manual_seed(int(draw.generate_state(1)[0]))  # on a CPU only the low 32 bits of a seed count

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; every term is logged."""
        total, values = self._loss(self(batch["image"]), batch, "train")
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        self.terms = {name: value.detach() for name, value in values.items()}
        self.log_dict(self.terms)
        return total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, by the norm that is known if it is."""
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def on_validation_epoch_start(self) -> None:
        """Forget the losses of an earlier round."""
        exact = exact_dtype(self.device)
        self._val_losses, self._val_labelled = {}, torch.zeros((), dtype=exact, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Count a batch; the losses are averaged over batches by their labelled pixels, each counted by its weight.

        Scores know nothing of weights. Callbacks get the logits by head.
        """
        logits = self(batch["image"])
        _, values = self._loss(logits, batch, "val")
        for name, sums in self._scene_sums():
            sums.update(logits[name], batch["mask"], batch["scene"], batch.get("corner"))
        labelled = known(batch["mask"])
        if "weight" in batch:
            weight = batch["weight"].nan_to_num(0).to(self._val_labelled.dtype)
            labelled = labelled * (weight if labelled.ndim == 3 else weight.unsqueeze(1))
        labelled = labelled.sum()
        self._val_labelled += labelled
        for name, value in values.items():
            self._val_losses[name] = self._val_losses.get(name, 0) + value.to(self._val_labelled.dtype) * labelled
        return dict(logits)

    def _scene_sums(self) -> Iterator[tuple[str, Metric]]:
        for name, sums in self.scene_sums.items():
            yield name, cast(Metric, sums)

    def on_validation_epoch_end(self) -> None:
        """Score the whole scenes and log everything."""
        sums = self.trainer.strategy.reduce(torch.stack([self._val_labelled, *self._val_losses.values()]), reduce_op="sum")
        if not sums[0]:
            raise InputError("the pixel weights of the validation scenes are 0 everywhere: look at dataset.source.weight")
        values = dict(zip(self._val_losses, (sums[1:] / sums[0]).tolist(), strict=True))
        for name, sums in self._scene_sums():
            self.scores[name] = result = score_scenes(sums, self.tasks[name], self.without)
            sums.reset()
            monitored = [full.removeprefix(f"val/{name}/") for full in self.monitored]
            values |= {f"val/{name}/{key}": value for key, value in result.logged(monitored).items()}
        self.log_dict(values)
        head, first = next(iter(self.tasks.items()))
        if (
            self.trainer.state.fn == "fit"
        ):  # before the checkpoint is written: Lightning steps after it, and a resumed run misses that
            for schedule in self.trainer.lr_scheduler_configs:
                if isinstance(schedule.scheduler, ReduceLROnPlateau):
                    schedule.scheduler.step(self.scores[head].means()[first.score])
        self.log(first.score, self.scores[head].means()[first.score], prog_bar=True, logger=False)

    def quality(self, head: str) -> float:
        """The last validation's `Task.quality`."""
        return self.tasks[head].quality(self.scores[head].means())

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, as Lightning expects them."""
        optimizer = self._optimizer(params=self.parameters())
        if self._scheduler is None:
            return optimizer
        schedule: dict[str, Any] = {"scheduler": self._scheduler(optimizer=optimizer), "interval": "step"}
        if isinstance(schedule["scheduler"], ReduceLROnPlateau):  # stepped in on_validation_epoch_end, never by Lightning
            schedule |= {"monitor": "iou", "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": schedule}
