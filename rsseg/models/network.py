"""A network of segmentation_models_pytorch whose logits are shared out among named heads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from rsseg.contract import Head, InputError, nearest


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
        heads: Facts by head name, in the order of the channels.
    """

    def __init__(self, net: nn.Module, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.net = net
        self.channels = {name: head.channels for name, head in heads.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, K, H, W]`` by head of an image ``[B, C, H, W]``."""
        logits: Tensor = self.net(image)
        return dict(zip(self.channels, torch.split(logits, list(self.channels.values()), dim=1), strict=True))


def build_network(make: Callable[..., nn.Module], encoder: str, weights: str, bands: int, heads: Mapping[str, Head]) -> Network:
    """Make a network for a dataset's bands and heads.

    Args:
        make: Makes the smp model from the arguments that rsseg computes: encoder_name, encoder_weights, in_channels, classes.
        encoder: The encoder's name, for messages.
        weights: "imagenet" for smp's own pretrained encoder; anything else starts at random.
        bands: Image bands.
        heads: Facts by head name.

    Raises:
        InputError: If the pretrained weights can't be had, or the network can't be made.
    """
    name = encoder_name(encoder)
    pretrained: str | bool | None = None
    if weights == "imagenet":
        pretrained = True if name.startswith("tu-") else "imagenet"  # smp's convention for timm's encoders
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one clear message instead of its retries
    classes = sum(head.channels for head in heads.values())
    try:
        net = make(encoder_name=name, encoder_weights=pretrained, in_channels=bands, classes=classes)
    except (InputError, OSError) as error:  # OSError: no network
        if pretrained is None:
            raise
        raise InputError(
            f"model.weights=imagenet can't be had for encoder {encoder} ({type(error).__name__}): they are fetched from a "
            "model hub on first use. Without one, take model.weights=none or a file"
        ) from None
    return Network(net, heads)
