"""Training and mapping on a GPU, for scripts/bench.py."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L
import numpy as np
import segmentation_models_pytorch as smp
import torch
from bench_losses import TASK
from bench_measure import Jobs, Row, seconds, write_raster
from torch import Tensor, nn

from rsseg.config.cli import compose, own_part
from rsseg.config.entry import CONFIGS
from rsseg.data.synthetic import CLASSES, SceneRecipe, generate
from rsseg.devices import choose_precision
from rsseg.inference.options import MapOptions
from rsseg.losses import Composite, CrossEntropy, Dice
from rsseg.models import Network, encoder_name
from rsseg.prediction import predict
from rsseg.run import train
from rsseg.task import make_task

if TYPE_CHECKING:
    from bench_gpu import Arguments


class Timeline(L.Callback):
    """What the parts of steps take, by marks on the device's own clock.

    On a GPU a mark is an event between the kernels: a part has the time of its kernels, and that in which the device waits
    for the host to launch them.
    """

    last: ClassVar[Timeline]

    def __init__(self) -> None:
        self.marks: list[tuple[str, str, Any]] = []
        self.stage = "train"

    def attach(self, network: nn.Module, losses: Iterable[nn.Module]) -> None:
        """Mark where a network and its losses begin and end from now on."""
        Timeline.last = self
        self.cuda = next(network.parameters()).is_cuda
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.hooks = [network.register_forward_pre_hook(self._begin), network.register_forward_hook(self._predicted)]
        self.hooks += [loss.register_forward_hook(lambda *_: self.mark("loss")) for loss in losses]

    def mark(self, part: str) -> None:
        """Say that a part has ended."""
        now: Any = time.perf_counter()
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.marks.append((self.stage, part, now))

    def _begin(self, network: nn.Module, _: Any) -> None:
        self.stage = "train" if network.training else "validation"
        self.mark("data")

    def _predicted(self, network: nn.Module, _: Any, logits: Mapping[str, Tensor]) -> None:
        self.mark("forward")
        if network.training:
            next(iter(logits.values())).register_hook(lambda _: self.mark("loss"))  # the loss's own backward pass has ended

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Begin."""
        self.attach(pl_module.network, pl_module.losses.values())

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Mark it."""
        self.mark("backward")

    def on_train_batch_end(self, *_: Any) -> None:
        """Mark it."""
        self.mark("update")

    def on_validation_batch_end(self, *_: Any) -> None:
        """Mark it."""
        self.mark("metrics")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Leave out what comes later."""
        for hook in self.hooks:
            hook.remove()

    def row(self, batch: int) -> Row:
        """Images per second and the parts' shares, without the first fifth of the steps."""
        ends = [i for i, (_, part, _) in enumerate(self.marks) if part == "update"]
        skipped = len(ends) // 5
        if self.cuda:
            torch.cuda.synchronize()
        spent: dict[str, Counter[str]] = {"train": Counter(), "validation": Counter()}
        for (_, _, begin), (stage, part, end) in pairwise(self.marks[ends[skipped] :]):
            spent[stage][part] += begin.elapsed_time(end) / 1e3 if self.cuda else end - begin
        train, validation = spent["train"], spent["validation"]
        cells = [f"{batch * (len(ends) - 1 - skipped) / train.total():.1f}"]
        cells += [f"{100 * train[part] / train.total():.1f}" for part in ("data", "forward", "loss", "backward", "update")]
        cells.append(f"{100 * validation['metrics'] / validation.total():.1f}" if validation else "")
        return [*cells, f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if self.cuda else ""]


def training(arguments: Arguments) -> Jobs:
    """A job for a bare loop, and one for each place where decoded scenes may lie."""
    places = ["disk", "ram", *(["gpu"] if arguments.device == "cuda" else [])]
    return {
        "bare loop, one constant batch": partial(train_bare, arguments),
        **{f"rsseg, cache={place}": partial(train_run, arguments, place) for place in places},
    }


