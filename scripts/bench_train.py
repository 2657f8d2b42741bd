"""Training beside its peers: a bare loop, a plain smp loop, torchgeo's task and TerraTorch's, for scripts/bench.py."""

import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from multiprocessing import active_children
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from bench_measure import judged, table, versions, write_raster
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import zoom
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rsseg.contract import InputError

CLASSES = ("background", "object")
PART = "of it: "
WARM = 5
"""Steps before the first that is measured."""

Predict = Callable[[Tensor], Tensor]
"""Logits ``[B, 2, H, W]`` of stored pixels ``[B, 3, H, W]``, by a trained network."""

Tile = tuple[str, NDArray[np.uint8], NDArray[np.uint8]]
"""The name of a tile, which begins with train or val, its image ``[3, H, W]`` and its mask ``[H, W]``."""


@dataclass
class Arguments:
    """The time of a training step, of a whole job, its memory and what it learns, each in a process of its own.

    steps=N       of each job (40); the median step is printed, the first 5 left out
    side=N        of the two training tiles in pixels (5000)
    validation=N  side of the validation tile in pixels (5000)
    data=FOLDER   RGB images/ and masks/ of the same names, of real scenes instead of generated tiles; 255: not labelled
    label=N       the object's value in these masks (1)
    held_out=NAME[,NAME...]    how the names begin of the scenes that are not trained on, but scored
    window=N      the windows' side (256)
    batch=N       windows a step (8)
    encoder=NAME  of the U-Net (resnet18)
    seeds=N       jobs of each kind, in turn (2)
    workers=N     processes, or threads, that read windows (1)
    threads=N     of PyTorch (1)
    only=NAME[,NAME...]    some of bare, plain, rsseg, rsseg_auto, torchgeo, terratorch; default: all that are installed
    """

    steps: int = 40
    side: int = 5000
    validation: int = 5000
    data: str = ""
    label: int = 1
    held_out: str = ""
    window: int = 256
    batch: int = 8
    encoder: str = "resnet18"
    seeds: int = 2
    workers: int = 1
    threads: int = 1
    only: str = ""


def clock_of(process: Any) -> int:
    """Linux's clock of the processor time of another process, here one that reads windows."""
    return ~process.pid << 3 | 2


class Marks:
    """The times at which steps begin, by the clock and of the processor."""

    def __init__(self) -> None:
        self.clock, self.processor = list[float](), list[float]()
        self.parts: dict[str, float] = {}

    def __call__(self) -> None:
        """A step begins, or the last has ended."""
        self.clock.append(time.perf_counter())
        self.processor.append(time.process_time() + sum(map(time.clock_gettime, map(clock_of, active_children()))))

    def around(self, owner: type, name: str) -> None:
        """Mark the calls of a method."""
        method = getattr(owner, name)

        def marked(*args: Any, **kwargs: Any) -> Any:
            self()
            return method(*args, **kwargs)

        setattr(owner, name, marked)


