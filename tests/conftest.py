"""What every test shares: one thread, and tiny datasets that it writes itself."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin


def pytest_sessionstart(session: pytest.Session) -> None:
    """One thread: many small operations are slower with several, most of all beside another process."""
    torch.set_num_threads(1)


def write_tif(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write ``[bands, H, W]`` as a georeferenced GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    place = {"crs": "EPSG:32633", "transform": from_origin(500000, 4000000, 0.5, 0.5)}
    with rasterio.open(path, "w", **{**profile, **place, **options}) as file:
        file.write(pixels)
    return path


def checker(rng: np.random.Generator, size: int, labels: int) -> np.ndarray:
    """A mask of blocks of 16 pixels."""
    blocks = rng.integers(0, labels, (size // 16 + 1, size // 16 + 1), dtype=np.uint8)
    return blocks.repeat(16, axis=0).repeat(16, axis=1)[:size, :size]


def coloured(rng: np.random.Generator, mask: np.ndarray, bands: int = 3) -> np.ndarray:
    """An image whose brightness follows the mask, so that a model can learn it."""
    return np.clip(mask[None] * 60 + rng.normal(40, 8, (bands, *mask.shape)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def folder_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes of 80 x 96 pixels with three classes and some ignored pixels."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for i in range(6):
        mask = checker(rng, 96, 3)[:80]
        image = coloured(rng, mask)
        mask[:4, :4] = 255
        write_tif(root / "images" / f"tile{i}_a.tif", image)
        write_tif(root / "masks" / f"tile{i}_a.tif", mask[None])
    return root


@pytest.fixture(scope="session")
def inria_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inria's layout below a path with digits: two cities of three tiles; tiles 1 to 5 validate."""
    root, rng = tmp_path_factory.mktemp("disk1") / "set2", np.random.default_rng(1)
    for city in ("austin", "west-tyrol-w"):
        for number in (1, 5, 6, 36):
            mask = checker(rng, 96, 2)
            write_tif(root / "AerialImageDataset/train/images" / f"{city}{number}.tif", coloured(rng, mask))
            write_tif(root / "AerialImageDataset/train/gt" / f"{city}{number}.tif", mask[None] * np.uint8(255))
        write_tif(root / "AerialImageDataset/test/images" / f"{city}40.tif", coloured(rng, checker(rng, 96, 2)))
    return root


CONFIGS = Path(__file__).parent.parent / "configs"


def compose(overrides: list[str]):
    """The root config as `train.py` composes it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from rsseg.config.schema import register

    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", overrides=overrides)
