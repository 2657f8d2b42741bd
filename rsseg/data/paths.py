"""Patterns of paths, and the files below a folder that fit them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rsseg.contract import InputError
from rsseg.files import normal

IMAGES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".jp2", ".vrt", ".img", ".bmp"})

FIELD = re.compile(r"\{([^\W\d]\w*)\}|(\*\*/)|(\*)")


def path_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of paths as a regular expression of relative paths with forward slashes.

    ``{field}`` is a part of a path without a slash, and the same part wherever the field occurs again; ``*`` is any such
    part; ``**/`` any folders, or none; a suffix ``.*`` that of any image or, for masks, vector format.

    Example:
        >>> path_pattern("**/{part}/images/{tile}.tif").fullmatch("AerialImageDataset/train/images/austin1.tif").groupdict()
        {'part': 'train', 'tile': 'austin1'}
    """
    found, end, seen = "", 0, set()
    for match in FIELD.finditer(pattern):
        found += re.escape(pattern[end : match.start()])
        end = match.end()
        field, folders, _ = match.groups()
        if field:
            found += f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+)"
            seen.add(field)
        else:
            found += "(?:.+/)?" if folders else "[^/]*"
    return re.compile(found + re.escape(pattern[end:]), re.IGNORECASE)


def fits_any(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A function that tells whether a path below the root fits one of some patterns."""
    compiled = [path_pattern(normal(pattern)) for pattern in patterns]
    return lambda path: any(pattern.fullmatch(normal(path)) for pattern in compiled)


def find_files(root: Path, pattern: str, endings: frozenset[str] = IMAGES) -> dict[tuple[str, ...], Path]:
    """The files below a folder whose paths fit a pattern, by the values of its fields, sorted; ``.*`` stands for `endings`.

    Matching ignores case and the Unicode form of accents (macOS writes names in NFD).
    """
    if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
        raise InputError(
            f"the pattern {pattern} leads out of dataset.source.root={root}: patterns are paths below it, such as "
            "images/{name}.tif; set the root to a folder that holds all files"
        )
    fits, any_ending = path_pattern(normal(pattern)), pattern.endswith(".*")
    found: dict[tuple[str, ...], Path] = {}
    folder = root / re.split(r"[{*]", pattern)[0].rpartition("/")[0]  # the pattern's fixed folders, if they exist
    for path in files_below(folder if folder.is_dir() else root):
        match = fits.fullmatch(normal(path.relative_to(root).as_posix()))
        if match is None or (any_ending and path.suffix.lower() not in endings) or not path.is_file():
            continue
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"the name of {str(path)!r} is no text in UTF-8: rename the file") from None
        if match.groups() in found:
            other = found[match.groups()]
            raise InputError(f"{other} and {path} share a name: write a field such as {{name}} where paths of scenes differ")
        found[match.groups()] = path
    if not found and (braces := re.search(r"[{}].*", FIELD.sub("", pattern))):
        raise InputError(
            f"the pattern {pattern} fits no file below {root}: {braces[0]} is no field. A field is a name in braces, of "
            "letters, digits and _, such as {name}; * stands for any text"
        )
    return dict(sorted(found.items()))


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, except hidden ones; a folder that links lead to again is listed once."""
    seen = set[tuple[int, int]]()
    for place, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]  # half written, or another program's
        yield from (Path(place, name) for name in names if not name.startswith("."))


def unique_names(images: Mapping[tuple[str, ...], Path]) -> list[str]:
    """The names of scenes: their fields joined by a dash, or by more dashes where two names would be equal."""
    for dashes in range(1, 9):
        names = [("-" * dashes).join(fields) or path.stem for fields, path in images.items()]
        if len(set(names)) == len(names):
            break
    return names
