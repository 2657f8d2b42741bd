"""From a composed config to one frozen object, and from there to open data and a module."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, SequentialLR

from rsseg.alignment.panel import PANEL
from rsseg.config import build as kinds
from rsseg.config.build import Kind, build, faults, missing
from rsseg.config.schema import ModelConfig, Residence, cross_check, raise_faults
from rsseg.contract import IGNORE, InputError, nearest
from rsseg.data.blocks import SIZE, Blocks
from rsseg.data.labels import Labels
from rsseg.data.paste import Fits
from rsseg.data.sampling import Places, Read
from rsseg.data.scene import Source
from rsseg.dataset import Data, Dataset, Numbers, scenes_of
from rsseg.devices import device_faults
from rsseg.loggers import given_to_logger
from rsseg.losses import Composite
from rsseg.losses.class_weights import counted_weights, uncounted
from rsseg.models import Network, build_network, encoder_name, load_weights
from rsseg.module import SegmentationModule, logged_names
from rsseg.task import Task, make_task

log = logging.getLogger(__name__)

NET_GIVEN = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
SAMPLER_GIVEN = ("seed", "sizes", "window", "blocks", "task", "read")
AUGMENT_GIVEN = ("seed", "task")
TRAINER_GIVEN = (
    "default_root_dir", "max_steps", "max_epochs", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
    "logger", "callbacks", "plugins", "use_distributed_sampler", "enable_model_summary", "fast_dev_run", "limit_train_batches",
    "limit_val_batches", "overfit_batches", "max_time", "min_steps", "min_epochs",
)  # fmt: skip
"""The parameters of each target that rsseg fills in or, as a run is made of steps, leaves alone."""

PACKAGES = ("tensorboard", "wandb", "mlflow")
"""The loggers that an extra of rsseg installs; each is called as its package."""


class Place(NamedTuple):
    """A node that is built.

    Attributes:
        where: Its place in the config.
        node: What stands there.
        kind: What it has to be.
        given: The arguments that rsseg adds.
        beside: What the node may hold that its target is not given.
    """

    where: str
    node: Any
    kind: Kind
    given: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def places(plain: Mapping[str, Any]) -> Iterator[Place]:
    """Every node of a config that is built."""
    yield Place("dataset.source", plain["dataset"]["source"], kinds.SOURCE)
    yield Place("model.net", plain["model"]["net"], kinds.MODEL, NET_GIVEN)
    yield Place("optimizer", plain["optimizer"], kinds.OPTIMIZER, ("params",))
    yield Place("scheduler", plain["scheduler"], kinds.SCHEDULER, ("optimizer",))
    yield Place("sampler", plain["sampler"], kinds.SAMPLER, SAMPLER_GIVEN)
    yield Place("trainer", plain["trainer"], kinds.TRAINER, TRAINER_GIVEN)
    for name, node in plain["augment"].items():
        yield Place(f"augment.{name}", node, kinds.AUGMENTATION, AUGMENT_GIVEN)
    for name, node in plain["callbacks"].items():
        yield Place(f"callbacks.{name}", node, kinds.CALLBACK)
    for name, node in plain["logger"].items():
        yield Place(f"logger.{name}", node, kinds.LOGGER, tuple(given_to_logger(node, Path())))
    for where, terms in loss_places(plain).values():
        for name, node in terms.items():
            yield Place(f"{where}.terms.{name}", node, kinds.TERM, ("task", "ignore_index"), ("weight",))


def loss_places(plain: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By head, the place of its loss in the config, and the loss's terms; ``loss`` for a head that has no loss of its own."""
    found = {}
    for head, node in plain["model"]["heads"].items():
        own = node["loss"] != plain["loss"]
        found[head] = (f"model.heads.{head}.loss" if own else "loss", node["loss"]["terms"])
    return found