def train_bare(arguments: Arguments) -> Row:
    """The least that a training loop does: the same network, loss and optimiser, on one batch that lies on the device."""
    device, timeline = torch.device(arguments.device), Timeline()
    net = smp.Unet(encoder_name(arguments.encoder), encoder_weights=None, classes=len(CLASSES))
    network = Network(net, {"head": make_task(TASK, CLASSES)}).to(device, memory_format=torch.channels_last)
    loss = Composite({"ce": (1.0, CrossEntropy(TASK)), "dice": (1.0, Dice(TASK))})
    image = torch.randn(arguments.batch, 3, arguments.side, arguments.side, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    mask = torch.randint(0, len(CLASSES), (arguments.batch, arguments.side, arguments.side), device=device).byte()
    optimizer = torch.optim.AdamW(network.parameters())
    half = choose_precision("auto", device.type) == "bf16-mixed"
    timeline.attach(network, [loss])
    for _ in range(arguments.steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            value = loss(network(image)["head"], mask).total
        value.backward()
        timeline.mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        timeline.mark("update")
    return timeline.row(arguments.batch)


def train_run(arguments: Arguments, place: str) -> Row:
    """A run of rsseg as a user starts it, with a `Timeline` among its callbacks."""
    gc.collect()  # the network of an earlier run is no part of this one's memory
    folder = Path(arguments.output)
    write_scenes(folder, arguments.tile)
    overrides = [
        "dataset=folder", f"dataset.source.root={folder}", "dataset.source.split={val: [val*]}",
        f"dataset.classes=[{','.join(CLASSES)}]",
        f"window={arguments.side}", f"batch_size={arguments.batch}", f"steps={arguments.steps}", "validations=1", "pictures=0",
        f"model.encoder={arguments.encoder}", "model.weights=none", f"cache={place}", f"output={folder}",
        f"trainer={'gpu' if arguments.device == 'cuda' else arguments.device}",
        "+callbacks.timeline={_target_: bench_gpu_training.Timeline}", "trust=[bench_gpu_training]",
    ]  # fmt: skip
    train(own_part(compose(CONFIGS, overrides)), folder / place, overrides, "ce_dice")
    return Timeline.last.row(arguments.batch)


def write_scenes(folder: Path, side: int) -> None:
    """Five scenes to train on and one to validate, each the same generated one again and again, as GeoTIFFs."""
    image, mask = one_scene(min(side, 512))
    for name in [*(f"train_{i}" for i in range(5)), "val"]:
        for kind, pixels in (("images", image), ("masks", mask[None])):
            if not (folder / kind / f"{name}.tif").is_file():
                write_raster(folder / kind / f"{name}.tif", repeated(pixels, side), tiled=True)


@cache
def one_scene(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The image and the mask of a generated scene."""
    scene = generate(SceneRecipe(size=side), seed=0, index=0)
    return scene.image, scene.mask


def repeated(pixels: np.ndarray, side: int) -> np.ndarray:
    """Repeat ``[bands, H, W]`` to a side."""
    times = -(-side // pixels.shape[-1])
    return np.tile(pixels, (1, times, times))[:, :side, :side]


def mapping(arguments: Arguments) -> Jobs:
    """A job for one large scene."""
    return {f"a scene of {arguments.scene:,} px": partial(map_scene, arguments)}


def map_scene(arguments: Arguments) -> Row:
    """`predict` with the first run's checkpoint, from the file to the file."""
    folder = Path(arguments.output)
    path = folder / "large.tif"
    write_raster(path, repeated(one_scene(min(arguments.scene, 512))[0], arguments.scene), tiled=True)
    trained, device = folder / "disk", torch.device(arguments.device)
    options = MapOptions(overwrite=True, allow_different=True)
    taken = seconds(lambda: predict([trained], str(path), folder / "map.tif", options, ["bench_gpu_training"]), device)
    return [f"{taken:.1f}", f"{arguments.scene**2 / 1e6 / taken:.1f}"]
