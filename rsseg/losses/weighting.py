"""Class weights from pixel counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rsseg.contract import InputError

EXTREME = 1e3
"""The weight of positives where none was counted, instead of infinity."""

log = logging.getLogger(__name__)


def inverse_frequency(counts: Sequence[int], names: Sequence[str] | None = None) -> list[float]:
    """Multiclass weights in inverse proportion to the pixel counts, 1 on average over the classes that occur.

    A class that never occurs gets the largest weight among those that do, with a warning.

    Args:
        counts: The pixels of each class.
        names: What the warning calls the classes; their numbers if not given.

    Raises:
        InputError: For negative counts, and if no class occurs.

    Example:
        >>> [round(weight, 3) for weight in inverse_frequency([900, 100, 0])]
        [0.2, 1.8, 1.8]
    """
    if any(count < 0 for count in counts) or not any(counts):
        raise InputError(f"class weights need pixel counts of 0 or more, one of them positive; found {list(counts)}")
    inverse = [1 / count if count else None for count in counts]
    occurring = [x for x in inverse if x is not None]
    scale = len(occurring) / sum(occurring)
    absent = [names[i] if names else str(i) for i, x in enumerate(inverse) if x is None]
    if absent:
        log.warning("no labelled pixel of class %s: it gets the largest weight of the others", ", ".join(absent))
    return [scale * (max(occurring) if x is None else x) for x in inverse]


def positive_weight(negatives: int, positives: int) -> float:
    """The weight of positives that balances a binary label, ``negatives / positives``.

    Where one of the two was never counted it is 1000 or 1/1000, with a warning.

    Args:
        negatives: The pixels labelled 0.
        positives: The pixels labelled 1.

    Raises:
        InputError: For negative counts, and if both are 0.

    Example:
        >>> positive_weight(900, 100)
        9.0
    """
    if min(negatives, positives) < 0 or negatives + positives == 0:
        raise InputError(f"a positive weight needs labelled pixels; found {negatives} negative, {positives} positive")
    if not positives:
        log.warning("no positive pixel among %d: its weight is set to %g", negatives, EXTREME)
        return EXTREME
    if not negatives:
        log.warning("no negative pixel among %d: the weight of positives is set to %g", positives, 1 / EXTREME)
        return 1 / EXTREME
    return negatives / positives
