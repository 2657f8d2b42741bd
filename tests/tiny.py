"""Tiny data and configs that the tests make themselves."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from rasterio.transform import from_origin
from torch import Tensor

from rsseg.config.schema import register
from rsseg.contract import Batch
from rsseg.data.masks import Mask
from rsseg.data.scene import Scene
from rsseg.module import SegmentationModule

CONFIGS = Path(__file__).parent.parent / "configs"


def write_tif(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write ``[bands, H, W]`` as a georeferenced GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    place = {"crs": "EPSG:32633", "transform": from_origin(500000, 4000000, 0.5, 0.5)}
    with rasterio.open(path, "w", **{**profile, **place, **options}) as file:
        file.write(pixels)
    return path


def logged(run: Path) -> list[dict[str, float]]:
    """The rows of a run's ``metrics.csv``: what was logged, and the step."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]


def make_scene(name: str, image: Path, mask: Path | None = None, settings: Any = None, **more: Any) -> Scene:
    """A scene of one target."""
    return Scene(name, image, () if mask is None else (Mask(mask, **(settings or {})),), **more)


def mask_file(scene: Scene) -> Path | None:
    """The file of a scene's first target."""
    mask = scene.mask_of(0)
    return None if mask is None else mask.path


def checker(rng: np.random.Generator, size: int, labels: int) -> np.ndarray:
    """A mask of blocks of 16 pixels."""
    blocks = rng.integers(0, labels, (size // 16 + 1, size // 16 + 1), dtype=np.uint8)
    return blocks.repeat(16, axis=0).repeat(16, axis=1)[:size, :size]


def coloured(rng: np.random.Generator, mask: np.ndarray, bands: int = 3) -> np.ndarray:
    """An image whose brightness follows the mask, so that a model can learn it."""
    return np.clip(mask[None] * 60 + rng.normal(40, 8, (bands, *mask.shape)), 0, 255).astype(np.uint8)


def compose(overrides: list[str]) -> Any:
    """The root config as `train.py` composes it."""
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", overrides=overrides)


def open_files(folder: Path) -> list[str]:
    """The files below a folder that this process holds open, also removed ones; none where there is no /proc."""
    found = []
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # it was open to list the others
            found.append(os.readlink(link))
    return [path for path in found if path.startswith(f"{folder}/")]


@contextmanager
def power_cut(step: int) -> Iterator[None]:
    """Let training fail at a step, as if the machine went off; the failure ends here."""
    train = SegmentationModule.training_step

    def fail(self: SegmentationModule, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == step:
            raise RuntimeError("power cut")
        return train(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            yield


def map_scene(run: Path, scene: Path, out: Path | None = None, **options: Any) -> Path:
    """Map a scene with a run, as ``rsseg predict`` does."""
    from rsseg.inference.options import MapOptions
    from rsseg.prediction import predict

    return predict([run], str(scene), out, MapOptions(**options))[0]
