"""The only place that turns `_target_` into objects.

Each place of the config has a `Kind`, which names the base class that a target has to derive from and the modules that may
define it. Nothing else is imported or called, whatever a config says; arguments are plain values. Targets of another kind,
and unknown or missing parameters, are reported together before data are read.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.contract import InputError, first_line, nearest


@dataclass(frozen=True)
class Kind:
    """The classes that a place of the config accepts, as dotted names, which are imported when needed.

    A class of a library in `libraries` is accepted if it derives from `trusted_base` and is defined in one of the modules
    listed for the library; classes that the library merely imports are refused.
    """

    what: str  # its name in messages
    base: str  # the class that a target has to derive from
    allowed_modules: tuple[str, ...]  # the modules or classes that may be, or contain, a target
    trusted_base: str | None = None  # the base of targets in packages that the user trusts; None: `base`
    libraries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by library, the modules that define its classes
    nested: Mapping[str, Kind] = field(default_factory=dict)  # by parameter, the kind of nodes in it; else this kind


OPTIMIZER = Kind("an optimiser", "torch.optim.Optimizer", ("torch.optim", "timm.optim"))
SCHEDULER = Kind("a schedule", "torch.optim.lr_scheduler.LRScheduler", ("torch.optim",))
CALLBACK = Kind("a callback", "lightning.pytorch.callbacks.Callback", ("lightning.pytorch.callbacks",))
LOGGER = Kind("a logger", "lightning.pytorch.loggers.Logger", ("lightning.pytorch.loggers", "rsseg.loggers"))
SAMPLER = Kind("a sampler", "rsseg.data.sampling.Sampler", ("rsseg.data",))
AUGMENTATION = Kind("an augmentation", "rsseg.data.augment.Augmentation", ("rsseg.data",))
RECIPE = Kind("a recipe of scenes", "rsseg.data.synthetic.SceneRecipe", ("rsseg.data",))
SOURCE = Kind("a source of scenes", "rsseg.data.scene.Source", ("rsseg.data",), nested={"recipe": RECIPE})
BALANCING = Kind("a balancing", "rsseg.losses.balancing.Balancing", ("rsseg.losses",))
MONAI_LOSSES = (
    "boundary_loss", "cldice", "dice", "focal_loss", "hausdorff_loss", "mcc_loss", "tversky", "unified_focal_loss",
)  # fmt: skip
"""The modules of MONAI's losses of logits and target; PerceptualLoss is left out: it runs code from the internet."""

LOSS_LIBRARIES = {
    "torch.nn": ("torch.nn.modules.loss",),
    "segmentation_models_pytorch.losses": ("segmentation_models_pytorch.losses",),
    "kornia.losses": ("kornia.losses",),
    "monai.losses": tuple(f"monai.losses.{name}" for name in MONAI_LOSSES),
}
TERM = Kind("a loss", "rsseg.losses.Term", ("rsseg.losses",), trusted_base="torch.nn.Module", libraries=LOSS_LIBRARIES)
MODEL = Kind(
    "a model",
    "segmentation_models_pytorch.base.SegmentationModel",
    ("segmentation_models_pytorch",),
    trusted_base="torch.nn.Module",
)
STRATEGY = Kind("a strategy", "lightning.pytorch.strategies.Strategy", ("lightning.pytorch.strategies",))
PROFILER = Kind("a profiler", "lightning.pytorch.profilers.Profiler", ("lightning.pytorch.profilers",))
TRAINER = Kind(
    "a trainer",
    "lightning.pytorch.Trainer",
    ("lightning.Trainer", "lightning.pytorch.Trainer"),
    nested={"strategy": STRATEGY, "profiler": PROFILER},
)

NO_USER_CODE = {
    "hydra", "kornia", "lightning", "monai", "omegaconf", "rsseg", "segmentation_models_pytorch", "timm", "torch", "torchgeo",
}  # fmt: skip
"""Packages that messages do not advise to trust, because they are not the user's own code."""


