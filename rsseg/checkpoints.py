"""Checkpoint files, which are written atomically, and read with a checksum and without running code."""

from __future__ import annotations

import hashlib
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

SUM = 16
"""The bytes of the checksum, which is stored as the comment of the zip archive that `torch.save` writes."""

PLAIN: tuple[Any, ...] = (bool, int, float, complex, str, bytes)


class DamagedError(InputError):
    """A checkpoint is damaged."""


def write_checkpoint(path: Path, content: Mapping[str, Any], previous: Path | None = None) -> None:
    """Write a checkpoint of tensors and plain values atomically, with a checksum of all its bytes.

    Zip archives have a checksum per record, but none of their directory, where a flipped bit can change weights silently. The
    file that is replaced is kept as `previous`, if given.
    """
    content = plain_values(content)
    with atomic_write(path) as part:
        try:
            with part.open("w+b") as file:
                torch.save(content, file)
                file.flush()
                digest = _digest(file, os.path.getsize(part))
                file.seek(-2, os.SEEK_END)  # the length of the archive's comment
                file.write(struct.pack("<H", SUM) + digest)
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
        if not is_sealed(path):
            _check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no {path}") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors and plain values, which might run code when it is read: it was not read. "
            "Take the file from where the run was trained"
        ) from None
    except OSError as error:
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


def is_sealed(path: Path) -> bool:
    """Whether a file has a checksum; files of other programs and of earlier versions have none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 22 - SUM))
        tail = file.read()
        if tail[:4] != b"PK\5\6" or tail[20:22] != struct.pack("<H", SUM):
            return False
        if _digest(file, size - SUM) != tail[22:]:
            raise ValueError("its check sum is wrong")
    return True


def _digest(file: Any, size: int) -> bytes:
    """The checksum of an archive without its comment and the comment's length."""
    total, left = hashlib.blake2b(digest_size=SUM), size - 2
    file.seek(0)
    while left:
        data = file.read(min(left, 1 << 20))
        if not data:
            raise EOFError("cut")
        total.update(data)
        left -= len(data)
    return total.digest()


def _check_records(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken:
        raise ValueError(f"the check sum of its record {broken} is wrong")


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
