"""Further processes that run the same command, each on a device of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rsseg.contract import InputError


@contextmanager
def start_others(number: int) -> Iterator[None]:
    """Run this process's command in further processes until the block ends and they do.

    Process i sees the i-th of this process's GPUs alone, this one the first. They share the scenes by locks.

    Args:
        number: Of all processes; 1: no further ones.

    Raises:
        InputError: If one of them fails, or there are fewer GPUs.
    """
    import torch

    if number < 1:
        raise InputError(f"devices={number}: 1 or more is expected")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if torch.cuda.is_available() else []
    if gpus == [""]:
        gpus = [str(i) for i in range(torch.cuda.device_count())]
    if gpus and number > len(gpus):
        raise InputError(f"devices={number}: this machine has {len(gpus)} GPUs")
    words = [word for word in sys.argv if not word.startswith("devices=")]
    threads = {} if gpus else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // number))}
    others = [
        subprocess.Popen([sys.executable, *words], env={**os.environ, **threads, **_only(gpus[i : i + 1])})
        for i in range(1, number)
    ]
    try:
        yield
    except BaseException:
        for other in others:
            other.terminate()
        raise
    finally:
        codes = [other.wait() for other in others]
    if any(codes):
        raise InputError(f"{sum(map(bool, codes))} of {number} processes failed: see what they said above")


def _only(gpus: list[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpus[0]} if gpus else {}
