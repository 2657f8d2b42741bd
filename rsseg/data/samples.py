"""What a sample of torchgeo holds: its image and its mask, whatever they are called and however they are shaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import InputError

Array = NDArray[Any]


def arrays_of(sample: Mapping[str, Any], kind: str, wanted: Sequence[str] | None) -> dict[str, Array]:
    """The arrays of a sample that are its image or its mask, by key.

    Args:
        sample: The sample.
        kind: "image" or "mask": without `wanted`, the key of this name, or else all that begin with it and hold pixels.
        wanted: The keys, as far as the sample has them.
    """
    pixels = {key: np.asarray(value) for key, value in sample.items() if np.ndim(value) > 1}
    keys = wanted or ([kind] if kind in pixels else [key for key in pixels if key.startswith(kind)])
    return {key: pixels[key] for key in keys if key in pixels}


def keys_and_shapes(sample: Mapping[str, Any]) -> str:
    """The keys of a sample, and the shapes of what has one."""
    return ", ".join(f"{key} {list(np.shape(value))}" if np.ndim(value) else str(key) for key, value in sample.items())


def image_of(sample: Mapping[str, Any], wanted: Sequence[str] | None = None, times: int | None = None) -> Array:
    """The image of a sample, ``[bands, H, W]``.

    Several images, such as those of two dates or two sensors, follow each other, as do the steps of a time axis
    (``[T, C, H, W]`` becomes ``T * C`` bands).

    Args:
        sample: The sample.
        wanted: The keys of its images; None: ``image``, or else all keys that begin so.
        times: How many steps of a time axis are taken, evenly spaced from the first to the last; None: all.

    Raises:
        InputError: If there is no image, or several do not lie on one grid.
    """
    images = arrays_of(sample, "image", wanted)
    if len(images) < len(wanted or ["image"]):
        raise InputError(
            f"it holds {keys_and_shapes(sample)}; {' and '.join(wanted or ['an image'])} and a mask are needed to train on"
        )
    stack = []
    for key, image in images.items():
        if image.ndim > 4:
            raise InputError(f"its {key} has the shape {list(image.shape)}; [bands, H, W] or [times, bands, H, W] is expected")
        if image.ndim == 4 and times is not None:
            image = image[np.linspace(0, len(image) - 1, times).round().astype(int)]
        stack.append(image.reshape(-1, *image.shape[-2:]))
    if len({image.shape[1:] for image in stack}) > 1:
        raise InputError(
            f"its images lie on different grids, it holds {keys_and_shapes(sample)}: name those of one grid, "
            f"dataset.source.image=[{next(iter(images))}]"
        )
    return np.concatenate(stack)


def mask_of(sample: Mapping[str, Any], wanted: Sequence[str] | None = None) -> Array | None:
    """The mask of a sample, ``[bands, H, W]``; None if it has none.

    Masks of objects, one for each (``[N, H, W]`` beside N labels and boxes), become one mask of their labels.

    Args:
        sample: The sample.
        wanted: The keys of its masks, which become bands; None: ``mask``, or else the only key that begins so.

    Raises:
        InputError: If there are several, and none is wanted.
    """
    masks = arrays_of(sample, "mask", wanted)
    if not masks:
        return None
    if len(masks) > 1 and wanted is None:
        raise InputError(
            f"it holds several masks, {', '.join(masks)}: name one, dataset.source.mask={next(iter(masks))}, or several that "
            "are the bands of dataset.task=multilabel"
        )
    labels = np.asarray(sample.get("label", 0))
    if "bbox_xyxy" in sample and labels.ndim == 1 and all(mask.shape[:-2] == labels.shape for mask in masks.values()):
        masks = {key: ((mask != 0) * labels[:, None, None]).max(0, initial=0) for key, mask in masks.items()}
    stack = [mask.reshape(-1, *mask.shape[-2:]) for mask in masks.values()]
    if len({mask.shape[1:] for mask in stack}) > 1:
        raise InputError(f"its masks lie on different grids, it holds {keys_and_shapes(sample)}")
    return np.concatenate(stack)


def smallest(pixels: Array) -> NDArray[np.generic]:
    """The values in the smallest of uint8, uint16, int16, int32 that holds them, else rounded to float32.

    Example:
        >>> smallest(np.array([0.0, 255.0])).dtype, smallest(np.array([0.5])).dtype
        (dtype('uint8'), dtype('float32'))
    """
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        limits = np.iinfo(kind)
        with np.errstate(invalid="ignore"):  # NaN fits no integer
            if pixels.min() >= limits.min and pixels.max() <= limits.max and np.array_equal(pixels, np.round(pixels)):
                return pixels.astype(kind)
    return pixels.astype(np.float32)
