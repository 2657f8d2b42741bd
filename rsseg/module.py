"""The LightningModule: batch -> logits -> loss terms -> metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from rsseg.contract import Batch, InputError, Layers, layers_of, log_name
from rsseg.data.augment import Augmentation
from rsseg.losses import Composite, CompositeValue, SplitLosses, Term, presence_loss
from rsseg.losses.balancing import Balancing, Fixed, weighed_parts
from rsseg.metrics import Scores, metrics
from rsseg.metrics.counters import SCENE_SUMS, score_scenes
from rsseg.models.network import normalise
from rsseg.task import Task


def logged_names(tasks: Mapping[str, Task], terms: Mapping[str, Sequence[str]]) -> list[str]:
    """The names that a callback can monitor, of all values that a run logs at every validation."""
    found = ["val/loss"]
    for name, task in tasks.items():
        values = [*metrics(task), *(f"loss/{term}{kind}" for term in terms.get(name, ()) for kind in ("", ".weighted"))]
        found += [log_name("val", name, value, tasks) for value in values]
    return found


class SegmentationModule(L.LightningModule):
    """Trains and scores a network with one composition of losses per head.

    Logged per head (see `log_name`): ``{stage}/loss/{term}`` and ``.../{term}.weighted`` for every term, ``{stage}/loss`` for
    the sum, in training ``train/loss/aux`` and ``.../classifier`` where the network gives more than logits (`Network.outputs`),
    and for validation ``val/{score}`` for each of `Task.scores`, per class ``val/{score}/{class}`` for each of
    `Task.class_scores`, and monitored values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        losses: Mapping[str, Composite],  # the composition of each head
        tasks: Mapping[str, Task],  # each head's task
        mean: Sequence[float],  # per band, subtracted from stored pixels
        std: Sequence[float],  # per band, the divisor after that
        scenes: int,  # the number of scenes that are scored
        steps: int = 0,  # the run's optimiser steps, for scheduled weights of terms; 0: all have their full weights
        balancing: Balancing | None = None,  # combines losses in training; None: their sum, as in validation
        between: str = "heads",  # the parts that `balancing` balances, ``heads`` or ``terms``
        seed: int = 0,  # the run's seed; dropout at step s is a function of (seed, s)
        augmentations: Sequence[Augmentation] = (),  # applied in turn to normalised training batches
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,  # makes it from the parameters
        scheduler: Callable[..., Any] | None = None,  # makes it from the optimizer; stepped every step
        without: Mapping[str, Sequence[str]] | None = None,  # by head, the classes that are left out of means
        weights: Mapping[str, float] | None = None,  # by head, the weight of its loss in the sum; None: 1
        monitored: Sequence[str] = (),  # names of scores that are logged beside the usual ones
        classifier: float = 0.0,  # the weight of the losses of the network's classifiers
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.losses = nn.ModuleDict(losses)
        self.balancing, self.between = balancing or Fixed(), between
        self.scene_sums = nn.ModuleDict({name: SCENE_SUMS[task.counted](task, scenes) for name, task in tasks.items()})
        self.tasks = dict(tasks)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.steps, self.seed = steps, seed
        self.lr: float | None = None  # Lightning's LearningRateFinder leaves its result here
        self.terms: dict[str, Tensor] = {}  # the losses of the last training batch, by their names in the log
        self.gradient_norm: Tensor | None = None  # of the coming step, if a callback has computed it
        self.augmentations, self._optimizer, self._scheduler = list(augmentations), optimizer, scheduler
        self.without = {name: tuple((without or {}).get(name, ())) for name in tasks}
        self.weights = {name: (weights or {}).get(name, 1.0) for name in tasks}
        self.monitored, self.classifier = tuple(monitored), classifier
        self.scores: dict[str, Scores] = {}
        self.value_by(np.ones(scenes, dtype=bool))

    def value_by(self, first: NDArray[np.bool_], panels: Mapping[str, Mapping[str, Term]] | None = None) -> None:
        """Compute validation losses, and by head those of a panel, on the `first` half of the scenes and on the others."""
        self.split_losses = {
            name: SplitLosses(cast(Composite, loss), self.tasks[name], first, (panels or {}).get(name))
            for name, loss in self.losses.items()
        }

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise stored pixels ``[B, C, H, W]`` for the network."""
        return normalise(image, self.mean, self.std)

    def standardised(self, layers: Layers) -> Layers:
        """Layers for losses, with real values standardised."""
        by_target = {task.target: task for task in self.tasks.values()}
        return layers | {name: task.standardise(layers[name]) for name, task in by_target.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, K, H, W]`` by head of a normalised image ``[B, C, H, W]``."""
        return self.network(image)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch except the window numbers, which seed generators on the CPU."""
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

    def logits(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, K, H, W]`` by head of stored pixels ``[B, C, H, W]``."""
        return self(self.normalise(pixels))

    def _loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a training batch, from the network's training outputs, and all losses by their names in the log."""
        done = self.global_step / self.steps if self.steps else 1.0
        layers = layers_of(batch)
        losses: dict[str, CompositeValue] = {
            name: composite(outputs[name], layers[self.tasks[name].target], layers.get("weight"), done)
            for name, composite in self.losses.items()
        }  # 0 for a head whose target is known nowhere in the batch
        shared = cast(Tensor, self.network.shared_weight) if self.balancing.at_shared_layer else None
        total: Tensor = self.balancing(*weighed_parts(losses, self.between, self.weights), shared)
        beside = self._beside(outputs, batch, done)  # computed with the factors of this batch
        for (head, part), loss in beside.items():
            total = total + self.weights[head] * (self.classifier if part == "classifier" else 1) * loss
        named = {log_name("train", head, f"loss/{part}", self.tasks): loss for (head, part), loss in beside.items()}
        terms = {
            log_name("train", head, f"loss/{term}{kind}", self.tasks): value
            for head, loss in losses.items()
            for kind, values in (("", loss.raw), (".weighted", loss.weighted))
            for term, value in values.items()
        }
        values = {"train/loss": total, **terms, **named}
        return total, values

    def _beside(self, outputs: Mapping[str, Tensor], batch: Batch, done: float) -> dict[tuple[str, str], Tensor]:
        """The losses of a network's further outputs, by head and kind (aux, classifier); see `Network.outputs`."""
        layers, found = layers_of(batch), {}
        for head, task in self.tasks.items():
            target, weight = layers[task.target], layers.get("weight")
            levels = [key for key in outputs if key.startswith(f"{head}/aux")]
            if levels:
                terms = [self.losses[head](outputs[key], target, weight, done).weighted for key in levels]
                coarse = [torch.stack(list(self.balancing.scaled(head, weighted).values())).sum() for weighted in terms]
                found[head, "aux"] = torch.stack([loss / 2**level for level, loss in enumerate(coarse, start=1)]).sum()
            if f"{head}/classifier" in outputs:
                found[head, "classifier"] = presence_loss(outputs[f"{head}/classifier"], target, task, weight)
        return found

    def on_train_start(self) -> None:
        """Restore the ratios between the rates of parameter groups after `LearningRateFinder` has set all to one rate."""
        if self.lr is not None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.lr * group.get("lr_scale", 1.0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by batch and process, so that a resumed run draws what an uninterrupted one would."""
        number = self.global_step * self.trainer.accumulate_grad_batches + batch_idx % self.trainer.accumulate_grad_batches
        draw = np.random.SeedSequence([self.seed, number, self.trainer.global_rank])
        torch.manual_seed(int(draw.generate_state(1)[0]))  # the CPU generator only uses the low 32 bits of a seed

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; every term is logged."""
        total, values = self._loss(self(batch["image"]), batch)
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        self.terms = {name: value.detach() for name, value in values.items()}
        self.log_dict(self.terms)
        single = f"{next(iter(self.tasks))}/" if len(self.tasks) == 1 else ""
        weights = self.balancing.weights.items()
        self.log_dict({f"train/balance/{part.removeprefix(single)}": weight for part, weight in weights})
        return total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, using the gradient's norm if a callback has computed it."""
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def on_validation_epoch_start(self) -> None:
        """Reset the losses of the last validation."""
        for losses in self.split_losses.values():
            losses.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Update scores, which ignore pixel weights, and losses, which use them. Callbacks get the logits by head."""
        logits, layers = self(batch["image"]), layers_of(batch)
        for name, task in self.tasks.items():
            sums, target = cast(Metric, self.scene_sums[name]), layers[task.target]
            sums.update(logits[name], target, batch["scene"], batch.get("corner"))
            self.split_losses[name].update(logits[name], target, batch["scene"], layers.get("weight"))
        return dict(logits)

    def on_validation_epoch_end(self) -> None:
        """Score the whole scenes and log everything."""
        values = self._val_means()
        for name, task in self.tasks.items():
            sums = cast(Metric, self.scene_sums[name])
            self.scores[name] = result = score_scenes(sums, task, self.without[name])
            sums.reset()
            monitored = [full.removeprefix(log_name("val", name, "", self.tasks)) for full in self.monitored]
            values |= {log_name("val", name, key, self.tasks): value for key, value in result.logged(monitored).items()}
        self.log_dict(values)
        head, first = next(iter(self.tasks.items()))
        # Step before the checkpoint is written: Lightning would step after it, and a resumed run would miss that step.
        for schedule in self.trainer.lr_scheduler_configs if self.trainer.state.fn == "fit" else ():
            if isinstance(schedule.scheduler, ReduceLROnPlateau):
                schedule.scheduler.step(self.scores[head].means()[first.score])
        self.log(first.score, self.scores[head].means()[first.score], prog_bar=True, logger=False)

    def _val_means(self) -> dict[str, float]:
        """The losses of the validation scenes by their names in the log, the sum first."""
        means: dict[str, float] = {}
        totals: dict[str, float] = {}
        for name, losses in self.split_losses.items():
            found = losses.values()
            for kind, values in (("", found.raw), (".weighted", found.weighted)):
                for term, value in values.items():
                    means[log_name("val", name, f"loss/{term}{kind}", self.tasks)] = float(value[2])
            if not found.labelled:
                raise InputError("the pixel weights of the validation scenes are 0 everywhere: look at dataset.source.weight")
            totals[name] = sum(float(value[2]) for value in found.weighted.values())
        heads = {f"val/{name}/loss": total for name, total in totals.items()} if len(totals) > 1 else {}
        return {"val/loss": sum(self.weights[name] * total for name, total in totals.items()), **heads, **means}

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, as Lightning expects them."""
        free = list(self.balancing.parameters())
        trained = [parameter for parameter in self.parameters() if all(parameter is not other for other in free)]
        optimizer = self._optimizer(params=trained, **({"undecayed": free} if free else {}))
        if self._scheduler is None:
            return optimizer
        schedule: dict[str, Any] = {"scheduler": self._scheduler(optimizer=optimizer), "interval": "step"}
        if isinstance(schedule["scheduler"], ReduceLROnPlateau):  # stepped in on_validation_epoch_end, never by Lightning
            schedule |= {"monitor": "iou", "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": schedule}
