"""The census of a split: pixels per class, band statistics, and the blocks that hold each class.

Scenes are counted while they are decoded, so that no pixel is read twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import ONE_TARGET, InputError, counted
from rsseg.data.blocks import Blocks
from rsseg.data.masks import Mask
from rsseg.data.raster import alpha_band, open_raster
from rsseg.task import Binary, Centres, Task

log = logging.getLogger(__name__)

PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)

FAR = 5.0  # a mean that differs from that of training by more standard deviations is reported
SPREAD = 10.0  # a standard deviation that differs from that of training by more than this factor is reported
ABSURD = 10.0  # a band with a larger ratio of standard deviation to percentile distance has outliers, see `robust_statistics`

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics per row: of a target's known real values, one row for each value; label tasks have no rows."""

    mean: Floats  # [rows], exact
    std: Floats  # exact; 1 for a row that is constant
    min: Floats
    max: Floats


@dataclass(frozen=True, kw_only=True)
class BandStatistics(Statistics):
    """Statistics of a split's pixels with data, one row per band."""

    count: int  # pixels with data
    percentiles: Floats  # [9, C], the PERCENTILES of the pixels in every 32nd row and column
    missing: float  # the share of pixels without data: no-data, NaN, infinite


@dataclass(frozen=True)
class Census:
    """Counts and statistics of a split and one of its targets."""

    positives: NDArray[np.int64]  # [S, K], per scene the pixels of each class (binary, multilabel: of label 1)
    valid: NDArray[np.int64]  # [S, K], per scene the pixels that are labelled
    bands: BandStatistics
    blocks: Blocks  # where the classes lie
    values: Statistics  # of a regression's targets
    with_data: NDArray[np.int64]  # [S], per scene the pixels that have data

    def fingerprint(self, names: list[str]) -> str:
        """A short hash of scene names and label counts: same split and labels, same fingerprint, on any machine."""
        digest = hashlib.blake2b(repr(names).encode(), digest_size=8)
        digest.update(self.positives.astype("<i8").tobytes() + self.valid.astype("<i8").tobytes())
        return digest.hexdigest()


def index_counts(scenes: Sequence[Mapping[str, NDArray[Any]]], targets: int) -> dict[str, NDArray[Any]]:
    """The counts of a split as arrays by name, from `Counter.counts` of each scene; `read_censuses` reads them."""
    layout = np.stack([scene["layout"] for scene in scenes])
    area = layout[:, :2].prod(axis=1)
    with_data = (area - layout[:, 2])[:, None]
    bands = _statistics(with_data.astype(np.float64), *np.stack([scene["bands"] for scene in scenes], axis=1))
    sample = np.concatenate([scene["sample"] for scene in scenes])
    index = {f"bands_{key}": value for key, value in bands.items()}
    percentiles = np.percentile(sample if len(sample) else bands["mean"][None], PERCENTILES, axis=0)
    index |= {
        "bands_percentiles": percentiles.astype(np.float64),
        "bands_count": with_data.sum(),
        "bands_missing": 1 - with_data.sum() / area.sum(),
        "layout": layout,
    }
    for place in range(targets):
        blocks = [scene[f"{place}_blocks"] for scene in scenes]
        values = _statistics(*np.stack([scene[f"{place}_values"] for scene in scenes], axis=1))
        index[f"{place}_labels"] = np.stack([scene[f"{place}_labels"] for scene in scenes])
        index[f"{place}_blocks"] = np.concatenate([each.reshape(-1, each.shape[-1]) for each in blocks])
        index |= {f"{place}_values_{key}": value for key, value in values.items()}
    return {key: np.asarray(value) for key, value in index.items()}


def _statistics(n: Floats, means: Floats, squares: Floats, low: Floats, high: Floats) -> dict[str, Floats]:
    """Combine the counts, means, sums of squared deviations and extremes of parts, ``[parts, rows]`` each, to `Statistics`."""
    count = np.maximum(n.sum(axis=0), 1)
    mean = (n * means).sum(axis=0) / count
    std = np.sqrt((squares.sum(axis=0) + (n * (means - mean) ** 2).sum(axis=0)) / count)
    return {"mean": mean, "std": np.where(std > 0, std, 1.0), "min": low.min(axis=0), "max": high.max(axis=0)}


def read_censuses(index: Mapping[str, NDArray[Any]], targets: Sequence[str]) -> dict[str, Census]:
    """The census of each target of a split, from the arrays of `index_counts`."""
    layout, sizes = index["layout"], index["layout"][:, :2]
    bands = BandStatistics(
        **{key: index[f"bands_{key}"] for key in ("mean", "std", "min", "max", "percentiles")},
        count=int(index["bands_count"]),
        missing=float(index["bands_missing"]),
    )
    found = {}
    for place, name in enumerate(targets):
        labels, blocks = index[f"{place}_labels"], Blocks(index[f"{place}_blocks"], sizes)
        values = Statistics(**{key: index[f"{place}_values_{key}"] for key in ("mean", "std", "min", "max")})
        found[name] = Census(labels[:, 0], labels[:, 1], bands, blocks, values, sizes.prod(1) - layout[:, 2])
    return found


def absent_classes(census: Census, task: Task) -> list[str]:
    """The classes that never occur in a split."""
    return [name for name, n in zip(task.classes, census.positives.sum(axis=0), strict=True) if n == 0]


