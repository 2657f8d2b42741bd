"""Checked setups from composed configs, and the module of a setup."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, SequentialLR

from rsseg.config import build as kinds
from rsseg.config.build import faults, locate, missing
from rsseg.config.schema import Cache, cross_check, raise_faults
from rsseg.config.targets import heads_of
from rsseg.contract import InputError, first_line, nearest
from rsseg.data.blocks import SIZE, Blocks
from rsseg.data.raster import colour_bands
from rsseg.data.scene import Source
from rsseg.data.store import torch_dtype
from rsseg.dataset import Data, TrainStatistics, scenes_of, training_scenes
from rsseg.devices import device_faults
from rsseg.errors import write_trace
from rsseg.losses import Composite, Foreign
from rsseg.losses.class_weights import uncounted
from rsseg.metrics import metrics
from rsseg.models import check_architecture, encoder_name
from rsseg.models.siamese import bands_of_a_date
from rsseg.module import SegmentationModule, logged_names
from rsseg.setup import Setup, loss_places, places, set_up, weight_of

log = logging.getLogger(__name__)

PACKAGES = ("tensorboard", "wandb", "mlflow", "trackio")  # loggers that extras install, by the names of their packages


def make_setup(config: DictConfig, trust: Sequence[str] = ()) -> Setup:
    """Make the setup of a composed config, or raise an error with all of its faults.

    Args:
        config: The config as Hydra composes it, or as a run folder holds it.
        trust: Packages whose classes the config may name, from the command line; the config's own ``trust`` is ignored.

    Raises:
        InputError: All faults that can be found without reading data, together.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise InputError(f"the config can't be resolved: {first_line(error)}") from None
    raise_faults(missing(config))
    plain.pop("trust")
    found = {"": cross_check(config)} | {
        p.where: faults(p.node, p.where, p.kind, trust, p.given, p.beside) for p in places(plain)
    }
    try:
        setup = set_up(plain, tuple(trust))
    except InputError as error:  # the dataset's labels are wrong, and all parts need them
        raise_faults(_once([*chain(*found.values()), str(error)]))
        raise
    _try_parts(setup, found)
    sound = {name: node for name, node in plain["callbacks"].items() if not found.get(f"callbacks.{name}")}
    raise_faults(_once([*chain(*found.values()), *_callback_faults(setup, sound)]))
    return setup


def _try_parts(setup: Setup, found: dict[str, list[str]]) -> None:
    """Make each part and use it once, which finds wrong numbers and lengths; add faults to `found`, by place."""

    def attempt(where: str, make: Callable[..., Any], *given: Any) -> Any:
        if found.get(where):  # it is wrong already
            return None
        try:
            return make(*given)
        except InputError as error:
            if error.__cause__ is not None:
                write_trace(error.__cause__)
            found[where] = [str(error)]
            return None

    attempt("model.encoder", encoder_name, setup.plain["model"]["encoder"])
    attempt("model.net", _try_architecture, setup)
    attempt("metrics", _try_metrics, setup)
    for name in setup.plain["augment"]:
        attempt(f"augment.{name}", setup.augmentation, name)
    for name in setup.plain["callbacks"]:
        attempt(f"callbacks.{name}", setup.make, f"callbacks.{name}")
    attempt("sampler", _try_sampler, setup)
    for head, (where, nodes) in loss_places(setup.plain).items():
        terms = {}
        for name, node in nodes.items():
            term = attempt(f"{where}.terms.{name}", _try_term, setup, f"{where}.terms.{name}", head, name, node)
            if isinstance(node, Mapping) and node:
                terms[name] = weight_of(node), term or nn.Identity()
        attempt(where, setup.composite, head, where, terms)
    attempt("balancing", setup.balancing)
    attempt("optimizer", setup.optimizer, [nn.Parameter(torch.zeros(1))])
    if not found.get("optimizer") and setup.steps > 0:  # the scheduler is made with it
        attempt("scheduler", _try_scheduler, setup)


