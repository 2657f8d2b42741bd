"""Atomic writing of files, JSON and CSV, and locks between processes."""

from __future__ import annotations

import codecs
import csv
import errno
import json
import logging
import math
import os
import shutil
import time
import unicodedata
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rsseg.contract import InputError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

STALE = 3600  # a temporary file not written to for so many seconds is from a killed process

WAYS_OUT = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EROFS: "give a folder that can be written to",
    errno.EACCES: "give a folder that can be written to",
    errno.EPERM: "give a folder that can be written to",
    errno.ENOTDIR: "give another folder: a part of this path is a file",
    errno.EISDIR: "give another name: this one is a folder",
}
"""The remedy for an error of the file system, by its number."""


class LockedError(InputError):
    """Another process holds a lock."""


class UnwritableError(InputError):
    """A file or a folder can't be written."""


def file_error(path: Path | str, error: OSError) -> UnwritableError:
    """One line for an error of the file system.

    Example:
        >>> file_error("runs/a.json", OSError(errno.ENOSPC, "No space left on device"))
        UnwritableError("runs/a.json can't be written (No space left on device): free some space")
    """
    number, reason = error.errno, error.strerror or " ".join(str(error).split()) or type(error).__name__
    if number is None and _is_full(Path(path).parent):  # NumPy and GDAL give no reason
        number, reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
    way_out = WAYS_OUT.get(number or 0)
    return UnwritableError(f"{path} can't be written ({reason})" + (f": {way_out}" if way_out else ""))


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 2**20
    except OSError:
        return False


@contextmanager
def atomic_write(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside a file, which replaces the file when the block ends without an error.

    The temporary file has the same suffix, because some libraries choose the format by it. It is synced before it is renamed,
    and its folder afterwards: after a crash the file holds either the old or the new content.

    Args:
        path: The file. Its folder is made if it does not exist.
        sync: False for many small files that can be made again: after a power cut the last ones may be damaged.

    Raises:
        UnwritableError: If the file can't be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "names.txt"
        >>> with atomic_write(path) as part:
        ...     _ = part.write_text("road")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('road', 1)
    """
    part = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "it is a device or a pipe; give another name")
        yield part
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        raise file_error(path, error) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def remove_parts(folder: Path, older: float = STALE) -> None:
    """Remove the temporary files and folders of killed processes in a folder, not written to for at least `older` seconds."""
    for part in folder.glob(".*.part*"):
        with suppress(OSError):  # another process may have just finished it
            if time.time() - max(path.stat().st_mtime for path in (part, *part.rglob("*"))) < older:
                continue
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk; on Windows, where folders can't be opened, this is left to the system."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def is_remote(root: str) -> bool:
    """Whether a dataset's root is not a local folder: a URL, a path of GDAL's virtual file systems, or an archive."""
    in_archive = any(is_archive(part) for part in Path(root).parts) and not Path(root).expanduser().is_dir()
    return "://" in root or root.startswith("/vsi") or in_archive


def is_archive(name: str) -> bool:
    """Whether a file name is that of an archive that is read like a folder."""
    return name.lower().endswith(ARCHIVES)


LARGER = "set output=... to a larger disk, or free some space"


def say_space(folder: Path, need: float, what: str, way_out: str = LARGER) -> None:
    """Log the bytes that something needs and the free space of its disk, and refuse a disk that is too small.

    Args:
        folder: The folder to write into; it may not exist yet.
        need: The number of bytes; with 0, or NaN if it is not known, nothing is logged or refused.
        what: The subject of the message, such as ``3 scenes take``.
        way_out: The remedy if the bytes do not fit.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    said = f"{what} {byte_text(need)}, and {folder} has {byte_text(free)} left"
    if need > free:
        raise InputError(f"{said}: {way_out}")
    if need > 0:
        log.info("%s", said)


def byte_text(count: float) -> str:
    """A number of bytes in a unit that people read.

    Example:
        >>> byte_text(0), byte_text(43_210_000), byte_text(1.26e9)
        ('under 1 MB', 'about 43 MB', 'about 1.3 GB')
    """
    if count < 1e6:
        return "under 1 MB"
    return f"about {count / 1e9:.1f} GB" if count >= 1e9 else f"about {count / 1e6:.0f} MB"


def normal(text: str) -> str:
    """Text in Unicode normal form C, since file systems and programs differ in how they write accents."""
    return unicodedata.normalize("NFC", text)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 or UTF-16, with or without a byte order mark, or else in cp1252."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    encodings = ["utf-8-sig", "cp1252"]
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in content:  # of these encodings only UTF-16 has zeros
        encodings = [encoding for encoding in ("utf-16-le", "utf-16-be") if _letters(content, encoding)]
        encodings.sort(key=lambda encoding: _letters(content, encoding), reverse=True)
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return normal(content.decode(encoding))
    raise InputError(f"{path} can't be read: it is no text in UTF-8, UTF-16 or cp1252; write it in UTF-8")


def _letters(content: bytes, encoding: str) -> int:
    """The number of ASCII characters in a text; 0 if it is no text in this encoding.

    In the wrong byte order, line ends and most digits of UTF-16 are no characters.
    """
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return 0
    printable = all(line.replace("\t", "").isprintable() for line in text.replace("\r", "").split("\n"))
    return sum(letter.isascii() for letter in text) * printable


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file. Numbers that are not finite become null, and NumPy's values become plain ones."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # ValueError: neither UTF-8 nor JSON
        raise InputError(f"{path} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} can't be read: a mapping is expected, found {type(content).__name__}")
    return content


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one or more rows as CSV, with a column per key.

    Text that a spreadsheet would read as a formula is prefixed with an apostrophe.
    """
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writerow({key: as_cell(key) for key in columns})
        writer.writerows({key: as_cell(value) for key, value in row.items()} for row in rows)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a data frame with its index as CSV, as `write_csv` does."""
    safe = table.map(as_cell).rename(index=as_cell, columns=as_cell)
    with atomic_write(path) as part:
        safe.to_csv(part, encoding="utf-8", lineterminator="\n")


def as_cell(value: Any) -> Any:
    """A value as a cell of a CSV file.

    Example:
        >>> as_cell("=1+1"), as_cell(-0.5), as_cell("road")
        ("'=1+1", -0.5, 'road')
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r'") else value


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock between processes while the block runs; the system releases it if the process is killed.

    The lock file is not removed. With `wait`, the call blocks until other processes have released the lock.

    Raises:
        LockedError: If another process holds the lock, unless `wait`.
        UnwritableError: If the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, is_singleton=True)  # one object per process, so that a process may lock twice
        held.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise LockedError(f"{path} is held by another process") from None
    except OSError as error:
        raise file_error(path, error) from None
    try:
        yield
    finally:
        held.release()
