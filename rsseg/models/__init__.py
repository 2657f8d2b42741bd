"""Segmentation networks: an smp model with named heads."""

from rsseg.models.network import Network, build_network, encoder_name, freeze_idle
from rsseg.models.weights import load_weights

__all__ = ["Network", "build_network", "encoder_name", "freeze_idle", "load_weights"]
