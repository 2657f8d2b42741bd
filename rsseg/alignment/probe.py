"""Each term's gradient on a few fixed windows, taken without leaving a trace in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from rsseg.alignment.gradients import component_share, one_step_gain, term_gradients
from rsseg.collective import alone
from rsseg.contract import Batch, Layers, layers_of
from rsseg.metrics import Confusion, scores
from rsseg.module import SegmentationModule

STEP = 1e-2
"""The length of the step whose gain is measured, in the parameters' own units."""


def last_layer(network: nn.Module) -> nn.Module:
    """The last layer that has trainable parameters: all terms share it, being functions of its output.

    Example:
        >>> last_layer(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.ReLU()))
        Linear(in_features=3, out_features=1, bias=True)
    """
    return [layer for layer in network.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))][-1]


@contextmanager
def _graph_from(layer: nn.Module) -> Iterator[None]:
    """While this is open, autograd remembers a forward pass from a layer on: what comes before it takes no memory."""

    def remember(*_: Any) -> None:
        torch.set_grad_enabled(True)

    handle = layer.register_forward_pre_hook(remember)
    try:
        with torch.no_grad():
            yield
    finally:
        handle.remove()


def probe(
    trainer: L.Trainer, module: SegmentationModule, windows: Sequence[Batch], held_out: Sequence[Batch] = ()
) -> dict[str, dict[str, Tensor]]:
    """The gradients of every head's weighted terms, at the logits and at the last layer.

    The module is in evaluation mode and nothing is drawn at random; gradients are returned, not stored; parameters that
    were moved are put back: training goes on as if nothing had been. One process does this alone.

    Args:
        trainer: Of the run; its precision is used, but float32 in place of float16, whose small gradients are 0.
        module: In evaluation mode.
        windows: The windows as one batch, of stored pixels, not augmented.
        held_out: Windows on which the gain in mean IoU of one step down each term's gradient is measured, if any.

    Returns:
        By head: ``logits.norm`` and ``layer.norm`` ``[T]``, ``logits.cosine`` and ``layer.cosine`` ``[T, T]``, and ``gain``
        ``[T]``, NaN where the held-out windows hold no class.
    """
    precision = nullcontext() if trainer.precision == "16-mixed" else trainer.precision_plugin.forward_context()
    found: dict[str, dict[str, Tensor]] = {}
    with torch.inference_mode(False), torch.enable_grad(), alone():
        image, layers = _batch(module, windows)
        shared = last_layer(module.network)
        with precision, nullcontext() if held_out else _graph_from(shared):
            logits = module(image)
        for name, composite in module.losses.items():
            z = logits[name].float()
            at_logits = term_gradients(composite(z, layers["mask"], layers.get("weight")).weighted, z)
            pulled = partial(_pulled, z, at_logits)
            layer = torch.stack([torch.cat([g.flatten() for g in row]) for row in pulled(_trainable(shared))])
            shares = {"logits": component_share(at_logits), "layer": component_share(layer)}
            found[name] = {f"{place}.{key}": getattr(s, key) for place, s in shares.items() for key in ("norm", "cosine")}
            if held_out:
                moved = _trainable(module.network)
                metric = _iou(trainer, module, name, held_out)
                gains = [one_step_gain(moved, row, metric, STEP) for row in pulled(moved)]
                found[name]["gain"] = torch.tensor(gains, dtype=torch.float64)
    return {name: {key: value.detach().cpu() for key, value in values.items()} for name, values in found.items()}


def _batch(module: SegmentationModule, windows: Sequence[Batch]) -> tuple[Tensor, Layers]:
    image = module.normalise(torch.cat([window["image"] for window in windows]).to(module.device))
    parts = [layers_of(window) for window in windows]
    return image, {name: torch.cat([part[name] for part in parts]).to(module.device) for name in parts[0]}


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _pulled(z: Tensor, at_logits: Tensor, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """The terms' gradients at parameters, from those at the logits: the losses are not gone through again."""
    rows = []
    for gradient in at_logits:
        found = torch.autograd.grad(z, parameters, gradient.view_as(z), retain_graph=True, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])
    return rows


def _iou(trainer: L.Trainer, module: SegmentationModule, name: str, windows: Sequence[Batch]) -> Callable[[], float]:
    """The mean IoU of a head on windows, at the parameters as they are when it is called."""
    image, layers = _batch(module, windows)
    scene: Any = torch.zeros(len(windows), dtype=torch.int64, device=module.device)

    def metric() -> float:
        confusion = Confusion(module.tasks[name], scenes=1).to(module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            confusion.update(module(image)[name], layers["mask"], scene)
        return scores(confusion.counts, module.tasks[name]).iou  # its `compute` would wait for the other processes

    return metric
