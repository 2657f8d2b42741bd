"""Whether the files of scenes can be used, before any of them is trained on: all faults at once, the file named."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rsseg.contract import InputError
from rsseg.data.grids import check_overlap
from rsseg.data.mask_reader import MaskReader
from rsseg.data.masks import check_bands, value_bands
from rsseg.data.raster import JPEG, alpha_band, is_coloured, is_turned, open_raster, read_bands

if TYPE_CHECKING:
    from rsseg.data.scene import Mask, Scene

log = logging.getLogger(__name__)

SHOWN = 5


class Facts(NamedTuple):
    """What the files of a scene turned out to be.

    Attributes:
        size: Height and width.
        dtype: The common type of the bands that are read.
        counts: The number of bands in each image file.
        warped: The files that lie on another grid than the scene.
        alpha: The image files with an alpha band that is no image band.
        turned: The image files that viewers turn.
        elsewhere: Per vector mask, why its features miss the image; '' if they overlap it.
    """

    size: tuple[int, int]
    dtype: np.dtype[np.generic]
    counts: tuple[int, ...]
    warped: Sequence[Path] = ()
    alpha: Sequence[Path] = ()
    turned: Sequence[Path] = ()
    elsewhere: Mapping[Path, str] = MappingProxyType({})


def raise_together(faults: Sequence[str]) -> None:
    """Report the first five faults of files together.

    Raises:
        InputError: If there are any.
    """
    faults = list(dict.fromkeys(faults))  # the regions of a file share its faults
    if faults:
        more = f"\n  ... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise InputError("Files that can't be used:\n" + "\n".join(f"  - {f}" for f in faults[:SHOWN]) + more)


def compare_scenes(scenes: Sequence[Scene], facts: Sequence[Facts], bands: Sequence[int]) -> None:
    """Find what is wrong with scenes as a whole, and say what the user should know though nothing is wrong.

    Args:
        scenes: The scenes of one split.
        facts: Those of each.
        bands: The bands that will be read.

    Raises:
        InputError: If the scenes do not go together.
    """
    if scenes:
        raise_together(_faults_between(scenes, facts))
        _say(scenes, facts, bands)


def check_scene(scene: Scene, mask_readers: Sequence[MaskReader], bands: Sequence[int]) -> Facts:
    """Open every file of a scene.

    Args:
        scene: The scene.
        mask_readers: How the masks of each target will be decoded.
        bands: The bands that will be read.

    Raises:
        InputError: If it can't be used.
    """
    image, counts, dtypes = open_raster(scene.image), scene.counts(), list[DTypeLike]()
    warped, alpha = list[Path](), list[Path]()
    check_band_numbers(", ".join(map(str, scene.images)), sum(counts), bands)
    for path, _, own in scene.parts(bands):
        raster = open_raster(path)
        if path.suffix.lower() not in JPEG:  # those can only be decoded whole: a fault shows when they are
            corner = Window(raster.width - 1, raster.height - 1, 1, 1)  # where a truncated file ends early
            read_bands(path, own, corner, palette=is_coloured(raster))
        dtypes += ["uint8"] if is_coloured(raster) else [raster.dtypes[band - 1] for band in own]
        if _is_warped(path, own, scene.image, bilinear=True):
            warped.append(path)
        if alpha_band(raster) and alpha_band(raster) not in own:
            alpha.append(path)
    size = image.shape if scene.region is None else (int(scene.region.height), int(scene.region.width))
    elsewhere = dict[Path, str]()
    for mask, mask_reader in zip(scene.masks, mask_readers, strict=False):  # a scene to map has none
        if mask is None:
            continue
        if mask.burn is not None:
            elsewhere[mask.path] = _check_vector(mask, scene.image, mask_reader)
        elif _check_mask(mask.path, scene.image, mask_reader):
            warped.append(mask.path)
    if scene.weight is not None and _check_weight(scene.weight, scene.image):
        warped.append(scene.weight)
    turned = [path for path in scene.images if is_turned(path)]
    return Facts(size, np.result_type(*dtypes), counts, warped, alpha, turned, elsewhere)


def check_band_numbers(image: str, count: int, bands: Sequence[int]) -> None:
    """Make sure that an image of so many bands has those that are to be read.

    Raises:
        InputError: If it has not.
    """
    if max(bands) > count:
        raise InputError(f"{image} has {count} bands, but dataset.bands={list(bands)}: list bands from 1 to {count}")


def _is_warped(path: Path, bands: Sequence[int], onto: Path, bilinear: bool) -> bool:
    if not isinstance(open_raster(path, onto, bilinear), WarpedVRT):
        return False
    alpha = alpha_band(open_raster(path))
    if alpha in bands:
        raise InputError(
            f"band {alpha} of {path} is marked as alpha, so that a warp to the grid of {onto} uses it up: leave it out of the "
            f"bands, or mark it as one like others (gdal_edit.py -colorinterp_{alpha} undefined)"
        )
    return True


def _check_mask(path: Path, image: Path, labels: MaskReader) -> bool:
    """Whether the mask is warped."""
    bands = value_bands(path, labels)
    check_bands(path, len(bands), labels)
    return _is_warped(path, bands, image, bilinear=False)


def _check_weight(path: Path, image: Path) -> bool:
    """Whether the weight is warped."""
    raster = open_raster(path)
    if raster.count != 1 + (alpha_band(raster) == 2):
        raise InputError(f"{path} has {raster.count} bands, but a weight has one: what a pixel counts for in the loss")
    if np.dtype(raster.dtypes[0]).kind == "c":
        raise InputError(f"{path} holds complex numbers, but weights are numbers of 0 or more")
    return _is_warped(path, [1], image, bilinear=False)


def _check_vector(mask: Mask, image: Path, labels: MaskReader) -> str:
    """Why the features lie outside of the image, if they do."""
    assert mask.burn is not None
    if labels.mask_bands > 1:
        kind = "colours" if labels.colours else "a multilabel task"
        raise InputError(f"{mask.path} is a vector mask, which has one value a pixel, but {kind} need {labels.mask_bands}")
    from rsseg.data.vector import features_area, read_features

    _, values = read_features(mask.path, mask.burn, image)
    if fault := labels.wrong_features(values):
        raise InputError(f"{mask.path}: {fault}")
    area = features_area(mask.path, mask.burn)
    if area is not None:
        try:
            check_overlap(mask.path, *area, open_raster(image))
        except InputError as error:
            return str(error)
    return ""


def _faults_between(scenes: Sequence[Scene], facts: Sequence[Facts]) -> list[str]:
    """What is wrong with scenes as a whole: numbers of bands that shift those after them, vectors that touch no image."""
    faults, first = [], (scenes[0], facts[0])
    for scene, fact in zip(scenes, facts, strict=True):
        for i, (count, expected) in enumerate(zip(fact.counts[:-1], first[1].counts[:-1], strict=True)):
            if count != expected:
                faults.append(
                    f"{scene.images[i]} has {count} bands but {first[0].images[i]} has {expected}: dataset.bands counts "
                    "through the stacked files, so those before the last must have equally many in every scene"
                )
    touched = {path for fact in facts for path, why in fact.elsewhere.items() if not why}
    lost = {path: why for fact in facts for path, why in fact.elsewhere.items() if path not in touched}
    return faults + list(lost.values())


def _say(scenes: Sequence[Scene], facts: Sequence[Facts], bands: Sequence[int]) -> None:
    """What the user should know though nothing is wrong."""
    types: dict[np.dtype[np.generic], Path] = {}
    for scene, fact in zip(scenes, facts, strict=True):
        types.setdefault(fact.dtype, scene.image)
    if len(types) > 1:
        shown = ", ".join(f"{dtype} ({path})" for dtype, path in types.items())
        log.warning("Images differ in their number type: %s. All are read as %s.", shown, np.result_type(*types))
    numbers = {sum(fact.counts): scene.image for scene, fact in zip(scenes, facts, strict=True)}
    if len(numbers) > 1:
        shown = ", ".join(f"{count} ({path})" for count, path in sorted(numbers.items()))
        log.warning("Images differ in their number of bands: %s. Is band 1 the same in all of them, and so on?", shown)
    left_out = [path for scene in scenes[:1] for path in scene.images[1:] if path not in {p for p, _, _ in scene.parts(bands)}]
    if left_out:
        log.warning("dataset.bands=%s reads nothing of %s; dataset.bands=null takes all bands.", list(bands), left_out[0])
    alpha, turned, warped = (
        list(dict.fromkeys(path for fact in facts for path in getattr(fact, kind))) for kind in ("alpha", "turned", "warped")
    )
    if alpha:
        log.info(
            "Images with an alpha band: %d, first %s (band %d). It is no image band, and where it is 0, pixels are ignored; if "
            "it is a band like others, list it in dataset.bands.",
            len(alpha),
            alpha[0],
            alpha_band(open_raster(alpha[0])),
        )
    if turned:
        log.warning(
            "Images that viewers turn by their EXIF data: %d, first %s. They are read as they are stored: masks drawn over "
            "turned pictures do not fit. Write the images turned (mogrify -auto-orient).",
            len(turned),
            turned[0],
        )
    if warped:
        log.info("Files on another grid than their scene, which are warped to it: %d, first %s.", len(warped), warped[0])