def check_absent(census: Census, task: Task, split: str, named: Collection[str] = (), masks: Sequence[Mask] = ()) -> None:
    """Warn of classes that a split lacks, except `named` ones; refuse one with nothing to learn or score, naming its masks."""
    of = "" if task.target == ONE_TARGET else f" for target {task.target}"
    of += f" ({counted(len(masks), 'mask')}, first {masks[0].path})" if masks else ""
    absent, labelled = absent_classes(census, task), int(census.valid.sum())
    ignored = census.bands.count - int(census.valid[:, 0].sum())
    nothing, only_one = len(absent) == task.channels, len(absent) == task.channels - 1
    look = "if the masks hold 0 and 255, set dataset.mask_values=[0,255] dataset.ignore_values=[]; else label some pixels"
    if masks and masks[0].vector:
        look = (
            "no feature in these scenes has such a mask value: look at dataset.source.layer, attribute and values, and whether "
            "features cover these scenes"
        )
    elif masks and masks[0].path.is_file() and (alpha := alpha_band(open_raster(masks[0].path))):
        look = f"labels in the alpha band are not read: if they are there, write it as the mask (gdal_translate -b {alpha})"
    fault = ""
    if not labelled:
        fault = (
            f"no pixel of the {split} split is labelled{of} in {len(census.valid)} scenes, all are ignored: "
            "check dataset.mask_values and dataset.ignore_values"
        )
    elif nothing and isinstance(task, Centres):
        fault = (
            f"no {' or '.join(task.classes)} has its centre in a scene of the {split} split{of}: look whether the vector files "
            "hold those places, and at dataset.source.attribute and values"
        )
    elif nothing:
        shares = "none has a share above a half: is dataset.fractions the value of a whole pixel in the masks?"
        fault = f"no pixel of the {split} split is labelled {' or '.join(absent)}{of}: {shares if task.soft else look}"
    elif split == "train" and isinstance(task, Binary) and int(census.positives.sum()) == labelled:
        fault = (
            f"every labelled pixel of the train split is {task.classes[0]}{of}, and there is no background to tell it "
            "from: take its value out of dataset.ignore_values, or label some"
        )
    elif split == "train" and task.exclusive and not task.soft and only_one and ignored > 0:
        only = next(name for name in task.classes if name not in absent)
        fault = f"the train split holds {only} alone{of}, and {ignored} pixels that are ignored: {look}"
    if fault:
        raise InputError(fault)
    _warn_of_mixed(census, task, split)
    absent = [name for name in absent if name not in named]
    if absent:
        line = "No %s of class %s in the %s split: %s."
        effect = "a model can't learn it there" if split == "train" else "its score is NaN and left out of means"
        log.warning(line, "object" if isinstance(task, Centres) else "pixel", ", ".join(absent), split, effect)


def _warn_of_mixed(census: Census, task: Task, split: str) -> None:
    """Warn where the masks of some scenes seem to hold 1 for the class and those of others 255, which is ignored."""
    if not isinstance(task, Binary) or task.soft:
        return
    valid, positive = census.valid[:, 0], census.positives[:, 0] > 0
    ignored = (census.with_data > valid) & (valid > 0)
    if (positive & ignored).any() or not (ignored & ~positive).any() or not (positive & ~ignored).any():
        return
    line = (
        "In %d of %d scenes of the %s split some pixels are ignored and none is %s; in the others it is the opposite. Do some "
        "masks use 0 and 255, others 0 and 1? dataset.mask_values=[0,[1,255]] dataset.ignore_values=[] reads both."
    )
    log.warning(line, int((ignored & ~positive).sum()), len(positive), split, task.classes[0])


def robust_statistics(bands: BandStatistics, warn: bool = True) -> tuple[Floats, Floats]:
    """The mean and the standard deviation ``[C]`` that bands are normalised by.

    A few outliers, such as 1e20, would compress all other values. A band whose deviation exceeds `ABSURD` times the distance of
    its 2nd and 98th percentiles gets its median and that distance / 4.1, the standard deviation of a normal distribution.
    """
    low, middle, high = (bands.percentiles[PERCENTILES.index(p)] for p in (2, 50, 98))
    absurd = (bands.std > ABSURD * (high - low)) & (high > low)
    line = (
        "Band %d holds a few pixels far from all others, from %.4g to %.4g: it is normalised by its median %.5g and the "
        "percentiles around it. If they stand for no data, set dataset.nodata."
    )
    for band in np.flatnonzero(absurd & warn):
        log.warning(line, band + 1, bands.min[band], bands.max[band], middle[band])
    return np.where(absurd, middle, bands.mean), np.where(absurd, (high - low) / 4.1, bands.std)


def describe_other_radiometry(
    mean: Floats, std: Floats, dtype: str, other: Floats, other_dtype: str, what: str, other_std: Floats | None = None
) -> str:
    """One line if other pixels seem to have another dtype or range than the training pixels, else empty.

    Means and standard deviations are ``[C]``. `dtype` is empty if unknown; `other_std` is None for a part of a scene.
    """
    far = abs(other - mean) / std
    worst = int(np.nanargmax(far)) if not np.isnan(far).all() else 0
    said = []
    if dtype and dtype != other_dtype:
        said.append(f"{what} is {other_dtype} and trained pixels are {dtype}")
    if far[worst] > FAR:
        said.append(
            f"{'' if said else f'of {what} '}the mean of band {worst + 1} is {other[worst]:.5g}, {far[worst]:.3g} standard "
            f"deviations from the {mean[worst]:.5g} of training"
        )
    factor = np.ones(1) if other_std is None else np.maximum(other_std / std, std / other_std)
    if not said and factor.max() > SPREAD and other_std is not None:
        band = int(factor.argmax())
        said.append(
            f"of {what} the standard deviation of band {band + 1} is {other_std[band]:.5g}, that of training {std[band]:.5g}"
        )
    return f"{'; '.join(said)}: do both have the same scale and bit depth?" if said else ""
