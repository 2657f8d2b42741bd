"""Where the scenes of a dataset lie: a source lists files and decides the split; it reads no pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rsseg.contract import InputError, nearest
from rsseg.data.burn import Burn
from rsseg.data.paths import find
from rsseg.data.scene import Mask, Scene, Source
from rsseg.data.splits import SPLITS
from rsseg.data.synthetic import SKY, VEHICLES, SceneRecipe, write_scenes

VEHICLE_NUMBERS = Burn("kind", tuple((kind, number) for number, kind in enumerate(VEHICLES, 1)))

IN_CLOUDS = ("sky", *SKY)
"""What the files of a scene with clouds may show beside."""

LAYERS = ("masks", "heights", "vehicles", *IN_CLOUDS)
"""What the files of a scene may show."""


class Synthetic(Source):
    """Made-up scenes, written on first use as GeoTIFFs in a folder of their own per recipe.

    Args:
        root: Where those folders go.
        scenes: How many scenes each split has.
        recipe: What they look like.
        seed: Same seed and recipe, same scenes.
        target: What is to be learnt: masks (labels), heights (metres), vehicles (objects), clouds, shadows, water, or sky,
            which has a band for each of these three.
        targets: Of several targets what each is, one of these, by name: ``{cover: {mask: masks}, height: {mask: heights}}``.
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
        wrong = {key: n for key, n in scenes.items() if key not in SPLITS or not isinstance(n, int) or n < 0}
        if wrong:
            raise InputError(f"dataset.source.scenes={dict(scenes)}: whole numbers for {', '.join(SPLITS)} are expected")
        self.counts, self.recipe, self.seed = dict(scenes), recipe, seed
        facts = repr((sorted(self.counts.items()), sorted(asdict(recipe).items()), seed))
        self.root = Path(root).expanduser() / hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test; writes all of them if they are not there yet."""
        write_scenes(self.root, self.recipe, self.counts, self.seed)
        found = []
        for (name,), path in find(self.root, "images/{name}.*").items():
            if name.startswith(split):
                found.append(Scene(name, path, tuple(self._mask(folder, name) for folder in self.folders)))
        return found

    def _mask(self, folder: str, name: str) -> Mask:
        """The file of a scene's target."""
        if folder == "vehicles":
            return Mask(self.root / folder / f"{name}.gpkg", VEHICLE_NUMBERS)
        return Mask(self.root / folder / f"{name}.tif")
