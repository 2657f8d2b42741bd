"""The architecture of a network as plain values, to rebuild the network without the config of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import segmentation_models_pytorch as smp
from torch import Tensor

from rsseg.contract import InputError, nearest
from rsseg.models.build import ModelFacts, build_network, decoder_of, decoders
from rsseg.models.network import Network
from rsseg.task import Task

CLASSES: Mapping[str, Any] = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
"""The architectures of smp by the names of their classes."""

LOADING = ("encoder_weights", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Arguments that make smp or timm load weights, which a rebuilt network does not need."""

RECORDED = ("net", "arguments", "encoder", "bands", "heads", "encoder_args", "siamese", "fusion", "rebuild")
"""The fields that are recorded: all except those that only training needs."""

TRAINED_ONLY = ("aux.", "classifiers.")  # prefixes of the names of weights that only training uses


@dataclass(kw_only=True)
class Architecture(ModelFacts):
    """A class of smp with its encoder and decoders, the arguments of `build_network`, without settings for training."""

    net: str  # the name of the class
    arguments: dict[str, Any]  # the arguments of the class, without those that rsseg sets
    bands: int  # image bands

    @classmethod
    def of(cls, network: Network, model: ModelFacts, arguments: Mapping[str, Any], bands: int) -> Self:
        """The architecture of a network, from its settings and its class's arguments in the config."""
        kind = type(network.net)
        if CLASSES.get(kind.__name__) is not kind:
            raise InputError(
                f"to=folder: {kind.__module__}.{kind.__name__} is no class of smp, and can't be made again without its code: "
                "take to=onnx or to=torch, which hold the graph itself"
            )
        return cls(
            net=kind.__name__,
            arguments={key: value for key, value in arguments.items() if key not in ("_target_", *LOADING)},
            encoder=model.encoder,
            bands=bands,
            heads={head: {"decoder": decoder_of(model, head)} for head in network.channels},
            encoder_args={key: value for key, value in model.encoder_args.items() if key not in LOADING},
            siamese=model.siamese,
            fusion=str(model.fusion),
            rebuild=model.rebuild,
        )

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> Self:
        """The architecture from what `record` returned.

        Raises:
            InputError: If the class is not one of smp, or an argument would load files.
            KeyError: If a field is missing.
        """
        found = cls(**{name: saved[name] for name in RECORDED})
        if found.net not in CLASSES:
            raise InputError(f"{found.net} is no class of smp{nearest(str(found.net), CLASSES)}")
        loading = [key for key in LOADING if key in found.arguments or key in found.encoder_args]
        if loading:
            raise InputError(f"the arguments {', '.join(loading)} would load other weights")
        return found

    def record(self) -> dict[str, Any]:
        """The fields of `RECORDED` as plain values."""
        return {name: getattr(self, name) for name in RECORDED}

    @property
    def plain_smp(self) -> bool:
        """Whether smp alone can make the network: one decoder, and an encoder of one image."""
        return len(decoders(self, self.heads)) == 1 and not self.siamese and not self.rebuild

    def build(self, tasks: Mapping[str, Task]) -> Network:
        """The network, with random weights."""
        return build_network(partial(CLASSES[self.net], **self.arguments), self, self.bands, tasks)


def inference_state(network: Network) -> dict[str, Tensor]:
    """The weights of a network that prediction needs; those of the smp model have smp's names."""
    state = {name: weight for name, weight in network.state_dict().items() if not name.startswith(TRAINED_ONLY)}
    return {name.removeprefix("net."): weight.contiguous() for name, weight in state.items()}


def load_inference_state(network: Network, state: Mapping[str, Tensor]) -> None:
    """Load weights from `inference_state` into a network of the same architecture; refuse other names or shapes."""
    own = inference_state(network)
    wrong = [name for name in {**own, **state} if name not in own or name not in state or own[name].shape != state[name].shape]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(own)} weights do not fit the network, such as {wrong[0]}")
    names = {name: name if name.startswith("branches.") else f"net.{name}" for name in state}
    network.load_state_dict({names[name]: weight for name, weight in state.items()})
