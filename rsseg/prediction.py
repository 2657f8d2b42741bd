"""Scenes mapped with one trained run or several, as ``rsseg predict`` does."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from rsseg.assembly import make_setup
from rsseg.config.entry import ENTRY
from rsseg.contract import InputError, number
from rsseg.data.masks import VECTORS, Mask
from rsseg.data.raster import georeference
from rsseg.data.scene import Scene, SceneReader
from rsseg.devices import choose_precision, scoring_accelerator
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation.loading import known_head, load_trained, runs_in
from rsseg.files import LockedError, lock, read_json, write_json
from rsseg.inference.blending import Windows, check_blend
from rsseg.inference.ensemble import check_threshold
from rsseg.inference.export import ABOUT, load_exported
from rsseg.inference.inputs import OutsideError, find_scenes, open_scene
from rsseg.inference.maps import KINDS, Bands, bands_of, kinds_of, made_by
from rsseg.inference.options import Options
from rsseg.inference.predictor import Predictor
from rsseg.inference.products import Areas, ObjectFile, Product, RasterMap, check_suffix
from rsseg.inference.scene import predict_scene
from rsseg.inference.trained import TrainedModel
from rsseg.pictures.colours import colours
from rsseg.quiet import quiet
from rsseg.task import Binary, Centres
from rsseg.version import __version__

log = logging.getLogger(__name__)

SUFFIXES = (*RasterMap.suffixes, *ObjectFile.suffixes)
"""What files are called that are written; other names are those of folders."""

LIGHT = "#f5f5f5"
"""The colour of a binary map's background in viewers that do not read its style."""

RECORDED = (
    "threshold", "tta", "weights", "scaling", "area", "resample", "allow_different", "dtype", "polygons", "min_area",
    "simplify",
)  # fmt: skip
"""The options that are written into a map's tags, beside its runs and windows."""


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
    mapper = Mapper(load_models(runs, options.scaling, trust), options)
    scenes = find_scenes(scene, mapper.spec.image, options.stack)
    single = out is not None and not out.is_dir() and out.suffix.lower() in SUFFIXES
    if single and len(scenes) > 1:
        raise InputError(f"out={out}: there are {len(scenes)} scenes; name a folder for their maps")
    found, failed, elsewhere = [], [], 0
    for place, one in enumerate(scenes, start=1):
        try:
            folder = out or Path(runs[0]) / "maps"
            target = folder if single else _default_out(folder, one.image, mapper.products[0].ending)
            title = f"scene {place} of {len(scenes)}" if len(scenes) > 1 else "predicting"
            found.append(mapper.map(one, target, title))
        except LockedError:
            elsewhere += 1
        except InputError as error:
            if len(scenes) == 1:
                raise
            if isinstance(error, OutsideError):
                log.info("%s", error)
            else:
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
    """The networks of run folders, exported folders, and of all runs in other folders."""
    models = []
    for place in dict.fromkeys(place.resolve() if place.is_dir() else place for place in runs):
        if (place / ABOUT).is_file():
            models.append(load_exported(place, scaling))
        else:
            models += [load_trained(run, make_setup(run.config(), trust), scaling) for run in runs_in(place)]
    return models


