"""Pretrained weights from a torchgeo name or a file, adapted to a network."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from rsseg.checkpoints import check_records
from rsseg.contract import InputError, first_line

log = logging.getLogger(__name__)

ENDINGS = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
PARTS = ("", "net", "net.encoder", "net.encoder.encoder")  # the parts of a network that weights may belong to

WRAPPINGS = ("model.", "net.", "module.", "encoder.", "backbone.")


def load_weights(network: nn.Module, weights: str) -> None:
    """Load pretrained weights into a network, in place: a torchgeo weight's name or a file; none and imagenet do nothing here.

    Weights may belong to a run, an smp model or an encoder: they are loaded into the part with the most matching tensors.
    Tensors without a match, such as a classifier's last layer, keep their initial values; the number of matches is logged. A
    first convolution for another number of bands is averaged over bands and scaled, so that activations keep their magnitude.
    """
    if weights in ("none", "imagenet"):
        return
    is_file = Path(weights).suffix in ENDINGS or Path(weights).exists()
    state = _strip(_from_file(Path(weights)) if is_file else _from_torchgeo(weights))
    candidates = [module for name, module in network.named_modules() if name in PARTS]
    targets = [(module, _fitting(module.state_dict(), state)) for module in candidates]
    module, matched = max(targets, key=lambda pair: len(pair[1]))
    own = module.state_dict()
    if len(matched) < len(own) // 2:
        raise InputError(
            f"model.weights={weights} fits another network: {len(matched)} of {len(own)} tensors match. "
            "Choose the encoder that the weights were made for"
        )
    shapes = {_bare(name): tensor.shape for name, tensor in state.items()}
    for name in matched:
        if (theirs := shapes[_bare(name)]) != own[name].shape:
            line = "%s were made for %d bands: averaged over them for the %d of this dataset."
            log.info(line, weights, theirs[1], own[name].shape[1])
    module.load_state_dict({**own, **matched})
    log.info("Loaded %d of %d tensors from %s.", len(matched), len(own), weights)


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that saving programs add to the names of all tensors."""
    ours = {name: tensor for name, tensor in state.items() if name.startswith("network.")}  # a checkpoint of rsseg
    state = {name.removeprefix("network."): tensor for name, tensor in ours.items()} or state
    for wrapping in WRAPPINGS * 2:
        if state and all(name.startswith(wrapping) for name in state):
            state = {name.removeprefix(wrapping): tensor for name, tensor in state.items()}
    return state


def _fitting(own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state that match a module's by name and shape; the first convolution is adapted to its bands."""
    by_name = {_bare(name): tensor for name, tensor in state.items()}
    stem = next((name for name, tensor in own.items() if tensor.ndim == 4), "")
    matched = {}
    for name, tensor in own.items():
        candidate = by_name.get(_bare(name))
        if candidate is None:
            continue
        if candidate.shape == tensor.shape:
            matched[name] = candidate
        elif name == stem and candidate.ndim == 4 and candidate[:, 0].shape == tensor[:, 0].shape:
            scale = candidate.shape[1] / tensor.shape[1]
            matched[name] = candidate.mean(dim=1, keepdim=True).expand_as(tensor) * scale
    return matched


def _bare(name: str) -> str:
    """A tensor's name in a form common to smp, timm, and timm encoders in smp, where stages.0 is model.stages_0.

    The prefix of a siamese encoder is also removed.
    """
    return name.removeprefix("model.").replace("encoder.encoder.", "encoder.").replace("_", ".")


def _from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"model.weights={path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):  # files of early versions of torch are none
            check_records(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the unpickler does
        raise InputError(f"model.weights={path} can't be read as weights: {first_line(error)}") from None
    saved = saved.get("state_dict", saved) if isinstance(saved, dict) else saved
    if not isinstance(saved, dict) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise InputError(f"model.weights={path} holds no state dict: save model.state_dict()")
    return saved


def _from_torchgeo(name: str) -> dict[str, Tensor]:
    from torchgeo.models import get_weight

    try:
        weight = get_weight(name)
    except (KeyError, ValueError, AttributeError):
        raise InputError(
            f"model.weights={name} is neither none, imagenet, a file, nor a torchgeo weight such as "
            "ResNet18_Weights.SENTINEL2_ALL_MOCO"
        ) from None
    try:
        state: dict[str, Tensor] = weight.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # no network: whatever the hub's client raises
        raise InputError(
            f"model.weights={name} can't be fetched ({type(error).__name__}): download {weight.url} by hand and give the file"
        ) from None
    return state
