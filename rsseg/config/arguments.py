"""The command line of all commands but train: ``key=value`` as in Hydra, without Hydra's run folders."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from rsseg.config.entry import one_line_errors
from rsseg.contract import InputError, nearest


def run_command(arguments: type[Any], action: Callable[[Any], object], words: list[str] | None = None) -> None:
    """Parse the command line, call an action with it, and end the process; a user's mistake gives one line, no stack trace.

    Args:
        arguments: A dataclass of texts, numbers, truths and lists of texts; its fields are the keys, its docstring the help.
            Where it has a field `overrides`, words with other keys go there, to be read as rsseg train reads them.
        action: Called with the parsed arguments.
        words: The command line, `sys.argv` if None.
    """
    words = sys.argv[1:] if words is None else words
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # where tables go: all in one order
    with one_line_errors():
        if {"-h", "--help"} & set(words):
            print(arguments.__doc__)
        else:
            action(parse(arguments, words))


RENAMED = {  # arguments of older versions, and what they are called now
    "unfair=keep": "allow_different=true",
    "blend=cosine": "blend=gaussian",
    "resample=refuse": "resample=false, or leave it out",
}
EXPECTED: dict[Any, str] = {int: "a whole number", bool: "yes or no"}  # what messages call the values of a field's type


def parse(arguments: type[Any], words: list[str]) -> Any:
    """The command line as an instance of a dataclass, its values of the types of the fields.

    Raises:
        InputError: For words without "=", unknown or missing keys, and values of another type.
    """
    known = {field.name: field.type for field in fields(arguments) if field.name != "overrides"}
    typed, others = OmegaConf.structured(arguments), []
    for word in words:
        if word in RENAMED:
            raise InputError(f"{word}: write {RENAMED[word]}")
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            others.append(word)
            continue
        try:
            typed[key] = names(text) if known[key] == list[str] else text
        except ValidationError:
            raise InputError(f"{word}: {EXPECTED.get(known[key], known[key])} is expected") from None
        if key in ("run", "runs"):
            _refuse_loose(key, text, words)
    if "overrides" in typed.keys():  # noqa: SIM118 (`in typed` is False of what is not set yet)
        typed.overrides = others
    elif others:
        near = nearest(others[0].partition("=")[0], known)
        raise InputError(f"'{others[0]}' is not understood{near}: write key=value with {', '.join(known)}")
    missing = [key for key in known if OmegaConf.is_missing(typed, key)]
    if missing:
        raise InputError(f"{', '.join(f'{key}=...' for key in missing)} must be given")
    values: Any = OmegaConf.to_container(typed)  # nothing is resolved: an override may refer to another setting
    return arguments(**values)


HOLDS_RUN = ("config.yaml", "rsseg.json")  # a file of a run folder, and one of an exported folder


def _refuse_loose(key: str, text: str, words: Sequence[str]) -> None:
    """Refuse folders that a shell has written behind a run's, as it does for ``run=$(ls -d runs/*)``, a word or a line each."""
    loose, lines = [Path(word) for word in words if os.path.isdir(word)], text.splitlines()
    if not loose and len(lines) < 2:
        return
    folders = [*(place for line in lines for place in split_places(line)), *loose]
    runs = [folder for folder in folders if any(next(folder.rglob(name), None) for name in HOLDS_RUN)]
    bare = [folder for folder in folders if folder not in runs]
    fault = f"{bare[0]} is no run folder (no config.yaml);" if bare else f"{folders[1]}:"
    raise InputError(f"{fault} several runs are one word with commas between them, {key}={','.join(map(str, runs[:3]))}")


def names(text: str) -> list[str]:
    """The names that a text lists with commas, with brackets or without.

    Example:
        >>> names("[mine,yours]"), names("mine"), names("")
        (['mine', 'yours'], ['mine'], [])
    """
    return [name.strip() for name in text.strip("[]").split(",") if name.strip()]


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
