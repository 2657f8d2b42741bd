"""Scenes mapped with one trained run or several: what predict.py does."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from rsseg import __version__
from rsseg.assembly import make_setup
from rsseg.compare.runs import find_runs
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.burn import VECTORS
from rsseg.data.files import is_vector
from rsseg.data.raster import georeference
from rsseg.data.scene import Scene, SceneReader
from rsseg.devices import choose_precision, scoring_accelerator
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation import known_head, load_trained
from rsseg.files import LockedError, lock, read_json, write_json
from rsseg.inference.blending import Windows, check_blend
from rsseg.inference.ensemble import mean_threshold
from rsseg.inference.export import ABOUT, load_exported
from rsseg.inference.inputs import OutsideError, find_scenes, open_scene
from rsseg.inference.maps import KINDS, Bands, MapFile, bands_of, kinds_of, made_by, new_map
from rsseg.inference.objects import FORMATS, Objects, check_out
from rsseg.inference.options import Options
from rsseg.inference.polygons import check_polygons, write_polygons
from rsseg.inference.predictor import Predictor
from rsseg.inference.scene import Output, predict_scene
from rsseg.inference.styles import write_styles, write_vector_style
from rsseg.inference.trained import TrainedModel
from rsseg.metrics.objects import SCORE
from rsseg.pictures.colours import colours
from rsseg.quiet import quiet
from rsseg.task import Binary, Centres, Task

log = logging.getLogger(__name__)


def predict(
    runs: Sequence[Path], scene: str, out: Path | None = None, options: Options | None = None, trust: Sequence[str] = ()
) -> list[Path]:
    """Map scenes with a run's best checkpoint, or with the mean of several.

    A scene that can't be mapped is reported, and the others are mapped. Existing maps are kept, and scenes that another process
    is mapping are skipped, so that the same command may run several times, also at once.

    Args:
        runs: Run folders, exported folders, or folders of runs.
        scene: The scenes, see `find_scenes`.
        out: The file to write, or of several scenes a folder; None: ``maps`` in the folder of the first run.
        options: How.
        trust: Packages whose classes the runs' configs may name.

    Returns:
        The files of the first head's labels, of all scenes that have one now.

    Raises:
        InputError: If runs or options can't be used, or a scene could not be mapped.
    """
    quiet()
    options = options or Options()
    models = load_models(runs, options.scaling, trust)
    mapper = Mapper(models, options)
    scenes = find_scenes(scene, mapper.spec.image, options.stack)
    single = out is not None and not out.is_dir() and out.suffix.lower() in SUFFIXES
    if single and len(scenes) > 1:
        raise InputError(f"out={out}: there are {len(scenes)} scenes; name a folder for their maps")
    found, failed, elsewhere = [], [], 0
    for number, one in enumerate(scenes, start=1):
        try:
            folder = out or Path(runs[0]) / "maps"
            target = folder if single else default_out(folder, one.image, mapper.products[0].ending)
            title = f"scene {number} of {len(scenes)}" if len(scenes) > 1 else "predicting"
            found.append(mapper.map(one, target, title))
        except LockedError:
            elsewhere += 1
        except OutsideError as error:
            if len(scenes) == 1:
                raise
            log.info("%s", error)
        except InputError as error:
            if len(scenes) == 1:
                raise
            log.error("%s is not mapped: %s", one.image, error)
            failed.append(one.image.name)
    if elsewhere:
        log.info("%d scenes are left to other processes that are at them.", elsewhere)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(scenes)} scenes are not mapped: {', '.join(failed[:5])}{', ...' * (len(failed) > 5)}"
        )
    return found


def load_models(runs: Sequence[Path], scaling: str, trust: Sequence[str]) -> list[TrainedModel]:
    """The networks of run folders, exported folders, and of all runs in other folders.

    Raises:
        InputError: If one can't be used.
    """
    if scaling not in ("none", "temperature", "vector"):
        raise InputError(f"scaling={scaling}: none, temperature or vector is expected")
    models = []
    for place in dict.fromkeys(place.resolve() if place.is_dir() else place for place in runs):
        if (place / ABOUT).is_file():
            models.append(load_exported(place, scaling))
            continue
        for folder in [place] if RunFolder(place).begun or not place.is_dir() else find_runs([place]) or [place]:
            run = RunFolder(folder)
            models.append(load_trained(run, make_setup(run.config(), trust), scaling))
    return models


@dataclass(frozen=True)
class Product:
    """A file that is made of a head.

    Attributes:
        ending: What follows the scene's name in its own.
        bands: What it holds; None: objects.
        task: The head's task.
        head: The head.
        kind: One of `KINDS`.
    """

    ending: str
    bands: Bands | None
    task: Task
    head: str
    kind: str

    @property
    def has_areas(self) -> bool:
        """Whether it is a map of labels."""
        return self.kind == "labels" and not self.task.real


def polygons_of(raster: Path) -> Path:
    """Where the polygons of a map lie."""
    return raster.with_name(f"{raster.stem}-polygons.gpkg")


SUFFIXES = (".tif", ".tiff", *FORMATS)
"""What files are called that are written; other names are those of folders."""

LIGHT = "#f5f5f5"
"""The colour of a binary map's background in viewers that do not read its style."""

