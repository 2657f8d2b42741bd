"""Windows of large tiles, from the store and from its peers, for scripts/bench.py."""

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
import torch
from bench_measure import versions, write_raster
from rasterio.windows import Window
from torchgeo.datasets import RasterDataset
from torchgeo.samplers import RandomGeoSampler

from rsseg.data.build import open_store
from rsseg.data.labels import Labels
from rsseg.data.masks import Mask
from rsseg.data.sampling import Uniform
from rsseg.data.scene import Scene
from rsseg.data.store import Store, load_scenes
from rsseg.task import Binary

Place = tuple[int, int, int]
BATCH = 8


@dataclass
class Arguments:
    """Image-and-mask windows of generated RGB tiles, as multiples of np.memmap slices of the same bytes.

    tiles=N       how many (4)
    side=N        their side in pixels (5000)
    window=N      the windows' side in pixels (512)
    rounds=N      how often each reads a batch of 8, all of them in turn (50); medians per window are printed
    compress=...  of the tiles: none (as Inria's), deflate, lzw
    """

    tiles: int = 4
    side: int = 5000
    window: int = 512
    rounds: int = 50
    compress: str = "none"


def write_tiles(folder: Path, count: int, side: int, compress: str) -> list[Scene]:
    """Tiles of noise, a row of them, and for np.memmap the same pixels as .npy files."""
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        paths = {}
        for kind, bands, high in (("image", 3, 256), ("mask", 1, 2)):
            pixels = rng.integers(0, high, (bands, side, side), dtype=np.uint8)
            paths[kind] = folder / f"{kind}_{i}.tif"
            write_raster(paths[kind], pixels, left=500_000 + 0.3 * side * i, compress=compress)
            np.save(folder / f"{kind}_{i}.npy", np.moveaxis(pixels, 0, -1).squeeze())
        found.append(Scene(str(i), paths["image"], (Mask(paths["mask"]),)))
    return found


def of_numpy(folder: Path, count: int, size: int) -> dict[str, Callable[[list[Place]], Any]]:
    """What no reader can be faster than: a copy of as many bytes, and of a slice of a memory map."""
    maps = [[np.load(folder / f"{kind}_{i}.npy", mmap_mode="r") for kind in ("image", "mask")] for i in range(count)]
    for pixels in (file for pair in maps for file in pair):
        pixels.max()  # so that the pages are in memory and in the map, here as of the store
    block = np.ones(4 * size * size, np.uint8)

    def slices(places: list[Place]) -> list[Any]:
        return [np.array(file[y : y + size, x : x + size]) for scene, y, x in places for file in maps[scene]]

    return {"np.memmap slice": slices, "memcpy": lambda places: [block.copy() for _ in places]}


def of_rasterio(scenes: list[Scene], size: int) -> Callable[[list[Place]], Any]:
    """Windows through open files."""
    files = [[rasterio.open(path) for path in (scene.image, *(m.path for m in scene.masks if m))] for scene in scenes]

    def read(places: list[Place]) -> list[Any]:
        return [file.read(window=Window(x, y, size, size)) for scene, y, x in places for file in files[scene]]

    return read


def of_torchgeo(folder: Path, size: int, count: int) -> Callable[[list[Place]], Any]:
    """Random windows of torchgeo's own sampler, which says itself where they lie."""

    class Images(RasterDataset):
        filename_glob = "image_*.tif"

    class Masks(RasterDataset):
        filename_glob = "mask_*.tif"
        is_image = False

    dataset = Images(str(folder)) & Masks(str(folder))
    queries = iter(RandomGeoSampler(dataset, size=size, length=count))
    return lambda places: [dataset[next(queries)] for _ in places]


def of_rsseg(stores: dict[str, Store], size: int) -> dict[str, Callable[[list[Place]], Any]]:
    """Batches cut out of the store, on a GPU until they are there."""

    def cut(store: Store) -> Callable[[list[Place]], Any]:
        def batch(places: list[Place]) -> Any:
            found = store.cut(places, size)
            if store.device is not None and store.device.type == "cuda":
                torch.cuda.synchronize()
            return found

        return batch

    return {f"rsseg: store, {name}": cut(store) for name, store in stores.items()}


def main(arguments: Arguments) -> None:
    """Measure everything on the same tiles."""
    count, side, size, rounds = arguments.tiles, arguments.side, arguments.window, arguments.rounds
    torch.set_num_threads(1)
    packages = ("torch", "numpy", "rasterio", "torchgeo")
    print(f"{versions(packages)} on {platform.machine()}, one thread; {count} tiles of {side} px, windows of {size} px")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = write_tiles(folder, count, side, arguments.compress)
        labels, stores = Labels(Binary(("one",))), {}
        begin = time.perf_counter()
        for name in ("disk", "ram", *(["gpu"] if torch.cuda.is_available() else [])):
            stores[name] = open_store(scenes, [labels], [1, 2, 3], folder / "store")
            if name == "disk":
                print(f"decoded and counted in {(time.perf_counter() - begin) / count:.2f} s a tile, all cores")
            for scene in range(count):
                image, layers, missing = stores[name].arrays(scene)
                _ = [pixels.max() for pixels in (image, *layers.values(), missing) if pixels is not None]
            if name != "disk":
                load_scenes([stores[name]], torch.device("cuda") if name == "gpu" else None)
        compared = of_numpy(folder, count, size) | of_rsseg(stores, size)
        compared |= {"rasterio, open files": of_rasterio(scenes, size)}
        compared |= {"torchgeo: RasterDataset, RandomGeoSampler": of_torchgeo(folder, size, (rounds + 3) * BATCH)}
        times: dict[str, list[float]] = {name: [] for name in compared}
        sampler = Uniform(0, stores["disk"].sizes, size)
        for k in range(rounds + 3):  # the first three are left out
            places = [sampler(k * BATCH + i) for i in range(BATCH)]
            for name, read in compared.items():
                begin = time.perf_counter()
                read(places)
                times[name].append((time.perf_counter() - begin) / BATCH)
        base = median(times["np.memmap slice"][3:])
        print(f"\n{'a window of image and mask':48}{'ms':>10}{'x np.memmap':>14}")
        for name, taken in times.items():
            print(f"{name:48}{1e3 * median(taken[3:]):10.3f}{median(taken[3:]) / base:14.2f}")
