"""What a comparison cannot know, in words: classes in few scenes, values that single runs lack."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rsseg.compare.checkpoints import own_loss
from rsseg.compare.counts import Array
from rsseg.compare.fair import Comparison
from rsseg.compare.findings import MEASURES
from rsseg.compare.measures import effective_scenes
from rsseg.compare.threshold import shared
from rsseg.task import Task

FEW = 5.0
"""A class that is as good as in fewer scenes is named."""


def rare(task: Task, counts: Array | None) -> list[str]:
    """The classes that occur in few scenes.

    Args:
        task: The head's task.
        counts: ``[L, R, S, C, 3]``.
    """
    if counts is None or counts.shape[2] < 2:
        return []
    pixels = counts[0, 0, :, :, 0] + counts[0, 0, :, :, 2]
    good, holding = effective_scenes(pixels), (pixels > 0).sum(0)
    small = [f" (as good as {g:.1f} of equal size)" if g < 0.75 * n else "" for g, n in zip(good, holding, strict=True)]
    few = [f"{task.classes[c]} in {holding[c]}{small[c]}" for c in np.flatnonzero((good < FEW) & (holding < len(pixels)))]
    wide = [f"Only {len(pixels)} validation scenes: intervals are wide; validate on more."] * (len(pixels) < FEW)
    if not few:
        return wide
    lone = [task.classes[c] for c in np.flatnonzero(holding == 1)]
    effect = f"; no score that counts {', '.join(lone)} has an interval" if lone else ""
    where = f"Classes in few of {len(pixels)} validation scenes: {', '.join(few)}"
    return [*wide, f"{where}. Intervals are wide for that{effect}; validate on more scenes that hold them."]


def unknown(comparison: Comparison, values: Mapping[str, Array | None]) -> list[str]:
    """The runs whose value is NaN where others have one: means over seeds leave them out.

    Args:
        comparison: The runs.
        values: By name, ``[L, R]`` or ``[L, R, ...]``.
    """
    notes = []
    for key, found in values.items():
        if found is None:
            continue
        lacking, name = np.isnan(found).any(tuple(range(2, found.ndim))), MEASURES.get(key, (key,))[0]
        if lacking.all():
            notes.append(f"No run has a {name}.")
            continue
        for i, row in enumerate(np.asarray(lacking)):
            if row.any():
                seeds = ", ".join(str(seed) for seed, lost in zip(comparison.seeds, row, strict=True) if lost)
                left = f"its mean is over {int((~row).sum())} of {len(row)} seeds" if not row.all() else "it has no mean"
                notes.append(f"{comparison.labels[i]}: {name} is not known of seed {seeds}; {left}.")
    return notes


def untuned(comparison: Comparison, task: Task, counts: Array | None) -> list[str]:
    """The classes whose threshold, or bias, was not tuned, as they occur in one half of the scenes alone."""
    records = comparison.runs[0][0].records
    if counts is None or records is None or records.first.all():
        return []
    holds = counts[0, 0, :, :, 0] + counts[0, 0, :, :, 2] > 0
    lost = holds.any(0) & ~shared(holds, records.first)
    return [
        f"Class {name} occurs in one half of the validation scenes alone: its {task.tuned} could not be tuned on the one and "
        "scored on the other, and is left as it was; validate on more scenes that hold it."
        for name, one in zip(task.classes, lost, strict=True)
        if one
    ]


def unselected(comparison: Comparison, regret: Array | None) -> list[str]:
    """The losses whose selection regret is not known of some seed, and why."""
    if regret is None or len(comparison.runs[0][0].data["scenes"]["val"]) < 2:
        return []
    lacking = np.isnan(regret).any(1)
    silent = [any(own_loss(run) is None for run in row) for row in comparison.runs]
    notes = []
    for why, chosen in (
        ("their loss is not a function of sums over pixels, or was not recorded by half of the scenes", np.array(silent)),
        ("a half of the scenes has no loss, or no score, in some seed", ~np.array(silent)),
    ):
        names = [name for name, lost in zip(comparison.labels, lacking & chosen, strict=True) if lost]
        if names:
            notes.append(f"Selection regret is known of some losses alone, not of {', '.join(names)}: {why}.")
    return notes
