"""The losses on a GPU, for scripts/bench.py: are they exact, what do they launch, and what do they take?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bench_losses import Case, cases, compiled, passes, scene
from bench_measure import Jobs, Row, interleaved, judged, peak_bytes, synchronize
from omegaconf import OmegaConf
from torch import Tensor, nn

from rsseg.config.build import TERM, build, locate
from rsseg.contract import IGNORE
from rsseg.data.boxes import Boxes
from rsseg.losses.class_weights import counted_weights
from rsseg.task import Centres, Task, make_task

if TYPE_CHECKING:
    from bench_gpu import Arguments

TERMS = Path(__file__).parents[1] / "configs" / "loss" / "term"
KERNELS = 40
"""How many kernels four terms may launch in a forward pass, and in a backward pass."""

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""How far a loss and its gradient may be from those in float64, relative to them: little more than the dtypes round."""


def exactness(arguments: Arguments) -> Jobs:
    """A job for every term that has a config."""
    device = torch.device(arguments.device)
    return {path.stem: partial(exact, path, device) for path in sorted(TERMS.glob("*.yaml"))}


def exact(path: Path, device: torch.device) -> Row:
    """For each dtype the largest relative error of a term's value and gradient, over the tasks that it fits."""
    node: Any = OmegaConf.to_container(OmegaConf.load(path))
    node.pop("weight", None)
    cells = []
    for dtype, tolerance in TOLERANCES.items():
        worst = 0.0
        for kind in locate(node["_target_"], path.stem, TERM).tasks:
            task = make_task(kind, ("a",) if kind == "binary" else ("a", "b", "c"))
            counts = SimpleNamespace(positives=list(range(1, task.channels + 1)), valid=[6] * task.channels)
            term = build(counted_weights(node, path.stem, task, counts), path.stem, TERM, task=kind)
            logits, target = random_batch(task)
            logits = logits.to(dtype)
            found = value_and_gradient(term, logits.to(device), target.to(device))
            right = value_and_gradient(term, logits.double(), target)
            worst = max(worst, *(relative_error(x, y) for x, y in zip(found, right, strict=True)))
        cells.append(judged(worst, tolerance, ".0e"))
    return cells


def random_batch(task: Task) -> tuple[Tensor, Tensor]:
    """Logits and a target whose first rows are ignored."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, task.outputs, 64, 64)
    if task.real:
        target = torch.randn(logits.shape)
        if isinstance(task, Centres):
            boxes = np.array([[1, 10.0, 10.0, 20.0, 24.0], [1, 40.0, 30.0, 50.0, 44.0]])  # class, top, left, bottom, right
            layer = torch.from_numpy(Boxes(task).draw(boxes, (64, 64)))
            target = task.standardise(layer.expand(2, *layer.shape)).clone()
        target[..., :8, :] = torch.nan
        return logits, target
    target = torch.randint(0, task.channels if task.exclusive else 2, (2, *task.planes, 64, 64), dtype=torch.uint8)
    target[..., :8, :] = IGNORE
    return logits, target


def value_and_gradient(term: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """In float64 on the CPU. The loss is scaled as a gradient scaler would, so that float16 holds the gradient of a pixel."""
    leaf = logits.clone().requires_grad_()
    value = term.to(logits.device)(leaf, target)
    (1024 * value).backward()
    return value.detach().double().cpu(), leaf.grad.double().cpu()


def relative_error(found: Tensor, right: Tensor) -> float:
    """The norm of the difference by the norm of what is right; infinite for NaN."""
    error = float((found - right).norm() / right.norm().clamp(min=1e-12))
    return error if error == error else float("inf")


def launches(arguments: Arguments) -> Jobs:
    """A job for every composition of rsseg."""
    return {name: partial(count_launches, name, arguments) for name in cases(["rsseg"])}


def count_launches(name: str, arguments: Arguments) -> Row:
    """The kernels of a forward and of a backward pass in steady training, and how often the host waits for the device."""
    device = torch.device(arguments.device)
    case = cases(["rsseg"])[name]
    x, label = scene((arguments.batch, 7, arguments.side, arguments.side), device)
    step = passes({name: case}, x.requires_grad_(), label)[name]
    for _ in range(3):
        step()  # the first calls look at the labels
    waits = count_waits(step, device)
    x.grad, values, target = None, [], label.to(case.target)
    forward = count_kernels(lambda: values.append(case.loss(x, target)), device)
    backward = count_kernels(lambda: values.pop().backward(), device)
    limit = KERNELS if name == "rsseg: four" else None
    return [judged(forward, limit, "d"), judged(backward, limit, "d"), waits]


def count_kernels(call: Callable[[], object], device: torch.device) -> int:
    """What a call makes the device do; on a CPU, the operations of torch."""
    kind = torch.autograd.DeviceType.CUDA if device.type == "cuda" else torch.autograd.DeviceType.CPU
    with torch.profiler.profile() as profiler:
        call()
        synchronize(device)
    count = sum(event.device_type == kind for event in profiler.events())
    if not count:
        raise RuntimeError("torch's profiler sees no kernels here: is CUPTI installed?")
    return count


def count_waits(call: Callable[[], object], device: torch.device) -> str:
    """How often a call waits for the device."""
    if device.type != "cuda":
        return "not known"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
            torch.ones((), device=device).item()  # one wait that is known: without it 0 could mean that none are seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
    seen = sum("called a synchronizing" in str(warning.message) for warning in said)
    if not seen:
        raise RuntimeError("torch does not tell of waits here")
    return judged(seen - 1, 0, "d")


def loss_times(arguments: Arguments) -> Jobs:
    """A job for every composition, its peers in smp, classes and dtype."""
    return time_jobs(arguments, cases(["rsseg", "smp"]))


def compiled_times(arguments: Arguments) -> Jobs:
    """A job for rsseg's and smp's four by torch.compile."""
    return time_jobs(arguments, compiled(cases(["rsseg", "smp"])))


def time_jobs(arguments: Arguments, compared: Mapping[str, Case]) -> Jobs:
    """A job for every case, number of classes and dtype."""
    return {
        f"{classes} classes, {str(dtype).removeprefix('torch.')}: {name}": partial(time_loss, arguments, classes, dtype, case)
        for classes in (2, 7, 21)
        for dtype in (torch.float32, torch.bfloat16)
        for name, case in compared.items()
    }


def time_loss(arguments: Arguments, classes: int, dtype: torch.dtype, case: Case) -> Row:
    """Milliseconds of a forward and backward pass, beside the time to move the bytes that it cannot do without, and memory."""
    device = torch.device(arguments.device)
    x, label = scene((arguments.batch, classes, arguments.side, arguments.side), device)
    x = x.to(dtype).requires_grad_()
    call = passes({"": case}, x, label)[""]
    taken = interleaved({"": call}, arguments.rounds, device)[""]
    x.grad = None
    logits = x.numel() * x.element_size()
    floor = (3 * logits + 2 * label.numel()) / bandwidth(device)  # both passes read logits and target, one writes a gradient
    return [f"{1e3 * taken:.2f}", f"{taken / floor:.1f}", f"{peak_bytes(call, device) / logits:.1f}"]


@cache
def bandwidth(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes."""
    x = torch.ones(2**30 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() / interleaved({"copy": lambda: y.copy_(x)}, 10, device)["copy"]
