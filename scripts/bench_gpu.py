"""All that is to be known of a GPU in one unattended run, for scripts/bench.py."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from bench_gpu_losses import bandwidth, compiled_times, exactness, launches, loss_times
from bench_gpu_training import mapping, training
from bench_losses import PACKAGES
from bench_measure import Jobs, Row, fill, table, versions

from rsseg.config.provenance import git_state
from rsseg.contract import InputError, nearest
from rsseg.version import __version__

PAGE = "docs/benchmarks.md"


@dataclass
class Arguments:
    """A GPU's exactness, launches, loss times, training and mapping, written into docs/benchmarks.md row by row.

    minutes=N     in all (8); what there is no time for is named and left out
    device=cpu    try the script without a GPU: give page=, no figure of it is one of a GPU
    page=FILE     where the tables go (docs/benchmarks.md), a page with a place for them
    batch=N       images at a time (16)
    side=N        their side in pixels (512)
    rounds=N      how often a loss is timed (20)
    steps=N       training steps (150)
    tile=N        the side of the six scenes that are trained on (4096)
    scene=N       the side of the scene that is mapped (10000)
    encoder=NAME  of the U-Net that is trained (resnet34)
    sections=NAME[,NAME...]  those tables alone: exactness, launches, losses, training, mapping (needs training), compiled
    output=FOLDER  where scenes and runs go (a temporary folder)
    """

    minutes: float = 8.0
    device: str = "cuda"
    page: str = PAGE
    batch: int = 16
    side: int = 512
    rounds: int = 20
    steps: int = 150
    tile: int = 4096
    scene: int = 10000
    encoder: str = "resnet34"
    sections: list[str] = field(default_factory=list)
    output: str = ""


class Section(NamedTuple):
    """A table of the page.

    Attributes:
        share: Of the time; what a section leaves over goes to those after it.
        head: What its columns are.
        jobs: What measures each row.
    """

    share: float
    head: Sequence[str]
    jobs: Callable[[Arguments], Jobs]


SECTIONS = {
    "exactness": Section(0.05, ["term", "float32", "bfloat16", "float16"], exactness),
    "launches": Section(0.05, ["7 classes", "kernels forward", "backward", "waits for the device"], launches),
    "losses": Section(0.25, ["forward and backward", "ms", "x byte floor", "peak memory, x logits"], loss_times),
    "training": Section(
        0.3,
        ["", "images/s", "data %", "forward %", "loss %", "backward %", "update %", "metrics, % of validation", "peak GB"],
        training,
    ),
    "mapping": Section(0.1, ["", "seconds", "megapixels/s"], mapping),
    "compiled": Section(0.25, ["forward and backward", "ms", "x byte floor", "peak memory, x logits"], compiled_times),
}
"""In this order: what compiles comes last, as it may take any time."""


def main(arguments: Arguments) -> None:
    """Measure all sections.

    Raises:
        InputError: If there is no GPU, or figures of a CPU would be written as those of a GPU.
    """
    begin, device = time.monotonic(), torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device=cuda: no GPU is found; device=cpu page=... tries the script, with a copy of {PAGE}")
    if device.type != "cuda" and arguments.page == PAGE:
        raise InputError(f"{PAGE} has figures of a GPU: give page=..., a copy of it")
    page, chosen = Path(arguments.page), arguments.sections or list(SECTIONS)
    for name in chosen:
        if name not in SECTIONS:
            raise InputError(f"sections={name}{nearest(name, SECTIONS)}: there are {', '.join(SECTIONS)}")
    text = describe(arguments, device)
    fill(page, "gpu", text)
    end, whole = begin, sum(SECTIONS[name].share for name in chosen)
    with TemporaryDirectory() as temporary:
        arguments = replace(arguments, output=arguments.output or temporary)
        for name in chosen:
            section, rows = SECTIONS[name], []
            end += 60 * arguments.minutes * section.share / whole
            part = ""
            for job, measure in section.jobs(arguments).items():
                rows.append([job, *result(measure, end)])
                print(" | ".join(rows[-1]), flush=True)
                part = f"\n\n**{name}**\n\n{table(section.head, [pad(row, len(section.head)) for row in rows])}"
                fill(page, "gpu", text + part)
            text += part


def result(measure: Callable[[], Row], end: float) -> Row:
    """A row, or why there is none: one fault must not cost the rest of an unattended run."""
    if time.monotonic() > end:
        return ["left out: no time"]
    try:
        return measure()
    except Exception as error:
        line = f"failed: {type(error).__name__}: {str(error).strip()}".splitlines()[0]
        return [line[:200].replace("|", "/")]


def pad(row: Row, width: int) -> Row:
    """A row of full width."""
    return [*row, *[""] * (width - len(row))]


def describe(arguments: Arguments, device: torch.device) -> str:
    """The machine, the code, and what was asked for."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "NO GPU: a CPU, to try the script"
    code = git_state(Path(__file__).parents[1] / "rsseg")
    commit = f"commit {code['commit']}{', changed' if code['changed'] else ''}" if code["commit"] else "no commit"
    return "\n".join(
        [
            f"{name}; {bandwidth(device) / 1e9:.0f} GB/s in a copy; CUDA {torch.version.cuda}; {versions(PACKAGES)}.",
            f"rsseg {__version__}, {commit}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
            f"{arguments.batch} images of {arguments.side} px; {arguments.steps} steps of a U-Net with {arguments.encoder}.",
        ]
    )
