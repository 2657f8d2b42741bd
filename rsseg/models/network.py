"""A network of segmentation_models_pytorch whose logits are shared out among named heads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from rsseg.contract import InputError, nearest
from rsseg.errors import is_out_of_memory
from rsseg.task import Task


class ModelFacts(Protocol):
    """What the config says of a model."""

    encoder: str
    weights: str
    encoder_args: dict[str, Any]
    dropout: float
    freeze: list[str]


def encoder_name(name: str) -> str:
    """The name by which smp knows an encoder; timm's get smp's prefix ``tu-``.

    Raises:
        InputError: If neither library knows it.

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


class Network(nn.Module):
    """An smp model with one logit map per head.

    The heads share one last convolution: heads of their own on the same features would be the same function.

    Args:
        net: The smp model, with as many output channels as all heads need.
        tasks: By head name, in the order of the channels.
        dropout: The share of the decoder's channels that are dropped before the last convolution, in training.
        freeze: `encoder`, `decoder`: parts whose weights stay as they are. They are always in evaluation mode, so that
            their normalisation statistics stay too.
    """

    def __init__(self, net: nn.Module, tasks: Mapping[str, Task], dropout: float = 0.0, freeze: Sequence[str] = ()) -> None:
        super().__init__()
        self.net = net
        self.channels = {name: task.outputs for name, task in tasks.items()}
        self.dropout, self.freeze = dropout, tuple(freeze)
        if dropout:  # a hook, not a layer: the names of the weights stay those of smp
            net.get_submodule("segmentation_head").register_forward_pre_hook(self._drop)
        for part in self.freeze:
            net.get_submodule(part).requires_grad_(False)
        self._begin(tasks)

    def _begin(self, tasks: Mapping[str, Task]) -> None:
        """Give logits the bias that their tasks begin with."""
        biases = [bias for task in tasks.values() for bias in task.first_bias]
        if any(biases):
            layers = self.net.get_submodule("segmentation_head").modules()
            *_, last = (layer for layer in layers if isinstance(layer, nn.Conv2d))
            assert last.bias is not None
            with torch.no_grad():
                last.bias += torch.tensor(biases)

    def _drop(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *rest = inputs
        return (nn.functional.dropout2d(features, self.dropout, module.training), *rest)

    def train(self, mode: bool = True) -> Network:
        """Switch to training, frozen parts excepted."""
        super().train(mode)
        for part in self.freeze:
            self.net.get_submodule(part).eval()
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, K, H, W]`` by head of an image ``[B, C, H, W]``."""
        logits: Tensor = self.net(image)
        return dict(zip(self.channels, torch.split(logits, list(self.channels.values()), dim=1), strict=True))


def build_network(make: Callable[..., nn.Module], model: ModelFacts, bands: int, tasks: Mapping[str, Task]) -> Network:
    """Make a network for a dataset's bands and heads.

    Args:
        make: Makes the smp model from the arguments that rsseg computes: encoder_name, encoder_weights, in_channels, classes.
        model: What the config says of it.
        bands: Image bands.
        tasks: By head name.

    Raises:
        InputError: If the pretrained weights can't be had, or the network can't be made.
    """
    name = encoder_name(model.encoder)
    if model.encoder_args and not name.startswith("tu-"):
        raise InputError(
            f"model.encoder_args={dict(model.encoder_args)} go to encoders of timm; {name} is smp's own: take tu-{name} or none"
        )
    pretrained: str | bool | None = None
    if model.weights == "imagenet":
        pretrained = True if name.startswith("tu-") else "imagenet"  # smp's convention for timm's encoders
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one clear message instead of its retries
    classes = sum(task.outputs for task in tasks.values())
    try:
        net = make(encoder_name=name, encoder_weights=pretrained, in_channels=bands, classes=classes, **model.encoder_args)
    except (InputError, OSError) as error:  # OSError: no network
        if pretrained is None:
            if not model.encoder_args:
                raise
            raise InputError(f"{error}. The encoder {model.encoder} was given {dict(model.encoder_args)}") from None
        raise InputError(
            f"model.weights=imagenet can't be had for encoder {model.encoder} ({type(error).__name__}): they are fetched from "
            "a model hub on first use. Without one, take model.weights=none or a file"
        ) from None
    return Network(net, tasks, model.dropout, model.freeze)


def freeze_idle(network: Network, bands: int, size: int) -> None:
    """Freeze the weights that the logits do not depend on, such as an encoder's last stage under a shallow decoder.

    Several processes could not train in step otherwise. They are found by one empty window, forward and backward, which
    also shows whether the network takes such windows.

    Args:
        network: The network.
        bands: Its image bands.
        size: The windows' side.

    Raises:
        InputError: If the network can't take such windows.
    """
    mode = network.training
    try:
        logits = network.eval()(torch.zeros(1, bands, size, size))
        torch.stack([plane.sum() for plane in logits.values()]).sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"model.net can't take windows of {size} px ({str(error).splitlines()[0]}): take a larger window, other "
            "arguments or another model"
        ) from None
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train(mode)
