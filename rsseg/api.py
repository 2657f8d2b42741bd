"""rsseg from Python: `train`, `load`, `evaluate` and `compare`, for notebooks and scripts.

Example:
    >>> import rsseg
    >>> run = rsseg.train("loss=focal_dice", dataset="inria")                               # doctest: +SKIP
    >>> labels = rsseg.load(run).predict(array)                                             # doctest: +SKIP
    >>> rsseg.evaluate(run, split="test")["mask"].means()["iou"]                             # doctest: +SKIP
    >>> rsseg.compare([run, rsseg.train("loss=ce_dice", dataset="inria")]).tables["comparison"]  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsseg.config.arguments import Folders, PathLike, as_paths, typed
from rsseg.config.cli import compose, own_part, refuse_sweep
from rsseg.config.entry import CONFIGS, own_configs, search_path, show_log
from rsseg.config.naming import quoted
from rsseg.config.provenance import losses_of_heads
from rsseg.contract import InputError

if TYPE_CHECKING:
    from rsseg.answer import Answer
    from rsseg.metrics import Scores


def train(*overrides: str, **settings: Any) -> Path:
    """Train one model, as ``rsseg train`` does.

    Args:
        overrides: Settings as on the command line, ``"loss=focal_dice"``.
        settings: The same as arguments, of Python's own types; a key with dots as ``**{"dataset.source.root": "/data"}``.

    Returns:
        The run folder.

    Raises:
        InputError: If settings or data can't be used.
        KeyboardInterrupt: If training is interrupted; ``resume=`` continues it.
    """
    from rsseg.run import train as train_run
    from rsseg.training.signals import StoppedError

    wrong = [override for override in overrides if not isinstance(override, str)]
    if wrong:
        raise InputError(
            f"{wrong[0]!r}: a setting is a text such as 'loss=focal_dice', or an argument such as loss='focal_dice'"
        )
    words = [*overrides, *(f"{key}={hydra_text(value)}" for key, value in settings.items())]
    config = compose(CONFIGS, [*search_path(own_configs()), *words])
    refuse_sweep(config)
    show_log()
    choices, folder = config.hydra.runtime.choices, Path(config.hydra.run.dir)
    try:
        train_run(own_part(config), folder, words, choices.get("loss", ""), losses_of_heads(choices))
    except StoppedError as stop:
        raise KeyboardInterrupt(str(stop)) from None
    return folder


def hydra_text(value: Any) -> str:
    r"""A Python value as text that Hydra reads as the same value on a command line.

    Raises:
        InputError: If a config can't hold the value.

    Example:
        >>> print(hydra_text(None), hydra_text(("d4", "1e3")), hydra_text({"sigma": np.float32(2)}), hydra_text(r"C:\it's\\"))
        null [d4,"1e3"] {sigma:2.0} "C:\it's\\\\"
    """
    if isinstance(value, os.PathLike):
        return quoted(os.fspath(value))
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII)
        return value if plain and value.lower() not in ("null", "true", "false", "nan", "inf") else quoted(value)
    if isinstance(value, np.ndarray | np.generic):
        return hydra_text(value.tolist())
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{hydra_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(hydra_text, value))}]"
    raise InputError(
        f"{value!r}: a setting is text, a number, true or false, None, a list or a dict, not a {type(value).__name__}"
    )


class Model:
    """A trained model, or the mean of several, for arrays and files.

    Args:
        places: Run folders, exported folders, or folders of runs.
        scaling: The scaling of logits before they become probabilities: ``temperature``, ``vector`` or ``none``.
        trust: Packages whose classes the runs' configs may name.

    Attributes:
        spec: The heads with their tasks, bands, window and dtype.

    Raises:
        InputError: If they can't be loaded.
    """

    def __init__(self, places: Folders, scaling: str = "temperature", trust: Sequence[str] = ()) -> None:
        from rsseg.prediction import load_models
        from rsseg.quiet import quiet

        quiet()
        self.places, self.scaling = as_paths(places), scaling
        self.trust = (trust,) if isinstance(trust, str) else tuple(trust)
        self._models = load_models(self.places, self.trust)
        self.spec = self._models[0].spec

    def __repr__(self) -> str:
        return f"Model of {', '.join(map(str, self.places))}: bands {list(self.spec.bands)}, classes {', '.join(self.classes)}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the first head's labels, by label."""
        return next(iter(self.spec.heads.values())).task.label_names

    def predict(self, pixels: NDArray[Any], **options: Any) -> NDArray[Any]:
        """The labels of an image, or the values of a regression.

        Args:
            pixels: ``[C, H, W]`` of any height and width, with dtype, scale and bands (`spec.bands`) as in training.
            options: Settings of ``rsseg predict``: ``head``, ``threshold``, ``tta``, ``blend``, ``window``, ``margin``, ...

        Returns:
            uint8 ``[H, W]``, for a multilabel head ``[L, H, W]``, 255 where there is no data; for a regression float32
            ``[V, H, W]``, NaN where there is no data.

        Raises:
            InputError: If the image differs in kind from the training images, or the head predicts objects.
        """
        found = self._bands(pixels, "labels", options)
        return found[0] if len(found) == 1 and found.dtype == np.uint8 else found

    def probabilities(self, pixels: NDArray[Any], **options: Any) -> NDArray[np.float32]:
        """The probabilities of the classes, float32 ``[K, H, W]``; NaN where there is no data. See `predict`."""
        return self._bands(pixels, "probabilities", options)

    def _bands(self, pixels: NDArray[Any], kind: str, options: dict[str, Any]) -> NDArray[Any]:
        """The bands of a map of an array, which is written to a temporary file as a scene."""
        from rsseg.data.raster import close_rasters, new_raster, open_raster
        from rsseg.data.scene import Scene
        from rsseg.inference.options import MapOptions
        from rsseg.prediction import Mapper
        from rsseg.task import Centres

        pixels = np.asarray(pixels)
        if pixels.ndim != 3 or pixels.shape[0] != len(self.spec.bands) or not pixels.size:
            raise InputError(
                f"pixels {list(pixels.shape)}: [C, H, W] with the {len(self.spec.bands)} bands of training is expected"
            )
        if pixels.dtype.kind not in "uif":
            raise InputError(f"pixels of dtype {pixels.dtype}: numbers are expected, as in training ({self.spec.dtype})")
        if pixels.dtype.kind == "f" and pixels.itemsize not in (4, 8):  # GeoTIFF has no such type
            pixels = pixels.astype(np.float32)
        given = typed(MapOptions, {**options, "write": [kind], "dtype": "float16", "scaling": self.scaling})
        given.head = given.head or next(iter(self.spec.heads))
        if given.head in self.spec.heads and isinstance(self.spec.heads[given.head].task, Centres):
            raise InputError(f"head {given.head} finds objects: rsseg predict writes them as a GeoPackage")
        mapper = Mapper(self._models, given)
        with tempfile.TemporaryDirectory() as folder, _without_paths():
            image, out = Path(folder) / "the array", Path(folder) / "map.tif"
            form = {"count": max(self.spec.bands), "height": pixels.shape[1], "width": pixels.shape[2]}
            with new_raster(image, False, **form, dtype=pixels.dtype.name) as raster:
                raster.write(pixels, indexes=list(self.spec.bands))
            try:
                found: NDArray[Any] = open_raster(mapper.map(Scene("pixels", image), out)).read()
            finally:
                close_rasters()
        return found if found.dtype == np.uint8 else found.astype(np.float32)


