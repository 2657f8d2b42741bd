"""Quotients and means that leave out what is not there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def ratio(total: Array, number: Array) -> Array:
    """``total / number``, NaN where the number is 0.

    Example:
        >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
        array([0.5, nan])
    """
    return np.where(number > 0, total / np.where(number > 0, number, 1), np.nan)


def present_mean(values: Array) -> Array:
    """The mean over the last axis of what is not NaN; NaN where nothing is left.

    Example:
        >>> present_mean(np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]]))
        array([ 2., nan])
    """
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0.0).sum(-1), present.sum(-1))
