"""The version of rsseg."""

__version__ = "0.1.0"
