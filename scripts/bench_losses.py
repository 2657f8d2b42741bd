"""The losses against their peers, for scripts/bench.py."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.losses import Composite, CrossEntropy, Dice, Focal, Lovasz, Tversky

SHAPES = [(8, 2, 256, 256), (4, 7, 512, 512), (2, 21, 512, 512)]
TASK = "multiclass"
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits, and the target as int64 and uint8."""


@dataclass
class Arguments:
    """Forward and backward of compositions of losses, as multiples of torch's cross-entropy alone.

    rounds=N      how often each is measured, all of them in turn (15); the median and, in brackets, the minimum are printed
    threads=N     PyTorch's threads (2)
    busy=N        processes that each keep a core busy meanwhile (0)
    peers=no      leave out smp, kornia and MONAI
    compile=no    leave out torch.compile, which takes a minute and a C++ compiler
    """

    rounds: int = 15
    threads: int = 2
    busy: int = 0
    peers: bool = True
    compile: bool = True


def scene(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Labels in patches of 16 pixels, as masks have them, and logits that favour them."""
    images, classes, height, width = shape
    torch.manual_seed(0)
    label = torch.randint(0, classes, (images, height // 16, width // 16))
    label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return torch.randn(shape) + 2 * F.one_hot(label, classes).movedim(-1, 1), label


def ours() -> dict[str, Loss]:
    """The compositions of rsseg."""
    ce, dice, focal, tversky = CrossEntropy(TASK), Dice(TASK), Focal(TASK), Tversky(TASK, 0.3, 0.7)
    four = {"ce": (1.0, ce), "dice": (1.0, dice), "focal": (1.0, focal), "tversky": (1.0, tversky)}
    made = {
        "ce": Composite({"ce": (1.0, ce)}),
        "ce + dice": Composite({"ce": (1.0, ce), "dice": (1.0, dice)}),
        "ce + dice + focal + tversky": Composite(four),
        "the four + lovasz, 512 bins": Composite({**four, "lovasz": (1.0, Lovasz(TASK, bins=512))}),
        "the four + lovasz, exact": Composite({**four, "lovasz": (1.0, Lovasz(TASK))}),
        "lovasz, exact": Composite({"lovasz": (1.0, Lovasz(TASK))}),
    }
    return {f"rsseg: {name}": lambda x, _, small, loss=loss: loss(x, small).total for name, loss in made.items()}


def of_smp(compiled: bool) -> dict[str, Loss]:
    """Sums of segmentation_models_pytorch's losses."""
    import segmentation_models_pytorch.losses as smp

    ce, dice, focal = smp.SoftCrossEntropyLoss(smooth_factor=0.0), smp.DiceLoss(TASK), smp.FocalLoss(TASK)
    tversky, lovasz = smp.TverskyLoss(TASK, alpha=0.3, beta=0.7), smp.LovaszLoss(TASK)

    def total(*terms: Callable[[Tensor, Tensor], Tensor]) -> Loss:
        return lambda x, label, _: sum(term(x, label) for term in terms)

    found = {
        "smp: ce + dice": total(ce, dice),
        "smp: ce + dice + focal + tversky": total(ce, dice, focal, tversky),
        "smp: the four + lovasz": total(ce, dice, focal, tversky, lovasz),
        "smp: lovasz": total(lovasz),
    }
    if compiled:
        found["smp, torch.compile: the four"] = torch.compile(total(ce, dice, focal, tversky), dynamic=False)
    return found


def of_kornia() -> dict[str, Loss]:
    """Sums of kornia's losses."""
    from kornia.losses import DiceLoss, FocalLoss, TverskyLoss

    terms = [DiceLoss(), FocalLoss(alpha=None, reduction="mean"), TverskyLoss(0.3, 0.7)]
    return {"kornia: torch's ce + dice + focal + tversky": lambda x, y, _: F.cross_entropy(x, y) + sum(t(x, y) for t in terms)}


def of_monai() -> dict[str, Loss]:
    """Sums of MONAI's losses; its focal is a sigmoid's unless told."""
    from monai.losses import DiceLoss, FocalLoss, TverskyLoss

    terms = [
        DiceLoss(to_onehot_y=True, softmax=True, batch=True),
        FocalLoss(to_onehot_y=True, use_softmax=True),
        TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7, batch=True),
    ]
    return {
        "monai: torch's ce + dice + focal + tversky": lambda x, y, _: (
            F.cross_entropy(x, y) + sum(t(x, y.unsqueeze(1)) for t in terms)
        )
    }


