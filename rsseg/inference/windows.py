"""The windows of a scene, predicted batch by batch, so that the scene may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.data.scene import SceneReader
from rsseg.data.windows import GridCell, grid
from rsseg.module import SegmentationModule
from rsseg.progress import progress


class Predicted(NamedTuple):
    """A batch of windows of a scene.

    Attributes:
        cores: Where they lie.
        missing: bool ``[size, size]`` of each, where the image has no data.
        logits: ``[B, K, size, size]``.
    """

    cores: list[GridCell]
    missing: tuple[NDArray[np.bool_], ...]
    logits: Tensor


@torch.inference_mode()
def predict_scene_windows(
    module: SegmentationModule, head: str, reader: SceneReader, size: int, overlap: int, batch_size: int
) -> Iterator[Predicted]:
    """Predict overlapping windows that cover a scene.

    Args:
        module: The trained module, on its device.
        head: The head to predict with.
        reader: A reader of the scene.
        size: The windows' side.
        overlap: Pixels cut away at each inner border.
        batch_size: Windows at a time.
    """
    cores = grid(np.array([reader.size]), size, overlap)
    with progress(range(0, len(cores), batch_size), "predicting") as starts:
        for start in starts:
            batch = cores[start : start + batch_size]
            images, missing = zip(*(reader.read_image(c.top, c.left, size) for c in batch), strict=True)
            pixels = torch.from_numpy(np.stack(images).astype(np.float32)).to(module.device)
            yield Predicted(batch, missing, module(module.normalise(pixels))[head])