@dataclass(frozen=True)
class Record:
    """What a run records of itself: at all, and also each term's one-step gain."""

    enabled: bool
    gain: bool


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
    record: Record
    trust: tuple[str, ...]

    @property
    def head(self) -> str:
        """The first head, whose scores choose the best checkpoint."""
        return next(iter(self.tasks))

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

    def with_bands(self, bands: Sequence[int]) -> Setup:
        """The same with the bands that were found in the data."""
        plain = {**self.plain, "dataset": {**self.plain["dataset"], "bands": list(bands)}}
        return replace(self, plain=plain, dataset=replace(self.dataset, bands=tuple(bands)))

    def source(self) -> Source:
        """Where the scenes lie; files are listed, no pixels are read.

        Raises:
            InputError: If they can't be found.
        """
        source: Source = build(self.plain["dataset"]["source"], "dataset.source", kinds.SOURCE, self.trust)
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
        load_weights(network, model.weights)
        return network

    def losses(self, numbers: Numbers | None) -> dict[str, Composite]:
        """The loss composition of each head.

        Args:
            numbers: The training split's counts; None: leave counted weights out, to check the rest.
        """
        composites = {}
        for head, (where, nodes) in loss_places(self.plain).items():
            terms = {}
            for name, node in nodes.items():
                place, weight = f"{where}.terms.{name}", node.get("weight", 1.0)
                arguments = {key: value for key, value in node.items() if key != "weight"}
                counted = counted_weights(arguments, place, self.tasks[head], numbers)
                terms[name] = (weight, build(counted, place, kinds.TERM, self.trust, task=self.tasks[head].kind))
            node = self.plain["model"]["heads"][head]["loss"]
            composites[head] = Composite(terms, node.get("check_targets", False))
        return composites

    def panel(self, numbers: Numbers) -> dict[str, dict[str, Any]]:
        """What the losses of the panel are made with, counted weights as numbers, by name."""
        return {name: counted_weights(node, f"panel.{name}", self.dataset.task, numbers) for name, node in PANEL.items()}

    def augmentations(self) -> list[Any]:
        """The augmentations, in the order of the config."""
        make = partial(build, seed=self.seed, task=self.dataset.task)
        return [make(node, f"augment.{name}", kinds.AUGMENTATION, self.trust) for name, node in self.plain["augment"].items()]

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

    def optimizer(self, params: Any) -> torch.optim.Optimizer:
        """The optimizer of some parameters."""
        optimizer: torch.optim.Optimizer = build(
            self.plain["optimizer"], "optimizer", kinds.OPTIMIZER, self.trust, params=params
        )
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule of an optimizer's rate, stepped every optimiser step."""
        return build(self.plain["scheduler"], "scheduler", kinds.SCHEDULER, self.trust, optimizer=optimizer)

    def callbacks(self) -> dict[str, L.Callback]:
        """The callbacks of the config, by name."""
        nodes = self.plain["callbacks"].items()
        return {name: build(node, f"callbacks.{name}", kinds.CALLBACK, self.trust) for name, node in nodes}

    def logger(self, name: str, folder: Path) -> Logger:
        """A logger of the config; one that writes files writes them in the run folder.

        Raises:
            InputError: If its arguments are wrong or its package is not installed. That its server is away is another error.
        """
        node = self.plain["logger"][name]
        try:
            logger: Logger = build(node, f"logger.{name}", kinds.LOGGER, self.trust, **given_to_logger(node, folder))
        except InputError as error:
            if error.__cause__ is None or isinstance(error.__cause__, TypeError | ValueError | ModuleNotFoundError):
                raise
            raise error.__cause__ from None
        return logger

    def trainer(self, **given: Any) -> L.Trainer:
        """Lightning's trainer; `given` replaces what the config says."""
        node = {key: value for key, value in self.plain["trainer"].items() if key not in given}
        trainer: L.Trainer = build(node, "trainer", kinds.TRAINER, self.trust, **given)
        return trainer

    def faults(self) -> list[str]:
        """What shows only when every part is made and tried once: a wrong number, weights of a wrong length."""
        found = []
        for attempt in (
            lambda: encoder_name(self.plain["model"]["encoder"]),
            self.augmentations,
            self.callbacks,
            self._try_sampler,
            self._try_losses,
            self._try_optimizer,
        ):
            try:
                attempt()
            except InputError as error:
                found.append(str(error))
        return found

    def _try_losses(self) -> None:
        """Call the losses on two pixels."""
        for head, composite in self.losses(None).items():
            task = self.tasks[head]
            composite(torch.zeros(1, task.channels, 2, 2), torch.zeros(1, *task.planes, 2, 2, dtype=torch.uint8))

    def _try_sampler(self) -> None:
        """Make the sampler for one block in which every class occurs."""
        counts, sizes = np.ones((1, self.dataset.task.channels + 1), dtype=np.uint16), np.array([[SIZE, SIZE]])
        self.sampler(sizes, Blocks.of(counts, sizes), read=lambda *_: (counts, counts.astype(np.uint8)))

    def _try_optimizer(self) -> None:
        """Step the optimizer and the schedule of one parameter."""
        optimizer = self.optimizer([nn.Parameter(torch.zeros(1))])
        scheduler = self.scheduler(optimizer)
        try:
            optimizer.step()
            scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"optimizer or scheduler can't make a step: {error}") from None


