"""What a run recorded of every validation: what all comparisons are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import Head, InputError
from rsseg.metrics import SampledLogits


@dataclass(frozen=True)
class Snapshot:
    """What is recorded at the best and at the last checkpoint alone.

    Attributes:
        step: Of the checkpoint.
        histogram: int64 ``[S, P, 2, 256]``, scores by label.
        sample: Logits of some pixels, for multiclass.
        boundary: int64 ``[S, classes, 3]``, counts along the contours.
    """

    step: int
    histogram: NDArray[np.int64] | None
    sample: SampledLogits | None
    boundary: NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """The records of one head of one run.

    Attributes:
        scenes: The validation scenes' names.
        head: Task and classes.
        terms: The names of the loss's terms.
        panel: The names of the losses that were evaluated.
        steps: int64 ``[V]``, of the validations.
        confusion: int64 ``[V, S, P, K, K]``.
        values: float64 ``[V, panel, 2]``, the losses' values on each half of the scenes.
        gradient: By place (``logits``, ``layer``) the norms ``[V, T]`` and cosines ``[V, T, T]`` of the weighted terms.
        gain: float64 ``[V, T]``, the one-step gain.
        best: At the best checkpoint.
        last: At the last.
    """

    scenes: list[str]
    head: Head
    terms: list[str]
    panel: list[str]
    steps: NDArray[np.int64]
    confusion: NDArray[np.int64]
    values: NDArray[np.float64]
    gradient: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    gain: NDArray[np.float64] | None
    best: Snapshot | None
    last: Snapshot | None


def load_records(run: Path, head: str = "mask") -> Records:
    """Read the records of a run.

    Raises:
        InputError: If there are none.
    """
    raise InputError(f"{run} has no records of head {head}")