def plain(node: Any) -> Any:
    """A resolved config node as plain dictionaries and lists."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def locate(target: Any, where: str, kind: Kind, trust: Collection[str] = ()) -> type:
    """The class that a `_target_` names; classes of packages in `trust` are accepted besides those of the kind.

    Raises:
        InputError: If it is not a class of this kind. Other modules are not even imported, since importing runs code.
    """
    accepted = (*kind.allowed_modules, *kind.libraries)
    place = f"{where}._target_={target}"
    if not isinstance(target, str) or not all(part.isidentifier() and part[0] != "_" for part in target.split(".")):
        raise InputError(
            f"{place}: a dotted path such as {kind.allowed_modules[0]}.Name is expected, with no private name in it"
        )
    module = next((name for name in (*kind.allowed_modules, *trust, *kind.libraries) if _lies_in(target, name)), None)
    if module is None:
        own = target.split(".")[0]
        known = own in sys.stdlib_module_names or own in NO_USER_CODE  # no code of the user's
        way_out = "" if known else f"; if {own} is code that you trust, add trust=[{own}]"
        raise InputError(f"{place}: {kind.what} of {' or '.join(accepted)} is expected{way_out}")
    if module in trust:
        _look_for_own_code()
    try:
        found = _named(target)
    except Exception as error:  # whatever an import raises
        raise InputError(f"{place} can't be imported{_near(target)}: {_last_line(error)}") from None
    base = kind.base if module in kind.allowed_modules or kind.trusted_base is None else kind.trusted_base
    homes = kind.libraries.get(module, [name.split(".")[0] for name in (*kind.allowed_modules, *trust)])
    if (
        not inspect.isclass(found)
        or not issubclass(found, _named(base))
        or not any(_lies_in(found.__module__, h) for h in homes)
    ):
        own = f" and lies in {' or '.join(homes)}" if module in kind.libraries else ""
        raise InputError(f"{place} is not {kind.what}: a class that derives from {base}{own} is expected")
    return found


def faults(
    node: Any,
    where: str,
    kind: Kind,
    trust: Collection[str] = (),
    given: Collection[str] = (),
    beside: Collection[str] = (),
) -> list[str]:
    """The faults of a node and of the nodes in it: targets of another kind, unknown and missing parameters.

    `given` are the names of the arguments that `build` adds to the config's. `beside` are keys that rsseg reads itself, such as
    a term's weight; they are not passed to the target.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        way_out = f"; to leave it out, remove it with '~{where}'" if "." in where else ""
        return [f"{where} has no _target_: found {node}{way_out}"]
    try:
        parameters = _parameters(locate(node["_target_"], where, kind, trust))
    except InputError as error:
        return [str(error)]
    found, arguments = [], {key: value for key, value in node.items() if key != "_target_"}
    for key, value in arguments.items():
        for place, leaf in _nodes(value, f"{where}.{key}"):
            found += faults(leaf, place, kind.nested.get(key, kind), trust, () if key in kind.nested else given)
    named = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]  # **kwargs hide typos
    short = node["_target_"].rpartition(".")[2]
    for key in arguments:
        if key in given and key in named:
            found.append(f"{where}.{key} is set by rsseg: remove it")
        elif key not in (*named, *beside):
            known = [*(name for name in named if name not in given), *beside]
            near, has = nearest(str(key), known), ", ".join(known) or "none"
            found.append(f"{where}.{key}: {short} has no parameter '{key}'{near}; it has {has}")
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments and name not in given:
            found.append(f"{where}.{name} is missing: {short} needs it")
    return found


