"""How all benchmarks measure, and how their tables get into a page, for scripts/bench.py."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin

from rsseg.contract import InputError
from rsseg.files import write_text

Call = Callable[[], object]
Row = list[str]
Jobs = dict[str, Callable[[], Row]]
"""What measures each row of a table, by the row's name."""

CPU = torch.device("cpu")


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def now(device: torch.device = CPU) -> float:
    """The time in seconds at which a device has done what it was given.

    On one thread of a CPU that is the processor's time, which does not go on while other programs run.
    """
    synchronize(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def seconds(call: Call, device: torch.device = CPU) -> float:
    """What a call takes."""
    begin = now(device)
    call()
    return now(device) - begin


def interleaved(calls: Mapping[str, Call], rounds: int, device: torch.device = CPU) -> dict[str, float]:
    """The median seconds of each call, all of them in turn, so that a machine that slows down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # what another call has left of caches and free memory is not measured
            times[name].append(seconds(call, device))
    return {name: median(found) for name, found in times.items()}


def peak_bytes(call: Call, device: torch.device = CPU) -> int:
    """The most memory that a call holds at once, beyond what was held before it.

    On a GPU this is the allocator's own peak. On a CPU it is the running sum of all blocks that PyTorch's allocator hands
    out and takes back, as its profiler lists them: the same number in every run, whereas the resident size of a process
    depends on what earlier work has freed. Memory of NumPy and SciPy is not seen.
    """
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    blocks = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["args"]["Ev Idx"])
    return max(accumulate((event["args"]["Bytes"] for event in blocks), initial=0))


def write_raster(path: Path, pixels: np.ndarray, left: float = 500_000, **options: object) -> None:
    """Write ``[bands, H, W]`` of uint8 as a GeoTIFF with pixels of 0.3 m."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, **options, transform=from_origin(left, 4_000_000, 0.3, 0.3)) as file:
        file.write(pixels)


def versions(packages: Sequence[str]) -> str:
    """The packages with their versions, those that are installed."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def judged(value: float, limit: float | None, form: str = ".2f") -> str:
    """A number, and whether it is within its limit.

    Example:
        >>> judged(0.41, 0.5), judged(0.6, 0.5), judged(3, None)
        ('0.41 (at most 0.5: pass)', '0.60 (at most 0.5: FAIL)', '3.00')
    """
    if limit is None:
        return f"{value:{form}}"
    return f"{value:{form}} (at most {limit:g}: {'pass' if value <= limit else 'FAIL'})"


def fill(page: Path, name: str, text: str) -> None:
    """Replace what stands in a page between ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises:
        InputError: If the page has no such place.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, begun, rest = (page.read_text(encoding="utf-8") if page.is_file() else "").partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise InputError(f"{page} has no place for these figures: it needs the lines {begin.strip()} and {end}")
    write_text(page, f"{before}{begin}\n{text}\n\n{end}{after}")