RECORDED = (
    "threshold", "tta", "weights", "scaling", "area", "resample", "allow_different", "dtype", "polygons", "min_area",
    "simplify",
)  # fmt: skip
"""The options that are written into a map's tags, beside its runs and windows."""


class Mapper:
    """Maps scenes with a predictor, one after the other.

    Args:
        models: The networks.
        options: How.

    Attributes:
        products: The files that are made of each scene.
        windows: How scenes are cut.
        forward: The predictor on its device, in its precision.
        device: Where that is.

    Raises:
        InputError: If the options are wrong.
    """

    def __init__(self, models: Sequence[TrainedModel], options: Options) -> None:
        self.options, self.spec = options, models[0].spec
        check_polygons(options.min_area, options.simplify)
        if options.area and not (Path(options.area).is_file() and is_vector(Path(options.area))):
            raise InputError(f"area={options.area}: a vector file is expected ({', '.join(sorted(VECTORS))})")
        self.models = list(models)
        self.predictor = Predictor(models, options.weights, options.tta, "disagreement" in options.write)
        window = self.spec.window if options.window is None else options.window
        margin = self.spec.overlap if options.margin is None else options.margin
        batch_size = self.spec.batch_size if options.batch_size is None else options.batch_size
        self.windows = Windows(window, margin, options.blend, batch_size)
        for name, value in (("window", window), ("batch_size", self.windows.batch_size)):
            if value < 1:
                raise InputError(f"{name}={value}: 1 or more is expected")
        check_blend(*self.windows[:3])
        self.products = list(self._products())
        accelerator = scoring_accelerator(options.device)
        torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as in training
        fabric = L.Fabric(accelerator=accelerator, devices=1, precision=choose_precision(self.spec.precision, accelerator))
        self.forward: Callable[[Tensor], dict[str, Tensor]] = fabric.setup_module(self.predictor)
        self.device = fabric.device

    def _products(self) -> Iterator[Product]:
        """The files that are made of each scene."""
        options = self.options
        unknown = [kind for kind in options.write if kind not in KINDS]
        if unknown or not options.write:
            raise InputError(f"write={','.join(options.write)}: some of {', '.join(KINDS)} are expected")
        if options.dtype not in ("uint8", "float16"):
            raise InputError(f"dtype={options.dtype}: uint8 or float16 is expected")
        if options.threshold not in ("fixed", "tuned"):
            raise InputError(f"threshold={options.threshold}: fixed (0.5, or the largest probability) or tuned is expected")
        if "disagreement" in options.write and len(self.models) * len(self.predictor.views) == 1:
            raise InputError("write=disagreement: one run sees every window once; name several runs, or set tta=flips")
        first = next(iter(self.spec.heads))
        for name in [known_head(options.head, self.spec.heads)] if options.head else self.spec.heads:
            task = self.spec.heads[name].task
            of_head = f"-{name}" if options.head or name != first else ""
            for kind in options.write:
                suffix = f"{of_head}{'' if kind == 'labels' else f'-{kind}'}"
                if isinstance(task, Centres) and kind == "labels":
                    yield Product(f"{suffix}.gpkg", None, task, name, kind)
                elif kind in kinds_of(task) or options.head or len(self.spec.heads) == 1:
                    yield Product(f"{suffix}.tif", self._bands(kind, name), task, name, kind)

    def _bands(self, kind: str, head: str) -> Bands:
        task, threshold = self.spec.heads[head].task, None
        if kind == "labels" and self.options.threshold == "tuned" and not task.real:
            threshold = mean_threshold(self.models, head, self.options.scaling, self.predictor.shares)
            if threshold is None:
                raise InputError(
                    f"threshold=tuned: {self.spec.name} has no tuned threshold of head {head}: the run is not finished, was "
                    "trained with record.enabled=false or has diverged; leave threshold=tuned out"
                )
        return bands_of(kind, task, threshold, self.colours(head), self.options.dtype)

    def colours(self, head: str) -> list[str]:
        """The colours of the labels of a head's map; what is not the class of a binary task is light unless it has a colour."""
        palette, task = self.spec.heads[head].palette, self.spec.heads[head].task
        if task.real:
            return []
        found = colours(task, palette)
        return [LIGHT, *found[1:]] if isinstance(task, Binary) and palette is None else found

    def map(self, scene: Scene, out: Path, title: str = "predicting") -> Path:
        """Write the files of a scene.

        Args:
            scene: The scene.
            out: Where the first of them goes.
            title: What the progress bar says.

        Returns:
            The first of them.

        Raises:
            LockedError: If another process is at it.
            InputError: If the scene can't be used, or a file not be written.
        """
        first, *others = self.products
        stem = out.name.removesuffix(first.ending) if out.name.endswith(first.ending) else out.stem
        paths = [out, *(out.with_name(f"{stem}{product.ending}") for product in others)]
        if first.bands is None:
            check_out(out)
        elif out.suffix.lower() not in (".tif", ".tiff"):
            raise InputError(f"out={out}: maps are written as .tif; take such a name, or that of a folder")
        if any(path.resolve() == image.resolve() for path in paths for image in scene.images):
            raise InputError(f"out={out} would overwrite the scene: choose another name")
        tags = self._tags(scene)
        with _claimed(out), tempfile.TemporaryDirectory(prefix="rsseg-") as scratch:
            if not self.options.overwrite and self._is_made([*paths, *self._polygons(paths)], tags):
                return out
            with in_one_line(out.parent, self.windows.batch_size, self.windows.size, memory=SCORING):
                self._write(open_scene(scene, self.spec, self.options, Path(scratch)), paths, tags, title)
        return out

    @staticmethod
    def _is_made(paths: Sequence[Path], tags: Mapping[str, str]) -> bool:
        """Whether the files of a scene are there.

        Raises:
            InputError: If the first of them is of another scene.
        """
        made, now = made_by(paths[0]), json.loads(tags["RSSEG"])
        if made.get("scene", now["scene"]) != now["scene"]:
            raise InputError(f"{paths[0]} is the map of {made['scene']}: overwrite=true replaces it; or choose another name")
        if not all(path.exists() for path in paths):
            return False
        changed = [f"{key}={value}" for key, value in made.items() if value != now.get(key, value)]
        how = f", though it was made with {', '.join(changed)}" if changed else ""
        log.info("%s is kept%s; overwrite=true makes it again.", paths[0], how)
        return True

    def _tags(self, scene: Scene) -> dict[str, str]:
        """The tags of a map, which say how it was made."""
        files = ",".join(str(image.absolute()) for image in scene.images)
        how: dict[str, Any] = {"runs": [model.spec.name for model in self.models], "scene": files}
        how |= {key: getattr(self.options, key) for key in RECORDED} | self.windows._asdict()
        return {"TIFFTAG_SOFTWARE": f"rsseg {__version__}", "RSSEG": json.dumps(how, ensure_ascii=False)}

    def _write(self, reader: SceneReader, paths: Sequence[Path], tags: Mapping[str, str], title: str) -> None:
        """Predict a scene, and write its files."""
        place = georeference(reader.scene.image)
        if not place:
            log.info("%s says nothing of its place on the Earth, nor does the map.", reader.scene.image)
        with ExitStack() as open_files:
            outputs: list[Output] = []
            for product, path in zip(self.products, paths, strict=True):
                if product.bands is None:
                    assert isinstance(product.task, Centres)
                    outputs.append(Objects(product.head, product.task, reader.size[0]))
                else:
                    raster = open_files.enter_context(new_map(path, product.bands, reader.size, place, tags))
                    outputs.append(MapFile(product.head, product.bands, raster))
            predict_scene(self.forward, self.predictor.planes, reader, outputs, self.windows, self.device, title)
        for output, product, path in zip(outputs, self.products, paths, strict=True):
            if isinstance(output, Objects):
                log.info("%d objects of score %g and more: %s", output.save(path, reader.scene.image), SCORE, path)
                continue
            assert product.bands is not None
            if product.bands.colours:
                write_styles(path, product.task, product.bands.classes, product.bands.colours)
            log.info("%s: %s", "Map" if product.kind == "labels" else product.kind.capitalize(), path)
            if self.options.polygons and product.has_areas:
                self._write_polygons(product, path)

    def _polygons(self, paths: Sequence[Path]) -> list[Path]:
        """The files of polygons that belong to a scene's files."""
        owners = [path for product, path in zip(self.products, paths, strict=True) if product.has_areas]
        return [polygons_of(path) for path in owners if self.options.polygons]

    def _write_polygons(self, product: Product, raster: Path) -> None:
        """Write the areas of a map's labels beside it."""
        task, path = product.task, polygons_of(raster)
        if task.label_planes:
            labels = {band: {1: name} for band, name in enumerate(task.classes, start=1)}
        else:
            first = len(task.label_names) - len(task.classes)  # the background of a binary task is no area
            labels = {1: {label: name for label, name in enumerate(task.label_names) if label >= first}}
        written = write_polygons(path, raster, labels, self.options.min_area, self.options.simplify)
        names = [name for own in labels.values() for name in own.values()]
        write_vector_style(path, "class", dict(zip(names, self.colours(product.head)[-len(names) :], strict=True)))
        log.info("%d polygons: %s", written, path)
        if "transform" not in georeference(raster):
            log.info("The map has no coordinates but control points, or none: those of polygons are columns and rows.")


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """A lock: while it is held, no other process maps the scene of this file.

    Raises:
        LockedError: If one does.
    """
    held = path.with_name(f".{path.name}.lock")
    with lock(held):
        try:
            yield
        finally:
            with suppress(OSError):
                held.unlink()


def default_out(folder: Path, scene: Path, suffix: str) -> Path:
    """The path of a scene's map: the scene's name, after that of its folder where another scene's map has the name already.

    ``scenes.json`` in the folder of maps says which scene each is of.

    Raises:
        UnwritableError: If that can't be written.
    """
    listed, place = folder / "scenes.json", str(scene.resolve())
    stems = chain([scene.stem], (f"{scene.parent.name}-{scene.stem}{f'-{n}' * (n > 1)}" for n in count(1)))
    with lock(folder / ".scenes.lock", wait=True):
        made = read_json(listed) if listed.is_file() else {}
        name = next(f"{stem}{suffix}" for stem in stems if made.get(f"{stem}{suffix}", place) == place)
        write_json(listed, made | {name: place})
    return folder / name
