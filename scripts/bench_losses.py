"""The losses against their peers, for scripts/bench.py."""

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from bench_measure import CPU, Call, Row, fill, interleaved, judged, now, peak_bytes, seconds, table, versions
from torch import Tensor
from torch.nn import functional as F

from rsseg.devices import choose_precision
from rsseg.losses import Composite, CrossEntropy, Dice, Focal, Lovasz, Tversky

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits and target."""

SHAPES = [(8, 2, 256, 256), (4, 7, 512, 512), (2, 21, 512, 512)]
PACKAGES = ("torch", "segmentation-models-pytorch", "kornia", "monai")
TASK = "multiclass"
CE, FOUR = "torch: ce", ("ce", "dice", "focal", "tversky")
MEMORY, SHARE = 5.0, {2: 0.02, 7: 0.03, 21: 0.06}
"""What rsseg's losses may take at most: memory in multiples of the logits, and a share of a training step by classes."""


HEAD = ("ms", "x torch's CE", "of smp's time", "memory, x logits", "% of a step")


class Composition(NamedTuple):
    """Terms that are added up.

    Attributes:
        terms: Their names, in every library.
        limit: What rsseg's may cost at most, of smp's time; None: nothing is demanded of it.
    """

    terms: tuple[str, ...]
    limit: float | None = None


COMPOSITIONS = {
    "ce": Composition(("ce",)),
    "ce + dice": Composition(("ce", "dice"), 0.7),
    "four": Composition(FOUR, 0.5),
    "four + lovasz": Composition((*FOUR, "lovasz"), 0.2),
    "four + lovasz, exact": Composition((*FOUR, "exact lovasz")),
}
"""The four are CE, Dice, focal and Tversky. rsseg's Lovasz is binned in 512 levels; the peers' is exact."""


@dataclass
class Arguments:
    """Forward and backward of compositions of losses: time, memory, and their share of a U-Net's training step.

    rounds=N      how often each is measured, all of them in turn (5); medians are printed
    steps=N       training steps per shape (2); 0: none
    threads=N     PyTorch's threads (1)
    peers=no      leave out smp, kornia and MONAI (smp is what the limits are about)
    compile=yes   also each library's four by torch.compile, which takes minutes and a C++ compiler
    page=FILE     write the tables into this page too: docs/benchmarks.md
    """

    rounds: int = 5
    steps: int = 2
    threads: int = 1
    peers: bool = True
    compile: bool = False
    page: str | None = None


class Case(NamedTuple):
    """A loss that is measured, and the integers that it is given."""

    loss: Loss
    target: torch.dtype


def scene(shape: tuple[int, ...], device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Labels in patches of 16 pixels, as masks have them, and logits that favour them."""
    images, classes, height, width = shape
    torch.manual_seed(0)
    label = torch.randint(0, classes, (images, height // 16, width // 16), device=device)
    label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
    x = torch.randn(shape, device=device)
    return x.scatter_add_(1, label.unsqueeze(1), torch.full_like(x[:, :1], 2)), label


def of_rsseg() -> dict[str, Loss]:
    """The terms of rsseg."""
    terms = {"ce": CrossEntropy(TASK), "dice": Dice(TASK), "focal": Focal(TASK), "tversky": Tversky(TASK, 0.3, 0.7)}
    return {**terms, "lovasz": Lovasz(TASK, bins=512), "exact lovasz": Lovasz(TASK)}


def of_smp() -> dict[str, Loss]:
    """The terms of segmentation_models_pytorch; its focal is a sigmoid's."""
    import segmentation_models_pytorch.losses as smp

    return {
        "ce": smp.SoftCrossEntropyLoss(smooth_factor=0.0),
        "dice": smp.DiceLoss(TASK),
        "focal": smp.FocalLoss(TASK),
        "tversky": smp.TverskyLoss(TASK, alpha=0.3, beta=0.7),
        "lovasz": smp.LovaszLoss(TASK),
    }


def of_kornia() -> dict[str, Loss]:
    """The terms of kornia, which leaves cross-entropy to torch."""
    import kornia.losses as kornia

    return {
        "ce": F.cross_entropy,
        "dice": kornia.DiceLoss(),
        "focal": kornia.FocalLoss(alpha=None, reduction="mean"),
        "tversky": kornia.TverskyLoss(0.3, 0.7),
        "lovasz": kornia.LovaszSoftmaxLoss(),
    }


def of_monai() -> dict[str, Loss]:
    """The terms of MONAI, which leaves cross-entropy to torch and has no Lovasz."""
    import monai.losses as monai

    planes = {
        "dice": monai.DiceLoss(to_onehot_y=True, softmax=True, batch=True),
        "focal": monai.FocalLoss(to_onehot_y=True, use_softmax=True),
        "tversky": monai.TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7, batch=True),
    }
    return {"ce": F.cross_entropy} | {name: lambda x, y, term=term: term(x, y.unsqueeze(1)) for name, term in planes.items()}


def composed(terms: Mapping[str, Loss]) -> Loss:
    """Rsseg's composite of some terms."""
    composite = Composite({name: (1.0, term) for name, term in terms.items()})
    return lambda x, label: composite(x, label).total


