"""Long loads: `python tests/soak.py` (an hour) fills the table of docs/reliability.md; `share=0.02` tries a fiftieth of it.

Every row states what is promised, and fails where it does not hold.
"""

import gc
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from run_folders import FOUR, make_records, write_records, write_run
from test_run import folder_data, settings, tiny
from tiny import CONFIGS, checker, coloured, write_tif

from rsseg.answer import compare
from rsseg.config.arguments import run_command
from rsseg.config.entry import ENTRY
from rsseg.config.folder import RunFolder
from rsseg.data.build import open_store
from rsseg.data.labels import Labels
from rsseg.data.masks import Mask
from rsseg.data.scene import Scene
from rsseg.module import SegmentationModule
from rsseg.run import train
from rsseg.task import Multiclass

PAGE = CONFIGS.parent / "docs/reliability.md"


@dataclass
class Arguments:
    """Load rsseg for an hour, and state what came of it.

    share=0.02             of the full load
    rows=NAME[,NAME...]    some of kills, fuzz, validations, comparisons, store, scene; default: all
    seed=N                 of what is random (1)
    write=true             write the table into docs/reliability.md
    """

    share: float = 1.0
    rows: list[str] = field(default_factory=list)
    seed: int = 1
    write: bool = False


class BrokenError(Exception):
    """A promise that does not hold."""


def resident() -> float:
    """The memory of this process in MB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def handles() -> int:
    """The files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def write_scenes(root: Path, count: int, side: int) -> Path:
    """Scenes with three classes, as files."""
    rng = np.random.default_rng(0)
    for i in range(count):
        mask = checker(rng, side, 3)
        write_tif(root / "images" / f"s{i}.tif", coloured(rng, mask))
        write_tif(root / "masks" / f"s{i}.tif", mask[None])
    return root


def kills(folder: Path, count: int) -> str:
    """Runs that are killed at a random moment, once or more, and go on, against one that is not."""
    root = write_scenes(folder / "data", 6, 96)
    words = ["steps=30", "validations=3", "checkpoint_every=5", "pictures=0", *folder_data(root)]
    wanted, killed, begin = RunFolder(folder / "whole"), 0, time.monotonic()
    subprocess.run([*ENTRY, "train", *tiny(folder, *words), f"hydra.run.dir={wanted}"], capture_output=True, check=True)
    seconds = time.monotonic() - begin
    weights = wanted.load_state()[0]
    for number in range(count):
        run = RunFolder(folder / f"run{number}")
        for _ in range(20):
            given = [f'resume="{run}"'] if run.begun else [*tiny(folder, *words), f"hydra.run.dir={run}"]
            process = subprocess.Popen([*ENTRY, "train", *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=random.uniform(0.3, 1.1) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM]))
                process.wait()
                killed += 1
            if run.finished:
                break
        if not run.finished:
            train(run.config() if run.begun else settings(folder, *words), run.path)
        found = run.load_state()[0]
        if not all(torch.equal(weights[name], found[name]) for name in weights):
            raise BrokenError(f"run {number} has other weights than the one that was not killed")
    return f"{count} runs, {killed} kills: all end with the weights of the run that was not killed, bit for bit"


