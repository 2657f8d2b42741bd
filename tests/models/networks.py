"""Small networks of every architecture."""

import segmentation_models_pytorch as smp
import torch

from rsseg.config.schema import ModelConfig
from rsseg.models import build_network
from rsseg.task import Binary, Multiclass

TASKS = {"mask": Multiclass(("a", "b", "c")), "edge": Binary(("edge",)), "cloud": Binary(("cloud",))}
ARCHITECTURES = {
    "unet": (smp.Unet, {"decoder_channels": (16, 16, 8, 8, 8)}),
    "unetplusplus": (smp.UnetPlusPlus, {"decoder_channels": (16, 16, 8, 8, 8)}),
    "manet": (smp.MAnet, {"decoder_channels": (16, 16, 8, 8, 8)}),
    "linknet": (smp.Linknet, {}),
    "fpn": (smp.FPN, {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}),
    "pspnet": (smp.PSPNet, {"encoder_depth": 3, "psp_out_channels": 16}),
    "pan": (smp.PAN, {"encoder_output_stride": 16}),
    "deeplabv3plus": (smp.DeepLabV3Plus, {"decoder_channels": 16}),
    "upernet": (smp.UPerNet, {"decoder_channels": 16}),
    "segformer": (smp.Segformer, {"decoder_segmentation_channels": 16}),
    "dpt": (smp.DPT, {"decoder_fusion_channels": 16, "decoder_intermediate_channels": (16, 16, 16, 16)}),
}
"""Every shipped architecture, with small decoders."""


def network(architecture="unet", tasks=TASKS, seed=0, bands=3, **facts):
    """A network with timm's smallest encoder of its kind."""
    kind, arguments = ARCHITECTURES[architecture]
    encoder = "test_vit" if architecture == "dpt" else "test_resnet"
    more = {"encoder_args": {"dynamic_img_size": True}} if architecture == "dpt" else {}
    torch.manual_seed(seed)
    model = ModelConfig(**{"encoder": encoder, **more, **facts})
    return build_network(lambda **given: kind(**given, **arguments), model, bands, tasks)
