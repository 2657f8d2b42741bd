"""Datasets on a server, in a bucket or in an archive: the files that are needed are copied to this machine once."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import fsspec

from rsseg.contract import InputError, first_line
from rsseg.data.paths import IMAGES
from rsseg.data.raster import find_damage, version
from rsseg.files import atomic_write, read_json, say_space, write_json
from rsseg.progress import progress

log = logging.getLogger(__name__)

PROTOCOLS = ("http", "https", "s3", "gs", "az", "abfs", "zip", "tar")  # schemes of a root, as fsspec and GDAL call them

PREFIXES = {"/vsicurl/": "", "/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://", "/vsizip/": "", "/vsitar/": ""}
"""GDAL's path prefixes, and those of fsspec."""

LISTS = (".txt", ".csv", ".parquet", ".json", ".geojson")  # small files that list others, such as those of a split
SMALL = 10e6  # bytes of such a list at most

SINGLE = IMAGES - {".vrt", ".img"}
"""Images that need no other file. They are opened as a check if a server gives no size, as it may send an HTML page instead."""

UNSIGNED = "AWS_NO_SIGN_REQUEST"  # the environment variable, also GDAL's, for public buckets
ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gs": {"token": "anon"}}  # fsspec's options for them

THREADS = 8  # files that are copied at a time; out of an archive one


def fetch(root: str, fits: Callable[[str], bool], setting: str = "dataset.source.root") -> Path:
    """Copy the needed files of a remote root that are not on this machine yet, and return their folder.

    The folder is in ``RSSEG_CACHE``, or ``~/.cache/rsseg``. The root's files are listed once: later runs need no network.

    Args:
        root: A URL (``https://`` of a server that lists its folders, ``s3://``, ``gs://``, ``az://``), an archive (``.zip``,
            ``.tar``, ``.tar.gz``) or a folder in it, here or at a URL, or GDAL's name of one of these (``/vsizip/...``).
        fits: Tells whether a path below the root is an image, a mask or a weight. Files of the same name with other endings,
            such as world files, and `LISTS` are copied too.
        setting: The setting that names the root, for messages.

    Raises:
        InputError: If the root can't be read, holds nothing, or does not fit on the disk.
    """
    url = url_of(root, setting)
    file = Path(url.rpartition("::")[2]).expanduser()
    identity = url, version(file) if file.is_file() else ()  # another version of an archive here is another root
    digest = hashlib.blake2b(repr(identity).encode(), digest_size=6).hexdigest()
    cache = Path(os.environ.get("RSSEG_CACHE", "~/.cache/rsseg")).expanduser()
    folder = cache / f"{PurePosixPath(root.rstrip('/')).name}-{digest}"
    try:
        copy_needed(url, root, folder, fits, setting)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{setting}={root} can't be read: {error}") from None
    except Exception as error:  # whatever the libraries behind fsspec raise over networks, rights and damaged archives
        why = first_line(error)
        if "range requests" in why:
            why = "that server gives whole files alone: download it first"
        public = f"; for a public bucket set {UNSIGNED}=YES" if bucket_of(url) in ANONYMOUS else ""
        raise InputError(f"{setting}={root} can't be read ({why}): check the address and your access rights{public}") from None
    return folder / "files"


def copy_needed(url: str, root: str, folder: Path, fits: Callable[[str], bool], setting: str) -> None:
    """Copy the needed files of a remote root, and a list of all its files, into a folder, unless they are there already."""
    listing, files, whole = folder / "listing.json", folder / "files", dict[str, list[Any]]()
    with suppress(InputError):  # it was not listed before, or that file is damaged
        whole = read_json(listing)
    whole = whole or list_files(*open_system(url))
    there = strip_top_folder(whole, fits)
    if not any(map(fits, there)):
        held = f"{', '.join(list(there)[:3]) or 'none'}{', ...' * (len(there) > 3)}"
        wanted = "is an image to map" if setting == "scene" else "fits the patterns of dataset.source"
        raise InputError(f"{setting}={root}: no file in it {wanted}; it holds {held}")
    write_json(listing, whole)
    todo = {name: there[name] for name in needed_files(there, fits) if not is_whole(files / name, there[name][1])}
    files.mkdir(exist_ok=True)
    if cut := sum((files / name).is_file() for name in todo):
        log.warning("%d files in %s are cut: they are copied again.", cut, files)
    need = sum(size for _, size in todo.values())
    say_space(files, need, f"{len(todo)} files of {root} take", "set RSSEG_CACHE to a folder on a larger disk")
    if not todo:
        return
    system, _ = open_system(url)

    def copy_one(name: str) -> None:
        address, size = todo[name]
        with atomic_write(files / name, sync=False) as part:
            try:
                system.get_file(address, str(part))
            except FileNotFoundError:
                raise InputError(f"{name} of {root} is listed, but not there: is it complete?") from None
            except OSError as error:
                if error.filename == str(part) or error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise RuntimeError(first_line(error)) from None  # an OSError would be taken for one of the local file
            fault = "" if is_whole(part, size) else f"{part.stat().st_size} of {size} bytes came"
            if not size and PurePosixPath(name).suffix.lower() in SINGLE:
                fault = find_damage(part).replace(str(part), name)
            if fault:
                raise InputError(
                    f"{name} of {root} came damaged ({fault}) and is not kept: try again; if it is so on the server, download "
                    "the data first and take on_bad_scene=skip"
                )

    title = f"copying {len(todo)} files, {need / 1e9:.1f} GB, of {root}"
    with ThreadPoolExecutor(1 if "::" in url else THREADS) as pool, progress(list(todo), title) as names:
        for _ in zip(names, pool.map(copy_one, todo), strict=True):
            pass


