"""Opening a store. New scenes are decoded in threads, since rasterio and Pillow release the GIL."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rsseg.contract import InputError, counted
from rsseg.data.census import index_counts
from rsseg.data.decoded import decode_scene, decoded_bytes, layer_files, read_arrays, store_name, write_arrays
from rsseg.data.inspection import compare_scenes, raise_together
from rsseg.data.masks import MaskReader
from rsseg.data.scene import Scene, SceneFacts
from rsseg.data.store import Store
from rsseg.files import UnwritableError, file_error, remove_parts, say_space
from rsseg.progress import progress

log = logging.getLogger(__name__)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_store(
    scenes: Sequence[Scene],
    mask_readers: Sequence[MaskReader],
    bands: Sequence[int],
    folder: Path,
    title: str = "store",
    skip: bool = False,
    full: bool = False,
) -> Store:
    """Open the decoded scenes of a split; scenes that are not in the store yet, or whose files have changed, are decoded first.

    Several processes may open the same store at once. Only file names are checked here; file sizes and checksums of a scene are
    checked when its pixels are first read, see `Store.arrays`, so that a hundred thousand scenes open in seconds.

    `folder` holds the decoded scenes of all splits; `title` begins messages. `skip` leaves out scenes that can't be decoded.
    `full` verifies all checksums of a scene when its pixels are first read, instead of those of a few blocks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise file_error(folder, error) from None
    skipped: dict[str, str] = {}
    names: dict[Scene, str] = {}
    for scene in scenes:
        try:
            names[scene] = store_name(scene, mask_readers, bands)
        except InputError as error:
            skipped[scene.name] = str(error)
    known = {name: scene for scene, name in names.items()}
    todo = [name for name, scene in known.items() if not there.issuperset(_files(scene, name, mask_readers))]
    if cut := sum(f"{name}.counts" in there for name in todo):
        log.warning("%s: files of %d scenes are gone from %s: they are decoded again.", title, cut, folder)
    faults: dict[str, str] = {}
    if todo or skipped:
        faults = _decode(todo, known, mask_readers, bands, folder, title, skip, list(skipped.values()))
    skipped |= {scene.name: faults[name] for scene, name in names.items() if name in faults}
    kept = [scene for scene in scenes if scene.name not in skipped]
    if not kept:
        raise_together(list(skipped.values()))
    chosen = [names[scene] for scene in kept]
    path = folder / f"index-{hashlib.blake2b(''.join(chosen).encode(), digest_size=16).hexdigest()}"
    index = None if set(todo) - faults.keys() else read_arrays(path)
    if index is None:
        counts = {name: read_arrays(folder / f"{name}.counts") for name in dict.fromkeys(chosen)}
        if bad := [name for name, found in counts.items() if found is None]:
            line = "%s: %d scenes in %s are damaged or of an earlier version: they are decoded again."
            log.warning(line, title, len(bad), folder)
            for name in bad:
                (folder / f"{name}.counts").unlink(missing_ok=True)
            return open_store(scenes, mask_readers, bands, folder, title, skip, full)
        each = [found for name in chosen if (found := counts[name]) is not None]
        files = {key: np.concatenate([scene[key] for scene in each]) for key in ("dtypes", "lengths", "sums")}
        files["files"] = np.array([len(scene["lengths"]) for scene in each])
        index = index_counts(each, len(mask_readers)) | files
        write_arrays(path, index)
    return Store(folder, kept, chosen, mask_readers, bands, index, skipped, full)


def _files(scene: Scene, name: str, mask_readers: Sequence[MaskReader]) -> list[str]:
    """The names of the files that every decoded scene has."""
    return [f"{name}.counts", *layer_files(scene, name, [mask_reader.task.target for mask_reader in mask_readers]).values()]


def _may_disagree(scene: Scene) -> bool:
    """Whether a valid scene may not fit the others, see `compare_scenes`: it has stacked files or vector masks."""
    return bool(scene.stack) or any(mask is not None and mask.vector for mask in scene.masks)


def _decode(
    todo: Sequence[str],
    known: Mapping[str, Scene],
    mask_readers: Sequence[MaskReader],
    bands: Sequence[int],
    folder: Path,
    title: str,
    skip: bool,
    faults: Sequence[str],
) -> dict[str, str]:
    """Decode the scenes named in `todo`, out of all `known` of a split; returns the errors of skipped scenes by name."""
    remove_parts(folder)
    names, beside = list(todo), set[str]()
    if any(_may_disagree(known[name]) for name in todo):
        beside = {name for name, scene in known.items() if _may_disagree(scene)} - set(todo)
    facts: dict[str, SceneFacts] = {}
    sizes: dict[str, int] = {}  # bytes of each on disk

    def check(name: str) -> None:
        scene = known[name]
        facts[name] = scene.check(mask_readers, bands)
        if facts[name].dtype.kind == "c":
            raise InputError(f"{scene.image} holds complex numbers: write their amplitude, or both parts as bands")
        sizes[name] = decoded_bytes(scene, facts[name], mask_readers, bands)

    def decode(name: str) -> None:
        if not all((folder / file).is_file() for file in _files(known[name], name, mask_readers)):  # another process may have
            decode_scene(known[name].reader(mask_readers, bands, facts[name]), folder, name)

    found = _in_threads(check, [*names, *beside], f"{title}: checking", stop=False)
    if not skip:
        raise_together([*faults, *found.values()])
    names = [name for name in names if name not in found]
    if not names:
        return found
    together = [name for name in known if name in {*names, *beside} - found.keys()]
    compare_scenes([known[name] for name in together], [facts[name] for name in together], bands)
    need = sum(sizes[name] for name in names)
    takes = f"{counted(len(names), 'scene')} to decode take{'s' * (len(names) == 1)}"
    say_space(folder, need, f"{title}: {takes}")
    found |= _in_threads(decode, names, f"{title}: decoding", stop=not skip)
    if not skip:
        raise_together(list(found.values()))
    return found


def _in_threads(work: Callable[[str], None], names: Sequence[str], title: str, stop: bool) -> dict[str, str]:
    """Call a function with every name, in threads; returns errors by name. With `stop`, no call begins after an error."""
    stopped = threading.Event()

    def attempt(name: str) -> str:
        if stopped.is_set():
            return ""
        try:
            work(name)
        except UnwritableError:
            raise
        except InputError as error:
            if stop:
                stopped.set()
            return str(error)
        return ""

    with ThreadPoolExecutor(cores()) as pool, progress(names, title) as steps:
        try:
            return {name: fault for name, fault in zip(steps, pool.map(attempt, names), strict=True) if fault}
        finally:
            stopped.set()  # an interruption waits only for calls that are running
