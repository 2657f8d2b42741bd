"""From a composed config to one frozen object, and from there to open data and a module."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, SequentialLR

from rsseg.compare.panel import PANEL
from rsseg.config import build as kinds
from rsseg.config.build import FailedError, Kind, build, faults, locate, missing
from rsseg.config.schema import ModelConfig, RecordConfig, Residence, cross_check, raise_faults
from rsseg.config.targets import (
    FROM_FILES,
    full_names,
    has_loss,
    heads_of,
    in_place,
    leave_out_short_form,
    no_such_target,
    targets_of,
    tasks_of,
)
from rsseg.contract import InputError, nearest
from rsseg.data.blocks import SIZE, Blocks
from rsseg.data.decoder import Decoder
from rsseg.data.labels import make_decoder
from rsseg.data.paste import Fits
from rsseg.data.sampling import Places, Read
from rsseg.data.scene import Source
from rsseg.data.store import torch_dtype
from rsseg.dataset import Data, Dataset, Numbers, scenes_of
from rsseg.devices import device_faults
from rsseg.errors import write_trace
from rsseg.loggers import given_to_logger
from rsseg.losses import Composite, EdgeWeight, Foreign, Weight
from rsseg.losses.balancing import Balancing, Fixed
from rsseg.losses.class_weights import counted_weights, uncounted
from rsseg.losses.foreign import adapted, given_to_loss
from rsseg.metrics import metrics
from rsseg.models import Network, build_network, check_architecture, encoder_name, load_weights
from rsseg.models.rates import layers_above, rate_groups
from rsseg.models.siamese import bands_of_a_date
from rsseg.module import SegmentationModule, logged_names
from rsseg.task import Task

log = logging.getLogger(__name__)

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

BESIDE_OPTIMIZER = ("encoder_lr", "layer_decay")
"""The keys of the optimizer that are not for its target: see `rate_groups`."""

ABSOLUTE = ("max_lr", "base_lr", "min_lr")
"""The arguments of schedules that are learning rates, and may be given for each group of parameters."""

PACKAGES = ("tensorboard", "wandb", "mlflow")
"""The loggers that an extra of rsseg installs; each is called as its package."""


class Place(NamedTuple):
    """A node that is built.

    Attributes:
        where: Its place in the config.
        node: What stands there.
        kind: What it has to be.
        given: The arguments that rsseg adds.
        beside: Keys that the node may hold for rsseg, such as a term's weight: its target is not given them.
    """

    where: str
    node: Any
    kind: Kind
    given: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def places(plain: Mapping[str, Any]) -> Iterator[Place]:
    """Every node of a config that is built."""
    yield Place("dataset.source", plain["dataset"]["source"], kinds.SOURCE, tuple(_given_to_source(plain)))
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
            yield Place(f"{where}.terms.{name}", node, kinds.TERM, given, BESIDE_TERM)


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

    Attributes:
        plain: The resolved config as plain values: what config.yaml holds.
        dataset: The dataset.
        tasks: The task of each head, by name.
        trust: Packages of the user's whose classes the config may name.
    """

    plain: dict[str, Any]
    dataset: Dataset
    tasks: dict[str, Task]
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
    residence: Residence
    output: Path
    record: RecordConfig
    trust: tuple[str, ...]

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
        node, given = self.plain["dataset"]["source"], _given_to_source(self.plain)
        made = locate(node["_target_"], "dataset.source", kinds.SOURCE, self.trust)
        if given and "targets" not in signature(made).parameters:
            raise InputError(
                f"dataset.targets={list(self.dataset.tasks)}: {made.__name__} has one target; leave dataset.targets out"
            )
        source: Source = build(node, "dataset.source", kinds.SOURCE, self.trust, **given)
        return source

    def network(self, pretrained: bool = True) -> Network:
        """The network.

        Args:
            pretrained: Load its pretrained weights; not where a checkpoint holds all.
        """
        model = ModelConfig(**self.plain["model"])
        if not pretrained:
            model.weights = "none"
        net = partial(build, model.net, "model.net", kinds.MODEL, self.trust)
        network = build_network(net, model, len(self.dataset.read_bands), self.tasks)
        if self.balancing().at_shared_layer:
            _ = network.shared_weight  # it refuses a network that trains nothing that is shared
        load_weights(network, model.weights)
        return network

    def losses(self, numbers: Numbers | None) -> dict[str, Composite]:
        """The loss composition of each head.

        Args:
            numbers: The training split's counts; None: leave counted weights out, to check the rest.
        """
        composites = {}
        for head, (where, nodes) in loss_places(self.plain).items():
            terms = {
                name: (_weight(node), self._term(f"{where}.terms.{name}", node, self.tasks[head], numbers))
                for name, node in nodes.items()
            }
            composites[head] = self._composite(head, where, terms)
        return composites

    def _composite(self, head: str, where: str, terms: Mapping[str, tuple[float | Weight, nn.Module]]) -> Composite:
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

    def _term(self, where: str, node: Mapping[str, Any], task: Task, numbers: Numbers | None) -> nn.Module:
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
        heads = {(head if self.between == "heads" else f"{head}/{name}"): head for head, name, _ in self._weighed()}
        real = [part for part, head in heads.items() if self.tasks[head].real]
        made: Balancing = build(node, "balancing", kinds.BALANCING, self.trust, parts=list(heads), real=real)
        return made

    def _weighed(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """The loss terms that have a weight: each one's head, name and node."""
        for head, (_, terms) in loss_places(self.plain).items():
            for name, node in terms.items():
                if isinstance(node, Mapping) and "_target_" in node and _weight(node).full:
                    yield head, name, node

    @property
    def between(self) -> str:
        """Whether the losses of heads are balanced, or those of all terms."""
        return str(self.plain["balancing"].get("between", "heads"))

    def panel(self, head: str, numbers: Numbers) -> dict[str, dict[str, Any]]:
        """What the losses of a head's panel are made with, counted weights as numbers, by name; none for real values."""
        task = self.tasks[head]
        losses, counted = {} if task.real else PANEL, numbers.targets[task.target]
        return {name: counted_weights(node, f"panel.{name}", task, counted) for name, node in losses.items()}

    def augmentations(self) -> list[Any]:
        """The augmentations, in the order of the config."""
        return [self._augmentation(name) for name in self.plain["augment"]]

    def _augmentation(self, name: str) -> Any:
        node, tasks = self.plain["augment"][name], list(self.dataset.tasks.values())
        given = {"seed": self.seed, "task": self.dataset.task, "tasks": tasks}
        return build(node, f"augment.{name}", kinds.AUGMENTATION, self.trust, **given)

    def sampler(self, sizes: NDArray[np.int64], blocks: Blocks, read: Read) -> Places:
        """What says where each training window lies.

        Args:
            sizes: ``[S, 2]``, height and width of each training scene.
            blocks: Their blocks.
            read: Reads their windows.
        """
        given = {"seed": self.seed, "sizes": sizes, "window": self.window, "blocks": blocks, "task": self.dataset.task}
        sampler: Places = build(self.plain["sampler"], "sampler", kinds.SAMPLER, self.trust, **given, read=read)
        return sampler

    @property
    def rates(self) -> tuple[float, float]:
        """The factor on the encoder's learning rate, and the further one for each layer above."""
        encoder_lr, layer_decay = (self.plain["optimizer"].get(key, 1.0) for key in BESIDE_OPTIMIZER)
        return encoder_lr, layer_decay

    def optimizer(
        self, params: Any, network: nn.Module | None = None, undecayed: Sequence[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """The optimizer of some parameters; those of the network's encoder may have rates of their own.

        Args:
            params: The parameters.
            network: The network, for the rates of its encoder.
            undecayed: Further parameters, without weight decay.
        """
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
        return {name: self._callback(name) for name in self.plain["callbacks"]}

    def _callback(self, name: str) -> L.Callback:
        callback: L.Callback = build(self.plain["callbacks"][name], f"callbacks.{name}", kinds.CALLBACK, self.trust)
        return callback

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
        trainer: L.Trainer = build(node, "trainer", kinds.TRAINER, self.trust, **given)
        return trainer

    def attempts(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """By place, what makes a part and tries it once: then a wrong number shows, or weights of a wrong length."""
        yield "model.encoder", partial(encoder_name, self.plain["model"]["encoder"])
        yield "model.net", self._try_architecture
        yield "metrics", self._try_metrics
        for name in self.plain["augment"]:
            yield f"augment.{name}", partial(self._augmentation, name)
        for name in self.plain["callbacks"]:
            yield f"callbacks.{name}", partial(self._callback, name)
        yield "sampler", self._try_sampler
        for head, (where, terms) in loss_places(self.plain).items():
            for name, node in terms.items():
                place = f"{where}.terms.{name}"
                yield place, partial(self._try_term, place, head, name, node)
            yield where, partial(self._try_loss, head, where, terms)
        yield "balancing", self._try_balancing
        yield "optimizer", self._try_optimizer
        yield "scheduler", self._try_scheduler

    def _try_metrics(self) -> None:
        """Look at the classes that are left out of means: each has to be one of some head."""
        known = [name for task in self.tasks.values() for name in task.classes]
        for name in self.without:
            if len(self.tasks) > 1 and name not in known:
                raise InputError(f"metrics.without: there is no class {name}{nearest(name, known)}")
        for head in self.tasks:
            metrics(self.tasks[head], self.without_of(head))

    def _try_architecture(self) -> None:
        """Look whether the smp class has what the other settings of the model ask for."""
        kind = locate(self.plain["model"]["net"]["_target_"], "model.net", kinds.MODEL, self.trust)
        model = ModelConfig(**self.plain["model"])
        check_architecture(kind, model, self.tasks)
        if model.siamese and self.dataset.bands is not None:
            bands_of_a_date(len(self.dataset.bands))

    def _try_term(self, where: str, head: str, name: str, node: Mapping[str, Any]) -> None:
        """Call a term of a head's loss on a few pixels."""
        task, loss = self.tasks[head], heads_of(self.plain)[head]["loss"]
        if not isinstance(node, Mapping):
            raise InputError(f"{where}={node!r}: a mapping with _target_ is expected")
        _weight(node).check(name)
        term = self._term(where, node, task, None)
        if isinstance(term, Foreign):
            term.try_out(weighted=bool(loss.get("edge_weight") or self.plain["dataset"]["source"].get("weight")))
            return
        logits = torch.zeros(1, task.outputs, 2, 2)
        target = torch.full((1, *task.planes, 2, 2), 1 / task.channels if task.soft else 0, dtype=torch_dtype(task.dtype))
        target = task.standardise(target)
        try:
            value = Composite({name: (1.0, term)})(logits, target)
        except InputError as error:
            raise error if where in str(error) else InputError(f"{where}: {error}") from None
        except Exception as error:  # whatever a term of the user's own raises
            raise InputError(f"{where}: {type(term).__name__} failed: {type(error).__name__}: {error}") from error
        if value.total.ndim:
            raise InputError(f"{where}: {type(term).__name__} returned {list(value.total.shape)} numbers; a loss is one number")

    def _try_loss(self, head: str, where: str, nodes: Mapping[str, Any]) -> None:
        """Put the terms of a loss together, those that can be made."""
        terms: dict[str, tuple[float | Weight, nn.Module]] = {}
        for name, node in nodes.items():
            if isinstance(node, Mapping) and node:
                try:
                    term = self._term(f"{where}.terms.{name}", node, self.tasks[head], None)
                except InputError:  # it is told already
                    term = nn.Identity()
                terms[name] = _weight(node), term
        self._composite(head, where, terms)

    def _try_balancing(self) -> None:
        """Make the balancing, which needs two parts, and may need losses that are not negative."""
        made = self.balancing()
        if isinstance(made, Fixed):
            return
        if len(made.parts) < 2:
            one = f"one {self.between[:-1]} alone ({', '.join(made.parts)})"
            more = "balancing.between=terms" if self.between == "heads" else "a loss of several terms"
            raise InputError(
                f"balancing.between={self.between}: with {one} there is nothing to balance; take {more}, or balancing=fixed"
            )
        for head, name, node in self._weighed():
            place = f"{loss_places(self.plain)[head][0]}.terms.{name}"
            term = locate(node["_target_"], place, kinds.TERM, self.trust)
            if getattr(term, "signed", False) and not made.takes_signed:
                raise InputError(
                    f"{place}: {term.__name__} may be negative, and {type(made).__name__} needs losses of 0 or more; take "
                    "balancing=equal_gradients or fixed"
                )

    def _try_sampler(self) -> None:
        """Make the sampler for one block in which every class occurs."""
        counts, sizes = np.ones((1, self.dataset.task.channels + 1), dtype=np.uint16), np.array([[SIZE, SIZE]])
        self.sampler(sizes, Blocks.of(counts, sizes), read=lambda *_: (counts, counts.astype(np.uint8)))

    def _try_optimizer(self) -> None:
        """Make the optimizer of one parameter, and look at the factors on its rate."""
        for key, value in zip(BESIDE_OPTIMIZER, self.rates, strict=True):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < (math.inf if key == "encoder_lr" else 1 + 1e-9):
                most = "" if key == "encoder_lr" else ", 1 at most"
                raise InputError(f"optimizer.{key}={value}: a factor above 0{most} is expected; 1 leaves the rates as they are")
        if self.rates[1] != 1:
            layers_above(self.plain["model"]["encoder"])
        self.optimizer([nn.Parameter(torch.zeros(1))])

    def _try_scheduler(self) -> None:
        """Step the optimizer and the schedule of one parameter."""
        optimizer = self.optimizer([nn.Parameter(torch.zeros(1))])
        scheduler = self.scheduler(optimizer)
        try:
            optimizer.step()
            scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"optimizer or scheduler can't make a step: {error}") from None


def _weight(node: Mapping[str, Any]) -> Weight:
    """The weight of a term's node."""
    return Weight(node.get("weight", 1.0), node.get("start", 0.0), node.get("ramp", 0.0))


def make_setup(config: DictConfig, trust: Sequence[str] = ()) -> Setup:
    """Make the objects of a composed config, or say everything that is wrong with it.

    Args:
        config: As Hydra composes it, or as a run folder holds it.
        trust: Packages whose classes it may name, as the user says at the command line; what the config says of it is left out.

    Raises:
        InputError: All faults that can be found without reading data, together.
    """
    config = leave_out_short_form(config)
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise InputError(f"the config can't be resolved: {str(error).splitlines()[0]}") from None
    raise_faults(missing(config))
    plain.pop("trust")
    together = cross_check(config)
    found = {p.where: faults(p.node, p.where, p.kind, trust, p.given, p.beside) for p in places(plain)}
    together += chain(*found.values())
    try:
        setup = _setup(plain, tuple(trust))
    except InputError as error:  # the dataset's labels, which parts are made for
        raise_faults(_once([*together, str(error)]))
        raise
    for where, attempt in setup.attempts():
        if found.get(where) or (where == "scheduler" and (found["optimizer"] or setup.steps < 1)):
            continue  # it, or what it is made with, is wrong already
        try:
            attempt()
        except InputError as error:
            if error.__cause__ is not None:
                write_trace(error.__cause__)
            found[where] = [str(error)]
            together.append(str(error))
    sound = {name: node for name, node in plain["callbacks"].items() if not found[f"callbacks.{name}"]}
    raise_faults(_once([*together, *_callback_faults(setup, sound)]))
    return setup


def _once(faults: Sequence[str]) -> list[str]:
    """Faults without those that are told already, perhaps with their place before them."""
    found: list[str] = []
    for fault in faults:
        found += [] if any(fault in told for told in found) else [fault]
    return found


def _setup(plain: dict[str, Any], trust: tuple[str, ...]) -> Setup:
    dataset = plain["dataset"]
    targets, tasks = targets_of(dataset), tasks_of(dataset)
    bands, rgb = (None if dataset[key] is None else tuple(dataset[key]) for key in ("bands", "rgb"))
    made: dict[str, Any] = {
        "plain": plain,
        "dataset": Dataset(
            name=dataset["name"],
            decoders=tuple(_decoder(tasks[name], target) for name, target in targets.items()),
            bands=bands,
            rgb=rgb,
            palettes=tuple(target["palette"] for target in targets.values()),
            unlabelled=_unlabelled(dataset, tasks),
            store=Path(plain["output"]) / "cache" / "store",
            skip_bad_scenes=plain["on_bad_tile"] == "skip",
        ),
        "tasks": {head: _task_of(head, node["target"], tasks) for head, node in heads_of(plain).items()},
        "residence": Residence(plain["residence"]),
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


def _decoder(task: Task, target: Mapping[str, Any]) -> Decoder:
    """The decoder of a target's masks."""
    values, ignored = target["mask_values"], target["ignore_values"]
    try:
        return make_decoder(task, values, ignored, target["fractions"], target["range"], target["size"])
    except InputError as error:
        raise InputError(in_place(str(error), task.target)) from None


def _given_to_source(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What a source is given: of several targets what holds each of them, by name."""
    if not plain["dataset"].get("targets"):
        return {}
    targets = targets_of(plain["dataset"])
    return {
        "targets": {
            name: {key: target[key] for key in FROM_FILES if target[key] is not None} for name, target in targets.items()
        }
    }


def _unlabelled(dataset: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, tuple[str, ...]]:
    """By pattern of scene names, the classes that are not labelled there, each as ``target/class``."""
    known = {f"{name}/{label}" for name, task in tasks.items() for label in task.classes}
    return {
        pattern: tuple(full for label in labels for full in full_names(str(label), tasks) if full in known)
        for pattern, labels in (dataset.get("unlabelled") or {}).items()
    }


def _callback_faults(setup: Setup, callbacks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What of the callbacks does not go together with the rest."""
    found = []
    losses = loss_places(setup.plain)
    tasks = {head: task for head, task in setup.tasks.items() if head in losses}
    names = logged_names(tasks, {head: list(terms) for head, (_, terms) in losses.items()})
    schedule = str(setup.plain["scheduler"].get("_target_")).rpartition(".")[2]
    for name, node in callbacks.items():
        monitor = node.get("monitor")
        if monitor is not None and monitor not in names:
            found.append(f"callbacks.{name}.monitor={monitor}: a run logs no such value{nearest(str(monitor), names)}")
        made = locate(node["_target_"], f"callbacks.{name}", kinds.CALLBACK, setup.trust)
        if issubclass(made, LearningRateFinder) and schedule in (SequentialLR.__name__, OneCycleLR.__name__):
            found.append(
                f"callbacks.{name} with {schedule}: its first steps have a rate of their own, which the found one would "
                "overwrite; take scheduler=cosine, poly, plateau or constant"
            )
    return found


def check_machine(setup: Setup) -> None:
    """Find what this machine lacks to train a setup: a GPU, a logger's package.

    Raises:
        InputError: All that is missing, together.
    """
    found = device_faults(setup.plain["trainer"], setup.residence is Residence.gpu)
    absent = [name for name in setup.plain["logger"] if name in PACKAGES and find_spec(name) is None]
    found += [f"logger={name}: its package is not installed: pip install 'rsseg[{name}]'" for name in absent]
    raise_faults(found)


def check_run(config: DictConfig, scenes: bool) -> None:
    """Find what can be found before a run of a sweep.

    Args:
        config: As Hydra composes it.
        scenes: Also look for the scenes of the training and the validation split.

    Raises:
        InputError: For faults of the config, and what machine or dataset lack.
    """
    setup = make_setup(config, config.trust)
    check_machine(setup)
    if scenes:
        source = setup.source()
        for split in ("train", "val"):
            scenes_of(source, setup.dataset, split)


def warn_of_uncounted(setup: Setup, numbers: Numbers) -> None:
    """Log which classes have a weight that can't be counted, as no labelled training pixel is of them."""
    for head, (where, terms) in loss_places(setup.plain).items():
        task = setup.tasks[head]
        counted = numbers.targets[task.target]
        clipped = [task.classes[c] for c in uncounted(task, counted.positives, counted.valid)]
        if not clipped:
            continue
        every = "" if task.exclusive else ", or every one,"
        line = "%s.terms.%s: the weight of class %s can't be counted and is clipped: no labelled training pixel%s is of it."
        for name, term in terms.items():
            if isinstance(term.get("class_weights") or term.get("priors"), str):
                log.warning(line, where, name, ", ".join(clipped), every)


def make_module(setup: Setup, network: nn.Module, numbers: Numbers, scenes: int) -> SegmentationModule:
    """Everything that trains, around a network.

    Args:
        setup: The setup.
        network: The network.
        numbers: The training split's numbers.
        scenes: The number of scenes that are scored.
    """
    return SegmentationModule(
        network=network,
        losses=setup.losses(numbers),
        tasks={head: task.scaled(*numbers.targets[task.target].of_values) for head, task in setup.tasks.items()},
        weights=setup.head_weights,
        mean=numbers.mean,
        std=numbers.std,
        scenes=scenes,
        steps=setup.steps,
        balancing=setup.balancing(),
        between=setup.between,
        seed=setup.seed,
        augmentations=setup.augmentations(),
        optimizer=partial(setup.optimizer, network=network),
        scheduler=setup.scheduler,
        without={head: setup.without_of(head) for head in setup.tasks},
        monitored=setup.monitored,
        classifier=setup.plain["model"]["classifier"] or 0.0,
    )


def fit_augmentations(module: SegmentationModule, data: Data) -> None:
    """Let the augmentations that need something from the training split take it."""
    train, numbers = data.stores["train"], data.numbers
    for augmentation in module.augmentations:
        if isinstance(augmentation, Fits):
            augmentation.fit(train.read_layers, train.census.blocks, numbers.mean, numbers.std)