def losses(arguments: Arguments) -> dict[str, Loss]:
    """Everything that is measured, by name; what cannot be imported is said."""
    found: dict[str, Loss] = {"torch: ce": lambda x, label, _: F.cross_entropy(x, label), **ours()}
    if arguments.peers:
        for name, peer in {
            "smp": lambda: of_smp(arguments.compile),
            "kornia": of_kornia,
            "monai": of_monai,
        }.items():
            try:
                found |= peer()
            except ImportError:
                print(f"{name} is not installed: left out")
    return found


def step(loss: Loss, x: Tensor, label: Tensor, small: Tensor) -> float:
    """The seconds that one forward and backward takes."""
    x.grad = None
    begin = time.perf_counter()
    loss(x, label, small).backward()
    return time.perf_counter() - begin


def measure(shape: tuple[int, ...], arguments: Arguments) -> None:
    """Print a table for one shape."""
    x, label = scene(shape)
    x.requires_grad_()
    small, compared = label.to(torch.uint8), losses(arguments)
    times: dict[str, list[float]] = {name: [] for name in compared}
    for loss in compared.values():
        step(loss, x, label, small)
    for _ in range(arguments.rounds):
        for name, loss in compared.items():
            step(loss, x, label, small)  # what another loss has left of caches and free memory is not measured
            times[name].append(step(loss, x, label, small))
    base = times["torch: ce"]
    print(f"\n{shape}: torch's cross-entropy {1e3 * median(base):.1f} ms ({1e3 * min(base):.1f})")
    print(f"{'':48}{'ms':>8}{'x torch ce':>16}{'peak memory, x logits':>24}")
    for name, taken in times.items():
        ratio = f"{median(taken) / median(base):.2f} ({min(taken) / min(base):.2f})"
        print(f"{name:48}{1e3 * median(taken):>8.1f}{ratio:>16}{_peak(name, shape, arguments):>24}")


PEAK = """
import resource, sys, torch
sys.path.insert(0, {folder!r})
from bench_losses import Arguments, losses, scene, step
torch.set_num_threads({threads})
loss = losses(Arguments(compile=False))[{name!r}]
x, label = scene((16, {classes}, 64, 64))  # libraries and threads set themselves up
step(loss, x.requires_grad_(), label, label.byte())
x, label = scene({shape})
x, small = x.requires_grad_(), label.to(torch.uint8)
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
before = status("VmRSS")
step(loss, x, label, small)
print((status("VmHWM") - before) / (x.numel() * 4))
"""


def _peak(name: str, shape: tuple[int, ...], arguments: Arguments) -> str:
    """What a fresh process's resident memory grows by in one forward and backward, the gradient included."""
    if "compile" in name or platform.system() != "Linux":
        return "-"
    code = PEAK.format(folder=sys.path[0], threads=arguments.threads, name=name, classes=shape[1], shape=shape)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return f"{float(done.stdout.split()[-1]):.1f}" if done.returncode == 0 else "failed"


def main(arguments: Arguments) -> None:
    """Measure all shapes."""
    torch.set_num_threads(arguments.threads)
    packages = ("torch", "segmentation-models-pytorch", "kornia")
    print(", ".join(f"{name} {version(name)}" for name in packages), f"on {platform.machine()}, {arguments.threads} threads")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.busy)]
    try:
        for shape in SHAPES:
            measure(shape, arguments)
    finally:
        for process in busy:
            process.kill()
