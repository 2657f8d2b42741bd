"""What every test shares."""

import pytest
import torch


def pytest_sessionstart(session: pytest.Session) -> None:
    """One thread: many small operations are slower with several, most of all beside another process."""
    torch.set_num_threads(1)
