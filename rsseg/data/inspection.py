"""Checks, before training, that the scenes of a split fit together; all faults are reported at once, with their files."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from rsseg.contract import InputError, counted
from rsseg.data.scene import TURNED, Scene, SceneFacts

log = logging.getLogger(__name__)

SHOWN = 5


def raise_together(faults: Sequence[str]) -> None:
    """Raise the first five faults of files together, if there are any."""
    faults = list(dict.fromkeys(faults))  # the regions of a file share its faults
    if faults:
        more = f"\n  ... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise InputError("Files that can't be used:\n" + "\n".join(f"  - {f}" for f in faults[:SHOWN]) + more)


def compare_scenes(scenes: Sequence[Scene], facts: Sequence[SceneFacts], bands: Sequence[int]) -> None:
    """Refuse scenes of a split that do not fit together, and log remarks on their files.

    Raises:
        InputError: If the band counts of stacked files differ between scenes, or a vector file overlaps no image.
    """
    faults = []
    for scene, fact in zip(scenes, facts, strict=True):
        for path, first, count, expected in zip(
            scene.images[:-1], scenes[0].images, fact.counts, facts[0].counts, strict=False
        ):
            if count != expected:
                faults.append(
                    f"{path} has {count} bands but {first} has {expected}: dataset.bands counts through the stacked files, so "
                    "those before the last must have equally many in every scene"
                )
    gaps = [item for fact in facts for item in fact.gaps.items()]
    touched = {path for path, gap in gaps if not gap}
    raise_together(faults + [gap for path, gap in gaps if path not in touched])
    types = {fact.dtype: scene.image for scene, fact in zip(scenes, facts, strict=True)}
    if len(types) > 1:
        shown = ", ".join(f"{dtype} ({path})" for dtype, path in types.items())
        log.warning("Images differ in their number type: %s. All are read as %s.", shown, np.result_type(*types))
    numbers = {sum(fact.counts): scene.image for scene, fact in zip(scenes, facts, strict=True)}
    if len(numbers) > 1:
        shown = ", ".join(f"{count} ({path})" for count, path in sorted(numbers.items()))
        log.warning("Images differ in their number of bands: %s. Is band 1 the same in all of them, and so on?", shown)
    if left_out := [path for path in scenes[0].stack if path not in {part for part, _, _ in scenes[0].parts(bands)}]:
        log.warning("dataset.bands=%s reads nothing of %s; dataset.bands=null takes all bands.", list(bands), left_out[0])
    for remark in dict.fromkeys(text for fact in facts for text, _ in fact.remarks):
        paths = dict.fromkeys(path for fact in facts for text, path in fact.remarks if text == remark)
        level = logging.WARNING if remark == TURNED else logging.INFO
        log.log(level, "%s (%s, first %s).", remark, counted(len(paths), "file"), next(iter(paths)))
