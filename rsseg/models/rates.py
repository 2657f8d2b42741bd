"""Learning rates of the encoder and its layers, as factors on the optimizer's rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from rsseg.contract import InputError
from rsseg.models.build import encoder_name


def layers_above(encoder: str) -> dict[str, int]:
    """The number of layers of a timm model above each parameter, with its classifier as the top layer: the last block has 1.

    Parameter names have "_" in place of ".", as in the feature extractors that smp makes from timm models.
    """
    name = encoder_name(encoder)
    bare = name.removeprefix("tu-")
    if name == bare:
        other = f"take model.encoder=tu-{bare}, or " if timm.is_model(bare) else ""
        raise InputError(
            f"optimizer.layer_decay: the layers of timm's encoders are known; {name} is smp's own: {other}leave it out"
        )
    with torch.device("meta"):  # no weights
        model = timm.create_model(bare)
    if not hasattr(model, "group_matcher"):
        raise InputError(f"optimizer.layer_decay: timm does not say which layers {bare} has: leave it out")
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {parameter.replace(".", "_"): last - layer for parameter, layer in layers.items()}


def rate_groups(
    parameters: Iterable[nn.Parameter], network: nn.Module, encoder: str, encoder_lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups by learning rate, each with its `name` and `lr_scale`, the factor on the optimizer's rate.

    The factor is 1 outside the encoder, else `encoder_lr` times `layer_decay` for each layer above (Clark et al. 2020). Groups
    are in the order of their first parameters.
    """
    above = layers_above(encoder) if layer_decay != 1 else {}
    inside = {id(parameter): name for name, parameter in network.get_submodule("net.encoder").named_parameters()}
    groups: dict[str, dict[str, Any]] = {}
    for parameter in parameters:
        name, scale = "decoder", 1.0
        if id(parameter) in inside:
            many = above.get(inside[id(parameter)].removeprefix("encoder.").removeprefix("model.").replace(".", "_"), 0)
            name, scale = f"encoder-{many}" if above else "encoder", encoder_lr * layer_decay**many
        groups.setdefault(name, {"params": [], "name": name, "lr_scale": scale})["params"].append(parameter)
    return list(groups.values())