class Mapper:
    """Maps scenes with the mean of some networks, one scene after the other.

    Attributes:
        products: The files that are made of each scene.
        windows: How scenes are cut.
        forward: The predictor on its device, in its precision.
        device: Where that is.

    Raises:
        InputError: If the options are wrong.
    """

    def __init__(self, models: Sequence[TrainedModel], options: Options) -> None:
        self.options, self.spec, self.models = options, models[0].spec, list(models)
        self._check()
        self.predictor = Predictor(models, options.weights, options.tta, "disagreement" in options.write)
        if "disagreement" in options.write and len(models) * len(self.predictor.views) == 1:
            raise InputError("write=disagreement: one run sees every window once; name several runs, or set tta=flips")
        window = self.spec.window if options.window is None else options.window
        margin = self.spec.overlap if options.margin is None else options.margin
        batch_size = self.spec.batch_size if options.batch_size is None else options.batch_size
        self.windows = Windows(window, margin, options.blend, batch_size)
        check_blend(self.windows)
        self.products = list(self._products())
        accelerator = scoring_accelerator(options.device)
        torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as in training
        fabric = L.Fabric(accelerator=accelerator, devices=1, precision=choose_precision(self.spec.precision, accelerator))
        self.forward: Callable[[Tensor], dict[str, Tensor]] = fabric.setup_module(self.predictor)
        self.device = fabric.device

    def _check(self) -> None:
        """Refuse options that can't be."""
        options = self.options
        number("min_area", options.min_area)
        number("simplify", options.simplify)
        check_threshold(options.threshold)
        if options.area and not (Path(options.area).is_file() and Mask(Path(options.area)).vector):
            raise InputError(f"area={options.area}: a vector file is expected ({', '.join(sorted(VECTORS))})")
        if not options.write or not set(options.write) <= set(KINDS):
            raise InputError(f"write={','.join(options.write)}: some of {', '.join(KINDS)} are expected")
        if options.dtype not in ("uint8", "float16"):
            raise InputError(f"dtype={options.dtype}: uint8 or float16 is expected")

    def _products(self) -> Iterator[Product]:
        """The files that are made of each scene."""
        options, first = self.options, next(iter(self.spec.heads))
        for name in [known_head(options.head, self.spec.heads)] if options.head else self.spec.heads:
            task = self.spec.heads[name].task
            of_head = f"-{name}" if options.head or name != first else ""
            for kind in options.write:
                ending = f"{of_head}{'' if kind == 'labels' else f'-{kind}'}"
                if isinstance(task, Centres) and kind == "labels":
                    yield ObjectFile(name, f"{ending}.gpkg", task)
                elif kind in kinds_of(task) or options.head or len(self.spec.heads) == 1:
                    has_areas = options.polygons and kind == "labels" and not task.real
                    areas = Areas(options.min_area, options.simplify, self._colours(name)) if has_areas else None
                    yield RasterMap(name, f"{ending}.tif", task, kind, self._bands(kind, name), areas)

    def _bands(self, kind: str, head: str) -> Bands:
        task, threshold = self.spec.heads[head].task, None
        if kind == "labels" and self.options.threshold == "tuned" and not task.real:
            threshold = self.predictor.ensemble.tuned_threshold(head)
        return bands_of(kind, task, threshold, self._colours(head), self.options.dtype)

    def _colours(self, head: str) -> list[str]:
        """The colours of the labels of a head's map; what is not the class of a binary task is light unless it has a colour."""
        palette, task = self.spec.heads[head].palette, self.spec.heads[head].task
        if task.real:
            return []
        found = colours(task, palette)
        return [LIGHT, *found[1:]] if isinstance(task, Binary) and palette is None else found

    def map(self, scene: Scene, out: Path, title: str = "predicting") -> Path:
        """Write the files of a scene, the first of which goes to `out`; the progress bar has this title.

        Raises:
            LockedError: If another process is at it.
            InputError: If the scene can't be used, or a file not be written.
        """
        first, *others = self.products
        stem = out.name.removesuffix(first.ending) if out.name.endswith(first.ending) else out.stem
        paths = [out, *(out.with_name(f"{stem}{product.ending}") for product in others)]
        check_suffix(first, out)
        if any(path.resolve() == image.resolve() for path in paths for image in scene.images):
            raise InputError(f"out={out} would overwrite the scene: choose another name")
        tags = self._tags(scene)
        with _claimed(out), tempfile.TemporaryDirectory(prefix="rsseg-") as scratch:
            files = [file for product, path in zip(self.products, paths, strict=True) for file in product.files(path)]
            if not self.options.overwrite and _is_made(files, tags):
                return out
            with in_one_line(out.parent, self.windows.batch_size, self.windows.size, memory=SCORING):
                self._write(open_scene(scene, self.spec, self.options, Path(scratch)), paths, tags, title)
        return out

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
        with ExitStack() as files:
            outputs = [
                files.enter_context(product.open(path, reader, place, tags))
                for product, path in zip(self.products, paths, strict=True)
            ]
            predict_scene(self.forward, self.predictor.planes, reader, outputs, self.windows, self.device, title)
        for product, output, path in zip(self.products, outputs, paths, strict=True):
            product.finish(output, path, reader.scene.image)


def _is_made(files: Sequence[Path], tags: Mapping[str, str]) -> bool:
    """Whether the files of a scene are there; refused if the first of them is of another scene."""
    made, now = made_by(files[0]), json.loads(tags["RSSEG"])
    if made.get("scene", now["scene"]) != now["scene"]:
        raise InputError(f"{files[0]} is the map of {made['scene']}: overwrite=true replaces it; or choose another name")
    if not all(path.exists() for path in files):
        return False
    changed = [f"{key}={value}" for key, value in made.items() if value != now.get(key, value)]
    how = f", though it was made with {', '.join(changed)}" if changed else ""
    log.info("%s is kept%s; overwrite=true makes it again.", files[0], how)
    return True


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """A lock: while it is held, no other process maps the scene of this file."""
    held = path.with_name(f".{path.name}.lock")
    with lock(held):
        try:
            yield
        finally:
            with suppress(OSError):
                held.unlink()


def _default_out(folder: Path, scene: Path, suffix: str) -> Path:
    """The path of a scene's map: the scene's name, after that of its folder where another scene's map has the name already.

    ``scenes.json`` in the folder of maps says which scene each is of.
    """
    listed, place = folder / "scenes.json", str(scene.resolve())
    stems = chain([scene.stem], (f"{scene.parent.name}-{scene.stem}{f'-{n}' * (n > 1)}" for n in count(1)))
    with lock(folder / ".scenes.lock", wait=True):
        made = read_json(listed) if listed.is_file() else {}
        name = next(f"{stem}{suffix}" for stem in stems if made.get(f"{stem}{suffix}", place) == place)
        write_json(listed, made | {name: place})
    return folder / name


@contextmanager
def start_others(processes: int) -> Iterator[None]:
    """Run this process's command in further processes until the block ends and they do; they share the scenes by locks.

    Process i sees the i-th of this process's GPUs alone, this one the first.

    Raises:
        InputError: If one of them fails, or there are fewer GPUs.
    """
    if processes < 1:
        raise InputError(f"devices={processes}: 1 or more is expected")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if torch.cuda.is_available() else []
    if gpus == [""]:
        gpus = [str(i) for i in range(torch.cuda.device_count())]
    if gpus and processes > len(gpus):
        raise InputError(f"devices={processes}: this machine has {len(gpus)} GPUs")
    words = [*ENTRY, "predict", *(word for word in sys.argv[1:] if not word.startswith("devices="))]
    others = []
    for i in range(1, processes):
        own = (
            {"CUDA_VISIBLE_DEVICES": gpus[i]} if gpus else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
        )
        others.append(subprocess.Popen(words, env={**os.environ, **own}))
    try:
        yield
    except BaseException:
        for other in others:
            other.terminate()
        raise
    finally:
        codes = [other.wait() for other in others]
    if any(codes):
        raise InputError(f"{sum(map(bool, codes))} of {processes} processes failed: see what they said above")
