"""The losses on a GPU: python scripts/bench.py losses device=cuda"""

from collections.abc import Callable
from statistics import median
from typing import Protocol

import torch
from bench_losses import TASK, Loss, of_smp
from torch import Tensor
from torch.nn import functional as F

from rsseg.contract import InputError
from rsseg.losses import Composite, CrossEntropy, Dice, Focal, Lovasz, Tversky

IMAGES, SIZE, CLASSES = 16, 512, (2, 7, 21)


class Arguments(Protocol):
    """What `bench.Arguments` says about a GPU."""

    rounds: str
    peers: str
    compile: str
    device: str


def main(arguments: Arguments) -> None:
    """Print a table for 2, 7 and 21 classes."""
    if arguments.device != "cuda" or not torch.cuda.is_available():
        raise InputError("device is cpu or cuda, and cuda needs a GPU that PyTorch can use: torch.cuda.is_available() is False")
    card = torch.cuda.get_device_properties(0)
    speed = copy_speed()
    print(f"torch {torch.__version__} on {card.name}; a copy moves {speed / 1e9:.0f} GB/s, read and written")
    for classes in CLASSES:
        measure(classes, speed, arguments)


def floor_bytes(classes: int) -> int:
    """What has to move: bf16 logits twice and their gradient once, the uint8 target twice; 184,549,376 for 7 classes."""
    return IMAGES * SIZE**2 * (3 * 2 * classes + 2)


def copy_speed() -> float:
    """Bytes per second, both ways counted, of copies far larger than the cache: the best median of five."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return max(2 * source.numel() / median(timed(lambda: target.copy_(source)) for _ in range(11)) for _ in range(5))


def timed(call: Callable[[], object]) -> float:
    """The seconds from the first kernel of a call to the end of its last."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def scene(classes: int) -> tuple[Tensor, Tensor]:
    """Labels in patches of 16 pixels, as masks have them, and logits that favour them."""
    g = torch.Generator("cuda").manual_seed(0)
    label = torch.randint(0, classes, (IMAGES, SIZE // 16, SIZE // 16), generator=g, device="cuda")
    label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
    x = torch.randn(IMAGES, classes, SIZE, SIZE, generator=g, device="cuda", dtype=torch.bfloat16)
    for c in range(classes):
        x[:, c] += 2 * (label == c)
    return x.requires_grad_(), label


def losses(arguments: Arguments) -> dict[str, Loss]:
    """Everything that is measured, by name; what cannot be imported is said."""
    ce, dice, focal, tversky = CrossEntropy(TASK), Dice(TASK), Focal(TASK), Tversky(TASK, 0.3, 0.7)
    four = {"ce": (1.0, ce), "dice": (1.0, dice), "focal": (1.0, focal), "tversky": (1.0, tversky)}
    five = {**four, "lovasz": (1.0, Lovasz(TASK, bins=512))}
    found: dict[str, Loss] = {"torch: ce": lambda x, label, _: F.cross_entropy(x, label)}
    for name, terms in {"the four": four, "the four + lovasz, 512 levels": five}.items():
        fused, plain = Composite(terms), Composite(terms, backend="reference")
        found[f"rsseg: {name}"] = lambda x, _, small, loss=fused: loss(x, small).total
        found[f"rsseg: {name}, in a CUDA graph"] = found[f"rsseg: {name}"]
        found[f"rsseg, reference: {name}"] = lambda x, _, small, loss=plain: loss(x, small).total
        if arguments.compile == "yes":
            found[f"rsseg, torch.compile of the reference: {name}"] = torch.compile(
                found[f"rsseg, reference: {name}"], dynamic=False
            )
    if arguments.peers == "yes":
        try:
            of_peer = of_smp(arguments.compile == "yes")
            found |= {name: loss for name, loss in of_peer.items() if "lovasz" not in name}  # which fails on bf16
        except ImportError:
            print("smp is not installed: left out")
    return found


def measure(classes: int, speed: float, arguments: Arguments) -> None:
    """Print the table of one number of classes."""
    torch.compiler.reset()
    x, label = scene(classes)
    small = label.to(torch.uint8)
    steps: dict[str, Callable[[], object]] = {}
    columns: dict[str, str] = {}
    for name, loss in losses(arguments).items():
        steps[name], columns[name] = prepared(name, loss, x, label, small)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(int(arguments.rounds)):
        for name, step in steps.items():
            x.grad = None
            times[name].append(timed(step))
    floor = floor_bytes(classes) / speed
    print(f"\n({IMAGES}, {classes}, {SIZE}, {SIZE}): {floor_bytes(classes) / 1e6:.0f} MB at least, {1e3 * floor:.3f} ms")
    print(f"{'':62}{'ms':>10}{'x floor':>18}{'peak, x logits':>16}{'same bits':>11}")
    for name, taken in times.items():
        ratio = f"{median(taken) / floor:.2f} ({min(taken) / floor:.2f})"
        print(f"{name:62}{1e3 * median(taken):>10.3f}{ratio:>18}{columns[name]}")


def prepared(name: str, loss: Loss, x: Tensor, label: Tensor, small: Tensor) -> tuple[Callable[[], object], str]:
    """A step to be timed, warmed up, and its columns: memory beyond the logits, and whether two runs give the same bits."""

    def step() -> Tensor:
        x.grad = None
        value = loss(x, label, small)
        value.backward()
        return value.detach()

    for _ in range(5):
        step()
    values, gradients = zip(*((step(), x.grad.clone()) for _ in range(2)), strict=True)
    same = torch.equal(*values) and torch.equal(*gradients)
    del gradients
    x.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    peak = (torch.cuda.max_memory_allocated() - before) / (x.numel() * x.element_size())
    columns = f"{peak:>16.1f}{'yes' if same else 'no':>11}"
    return (captured(step) if name.endswith("in a CUDA graph") else step), columns


def captured(step: Callable[[], Tensor]) -> Callable[[], object]:
    """The step as a CUDA graph: what the card takes without waiting for the launches of many small kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
