"""Networks of segmentation_models_pytorch with named heads and one or several decoders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from segmentation_models_pytorch.base import ClassificationHead
from torch import Tensor, nn

from rsseg.contract import InputError
from rsseg.models.supervision import CoarseLogits, decode
from rsseg.task import Task

LEAST = 1e-6  # added to the squared error of a rebuilt image before the logarithm


class Network(nn.Module):
    """One encoder, one or several decoders on it, and one logit map per head.

    Heads that share a decoder also share its last convolution, with separate output channels; separate convolutions on the same
    features would be equivalent. If all heads share one decoder, the network is the unchanged smp model.
    """

    def __init__(
        self,
        net: nn.Module,  # the smp model, with the output channels of the heads that share its decoder
        tasks: Mapping[str, Task],  # by head name, in the order of the channels
        dropout: float = 0.0,  # the share of a decoder's channels that are dropped before its last convolution
        freeze: Sequence[str] = (),  # `encoder`, `decoder`: frozen parts, including their normalisation statistics
        branches: Mapping[str, nn.Module] | None = None,  # by head, smp models of which only decoder and last layer are used
        aux: int = 0,  # the number of coarser decoder outputs with logits in training: deep supervision
        classified: Collection[str] = (),  # heads with an image classifier, in training, on the encoder's last features
    ) -> None:
        super().__init__()
        self.net = net
        self.branches = nn.ModuleDict(branches or {})
        for branch in self.branches.values():
            del branch.encoder
        self.channels = {name: task.outputs for name, task in tasks.items()}
        self.dropout, self.freeze, self.levels = dropout, tuple(freeze), aux
        self.aux = nn.ModuleDict()
        for model, heads in self._parts() if aux else ():
            self.aux[heads[0]] = CoarseLogits(model.get_submodule("decoder"), aux, sum(self.channels[head] for head in heads))
        width = net.get_submodule("encoder").out_channels[-1] if classified else 0  # type: ignore[index]
        self.classifiers = nn.ModuleDict({head: ClassificationHead(width, tasks[head].channels) for head in classified})
        for model in (net, *self.branches.values()) if dropout else ():
            # a hook, not a layer: the names of the weights stay those of smp
            model.get_submodule("segmentation_head").register_forward_pre_hook(self._drop)
        for part in self._frozen():
            part.requires_grad_(False)
        for model, heads in self._parts():
            self._begin(model, [tasks[head] for head in heads])

    @staticmethod
    def _begin(model: nn.Module, tasks: Sequence[Task]) -> None:
        """Add the tasks' initial biases to the last convolution of an smp model."""
        biases = [bias for task in tasks for bias in task.first_bias]
        if any(biases):
            head = model.get_submodule("segmentation_head")
            *_, last = (layer for layer in head.modules() if isinstance(layer, nn.Conv2d))
            assert last.bias is not None
            with torch.no_grad():
                last.bias += torch.tensor(biases)

    def _drop(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *rest = inputs
        return (nn.functional.dropout2d(features, self.dropout, module.training), *rest)

    def _frozen(self) -> Iterator[nn.Module]:
        """The parts that are not trained."""
        for part in self.freeze:
            yield self.net.get_submodule(part)
            if part == "decoder":
                yield from (branch.get_submodule(part) for branch in self.branches.values())

    def train(self, mode: bool = True) -> Network:
        """Set training mode, except for frozen parts, which stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def branch(self, head: str) -> nn.Module:
        """The smp model whose decoder and last convolution output a head's logits."""
        return dict(self.branches.items()).get(head, self.net)

    @property
    def shared_weight(self) -> nn.Parameter:
        """The weight of the last trained layer that all heads share, in the decoder, or in the encoder if there are several."""
        shared = ("encoder",) if self.branches else ("encoder", "decoder")
        parts = [getattr(self.net, part, nn.Identity()) for part in shared]
        parameters = [parameter for part in parts for parameter in part.parameters()]
        weights = [parameter for parameter in parameters if parameter.requires_grad and parameter.ndim > 1]
        if not weights:
            found = f"{type(self.net).__name__} with model.freeze={list(self.freeze)}"
            raise InputError(
                f"gradients are measured at the last layer that all heads share; {found} has none that is trained: take "
                "balancing=uncertainty or dwa"
            )
        return weights[-1]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, K, H, W]`` by head for an image ``[B, C, H, W]``; in training also the training outputs of `outputs`."""
        return self.outputs(image, beside=self.training)

    def outputs(self, image: Tensor, beside: bool) -> dict[str, Tensor]:
        """Logits by head and, with `beside`, the outputs for auxiliary losses.

        Args:
            image: ``[B, C, H, W]``.
            beside: Also return ``{head}/aux1``, ``{head}/aux2``, ..., logits ``[B, K, H, W]`` from ever coarser outputs of the
                decoder, and ``{head}/classifier``, logits ``[B, K]`` for the presence of each class in the image.
        """
        beside = beside and bool(self.aux or self.classifiers)
        if not self.branches and not beside:
            return self._by_head(self.net(image), list(self.channels))
        encoded = self.net.get_submodule("encoder")(image)
        encoded = encoded if isinstance(encoded, tuple) else (encoded,)  # DPT's encoder also gives tokens
        parts = self._parts()
        decoded = [decode(model.get_submodule("decoder"), encoded, self.levels * beside) for model, _ in parts]
        logits: dict[str, Tensor] = {}
        more: dict[str, Tensor] = {}
        for (model, heads), (features, stages) in zip(parts, decoded, strict=True):
            logits |= self._by_head(model.get_submodule("segmentation_head")(features), heads)
            coarse = self.aux[heads[0]](stages, image.shape[-2:]) if stages else []
            for level, z in enumerate(coarse, start=1):
                more |= {f"{head}/aux{level}": own for head, own in self._by_head(z, heads).items()}
        for head, classify in self.classifiers.items() if beside else ():
            more[f"{head}/classifier"] = classify(encoded[0][-1])
        return {head: logits[head] for head in self.channels} | more

    def _parts(self) -> list[tuple[nn.Module, list[str]]]:
        """The smp models of the decoders, each with its heads."""
        shared = [head for head in self.channels if head not in self.branches]
        return [(self.net, shared), *((branch, [head]) for head, branch in self.branches.items())]

    def _by_head(self, logits: Tensor, heads: list[str]) -> dict[str, Tensor]:
        channels = [self.channels[head] for head in heads]
        return dict(zip(heads, torch.split(logits, channels, dim=1), strict=True))


class Rebuilding(Network):
    """An autoencoder: it rebuilds the image's bands, and its logit is the logarithm of a pixel's mean squared error.

    It is not trained on the class of its one head, a binary task (Sakurada & Yairi 2014). The error is that of the normalised
    image, so that 1 is the variance of a band. The network must have a bottleneck, or it copies the image: take an architecture
    without skip connections, such as PSPNet.
    """

    def outputs(self, image: Tensor, beside: bool) -> dict[str, Tensor]:
        """The logit ``[B, 1, H, W]`` of the head."""
        (head,) = self.channels
        error = (self.net(image).float() - image.float()).square().mean(dim=1, keepdim=True)
        return {head: torch.log(error + LEAST)}


FARTHEST = 30.0  # normalised pixels are clipped to this many standard deviations, to limit the effect of outliers


def normalise(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Standardise stored pixels ``[B, C, H, W]`` to float32, clipped to +-`FARTHEST`; NaN and infinity become 0, the mean."""
    values = torch.nan_to_num((image.float() - mean) / std, nan=0.0, posinf=0.0, neginf=0.0)
    return values.clamp_(-FARTHEST, FARTHEST).contiguous(memory_format=torch.channels_last)
