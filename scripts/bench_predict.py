"""Maps of large scenes, beside the bare network, raw reading and writing, and what peers do, for scripts/bench.py."""

import os
import platform
import resource
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
from bench_measure import judged, table, versions
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window
from torch import Tensor, nn

from rsseg.data.scene import Scene
from rsseg.inference.blending import Grid
from rsseg.inference.options import MapOptions
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.models import Network
from rsseg.prediction import Mapper
from rsseg.task import Multiclass

TASK = Multiclass(("land", "building", "road", "field", "water", "forest"))


@dataclass
class Arguments:
    """Map a generated RGB scene, and state what that takes as multiples of what can't be saved.

    side=N        of the scene in pixels (3000)
    encoder=NAME  of the U-Net (resnet18); none: a convolution of 1 x 1, for what all else costs
    window=N      the windows' side in pixels (256)
    margin=N      how far they reach beyond their cores (32)
    batch=N       windows at a time (8)
    rounds=N      how often each is measured, all of them in turn (3); medians are printed
    threads=N     of PyTorch (1)
    only=mapping  map the scene alone, and print the memory of the process
    """

    side: int = 3000
    encoder: str = "resnet18"
    window: int = 256
    margin: int = 32
    batch: int = 8
    rounds: int = 3
    threads: int = 1
    only: str = ""


class Linear(nn.Module):
    """A logit for each class, of a pixel's bands."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, TASK.channels, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits by head."""
        return {"mask": self.layer(image)}


def make_model(arguments: Arguments) -> TrainedModel:
    """A network with weights that are drawn."""
    torch.manual_seed(0)
    if arguments.encoder == "none":
        network: nn.Module = Linear()
    else:
        net = smp.Unet(arguments.encoder, encoder_weights=None, classes=TASK.channels)
        network = Network(net, {"mask": TASK})
    cut = (arguments.window, arguments.margin, arguments.batch)
    spec = Spec("bench", {"mask": Head(TASK)}, (1, 2, 3), (90.0,) * 3, (30.0,) * 3, *cut, "uint8")
    return TrainedModel(network.requires_grad_(False), spec)


def write_scene(path: Path, side: int) -> Path:
    """A scene of smooth hills with noise, in tiles of 512, deflated; written in rows of tiles."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32633"}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "bigtiff": "if_safer"}
    with rasterio.open(path, "w", **profile, **tiles, transform=from_origin(500000, 4000000, 0.3, 0.3)) as raster:
        for top in range(0, side, 512):
            rows = np.arange(top, min(side, top + 512))
            hills = 90 + 30 * np.sin(rows[:, None] / 170) * np.cos(np.arange(side) / 230)
            noise = rng.integers(-8, 9, (3, len(rows), side), dtype=np.int8)
            raster.write((hills + noise).astype(np.uint8), window=Window(0, top, side, len(rows)))
    return path


def plain_loop(forward: Callable[[Tensor], Tensor], path: Path, out: Path, arguments: Arguments) -> None:
    """What one writes in an afternoon: windows read by rasterio, cores cut out, labels written."""
    size, margin = arguments.window, arguments.margin
    step = size - 2 * margin
    with rasterio.open(path) as source:
        profile = source.profile | {"count": 1, "nodata": 255}
        places = [(y, x) for y in range(0, source.height, step) for x in range(0, source.width, step)]
        with rasterio.open(out, "w", **profile) as target:
            for first in range(0, len(places), arguments.batch):
                some = places[first : first + arguments.batch]
                parts = [Window(x - margin, y - margin, size, size) for y, x in some]
                images = [source.read(window=part, boundless=True, fill_value=0) for part in parts]
                labels = forward(torch.from_numpy(np.stack(images))).numpy()
                for (y, x), label in zip(some, labels, strict=True):
                    core = label[margin : margin + min(step, source.height - y), margin : margin + min(step, source.width - x)]
                    target.write(core, 1, window=Window(x, y, core.shape[1], core.shape[0]))


def by_terratorch(forward: Callable[[Tensor], Tensor], path: Path, out: Path, arguments: Arguments) -> None:
    """TerraTorch's tiled inference, which takes a whole scene and gives all its probabilities; labels are written."""
    from terratorch.tasks.tiled_inference import tiled_inference

    with rasterio.open(path) as source:
        image, profile = torch.from_numpy(source.read()), source.profile | {"count": 1, "nodata": 255}
    step = arguments.window - 2 * arguments.margin
    found = tiled_inference(
        forward, image[None], crop=arguments.window, stride=step, delta=0, batch_size=arguments.batch, padding=False
    )
    with rasterio.open(out, "w", **profile) as target:
        target.write(found[0].max(0).indices.byte().numpy(), 1)


def by_geoai(forward: Callable[[Tensor], Tensor], path: Path, out: Path, arguments: Arguments) -> None:
    """The maps of geoai, which adds up all probabilities of a scene in float64."""
    from geoai.inference import predict_geotiff

    class Network(nn.Module):
        """What geoai calls."""

        def forward(self, image: Tensor) -> Tensor:
            """Probabilities of stored pixels."""
            return forward(image)

    predict_geotiff(
        Network(), str(path), str(out), arguments.window, 2 * arguments.margin, arguments.batch, num_classes=TASK.channels,
        output_dtype="uint8", output_nodata=255, blend_mode="cosine", preprocess_fn=np.asarray,
        postprocess_fn=lambda planes: planes.argmax(0).astype(np.uint8), device="cpu", compress="deflate", verbose=False,
    )  # fmt: skip


