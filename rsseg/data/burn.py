"""What a config says of vector masks; `rsseg.data.vector` reads them, with libraries that runs on rasters do without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

VECTORS = frozenset({".gpkg", ".geojson", ".shp", ".fgb"})


@dataclass(frozen=True)
class Burn:
    """What the features of a vector file become in a mask: 0 outside of them.

    Attributes:
        attribute: The attribute that holds their mask value, an integer or a key of `values`; None: 1 for every feature.
        values: Pairs of an attribute's value, as text, and the mask value that it stands for.
        layer: The layer that is read; None: the only one.
        buffer: By how many metres on the ground features are widened: lines become twice as wide.
    """

    attribute: str | None = None
    values: tuple[tuple[str, int], ...] = ()
    layer: str | None = None
    buffer: float = 0


def text_of(value: Any) -> str:
    """An attribute's value as it is written in a config: 3 for 3.0, null for a missing one.

    Example:
        >>> [text_of(value) for value in ("wood", 3, 3.0, None)]
        ['wood', '3', '3', 'null']
    """
    if value is None or value != value:
        return "null"
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)
