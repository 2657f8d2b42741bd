"""A composed config as one frozen object that makes what the config describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsseg.config import build as kinds
from rsseg.config.build import FailedError, Kind, build
from rsseg.config.schema import Cache, ModelConfig, RecordConfig
from rsseg.config.targets import has_loss, heads_of, no_such_target, tasks_of
from rsseg.contract import InputError, nearest
from rsseg.data.blocks import Blocks
from rsseg.data.sampling import Places, Read
from rsseg.data.scene import Source
from rsseg.dataset import Dataset, TrainStatistics, make_dataset
from rsseg.losses import Composite, EdgeWeight, Weight
from rsseg.losses.balancing import Balancing
from rsseg.losses.class_weights import counted_weights
from rsseg.losses.foreign import adapted, given_to_loss
from rsseg.models import Network, build_network, load_weights
from rsseg.models.rates import rate_groups
from rsseg.source import given_to_source, make_source
from rsseg.task import Task

if TYPE_CHECKING:  # it is made where it is asked for: to predict needs none of it
    import lightning as L
    from lightning.pytorch.loggers import Logger

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

NET_GIVEN = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
SAMPLER_GIVEN = ("seed", "sizes", "window", "blocks", "task", "read")
AUGMENT_GIVEN = ("seed", "task", "tasks")
TRAINER_GIVEN = (
    "default_root_dir", "max_steps", "max_epochs", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
    "logger", "callbacks", "plugins", "use_distributed_sampler", "enable_model_summary", "fast_dev_run", "limit_train_batches",
    "limit_val_batches", "overfit_batches", "max_time", "min_steps", "min_epochs",
)  # fmt: skip
"""The parameters of each target that rsseg fills in or, as a run is made of steps, leaves alone."""

BESIDE_TERM = ("weight", "start", "ramp", "pixels")
"""The keys of a loss term that are not for its target: see `Weight`, and `Foreign` for `pixels`."""

BESIDE_BALANCING = ("between",)
"""The key of the balancing that is not for its target: what the parts are, ``heads`` or ``terms``, see `weighed_parts`."""

BESIDE_OPTIMIZER = ("encoder_lr", "layer_decay")  # the keys of the optimizer that are not for its target: see `rate_groups`

ABSOLUTE = ("max_lr", "base_lr", "min_lr")
"""The arguments of schedules that are learning rates, and may be given for each group of parameters."""


class Place(NamedTuple):
    """A node that is built."""

    where: str  # its place in the config
    node: Any  # what stands there
    kind: Kind  # what it has to be
    given: tuple[str, ...] = ()  # the arguments that rsseg adds
    beside: tuple[str, ...] = ()  # keys that the node may hold for rsseg, such as a term's weight: its target is not given them


def places(plain: Mapping[str, Any]) -> Iterator[Place]:
    """Every node of a config that is built."""
    yield Place("dataset.source", plain["dataset"]["source"], kinds.SOURCE, tuple(given_to_source(plain)))
    yield Place("model.net", plain["model"]["net"], kinds.MODEL, NET_GIVEN)
    yield Place("balancing", plain["balancing"], kinds.BALANCING, ("parts", "real"), BESIDE_BALANCING)
    yield Place("optimizer", plain["optimizer"], kinds.OPTIMIZER, ("params",), BESIDE_OPTIMIZER)
    yield Place("scheduler", plain["scheduler"], kinds.SCHEDULER, ("optimizer",))
    yield Place("sampler", plain["sampler"], kinds.SAMPLER, SAMPLER_GIVEN)
    yield Place("trainer", plain["trainer"], kinds.TRAINER, TRAINER_GIVEN)
    for name, node in plain["augment"].items():
        yield Place(f"augment.{name}", node, kinds.AUGMENTATION, AUGMENT_GIVEN)
    for name, node in plain["callbacks"].items():
        yield Place(f"callbacks.{name}", node, kinds.CALLBACK)
    for name, node in plain["logger"].items():
        yield Place(f"logger.{name}", node, kinds.LOGGER, tuple(given_to_logger(node or {}, Path())))
    for where, terms in loss_places(plain).values():
        for name, node in terms.items():
            given = tuple(given_to_loss(node if isinstance(node, Mapping) else {}))
            yield Place(f"{where}.terms.{name}", node, kinds.TERM, given, (*BESIDE_TERM, "class_weights_cap"))


def loss_places(plain: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By head, the place of its loss in the config, and the loss's terms; ``loss`` for a head that has no loss of its own.

    Heads without a loss are left out: `cross_check` names them.
    """
    losses = {head: node["loss"] for head, node in heads_of(plain).items() if has_loss(node)}
    return {
        head: ("loss" if loss == plain["loss"] else f"model.heads.{head}.loss", loss["terms"]) for head, loss in losses.items()
    }


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
        """The first head's."""
        return self.tasks[self.head]

    @property
    def without(self) -> tuple[str, ...]:
        """The classes that are left out of mean scores."""
        return tuple(self.plain["metrics"]["without"])

    def without_of(self, head: str) -> tuple[str, ...]:
        """Those of a head; of the only one all that are named, so that a wrong name shows."""
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

    @property
    def head_weights(self) -> dict[str, float]:
        """The weight of each head's loss in the sum."""
        return {head: float(node["weight"]) for head, node in heads_of(self.plain).items()}

    def palette(self, head: str) -> list[str] | None:
        """The colours of a head's labels; None: chosen."""
        return self.dataset.palette(self.tasks[head].target)

    def with_bands(self, bands: Sequence[int]) -> Setup:
        """The same with the bands that were found in the data."""
        plain = {**self.plain, "dataset": {**self.plain["dataset"], "bands": list(bands)}}
        return replace(self, plain=plain, dataset=replace(self.dataset, bands=tuple(bands)))

    def source(self) -> Source:
        """Where the scenes lie; files are listed, no pixels are read.

        Raises:
            InputError: If they can't be found.
        """
        return make_source(self.plain, self.trust)

    @property
    def model(self) -> ModelConfig:
        """What the config says of the model."""
        known = {item.name for item in fields(ModelConfig)}  # what else stands there is a fault that is told
        return ModelConfig(**{key: value for key, value in self.plain["model"].items() if key in known})

    def network(self, pretrained: bool = True) -> Network:
        """The network, with its pretrained weights; without where a checkpoint holds all."""
        model = self.model
        if not pretrained:
            model.weights = "none"
        net = partial(build, model.net, "model.net", kinds.MODEL, self.trust)
        network = build_network(net, model, len(self.dataset.read_bands), self.tasks)
        if self.balancing().at_shared_layer:
            _ = network.shared_weight  # it refuses a network that trains nothing that is shared
        load_weights(network, model.weights)
        return network

    def losses(self, numbers: TrainStatistics | None) -> dict[str, Composite]:
        """The loss composition of each head; without the training split's numbers no weights are counted, to check the rest."""
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
        node = {key: value for key, value in self.plain["balancing"].items() if key not in BESIDE_BALANCING}
        if self.between not in ("heads", "terms"):
            raise InputError(f"balancing.between={self.between}: heads or terms is expected")
        heads = {(head if self.between == "heads" else f"{head}/{name}"): head for head, name, _ in self.weighed()}
        real = [part for part, head in heads.items() if self.tasks[head].real]
        return build(node, "balancing", kinds.BALANCING, self.trust, parts=list(heads), real=real)

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

    def panel(self, head: str, numbers: TrainStatistics) -> dict[str, dict[str, Any]]:
        """What the losses of a head's panel are made with, counted weights as numbers, by name; none for real values."""
        task = self.tasks[head]
        losses, counted = {} if task.real else PANEL, numbers.targets[task.target]
        return {name: counted_weights(node, f"panel.{name}", task, counted) for name, node in losses.items()}

    def augmentations(self) -> list[Any]:
        """The augmentations, in the order of the config."""
        return [self.augmentation(name) for name in self.plain["augment"]]

    def augmentation(self, name: str) -> Any:
        """One of them, by its name."""
        node, tasks = self.plain["augment"][name], list(self.dataset.tasks.values())
        given = {"seed": self.seed, "task": self.dataset.task, "tasks": tasks}
        return build(node, f"augment.{name}", kinds.AUGMENTATION, self.trust, **given)

    def sampler(self, sizes: NDArray[np.int64], blocks: Blocks, read: Read) -> Places:
        """What says where each training window lies, from the scenes' heights and widths ``[S, 2]`` and their blocks."""
        given = {"seed": self.seed, "sizes": sizes, "window": self.window, "blocks": blocks, "task": self.dataset.task}
        return build(self.plain["sampler"], "sampler", kinds.SAMPLER, self.trust, **given, read=read)

    @property
    def rates(self) -> tuple[float, float]:
        """The factor on the encoder's learning rate, and the further one for each layer above."""
        encoder_lr, layer_decay = (self.plain["optimizer"].get(key, 1.0) for key in BESIDE_OPTIMIZER)
        return encoder_lr, layer_decay

    def optimizer(
        self, params: Any, network: nn.Module | None = None, undecayed: Sequence[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """The optimizer of parameters, at the rates of the network's encoder; the `undecayed` ones have no weight decay."""
        node = {key: value for key, value in self.plain["optimizer"].items() if key not in BESIDE_OPTIMIZER}
        grouped = self.rates != (1, 1)
        if network is not None and grouped:
            params = rate_groups(params, network, self.plain["model"]["encoder"], *self.rates)
        if undecayed:
            rest = params if grouped else [{"params": params, "name": "network"}]
            params = [*rest, {"params": undecayed, "name": "balancing", "weight_decay": 0.0}]
        optimizer: torch.optim.Optimizer = build(node, "optimizer", kinds.OPTIMIZER, self.trust, params=params)
        for group in optimizer.param_groups if grouped else ():
            if not isinstance(group.get("lr"), int | float):
                name = type(optimizer).__name__
                raise InputError(f"{name} has no learning rate: leave optimizer.encoder_lr and optimizer.layer_decay out")
            group["lr"] *= group.get("lr_scale", 1.0)
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule of an optimizer's rates, stepped every optimiser step.

        It keeps the factors between them, but for a floor such as ``eta_min``, which is one for all.
        """
        node, scales = self.plain["scheduler"], [group.get("lr_scale", 1.0) for group in optimizer.param_groups]
        if len(scales) > 1:
            given = [key for key in ABSOLUTE if node.get(key) is not None]
            node = node | {key: [node[key] * scale for scale in scales] for key in given}
        if node.get("mode") == "max" and not self.task.higher_is_better:  # a plateau of the score
            node = node | {"mode": "min"}
        return build(node, "scheduler", kinds.SCHEDULER, self.trust, optimizer=optimizer)

    def callbacks(self) -> dict[str, L.Callback]:
        """The callbacks of the config, by name."""
        return {name: self.callback(name) for name in self.plain["callbacks"]}

    def callback(self, name: str) -> L.Callback:
        """One of them, by its name."""
        return build(self.plain["callbacks"][name], f"callbacks.{name}", kinds.CALLBACK, self.trust)

    def logger(self, name: str, folder: Path) -> Logger:
        """A logger of the config; one that writes files writes them in the run folder.

        Raises:
            InputError: If its arguments are wrong or its package is not installed. That its server is away is another error.
        """
        node = self.plain["logger"][name]
        try:
            logger: Logger = build(node, f"logger.{name}", kinds.LOGGER, self.trust, **given_to_logger(node, folder))
        except FailedError as error:
            raise error.failure from None
        return logger

    def trainer(self, **given: Any) -> L.Trainer:
        """Lightning's trainer; `given` replaces what the config says."""
        node = {key: value for key, value in self.plain["trainer"].items() if key not in given}
        return build(node, "trainer", kinds.TRAINER, self.trust, **given)


def given_to_logger(node: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """What rsseg adds to a logger's arguments: the run folder, unless it has a place of its own."""
    return {} if "tracking_uri" in node else {"save_dir": str(folder)}


def weight_of(node: Mapping[str, Any]) -> Weight:
    """The weight of a term's node."""
    return Weight(node.get("weight", 1.0), node.get("start", 0.0), node.get("ramp", 0.0))


def set_up(plain: dict[str, Any], trust: tuple[str, ...]) -> Setup:
    """The setup of a config as plain values; see `rsseg.assembly.make_setup`.

    Raises:
        InputError: For a task or masks that can't be.
    """
    tasks = tasks_of(plain["dataset"])
    made: dict[str, Any] = {
        "plain": plain,
        "dataset": make_dataset(plain),
        "tasks": {head: _task_of(head, node["target"], tasks) for head, node in heads_of(plain).items()},
        "cache": Cache(plain["cache"]),
        "output": Path(plain["output"]),
        "record": RecordConfig(**plain["record"]),
        "trust": trust,
    }
    return Setup(**made, **{item.name: plain[item.name] for item in fields(Setup) if item.name not in made})


def _task_of(head: str, target: str, tasks: Mapping[str, Task]) -> Task:
    """The task of a head."""
    if target not in tasks:
        raise InputError(no_such_target(head, target, tasks))
    return tasks[target]
