"""Quotients and means that leave out missing values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def ratio(total: Array, number: Array) -> Array:
    """``total / number``, NaN where the number is 0."""
    return np.where(number > 0, total / np.where(number > 0, number, 1), np.nan)


def present_mean(values: Array) -> Array:
    """The mean over the last axis of the values that are not NaN; NaN if there are none."""
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0.0).sum(-1), present.sum(-1))
