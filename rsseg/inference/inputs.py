"""The scenes to map, as the user names them (files, folders, globs, lists, stacks, URLs), opened for a network."""

from __future__ import annotations

import glob
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import rasterio.shutil
from rasterio.enums import Resampling

from rsseg.config.arguments import split_places
from rsseg.contract import InputError
from rsseg.data.census import describe_other_radiometry
from rsseg.data.files import Files
from rsseg.data.grids import ground_resolution
from rsseg.data.inspection import compare_scenes
from rsseg.data.labels import make_mask_reader
from rsseg.data.masks import Mask
from rsseg.data.paths import IMAGES, files_below
from rsseg.data.raster import Raster, reading
from rsseg.data.remote import fetch
from rsseg.data.scene import Scene, SceneReader
from rsseg.files import is_remote, read_text
from rsseg.inference.options import MapOptions
from rsseg.inference.trained import Spec
from rsseg.task import Binary

log = logging.getLogger(__name__)

LIST = ".txt"
"""The ending of a file that lists scenes, one a line."""

NEAR = 1.2
"""Resolutions that differ by a smaller factor count as equal."""


class OutsideError(InputError):
    """A scene lies outside of the area that is to be mapped."""


def find_scenes(text: str, patterns: Sequence[str], stack: bool = False) -> list[Scene]:
    """The scenes that a text names, each once.

    Args:
        text: Files, folders, patterns with ``*``, a list, URLs and archives, with commas between them.
        patterns: The path patterns of the training images below their dataset's root, which find the files of scenes in a
            folder; if they match nothing there, every image is a scene.
        stack: Whether the files are the bands of one scene, in this order.

    Raises:
        InputError: If a place does not exist or is not an image, or there is no scene.
    """
    if is_remote(text):
        scenes = _fetched(text, patterns)
    else:
        scenes = [scene for place in split_places(text) for found in _matching(place) for scene in _scenes_of(found, patterns)]
    if not scenes:
        raise InputError(f"scene={text}: it names no scene")
    if stack:
        first, *others = scenes
        return [replace(first, stack=(*first.stack, *(file for scene in others for file in scene.images)))]
    return list(dict.fromkeys(scenes))


def _matching(place: Path) -> list[Path]:
    """The files that fit a pattern; a path that exists, or a pattern that no file fits, is itself."""
    found = [] if place.exists() else sorted(glob.glob(str(place), recursive=True))
    return list(map(Path, found)) or [place]


def _scenes_of(place: Path, patterns: Sequence[str]) -> list[Scene]:
    """The scenes of a file, a folder, or a list of them."""
    if place.is_dir():
        return _below(place, patterns)
    if not place.is_file():
        raise InputError(f"scene={place}: there is no such file or folder")
    if place.suffix.lower() != LIST:
        return [Scene(place.stem, place)]
    lines = [line.strip() for line in read_text(place).splitlines()]
    named = [place.parent / Path(line).expanduser() for line in lines if line and not line.startswith("#")]
    if any(path.suffix.lower() == LIST for path in named):
        raise InputError(f"scene={place}: it lists a list; list images or folders")
    return [scene for path in named for scene in _scenes_of(path, patterns)]


def _below(folder: Path, patterns: Sequence[str]) -> list[Scene]:
    """The scenes below a folder."""
    if patterns:
        try:
            return Files(str(folder), list(patterns), mask="-", split={"test": ["*"]}).scenes("test")
        except InputError as error:
            if len(patterns) > 1:
                raise
            log.info("scene=%s: every image is taken for a scene (%s)", folder, str(error).partition(":")[0])
    found = sorted(path for path in files_below(folder) if path.suffix.lower() in IMAGES)
    if not found:
        raise InputError(f"scene={folder}: there is no image in that folder ({', '.join(sorted(IMAGES))})")
    return [Scene(path.stem, path) for path in found]


def _fetched(url: str, patterns: Sequence[str]) -> list[Scene]:
    """The scenes of a remote archive, folder or file, which is downloaded."""
    name = PurePosixPath(url)
    if name.suffix.lower() in IMAGES:
        folder = fetch(url[: -len(name.name) - 1], lambda path: path == name.name, "scene")
        return [Scene(name.stem, folder / name.name)]
    return _below(fetch(url, lambda path: PurePosixPath(path).suffix.lower() in IMAGES, "scene"), patterns)


