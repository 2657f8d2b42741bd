"""Mask settings, inferred from some masks: labels, colours, a threshold, or vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import maximum_filter, minimum_filter

from rsseg.contract import IGNORE, InputError
from rsseg.data.labels import parse_colour
from rsseg.data.raster import Raster, alpha_band, has_palette, open_raster

LOOKED_AT = 24  # the number of files that are read
SIDE = 2048  # the largest height and width of the part of a mask that is read
LOSSY = (".jpg", ".jpeg", ".jfif")  # masks of these lose their values
MANY = 32  # a mask with more values than this has no labels
STRAY = 1e-5  # a colour with a smaller share of the pixels is taken for a mistake
FLAT = 8  # in blurred masks, as from JPEG, pixels whose neighbours differ by at most this are inside of an area of one label
NEAR = 32  # colours of flat areas that differ by at most this are one label
UNLISTED = 1e-3  # a label with a smaller share of the flat pixels is none
SLACK = 20  # by how much colours of masks that are not looked at may be further from the labels


def middle(path: Path) -> Window:
    """The middle of a raster, or all of a small one."""
    raster = open_raster(path)
    height, width = min(SIDE, raster.height), min(SIDE, raster.width)
    return Window((raster.width - width) // 2, (raster.height - height) // 2, width, height)


def spread_out(paths: Sequence[Path]) -> list[Path]:
    """At most `LOOKED_AT` of some files, evenly spaced in their list."""
    return [paths[i] for i in sorted({round(x) for x in np.linspace(0, len(paths) - 1, LOOKED_AT)})]


def describe_masks(paths: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """The config settings of raster masks, from the values in some of them; and the conclusions, one sentence each."""
    looked = spread_out(paths)
    one: dict[str, Any] = {"task": "binary", "classes": ["foreground"], "mask_values": None, "ignore_values": None}
    coloured = any(has_colours(path) for path in looked)
    counts = sum((count_values(path, coloured) for path in looked), Counter[Any]())
    values, some = sorted(counts), f"in {len(looked)} of {len(paths)} masks"
    lossy = any(path.suffix.lower() in LOSSY for path in looked)
    if (len(counts) > MANY or lossy) and open_raster(looked[0]).dtypes[0] == "uint8":
        flat = flat_colours(looked)
        if len(flat) < len(counts) and (coloured or 2 < len(flat) <= MANY):
            return describe_blurred(sum((count_values(path, True) for path in looked), Counter()), flat, some)
        if len(flat) == 2 < len(counts):
            threshold = sum(parse_colour(colour) & 255 for colour in flat) // 2
            shown = " and ".join(str(parse_colour(colour) & 255) for colour in flat)
            belief = f"Masks are grey, {len(values)} values around {shown} {some}: above {threshold} is taken for the class."
            return one | {"threshold": threshold}, [belief]
    if coloured and not counts:
        raise InputError(
            f"{looked[0]} and its like are transparent everywhere: masks whose fourth band is no transparency, but a label, "
            "need a config from configs/dataset/geotiff.yaml, with task: multilabel"
        )
    if coloured:
        return describe_colours(counts, some)
    if len(values) > MANY or not all(float(value).is_integer() for value in values):
        threshold = 127 if 1 < values[-1] <= 255 else round((values[0] + values[-1]) / 2, 3)
        belief = f"Masks are grey, {len(values)} values {some}: above {threshold:g} is taken for the class."
        return one | {"threshold": threshold}, [belief]
    whole = [int(value) for value in values]
    labels = [value for value in whole if 0 <= value != IGNORE] if len(whole) > 2 else whole
    ignored = [value for value in whole if value not in labels]
    beliefs = [f"Masks hold {list_shares(counts, whole)} {some}{f'; not labelled: {ignored}' if ignored else ''}."]
    if lossy:
        beliefs.append("Masks are JPEG, which changes such values at edges: some labels are wrong. Write masks as PNG.")
    if IGNORE not in whole and max(labels, default=0) < IGNORE:
        ignored.append(IGNORE)  # perhaps in masks that were not looked at
    if len(labels) == 1:
        labels = sorted({0, labels[0] or 1})
        beliefs.append(f"Only one label is seen; {labels} are taken for the labels: add the others.")
    if len(labels) == 2:
        return one | {"mask_values": labels, "ignore_values": ignored}, beliefs
    classes = [f"class_{value}" for value in labels]
    return {"task": "multiclass", "classes": classes, "mask_values": labels, "ignore_values": ignored}, beliefs


def describe_colours(counts: Counter[Any], some: str) -> tuple[dict[str, Any], list[str]]:
    """The config settings and conclusions for masks in colours, from the number of pixels of each colour."""
    chosen = sorted(colour for colour, number in counts.most_common(MANY) if number > STRAY * counts.total())
    stray = sorted(counts.keys() - {*chosen})
    beliefs = [f"Masks hold colours, {list_shares(counts, chosen)} {some}."]
    if stray:
        few = ", ".join(f"{colour} ({counts[colour]} px)" for colour in stray[:MANY])
        beliefs.append(f"Hardly any pixel is {few}: taken for not labelled. If it is a class, move it to mask_values.")
    return _colour_settings(chosen, stray, None), beliefs


def _colour_settings(colours: list[str], ignored: list[str], tolerance: int | None) -> dict[str, Any]:
    """The config settings of masks in colours."""
    classes = [f"colour_{colour[1:]}" for colour in colours]
    labels = {"palette": colours, "mask_values": colours, "ignore_values": ignored, "colour_tolerance": tolerance}
    return {"task": "multiclass", "classes": classes, **labels}


def describe_blurred(counts: Counter[Any], flat: Counter[str], some: str) -> tuple[dict[str, Any], list[str]]:
    """The config settings and conclusions for masks whose colours are blurred, as by JPEG.

    Args:
        counts: The number of pixels of each colour.
        flat: The colours of flat areas, from `flat_colours`.
        some: The masks that were looked at, in words.

    Raises:
        InputError: If the colours of flat areas are no labels.
    """
    if not 2 <= len(flat) <= MANY:
        raise InputError(
            f"masks hold {len(counts)} colours {some}, of which {len(flat)} fill flat areas: from 2 to {MANY} are expected. "
            "Are they photographs? Else write a config from configs/dataset/folder.yaml, with mask_values and colour_tolerance"
        )
    apart = abs(_channels(counts)[:, None] - _channels(flat))
    nearest = (apart**2).sum(axis=-1).argmin(axis=1)
    farthest = int(apart[np.arange(len(apart)), nearest].max())
    tolerance = min(255, farthest + SLACK)
    belief = (
        f"Masks hold {len(counts)} colours {some}, blurred as by JPEG, around {list_shares(flat, sorted(flat))} where flat. "
        f"Every pixel takes the nearest one; they differ by up to {farthest}, so colour_tolerance is {tolerance}. Edges may "
        "take a third class, and one that is nowhere wider than some pixels is not seen: masks as PNG are better."
    )
    return _colour_settings(sorted(flat), [], tolerance), [belief]


def flat_colours(paths: Sequence[Path]) -> Counter[str]:
    """The colours of pixels that resemble their neighbours: the most frequent of similar ones, with the pixels of all."""
    counts = Counter[str]()
    for path in paths:
        pixels = Raster(path).read_colours(middle(path)).astype(np.int16)
        flat = (maximum_filter(pixels, (1, 3, 3)) - minimum_filter(pixels, (1, 3, 3))).max(axis=0) <= FLAT
        pixels[pixels <= FLAT] = 0
        pixels[pixels >= 255 - FLAT] = 255
        counts += count_colours(pixels[:, flat])
    colours, numbers = _channels(counts), np.array([*counts.values()])
    names, found = [*counts], Counter[str]()
    for place in np.argsort(-numbers, kind="stable"):
        near = (abs(colours - colours[place]).max(axis=1) <= NEAR) & (numbers > 0)
        if numbers[place] > 0:
            found[names[place]] = int(numbers[near].sum())
            numbers[near] = 0
    return Counter({colour: number for colour, number in found.items() if number > UNLISTED * found.total()})


def _channels(colours: Iterable[str]) -> NDArray[np.int64]:
    """Red, green and blue ``[N, 3]`` of colours "#rrggbb"."""
    return np.array([list(bytes.fromhex(colour[1:])) for colour in colours], np.int64).reshape(-1, 3)


def list_shares(counts: Counter[Any], values: Iterable[Any]) -> str:
    """Values and their shares of all pixels.

    Example:
        >>> list_shares(Counter({0: 9999, 1: 1}), [0, 1, 2])
        '0 (100.0%), 1 (<0.1%), 2 (0.0%)'
    """
    shares = {value: counts[value] / counts.total() for value in values}
    return ", ".join(f"{value} ({'<0.1%' if 0 < share < 0.0005 else f'{share:.1%}'})" for value, share in shares.items())


def has_colours(path: Path) -> bool:
    """Whether a mask's pixels are colours: three bands that differ, or a palette with an index above `MANY`.

    Raises:
        InputError: If the mask has another number of bands, or bands that are not uint8, and they differ.
    """
    raster = open_raster(path)
    if has_palette(raster):
        return bool(Raster(path).read([1], middle(path)).max() > MANY)
    bands = [band for band in range(1, raster.count + 1) if band != alpha_band(raster)]
    pixels = Raster(path).read(bands, middle(path))
    if not (pixels != pixels[:1]).any():
        return False
    if len(bands) != 3 or pixels.dtype != np.uint8:
        raise InputError(
            f"{path} has {len(bands)} bands of {pixels.dtype} that differ and are no colours: name others by image=... and "
            "mask=..., or write a config from configs/dataset/geotiff.yaml, with task: multilabel if each label has a band, "
            "fractions: 1 if each holds shares of a class"
        )
    return True


def count_values(path: Path, coloured: bool) -> Counter[Any]:
    """The number of pixels of each value, or of each colour as "#rrggbb"."""
    raster, window = Raster(path), middle(path)
    if not coloured:
        pixels, nodata = raster.read([1], window), raster.nodata
        known = pixels == pixels
        if nodata is not None and nodata < 0:  # else it may be a label
            known &= pixels != nodata
        values, numbers = np.unique(pixels[known], return_counts=True)
        return Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    pixels, hidden = raster.read_colours(window), raster.hidden([1, 2, 3], window)
    if len(np.unique(pixels[:, hidden], axis=1).T) > 1:  # several colours are an editor's leftovers, not a background
        pixels = pixels[:, ~hidden]
    return count_colours(pixels.reshape(3, -1))


def count_colours(pixels: NDArray[Any]) -> Counter[str]:
    """The number of pixels ``[3, N]`` of each colour."""
    red, green, blue = pixels.astype(np.int64)
    colours, numbers = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    return Counter({f"#{colour:06x}": number for colour, number in zip(colours.tolist(), numbers.tolist(), strict=True)})
