"""Checks of what an augmentation is constructed with: one sentence on what was found and what to give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from rsseg.contract import InputError


def number(name: str, value: Any, least: float = 0.0, most: float = math.inf) -> float:
    """A finite number between two bounds, themselves allowed.

    Raises:
        InputError: If it is none.

    Example:
        >>> number("probability", 1.5, 0, 1)
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: probability=1.5: a number from 0 to 1 is expected
    """
    plain = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not least <= plain <= most or math.isinf(plain):
        span = f"of {least:g} or more" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise InputError(f"{name}={value!r}: a number {span} is expected")
    return plain


def bounds(name: str, values: Any, least: float = 0.0, most: float = math.inf) -> tuple[float, float]:
    """A lower and an upper bound, between which an amount is drawn.

    Raises:
        InputError: If there are not two numbers in rising order.

    Example:
        >>> bounds("sigma", [0, 2])
        (0.0, 2.0)
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 2:
        raise InputError(f"{name}={values!r}: two numbers are expected, [low, high]; for a fixed amount give it twice")
    low, high = (number(f"{name}[{i}]", value, least, most) for i, value in enumerate(values))
    if low > high:
        raise InputError(f"{name}={list(values)}: the lower number has to come first, [{high:g}, {low:g}]")
    return low, high