def is_whole(path: Path, size: int) -> bool:
    """Whether a file exists and has `size` bytes; a `size` of 0 is unknown and fits any file."""
    return path.is_file() and size in (0, path.stat().st_size)


def open_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder in it."""
    settings = {"tar": {"compression": "gzip"}} if url.lower().partition("?")[0].endswith((".gz", ".tgz")) else {}
    place = bucket_of(url)
    if place in ANONYMOUS and os.environ.get(UNSIGNED, "").upper() in ("YES", "TRUE", "1"):
        settings[place] = ANONYMOUS[place]
    return fsspec.core.url_to_fs(url, **settings)


def bucket_of(url: str) -> str:
    """The protocol of a URL, or of the archive's URL in it: s3 for zip://train::s3://bucket/mine.zip."""
    return url.rpartition("::")[2].partition("://")[0]


def url_of(root: str, setting: str = "dataset.source.root") -> str:
    """The fsspec URL of a remote root, such as zip://train::mine.zip for /vsizip/mine.zip/train; errors name `setting`."""
    place = root
    while prefix := next((prefix for prefix in PREFIXES if place.startswith(prefix)), None):
        place = PREFIXES[prefix] + place.removeprefix(prefix)
    for protocol in re.findall(r"(?:^|::)(\w+)://", place):
        if protocol not in PROTOCOLS:
            raise InputError(f"{setting}={root}: {protocol}:// is not read; one of {', '.join(PROTOCOLS)} is expected")
    if "::" in place:
        return place
    archive = re.fullmatch(r"(.+?\.(?:zip|(?:tar|tar\.gz|tgz))(?:\?[^/]*)?)(?:/(.*))?", place, re.IGNORECASE)
    if not archive:
        return place
    file, inner = archive.groups()
    return f"{'zip' if file.lower().partition('?')[0].endswith('.zip') else 'tar'}://{(inner or '').strip('/')}::{file}"


def list_files(system: Any, base: str) -> dict[str, list[Any]]:
    """The address and size in bytes (0: unknown) of each file below a folder, by its path relative to the folder."""
    found = {}
    for address, facts in system.find(base, detail=True).items():
        below = str(address).removeprefix(base).lstrip("/")
        served = "https" in system.protocol
        path = PurePosixPath(unquote(below) if served else below.replace("\\", "/"))  # some archives have backslashes
        if path.name and not any(part.startswith((".", "/")) or (served and "?" in below) for part in path.parts):
            found[str(path)] = [str(address), int(facts.get("size") or 0)]
    if not found:
        system.ls(base)  # raises the cause, which `find` hides
    return found


def needed_files(there: Mapping[str, Sequence[Any]], fits: Callable[[str], bool]) -> list[str]:
    """The files to copy: those that fit, files of the same stem beside them, and lists; all files if a VRT fits."""
    fitting = {_stem(name) for name in there if fits(name)}
    if any(fits(name) for name in there if name.lower().endswith(".vrt")):  # a VRT reads files of any name
        return list(there)
    lists = {name for name, (_, size) in there.items() if name.lower().endswith(LISTS) and size <= SMALL}
    return [name for name in there if name in lists or _stem(name) in fitting]


def strip_top_folder(there: Mapping[str, Sequence[Any]], fits: Callable[[str], bool]) -> dict[str, Any]:
    """Paths relative to the single top folder, which archives often have, if no path fits as it is."""
    found = dict(there)
    while found and not any(map(fits, found)):
        tops = {name.partition("/")[0] for name in found}
        if len(tops) > 1 or tops & found.keys():  # several folders, or a file
            break
        found = {name.partition("/")[2]: facts for name, facts in found.items()}
    return found if any(map(fits, found)) else dict(there)


def _stem(name: str) -> PurePosixPath:
    """A path up to the first dot of its name."""
    path = PurePosixPath(name)
    return path.with_name(path.name.partition(".")[0])
