"""Stores of scenes that a test wrote."""

from pathlib import Path

import numpy as np

from rsseg.data.build import open_store
from rsseg.data.files import Files
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene
from rsseg.data.store import Store
from rsseg.task import Multiclass

TASK = Multiclass(("a", "b", "c"))
LABELS = Labels(TASK, None, [255])


def store_of(scenes: list[Scene], folder: Path, labels: Labels = LABELS, bands: tuple[int, ...] = (1, 2, 3), **more) -> Store:
    """The store of some scenes, in a folder of its own."""
    return open_store(scenes, [labels], list(bands), folder, **more)


def folder_scenes(root: Path, split: str = "train") -> list[Scene]:
    """Scenes of the session's folder dataset."""
    return Files(str(root), "images/{name}.*", "masks/{name}.*", split={"train": 0.5, "val": 0.5}).scenes(split)


def whole_scene(store: Store, scene: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of a scene, by way of a window that is larger."""
    height, width = store.sizes[scene]
    image, layers = store.cut([(scene, 0, 0)], int(max(height, width)))
    return image[0].numpy()[:, :height, :width], layers["mask"][0].numpy()[..., :height, :width]
