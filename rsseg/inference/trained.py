"""A trained network from a run folder or an exported folder, with all facts that mapping a scene needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rsseg.models.network import normalise
from rsseg.task import Scaling, Task


@dataclass(frozen=True)
class Head:
    """A head of a network."""

    task: Task  # its task; for a regression with the mean and the deviation of training values
    palette: tuple[str, ...] | None = None  # the colours of its labels, as `Task.label_names` lists them; None: chosen
    # thresholds or biases that were tuned on the validation scenes, as `Task.predict` takes them; None: none
    threshold: tuple[float, ...] | None = None
    # by kind, ``temperature`` and ``vector``, the scaling of logits that was fitted on the validation scenes
    scaling: Mapping[str, Scaling] = field(default_factory=dict)

    def scaled(self, logits: Tensor, kind: str) -> Tensor:
        """Logits scaled by this kind of scaling; unchanged if it was not fitted."""
        scaling = self.scaling.get(kind)
        return logits if scaling is None else scaling.apply(logits)

    def tuned(self, kind: str) -> Tensor | None:
        """The tuned thresholds or biases for logits that are scaled by this kind; None: nothing was tuned."""
        if self.threshold is None:
            return None
        tuned, scaling = torch.tensor(self.threshold), self.scaling.get(kind)
        return tuned if scaling is None else scaling.threshold(tuned, self.task.exclusive)


@dataclass(frozen=True)
class Spec:
    """The description of a network for its use: heads, input and training."""

    name: str  # the name of the run or the exported folder, for messages
    heads: Mapping[str, Head]  # by name, in their order
    bands: tuple[int, ...]  # the image bands, counted from 1
    mean: tuple[float, ...]  # per band, subtracted from stored pixels
    std: tuple[float, ...]  # per band, the divisor after that
    window: int  # the side of the training windows, in pixels
    margin: int  # the width of the window borders that validation cut away, in pixels
    batch_size: int  # windows at a time
    dtype: str  # the dtype of the training pixels
    # the side of a training pixel in metres; None: not known, or it differs between scenes
    resolution: float | None = None
    quality: float | None = None  # the first head's validation score, more is better; None: not known
    rgb: tuple[int, ...] | None = None  # the bands that pictures show as red, green and blue; None: the first three
    nodata: float | None = None  # the no-data value of images that declare none
    precision: str = "auto"  # the precision of its training, as Lightning names it
    # the patterns of the paths of a scene's image files below the root of its dataset; empty: not known
    image: tuple[str, ...] = ()


class TrainedModel(nn.Module):
    """A network that takes stored pixels.

    Args:
        network: It maps a normalised image ``[B, C, H, W]`` to logits ``[B, K, H, W]`` by head; put into evaluation mode.
        spec: The description of its heads, its input and its training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.network, self.spec = network.eval().to(memory_format=torch.channels_last), spec
        self.tasks = {name: head.task for name, head in spec.heads.items()}
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.mean.device

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits of stored pixels ``[B, C, H, W]`` of any dtype: by head float32 ``[B, K, H, W]``."""
        logits = self.network(normalise(pixels, self.mean, self.std))
        return {name: logits[name].float() for name in self.tasks}

    def logits(self, pixels: Tensor) -> dict[str, Tensor]:
        """The same as `forward`, under the name that an `Ensemble` and a module in training have too."""
        return self(pixels)
