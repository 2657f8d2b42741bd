"""Siamese encoder of two dates, for change detection (Daudt et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from rsseg.contract import InputError


class Siamese(nn.Module):
    """An encoder of smp that runs over two dates as one doubled batch, and fuses the features of each level."""

    def __init__(
        self,
        name: str,  # the encoder's name in smp
        weights: str | bool | None,  # its pretrained weights, as smp names them
        bands: int,  # the bands of one date
        fusion: str,  # `concat`: the first date's features, then the second's; `difference`: their absolute difference
        depth: int,
        output_stride: int,
        arguments: Mapping[str, Any],  # further arguments of an encoder of timm
    ) -> None:
        super().__init__()
        self.encoder = smp.encoders.get_encoder(name, bands, depth, weights, output_stride, **arguments)
        self.fusion, self.output_stride = fusion, self.encoder.output_stride
        self.out_channels = [channels * (2 if fusion == "concat" else 1) for channels in self.encoder.out_channels]

    def forward(self, image: Tensor) -> list[Tensor]:
        """The fused features of an image ``[B, 2 C, H, W]``, which has the first date's bands, then the second's."""
        dates = torch.cat(image.chunk(2, dim=1))
        pairs = (features.unflatten(0, (2, -1)) for features in self.encoder(dates))  # chunk would fix a graph's batch size
        return [self._fused(*pair.unbind()) for pair in pairs]

    def _fused(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], dim=1) if self.fusion == "concat" else (first - second).abs()

    def set_in_channels(self, bands: int, pretrained: bool = True) -> None:
        """Do nothing: smp passes the image's bands, but the encoder is already made with the bands of a date."""

    def make_dilated(self, output_stride: int) -> None:
        """Do nothing: the encoder is already made with the output stride."""


def bands_of_a_date(bands: int) -> int:
    """The bands of one date of an image that holds two."""
    if bands % 2:
        raise InputError(
            f"model.siamese=true takes the bands of one date, then as many of another; found {bands} bands: see dataset.bands"
        )
    return bands // 2


@contextmanager
def siamese_encoder(name: str, **arguments: Any) -> Iterator[str]:
    """Context manager that registers a `Siamese` of an encoder in smp, and returns the registered name."""
    alias = f"{name.removeprefix('tu-').removeprefix('timm-')}-siamese"  # smp's models look at how names begin
    params = {"name": name, **arguments}
    smp.encoders.encoders[alias] = {"encoder": Siamese, "pretrained_settings": {}, "params": params}
    try:
        yield alias
    finally:
        del smp.encoders.encoders[alias]