class Spent:
    """The processor time within functions, without that within others of them, from the start of the process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"start, imports": 0.0}
        self.names, self.since = list(self.seconds), 0.0

    def turn(self) -> None:
        """What the processor did until now belongs to the innermost function."""
        now = time.process_time()
        self.seconds[self.names[-1]] += now - self.since
        self.since = now

    def around(self, owner: Any, name: str, part: str) -> None:
        """Measure the calls of a function."""
        function = getattr(owner, name)
        self.seconds.setdefault(part, 0.0)

        def measured(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self.names.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.names.pop()

        setattr(owner, name, measured)


def watch() -> Spent:
    """The parts of a run of rsseg, measured from now on."""
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

    from rsseg import run
    from rsseg.training import checkpointing
    from rsseg.training.recorder import Recorder
    from rsseg.training.trainer import Loop

    spent = Spent()
    spent.around(run, "make_setup", "setup")
    spent.around(run, "_open", "decoding, statistics, network")
    spent.around(Loop, "fit", "steps")
    spent.around(_EvaluationLoop, "run", "validation")
    spent.around(checkpointing, "write_checkpoint", "checkpoints")
    for hook in ("on_validation_batch_end", "on_validation_epoch_end", "on_validation_end"):
        spent.around(Recorder, hook, "records")
    spent.around(run, "score_best", "scoring the best checkpoint, thresholds")
    spent.around(Loop, "write_scores", "tables, pictures")
    spent.around(Loop, "write_summary", "summary")
    return spent


def generated_tiles(arguments: Arguments) -> Iterator[Tile]:
    """Two tiles to train on and one to score: objects are what is high in a smooth field, brighter by less than the noise."""
    rng = np.random.default_rng(0)
    for name, side in {"train_0": arguments.side, "train_1": arguments.side, "val_0": arguments.validation}.items():
        field = zoom(rng.normal(size=(side // 50 + 2,) * 2), 50, order=1)[:side, :side]
        mask = (field > 0.5).astype(np.uint8)
        noise = rng.integers(-60, 61, (3, side, side), dtype=np.int16)
        yield name, np.clip(110 + 25 * mask + noise, 0, 255).astype(np.uint8), mask


def real_tiles(arguments: Arguments) -> Iterator[Tile]:
    """The scenes of a folder, with one class as the object."""
    paths = sorted(Path(arguments.data).glob("images/*"))
    if not paths:
        raise InputError(f"data={arguments.data} has no files in images/: a folder with images/ and masks/ is expected")
    for path in paths:
        masks = list(Path(arguments.data).glob(f"masks/{path.stem}.*"))
        if len(masks) != 1:
            raise InputError(f"{path} needs one mask, {path.parents[1]}/masks/{path.stem}.*, and has {len(masks)}")
        with rasterio.open(path) as image, rasterio.open(masks[0]) as mask:
            labels = mask.read(1)
            part = "val" if path.name.startswith(tuple(arguments.held_out.split(","))) else "train"
            yield f"{part}_{path.stem}", image.read([1, 2, 3]), np.where(labels == 255, 255, labels == arguments.label)


def write_tiles(root: Path, tiles: Iterator[Tile]) -> None:
    """Write tiles uncompressed and side by side, as torchgeo finds them by their places."""
    for i, (name, image, mask) in enumerate(tiles):
        write_raster(root / "images" / f"{name}.tif", image, left=500_000 + 2000 * i)
        write_raster(root / "masks" / f"{name}.tif", mask[None].astype(np.uint8), left=500_000 + 2000 * i)


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Random windows of the training tiles, as one writes them in an afternoon."""

    def __init__(self, root: Path, arguments: Arguments, seed: int) -> None:
        self.root, self.size, self.seed = root, arguments.window, seed
        self.length = arguments.steps * arguments.batch
        self.paths = sorted((root / "images").glob("train_*.tif"))
        areas = np.array([path.stat().st_size for path in self.paths])
        self.shares = areas / areas.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        path = self.paths[int(rng.choice(len(self.paths), p=self.shares))]
        with rasterio.open(path) as image, rasterio.open(self.root / "masks" / path.name) as mask:
            x, y = (int(rng.integers(side - self.size + 1)) for side in (image.width, image.height))
            window = Window(x, y, self.size, self.size)
            return torch.from_numpy(image.read(window=window)), torch.from_numpy(mask.read(1, window=window))


def normalised(image: Tensor) -> Tensor:
    """About zero mean and unit deviation."""
    return (image.float() - 118) / 36


