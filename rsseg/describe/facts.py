"""The numbers of a split: for people and files, what the rules of thumb ask, and what may be wrong with its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.data.census import PERCENTILES, Census
from rsseg.data.groups import group_names
from rsseg.data.store import Store
from rsseg.describe.objects import SPECK, ObjectSizes, Survey
from rsseg.task import Task

MODERATE, EXTREME = 4, 99
"""Pixels of the most frequent class for each one of the rarest; of two classes, the rarer then has 20 % and 1 % of them."""

THIN = 8  # a mean width of fewer pixels is thin: a quarter of such an object's pixels and more lie at its edge
SPECKLED = 0.05  # the share of specks among regions from which they are named as a hint of label noise


@dataclass(frozen=True)
class Facts:
    """What the rules ask about a training split."""

    kind: str  # what the masks are about, see `rsseg.task.Task.subject`
    frequent: str = ""  # the class with the most pixels
    rare: str = ""  # the class with the fewest, of those that occur
    ratio: float = 1.0  # pixels of the one for each of the other; multilabel: unlabelled ones for each of the label
    majority: float = 1.0  # the share of the most frequent class
    quiet: float = 0.0  # the share of blocks that show nothing but the most frequent class
    thin: Sequence[str] = ()  # the classes whose objects are thinner than `THIN`
    small: Sequence[str] = ()  # the classes half of whose pixels or more lie in small objects, see `ObjectSizes`
    uneven: float = 1.0  # how many times larger the largest scene is than the smallest
    patchy: Sequence[str] = ()  # the classes that are missing from half of the scenes or more

    @classmethod
    def of(cls, census: Census, task: Task, sizes: NDArray[np.int64], objects: Mapping[str, ObjectSizes]) -> Facts:
        """Draw them from what was counted."""
        names, counts = task.label_names, census.blocks.by_label(task)
        positive, valid = census.positives.sum(axis=0), census.valid.sum(axis=0)
        totals = task.label_counts(positive, valid)[0]
        if task.separate:
            rarest = int(np.where(positive, positive / np.maximum(valid, 1), np.inf).argmin())
            totals = np.array([valid[rarest] - positive[rarest], positive[rarest]])
            names = ("everything else", task.classes[rarest])
            others = counts.sum(axis=1)
        else:
            others = np.delete(counts, totals.argmax(), axis=1).sum(axis=1)
        most = int(totals.argmax())
        least = int(np.where(totals, totals, np.iinfo(np.int64).max).argmin())
        area = sizes.prod(axis=1)
        absent = (census.positives == 0).mean(axis=0)
        return cls(
            kind=task.subject,
            frequent=names[most],
            rare=names[least],
            ratio=float(totals[most] / totals[least]),
            majority=float(totals[most] / totals.sum()),
            quiet=float((others[census.blocks.labelled > 0] == 0).mean()),
            thin=[name for name, own in objects.items() if own.width < THIN],
            small=[name for name, own in objects.items() if own.small >= 0.5],
            uneven=float(area.max() / area.min()),
            patchy=[name for name, share in zip(task.classes, absent, strict=True) if 0.5 <= share < 1],
        )


def present_labels(store: Store) -> list[int]:
    """The places in `Task.label_names` of what occurs in a split."""
    positive, valid = store.census.positives.sum(axis=0), store.census.valid.sum(axis=0)
    return np.flatnonzero(store.task.label_counts(positive, valid)[0]).tolist()


def label_shares(store: Store) -> NDArray[np.float64]:
    """Per scene the share of each of `Task.label_names` among its labelled pixels, NaN without any; of objects their number."""
    census, task = store.census, store.task
    if task.directed:
        return census.positives.astype(np.float64)
    own, valid = task.label_counts(census.positives, census.valid)
    return np.where(valid > 0, own / np.maximum(valid, 1), np.nan)


def split_facts(store: Store, numbers: Sequence[int]) -> dict[str, Any]:
    """The numbers of a split, as ``description.json`` holds them; `numbers` are those of the bands that are read."""
    census, task = store.census, store.task
    area, bands = int(store.sizes.prod(axis=1).sum()), census.bands
    own, valid = (part.sum(axis=0) for part in task.label_counts(census.positives, census.valid))
    shares = label_shares(store)
    spread = [np.nanpercentile(share, (5, 50, 95)) if np.isfinite(share).any() else np.zeros(3) for share in shares.T]
    return {
        "scenes": len(store),
        "groups": len(set(group_names(store.scenes))),
        "pixels": area,
        "ignored": float(census.blocks.counts[:, -1].sum(dtype=np.int64) / area),
        "missing": bands.missing,
        "classes": {
            name: {
                "pixels": int(own[i]),
                "share": float(own[i] / max(valid[i], 1)),
                "scenes_p5_p50_p95": spread[i].tolist(),
                "scenes_without": int((np.nan_to_num(shares[:, i]) == 0).sum()),
            }
            for i, name in enumerate(task.label_names)
        },
        "bands": [
            {"band": number, "mean": bands.mean[i], "std": bands.std[i], "min": bands.min[i], "max": bands.max[i]}
            | {f"p{p}": value for p, value in zip(PERCENTILES, bands.percentiles[:, i].tolist(), strict=True)}
            for i, number in enumerate(numbers)
        ],
        "values": {
            name: {key: float(value[i]) for key, value in asdict(census.values).items()}
            for i, name in enumerate(task.value_names)
        },
    }


def hints_of_noise(splits: Mapping[str, Any], objects: Mapping[str, ObjectSizes], found: Survey) -> list[str]:
    """What may be wrong with the labels, one sentence each; classes that a split lacks were named when it was opened."""
    hints = [
        f"{name}: {own.specks:,} specks of fewer than {SPECK} pixels ({own.speck_pixels:,} pixels in all) beside "
        f"{own.count:,} objects: {own.speck_share:.1%} of its regions"
        for name, own in objects.items()
        if own.speck_share >= SPECKLED
    ]
    hints += [
        f"{facts['ignored']:.2%} of the {split} split is ignored, {facts['missing']:.2%} because the image has no data"
        for split, facts in splits.items()
        if facts["ignored"]
    ]
    if found.labelled:
        hints.append(
            f"{found.labelled / found.missing:.1%} of the train pixels without data have a label in the masks "
            "(they are ignored): labels and images may come from different sources, or 0 means both"
        )
    return hints
