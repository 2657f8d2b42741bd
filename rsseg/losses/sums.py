"""The sums per class that losses are functions of."""

from __future__ import annotations

from typing import NamedTuple


class Sum(NamedTuple):
    """One of the sums that a term can ask for.

    Every sum comes twice, ``[own, other]``: over the pixels labelled with the class, and over the other valid pixels.
    With ``p`` the probability of the class and ``p_t`` that of the label:

    * ``count``: 1.
    * ``soft``: ``p``; over the class's own pixels that is TP, over the others FP.
    * ``nll``: ``-log p_t``. For multiclass the other pixels' belongs to their own classes and is 0 here.
    * ``spread``: ``-log p`` over all valid pixels; and, 0 for multiclass, ``-log (1 - p)``. For label smoothing.
    * ``focal``: ``-(1 - p_t)^number log p_t``; others as for ``nll``.
    * ``levels``: the histogram of the errors ``|y - p|`` rounded to one of `number` levels from 0 to 1, see `statistics`.

    Attributes:
        name: One of these.
        number: Focal's gamma, or the number of levels.
    """

    name: str
    number: float = 0.0


COUNT, SOFT, NLL, SPREAD = Sum("count"), Sum("soft"), Sum("nll"), Sum("spread")
