"""Losses crossed with seeds: of the runs that there are, those with which every loss has every seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.runs import LeftOut, Run
from rsseg.contract import InputError


def latest(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Of several runs with the same label and seed keep the one that was finished last."""
    kept: dict[tuple[str, int], Run] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: str(run.summary["finished"])):
        older = kept.get((run.label, run.seed))
        if older:
            why = f"{run.folder} has the same loss and seed and was finished later"
            left_out.append(LeftOut(older.folder, why, "name one of them alone"))
        kept[run.label, run.seed] = run
    return list(kept.values()), left_out


def crossed(runs: list[Run]) -> tuple[list[list[Run]], list[LeftOut]]:
    """The runs by loss and seed, ``[losses][seeds]``; those that other losses lack a seed of are left out.

    Raises:
        InputError: If there are several losses, but no two of them share a seed.
    """
    names, seeds = sorted({run.label for run in runs}), sorted({run.seed for run in runs})
    found = {(run.label, run.seed): run for run in runs}
    there = [[(label, seed) in found for seed in seeds] for label in names]
    plain = {run.label for run in runs if run.plain}
    rows, columns = largest_grid(there, [label in plain for label in names])
    if rows.sum() == 1 < len(names):
        listed = "\n".join(f"  - {name}: {', '.join(str(s) for s in seeds if (name, s) in found)}" for name in names)
        raise InputError(f"no two losses share a seed, so none can be compared; train them on the same seeds:\n{listed}")
    kept = [name for name, keep in zip(names, rows, strict=True) if keep]
    shared = [seed for seed, keep in zip(seeds, columns, strict=True) if keep]
    remedy = "train the other losses on it, or this one on their seeds"
    left_out = [
        LeftOut(run.folder, f"not every loss has seed {seed}", remedy)
        for (label, seed), run in found.items()
        if label not in kept or seed not in shared
    ]
    return [[found[label, seed] for seed in shared] for label in kept], left_out


def largest_grid(present: ArrayLike, plain: Sequence[bool] = ()) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The losses and seeds to keep so that every loss has every seed and most runs are left.

    Two losses at least are kept, and plain cross-entropy among them, wherever they share a seed; of equally many runs, those
    of more losses.

    Args:
        present: bool ``[losses, seeds]``, which runs there are.
        plain: ``[losses]``, which are plain cross-entropy.

    Returns:
        bool ``[losses]`` and bool ``[seeds]``.

    Example:
        >>> rows, columns = largest_grid([[1, 1, 1], [1, 1, 1], [1, 0, 0]])
        >>> rows.tolist(), columns.tolist()
        ([True, True, False], [True, True, True])
        >>> largest_grid([[1, 1, 1], [1, 1, 1], [1, 0, 0]], plain=[False, False, True])[1].tolist()
        [True, False, False]
    """
    there = np.asarray(present, dtype=bool)
    shared: set[tuple[bool, ...]] = (
        set()
    )  # the seeds that some losses share; with such seeds all losses that have them are kept
    for row in there:
        shared |= {tuple((row & other).tolist()) for other in shared} | {tuple(row.tolist())}
    keep_plain = np.array([*plain] or [False] * len(there))

    def worth(columns: NDArray[np.bool_]) -> tuple[int, ...]:
        rows = there[:, columns].all(1)
        losses, seeds = int(rows.sum()), int(columns.sum())
        return int(seeds > 0), min(losses, 2), int((rows & keep_plain).any()), losses * seeds, losses

    best = max((np.array(columns) for columns in sorted(shared, reverse=True)), key=worth)
    return np.asarray(there[:, best].all(1)), best