def make_setup(config: Any, trust: Sequence[str] = ()) -> Setup:
    """Make the objects of a composed config, or say everything that is wrong with it.

    Args:
        config: As Hydra composes it, or as a run folder holds it.
        trust: Packages whose classes it may name, as the user says at the command line; what the config says of it is left out.

    Raises:
        InputError: All faults that can be found without reading data, together.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise InputError(f"the config can't be resolved: {str(error).splitlines()[0]}") from None
    raise_faults(missing(config))
    plain.pop("trust")
    found = cross_check(config)
    for place in places(plain):
        own = faults(place.node, place.where, place.kind, trust, place.given, place.beside)
        found += [fault for fault in own if fault not in found]
    raise_faults(found)
    setup = _setup(plain, tuple(trust))
    raise_faults([*_combination_faults(setup), *setup.faults()])
    return setup


def _setup(plain: dict[str, Any], trust: tuple[str, ...]) -> Setup:
    dataset, record = plain["dataset"], plain["record"]
    task = make_task(dataset["task"], dataset["classes"])
    ignore = dataset["ignore_values"]
    if ignore is None:
        ignore = [] if any(isinstance(value, str) for value in dataset["mask_values"] or []) else [IGNORE]
    bands, rgb = (None if dataset[key] is None else tuple(dataset[key]) for key in ("bands", "rgb"))
    return Setup(
        plain=plain,
        dataset=Dataset(
            name=dataset["name"],
            task=task,
            bands=bands,
            rgb=rgb,
            palette=dataset["palette"],
            labels=Labels(task, dataset["mask_values"], ignore),
            store=Path(plain["output"]) / "cache" / "store",
            skip_bad_scenes=plain["on_bad_tile"] == "skip",
        ),
        tasks=dict.fromkeys(plain["model"]["heads"], task),
        seed=plain["seed"],
        window=plain["window"],
        batch_size=plain["batch_size"],
        steps=plain["steps"],
        validations=plain["validations"],
        checkpoint_every=plain["checkpoint_every"],
        on_nonfinite=plain["on_nonfinite"],
        overlap=plain["overlap"],
        pictures=plain["pictures"],
        workers=plain["workers"],
        residence=Residence(plain["residence"]),
        output=Path(plain["output"]),
        record=Record(record["enabled"], record["gain"]),
        trust=trust,
    )


def _combination_faults(setup: Setup) -> list[str]:
    """What can't go together."""
    found, trainer, scheduler = [], setup.plain["trainer"], setup.plain["scheduler"]
    times = trainer.get("accumulate_grad_batches", 1)
    if not isinstance(times, int) or times < 1:
        found.append(f"trainer.accumulate_grad_batches={times} has to be a whole number of 1 or more")
    milestones = scheduler.get("milestones", [0])
    if isinstance(milestones, list) and milestones and max(milestones) >= setup.steps:
        found.append(f"scheduler.milestones={milestones}: all have to come before the last of steps={setup.steps}")
    names = logged_names(setup.tasks, {head: list(terms) for head, (_, terms) in loss_places(setup.plain).items()})
    for name, node in setup.plain["callbacks"].items():
        monitor = node.get("monitor")
        if monitor is not None and monitor not in names:
            found.append(f"callbacks.{name}.monitor={monitor}: a run logs no such value{nearest(str(monitor), names)}")
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    devices = len(devices) if isinstance(devices, list) else devices
    if isinstance(devices, int) and devices > 0 and setup.batch_size % (devices * nodes):
        found.append(f"batch_size={setup.batch_size} can't be shared evenly among {devices * nodes} devices")
    if devices not in (1, "1") and trainer.get("strategy", "auto") == "auto":
        found.append(f"trainer.devices={devices}: take trainer=ddp to train on several")
    finders = [name for name, callback in setup.callbacks().items() if isinstance(callback, LearningRateFinder)]
    schedule = scheduler["_target_"].rpartition(".")[2]
    if finders and schedule in (SequentialLR.__name__, OneCycleLR.__name__):
        found.append(
            f"callbacks.{finders[0]} with {schedule}: its first steps have a rate of their own, which the found one would "
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


def check_run(config: Any, scenes: bool) -> None:
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
            scenes_of(source, setup.dataset.name, split)


def warn_of_uncounted(setup: Setup, numbers: Numbers) -> None:
    """Log which classes have a weight that can't be counted, as no labelled training pixel is of them."""
    for head, (where, terms) in loss_places(setup.plain).items():
        task = setup.tasks[head]
        clipped = [task.classes[c] for c in uncounted(task, numbers.positives, numbers.valid)]
        if not clipped:
            continue
        every = "" if task.exclusive else ", or every one,"
        line = "%s.terms.%s: the weight of class %s can't be counted and is clipped: no labelled training pixel%s is of it."
        for name, term in terms.items():
            if isinstance(term.get("class_weights"), str):
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
        tasks=setup.tasks,
        mean=numbers.mean,
        std=numbers.std,
        scenes=scenes,
        seed=setup.seed,
        augmentations=setup.augmentations(),
        optimizer=setup.optimizer,
        scheduler=setup.scheduler,
    )


def fit_augmentations(module: SegmentationModule, data: Data) -> None:
    """Let the augmentations that need something from the training split take it."""
    train, numbers = data.stores["train"], data.numbers
    for augmentation in module.augmentations:
        if isinstance(augmentation, Fits):
            augmentation.fit(train.read, train.census.blocks, numbers.mean, numbers.std)
