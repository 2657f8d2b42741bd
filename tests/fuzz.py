"""Random datasets and random overrides: `python tests/fuzz.py 2000` tries so many, `python tests/fuzz.py 0 --case data-17` one.

Every case is a function of its number. It has to give a result or an `InputError`; anything else is a fault of rsseg.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_gcps
from tiny import CONFIGS

from rsseg.assembly import make_setup, with_bands
from rsseg.config.cli import check_early, compose, own_part
from rsseg.contract import InputError
from rsseg.data.windows import GridWindows
from rsseg.dataset import open_data

SECONDS = 60
"""A case that takes longer hangs."""

BYTES = 2e9
"""Memory that one case may add."""

MODES = ["RGB", "RGB", "RGB", "RGB", "RGBA", "P", "L", "LA", "1", "CMYK"]

MASKS: list[tuple[list[float], list[str]]] = [
    ([0, 1], ["dataset.classes=[a,b]"]),
    ([0, 1], ["dataset.task=binary", "dataset.classes=[a]"]),
    ([0, 1, 2], ["dataset.classes=[a,b,c]"]),
    ([0, 255], ["dataset.task=binary", "dataset.classes=[a]", "dataset.mask_values=[0,255]"]),
    ([1, 2, 3], ["dataset.classes=[a,b,c]", "dataset.mask_values=[1,2,3]"]),
    ([0, 127, 255], ["dataset.classes=[a,b,c]", "dataset.mask_values=[0,127,255]"]),
    ([0, 60, 200], ["dataset.classes=[a,b]", 'dataset.mask_values=["0-127","128-255"]']),
    ([0, 1, 300], ["dataset.classes=[a,b]", "dataset.ignore_values=[300,44]"]),
    ([-1, 0, 1], ["dataset.classes=[a,b]", "dataset.ignore_values=[-1]"]),
    ([np.nan, 0, 1], ["dataset.classes=[a,b]"]),
    ([0, 0.5, 1], ["dataset.classes=[a,b]"]),
]
"""What masks hold, and the settings that say so."""

TINY = ["window=32", "batch_size=2", "steps=2", "validations=1", "workers=0", "trainer=cpu", "pictures=0"]
DTYPES = ["uint8", "uint8", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "complex64"]
CRS = ["EPSG:32633", "EPSG:4326", "EPSG:3857", "EPSG:3031", None, 'LOCAL_CS["here",UNIT["metre",1]]']


class FaultError(Exception):
    """A case has given neither a result nor an `InputError`."""


@contextmanager
def bounded(seconds: int):
    """Interrupt what takes too long."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def write_image(rng: np.random.Generator, path: Path, size: tuple[int, int], bands: int, dtype: str, place: str | None) -> None:
    """An image of any form, in a CRS or, of PNG, JPEG and BMP, of a mode of Pillow's."""
    height, width = size
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        pixels = rng.integers(limits.min, limits.max, (bands, height, width), dtype=kind, endpoint=True)
    else:
        pixels = rng.normal(0, 10.0 ** rng.integers(-3, 4), (bands, height, width)).astype(kind)
        if rng.random() < 0.3:
            pixels[:, rng.random((height, width)) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    suffix = path.suffix
    if suffix in (".png", ".jpg", ".bmp") and dtype == "uint8":
        mode = str(place)
        plain = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
        plain = plain.convert("RGB").convert(mode) if mode != "RGBA" else plain
        unlike = {".jpg": ("RGBA", "LA", "P", "1"), ".bmp": ("RGBA", "LA", "CMYK"), ".png": ("CMYK",)}[suffix]
        plain.convert("RGB" if mode in unlike else mode).save(path)
        return
    form: dict[str, Any] = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": dtype}
    if place:
        scale = 1e-5 if "4326" in place else 0.5
        corner = Affine.translation(*rng.uniform(-9 * scale, 0, 2)) * Affine.rotation(rng.choice([0, 0, 0, 0, 30]))
        form |= {"crs": place, "transform": corner * Affine.scale(scale, -scale * rng.choice([1, 1, 1, -1]))}
    if rng.random() < 0.05:
        gcps = [GroundControlPoint(r, c, 15 + c * 1e-4, 50 - r * 1e-4) for r in (0, height) for c in (0, width)]
        form["transform"] = from_gcps(gcps)
    if rng.random() < 0.3:
        form["nodata"] = float(rng.choice([0, 255, -9999, np.nan])) if kind.kind == "f" else int(rng.choice([0, 1, 127]))
    if rng.random() < 0.4:
        form["compress"] = rng.choice(["lzw", "deflate", "packbits"])
    if rng.random() < 0.3:
        form |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
    if rng.random() < 0.1 and dtype == "uint8":
        form["nbits"] = int(rng.choice([1, 2, 4]))
    try:
        with rasterio.open(path, "w", **form) as raster:
            raster.write(pixels)
    except rasterio.errors.RasterioError:  # no such file can be made
        path.write_bytes(pixels.tobytes())


def write_mask(rng: np.random.Generator, path: Path, size: tuple[int, int], values: list[float]) -> None:
    """A mask of any form."""
    height, width = size
    labels = rng.choice(np.array(values), (height, width))
    if path.suffix in (".geojson", ".json"):
        corners = [rng.choice([1, 2, 3, 4, 5, 5, 5]) for _ in range(rng.integers(0, 4))]
        rings = [[rng.uniform(-1e-3, 1e-3, 2).tolist() for _ in range(many)] for many in corners]
        features: list[Any] = [
            {
                "type": "Feature",
                "properties": {"kind": rng.choice(["a", "b", "é", ""]), "number": int(rng.integers(-2, 300))},
                "geometry": None if rng.random() < 0.2 else {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
            }
            for ring in rings
        ]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return
    if path.suffix in (".png", ".bmp"):
        grey = labels.clip(0, 255).astype(np.uint8)
        if rng.random() < 0.95:
            Image.fromarray(grey).save(path)
        else:
            Image.fromarray(np.stack([grey, grey // 2, 255 - grey], axis=-1)).save(path)
        return
    dtype = rng.choice(["uint8", "int16", "uint16", "float32", "int32"])
    with np.errstate(invalid="ignore"):
        pixels = np.repeat(labels.astype(dtype)[None], rng.choice([1, 1, 1, 1, 2, 3]), axis=0)
    form: dict[str, Any] = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 0, 0, -0.5, 0)} if rng.random() < 0.2 else {}
    with rasterio.open(path, "w", driver="GTiff", count=len(pixels), height=height, width=width, dtype=dtype, **form) as raster:
        raster.write(pixels)


def damage(rng: np.random.Generator, path: Path) -> None:
    """Cut a file, flip bytes of it, or replace it by something else."""
    content = bytearray(path.read_bytes())
    how = rng.integers(5)
    if how == 0:
        content = content[: rng.integers(0, len(content) + 1)]
    elif how == 1:
        for place in rng.integers(0, len(content), rng.integers(1, 20)) if content else ():
            content[place] = rng.integers(256)
    elif how == 2:
        content = bytearray(rng.bytes(rng.integers(0, 200)))
    elif how == 3:
        content = bytearray("<VRTDataset rasterXSize='9' rasterYSize='9'/>", "utf-8")
    path.unlink()
    if how == 4:
        path.mkdir()
    else:
        path.write_bytes(content)


def data_case(rng: np.random.Generator, folder: Path) -> list[str]:
    """Write a dataset of any form; the overrides that train on it."""
    root = folder / "data"
    images, masks = root / str(rng.choice(["images", "Images", "im[1]"])), root / str(rng.choice(["masks", "gt é"]))
    images.mkdir(parents=True)
    masks.mkdir()
    suffix, mask_suffix = rng.choice([".tif", ".tif", ".png", ".jpg", ".bmp"]), rng.choice([".tif", ".png", ".bmp"])
    if suffix == ".tif" and rng.random() < 0.3:
        mask_suffix = ".geojson"
    dtype, bands = (str(rng.choice(DTYPES)), int(rng.choice([1, 3, 3, 4, 5]))) if suffix == ".tif" else ("uint8", 3)
    place = rng.choice(np.array(CRS if suffix == ".tif" else MODES, dtype=object))
    if suffix == ".tif" and mask_suffix == ".geojson":
        place = "EPSG:4326"
    values, meaning = MASKS[rng.integers(len(MASKS))]
    words = rng.choice(["a", "tile", "é", "1e3", "2_10", "x y", "t[4]", "z=1"], rng.integers(2, 7))
    names = [f"{word}{i}" for i, word in enumerate(words)]
    names = names if rng.random() < 0.95 else names[: rng.integers(2)]
    alike = rng.random() < 0.8
    side = int(rng.integers(20, 90)), int(rng.integers(20, 90))
    for name in names:
        size = side if alike else (int(rng.integers(1, 90)), int(rng.integers(1, 90)))
        own_dtype = dtype if alike or suffix != ".tif" else str(rng.choice(DTYPES))
        write_image(rng, images / f"{name}{suffix}", size, bands, own_dtype, place)
        if rng.random() < 0.985:
            write_mask(rng, masks / f"{name}{mask_suffix}", size if rng.random() < 0.985 else (7, 9), values)
    there = [path for place in (images, masks) for path in place.iterdir()]
    if there and rng.random() < 0.2:
        damage(rng, there[rng.integers(len(there))])
    split = rng.choice(["{train: 0.5, val: 0.5}", "{val: 0.5}", "{val: list.txt}", '{val: ["*0"]}', "null", "{train: 0.6}"])
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    (root / "list.txt").write_bytes("\r\n".join(names[::2]).encode(encoding, "replace"))
    words = [
        *TINY, "dataset=folder", f"dataset.source.root={root}", f"output={folder}",
        f'dataset.source.image="{images.name}/{{name}}.*"', f'dataset.source.mask="{masks.name}/{{name}}.*"',
        f"dataset.source.split={split}", f"dataset.bands=[{','.join(str(b + 1) for b in range(min(bands, 3)))}]", *meaning,
    ]  # fmt: skip
    choices = [
        "dataset.task=binary", "dataset.task=multilabel", "dataset.mask_values=[0,255]",
        "dataset.mask_values=['0-127','128-255']",
        "dataset.mask_values=['#000000','#ffffff']", "dataset.ignore_values=[0]", "dataset.nodata=0", "dataset.nodata=-9999",
        "dataset.bands=[1]", "dataset.bands=[3,2,1]", "dataset.bands=null", "dataset.source.threshold=127",
        "dataset.fractions=1",
        "dataset.colour_tolerance=20", "dataset.source.group=2000", "dataset.rgb=[1,2,9]", "dataset.source.attribute=kind",
        "dataset.source.attribute=number", "dataset.classes=[a]", "dataset.classes=[no,yes]", "on_bad_scene=skip",
    ]  # fmt: skip
    return words + list(rng.choice(choices, rng.choice([0, 0, 0, 1, 2]), replace=False))


VALUES = [
    "null", "''", "a", "0", "-1", "1", "2.5", "1e9", "nan", "inf", "-inf", "true", "[]", "{}", "[1,a]", "[[1]]", "{a: 1}",
    "{a: {b: null}}",
    "'é\u0301 ü'", "'\\${x}'", "'???'", "[null]", "'a b'", "99999999999999999999", "0x10", "1_000", "'rsseg.losses.Dice'",
    "'os.system'",
    "{_target_: rsseg.losses.Dice}", "{_target_: os.system}", "'../..'", "/dev/null", "'\\x00'", "[0.5,-0.5]", "1e-400",
    "False",
]  # fmt: skip


def flat_keys(node: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a config, of nodes too."""
    found = [prefix] if prefix else []
    if isinstance(node, dict):
        for key, child in node.items():
            found += flat_keys(child, f"{prefix}.{key}".lstrip("."))
    return found


_KEYS: list[str] = []


def override_case(rng: np.random.Generator, folder: Path) -> list[str]:
    """Overrides of any type at any key."""
    from omegaconf import OmegaConf

    if not _KEYS:
        _KEYS.extend(flat_keys(OmegaConf.to_container(own_part(compose(CONFIGS, [])), resolve=False)))
    words = [*TINY, f"output={folder}"]
    if rng.random() < 0.3:
        words.append(f"loss={rng.choice(['ce', 'focal_dice', 'lovasz', 'ce_dice', 'none', 'huber'])}")
    for _ in range(rng.integers(1, 4)):
        key, value = str(rng.choice(_KEYS)), str(rng.choice(VALUES))
        form = rng.random()
        words.append(f"{key}={value}" if form < 0.8 else f"+{key}.new={value}" if form < 0.9 else f"~{key}")
    return words


KINDS = {"data": data_case, "overrides": override_case}


def run_case(name: str) -> str:
    """The outcome of a case: ``result``, or what it was refused for.

    Raises:
        FaultError: If it is neither.
    """
    kind, number = name.rsplit("-", 1)
    rng = np.random.default_rng([list(KINDS).index(kind), int(number)])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        words = KINDS[kind](rng, Path(made))
        before, start = getrusage(RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            with bounded(SECONDS):
                config = own_part(compose(CONFIGS, words))
                check_early(config)
                setup = make_setup(config, list(config.trust))
                if kind == "data":
                    setup, source = with_bands(setup)
                    data = open_data(setup.dataset, source, setup.window)
                    for store in data.stores.values():
                        windows = GridWindows(store, setup.window, setup.margin)
                        batch = windows.batch(list(range(min(4, len(windows)))))
                        assert batch["image"].shape[2:] == (setup.window, setup.window)
            found = "result"
        except InputError as error:
            found = str(error).replace(made, "")
            if not found.strip() or "Traceback" in found or len(found) > 6000:
                raise FaultError(f"{name}: {words}\nsays: {found[:500]}") from None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise FaultError(f"{name}: {words}\n{traceback.format_exc()}") from None
        more = (getrusage(RUSAGE_SELF).ru_maxrss - before) * 1024
        if more > BYTES:
            raise FaultError(f"{name}: {words}\ntook {more / 1e9:.1f} GB of memory in {time.monotonic() - start:.0f} s")
    return found


def main() -> None:
    """Try many cases; say every fault, and what came of the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="how many cases of both kinds together")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--case", help="one case, such as data-17, and what comes of it")
    arguments = parser.parse_args()
    if arguments.case:
        print(run_case(arguments.case))
        return
    faults, results = [], 0
    for number in range(arguments.first, arguments.first + arguments.count // len(KINDS)):
        for kind in KINDS:
            try:
                results += run_case(f"{kind}-{number}") == "result"
            except FaultError as fault:
                faults.append(fault)
                print(f"{fault}\n", flush=True)
    print(
        f"{arguments.count} cases: {results} results, {arguments.count - results - len(faults)} refused, {len(faults)} faults"
    )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
