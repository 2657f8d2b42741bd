"""What every test shares: one thread, and tiny datasets that it writes itself."""

import gc
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from hypothesis import settings
from tiny import checker, coloured, write_tif

from rsseg.quiet import warn_once

settings.register_profile("rsseg", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("rsseg")


def pytest_sessionstart(session: pytest.Session) -> None:
    """One thread: many small operations are slower with several, most of all beside another process."""
    torch.set_num_threads(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What collection made stays to the end: the garbage collector leaves it alone."""
    gc.freeze()


@pytest.fixture(autouse=True)
def warned_again() -> None:
    """Every test sees the warnings that a process logs once."""
    warn_once.cache_clear()


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
    """Inria's layout below a path with digits: two cities of four tiles, of which 1 and 5 validate."""
    return layouts.write(tmp_path_factory.mktemp("inria"), "inria", seed=1)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave out the charts of their scores, which take as long as a tiny training."""
    monkeypatch.setattr("rsseg.training.trainer.draw_confusion", lambda *_: None)
    monkeypatch.setattr("rsseg.training.trainer.draw_curves", lambda *_: None)


@pytest.fixture
def quick_runs(no_charts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave out charts, and the fit of scalings, which takes a third of a tiny training: for tests of other parts."""
    monkeypatch.setattr("rsseg.training.crossing.scaling_facts", lambda *_: {})