def build(node: Mapping[str, Any], where: str, kind: Kind, trust: Collection[str] = (), /, **given: Any) -> Any:
    """Build the object that a node describes.

    Args:
        node: A plain mapping with `_target_`; nodes in it, in lists too, are built first.
        where: Its place in the config, for messages.
        kind: The classes that the place accepts.
        trust: As for `locate`.
        given: Arguments from rsseg: the target, and each node of the same kind in it, gets those that it has parameters for.

    Raises:
        InputError: If the node has `faults`, or the target refuses its arguments.
        Exception: Any other error of a logger, such as a server that does not answer, which is not the user's mistake.

    Example:
        >>> build({"_target_": "rsseg.losses.Dice", "smooth": 0}, "loss.terms.dice", TERM, task="binary").smooth
        0.0
    """
    found = faults(node, where, kind, trust, given)
    if found:
        raise InputError("; ".join(found))
    target = locate(node["_target_"], where, kind, trust)
    parameters = _parameters(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments = {name: value for name, value in given.items() if open_ended or name in parameters}
    for key, value in node.items():
        if key != "_target_":
            below = kind.nested.get(key)
            arguments[key] = _built(value, f"{where}.{key}", below or kind, trust, {} if below else given)
    try:
        return target(**arguments)
    except InputError as error:
        told = str(error)
        raise InputError(told if told.startswith(f"{where}.") else f"{where}: {told}") from None
    except OSError:  # a missing network or a full disk is not the fault of an argument: the caller reports it
        raise
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise InputError(f"{where}: {node['_target_']} refused its arguments: {_last_line(error)}") from error
    except Exception as error:  # whatever a constructor raises
        if kind is LOGGER:
            raise
        raise InputError(f"{where}: {node['_target_']} could not be made: {_last_line(error)}") from error


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a target; none for a module without its own constructor, whose inherited signature accepts anything."""
    for base in getattr(target, "__mro__", ()):
        if "__init__" in vars(base):  # compare owners, since torch.compile replaces the function
            if base.__module__ == "torch.nn.modules.module":
                return {}
            break
    return inspect.signature(target).parameters


def missing(config: DictConfig) -> list[str]:
    """The values that a config leaves open with `???`."""
    try:
        keys = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException as error:  # an interpolation refers to an open value
        raise InputError(f"the config can't be resolved: {first_line(error)}") from None
    return [f"{key} is not set: give it on the command line, {key}=..." for key in keys]


def _built(value: Any, where: str, kind: Kind, trust: Collection[str], given: Mapping[str, Any]) -> Any:
    """A value with the nodes in it built."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, where, kind, trust, **given)
        return {key: _built(child, f"{where}.{key}", kind, trust, given) for key, child in value.items()}
    if isinstance(value, list):
        return [_built(child, f"{where}[{i}]", kind, trust, given) for i, child in enumerate(value)]
    return value


def _nodes(value: Any, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The uppermost nodes with a `_target_` in a value, with their places."""
    if isinstance(value, Mapping) and "_target_" in value:
        return [(where, value)]
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        pairs = [(f"{where}.{key}", child) for key, child in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{where}[{i}]", child) for i, child in enumerate(value)]
    return [leaf for place, child in pairs for leaf in _nodes(child, place)]


def _lies_in(path: str, module: str) -> bool:
    """Whether a dotted path names a module, or something below it."""
    return f"{path}.".startswith(f"{module}.")


def _look_for_own_code() -> None:
    """Append the working directory and the folder of train.py to the module search path, for trusted code."""
    for folder in (str(Path.cwd()), str(Path(__file__).resolve().parents[2])):
        if folder not in sys.path:
            sys.path.append(folder)


def _named(path: str) -> Any:
    """Import the object of a dotted path; nothing but modules is imported on the way."""
    parts = path.split(".")
    found: Any = import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            found = import_module(".".join(parts[:i]))
        else:
            found = getattr(found, part)
    return found


def _near(path: str) -> str:
    parent, _, name = path.rpartition(".")
    try:
        return nearest(name, dir(_named(parent)))
    except Exception:  # as in `locate`
        return ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
