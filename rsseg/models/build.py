"""Building a network from its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn

from rsseg.contract import InputError, first_line, nearest
from rsseg.errors import is_out_of_memory
from rsseg.models.network import Network, Rebuilding
from rsseg.models.siamese import bands_of_a_date, siamese_encoder
from rsseg.models.supervision import SUPERVISED
from rsseg.task import Binary, Task


@dataclass(kw_only=True)
class ModelFacts:
    """The settings of a model; `rsseg.config.schema.ModelConfig` explains them."""

    encoder: str
    heads: dict[str, Any]
    weights: str = "none"
    encoder_args: dict[str, Any] = field(default_factory=dict)
    freeze: list[str] = field(default_factory=list)
    dropout: float = 0.0
    decoder: str = "shared"
    aux: int = 0
    classifier: float | None = None
    siamese: bool = False
    fusion: str = "concat"
    rebuild: bool = False


def encoder_name(name: str) -> str:
    """The name of an encoder in smp; encoders of timm get smp's prefix ``tu-``.

    Example:
        >>> encoder_name("resnet34"), encoder_name("convnext_tiny")
        ('resnet34', 'tu-convnext_tiny')
    """
    known = smp.encoders.get_encoder_names()
    if name in known:
        return name
    bare = name.removeprefix("tu-")
    if timm.is_model(bare):
        return f"tu-{bare}"
    raise InputError(f"model.encoder={name} is no encoder of smp or timm{nearest(bare, [*known, *timm.list_models()])}")


def build_network(make: Callable[..., nn.Module], model: ModelFacts, bands: int, tasks: Mapping[str, Task]) -> Network:
    """Make a network for a dataset's bands and heads. The smp model has the first decoder; branches have the others.

    `make` creates an smp model from arguments that rsseg computes: encoder_name, encoder_weights, in_channels, classes.
    """
    encoder = encoder_name(model.encoder)
    if model.encoder_args and not encoder.startswith("tu-"):
        raise InputError(
            f"model.encoder_args={dict(model.encoder_args)} go to encoders of timm; {encoder} is smp's own: take tu-{encoder} "
            "or none"
        )
    pretrained: str | bool | None = None
    if model.weights == "imagenet":
        pretrained = True if encoder.startswith("tu-") else "imagenet"  # smp's convention for timm's encoders
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one clear message instead of its retries

    def made(weights: str | bool | None, classes: int) -> nn.Module:
        if not model.siamese:
            more = {"encoder_name": encoder, "encoder_weights": weights, **model.encoder_args}
            return make(in_channels=bands, classes=classes, **more)
        arguments = {"bands": bands_of_a_date(bands), "fusion": model.fusion, "arguments": model.encoder_args}
        with siamese_encoder(encoder, weights=weights, **arguments) as alias:
            return make(in_channels=bands, classes=classes, encoder_name=alias, encoder_weights=None)

    first, *others = decoders(model, tasks)
    try:
        net = made(pretrained, bands if model.rebuild else sum(tasks[head].outputs for head in first))
        branches = {head: made(None, tasks[head].outputs) for (head,) in others if not model.rebuild}
    except (InputError, OSError) as error:  # OSError: no network
        if pretrained is not None:
            raise InputError(
                f"model.weights=imagenet can't be downloaded for encoder {model.encoder} ({type(error).__name__}): they come "
                "from a model hub on first use. Without one, take model.weights=none or a file"
            ) from None
        if not model.encoder_args:
            raise
        raise InputError(f"{error}. The encoder {model.encoder} was given {dict(model.encoder_args)}") from None
    check_architecture(type(net), model, tasks)
    if model.rebuild:
        return Rebuilding(net, tasks, model.dropout, model.freeze)
    classified = [head for head, task in tasks.items() if model.classifier and not task.real]
    return Network(net, tasks, model.dropout, model.freeze, branches, model.aux, classified)


def check_architecture(kind: type, model: ModelFacts, tasks: Mapping[str, Task]) -> None:
    """Refuse settings that an architecture, or the tasks of its heads, do not support."""
    wanted = {
        "model.decoder=own": len(decoders(model, tasks)) > 1,
        f"model.aux={model.aux}": model.aux > 0,
        f"model.classifier={model.classifier}": model.classifier is not None,
        "model.siamese=true": model.siamese,
    }
    for setting, is_set in wanted.items():
        if is_set and not issubclass(kind, SegmentationModel):
            raise InputError(f"{setting} needs an architecture of smp; found {kind.__name__}: take one, or leave it out")
    if model.rebuild:
        others = [setting for setting, is_set in wanted.items() if is_set]
        if others:
            raise InputError(f"model.rebuild=true has one output, the image: leave {' and '.join(others)} out")
        if len(tasks) > 1 or not isinstance(next(iter(tasks.values())), Binary):
            found = ", ".join(f"{head} ({task.kind})" for head, task in tasks.items())
            raise InputError(
                f"model.rebuild=true is for one head of a binary task, whose class it does not learn; found {found}"
            )
    if model.siamese and issubclass(kind, smp.DPT):
        raise InputError("model.siamese=true: DPT takes tokens beside features, which are not fused: take another architecture")
    if model.aux and not issubclass(kind, SUPERVISED):
        *others, last = (each.__name__ for each in SUPERVISED)
        raise InputError(
            f"model.aux={model.aux}: {kind.__name__} has no coarser outputs to supervise; {', '.join(others)} and {last} have: "
            "take one of them, or model.aux=0"
        )
    if model.classifier is not None and all(task.real for task in tasks.values()):
        raise InputError(f"model.classifier={model.classifier:g} needs a head with classes; found real values: leave it out")


def decoders(model: ModelFacts, heads: Iterable[str]) -> list[list[str]]:
    """The heads of each decoder: first those of the shared decoder, then each head with its own."""
    chosen = {head: decoder_of(model, head) for head in heads}
    shared = [head for head, decoder in chosen.items() if decoder == "shared"]
    own = [[head] for head, decoder in chosen.items() if decoder == "own"]
    return [shared, *own] if shared else own


def decoder_of(model: ModelFacts, head: str) -> str:
    """The decoder setting of a head: ``shared`` or ``own``."""
    node = model.heads.get(head)
    return str((node.get("decoder") if isinstance(node, Mapping) else None) or model.decoder)


def freeze_idle(network: Network, bands: int, size: int) -> None:
    """Freeze weights that do not affect any output, such as an encoder's last stage under a shallow decoder.

    DDP would wait for their gradients. They are found by a forward and backward pass of one window of zeros. A network that
    can't process windows of this size is refused.
    """
    mode = network.training
    try:
        found = network.eval().outputs(torch.zeros(1, bands, size, size), beside=True)
        torch.stack([values.sum() for values in found.values()]).sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"model.net can't take windows of {size} px ({first_line(error)}): take a larger window, other "
            "arguments or another model"
        ) from None
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train(mode)
