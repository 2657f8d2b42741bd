"""Gradients of a loss's terms: their norms, rather than the terms' values, show which term dominates.

Gradients are computed on a few fixed windows, without any effect on the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from rsseg.collective import alone
from rsseg.contract import Batch, Layers, layers_of
from rsseg.devices import exact_dtype
from rsseg.losses.balancing import term_gradients
from rsseg.metrics.counters import SCENE_SUMS, score_scenes
from rsseg.models import Network
from rsseg.module import SegmentationModule

STEP = 1e-2
"""The length of the step whose gain is measured, in the parameters' own units."""


def norms_and_cosines(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The norms ``[terms]`` and cosines ``[terms, terms]`` of gradients ``[terms, N]``; cosines are NaN if a gradient is 0.

    Example:
        >>> norms, cosines = norms_and_cosines(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> norms.tolist(), cosines[0, 1].item()
        ([3.0, 1.0], 0.0)
    """
    g = gradients.to(exact_dtype(gradients.device))
    norm = g.norm(dim=1)
    unit = g / torch.where(norm > 0, norm, torch.full_like(norm, torch.nan)).unsqueeze(1)
    return norm, unit @ unit.T


def one_step_gain(
    parameters: Sequence[Tensor], gradient: Sequence[Tensor], metric: Callable[[], float], step: float = STEP
) -> float:
    """The gain of a hard metric per unit of step length down a gradient: ``(M(theta - step g / ||g||) - M(theta)) / step``.

    Parameters are restored exactly, even if the metric raises. The gain of a zero gradient is 0.

    Example:
        >>> theta = torch.tensor([2.0])
        >>> one_step_gain([theta], [torch.tensor([5.0])], lambda: -float(theta), step=0.5)
        1.0
    """
    norm = float(torch.stack([g.to(exact_dtype(g.device)).square().sum() for g in gradient]).sum().sqrt())
    before = metric()
    if norm == 0:
        return 0.0
    kept = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, g in zip(parameters, gradient, strict=True):
                p.sub_(g * (step / norm))
        return (metric() - before) / step
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)


def probe(
    trainer: L.Trainer, module: SegmentationModule, windows: Sequence[Batch], held_out: Sequence[Batch] = ()
) -> dict[str, dict[str, Tensor]]:
    """Norms and cosines of the gradients of every head's weighted terms, at the logits and at the last layer that they share.

    Training is not affected: nothing is drawn at random, gradients are not stored in parameters, and parameters that were
    moved are restored. Only one process may call this.

    Args:
        trainer: The run's trainer; its precision is used, but float32 instead of float16, whose small gradients become 0.
        module: The module, in evaluation mode.
        windows: The windows, which are concatenated into one batch.
        held_out: Windows on which the gain of one step down each term's gradient is measured in `Task.quality`; may be empty.

    Returns:
        By head: ``logits.norm`` and ``layer.norm`` ``[T]``, ``logits.cosine`` and ``layer.cosine`` ``[T, T]``, and ``gain``
        ``[T]`` with `held_out`, NaN if these windows have no score.
    """
    precision = nullcontext() if trainer.precision == "16-mixed" else trainer.precision_plugin.forward_context()
    found: dict[str, dict[str, Tensor]] = {}
    pulled: dict[str, list[list[Tensor]]] = {}
    with torch.inference_mode(False), torch.enable_grad(), alone():
        image, layers = _batch(module, windows)
        with precision:
            logits = module(image)
        for name, composite in module.losses.items():
            z = logits[name].float()
            weighted = composite(z, layers[module.tasks[name].target], layers.get("weight")).weighted
            at_logits = term_gradients(module.balancing.scaled(name, weighted), z)
            at_layer = torch.stack(
                [torch.cat([g.flatten() for g in row]) for row in _pulled(z, at_logits, _last_layer(module.network, name))]
            )
            values = found[name] = {}
            for place, gradients in (("logits", at_logits), ("layer", at_layer)):
                values[f"{place}.norm"], values[f"{place}.cosine"] = norms_and_cosines(gradients)
            pulled[name] = _pulled(z, at_logits, module.network) if held_out else []
        for name in module.losses if held_out else ():  # last, since moving parameters in place breaks the graphs
            metric, moved = _quality(trainer, module, name, held_out), _trainable(module.network)
            gains = [one_step_gain(moved, row, metric, STEP) for row in pulled[name]]
            found[name]["gain"] = torch.tensor(gains, dtype=torch.float64)
    return {name: {key: value.detach().cpu() for key, value in values.items()} for name, values in found.items()}


def _batch(module: SegmentationModule, windows: Sequence[Batch]) -> tuple[Tensor, Layers]:
    image = module.normalise(torch.cat([window["image"] for window in windows]).to(module.device))
    parts = [module.standardised(layers_of(window)) for window in windows]
    return image, {name: torch.cat([part[name] for part in parts]).to(module.device) for name in parts[0]}


def _last_layer(network: nn.Module, head: str) -> nn.Module:
    """The last layer before a head's logits that has trainable parameters."""
    branch = network.branch(head) if isinstance(network, Network) else network
    return [layer for layer in branch.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))][-1]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _pulled(z: Tensor, at_logits: Tensor, module: nn.Module) -> list[list[Tensor]]:
    """The terms' gradients at a module's parameters, backpropagated from those at the logits without the losses."""
    parameters, rows = _trainable(module), []
    for gradient in at_logits:
        found = torch.autograd.grad(z, parameters, gradient.view_as(z), retain_graph=True, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])
    return rows


def _quality(trainer: L.Trainer, module: SegmentationModule, name: str, windows: Sequence[Batch]) -> Callable[[], float]:
    """A function that returns a head's `Task.quality` on windows, at the parameters of the time of the call."""
    task = module.tasks[name]
    image, layers = _batch(module, windows)
    scene: Any = torch.zeros(len(windows), dtype=torch.int64, device=module.device)

    def metric() -> float:
        sums = SCENE_SUMS[task.counted](task, scenes=1).to(module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            sums.update(module(image)[name], layers[task.target], scene)
        sums.distributed_available_fn = lambda: False  # the other processes wait
        return task.quality(score_scenes(sums, task, module.without[name]).means())

    return metric
