"""Options of maps and of exports: the settings of ``rsseg predict`` and ``rsseg export``. Torch is not imported."""

from dataclasses import dataclass, field
from pathlib import Path

MEMBER_WEIGHTS = ("equal", "quality")
"""The kinds of weights of an ensemble's members."""


@dataclass(kw_only=True)
class MapOptions:
    """The settings of ``rsseg predict``, whose help explains them."""

    threshold: str = "fixed"
    head: str = ""
    write: list[str] = field(default_factory=lambda: ["labels"])
    dtype: str = "uint8"
    polygons: bool = False
    min_area: float = 0.0
    simplify: float = 0.0
    tta: str = "none"
    weights: str = "equal"
    scaling: str = "temperature"
    blend: str = "gaussian"
    window: int | None = None
    margin: int | None = None
    batch_size: int | None = None
    area: str = ""
    resample: bool = False
    stack: bool = False
    overwrite: bool = False
    allow_different: bool = False
    device: str = "auto"


@dataclass
class ExportOptions:
    """The settings of ``rsseg export``, whose help explains them."""

    to: str = "folder"
    out: Path | None = None
    head: str = ""
    threshold: str = "fixed"
    labels: bool = False
    licence: str = ""
    trust: list[str] = field(default_factory=list)