def loop(arguments: Arguments, batches: Iterator[tuple[Tensor, Tensor]], marks: Marks) -> Predict:
    """Steps of AdamW with cross-entropy."""
    network = smp.Unet(arguments.encoder, encoder_weights=None, classes=len(CLASSES)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for image, mask in batches:
        marks()
        optimizer.zero_grad(set_to_none=True)
        image = image.to(memory_format=torch.channels_last)
        F.cross_entropy(network(image), mask, ignore_index=255).backward()
        optimizer.step()
    marks()
    network.eval()
    return lambda image: network(normalised(image).contiguous(memory_format=torch.channels_last))


def bare(root: Path, arguments: Arguments, seed: int, marks: Marks) -> Predict:
    """One batch that is in memory, again and again."""
    image, mask = next(iter(DataLoader(Windows(root, arguments, seed), arguments.batch)))
    return loop(arguments, iter([(normalised(image), mask.long())] * arguments.steps), marks)


def plain(root: Path, arguments: Arguments, seed: int, marks: Marks) -> Predict:
    """The same loop over a DataLoader whose workers read windows with rasterio."""
    loader = DataLoader(Windows(root, arguments, seed), arguments.batch, num_workers=arguments.workers)
    return loop(arguments, ((normalised(image), mask.long()) for image, mask in loader), marks)


def rsseg(root: Path, arguments: Arguments, seed: int, marks: Marks, precision: str = "32-true") -> Predict:
    """What `python train.py` does, with records, one validation and its checkpoint."""
    from rsseg.config.cli import compose, own_part
    from rsseg.config.entry import CONFIGS
    from rsseg.module import SegmentationModule
    from rsseg.run import train

    kept = list[SegmentationModule]()
    first = SegmentationModule.on_train_start

    def keep(module: SegmentationModule) -> None:
        kept.append(module)
        first(module)

    SegmentationModule.on_train_start = keep  # type: ignore[method-assign]
    marks.around(SegmentationModule, "training_step")
    marks.around(SegmentationModule, "on_train_end")
    spent = watch()
    words = [
        "dataset=folder", f"dataset.source.root={root}", f"dataset.classes=[{','.join(CLASSES)}]", "loss=ce",
        "dataset.source.split={train: ['train_*'], val: ['val_*']}", "trainer=cpu", f"trainer.precision={precision}",
        f"model.encoder={arguments.encoder}", f"window={arguments.window}", f"batch_size={arguments.batch}",
        f"steps={arguments.steps}", "validations=1", f"workers={arguments.workers}", f"seed={seed}", "optimizer.lr=1e-3",
        "scheduler=constant", "augment=none",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train(own_part(compose(CONFIGS, [*words, f"output={folder}"])), Path(folder) / "run")
    spent.turn()
    marks.parts = spent.seconds
    module = kept[0].eval()
    return lambda image: module.logits(image)["mask"]


def fit(task: Any, loader: Any, arguments: Arguments, marks: Marks) -> None:
    """Train a peer's task in Lightning's trainer, without what else the trainer does."""
    import lightning as L

    marks.around(type(task), "training_step")
    marks.around(type(task), "on_train_end")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(accelerator="cpu", max_epochs=-1, max_steps=arguments.steps, **quiet).fit(task, loader)
    task.eval()


def torchgeo(root: Path, arguments: Arguments, seed: int, marks: Marks) -> Predict:
    """Torchgeo's task and RandomGeoSampler in Lightning's trainer."""
    import lightning as L
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler
    from torchgeo.trainers import SemanticSegmentationTask

    class Images(RasterDataset):
        filename_glob = "train_*.tif"

    class Masks(RasterDataset):
        filename_glob = "train_*.tif"
        is_image = False

    class Task(SemanticSegmentationTask):
        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            return {"image": normalised(batch["image"]), "mask": batch["mask"].squeeze(1)}

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    L.seed_everything(seed, verbose=False)
    dataset = Images(str(root / "images")) & Masks(str(root / "masks"))
    sampler = RandomGeoSampler(dataset, size=arguments.window, length=arguments.steps * arguments.batch)
    loader = DataLoader(dataset, arguments.batch, sampler=sampler, num_workers=arguments.workers, collate_fn=stack_samples)
    task = Task("unet", arguments.encoder, None, in_channels=3, num_classes=len(CLASSES), loss="ce", ignore_index=255)
    fit(task, loader, arguments, marks)
    return lambda image: task(normalised(image))


def cut_chips(root: Path, folder: Path, size: int) -> None:
    """Cut the training tiles into chips on a grid, a file each."""
    for path in sorted(root.glob("*/train_*.tif")):
        with rasterio.open(path) as tile:
            pixels = tile.read()
        for y, x in product(*(range(0, side - size + 1, size) for side in pixels.shape[1:])):
            write_raster(folder / path.parent.name / f"{path.stem}_{y}_{x}.tif", pixels[:, y : y + size, x : x + size])


def terratorch(root: Path, arguments: Arguments, seed: int, marks: Marks) -> Predict:
    """TerraTorch's task and generic dataset in Lightning's trainer.

    That dataset reads whole files, so its users cut large tiles into chips first. The job's time includes this.
    """
    import lightning as L
    from terratorch.datasets import GenericNonGeoSegmentationDataset
    from terratorch.tasks import SemanticSegmentationTask

    class Task(SemanticSegmentationTask):
        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            return {"image": normalised(batch["image"]), "mask": batch["mask"]}

    L.seed_everything(seed, verbose=False)
    model = {"backbone": arguments.encoder, "model": "Unet", "bands": ["RED", "GREEN", "BLUE"], "num_classes": len(CLASSES)}
    task = Task({**model, "pretrained": False}, "SMPModelFactory", loss="ce", ignore_index=255, lr=1e-3, optimizer="AdamW")
    with tempfile.TemporaryDirectory() as folder:
        cut_chips(root, Path(folder), arguments.window)
        dataset = GenericNonGeoSegmentationDataset(f"{folder}/images", len(CLASSES), f"{folder}/masks")
        shuffled = {"shuffle": True, "drop_last": True, "num_workers": arguments.workers}
        fit(task, DataLoader(dataset, arguments.batch, **shuffled), arguments, marks)
    return lambda image: task(normalised(image)).output


JOBS: dict[str, Callable[[Path, Arguments, int, Marks], Predict]] = {
    "bare": bare, "plain": plain, "rsseg": rsseg, "rsseg_auto": partial(rsseg, precision="auto"), "torchgeo": torchgeo,
    "terratorch": terratorch,
}  # fmt: skip


@torch.inference_mode()
def validation_iou(predict: Predict, root: Path, size: int) -> float:
    """The object's IoU over the validation tiles, in windows that do not overlap."""
    counts = np.zeros((2, 2))
    for path in sorted((root / "images").glob("val_*.tif")):
        with rasterio.open(path) as image, rasterio.open(root / "masks" / path.name) as mask:
            for y, x in product(*(range(0, side, size) for side in image.shape)):
                window = Window(x, y, size, size)
                labels = predict(torch.from_numpy(image.read(window=window, boundless=True))[None]).max(1).indices[0].numpy()
                truth = mask.read(1, window=window, boundless=True, fill_value=255)
                known = truth != 255
                counts += np.bincount(2 * truth[known] + labels[known], minlength=4).reshape(2, 2)
    return float(counts[1, 1] / (counts.sum() - counts[0, 0]))


def usage() -> tuple[float, float]:
    """The processor time in seconds and the most resident memory in MB of this process and its ended children.

    The memory of this process is not `ru_maxrss`, which begins with that of the process that started it.
    """
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    [peak] = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    times = (one.ru_utime + one.ru_stime for one in (own, children))
    return sum(times), max(int(peak), children.ru_maxrss) / 1e3


def run_job(name: str, root: Path, arguments: Arguments, seed: int) -> dict[str, float]:
    """One job in this process, as what is measured of it."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(seed)
    marks = Marks()
    predict = JOBS[name](root, arguments, seed, marks)
    trained = usage()
    iou = validation_iou(predict, root, arguments.window)
    job, memory = trained if name.startswith("rsseg") else usage()  # a run of rsseg has validated itself
    return {
        "step": float(np.median(np.diff(marks.clock)[WARM : arguments.steps - 1])),
        "processor": float(np.median(np.diff(marks.processor)[WARM : arguments.steps - 1])),
        "job": job,
        "memory": memory,
        "iou": iou,
    } | {PART + part: seconds for part, seconds in marks.parts.items()}


def main(arguments: Arguments) -> None:
    """Run all jobs in turn, and print the table."""
    job = os.environ.get("RSSEG_BENCH_JOB")
    if job:
        name, root, seed, out = json.loads(job)
        Path(out).write_text(json.dumps(run_job(name, Path(root), arguments, seed)), encoding="utf-8")
        return
    names = arguments.only.split(",") if arguments.only else list(JOBS)
    for peer in ("torchgeo", "terratorch"):
        if peer in names and not find_spec(peer):
            names.remove(peer)
            print(f"{peer} is left out: it is not installed; `pip install {peer}` installs it")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder) / "job.json"
        write_tiles(root, real_tiles(arguments) if arguments.data else generated_tiles(arguments))
        if not all(list(root.glob(f"images/{part}_*")) for part in ("train", "val")):
            raise InputError(
                f"held_out={arguments.held_out} has to name some of the scenes in {arguments.data}/images, not all"
            )
        words = [f"{key}={value}" for key, value in asdict(arguments).items()]
        for seed in range(1, arguments.seeds + 1):
            for name in names:
                job = json.dumps([name, str(root), seed, str(out)])
                command = [sys.executable, str(Path(__file__).with_name("bench.py")), "train", *words]
                environment = {**os.environ, "RSSEG_BENCH_JOB": job}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{name} fails: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
                    continue
                found[name].append(json.loads(out.read_text(encoding="utf-8")))
                print(f"{name}, seed {seed}: {found[name][-1]}", file=sys.stderr)
    packages = ["torch", "lightning", "segmentation-models-pytorch", "torchgeo", "terratorch"]
    print(f"\n{versions(packages)} on {platform.machine()}, {os.cpu_count()} cores, {arguments.threads} for PyTorch")
    tiles = arguments.data or f"tiles of {arguments.side} px, a validation tile of {arguments.validation} px"
    print(f"{arguments.steps} steps of {arguments.batch} windows of {arguments.window} px, {tiles}\n")
    head = ["", "ms a step", "x first", "of the processor", "x first", "job, s of the processor", "MB", "IoU"]
    print(table(head, rows_of(found)))
    for name, jobs in found.items():
        parts = [key for key in (jobs[0] if jobs else ()) if key.startswith(PART)]
        if parts:
            print(f"\nWhat the job of {name} spends, in seconds of the processor\n")
            print(table(["", "s"], ([key.removeprefix(PART), f"{median(one[key] for one in jobs):.1f}"] for key in parts)))


def rows_of(found: dict[str, list[dict[str, float]]]) -> Iterator[list[str]]:
    """The rows of the table: medians over seeds, the IoU's mean and deviation."""
    middle = {name: {key: median(one[key] for one in jobs) for key in jobs[0]} for name, jobs in found.items() if jobs}
    first = next(iter(middle), "")
    for name, own in middle.items():
        step, processor = (own[key] / middle[first][key] for key in ("step", "processor"))
        scores = [one["iou"] for one in found[name]]
        spread = f" ± {stdev(scores):.3f}" if len(scores) > 1 else ""
        limit = 1.03 if name == "rsseg" and first == "bare" else None
        yield [
            name, f"{1e3 * own['step']:.0f}", judged(step, limit), f"{1e3 * own['processor']:.0f}", judged(processor, limit),
            f"{own['job']:.1f}", f"{own['memory']:.0f}", f"{mean(scores):.3f}{spread}",
        ]  # fmt: skip
