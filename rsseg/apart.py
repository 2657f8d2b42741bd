"""Calls in a separate process, which frees its memory when it ends."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

from rsseg.contract import InputError


def call_apart(module: str, function: str, *given: Any) -> Any:
    """Call a function that needs torch in a separate process, or in this one if torch is imported already.

    Torch and its libraries take most of a gigabyte of memory, until the process ends that imports them.

    Raises:
        InputError: If the function raises it, or the process was killed, for example because memory ran out.
    """
    if "torch" in sys.modules:
        return _call(module, function, given)
    level = logging.getLogger().getEffectiveLevel()
    main = sys.modules["__main__"]  # a user's script is not run again in the other process
    with (
        patch.object(main, "__spec__", None),
        patch.object(main, "__file__", None, create=True),
        ProcessPoolExecutor(1, get_context("spawn"), _begin, (level,)) as child,
    ):
        try:
            return child.submit(_call, module, function, given).result()
        except BrokenProcessPool:
            raise InputError(f"the process of {function} was ended from outside: is there too little memory?") from None


def _call(module: str, function: str, given: tuple[Any, ...]) -> Any:
    try:
        return getattr(import_module(module), function)(*given)
    except InputError as error:
        raise InputError(str(error)) from None  # a subclass whose constructor takes more arguments can't be pickled


def _begin(level: int) -> None:
    """Log like the parent, and exit without cleaning up libraries, which would take time and memory."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    atexit.register(os._exit, 0)
