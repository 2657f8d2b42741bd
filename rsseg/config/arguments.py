"""The command line of the scripts: ``key=value``, as in Hydra, without Hydra's run folders."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rsseg.contract import InputError, nearest


def run_script(arguments: type[Any], action: Callable[[Any], object], words: list[str] | None = None) -> None:
    """Parse the command line, call an action with it, and end the process; a user's mistake gives one line, no stack trace.

    Args:
        arguments: A dataclass of strings; its fields are the keys, its docstring the help text. Where it has a field
            `overrides`, a list, words with other keys go there, to be read as train.py reads them.
        action: Called with the parsed arguments.
        words: The command line, `sys.argv` if None.
    """
    words = sys.argv[1:] if words is None else words
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if {"-h", "--help"} & set(words):
        print(arguments.__doc__)
        return
    try:
        action(parse(arguments, words))
    except InputError as error:
        sys.exit(f"error: {error}")


def parse(arguments: type[Any], words: list[str]) -> Any:
    """The command line as an instance of a dataclass.

    Raises:
        InputError: For words without "=", and unknown or missing keys.
    """
    known = [field.name for field in fields(arguments) if field.name != "overrides"]
    open_ended = len(known) < len(fields(arguments))
    for word in words:
        key, equals, _ = word.partition("=")
        if not open_ended and (not equals or key not in known):
            raise InputError(f"'{word}' is not understood{nearest(key, known)}: write key=value with {', '.join(known)}")
    own = [word for word in words if "=" in word and word.partition("=")[0] in known]
    values: dict[str, Any] = dict(word.split("=", 1) for word in own)
    if open_ended:
        values["overrides"] = [word for word in words if word not in own]
    missing = [field.name for field in fields(arguments) if field.default is dataclasses.MISSING and field.name not in values]
    if missing:
        raise InputError(f"{', '.join(f'{key}=...' for key in missing)} must be given")
    return arguments(**values)


def names(text: str | None) -> tuple[str, ...]:
    """The names that a text lists with commas, with brackets or without.

    Example:
        >>> names("[mine,yours]"), names("mine"), names(None)
        (('mine', 'yours'), ('mine',), ())
    """
    return tuple(name.strip() for name in (text or "").strip("[]").split(",") if name.strip())


def split_places(text: str) -> list[Path]:
    """The folders that a text lists with commas, which their names may hold too: each is as long as one that exists.

    Example:
        >>> print(*split_places("nowhere,seed=1"))
        nowhere,seed=1
    """
    words, places = text.rstrip(",").split(","), []
    while words:
        later = (i for i in range(1, len(words)) if _longest(words[i:]))
        many = _longest(words) or next(later, len(words))  # what is not there ends where something begins that is
        places.append(Path(",".join(words[:many])))
        words = words[many:]
    return places


def _longest(words: Sequence[str]) -> int:
    """How many of the first words make the longest path that exists."""
    return max((i for i in range(1, len(words) + 1) if os.path.exists(",".join(words[:i]))), default=0)
