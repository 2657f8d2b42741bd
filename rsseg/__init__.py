"""rsseg: train remote-sensing segmentation from a config and measure which loss serves which metric."""

from typing import Any

from rsseg.version import __version__

__all__ = ["Model", "__version__", "compare", "evaluate", "load", "train"]


def __dir__() -> list[str]:
    """The names that are shown, before any of them is imported."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import a name of `rsseg.api` when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rsseg import api

    return getattr(api, name)
