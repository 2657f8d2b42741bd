"""What every test shares: one thread, and tiny datasets that it writes itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import checker, coloured, write_tif


def pytest_sessionstart(session: pytest.Session) -> None:
    """One thread: many small operations are slower with several, most of all beside another process."""
    torch.set_num_threads(1)


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
