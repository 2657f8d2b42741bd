"""Deep supervision: logits from a decoder's coarser outputs, for auxiliary losses in training (Lee et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.contract import InputError

SUPERVISED = (smp.Unet, smp.UnetPlusPlus, smp.MAnet, smp.Linknet, smp.FPN, smp.UPerNet)
"""The architectures whose decoders have coarser outputs."""


def coarser_stages(decoder: nn.Module) -> list[tuple[nn.Module, int]]:
    """The stages of a decoder with outputs coarser than the decoder's, and their numbers of channels, the finest first.

    For U-Net++ these are the stages of its longest path, for FPN and UPerNet the levels of the pyramid.
    """
    if isinstance(decoder, UnetDecoder | MAnetDecoder):
        return [(block, block.conv2[0].out_channels) for block in reversed(decoder.blocks[:-1])]
    if isinstance(decoder, UnetPlusPlusDecoder):
        return [(decoder.blocks[f"x_0_{i}"], decoder.out_channels[i]) for i in reversed(range(decoder.depth))]
    if isinstance(decoder, LinknetDecoder):
        return [(block, block.block[-1][0].out_channels) for block in reversed(decoder.blocks[:-1])]
    if isinstance(decoder, FPNDecoder):
        return [(level, decoder.p5.out_channels) for level in (decoder.p3, decoder.p4, decoder.p5)]
    if isinstance(decoder, UPerNetDecoder):
        levels = [*reversed(decoder.fpn_conv_blocks[:-1]), decoder.psp]
        return [(level, decoder.psp.out_conv[0].out_channels) for level in levels]
    return []


def decode(decoder: nn.Module, encoded: Sequence[object], levels: int) -> tuple[Tensor, list[Tensor]]:
    """A decoder's output, and the outputs of its `levels` finest coarser stages, the finest first."""
    seen: dict[nn.Module, Tensor] = {}
    stages = [stage for stage, _ in coarser_stages(decoder)[:levels]]

    def keep(stage: nn.Module, _: object, output: Tensor) -> None:
        seen[stage] = output

    handles = [stage.register_forward_hook(keep) for stage in stages]
    try:
        output: Tensor = decoder(*encoded)
    finally:
        for handle in handles:
            handle.remove()
    return output, [seen[stage] for stage in stages]


class CoarseLogits(nn.ModuleList):
    """Logits from a decoder's coarser outputs: a 1x1 convolution for each, then bilinear upsampling."""

    def __init__(self, decoder: nn.Module, levels: int, channels: int) -> None:
        stages = coarser_stages(decoder)
        if levels > len(stages):
            name = type(decoder).__name__.removesuffix("Decoder")
            raise InputError(
                f"model.aux={levels}: {name} has {len(stages)} coarser outputs: take model.aux={len(stages)} or less"
            )
        super().__init__(nn.Conv2d(width, channels, kernel_size=1) for _, width in stages[:levels])

    def forward(self, features: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Logits ``[B, K, *size]`` of each stage, from the stages' features as `decode` returns them."""
        logits = [conv(x) for conv, x in zip(self, features, strict=True)]
        return [F.interpolate(z, tuple(size), mode="bilinear", align_corners=False) for z in logits]
