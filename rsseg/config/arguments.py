"""The command line of all commands but train: ``key=value`` as in Hydra, without Hydra's run folders."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.config.entry import one_line_errors, show_log
from rsseg.config.words import SYNONYMS
from rsseg.contract import InputError, first_line, nearest

PathLike = str | os.PathLike[str]
Folders = PathLike | Sequence[PathLike]
"""One folder, or several."""


def run_command(arguments: type[Any], action: Callable[[Any], object], words: list[str] | None = None) -> None:
    """Parse the command line, call an action with it, and end the process; a user's mistake gives one line, no stack trace.

    Args:
        arguments: A dataclass with fields of type str, int, float, bool, Path or list[str]: the keys. Its docstring is the
            help. A field `overrides` collects the words with other keys, which are overrides of rsseg train.
        action: Called with the parsed arguments.
        words: The command line, `sys.argv` if None.
    """
    words = sys.argv[1:] if words is None else words
    show_log()
    with one_line_errors():
        if {"-h", "--help"} & set(words):
            print(arguments.__doc__)
        else:
            action(parse(arguments, words))


RENAMED = {  # arguments of older versions, and their present names
    "unfair=keep": "allow_different=true",
    "blend=cosine": "blend=gaussian",
    "resample=refuse": "resample=false, or leave it out",
}
EXPECTED: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}  # by the type of a field


def parse(kind: type[Any], words: Sequence[str]) -> Any:
    """The command line as an instance of a dataclass, its values converted to the types of the fields.

    Raises:
        InputError: For words without "=", unknown or missing keys, and values of another type.
    """
    known = get_type_hints(kind)
    given, others = dict[str, Any](), list[str]()
    for word in words:
        if word in RENAMED:
            raise InputError(f"{word}: write {RENAMED[word]}")
        key, equals, text = word.partition("=")
        if equals and key in known and key != "overrides":
            given[key] = text
        else:
            others.append(word)
    if "overrides" in known:
        given["overrides"] = others
    elif others:
        key, equals, text = others[0].partition("=")
        name, takes, _ = SYNONYMS.get(key, "").partition("=")
        if key == "trainer" and "device" in known:
            raise InputError(f"{others[0]}: the setting here is device={text or 'auto'}")
        if equals and takes and name in known:
            raise InputError(f"{others[0]}: write {name}={text}")
        if equals:
            raise InputError(f"{others[0]}: there is no such setting{nearest(key, known)}; --help lists them")
        place = next((name for name in ("run", "runs") if name in known), "")
        if place and given.get(place):
            raise InputError(f"{others[0]}: write several folders as one word with commas: {place}={given[place]},{others[0]}")
        meant = f" (did you mean '{place}={others[0]}'?)" if place and os.path.exists(others[0]) else nearest(key, known)
        raise InputError(f"{others[0]}: it is not understood{meant}: write key=value; --help lists the keys")
    return typed(kind, given)


def typed(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """An instance of a dataclass of settings. Text is converted to a field's number, bool, or list (separated by commas).

    Raises:
        InputError: For an unknown or a missing setting, or a value of another kind.
    """
    types, values = get_type_hints(kind), OmegaConf.structured(kind)
    for name, value in given.items():
        if name not in types:
            raise InputError(f"{name}: there is no such setting{nearest(name, types)}; there are {', '.join(types)}")
        if types[name] == list[str] and isinstance(value, str):
            value = names(value)
        if types[name] is str and isinstance(value, bool):
            value = str(value).lower()
        if types[name] == Path | None and not value:  # an empty text: no path
            value = None
        try:
            values[name] = list(value) if isinstance(value, tuple) else value
        except OmegaConfBaseException as error:
            expected = f"{EXPECTED[types[name]]} is expected" if types[name] in EXPECTED else first_line(error)
            raise InputError(f"{name}={value}: {expected}") from None
    content: Any = OmegaConf.to_container(values)  # nothing is resolved: an override may refer to another setting
    missing = [f"{name}=..." for name, value in content.items() if value == MISSING]
    if missing:
        raise InputError(f"{', '.join(missing)} must be given")
    return kind(**content)


def names(text: str) -> list[str]:
    """The names in a text, separated by commas, with or without brackets and quotes.

    Example:
        >>> names("[mine,yours]"), names("mine"), names("")
        (['mine', 'yours'], ['mine'], [])
    """
    return [name.strip(" '\"") for name in text.strip("[]").split(",") if name.strip()]


def as_paths(places: Folders | Iterable[PathLike]) -> list[Path]:
    """One folder or several as a list; anything but paths is refused."""
    several = [places] if isinstance(places, str | os.PathLike) or not isinstance(places, Iterable) else list(places)
    wrong = [place for place in several if not isinstance(place, str | os.PathLike) or not os.fspath(place)]
    if wrong or not several:
        raise InputError(f"{wrong[0] if wrong else places!r}: a folder or several are expected, as text or paths")
    return [Path(place) for place in several]


def split_places(text: str) -> list[Path]:
    """The paths and patterns in a text, separated by commas. Names may contain commas: the longest that exists is taken.

    Example:
        >>> print(*split_places("nowhere,seed=1"))
        nowhere,seed=1
    """
    words, places = text.rstrip(",").split(","), []
    while words:
        later = (i for i in range(1, len(words)) if _longest(words[i:]))
        many = _longest(words) or next(later, len(words))  # a missing path ends where an existing one begins
        places.append(Path(",".join(words[:many])))
        words = words[many:]
    return places


def _longest(words: Sequence[str]) -> int:
    """How many of the words, joined by commas, form the longest path that exists, or pattern that some path fits; 0: none."""
    joined = [",".join(words[:i]) for i in range(1, len(words) + 1)]
    there = [os.path.exists(text) or any(glob.iglob(text, recursive=True)) for text in joined]
    return max((i for i, found in enumerate(there, start=1) if found), default=0)
