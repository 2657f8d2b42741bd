"""Where the scenes of a dataset lie: a source lists files and decides the split; it reads no pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rsseg.contract import InputError, nearest
from rsseg.data.files import find
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import SPLITS
from rsseg.data.synthetic import VEHICLES, SceneRecipe, write_scenes
from rsseg.data.vector import Burn

TARGETS = ("masks", "heights", "vehicles")
VEHICLE_NUMBERS = Burn("kind", tuple((kind, number) for number, kind in enumerate(VEHICLES, 1)))


class Synthetic(Source):
    """Made-up scenes, written on first use as GeoTIFFs in a folder of their own per recipe.

    Args:
        root: Where those folders go.
        scenes: How many scenes each split has.
        recipe: What they look like.
        seed: Same seed and recipe, same scenes.
        target: What is to be learnt: masks (labels), heights (metres) or vehicles (objects).
    """

    def __init__(self, root: str, scenes: Mapping[str, int], recipe: SceneRecipe, seed: int = 0, target: str = "masks") -> None:
        if target not in TARGETS:
            raise InputError(f"dataset.source.target={target}{nearest(target, TARGETS)}: {', '.join(TARGETS)} are expected")
        if target == "vehicles" and not recipe.vehicles:
            raise InputError(
                "dataset.source.target=vehicles: there are none; set dataset.source.recipe.vehicles=60, for example"
            )
        self.target = target
        wrong = {key: n for key, n in scenes.items() if key not in SPLITS or not isinstance(n, int) or n < 0}
        if wrong:
            raise InputError(f"dataset.source.scenes={dict(scenes)}: whole numbers for {', '.join(SPLITS)} are expected")
        self.counts, self.recipe, self.seed = dict(scenes), recipe, seed
        facts = repr((sorted(self.counts.items()), sorted(asdict(recipe).items()), seed))
        self.root = Path(root).expanduser() / hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test; writes all of them if they are not there yet."""
        write_scenes(self.root, self.recipe, self.counts, self.seed)
        suffix, burn = (".gpkg", VEHICLE_NUMBERS) if self.target == "vehicles" else (".tif", None)
        return [
            Scene(name, path, self.root / self.target / f"{name}{suffix}", burn=burn)
            for (name,), path in find(self.root, "images/{name}.*").items()
            if name.startswith(split)
        ]
