"""Devices: choice, precision and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rsseg.contract import InputError


def choose_accelerator(name: str) -> str:
    """Lightning's accelerator for a name: "gpu" is the available GPU (NVIDIA, AMD or Apple), "auto" that or the CPU."""
    from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

    found = "mps" if MPSAccelerator.is_available() else "cuda" if CUDAAccelerator.is_available() else None
    if name == "auto":
        return found or "cpu"
    if name in ("gpu", "cuda", "mps") and (found is None or name not in ("gpu", found)):
        there = f"there is {found}" if found else "no GPU is found"
        raise InputError(f"trainer.accelerator={name}, but {there}: take trainer=cpu, or auto for whatever there is")
    return found if name == "gpu" and found else name


def scoring_accelerator(name: str) -> str:
    """Like `choose_accelerator`, but if that is missing, any available device: weights can be scored on all."""
    try:
        return choose_accelerator(name)
    except InputError:
        return choose_accelerator("auto")


def choose_precision(precision: str | int, accelerator: str) -> Any:
    """Lightning's precision: "auto" is bf16-mixed if the hardware multiplies in bf16, else 16-mixed on CUDA, else 32-true.

    Args:
        precision: The setting in the config.
        accelerator: The result of `choose_accelerator`.
    """
    if precision != "auto":
        return precision
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator != "cpu":
        return "32-true"
    has = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bf16-mixed" if any(check is not None and check() for check in has) else "32-true"


def device_faults(trainer: Mapping[str, Any], on_device: bool, batch_size: int) -> list[str]:
    """The faults of the devices that a config asks for, which may be missing or lack a feature; no data are read.

    Args:
        trainer: The config's node ``trainer``.
        on_device: Whether decoded scenes are kept on the device.
        batch_size: The number of windows per batch of all devices together.
    """
    name, precision = str(trainer.get("accelerator", "auto")), str(trainer.get("precision", "auto"))
    try:
        accelerator = choose_accelerator(name)
    except InputError as error:
        return [str(error)]
    found = []
    if accelerator == "cpu" and precision in ("16-mixed", "16", "16-true"):
        found.append(f"trainer.precision={precision}: a CPU has no fast float16; take bf16-mixed, 32-true or auto")
    if accelerator == "mps" and precision.startswith("64"):
        found.append(f"trainer.precision={precision}: Apple's GPUs have no float64; take 32-true, or trainer=cpu")
    if on_device and accelerator == "mps":
        found.append("cache=gpu: Apple's GPUs share the machine's memory; take cache=ram")
    if on_device and accelerator == "cpu" and name == "auto":
        found.append("cache=gpu, but no GPU is found: take cache=ram, or disk for scenes that memory does not hold")
    given = {key: trainer[key] for key in ("devices", "num_nodes", "strategy", "sync_batchnorm") if key in trainer}
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        made = L.Trainer(accelerator=accelerator, logger=False, enable_checkpointing=False, enable_progress_bar=False, **given)
        if batch_size % made.world_size:
            found.append(f"batch_size={batch_size} can't be shared evenly among {made.world_size} devices: take a multiple")
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        asked = ", ".join(f"trainer.{key}={value}" for key, value in given.items())
        found.append(f"{asked} on {accelerator}: {' '.join(str(error).split())}")
    return found


def exact_dtype(device: torch.device) -> torch.dtype:
    """The dtype of long sums on a device: float64, but float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
