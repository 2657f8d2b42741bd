"""Arrays in npz files, written whole or not at all, and read with their check sums."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.contract import InputError
from rsseg.files import atomic_write


class RecordError(InputError):
    """What is wrong with a run's records.

    Attributes:
        place: The run folder, or a file in it.
        found: What is wrong with that.
        remedy: What to do.
    """

    def __init__(self, place: Path, found: str, remedy: str) -> None:
        super().__init__(f"{place} {found}: {remedy}")
        self.place, self.found, self.remedy = place, found, remedy


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write an npz file of a run's records.

    Raises:
        UnwritableError: If it can't be written.
    """
    with atomic_write(path) as part:
        np.savez_compressed(part, **{name: np.asarray(a) for name, a in arrays.items()})  # type: ignore[arg-type]


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, all of them or some.

    Raises:
        RecordError: If it is damaged.
    """
    with _open(path) as file:
        return {name: file[name] for name in names or file.files}


def checked_names(path: Path) -> list[str]:
    """The names of the arrays in an npz file, once its check sums are seen to be right.

    Raises:
        RecordError: If it is damaged.
    """
    with _open(path) as file:
        broken = file.zip.testzip()
        if broken:
            raise ValueError(f"{broken} is not what was written")
        return list(file.files)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = error if isinstance(error, OSError) else "it is damaged"  # NumPy takes what is no archive for a pickle
        raise damaged(path, f"can't be read ({why})") from None


def damaged(path: Path, found: str) -> RecordError:
    """What to say of a record that is not as it was written."""
    return RecordError(path, found, "train the run again in a new folder")
