"""What decodes the masks of a dataset: see `rsseg.data.labels` for rasters, `rsseg.data.boxes` for objects."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from rsseg.contract import InputError
from rsseg.data.burn import Burn
from rsseg.task import Task


class MaskReader(ABC):
    """What a pixel of a dataset's mask files means.

    Attributes:
        task: The head's task, whose target is decoded.
        colours: Whether the pixels are colours.
        no_raster: Why a raster is no mask; empty: it is one.
    """

    task: Task
    colours: bool = False
    no_raster: str = ""

    @property
    def mask_bands(self) -> int:
        """The number of bands that are read of a mask file."""
        return 3 if self.colours else math.prod(self.task.planes)

    @property
    @abstractmethod
    def signature(self) -> tuple[object, ...]:
        """What distinguishes this decoding from another; part of cache keys."""

    def blank(self, raw: NDArray[np.generic], nodata: float) -> NDArray[np.bool_]:
        """Where a file holds its no-data value and says nothing by it.

        Args:
            raw: ``[bands, H, W]`` as read from the file.
            nodata: The value.

        Returns:
            bool ``[H, W]``, or ``[bands, H, W]`` where each band says it of its own.

        Raises:
            InputError: If a raster is no mask.
        """
        raise InputError(self.no_raster)

    def decode(self, raw: NDArray[np.generic], missing: NDArray[np.bool_] | None = None) -> NDArray[np.generic]:
        """The target of raw mask pixels.

        Args:
            raw: ``[bands, H, W]`` as read from the file.
            missing: bool, as `blank` returns it, where the file has no pixel, whatever `raw` holds there.

        Returns:
            ``[*planes, H, W]`` in the task's dtype, `Task.unknown` where nothing is known.

        Raises:
            InputError: If a pixel holds what can't be, or a raster is no mask.
        """
        raise InputError(self.no_raster)

    def known(self, raw: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Which pixels ``[bands, H, W]`` hold a value with a meaning, so that they need no more to say so: bool ``[H, W]``."""
        return np.zeros(raw.shape[1:], dtype=bool)

    def burn(self, path: Path, burn: Burn, image: Path, window: Window) -> NDArray[np.generic]:
        """The target of the features of a vector file in a window of an image, as `decode` gives it.

        Args:
            path: The file.
            burn: The mask values of its features.
            image: The image.
            window: In the image's pixels.
        """
        from rsseg.data.vector import rasterise

        return self.decode(rasterise(path, burn, image, window)[None])

    def wrong_features(self, values: NDArray[np.int32]) -> str:
        """What is wrong with the mask values of features, if that is known before they are decoded."""
        return ""
