"""A composed config as one frozen object that makes the parts of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsseg.config import build as kinds
from rsseg.config.build import Kind, build, locate
from rsseg.config.schema import Cache, RecordConfig
from rsseg.config.targets import has_loss, heads_of, no_such_target, tasks_of
from rsseg.contract import InputError, check_choice, check_number, nearest
from rsseg.data.blocks import Blocks
from rsseg.data.sampling import Places, Read
from rsseg.data.scene import Source
from rsseg.dataset import Dataset, TrainStatistics, make_dataset
from rsseg.dataset_source import given_to_source, make_source
from rsseg.losses import Composite, EdgeWeight, Weight
from rsseg.losses.balancing import Balancing, Fixed
from rsseg.losses.class_weights import counted_weights
from rsseg.losses.foreign import adapted, given_to_loss
from rsseg.models import ModelFacts, Network, build_network, load_weights
from rsseg.models.rates import layers_above, rate_groups
from rsseg.task import Task

if TYPE_CHECKING:  # imported where it is used: prediction does not need it
    import lightning as L
    from lightning.pytorch.loggers import Logger

NET_GIVEN = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
SAMPLER_GIVEN = ("seed", "sizes", "window", "blocks", "task", "read")
AUGMENT_GIVEN = ("seed", "task", "tasks")
TRAINER_GIVEN = (
    "default_root_dir", "max_steps", "max_epochs", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
    "logger", "callbacks", "plugins", "use_distributed_sampler", "enable_model_summary", "fast_dev_run", "limit_train_batches",
    "limit_val_batches", "overfit_batches", "max_time", "min_steps", "min_epochs",
)  # fmt: skip
"""Parameters of the trainer that a config may not set: rsseg sets them, or they count epochs or batches, while runs count
steps."""

BESIDE_TERM = ("weight", "start", "ramp", "pixels")
"""The keys of a loss term that are not passed to its target: see `Weight`, and `Foreign` for `pixels`."""

BESIDE_OPTIMIZER = ("encoder_lr", "layer_decay")  # optimizer keys that are not passed to its target: see `rate_groups`


class ConfigNode(NamedTuple):
    """A node of the config from which an object is built."""

    where: str  # its place in the config
    node: Any  # its content
    kind: Kind  # the classes that it accepts
    given: tuple[str, ...] = ()  # the arguments that rsseg adds
    beside: tuple[str, ...] = ()  # keys that rsseg reads itself, such as a term's weight; they are not passed to the target


def places(plain: Mapping[str, Any]) -> Iterator[ConfigNode]:
    """All nodes of a config from which objects are built."""
    yield ConfigNode("dataset.source", plain["dataset"]["source"], kinds.SOURCE, tuple(given_to_source(plain)))
    yield ConfigNode("model.net", plain["model"]["net"], kinds.MODEL, NET_GIVEN)
    yield ConfigNode("balancing", plain["balancing"], kinds.BALANCING, ("parts", "real"), ("between",))
    yield ConfigNode("optimizer", plain["optimizer"], kinds.OPTIMIZER, ("params",), BESIDE_OPTIMIZER)
    yield ConfigNode("scheduler", plain["scheduler"], kinds.SCHEDULER, ("optimizer",))
    yield ConfigNode("sampler", plain["sampler"], kinds.SAMPLER, SAMPLER_GIVEN)
    yield ConfigNode("trainer", plain["trainer"], kinds.TRAINER, TRAINER_GIVEN)
    for name, node in plain["augment"].items():
        yield ConfigNode(f"augment.{name}", node, kinds.AUGMENTATION, AUGMENT_GIVEN)
    for name, node in plain["callbacks"].items():
        yield ConfigNode(f"callbacks.{name}", node, kinds.CALLBACK)
    for name, node in plain["logger"].items():
        yield ConfigNode(
            f"logger.{name}", node, kinds.LOGGER, tuple(given_to_logger(node, Path()) if isinstance(node, Mapping) else ())
        )
    for where, terms in loss_places(plain).values():
        for name, node in terms.items():
            given = tuple(given_to_loss(node if isinstance(node, Mapping) else {}))
            yield ConfigNode(f"{where}.terms.{name}", node, kinds.TERM, given, (*BESIDE_TERM, "class_weights_cap"))


def loss_places(plain: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The place of each head's loss in the config, and its terms; ``loss`` for a head that has no loss of its own.

    Heads without a loss are left out: `cross_check` names them.
    """
    losses = {head: node["loss"] for head, node in heads_of(plain).items() if has_loss(node)}
    return {
        head: ("loss" if loss == plain["loss"] else f"model.heads.{head}.loss", loss["terms"]) for head, loss in losses.items()
    }


