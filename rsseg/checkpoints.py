"""Checkpoint files, which are written atomically, and read with their checksums and without running code."""

from __future__ import annotations

import errno
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsseg.contract import InputError
from rsseg.files import atomic_write

FOLDER = 16
"""The attribute by which a zip archive calls a record a folder."""

PLAIN: tuple[Any, ...] = (bool, int, float, complex, str, bytes)


class DamagedError(InputError):
    """A checkpoint is damaged."""


def write_checkpoint(path: Path, content: Mapping[str, Any], previous: Path | None = None) -> None:
    """Write a checkpoint of tensors and plain values atomically; the file that is replaced is kept as `previous`, if given."""
    content = plain_values(content)
    with atomic_write(path) as part:
        try:
            with part.open("wb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # torch raises this when the disk is full
            if not isinstance(error.__context__, OSError):
                raise
            raise error.__context__ from None
        if previous is not None and path.exists():
            os.replace(path, previous)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, its tensors into memory.

    Raises:
        DamagedError: If the file is truncated, empty, or a bit of it has changed.
        InputError: If the file does not exist, or holds anything but tensors and plain values.
    """
    try:
        check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no {path}") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors and plain values, which might run code when it is read: it was not read. "
            "Take the file from where the run was trained"
        ) from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # the archive's directory would lie before the file's begin
            raise DamagedError(f"{path} is damaged (cut)") from None
        raise InputError(f"{path} can't be read ({error.strerror or error})") from None
    except (ValueError, RuntimeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise DamagedError(f"{path} is damaged ({str(error).splitlines()[0][:80] if str(error) else 'cut'})") from None
    if not isinstance(content, dict) or not {"state_dict", "global_step"} <= content.keys():
        raise DamagedError(f"{path} is no checkpoint of a run (it holds neither weights nor a step)")
    return content


def fill(module: nn.Module, weights: Mapping[str, Tensor], of: str) -> None:
    """Load weights into a module; `of` is the checkpoint's name in messages."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        found = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{of} does not fit its config.yaml: {found}") from None


def check_records(path: Path) -> None:
    """Check the records of a file of `torch.save` by the checksums of the zip archive that it is.

    Raises:
        ValueError: If one is wrong, or the archive calls a record a folder, of which torch would read other bytes silently.
        BadZipFile: If the file is no archive, or its directory is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        folders = [record.filename for record in archive.infolist() if record.external_attr & FOLDER]
    if broken:
        raise ValueError(f"the check sum of its record {broken} is wrong")
    if folders:
        raise ValueError(f"its record {folders[0]} is called a folder")


def plain_values(value: Any, where: str = "the checkpoint") -> Any:
    """A value converted to tensors and built-in types, which can be read without running code.

    Args:
        value: NumPy's numbers and enumerations become Python's, mappings become dictionaries.
        where: Its name in messages.

    Example:
        >>> plain_values({"lr": np.float64(0.5), "betas": (0.9, 0.99)})
        {'lr': 0.5, 'betas': (0.9, 0.99)}
    """
    if value is None or type(value) in PLAIN or isinstance(value, Tensor | torch.dtype | torch.Size):
        return value
    if isinstance(value, np.generic):
        return value.item()
    for kind in PLAIN:
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {plain_values(key, where): plain_values(child, f"{where}.{key}") for key, child in value.items()}
    if isinstance(value, list | tuple | set):
        kind = next(kind for kind in (list, tuple, set) if isinstance(value, kind))
        return kind(plain_values(child, where) for child in value)
    raise InputError(
        f"{where} would hold a {type(value).__name__}: only tensors, numbers, text, lists and mappings can be kept"
    )