PEERS = {"terratorch.tasks.tiled_inference": by_terratorch, "geoai.inference": by_geoai}
"""What else maps scenes, where it is installed."""


def installed_peers() -> Iterator[tuple[str, Callable[..., None]]]:
    """Those of `PEERS` that are installed, by their packages' names; they are imported, so that this is not measured."""
    for module, job in PEERS.items():
        package = module.partition(".")[0]
        if find_spec(package):
            import_module(module)
            yield package, job


def read_and_write(path: Path, out: Path) -> None:
    """Read all pixels of a scene row of tiles by row of tiles, and write as many labels, deflated."""
    with rasterio.open(path) as source, rasterio.open(out, "w", **(source.profile | {"count": 1})) as target:
        for top in range(0, source.height, 512):
            window = Window(0, top, source.width, min(512, source.height - top))
            target.write(source.read(window=window)[0] // 43, 1, window=window)


@torch.inference_mode()
def bare(forward: Callable[[Tensor], Tensor], windows: NDArray[np.uint8], count: int, batch: int) -> None:
    """Predict as many windows as the scene has, of some that are in memory."""
    for first in range(0, count, batch):
        forward(torch.from_numpy(windows[: min(batch, count - first)]))


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """The median seconds by the clock, and of the processor, of each call, all of them in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            clock, processor = perf_counter(), process_time()
            call()
            found[name].append((perf_counter() - clock, process_time() - processor))
    return {name: (median(c for c, _ in times), median(p for _, p in times)) for name, times in found.items()}


def rows_of(found: dict[str, tuple[float, float]], pixels: float) -> Iterator[list[str]]:
    """The rows of the table."""
    slower = max(found["bare network"][0], found["raw reading and writing"][0])
    work = found["bare network"][1] + found["raw reading and writing"][1]
    for name, (clock, processor) in found.items():
        limit = 1 / 0.9 if name.startswith("rsseg") else None
        yield [
            name, f"{clock:.2f}", f"{pixels / clock / 1e6:.2f}", judged(clock / slower, limit), f"{processor:.2f}",
            f"{processor / work:.2f}",
        ]  # fmt: skip


def main(arguments: Arguments) -> None:
    """Measure and print."""
    torch.set_num_threads(arguments.threads)
    model = make_model(arguments)
    options = MapOptions(overwrite=True, window=arguments.window, margin=arguments.margin, batch_size=arguments.batch)
    mapper = Mapper([model], options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "scene.tif"
        with ProcessPoolExecutor(1, get_context("spawn")) as other:  # what writing it takes is not this process's memory
            other.submit(write_scene, path, arguments.side).result()
        scene, shape = Scene("scene", path), (arguments.side, arguments.side)

        def mapping() -> object:
            return mapper.map(scene, folder / "map.tif")

        if arguments.only == "mapping":
            before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
            clock, processor = perf_counter(), process_time()
            mapping()
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            print(
                f"{arguments.side} px: {perf_counter() - clock:.1f} s, {process_time() - processor:.1f} s of the processor; "
                f"{before:.0f} MB before, at most {after:.0f} MB"
            )
            return
        grid = Grid(shape, mapper.windows)
        count = len(grid.rows.starts) * len(grid.columns.starts)
        windows = np.random.default_rng(0).integers(60, 120, (arguments.batch, 3, arguments.window, arguments.window), np.uint8)

        def shares(batch: Tensor) -> Tensor:
            return mapper.forward(batch.to(mapper.device))["mask"].cpu()

        def forward(batch: Tensor) -> Tensor:
            return mapper.forward(batch.to(mapper.device))["mask"].max(1).indices.byte().cpu()

        calls: dict[str, Callable[[], object]] = {
            "bare network": lambda: bare(forward, windows, count, arguments.batch),
            "raw reading and writing": lambda: read_and_write(path, folder / "raw.tif"),
            "rsseg, blended, as a COG": mapping,
            "a plain loop of rasterio windows": torch.inference_mode()(
                lambda: plain_loop(forward, path, folder / "plain.tif", arguments)
            ),
        }
        calls |= {
            name: torch.inference_mode()(partial(job, shares, path, folder / f"{name}.tif", arguments))
            for name, job in installed_peers()
        }
        found = measure(calls, arguments.rounds)
    packages = ["torch", "segmentation-models-pytorch", "rasterio", "terratorch", "geoai-py"]
    print(f"\n{versions(packages)} on {platform.machine()}, {os.cpu_count()} cores")
    how = f"{arguments.window} px with margins of {arguments.margin} px"
    print(f"A scene of {arguments.side} px, {count} windows of {how}, {arguments.encoder}\n")
    head = ["", "s", "Mpx/s", "x the slower of the first two", "s of the processor", "x their sum"]
    print(table(head, rows_of(found, arguments.side**2)))
