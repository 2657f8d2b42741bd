"""Opening a store: what is not in it yet is decoded, in threads, since rasterio and Pillow let others run meanwhile."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import InputError
from rsseg.data.census import band_statistics, value_statistics
from rsseg.data.count import SceneCounts
from rsseg.data.decoded import decode_scene, decoded_bytes, layer_files, read_arrays, store_name, write_arrays
from rsseg.data.inspection import compare_scenes, raise_together
from rsseg.data.masks import MaskReader
from rsseg.data.scene import Facts, Scene
from rsseg.data.store import Store
from rsseg.files import UnwritableError, check_space, file_error, remove_parts
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
    """The decoded scenes of a split; those that are not in the store yet, or whose files have changed, are decoded.

    Several processes may do so at once, in the same store. The names of its files are looked at here; sizes and check sums of a
    scene when its pixels are first asked for, see `Store.arrays`: a hundred thousand scenes are opened in seconds.

    Args:
        scenes: The scenes.
        mask_readers: How the masks of each target are decoded.
        bands: The image bands to read, counted from 1.
        folder: Where the decoded scenes of all splits lie.
        title: What messages and the progress bar begin with.
        skip: Leave out scenes that can't be decoded.
        full: Compare all of a scene with its check sums when it is opened first, not a few blocks of each file.

    Raises:
        InputError: If files can't be used, or the scenes can't be written or need more than the disk has left.
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
    todo = {name: scene for scene, name in names.items() if not there.issuperset(_files(scene, name, mask_readers))}
    if cut := sum(f"{name}.counts" in there for name in todo):
        log.warning("%s: files of %d scenes are gone from %s: they are decoded again.", title, cut, folder)
    beside = {name: scene for scene, name in names.items() if name not in todo and (scene.stack or _is_burnt(scene))}
    faults = decode_scenes(todo, beside, mask_readers, bands, folder, title, skip, skipped)
    skipped |= {scene.name: faults[name] for scene, name in names.items() if name in faults}
    kept = [scene for scene in scenes if scene.name not in skipped]
    if not kept:
        raise_together(list(skipped.values()))
    chosen = [names[scene] for scene in kept]
    path = folder / f"index-{hashlib.blake2b(''.join(chosen).encode(), digest_size=16).hexdigest()}"
    index = None if todo.keys() - faults.keys() else read_arrays(path)
    if index is None:
        read = {name: read_arrays(folder / f"{name}.counts") for name in dict.fromkeys(chosen)}
        counted = {name: SceneCounts.of(arrays, len(mask_readers)) for name, arrays in read.items() if arrays is not None}
        if bad := read.keys() - counted.keys():
            line = "%s: %d scenes in %s are damaged or of an earlier version: they are decoded again."
            log.warning(line, title, len(bad), folder)
            for name in bad:
                (folder / f"{name}.counts").unlink(missing_ok=True)
            return open_store(scenes, mask_readers, bands, folder, title, skip, full)
        index = make_index([counted[name] for name in chosen])
        write_arrays(path, index)
    return Store(folder, kept, chosen, mask_readers, bands, index, skipped, full)


def _files(scene: Scene, name: str, mask_readers: Sequence[MaskReader]) -> list[str]:
    """The names of the files that every decoded scene has."""
    return [f"{name}.counts", *layer_files(scene, name, [mask_reader.task.target for mask_reader in mask_readers]).values()]


def make_index(scenes: Sequence[SceneCounts]) -> dict[str, NDArray[Any]]:
    """Everything about a split's scenes but their pixels, as arrays by name: a hundred thousand of them are opened by it."""
    index = {
        "layout": np.stack([scene.layout for scene in scenes]),
        "files": np.array([len(scene.lengths) for scene in scenes]),
        **{name: np.concatenate([getattr(scene, name) for scene in scenes]) for name in ("dtypes", "lengths", "sums")},
        **{f"bands_{name}": np.asarray(value) for name, value in vars(band_statistics(scenes)).items()},
    }
    for place, counts in enumerate(zip(*(scene.targets for scene in scenes), strict=True)):
        index[f"{place}_labels"] = np.stack([each.labels for each in counts])
        index[f"{place}_blocks"] = np.concatenate([each.blocks.reshape(-1, each.blocks.shape[-1]) for each in counts])
        index |= {f"{place}_values_{name}": value for name, value in vars(value_statistics(counts)).items()}
    return index


def _is_burnt(scene: Scene) -> bool:
    """Whether any of a scene's masks is a vector file."""
    return any(mask is not None and mask.burn is not None for mask in scene.masks)


def decode_scenes(
    todo: Mapping[str, Scene],
    beside: Mapping[str, Scene],
    mask_readers: Sequence[MaskReader],
    bands: Sequence[int],
    folder: Path,
    title: str,
    skip: bool,
    faults: Mapping[str, str],
) -> dict[str, str]:
    """Decode scenes.

    Args:
        todo: The scenes, by their names in the store.
        beside: Scenes that are in the store and that some of them may have to go together with, likewise.
        mask_readers: How the masks of each target are decoded.
        bands: The image bands to read, counted from 1.
        folder: The store.
        title: What messages begin with.
        skip: Leave out what can't be decoded.
        faults: What is known to be unusable already.

    Returns:
        Per scene that was left out, why.

    Raises:
        InputError: For the first five scenes that can't be used, and for a disk too small.
    """
    if not todo and not faults:
        return {}
    remove_parts(folder)
    names = list(todo)
    start = os.getpid() * 7919 % max(len(names), 1)  # processes that build the same store start at different places
    names = names[start:] + names[:start]
    found: dict[str, str] = {}
    facts: dict[str, Facts] = {}
    sizes: dict[str, int] = {}  # what each checked scene takes

    if not any(scene.stack or _is_burnt(scene) for scene in todo.values()):
        beside = {}
    known = {**beside, **todo}

    def check(name: str) -> None:
        facts[name] = known[name].check(mask_readers, bands)
        if name in beside:
            return
        if facts[name].dtype.kind == "c":
            raise InputError(f"{todo[name].image} holds complex numbers: write their amplitude, or both parts as bands")
        sizes[name] = decoded_bytes(todo[name], facts[name], mask_readers, bands)

    def decode(name: str) -> None:
        files = _files(todo[name], name, mask_readers)
        if not all((folder / file).is_file() for file in files):  # another process may have since
            decode_scene(todo[name].reader(mask_readers, bands, facts[name]), folder, name)

    found |= _in_threads(check, [*names, *beside], f"{title}: checking", stop=False)
    if not skip:
        raise_together([*faults.values(), *found.values()])
    names = [name for name in names if name not in found]
    if not names:
        return found
    together = [name for name in known if name not in found]
    compare_scenes([known[name] for name in together], [facts[name] for name in together], bands)
    need = sum(sizes[name] for name in names)
    log.info("%s", check_space(folder, need, f"{title}: {len(names)} scenes to decode take"))
    found |= _in_threads(decode, names, f"{title}: decoding", stop=not skip)
    if not skip:
        raise_together(list(found.values()))
    return found


def _in_threads(work: Callable[[str], None], names: Sequence[str], title: str, stop: bool) -> dict[str, str]:
    """Call a function with every scene's name, in threads; returns what went wrong, by that name.

    Args:
        work: The function.
        names: The scenes' names.
        title: What the progress bar and lines begin with.
        stop: Begin no other scene once something went wrong.
    """
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
            stopped.set()  # an interruption waits for the scenes at hand alone
