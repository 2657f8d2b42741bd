"""Training in several processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from rsseg.collective import global_sum
from rsseg.config.entry import ENTRY
from rsseg.config.naming import quoted
from rsseg.contract import InputError


def is_main() -> bool:
    """Whether this process writes files: it is the only one, or the first of several."""
    return not getattr(rank_zero_only, "rank", None)


@contextmanager
def launched(trainer: Any, folder: Path, trust: Sequence[str] = ()) -> Iterator[None]:
    """A context in which the processes that Lightning starts resume the run in a folder.

    Lightning would start them with this process's command line, which in a sweep would start the whole sweep. The environment
    is restored, since with Lightning's variables the sweep's next run would wait for processes that nobody starts. Processes
    that Lightning started end here, and the first one continues alone; this is also so after an error that all processes raise
    (`by_all`). `trust` are the packages that the user trusts on the command line.
    """
    if trainer.world_size == 1:
        yield
        return
    words = [ENTRY[1], "train", f"resume={quoted(str(folder.resolve()))}", *([f"trust=[{','.join(trust)}]"] if trust else [])]
    end: BaseException | None = None
    script = patch.object(sys.modules["__main__"], "__spec__", None)  # else Lightning would use ``python -m``
    with patch.dict(os.environ), patch.object(sys, "argv", words), script, _no_hydra():
        try:
            yield
        except BaseException as error:
            if not getattr(error, "by_all", False):  # other processes may never get here: don't wait
                raise
            end = error
    ours = isinstance(trainer.strategy.cluster_environment, LightningEnvironment)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    if ours and not trainer.is_global_zero:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # the interpreter's shutdown of gloo's threads sometimes aborts the process
    if end:
        raise end


class OneFolder(L.Callback):
    """Refuses to train when processes that another program started, such as torchrun, have run folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the run folder with that of the first process."""
        first = trainer.strategy.broadcast(self.folder)
        if first != self.folder:
            raise InputError(f"the processes of one run have different folders, such as {first}: give all hydra.run.dir=...")


@contextmanager
def _no_hydra() -> Iterator[None]:
    """Keep Lightning from adding Hydra's arguments to the command line, as it does in a job that Hydra started."""
    before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def global_batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Features ``[B, C, H, W]``, in training, normalised by the mean and variance of all processes' batches.

    See Ioffe & Szegedy 2015. The layer's running statistics are updated.
    """
    values = x.double() if x.dtype == torch.float64 else x.float()
    count = global_sum(values.new_tensor(x.numel() // x.shape[1]))
    mean = global_sum(values.sum((0, 2, 3))) / count
    centred = values - mean[:, None, None]
    variance = global_sum(centred.square().sum((0, 2, 3))) / count
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            norm.num_batches_tracked += 1  # type: ignore[operator, assignment]
            share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum  # type: ignore[arg-type]
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
            norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var.dtype), share)
    scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shifted = centred * scale[:, None, None]
    return (shifted if norm.bias is None else shifted + norm.bias[:, None, None]).to(x.dtype)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A batch normalisation over all processes, on devices that `torch.nn.SyncBatchNorm` does not know, such as a CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the parameter's name is torch's
        """Normalise with the statistics of all processes in training, with the running ones else."""
        return global_batch_norm(input, self) if self.training else super().forward(input)


class GlobalBatchNormAct2d(BatchNormAct2d):  # type: ignore[misc]
    """`GlobalBatchNorm2d` for timm's batch normalisation with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate."""
        return self.act(self.drop(global_batch_norm(x, self))) if self.training else super().forward(x)


SHARED = {
    "cpu": {nn.BatchNorm2d: GlobalBatchNorm2d, BatchNormAct2d: GlobalBatchNormAct2d},
    "cuda": {nn.BatchNorm2d: nn.SyncBatchNorm, BatchNormAct2d: SyncBatchNormAct},
}
"""The synchronised classes of batch normalisations: only `forward` differs, so that a layer can change its class."""


class SyncBatchNorm(TorchSyncBatchNorm):
    """Lightning's plugin for `sync_batchnorm`, also for CPUs; unlike the default, it keeps the activation of timm's layers."""

    def __init__(self, device: str) -> None:
        self.device = device  # "cpu" or "cuda"

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the batch normalisations of a model by synchronised ones."""
        return _recast(model, SHARED[self.device])

    def revert(self, model: nn.Module) -> nn.Module:
        """Restore the original batch normalisations."""
        return _recast(model, {shared: kind for kind, shared in SHARED[self.device].items()})


def _recast(model: nn.Module, classes: Mapping[type, type]) -> nn.Module:
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
            module.process_group = None  # type: ignore[assignment]  # torch's layer: all processes
    return model