def open_scene(scene: Scene, spec: Spec, options: MapOptions, folder: Path) -> SceneReader:
    """A reader of a scene for a network, at its resolution, see `fit_resolution`.

    Raises:
        InputError: If the scene does not fit the network.
    """
    found = sum(scene.counts())
    if max(spec.bands) > found:
        raise InputError(
            f"{scene.image} has {found} bands, but {spec.name} was trained on the bands {list(spec.bands)} of its scenes: "
            "give one file that holds them all, or the files of one scene in their order with stack=true"
        )
    scene = fit_resolution(replace(scene, nodata=spec.nodata), spec.resolution, options, folder)
    decoders = []
    if options.area:
        decoders = [make_mask_reader(Binary(("area",)))]
        scene = replace(scene, masks=(Mask(Path(options.area)),))
    reader = SceneReader(scene, decoders, list(spec.bands))
    if any(reader.facts.gaps.values()):
        raise OutsideError(f"{scene.image} lies outside of area={options.area}")
    compare_scenes([reader.scene], [reader.facts], list(spec.bands))
    if reader.dtype.kind == "c":
        raise InputError(f"{scene.image} holds complex numbers: write amplitudes or intensities as real ones")
    reader.fill = np.array(spec.mean)
    if line := _other_radiometry(spec, reader):
        if not options.allow_different:
            raise InputError(f"{line} Write it as the training scenes are, or map it all the same: allow_different=true")
        log.warning("%s", line)
    return reader


def same_resolution(one: float | None, other: float | None) -> bool:
    """Whether two resolutions are nearly equal, or one of them is not known."""
    return not one or not other or max(one / other, other / one) < NEAR


def fit_resolution(scene: Scene, trained: float | None, options: MapOptions, folder: Path) -> Scene:
    """A scene at the resolution that a network was trained at, in metres per pixel, if both resolutions are known.

    With ``resample=true``, a VRT file in the folder resamples the scene; with ``allow_different=true``, it is not changed;
    otherwise a different resolution raises an `InputError`.
    """
    own = ground_resolution(*scene.place())
    if trained is None or own is None or same_resolution(own, trained):
        return scene
    if not options.resample:
        line = f"{scene.image} has {own:.3g} m a pixel, and the run was trained on {trained:.3g} m"
        if not options.allow_different:
            raise InputError(f"{line}: resample=true brings it to that resolution, allow_different=true maps it as it is")
        log.warning("%s.", line)
        return scene
    log.info("%s: resampled from %.3g to %.3g m a pixel, which the map has too.", scene.image, own, trained)
    image, factor = Raster(scene.image, average=True, untagged=scene.nodata), own / trained
    raster = image.opened
    width, height = (max(1, math.ceil(side * factor)) for side in (raster.width, raster.height))
    transform = raster.transform * raster.transform.scale(raster.width / width, raster.height / height)
    method, path = Resampling.average if factor < 1 else Resampling.bilinear, folder / f"{scene.image.stem}.vrt"
    with (
        reading(scene.image),
        image.warp(crs=raster.crs, transform=transform, width=width, height=height, resampling=method) as warped,
    ):
        rasterio.shutil.copy(warped, path, driver="VRT")
    return replace(scene, image=path)


def _other_radiometry(spec: Spec, reader: SceneReader) -> str:
    """One line if the centre of a scene seems to have another number type or range than the training pixels; else empty."""
    height, width = reader.size
    side = min(height, width, 1024)
    try:
        image, missing = reader.read_image((height - side) // 2, (width - side) // 2, side)
    except InputError:  # damaged blocks are reported when they are mapped
        return ""
    if missing.all():
        return ""
    found, scene = image[:, ~missing].mean(axis=1), reader.scene.image.name
    return describe_other_radiometry(np.array(spec.mean), np.array(spec.std), spec.dtype, found, str(reader.dtype), scene)