def _try_metrics(setup: Setup) -> None:
    """Check that each class that is left out of means is a class of at least one head."""
    known = [name for task in setup.tasks.values() for name in task.classes]
    for name in setup.without:
        if len(setup.tasks) > 1 and name not in known:
            raise InputError(f"metrics.without: there is no class {name}{nearest(name, known)}")
    for head in setup.tasks:
        metrics(setup.tasks[head], setup.without_of(head))


def _try_architecture(setup: Setup) -> None:
    """Check that the smp class supports the other settings of the model."""
    kind = locate(setup.plain["model"]["net"]["_target_"], "model.net", kinds.MODEL, setup.trust)
    check_architecture(kind, setup.model, setup.tasks)
    if setup.model.siamese and setup.dataset.bands is not None:
        bands_of_a_date(len(setup.dataset.bands))


def _try_term(setup: Setup, where: str, head: str, name: str, node: Any) -> nn.Module:
    """Make a term of a head's loss, and call it on a few pixels."""
    task, loss = setup.tasks[head], heads_of(setup.plain)[head]["loss"]
    if not isinstance(node, Mapping):
        raise InputError(f"{where}={node!r}: a mapping with _target_ is expected")
    weight_of(node).check(name)
    term = setup.term(where, node, task, None)
    if isinstance(term, Foreign):
        term.try_out(weighted=bool(loss.get("edge_weight") or setup.plain["dataset"]["source"].get("weight")))
        return term
    logits = torch.zeros(1, task.outputs, 2, 2)
    target = torch.full((1, *task.planes, 2, 2), 1 / task.channels if task.soft else 0, dtype=torch_dtype(task.dtype))
    try:
        value = Composite({name: (1.0, term)})(logits, task.standardise(target))
    except InputError as error:
        raise error if where in str(error) else InputError(f"{where}: {error}") from None
    except Exception as error:  # whatever a term of the user's own raises
        raise InputError(f"{where}: {type(term).__name__} failed: {type(error).__name__}: {error}") from error
    if value.total.ndim:
        raise InputError(f"{where}: {type(term).__name__} returned {list(value.total.shape)} numbers; a loss is one number")
    return term


def _try_sampler(setup: Setup) -> None:
    """Make the sampler for one block in which every class occurs."""
    counts, sizes = np.ones((1, setup.dataset.task.channels + 1), dtype=np.uint16), np.array([[SIZE, SIZE]])
    layers: Any = {setup.dataset.task.target: counts.astype(np.uint8)}
    setup.sampler(sizes, Blocks(counts, sizes), read=lambda *_: (counts, layers))


def _try_scheduler(setup: Setup) -> None:
    """Make the optimizer and the schedule for one parameter, and step both."""
    optimizer = setup.optimizer([nn.Parameter(torch.zeros(1))])
    scheduler = setup.scheduler(optimizer)
    try:
        optimizer.step()
        scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"optimizer or scheduler can't make a step: {error}") from None


def _once(faults: Sequence[str]) -> list[str]:
    """The faults without duplicates, which may have their place in front."""
    found: list[str] = []
    for fault in faults:
        found += [] if any(fault in told for told in found) else [fault]
    return found


