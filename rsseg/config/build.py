"""The only place that turns `_target_` into objects.

Every target comes from an allow-list of packages, and every target's arguments are bound to its signature before any
data is read, so that all misspelt and missing parameters are reported together.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from rsseg.contract import InputError, nearest

ALLOWED = frozenset(
    {
        "lightning",
        "pytorch_lightning",
        "rsseg",
        "segmentation_models_pytorch",
        "timm",
        "torch",
        "torchgeo",
        "torchmetrics",
    }
)
"""The packages whose classes and functions a config may name."""


def plain(node: Any) -> Any:
    """A resolved config node as plain dictionaries and lists."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def locate(target: str, where: str) -> Any:
    """The class or function that a `_target_` names.

    Args:
        target: A dotted path.
        where: The place in the config, for the message.

    Raises:
        InputError: If it does not exist, can't be called, or does not live in an allowed package.
    """
    if target.split(".")[0] not in ALLOWED:
        raise InputError(f"{where}._target_={target}: only these packages may be named: {', '.join(sorted(ALLOWED))}")
    try:
        found = get_object(target)
    except Exception as error:  # Hydra wraps whatever the import raises
        parent, _, name = target.rpartition(".")
        try:
            near = nearest(name, dir(get_object(parent)))
        except Exception:
            near = ""
        raise InputError(f"{where}._target_={target} can't be imported{near}: {_last_line(error)}") from None
    home = (getattr(found, "__module__", None) or "").split(".")[0]
    if not callable(found) or home not in ALLOWED:
        raise InputError(f"{where}._target_={target} is {home or 'no'} code, not a class or function of {target.split('.')[0]}")
    return found


def faults(node: Mapping[str, Any], where: str, given: tuple[str, ...] = (), beside: tuple[str, ...] = ()) -> list[str]:
    """What keeps a node from being built: unknown and missing parameters of its target, and of the nodes in it.

    Args:
        node: A plain mapping with `_target_`.
        where: Its place in the config.
        given: The parameters that `build` will be passed beside the config's.
        beside: What the node may hold that the target is not given.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        return [f"{where} has no _target_: found {node}; to leave it out, remove it with '~{where}'"]
    try:
        target = locate(node["_target_"], where)
    except InputError as error:
        return [str(error)]
    found = []
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    for place, leaf in _nodes(arguments, where):
        found += faults(leaf, place, wanted(leaf, given))
    parameters = inspect.signature(target).parameters
    named = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]  # **kwargs hide typos
    short = node["_target_"].rpartition(".")[2]
    for key in arguments:
        if key in given:
            found.append(f"{where}.{key} is set by rsseg: remove it")
        elif key not in (*named, *beside):
            known = [*(name for name in named if name not in given), *beside]
            found.append(f"{where}.{key}: {short} has no parameter '{key}'{nearest(key, known)}; it has {', '.join(known)}")
    for name, p in parameters.items():
        required = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if required and name not in arguments and name not in given:
            found.append(f"{where}.{name} is missing: {short} needs it")
    return found


def build(node: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Build the object that a node describes.

    Args:
        node: A plain mapping with `_target_`; nodes in it, in lists too, are built first.
        where: Its place in the config, for messages.
        given: Further arguments, from rsseg; nodes in it get those that they have a parameter for.

    Raises:
        InputError: If the target refuses its arguments.

    Example:
        >>> build({"_target_": "torch.nn.Linear", "in_features": 2}, "net", out_features=3)
        Linear(in_features=2, out_features=3, bias=True)
    """
    target = locate(node["_target_"], where)
    arguments = {key: _build_nested(value, f"{where}.{key}", given) for key, value in node.items() if key != "_target_"}
    try:
        return target(**arguments, **given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except OSError:  # a missing network or disk is not an argument's fault: the caller knows what to say
        raise
    except Exception as error:  # whatever a constructor raises over its arguments
        raise InputError(f"{where}: {node['_target_']} refused its arguments: {_last_line(error)}") from error


def _nodes(value: Any, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The nodes with a `_target_` right below a value, with their places."""
    if isinstance(value, Mapping):
        pairs = [(f"{where}.{key}", child) for key, child in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{where}[{i}]", child) for i, child in enumerate(value)]
    else:
        return []
    return [
        leaf
        for place, child in pairs
        for leaf in ([(place, child)] if isinstance(child, Mapping) and "_target_" in child else _nodes(child, place))
    ]


def wanted(node: Mapping[str, Any], given: Iterable[str]) -> tuple[str, ...]:
    """Those of the given names that a node's target has a parameter for; none if it can't be found."""
    try:
        parameters = inspect.signature(locate(node["_target_"], "")).parameters
    except InputError:
        return ()
    return tuple(name for name in given if name in parameters)


def _build_nested(value: Any, where: str, given: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, where, **{name: given[name] for name in wanted(value, given)})
        return {key: _build_nested(child, f"{where}.{key}", given) for key, child in value.items()}
    if isinstance(value, list):
        return [_build_nested(child, f"{where}[{i}]", given) for i, child in enumerate(value)]
    return value


def missing(config: DictConfig) -> list[str]:
    """The values that a config leaves open with `???`."""
    return [f"{key} is not set: give it on the command line, {key}=..." for key in sorted(OmegaConf.missing_keys(config))]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
