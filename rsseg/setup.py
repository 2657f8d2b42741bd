"""A composed config as one frozen object that makes what the config describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsseg.config import build as kinds
from rsseg.config.build import FailedError, build
from rsseg.config.schema import Cache, RecordConfig
from rsseg.config.targets import heads_of, no_such_target, tasks_of
from rsseg.contract import InputError, nearest
from rsseg.data.blocks import Blocks
from rsseg.data.sampling import Places, Read
from rsseg.data.scene import Source
from rsseg.dataset import Dataset, TrainStatistics, make_dataset
from rsseg.losses import Composite, EdgeWeight, Weight
from rsseg.losses.balancing import Balancing
from rsseg.losses.class_weights import counted_weights
from rsseg.losses.foreign import adapted, given_to_loss
from rsseg.models import ModelFacts, Network, build_network, load_weights
from rsseg.models.rates import rate_groups
from rsseg.places import BESIDE_OPTIMIZER, BESIDE_TERM, Place, given_to_logger, loss_places, places, weight_of
from rsseg.source import make_source
from rsseg.task import Task

if TYPE_CHECKING:  # it is made where it is asked for: to predict needs none of it
    import lightning as L
    from lightning.pytorch.loggers import Logger

ABSOLUTE = ("max_lr", "base_lr", "min_lr")
"""The arguments of schedules that are learning rates, and may be given for each group of parameters."""


@dataclass(frozen=True)
class Setup:
    """A composed config as checked values, and the objects that it describes.

    Scalars have the names that they have in the config; `configs/train.yaml` explains them.
    """

    plain: dict[str, Any]  # the resolved config as plain values: what config.yaml holds
    dataset: Dataset
    tasks: dict[str, Task]  # the task of each head, by name
    seed: int
    window: int
    batch_size: int
    steps: int
    validations: int
    checkpoint_every: int | None
    on_nonfinite: str
    overlap: int
    pictures: int
    workers: int | None
    cache: Cache
    output: Path
    record: RecordConfig
    trust: tuple[str, ...]  # packages of the user's whose classes the config may name

    @property
    def head(self) -> str:
        """The first head, whose scores choose the best checkpoint."""
        return next(iter(self.tasks))

    @property
    def task(self) -> Task:
        """The task of the first head."""
        return self.tasks[self.head]

    @property
    def without(self) -> tuple[str, ...]:
        """The classes that are left out of mean scores."""
        return tuple(self.plain["metrics"]["without"])

    def without_of(self, head: str) -> tuple[str, ...]:
        """Those of `without` that a head has; all of them where it is the only head, so that a wrong name is noticed."""
        return self.without if len(self.tasks) == 1 else tuple(c for c in self.without if c in self.tasks[head].classes)

    @property
    def monitored(self) -> tuple[str, ...]:
        """What callbacks monitor."""
        return tuple(str(node["monitor"]) for node in self.plain["callbacks"].values() if node.get("monitor") is not None)

    @property
    def accelerator(self) -> str:
        """The name of Lightning's accelerator."""
        return str(self.plain["trainer"].get("accelerator", "auto"))

    @property
    def accumulate(self) -> int:
        """Batches per optimiser step."""
        return int(self.plain["trainer"].get("accumulate_grad_batches", 1))

    @property
    def shown_bands(self) -> list[int] | None:
        """The indices of the bands that pictures show as red, green and blue; None: the first three."""
        bands, rgb = self.dataset.read_bands, self.dataset.rgb
        return [bands.index(band) for band in rgb] if rgb and set(rgb) <= set(bands) else None

    @property
    def image_patterns(self) -> tuple[str, ...]:
        """The patterns of the paths of a scene's image files, where the source goes by them."""
        image = self.plain["dataset"]["source"].get("image") or ()
        return (image,) if isinstance(image, str) else tuple(image)

    def palette(self, head: str) -> list[str] | None:
        """The colours of a head's labels; None: chosen."""
        return self.dataset.palette(self.tasks[head].target)

    def with_bands(self, bands: Sequence[int], rgb: Sequence[int] | None = None) -> Setup:
        """The same with the bands that were found in the data, and those of them that are red, green and blue."""
        found = {"bands": list(bands), "rgb": None if rgb is None else list(rgb)}
        dataset = replace(self.dataset, bands=tuple(bands), rgb=None if rgb is None else tuple(rgb))
        return replace(self, plain={**self.plain, "dataset": {**self.plain["dataset"], **found}}, dataset=dataset)

    @cached_property
    def _places(self) -> dict[str, Place]:
        return {place.where: place for place in places(self.plain)}

    def make(self, where: str, **given: Any) -> Any:
        """The object of a place of the config; `given` are the arguments that rsseg adds."""
        place = self._places[where]
        node = {key: value for key, value in place.node.items() if key not in place.beside}
        return build(node, where, place.kind, self.trust, **given)

    def source(self) -> Source:
        """Where the scenes lie; files are listed, no pixels are read.

        Raises:
            InputError: If they can't be found.
        """
        return make_source(self.plain, self.trust)

    @property
    def model(self) -> ModelFacts:
        """What the config says of the model."""
        known = {item.name for item in fields(ModelFacts)}  # what else stands there is a fault that is told
        return ModelFacts(**{key: value for key, value in self.plain["model"].items() if key in known})

    def network(self, pretrained: bool = True) -> Network:
        """The network, with its pretrained weights, or without them where a checkpoint's weights replace all."""
        model = self.model
        if not pretrained:
            model.weights = "none"
        network = build_network(partial(self.make, "model.net"), model, len(self.dataset.read_bands), self.tasks)
        if self.balancing().at_shared_layer:
            _ = network.shared_weight  # it refuses a network that trains nothing that is shared
        load_weights(network, model.weights)
        return network

    def losses(self, numbers: TrainStatistics | None) -> dict[str, Composite]:
        """The loss composition of each head. Without the training split's numbers, to check the rest, counted weights are 1."""
        composites = {}
        for head, (where, nodes) in loss_places(self.plain).items():
            terms = {
                name: (weight_of(node), self.term(f"{where}.terms.{name}", node, self.tasks[head], numbers))
                for name, node in nodes.items()
            }
            composites[head] = self.composite(head, where, terms)
        return composites

    def composite(self, head: str, where: str, terms: Mapping[str, tuple[float | Weight, nn.Module]]) -> Composite:
        """A head's terms put together."""
        node = heads_of(self.plain)[head]["loss"]
        edges = node.get("edge_weight")
        known = [item.name for item in fields(EdgeWeight)]
        if edges is not None and not isinstance(edges, Mapping):
            raise InputError(f"{where}.edge_weight={edges}: null or a mapping such as {{amount: 10, sigma: 5}} is expected")
        for key in edges or ():
            if key not in known:
                raise InputError(f"{where}.edge_weight.{key}: there is no such setting{nearest(str(key), known)}")
        return Composite(
            terms,
            node.get("check_targets", False),
            task=self.tasks[head].kind,
            label_smoothing=node.get("label_smoothing", 0.0),
            edge_weight=None if edges is None else EdgeWeight(**edges),
        )

    def term(self, where: str, node: Mapping[str, Any], task: Task, numbers: TrainStatistics | None) -> nn.Module:
        """A loss term."""
        arguments = {key: value for key, value in node.items() if key not in BESIDE_TERM}
        if task.real and arguments.get("nodata") is not None:
            raise InputError(
                f"{where}.nodata={arguments['nodata']}: a run standardises values, so it would match none; unknown values are "
                "those of dataset.ignore_values"
            )
        counted = counted_weights(arguments, where, task, None if numbers is None else numbers.targets[task.target])
        loss = build(counted, where, kinds.TERM, self.trust, **given_to_loss(node, task.kind, task.soft))
        return adapted(loss, where, task, node.get("pixels", False))

    def balancing(self) -> Balancing:
        """What puts the losses of the heads, or their terms, together."""
        if self.between not in ("heads", "terms"):
            raise InputError(f"balancing.between={self.between}: heads or terms is expected")
        heads = {(head if self.between == "heads" else f"{head}/{name}"): head for head, name, _ in self.weighed()}
        real = [part for part, head in heads.items() if self.tasks[head].real]
        balancing: Balancing = self.make("balancing", parts=list(heads), real=real)
        return balancing

    def weighed(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """The loss terms that have a weight: each one's head, name and node."""
        for head, (_, terms) in loss_places(self.plain).items():
            for name, node in terms.items():
                if isinstance(node, Mapping) and "_target_" in node and weight_of(node).full:
                    yield head, name, node

    @property
    def between(self) -> str:
        """Whether the losses of heads are balanced, or those of all terms."""
        return str(self.plain["balancing"].get("between", "heads"))

    def augmentation(self, name: str) -> Any:
        """An augmentation, by its name."""
        tasks = list(self.dataset.tasks.values())
        return self.make(f"augment.{name}", seed=self.seed, task=tasks[0], tasks=tasks)

    def sampler(self, sizes: NDArray[np.int64], blocks: Blocks, read: Read) -> Places:
        """What says where each training window lies, from the scenes' heights and widths ``[S, 2]`` and their blocks."""
        given = {"sizes": sizes, "window": self.window, "blocks": blocks, "task": self.dataset.task, "read": read}
        places: Places = self.make("sampler", seed=self.seed, **given)
        return places

    @property
    def rates(self) -> tuple[float, float]:
        """The factor on the encoder's learning rate, and the further one for each layer above."""
        encoder_lr, layer_decay = (self.plain["optimizer"].get(key, 1.0) for key in BESIDE_OPTIMIZER)
        return encoder_lr, layer_decay

    def optimizer(
        self, params: Any, network: nn.Module | None = None, undecayed: Sequence[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """The optimizer of parameters, at the rates of the network's encoder; the `undecayed` ones have no weight decay."""
        grouped = self.rates != (1, 1)
        if network is not None and grouped:
            params = rate_groups(params, network, self.plain["model"]["encoder"], *self.rates)
        if undecayed:
            rest = params if grouped else [{"params": params, "name": "network"}]
            params = [*rest, {"params": undecayed, "name": "balancing", "weight_decay": 0.0}]
        optimizer: torch.optim.Optimizer = self.make("optimizer", params=params)
        for group in optimizer.param_groups if grouped else ():
            if not isinstance(group.get("lr"), int | float):
                name = type(optimizer).__name__
                raise InputError(f"{name} has no learning rate: leave optimizer.encoder_lr and optimizer.layer_decay out")
            group["lr"] *= group.get("lr_scale", 1.0)
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule of an optimizer's rates, stepped every optimiser step.

        The groups of parameters keep the ratios of their rates, except where the schedule has one floor for all (``eta_min``).
        """
        node, scales = self.plain["scheduler"], [group.get("lr_scale", 1.0) for group in optimizer.param_groups]
        if len(scales) > 1:
            given = [key for key in ABSOLUTE if node.get(key) is not None]
            node = node | {key: [node[key] * scale for scale in scales] for key in given}
        if node.get("mode") == "max" and not self.task.higher_is_better:  # a plateau of the score
            node = node | {"mode": "min"}
        return build(node, "scheduler", kinds.SCHEDULER, self.trust, optimizer=optimizer)

    def logger(self, name: str, folder: Path) -> Logger:
        """A logger of the config; one that writes files writes them in the run folder.

        Raises:
            InputError: If its arguments are wrong or its package is not installed. That its server is away is another error.
        """
        try:
            logger: Logger = self.make(f"logger.{name}", **given_to_logger(self.plain["logger"][name], folder))
        except FailedError as error:
            raise error.failure from None
        return logger

    def trainer(self, **given: Any) -> L.Trainer:
        """Lightning's trainer; `given` replaces what the config says."""
        node = {key: value for key, value in self.plain["trainer"].items() if key not in given}
        return build(node, "trainer", kinds.TRAINER, self.trust, **given)


def set_up(plain: dict[str, Any], trust: tuple[str, ...]) -> Setup:
    """The setup of a config as plain values; see `rsseg.assembly.make_setup`.

    Raises:
        InputError: For a task or masks that can't be.
    """
    dataset = make_dataset(plain)  # first: a head without a target is told by the checks of the schema
    tasks, heads = tasks_of(plain["dataset"]), heads_of(plain)
    for head, node in heads.items():
        if node["target"] not in tasks:
            raise InputError(no_such_target(head, node["target"], tasks))
    made: dict[str, Any] = {
        "plain": plain,
        "dataset": dataset,
        "tasks": {head: tasks[node["target"]] for head, node in heads.items()},
        "cache": Cache(plain["cache"]),
        "output": Path(plain["output"]),
        "record": RecordConfig(**plain["record"]),
        "trust": trust,
    }
    return Setup(**made, **{item.name: plain[item.name] for item in fields(Setup) if item.name not in made})
