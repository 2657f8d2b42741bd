"""The counts of baselines, kept beside a report: whoever compares again reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rsseg.contract import InputError
from rsseg.files import read_json, write_json
from rsseg.metrics.average import Array


def data_key(data: Mapping[str, Any], target: str) -> str:
    """The key of the baselines of a target in the cache: the fingerprints of the scenes in data.json, as far as it has them."""
    facts = [data.get(what, {}).get(split, "") for what in ("fingerprint", "pixels") for split in ("train", "val")]
    return " ".join([target, *facts])


def cached(path: Path, key: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """Counts by name, from a file that holds those of a key, or made and added there.

    Args:
        path: A JSON file, which may hold the counts of several keys, as of the folds of a cross-validation.
        key: What the counts depend on.
        make: Makes them.

    Raises:
        UnwritableError: If the file can't be written.
    """
    saved = {}
    with suppress(InputError, AttributeError, ValueError):  # a damaged file is made again
        saved = read_json(path) if path.is_file() else {}
        if key in saved:
            return {name: np.array(counts, np.float64) for name, counts in saved[key].items()}
    found = make()
    write_json(path, saved | {key: {name: counts.tolist() for name, counts in found.items()}})
    return found
