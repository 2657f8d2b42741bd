"""Training beside its peers: a bare loop, a plain smp loop, torchgeo's task and TerraTorch's, for scripts/bench.py."""

import json
import os
import platform
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
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from bench_measure import judged, table, versions, write_raster
from rasterio.windows import Window
from scipy.ndimage import zoom
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CLASSES = ("land", "building")
PART = "of it: "
WARM = 5
"""Steps before the first that is measured."""


@dataclass
class Arguments:
    """The time of a training step, of a whole job, its memory and what it learns, each in a process of its own.

    steps=N       of each job (40); the median step is printed, the first 5 left out
    side=N        of the two training tiles in pixels (5000)
    validation=N  side of the validation tile in pixels (5000)
    root=FOLDER   images/ and masks/ with train_*.tif and val_*.tif, RGB and 0 or 1, instead of generated tiles
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
    root: str = ""
    window: int = 256
    batch: int = 8
    encoder: str = "resnet18"
    seeds: int = 2
    workers: int = 1
    threads: int = 1
    only: str = ""


class Marks:
    """The times at which steps begin, by the clock and of the process and its ended children."""

    def __init__(self) -> None:
        self.clock, self.processor = list[float](), list[float]()
        self.parts: dict[str, float] = {}

    def __call__(self) -> None:
        """A step begins, or the last has ended."""
        self.clock.append(time.perf_counter())
        self.processor.append(time.process_time())

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


def write_tiles(root: Path, sides: dict[str, int]) -> None:
    """Tiles by name, side by side: buildings are what is high in a smooth field, and brighter by less than the noise."""
    rng = np.random.default_rng(0)
    for i, (name, side) in enumerate(sides.items()):
        field = zoom(rng.normal(size=(side // 50 + 2,) * 2), 50, order=1)[:side, :side]
        mask = (field > 0.5).astype(np.uint8)
        noise = rng.integers(-60, 61, (3, side, side), dtype=np.int16)
        image = np.clip(110 + 25 * mask + noise, 0, 255).astype(np.uint8)
        write_raster(root / "images" / f"{name}.tif", image, left=500_000 + 2000 * i)
        write_raster(root / "masks" / f"{name}.tif", mask[None], left=500_000 + 2000 * i)


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Random windows of the training tiles, as one writes them in an afternoon."""

    def __init__(self, root: Path, arguments: Arguments, seed: int) -> None:
        self.root, self.size, self.seed = root, arguments.window, seed
        self.length = arguments.steps * arguments.batch
        self.paths = sorted((root / "images").glob("train_*.tif"))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        path = self.paths[int(rng.integers(len(self.paths)))]
        with rasterio.open(path) as image, rasterio.open(self.root / "masks" / path.name) as mask:
            x, y = (int(rng.integers(side - self.size + 1)) for side in (image.width, image.height))
            window = Window(x, y, self.size, self.size)
            return torch.from_numpy(image.read(window=window)), torch.from_numpy(mask.read(1, window=window))


def normalised(image: Tensor) -> Tensor:
    """About zero mean and unit deviation."""
    return (image.float() - 118) / 36


def make_network(arguments: Arguments) -> nn.Module:
    """The network of all peers."""
    return smp.Unet(arguments.encoder, encoder_weights=None, classes=len(CLASSES)).to(memory_format=torch.channels_last)


def loop(network: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], marks: Marks) -> None:
    """Steps of AdamW with cross-entropy."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for image, mask in batches:
        marks()
        optimizer.zero_grad(set_to_none=True)
        image = image.to(memory_format=torch.channels_last)
        F.cross_entropy(network(image), mask, ignore_index=255).backward()
        optimizer.step()
    marks()


def bare(root: Path, arguments: Arguments, seed: int, marks: Marks) -> nn.Module:
    """One batch that is in memory, again and again."""
    image, mask = next(iter(DataLoader(Windows(root, arguments, seed), arguments.batch)))
    network = make_network(arguments)
    loop(network, iter([(normalised(image), mask.long())] * arguments.steps), marks)
    return network


def plain(root: Path, arguments: Arguments, seed: int, marks: Marks) -> nn.Module:
    """The same loop over a DataLoader whose workers read windows with rasterio."""
    loader = DataLoader(Windows(root, arguments, seed), arguments.batch, num_workers=arguments.workers)
    network = make_network(arguments)
    loop(network, ((normalised(image), mask.long()) for image, mask in loader), marks)
    return network


def rsseg(root: Path, arguments: Arguments, seed: int, marks: Marks, precision: str = "32-true") -> nn.Module:
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
    return kept[0].network


def fit(task: Any, loader: Any) -> nn.Module:
    """A peer's task trained for one pass over a loader, without what else Lightning does."""
    import lightning as L

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(task, loader)
    return task.model


def torchgeo(root: Path, arguments: Arguments, seed: int, marks: Marks) -> nn.Module:
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
    task = Task("unet", arguments.encoder, None, in_channels=3, num_classes=len(CLASSES), loss="ce", lr=1e-3)
    marks.around(Task, "training_step")
    marks.around(Task, "on_train_end")
    return fit(task, loader)


