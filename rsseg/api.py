"""rsseg from Python: `train`, `load` and `compare`, for notebooks and scripts.

Example:
    >>> import rsseg
    >>> run = rsseg.train("loss=focal_dice", dataset="inria")                               # doctest: +SKIP
    >>> labels = rsseg.load(run).predict(array)                                             # doctest: +SKIP
    >>> rsseg.compare([run, rsseg.train("loss=ce_dice", dataset="inria")]).tables["losses"]  # doctest: +SKIP
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsseg.config.cli import compose, own_part
from rsseg.config.entry import CONFIGS, own_configs, search_path
from rsseg.config.provenance import losses_of_heads
from rsseg.contract import InputError

if TYPE_CHECKING:
    import pandas as pd

Places = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One folder, or several."""


def train(*overrides: str, **settings: Any) -> Path:
    """Train one model, as ``rsseg train`` does.

    Args:
        overrides: Settings as on the command line, ``"loss=focal_dice"``.
        settings: The same as arguments; a key with dots as ``**{"dataset.source.root": "/data"}``.

    Returns:
        The run folder.

    Raises:
        InputError: For anything in settings or data that can't be used.

    Example:
        >>> word("window", 128), word("trust", ["mine"]), word("dataset.source.root", "/data/my images")
        ('window=128', "trust=['mine']", "dataset.source.root='/data/my images'")
    """
    from rsseg.run import train as train_run

    words = [*overrides, *(word(key, value) for key, value in settings.items())]
    config = compose(CONFIGS, [*search_path(own_configs()), *words])
    choices, folder = config.hydra.runtime.choices, Path(config.hydra.run.dir)
    train_run(own_part(config), folder, words, choices.get("loss", ""), losses_of_heads(choices))
    return folder


def word(key: str, value: Any) -> str:
    """A setting as Hydra reads it from a command line."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and not value.replace("_", "").isalnum():
        value = repr(value)
    return f"{key}={'null' if value is None else value}"


class Model:
    """A trained model, or the mean of several, for arrays and files.

    Args:
        places: Run folders, exported folders, or folders of runs.
        trust: Packages whose classes the runs' configs may name.

    Attributes:
        spec: The heads with their tasks, bands, window and dtype.

    Raises:
        InputError: If they can't be loaded.
    """

    def __init__(self, places: Places, trust: Sequence[str] = ()) -> None:
        from rsseg.prediction import load_models

        self.places, self.trust = as_paths(places), tuple(trust)
        self._models = load_models(self.places, "temperature", self.trust)
        self.spec = self._models[0].spec

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the first head's labels, by label."""
        return next(iter(self.spec.heads.values())).task.label_names

    def predict(self, pixels: NDArray[Any], **options: Any) -> NDArray[np.uint8]:
        """The labels of an image; 255 where it has no data.

        Args:
            pixels: ``[C, H, W]`` of any height and width, stored as in training, the bands in the order of `spec.bands`.
            options: As for `map`.

        Returns:
            uint8 ``[H, W]``; of a multilabel head ``[L, H, W]``.

        Raises:
            InputError: If the image is not of the kind that was trained on.
        """
        found = self._bands(pixels, "labels", options)
        return found[0] if len(found) == 1 else found

    def probabilities(self, pixels: NDArray[Any], **options: Any) -> NDArray[np.float32]:
        """The probabilities of the classes, float32 ``[K, H, W]``; NaN where there is no data. See `predict`."""
        return self._bands(pixels, "probabilities", options)

    def map(self, scene: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, **options: Any) -> list[Path]:
        """Write maps of scenes, as ``rsseg predict`` does.

        Args:
            scene: A file, a folder, a pattern or a list.
            out: The file or folder to write; None: ``maps`` in the run folder.
            options: The settings of ``rsseg predict``, such as ``tta="d4"``.

        Returns:
            The first file of each scene.
        """
        from rsseg.inference.options import Options
        from rsseg.prediction import predict

        return predict(self.places, os.fspath(scene), None if out is None else Path(out), Options(**options), self.trust)

    def _bands(self, pixels: NDArray[Any], kind: str, options: dict[str, Any]) -> NDArray[Any]:
        """The bands of a map of an array, which is a scene in a temporary file meanwhile."""
        from rsseg.data.raster import new_raster, open_raster
        from rsseg.data.scene import Scene
        from rsseg.inference.options import Options
        from rsseg.prediction import Mapper

        if pixels.ndim != 3 or pixels.shape[0] != len(self.spec.bands):
            raise InputError(
                f"pixels {list(pixels.shape)}: [C, H, W] with the {len(self.spec.bands)} bands of training is expected"
            )
        given = {"head": next(iter(self.spec.heads)), "resample": "false", **options, "write": [kind], "dtype": "float16"}
        mapper = Mapper(self._models, Options(**given))
        with tempfile.TemporaryDirectory() as folder:
            image, out = Path(folder) / "pixels.tif", Path(folder) / "map.tif"
            form = {"count": max(self.spec.bands), "height": pixels.shape[1], "width": pixels.shape[2]}
            with new_raster(image, False, **form, dtype=pixels.dtype.name) as raster:
                raster.write(pixels, indexes=list(self.spec.bands))
            return open_raster(mapper.map(Scene("pixels", image), out)).read()


def load(places: Places, trust: Sequence[str] = ()) -> Model:
    """The model of a run or an exported folder, or the mean of several; see `Model`."""
    return Model(places, trust)


@dataclass(frozen=True)
class Answer:
    """What a comparison of losses wrote.

    Attributes:
        folder: Its folder.
    """

    folder: Path

    @property
    def report(self) -> Path:
        """The page to read."""
        return self.folder / "report.html"

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the names of their CSV files."""
        import pandas as pd

        return {path.stem: pd.read_csv(path) for path in sorted(self.folder.glob("*.csv"))}


def compare(runs: Places, out: str | os.PathLike[str] | None = None, **question: Any) -> Answer:
    """Compare finished runs, as ``rsseg compare`` does.

    Args:
        runs: A sweep's folder, or run folders.
        out: The folder to write; None: ``comparison`` in the first of them.
        question: The settings of ``rsseg compare``, such as ``metric="dice"``.

    Raises:
        InputError: If there is nothing to compare, or the runs can't be compared.
    """
    from rsseg.answer import Question
    from rsseg.answer import compare as compare_runs

    return Answer(compare_runs(as_paths(runs), Question(**question), None if out is None else Path(out)))


def as_paths(places: Places) -> list[Path]:
    """One folder or several as a list."""
    return [Path(places)] if isinstance(places, str | os.PathLike) else [Path(place) for place in places]
