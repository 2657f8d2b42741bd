"""Whether scenes go together, before any of them is trained on: all faults at once, the file named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsseg.contract import InputError
from rsseg.data.raster import alpha_band, open_raster
from rsseg.data.scene import Facts, Scene

log = logging.getLogger(__name__)

SHOWN = 5


def raise_together(faults: Sequence[str]) -> None:
    """Raise the first five faults of files together, if there are any."""
    faults = list(dict.fromkeys(faults))  # the regions of a file share its faults
    if faults:
        more = f"\n  ... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise InputError("Files that can't be used:\n" + "\n".join(f"  - {f}" for f in faults[:SHOWN]) + more)


def compare_scenes(scenes: Sequence[Scene], facts: Sequence[Facts], bands: Sequence[int]) -> None:
    """Find what is wrong with the scenes of a split as a whole, and log what the user should know though nothing is wrong."""
    if scenes:
        raise_together(_faults_between(scenes, facts))
        _log_differences(scenes, facts, bands)


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


def _log_differences(scenes: Sequence[Scene], facts: Sequence[Facts], bands: Sequence[int]) -> None:
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
        line = (
            "Images with an alpha band: %d, first %s (band %d). It is no image band, and where it is 0, pixels are ignored; if "
            "it is a band like others, list it in dataset.bands."
        )
        log.info(line, len(alpha), alpha[0], alpha_band(open_raster(alpha[0])))
    if turned:
        line = (
            "Images that viewers turn by their EXIF data: %d, first %s. They are read as they are stored: masks drawn over "
            "turned pictures do not fit. Write the images turned (mogrify -auto-orient)."
        )
        log.warning(line, len(turned), turned[0])
    if warped:
        log.info("Files on another grid than their scene, which are warped to it: %d, first %s.", len(warped), warped[0])