def terratorch(root: Path, arguments: Arguments, seed: int, marks: Marks) -> nn.Module:
    """TerraTorch's task over the plain loop's windows."""
    import lightning as L
    from terratorch.tasks import SemanticSegmentationTask

    class Task(SemanticSegmentationTask):
        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            return {"image": normalised(batch[0]), "mask": batch[1].long()}

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    L.seed_everything(seed, verbose=False)
    loader = DataLoader(Windows(root, arguments, seed), arguments.batch, num_workers=arguments.workers)
    model = {"backbone": arguments.encoder, "model": "Unet", "in_channels": 3, "num_classes": len(CLASSES), "weights": None}
    task = Task(model_args=model, model_factory="SMPModelFactory", loss="ce", lr=1e-3, optimizer="AdamW")
    marks.around(Task, "training_step")
    marks.around(Task, "on_train_end")
    return fit(task, loader)


JOBS: dict[str, Callable[[Path, Arguments, int, Marks], nn.Module]] = {
    "bare": bare, "plain": plain, "rsseg": rsseg, "rsseg_auto": partial(rsseg, precision="auto"), "torchgeo": torchgeo,
    "terratorch": terratorch,
}  # fmt: skip


@torch.inference_mode()
def validation_iou(network: nn.Module, root: Path, size: int) -> float:
    """The mean IoU over the validation tiles, in windows that do not overlap."""
    counts = np.zeros((2, 2))
    for path in sorted((root / "images").glob("val_*.tif")):
        with rasterio.open(path) as image, rasterio.open(root / "masks" / path.name) as mask:
            for y, x in product(*(range(0, side - size + 1, size) for side in image.shape)):
                window = Window(x, y, size, size)
                pixels = normalised(torch.from_numpy(image.read(window=window)))[None]
                found = network.eval()(pixels.contiguous(memory_format=torch.channels_last))
                logits = found if isinstance(found, Tensor) else getattr(found, "output", None)
                logits = found["mask"] if logits is None else logits
                labels = logits.max(1).indices[0].numpy()
                counts += np.bincount((2 * mask.read(1, window=window) + labels).ravel(), minlength=4).reshape(2, 2)
    hits = counts.diagonal()
    return float(np.mean(hits / (counts.sum(0) + counts.sum(1) - hits)))


def usage() -> tuple[float, float]:
    """The processor time in seconds and the most resident memory in MB of this process and its ended children."""
    whole = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(one.ru_utime + one.ru_stime for one in whole), max(one.ru_maxrss for one in whole) / 1e3


def run_job(name: str, root: Path, arguments: Arguments, seed: int) -> dict[str, float]:
    """One job in this process, as what is measured of it."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(seed)
    marks = Marks()
    network = JOBS[name](root, arguments, seed, marks)
    trained = usage()
    iou = validation_iou(network, root, arguments.window)
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
    installed = [name for name in JOBS if name in ("bare", "plain") or find_spec(name.removesuffix("_auto"))]
    names = arguments.only.split(",") if arguments.only else installed
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(arguments.root or Path(folder) / "data").absolute(), Path(folder) / "job.json"
        if not arguments.root:
            write_tiles(root, {"train_0": arguments.side, "train_1": arguments.side, "val_0": arguments.validation})
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
    tiles = arguments.root or f"tiles of {arguments.side} px, a validation tile of {arguments.validation} px"
    print(f"{arguments.steps} steps of {arguments.batch} windows of {arguments.window} px, {tiles}\n")
    head = ["", "ms a step", "x bare", "of the processor", "x bare", "job, s of the processor", "MB", "IoU"]
    print(table(head, rows_of(found)))
    for name, jobs in found.items():
        parts = [key for key in (jobs[0] if jobs else ()) if key.startswith(PART)]
        if parts:
            print(f"\nWhat the job of {name} spends, in seconds of the processor\n")
            print(table(["", "s"], ([key.removeprefix(PART), f"{median(one[key] for one in jobs):.1f}"] for key in parts)))


def rows_of(found: dict[str, list[dict[str, float]]]) -> Iterator[list[str]]:
    """The rows of the table: medians over seeds, the IoU's mean and deviation."""
    middle = {name: {key: median(one[key] for one in jobs) for key in jobs[0]} for name, jobs in found.items() if jobs}
    base = middle.get("bare", next(iter(middle.values())))
    for name, own in middle.items():
        scores = [one["iou"] for one in found[name]]
        spread = f" ± {stdev(scores):.3f}" if len(scores) > 1 else ""
        limit = 1.03 if name == "rsseg" else None
        yield [
            name, f"{1e3 * own['step']:.0f}", judged(own["step"] / base["step"], limit), f"{1e3 * own['processor']:.0f}",
            judged(own["processor"] / base["processor"], limit), f"{own['job']:.1f}", f"{own['memory']:.0f}",
            f"{mean(scores):.3f}{spread}",
        ]  # fmt: skip