def added(terms: Mapping[str, Loss]) -> Loss:
    """The plain sum of some terms."""
    return lambda x, label: sum(term(x, label) for term in terms.values())


LIBRARIES: dict[str, Callable[[], dict[str, Loss]]] = {
    "rsseg": of_rsseg,
    "smp": of_smp,
    "kornia": of_kornia,
    "MONAI": of_monai,
}


def cases(libraries: Iterable[str]) -> dict[str, Case]:
    """Everything that is measured, by library and composition; a library that cannot be imported is said."""
    found = {CE: Case(F.cross_entropy, torch.int64)}
    for library in libraries:
        try:
            terms = LIBRARIES[library]()
        except ImportError:
            print(f"{library} is not installed: left out", flush=True)
            continue
        join, target = (composed, torch.uint8) if library == "rsseg" else (added, torch.int64)
        for name, (chosen, _) in COMPOSITIONS.items():
            if terms.keys() >= set(chosen):
                found[f"{library}: {name}"] = Case(join({term: terms[term] for term in chosen}), target)
    return found


def compiled(found: Mapping[str, Case]) -> dict[str, Case]:
    """Each library's four by torch.compile."""
    return {
        f"{name}, compiled": Case(torch.compile(case.loss, dynamic=False), case.target)
        for name, case in found.items()
        if name.endswith(": four")
    }


def passes(compared: Mapping[str, Case], x: Tensor, label: Tensor) -> dict[str, Call]:
    """The forward and backward pass of each case; the gradient is left in the logits."""

    def make(loss: Loss, target: Tensor) -> Call:
        def call() -> None:
            x.grad = None
            loss(x, target).backward()

        return call

    targets = {dtype: label.to(dtype) for dtype in {case.target for case in compared.values()}}
    return {name: make(case.loss, targets[case.target]) for name, case in compared.items()}


def step_shares(shape: tuple[int, ...], compared: Mapping[str, Case], steps: int) -> dict[str, float]:
    """What share of a training step of a U-Net with a ResNet-18 each loss would have, forward and backward.

    Every step has one forward and backward pass of the network and one update, and in between, on the same logits, the
    passes of all losses in turn. The precision is the one that rsseg chooses on this machine.
    """
    import segmentation_models_pytorch as smp

    images, classes, height, width = shape
    network = smp.Unet("resnet18", encoder_weights=None, classes=classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    image = torch.randn(images, 3, height, width).contiguous(memory_format=torch.channels_last)
    label, half = scene(shape)[1], choose_precision("auto", "cpu") == "bf16-mixed"
    losses: dict[str, list[float]] = {name: [] for name in compared}
    rest = []
    for _ in range(steps + 1):
        begin = now()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(image)
        forward = now() - begin
        x = logits.detach().float().requires_grad_()  # smp's Lovasz loss fails on bfloat16
        for name, call in passes(compared, x, label).items():
            losses[name].append(seconds(call))
        begin = now()
        logits.backward(x.grad.to(logits.dtype))
        optimizer.step()
        optimizer.zero_grad()
        rest.append(forward + now() - begin)
    without = median(rest[1:])  # the first step sets libraries up
    return {name: (taken := median(times[1:])) / (without + taken) for name, times in losses.items()}


def rows(shape: tuple[int, ...], arguments: Arguments) -> list[Row]:
    """A row of the table for each case."""
    x, label = scene(shape)
    compared = cases(LIBRARIES if arguments.peers else ["rsseg"])
    compared |= compiled(compared) if arguments.compile else {}
    calls = passes(compared, x.requires_grad_(), label)
    time_of = interleaved(calls, arguments.rounds)
    shares = step_shares(shape, compared, arguments.steps) if arguments.steps else {}
    found = []
    for name, taken in time_of.items():
        composition = COMPOSITIONS.get(name.removeprefix("rsseg: "), Composition(()))
        held = composition.limit is not None
        smp = time_of.get(name.replace("rsseg: ", "smp: ").removesuffix(", exact")) if name.startswith("rsseg") else None
        x.grad = None
        memory = peak_bytes(calls[name]) / (x.numel() * x.element_size())
        found.append(
            [
                name,
                f"{1e3 * taken:.1f}",
                f"{taken / time_of[CE]:.2f}",
                judged(taken / smp, composition.limit) if smp else "",
                judged(memory, MEMORY if held else None, ".1f"),
                judged(100 * shares[name], 100 * SHARE[shape[1]] if held else None, ".1f") if shares else "",
            ]
        )
    return found


def main(arguments: Arguments) -> None:
    """Measure all shapes."""
    torch.set_num_threads(arguments.threads)
    precision = choose_precision("auto", "cpu")
    text = f"{versions(PACKAGES)} on {platform.machine()}, {arguments.threads} thread(s); training steps in {precision}; "
    text += f"{os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f} before it began."
    print(text, flush=True)
    for shape in SHAPES:
        part = table([str(shape), *HEAD], rows(shape, arguments))
        print(f"\n{part}", flush=True)
        text += f"\n\n{part}"
    if arguments.page:
        fill(Path(arguments.page), "losses", text)
