"""rsseg: train remote-sensing segmentation from a config and measure which loss serves which metric."""

__version__ = "0.1.0"