def weight_of(node: Mapping[str, Any]) -> Weight:
    """The weight of a term's node."""
    return Weight(node.get("weight", 1.0), node.get("start", 0.0), node.get("ramp", 0.0))


def given_to_logger(node: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The arguments that rsseg adds to a logger's: the run folder, unless the node sets ``tracking_uri``."""
    return {} if "tracking_uri" in node else {"save_dir": str(folder)}


ABSOLUTE = ("max_lr", "base_lr", "min_lr")
"""The arguments of schedules that are learning rates; they may be lists with one rate per group of parameters."""


@dataclass(frozen=True)
class Setup:
    """A composed config as checked values, and the objects that it describes.

    Scalars have the names that they have in the config; `configs/train.yaml` explains them.
    """

    plain: dict[str, Any]  # the resolved config as plain values, as in config.yaml
    dataset: Dataset
    tasks: dict[str, Task]  # the task of each head, by name
    seed: int
    window: int
    batch_size: int
    steps: int
    validations: int
    checkpoint_every: int | None
    on_nonfinite: str
    margin: int
    pictures: int
    workers: int | None
    cache: Cache
    output: Path
    record: RecordConfig
    trust: tuple[str, ...]  # the user's packages whose classes the config may name

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
        """The classes of `without` that a head has; all of them if it is the only head, so that wrong names are noticed."""
        return self.without if len(self.tasks) == 1 else tuple(c for c in self.without if c in self.tasks[head].classes)

    @property
    def accelerator(self) -> str:
        """The name of the accelerator in the config."""
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
        """The path patterns of a scene's image files; empty if the source does not use patterns."""
        image = self.plain["dataset"]["source"].get("image") or ()
        return (image,) if isinstance(image, str) else tuple(image)

    def palette(self, head: str) -> list[str] | None:
        """The colours of a head's labels; None: chosen."""
        return self.dataset.palette(self.tasks[head].target)

    def with_bands(self, bands: Sequence[int], rgb: Sequence[int] | None = None) -> Setup:
        """A copy with the bands that were found in the data, and with the red, green and blue ones among them."""
        found = {"bands": list(bands), "rgb": None if rgb is None else list(rgb)}
        dataset = replace(self.dataset, bands=tuple(bands), rgb=None if rgb is None else tuple(rgb))
        return replace(self, plain={**self.plain, "dataset": {**self.plain["dataset"], **found}}, dataset=dataset)

    @cached_property
    def _places(self) -> dict[str, ConfigNode]:
        return {place.where: place for place in places(self.plain)}

    def make(self, where: str, **given: Any) -> Any:
        """The object of a place of the config; `given` are the arguments that rsseg adds."""
        place = self._places[where]
        node = {key: value for key, value in place.node.items() if key not in place.beside}
        return build(node, where, place.kind, self.trust, **given)

    def source(self) -> Source:
        """The source of the scenes; files are listed, no pixels are read.

        Raises:
            InputError: If the files can't be found.
        """
        return make_source(self.plain, self.trust)

    @property
    def model(self) -> ModelFacts:
        """The settings of the model."""
        known = {item.name for item in fields(ModelFacts)}  # unknown keys are reported elsewhere
        return ModelFacts(**{key: value for key, value in self.plain["model"].items() if key in known})

    def network(self, pretrained: bool = True) -> Network:
        """The network; `pretrained` weights are not needed if a checkpoint replaces all weights."""
        model = self.model
        if not pretrained:
            model.weights = "none"
        network = build_network(partial(self.make, "model.net"), model, len(self.dataset.read_bands), self.tasks)
        if self.balancing().at_shared_layer:
            _ = network.shared_weight  # raises if no shared part of the network is trained
        load_weights(network, model.weights)
        return network

    def losses(self, numbers: TrainStatistics | None) -> dict[str, Composite]:
        """The loss composition of each head; without `numbers`, for checks, class weights that have to be counted are 1."""
        composites = {}
        for head, (where, nodes) in loss_places(self.plain).items():
            terms = {
                name: (weight_of(node), self.term(f"{where}.terms.{name}", node, self.tasks[head], numbers))
                for name, node in nodes.items()
            }
            composites[head] = self.composite(head, where, terms)
        return composites

    def composite(self, head: str, where: str, terms: Mapping[str, tuple[float | Weight, nn.Module]]) -> Composite:
        """The composition of a head's terms."""
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
        """The balancing of the losses of heads, or of their terms.

        Raises:
            InputError: If there are fewer than two losses to balance, or the method needs losses of 0 or more.
        """
        check_choice("balancing.between", self.between, ("heads", "terms"))
        parts, signed = dict[str, str](), list[str]()  # the head of each part
        for head, (where, terms) in loss_places(self.plain).items():
            for name, node in terms.items():
                if isinstance(node, Mapping) and "_target_" in node and weight_of(node).full:
                    parts[head if self.between == "heads" else f"{head}/{name}"] = head
                    term = locate(node["_target_"], f"{where}.terms.{name}", kinds.TERM, self.trust)
                    signed += [f"{where}.terms.{name}: {term.__name__}"] if getattr(term, "signed", False) else []
        real = [part for part, head in parts.items() if self.tasks[head].real]
        made: Balancing = self.make("balancing", parts=list(parts), real=real)
        if isinstance(made, Fixed):
            return made
        if len(parts) < 2:
            one = f"one {self.between[:-1]} alone ({', '.join(part.removeprefix(f'{self.head}/') for part in parts)})"
            more = "balancing.between=terms" if self.between == "heads" else "a loss of several terms"
            raise InputError(
                f"balancing.between={self.between}: with {one} there is nothing to balance; take {more}, or balancing=fixed"
            )
        if signed and not made.takes_signed:
            raise InputError(
                f"{signed[0]} may be negative, and {type(made).__name__} needs losses of 0 or more; take "
                "balancing=equal_gradients or fixed"
            )
        return made

    @property
    def between(self) -> str:
        """Whether the losses of heads are balanced, or those of all terms."""
        return str(self.plain["balancing"].get("between", "heads"))

    def augmentation(self, name: str) -> Any:
        """An augmentation, by its name."""
        tasks = list(self.dataset.tasks.values())
        return self.make(f"augment.{name}", seed=self.seed, task=tasks[0], tasks=tasks)

    def sampler(self, sizes: NDArray[np.int64], blocks: Blocks, read: Read) -> Places:
        """The places of the training windows, from the scenes' heights and widths ``[S, 2]`` and their blocks."""
        given = {"sizes": sizes, "window": self.window, "blocks": blocks, "task": self.dataset.task, "read": read}
        places: Places = self.make("sampler", seed=self.seed, **given)
        return places

    @property
    def rates(self) -> tuple[float, float]:
        """The factor of the encoder's learning rate, and the further factor of a layer's rate for each layer above it.

        Raises:
            InputError: If they are not valid factors, or the encoder's layers are not known.
        """
        encoder_lr, layer_decay = (self.plain["optimizer"].get(key, 1.0) for key in BESIDE_OPTIMIZER)
        for key, value, most in (("encoder_lr", encoder_lr, math.inf), ("layer_decay", layer_decay, 1)):
            if check_number(f"optimizer.{key}", value, 0, most) == 0:
                raise InputError(f"optimizer.{key}=0: a factor above 0 is expected; 1 leaves the rates as they are")
        if layer_decay != 1:
            layers_above(self.plain["model"]["encoder"])
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

        Groups of parameters keep the ratios of their rates, unless the schedule has one minimum for all (``eta_min``).
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
            InputError: If its arguments are wrong or its package is not installed. Unreachable servers raise other errors.
        """
        logger: Logger = self.make(f"logger.{name}", **given_to_logger(self.plain["logger"][name], folder))
        return logger

    def trainer(self, **given: Any) -> L.Trainer:
        """Lightning's trainer; `given` replaces settings of the config."""
        node = {key: value for key, value in self.plain["trainer"].items() if key not in given}
        return build(node, "trainer", kinds.TRAINER, self.trust, **given)


def set_up(plain: dict[str, Any], trust: tuple[str, ...]) -> Setup:
    """The setup of a config as plain values; see `rsseg.assembly.make_setup`.

    Raises:
        InputError: If a task does not exist, or the settings of masks are wrong.
    """
    dataset = make_dataset(plain)  # first, since the checks of the schema report heads without a target
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
