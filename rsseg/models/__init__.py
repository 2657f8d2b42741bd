"""Segmentation networks: smp models with named heads."""

from rsseg.models.architecture import Architecture
from rsseg.models.build import ModelFacts, build_network, check_architecture, encoder_name, freeze_idle
from rsseg.models.network import Network
from rsseg.models.weights import load_weights

__all__ = [
    "Architecture",
    "ModelFacts",
    "Network",
    "build_network",
    "check_architecture",
    "encoder_name",
    "freeze_idle",
    "load_weights",
]
