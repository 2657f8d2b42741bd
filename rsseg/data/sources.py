"""Made-up scenes as a source: written on first use."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.transform import from_origin
from shapely.affinity import affine_transform
from shapely.geometry import box

from rsseg.contract import InputError, nearest
from rsseg.data.masks import Mask
from rsseg.data.paths import find_files
from rsseg.data.raster import new_raster
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import SPLITS
from rsseg.data.synthetic import CRS, PALETTE, PIXEL, SKY, SceneRecipe, generate
from rsseg.data.vehicles import VEHICLES, Floats
from rsseg.files import UnwritableError, file_error, remove_parts
from rsseg.progress import progress

VEHICLE_NUMBERS = tuple((kind, number) for number, kind in enumerate(VEHICLES, 1))

IN_CLOUDS = ("sky", *SKY)  # further contents of the files of a scene with clouds
LAYERS = ("masks", "heights", "vehicles", *IN_CLOUDS)  # possible contents of the files of a scene


class Synthetic(Source):
    """Made-up scenes, written on first use as GeoTIFFs in a folder of their own per recipe.

    Args:
        root: The folder that holds the recipes' folders.
        scenes: How many scenes each split has.
        recipe: Their composition.
        seed: Same seed and recipe, same scenes.
        target: The target to be learnt: masks (labels), heights (metres), vehicles (objects), clouds, shadows, water, or sky,
            which has a band for each of these three.
        targets: For several targets, one of these for each name: ``{cover: {mask: masks}, height: {mask: heights}}``.
    """

    def __init__(
        self,
        root: str,
        scenes: Mapping[str, int],
        recipe: SceneRecipe,
        seed: int = 0,
        target: str = "masks",
        targets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        named = {f"dataset.targets.{name}.mask": own.get("mask") for name, own in (targets or {}).items()}
        self.folders = []
        for place, folder in (named or {"dataset.source.target": target}).items():
            if folder not in LAYERS:
                raise InputError(f"{place}={folder}{nearest(str(folder), LAYERS)}: one of {', '.join(LAYERS)} is expected")
            if folder == "vehicles" and not recipe.vehicles:
                raise InputError(f"{place}=vehicles: there are none; set dataset.source.recipe.vehicles=60, for example")
            if folder in IN_CLOUDS and not recipe.clouds:
                raise InputError(f"{place}={folder}: there are no clouds; set dataset.source.recipe.clouds=0.2, for example")
            self.folders.append(str(folder))
        self.counts = dict(scenes) if isinstance(scenes, Mapping) else {}
        if not self.counts or not all(s in SPLITS and isinstance(n, int) and 0 <= n <= 1000 for s, n in self.counts.items()):
            expected = "whole numbers up to 1000, such as '{train: 12, val: 4, test: 4}', are expected"
            raise InputError(f"dataset.source.scenes={scenes}: {expected}")
        self.recipe, self.seed = recipe, seed
        facts = repr((sorted(self.counts.items()), sorted(asdict(recipe).items()), seed))
        self.root = Path(root).expanduser() / hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test; writes all of them if they are not there yet."""
        write_scenes(self.root, self.recipe, self.counts, self.seed)
        found = []
        for (name,), path in find_files(self.root, "images/{name}.*").items():
            if name.startswith(split):
                found.append(Scene(name, path, tuple(self._mask(folder, name) for folder in self.folders)))
        return found

    def _mask(self, folder: str, name: str) -> Mask:
        """The file of a scene's target."""
        if folder == "vehicles":
            return Mask(self.root / folder / f"{name}.gpkg", attribute="kind", values=VEHICLE_NUMBERS)
        return Mask(self.root / folder / f"{name}.tif")


def write_scenes(root: Path, recipe: SceneRecipe, counts: Mapping[str, int], seed: int) -> None:
    """Write scenes as GeoTIFFs: ``root/images/train_000.tif``, its ``root/masks/train_000.tif`` and ``root/heights/...``.

    Scenes with vehicles also have ``root/vehicles/train_000.gpkg``, with the bounding box and the `kind` of each vehicle.
    Scenes with clouds also have ``root/sky/train_000.tif``, with a band for each of `SKY`, and a folder for each single band.

    `root` appears only when complete. If it is there already, nothing happens. How many scenes one split has does not
    change those of another.
    """
    if root.exists():
        return
    remove_parts(root.parent)
    draft = root.with_name(f".{root.name}.{uuid.uuid4().hex}.part")
    todo = [(split, i) for split, count in counts.items() for i in range(count)]
    try:
        beside = ["vehicles"] * bool(recipe.vehicles) + ["sky", *SKY] * bool(recipe.clouds)
        for kind in ("images", "masks", "heights", *beside):
            (draft / kind).mkdir(parents=True)
        with progress(todo, "Making scenes") as steps:
            for split, i in steps:
                number = 1000 * SPLITS.index(split) + i
                own = recipe if split == "train" else replace(recipe, height_outliers=0)
                image, mask, height, vehicles, sky = generate(own, seed, number)
                if recipe.vehicles:
                    _write_vehicles(draft / "vehicles" / f"{split}_{i:03d}.gpkg", vehicles, _place(recipe.size, number))
                layers: dict[str, NDArray[Any]] = {"images": image, "masks": mask[None], "heights": height[None]}
                if sky is not None:
                    layers["sky"] = sky
                    layers |= {kind: band[None] for kind, band in zip(SKY, sky, strict=True)}
                for kind, bands in layers.items():
                    _write(draft / kind / f"{split}_{i:03d}.tif", bands, number)
        draft.rename(root)
    except UnwritableError as error:
        raise UnwritableError(str(error).replace(str(draft), str(root))) from None
    except OSError as error:
        if not root.exists():  # where it does, another process was faster
            raise file_error(root, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(path: Path, bands: NDArray[np.generic], number: int) -> None:
    """Write the layer that the folder is named after as a GeoTIFF; the scene's `number` gives its place on the ground."""
    count, height, width = bands.shape
    form = {"count": count, "height": height, "width": width, "dtype": bands.dtype.name, "crs": CRS}
    form |= {"transform": _place(width, number), "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    photometric = {"images": "RGB", "masks": "PALETTE"}.get(path.parent.name, "MINISBLACK")
    with new_raster(path, sync=False, photometric=photometric, **form) as file:
        if photometric == "PALETTE":
            file.write_colormap(1, {label: (*bytes.fromhex(tint[1:]), 255) for label, tint in enumerate(PALETTE)})
        file.write(bands)


def _place(size: int, number: int) -> Affine:
    """The place of a scene on the ground."""
    pitch = PIXEL * size + 100  # metres: scenes do not touch
    return from_origin(300_000 + number % 100 * pitch, 5_400_000 - number // 100 * pitch, PIXEL, PIXEL)


def _write_vehicles(path: Path, vehicles: Floats, place: Affine) -> None:
    """Write the bounding boxes of vehicles as a GeoPackage."""
    import geopandas  # with pandas it takes 70 MB, which other sources do not need

    corners = [affine_transform(box(left, top, right, bottom), place.to_shapely()) for _, top, left, bottom, right in vehicles]
    frame = geopandas.GeoDataFrame({"kind": [VEHICLES[int(kind)] for kind in vehicles[:, 0]]}, geometry=corners, crs=CRS)
    frame.to_file(path, driver="GPKG", engine="pyogrio", geometry_type="Polygon")