def fuzz(_: Path, count: int, seed: int) -> str:
    """Random datasets and overrides: a result or one line."""
    words = [sys.executable, str(Path(__file__).with_name("fuzz.py")), str(count), f"--first={1000 * seed}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BrokenError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1]


def validations(folder: Path, count: int) -> str:
    """Validations of one process: memory and open files stay."""
    root = write_scenes(folder / "data", 8, 128)
    config = settings(folder, *folder_data(root), f"steps={count}", f"validations={count}", "pictures=0")
    found = list[tuple[float, int]]()
    real = SegmentationModule.on_validation_end

    def noted(module: SegmentationModule) -> None:
        real(module)
        found.append((resident(), handles()))

    SegmentationModule.on_validation_end = noted  # type: ignore[method-assign]
    try:
        train(config, folder / "run")
    finally:
        SegmentationModule.on_validation_end = real  # type: ignore[method-assign]
    return flat(found, "validations")


def flat(found: list[tuple[float, int]], what: str) -> str:
    """What a load of many like parts says of memory and handles: the last fifth against the second."""
    fifth = max(1, len(found) // 5)
    early, late = found[fifth : 2 * fifth] or found[:1], found[-fifth:]
    (before, open_before), (after, open_after) = (np.median(np.array(part), axis=0) for part in (early, late))
    if after - before > max(60.0, 0.05 * before) or open_after > open_before + 2:
        raise BrokenError(
            f"{what}: {before:.0f} MB and {open_before:.0f} files became {after:.0f} MB and {open_after:.0f} files"
        )
    return f"{len(found)} {what}: {before:.0f} MB, then {after:.0f} MB; {open_before:.0f} open files, then {open_after:.0f}"


def comparisons(folder: Path, count: int) -> str:
    """One comparison of many runs, and the memory that it takes."""
    seeds = max(2, count // 4)
    for loss in ("ce", "dice", "focal", "lovasz"):
        for seed in range(1, seeds + 1):
            run = folder / "runs" / f"loss={loss},seed={seed}"
            records = make_records(FOUR, loss, seed)
            write_run(run, FOUR, loss, seed, records)
            write_records(run, records)
    before, begin = resident(), time.monotonic()
    compare([folder / "runs"])
    return f"{4 * seeds} runs compared in {time.monotonic() - begin:.0f} s, {resident() - before:.0f} MB more than before"


def store(folder: Path, count: int) -> str:
    """A store of many scenes: decoded, opened again, read."""
    root = write_scenes(folder / "data", 1, 64)
    scenes = []
    for i in range(count):
        for kind in ("images", "masks"):
            (folder / "many" / kind).mkdir(parents=True, exist_ok=True)
            os.link(root / kind / "s0.tif", folder / "many" / kind / f"s{i}.tif")
        scenes.append(Scene(f"s{i}", folder / f"many/images/s{i}.tif", (Mask(folder / f"many/masks/s{i}.tif"),)))
    labels, seconds = [Labels(Multiclass(("a", "b", "c")))], []
    for _ in range(2):
        begin = time.monotonic()
        opened = open_store(scenes, labels, [1, 2, 3], folder / "store")
        seconds.append(time.monotonic() - begin)
    before, files = resident(), handles()
    for i in range(count):
        opened.cut([(i, 0, 0)], 64)
    return (
        f"{count} scenes: decoded in {seconds[0]:.0f} s, opened again in {seconds[1]:.1f} s; reading one window of each adds "
        f"{resident() - before:.0f} MB and {handles() - files} open files"
    )


def scene(_: Path, side: int) -> str:
    """One large scene mapped in a process of its own."""
    script = str(CONFIGS.parent / "scripts/bench.py")
    words = [sys.executable, script, "predict", f"side={side}", "encoder=none", "window=512", "margin=32", "only=mapping"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def main(arguments: Arguments) -> None:
    """Run the rows, print the table, and write it."""
    random.seed(arguments.seed)
    torch.set_num_threads(1)
    share = arguments.share
    jobs: dict[str, Callable[[Path], str]] = {
        "kills": partial(kills, count=max(1, round(50 * share))),
        "fuzz": partial(fuzz, count=max(2, round(2000 * share)), seed=arguments.seed),
        "validations": partial(validations, count=max(10, round(100 * share))),
        "comparisons": partial(comparisons, count=max(8, round(1000 * share))),
        "store": partial(store, count=max(10, round(20000 * share))),
        "scene": partial(scene, side=max(1024, round(30000 * share))),
    }
    lines, broken = [], 0
    for name in arguments.rows or jobs:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            try:
                said = jobs[name](Path(folder))
            except BrokenError as error:
                said, broken = f"BROKEN: {error}", broken + 1
        lines.append(f"| {name} | {said} | {time.monotonic() - begin:.0f} |")
        print(lines[-1], flush=True)
    if arguments.write:
        from bench_measure import fill

        head = [
            f"{datetime.now(UTC):%Y-%m-%d}, `python tests/soak.py share={share:g}`",
            "",
            "| load | outcome | s |",
            "| --- | --- | ---: |",
        ]
        fill(PAGE, "soak", "\n".join([*head, *lines]))
    sys.exit(bool(broken))


if __name__ == "__main__":
    run_command(Arguments, main)