@contextmanager
def _without_paths() -> Iterator[None]:
    """Leave out the lines that name the files of a map: those of an array are temporary."""
    said = logging.getLogger("rsseg.prediction")
    level = said.level
    said.setLevel(logging.WARNING)
    try:
        yield
    finally:
        said.setLevel(level)


def load(places: Folders, scaling: str = "temperature", trust: Sequence[str] = ()) -> Model:
    """The model of a run or an exported folder, or the mean of several; see `Model`."""
    return Model(places, scaling, trust)


def evaluate(runs: Folders, **options: Any) -> dict[str, Scores]:
    """Score a run, or several as an ensemble, as ``rsseg evaluate`` does with these options; returns the scores by head."""
    from rsseg.evaluation.options import EvaluationOptions
    from rsseg.evaluation.scores import evaluate as score_runs

    return score_runs(runs, typed(EvaluationOptions, options))


def compare(runs: Folders, out: PathLike | None = None, **question: Any) -> Answer:
    """Compare finished runs, as ``rsseg compare`` does.

    Args:
        runs: A sweep's folder, or run folders.
        out: The folder to write; None: ``comparison`` in the first of them.
        question: The settings of ``rsseg compare``, such as ``metric="dice"``.

    Raises:
        InputError: If there is nothing to compare, or the runs can't be compared.
    """
    from rsseg.answer import compare as compare_runs
    from rsseg.comparison.question import Question

    show_log()
    return compare_runs(as_paths(runs), typed(Question, question), None if out is None else Path(out))
