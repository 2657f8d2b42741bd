"""The nodes of a config that are built: where each stands, and what it has to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rsseg.config import build as kinds
from rsseg.config.build import Kind
from rsseg.config.targets import has_loss, heads_of
from rsseg.losses import Weight
from rsseg.losses.foreign import given_to_loss
from rsseg.source import given_to_source

NET_GIVEN = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
SAMPLER_GIVEN = ("seed", "sizes", "window", "blocks", "task", "read")
AUGMENT_GIVEN = ("seed", "task", "tasks")
TRAINER_GIVEN = (
    "default_root_dir", "max_steps", "max_epochs", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
    "logger", "callbacks", "plugins", "use_distributed_sampler", "enable_model_summary", "fast_dev_run", "limit_train_batches",
    "limit_val_batches", "overfit_batches", "max_time", "min_steps", "min_epochs",
)  # fmt: skip
"""The parameters of targets that a config may not set: rsseg sets them, or a run, which is counted in steps, has no use for
them (epochs, limits of batches)."""

BESIDE_TERM = ("weight", "start", "ramp", "pixels")
"""The keys of a loss term that are not for its target: see `Weight`, and `Foreign` for `pixels`."""

BESIDE_BALANCING = ("between",)
"""The key of the balancing that is not for its target: what is balanced, ``heads`` or ``terms``, see `weighed_parts`."""

BESIDE_OPTIMIZER = ("encoder_lr", "layer_decay")  # the keys of the optimizer that are not for its target: see `rate_groups`


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
            yield Place(f"{where}.terms.{name}", node, kinds.TERM, given, BESIDE_TERM)


def loss_places(plain: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By head, the place of its loss in the config, and the loss's terms; ``loss`` for a head that has no loss of its own.

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
    """What rsseg adds to a logger's arguments: the run folder, unless it has a place of its own."""
    return {} if "tracking_uri" in node else {"save_dir": str(folder)}