def _callback_faults(setup: Setup, callbacks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The faults of callbacks that do not fit the rest of the config."""
    found = []
    names = logged_names(setup.tasks, {head: list(terms) for head, (_, terms) in loss_places(setup.plain).items()})
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
    """Refuse a machine that lacks what training needs, such as a GPU or the package of a logger."""
    found = device_faults(setup.plain["trainer"], setup.cache is Cache.gpu, setup.batch_size)
    absent = [name for name in setup.plain["logger"] if name in PACKAGES and find_spec(name) is None]
    found += [f"logger={name}: its package is not installed: pip install 'rsseg[{name}]'" for name in absent]
    raise_faults(found)


def check_run(config: DictConfig, scenes: bool) -> None:
    """Refuse a run of a sweep with faults of the config or of the machine, or with `scenes` if scenes are missing."""
    setup = make_setup(config, config.trust)
    check_machine(setup)
    if scenes:
        training_scenes(setup.source(), setup.dataset)


def checkpoint_bytes(setup: Setup, network: nn.Module) -> float:
    """The approximate bytes of a run's checkpoints on disk: the best, and two with the optimizer's state.

    NaN if the optimizer's `step` needs a closure.
    """
    one = nn.Parameter(torch.zeros(1000))
    one.grad = torch.zeros_like(one)
    optimizer = setup.optimizer([one])
    weights = float(sum(tensor.nbytes for tensor in network.state_dict().values()))
    try:
        optimizer.step()
    except TypeError:
        return math.nan
    state = sum(part.nbytes for part in optimizer.state[one].values() if isinstance(part, torch.Tensor)) / one.nbytes
    trained = sum(tensor.nbytes for tensor in network.parameters() if tensor.requires_grad)
    return 3 * weights + 2 * state * trained


def expected_bytes(config: DictConfig) -> float:
    """The approximate bytes of a run's checkpoints; NaN if the network depends on the data.

    If the config leaves the bands open, three are assumed.
    """
    setup = make_setup(config, config.trust)
    try:
        network = (setup if setup.dataset.bands else setup.with_bands([1, 2, 3])).network(pretrained=False)
    except InputError:
        return math.nan
    return checkpoint_bytes(setup, network)


def warn_of_uncounted(setup: Setup, numbers: TrainStatistics) -> None:
    """Log the classes whose weights can't be computed because they have no training pixels."""
    for head, (where, terms) in loss_places(setup.plain).items():
        task = setup.tasks[head]
        counted = numbers.targets[task.target]
        clipped = [task.classes[c] for c in uncounted(task, counted.positives, counted.valid)]
        if not clipped:
            continue
        of = "" if task.exclusive else ", or no others"
        line = "%s.terms.%s: class %s has no labelled training pixels%s: its weight is clipped."
        for name, term in terms.items():
            if isinstance(term.get("class_weights") or term.get("priors"), str):
                log.warning(line, where, name, ", ".join(clipped), of)


def with_bands(setup: Setup) -> tuple[Setup, Source]:
    """The setup with the bands found in the data, if the config leaves them open, and the source of the scenes.

    Unless the config sets ``rgb``, pictures show the bands that are named red, green and blue.
    """
    source, dataset = setup.source(), setup.dataset
    if dataset.bands is not None and (dataset.rgb or len(dataset.bands) <= 3):
        return setup, source
    scene = scenes_of(source, dataset, "train")[0]
    names = scene.named_bands()
    bands = dataset.bands or list(names)
    return setup.with_bands(bands, dataset.rgb or colour_bands({band: names.get(band, "") for band in bands})), source


def make_module(setup: Setup, network: nn.Module, numbers: TrainStatistics, scenes: int) -> SegmentationModule:
    """The module that trains a network, with losses, optimizer, augmentations and scores."""
    return SegmentationModule(
        network=network,
        losses=setup.losses(numbers),
        tasks={head: numbers.scaled(task) for head, task in setup.tasks.items()},
        weights={head: float(node["weight"]) for head, node in heads_of(setup.plain).items()},
        mean=numbers.mean,
        std=numbers.std,
        scenes=scenes,
        steps=setup.steps,
        balancing=setup.balancing(),
        between=setup.between,
        seed=setup.seed,
        augmentations=[setup.augmentation(name) for name in setup.plain["augment"]],
        optimizer=partial(setup.optimizer, network=network),
        scheduler=setup.scheduler,
        without={head: setup.without_of(head) for head in setup.tasks},
        monitored=[str(node["monitor"]) for node in setup.plain["callbacks"].values() if node.get("monitor") is not None],
        classifier=setup.plain["model"]["classifier"] or 0.0,
    )


def fit_augmentations(module: SegmentationModule, data: Data) -> None:
    """Fit the augmentations to the training split: its pixels and labels, its blocks and its statistics."""
    train, numbers = data.stores["train"], data.numbers
    for augmentation in module.augmentations:
        augmentation.fit(train.read, train.census.blocks, numbers.mean, numbers.std)
