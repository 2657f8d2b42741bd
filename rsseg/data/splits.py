"""How scenes are dealt out to training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def by_fraction(names: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Deal names out to splits in the order of a hash, so that neither their order nor their number sorts them.

    A split with any share gets a name at least, as long as another has one to spare.

    Args:
        names: Any names.
        shares: The fraction of each split; what is left over goes nowhere.

    Example:
        >>> by_fraction(["a", "b", "c", "d"], {"train": 0.75, "val": 0.25})
        {'train': ['d', 'a', 'c'], 'val': ['b']}
    """
    order = sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest())
    stops = [round(sum(list(shares.values())[: i + 1]) * len(order)) for i in range(len(shares))]
    counts = [stop - start for start, stop in zip([0, *stops], stops, strict=False)]
    for i, share in enumerate(shares.values()):
        if share > 0 and counts[i] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return {key: order[start : start + n] for key, start, n in zip(shares, starts, counts, strict=True)}
