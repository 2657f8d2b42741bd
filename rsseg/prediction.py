"""Maps of scenes from one or several trained runs, as ``rsseg predict`` makes them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, combinations, count
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from rsseg.assembly import make_setup
from rsseg.config.entry import ENTRY
from rsseg.contract import InputError, check_choice, check_number, counted
from rsseg.data.masks import VECTORS, Mask
from rsseg.data.raster import georeference
from rsseg.data.scene import Scene, SceneReader
from rsseg.devices import choose_precision, scoring_accelerator
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation.loading import known_head, load_trained, runs_in
from rsseg.files import LockedError, lock, remove_parts
from rsseg.inference.blending import Windows, check_windows
from rsseg.inference.ensemble import Ensemble
from rsseg.inference.export import ABOUT, load_exported
from rsseg.inference.inputs import OutsideError, find_scenes, open_scene, same_resolution
from rsseg.inference.maps import KINDS, Bands, bands_of, kinds_of, made_by, new_map, write_styles
from rsseg.inference.options import MapOptions
from rsseg.inference.scene import Output, predict_scene
from rsseg.inference.trained import Spec, TrainedModel
from rsseg.inference.vectors import Objects, write_polygons
from rsseg.metrics.objects import SCORE
from rsseg.quiet import quiet
from rsseg.task import Binary, Centres
from rsseg.version import __version__

log = logging.getLogger(__name__)

MAPS, OBJECTS = (".tif", ".tiff"), (".gpkg",)
"""The suffixes of files to write; a name without one of them is that of a folder."""

SAME_OBJECTS = ("write", "polygons", "overwrite", "allow_different", "device", "batch_size", "window")
"""The settings that do not change the objects or polygons that are written; the side of the windows is in `size`."""

SAME_MAP = (*SAME_OBJECTS, "min_area", "simplify")
"""The settings that do not change the pixels of a map."""


def predict(
    runs: Sequence[Path], scene: str, out: Path | None = None, options: MapOptions | None = None, trust: Sequence[str] = ()
) -> list[Path]:
    """Map scenes with a run's best checkpoint, or with the mean of several.

    A scene that can't be mapped is reported, and the others are mapped. Existing maps are kept, and scenes that another process
    is mapping are skipped, so that the same command may run several times, also at once. Maps in `out` are no scenes.

    Args:
        runs: Run folders, exported folders, or folders of runs.
        scene: The scenes, see `find_scenes`.
        out: The file to write, or for several scenes a folder; None: ``maps`` in the folder of the first run.
        options: The settings of maps; None: the defaults.
        trust: Packages whose classes the runs' configs may name.

    Returns:
        The files of the first head's labels, of all scenes that are mapped now.

    Raises:
        InputError: If runs or options can't be used, or a scene could not be mapped.
    """
    quiet()
    options = options or MapOptions()
    mapper = Mapper(load_models(runs, trust), options)
    scenes, folder = find_scenes(scene, mapper.spec.image, options.stack), out or Path(runs[0]) / "maps"
    here = [one for one in scenes if folder.absolute() in one.image.absolute().parents and made_by(one.image)]
    if here:
        log.info("%s in %s are left out: they are maps, not scenes.", counted(len(here), "file"), folder)
        scenes = [one for one in scenes if one not in here]
    single = not folder.is_dir() and folder.suffix.lower() in (*MAPS, *OBJECTS)
    if folder.is_file() and not single:
        raise InputError(f"out={out} is a file: name a folder, or a map that ends in {' or '.join((*MAPS, *OBJECTS))}")
    if single and len(scenes) > 1:
        raise InputError(f"out={out}: there are {len(scenes)} scenes; name a folder for their maps")
    remove_parts(folder.parent if single else folder)
    found, failed, elsewhere = list[Path](), list[str](), 0
    for place, one in enumerate(scenes, start=1):
        title = f"scene {place} of {len(scenes)}" if len(scenes) > 1 else "predicting"
        try:
            found.append(mapper.map(one, folder if single else mapper.out_in(folder, one), title))
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
        log.info("Skipped, since other processes are mapping them: %s.", counted(elsewhere, "scene"))
    if failed:
        raise InputError(
            f"{len(failed)} of {len(scenes)} scenes are not mapped: {', '.join(failed[:5])}{', ...' * (len(failed) > 5)}"
        )
    return found


def load_models(runs: Sequence[Path], trust: Sequence[str]) -> list[TrainedModel]:
    """The networks of run folders and exported folders, and of all runs in other folders."""
    models = []
    for place in dict.fromkeys(place.resolve() if place.is_dir() else place for place in runs):
        if (place / ABOUT).is_file():
            models.append(load_exported(place))
        else:
            models += [load_trained(run, make_setup(run.config(), trust)) for run in runs_in(place)]
    return models


@dataclass(frozen=True)
class Product:
    """A kind of file that is made for a head from each scene."""

    head: str
    kind: str  # one of `KINDS`
    ending: str  # the end of the file's name, after the scene's name
    bands: Bands | None  # the bands of a map; None: objects are written
    areas: bool  # whether polygons of the map's areas are also written

    def files(self, path: Path) -> list[Path]:
        """The files of this product, from the path of the first one."""
        return [path, path.with_name(f"{path.stem}-polygons.gpkg")] if self.areas else [path]


class Mapper:
    """Maps scenes one after the other, with the mean prediction of networks.

    Attributes:
        spec: The description of the first network.
        products: The kinds of files that are made from each scene.
        windows: The division of scenes into windows.
        forward: The ensemble's `forward` on its device, in its precision.
        device: The device of the ensemble.

    Raises:
        InputError: If the options are wrong.
    """

    def __init__(self, models: Sequence[TrainedModel], options: MapOptions) -> None:
        _check(options)
        self.options, self.spec = options, models[0].spec
        self.ensemble = Ensemble(models, options.weights, options.scaling, options.tta, "disagreement" in options.write)
        if not options.allow_different:
            _refuse_unlike(self.ensemble.specs)
        if "disagreement" in options.write and len(models) * len(self.ensemble.views) == 1:
            raise InputError("write=disagreement: one run sees every window once; name several runs, or set tta=flips")
        given = {key: getattr(options, key) for key in ("window", "margin", "batch_size")}
        window, margin, batch_size = (getattr(self.spec, key) if value is None else value for key, value in given.items())
        self.windows = Windows(window, margin, options.blend, batch_size)
        check_windows(self.windows)
        self.products = self._products()
        accelerator = scoring_accelerator(options.device)
        torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as in training
        fabric = L.Fabric(accelerator=accelerator, devices=1, precision=choose_precision(self.spec.precision, accelerator))
        self.forward: Callable[[Tensor], dict[str, Tensor]] = fabric.setup_module(self.ensemble)
        self.device = fabric.device

    def _products(self) -> list[Product]:
        """The kinds of files that are made from each scene: for every head those that its task has."""
        options, heads, products = self.options, self.spec.heads, list[Product]()
        chosen = [known_head(options.head, heads)] if options.head else list(heads)
        labelled = "labels" in options.write and not all(heads[name].task.real for name in chosen)
        if not labelled and (options.polygons or options.threshold == "tuned"):
            given = "polygons=true" if options.polygons else "threshold=tuned"
            raise InputError(f"{given} is for maps of labels, which head {', '.join(chosen)} does not write: leave it out")
        for name in chosen:
            head = heads[name]
            of_head = f"-{name}" if options.head or name != next(iter(heads)) else ""
            for kind in [kind for kind in options.write if kind in kinds_of(head.task)]:
                ending, is_label = f"{of_head}{'' if kind == 'labels' else f'-{kind}'}", kind == "labels" and not head.task.real
                threshold = self.ensemble.tuned_threshold(name) if is_label and options.threshold == "tuned" else None
                if isinstance(head.task, Centres):
                    products.append(Product(name, kind, f"{ending}.gpkg", None, areas=False))
                else:
                    bands = bands_of(kind, head, threshold, options.dtype)
                    products.append(Product(name, kind, f"{ending}.tif", bands, options.polygons and is_label))
        if lacking := [kind for kind in options.write if kind not in {product.kind for product in products}]:
            raise InputError(f"write={lacking[0]}: only heads with class probabilities have this map; leave {lacking[0]} out")
        return products

    def out_in(self, folder: Path, scene: Scene) -> Path:
        """The path of a scene's first file, named by the scene, with its folder in front if another scene has the same name."""
        image, files = scene.image, _files_of(scene)
        stems = chain([image.stem], (f"{image.parent.name}-{image.stem}{f'-{n}' * (n > 1)}" for n in count(1)))
        paths = (folder / f"{stem}{self.products[0].ending}" for stem in stems)
        return next(path for path in paths if made_by(path).get("scene", files) == files)

    def map(self, scene: Scene, out: Path, title: str = "predicting") -> Path:
        """Write the files of a scene, the first of which goes to `out`; the progress bar has this title.

        Raises:
            LockedError: If another process is mapping the scene.
            InputError: If the scene can't be used, or a file can't be written.
        """
        first, *others = self.products
        suffixes = MAPS if first.bands else OBJECTS
        if out.suffix.lower() not in suffixes:
            raise InputError(f"out={out}: {' or '.join(suffixes)} is written; take such a name, or that of a folder")
        stem = out.name.removesuffix(first.ending) if out.name.endswith(first.ending) else out.stem
        paths = [out, *(out.with_name(f"{stem}{product.ending}") for product in others)]
        if any(path.resolve() == image.resolve() for path in paths for image in scene.images):
            raise InputError(f"out={out} would overwrite the scene: choose another name")
        tags = self._tags(scene)
        with _claimed(out), tempfile.TemporaryDirectory(prefix="rsseg-") as scratch:
            files = [file for product, path in zip(self.products, paths, strict=True) for file in product.files(path)]
            if _is_made(files, json.loads(tags["RSSEG"]), self.options.overwrite):
                return out
            with in_one_line(out.parent, self.windows.batch_size, self.windows.size, memory=SCORING):
                reader = open_scene(scene, self.spec, self.options, Path(scratch))
                with ExitStack() as stack:
                    opened = zip(self.products, paths, strict=True)
                    outputs = [stack.enter_context(self._open(product, path, reader, tags)) for product, path in opened]
                    predict_scene(self.forward, self.ensemble.planes, reader, outputs, self.windows, self.device, title)
        return out

    def _tags(self, scene: Scene) -> dict[str, str]:
        """The tags of a map, which hold the settings that made it."""
        how: dict[str, Any] = {"runs": [spec.name for spec in self.ensemble.specs], "scene": _files_of(scene)}
        how |= vars(self.options) | self.windows._asdict()
        return {"TIFFTAG_SOFTWARE": f"rsseg {__version__}", "RSSEG": json.dumps(how, ensure_ascii=False)}

    @contextmanager
    def _open(self, product: Product, path: Path, reader: SceneReader, tags: Mapping[str, str]) -> Iterator[Output]:
        """A product to write rows into; its files exist when the block ends."""
        task, image = self.spec.heads[product.head].task, reader.scene.image
        if product.bands is None:
            assert isinstance(task, Centres)
            objects = Objects(product.head, task, reader.size)
            yield objects
            log.info("%s of score %g and more: %s", counted(objects.save(path, image, tags), "object"), SCORE, path)
            return
        place = georeference(image)
        if not place:
            log.info("%s has no georeference, so the map has none.", image)
        with new_map(path, product.head, product.bands, reader.size, place, tags) as raster:
            yield raster
        if product.bands.classes:
            write_styles(path, product.bands.classes, transparent=0 if isinstance(task, Binary) else None)
        log.info("%s: %s", "Map" if product.kind == "labels" else product.kind.capitalize(), path)
        if product.areas:
            polygons, options = product.files(path)[1], self.options
            if task.label_planes:
                labels = {band: {1: name} for band, name in enumerate(task.classes, start=1)}
            else:
                first = len(task.label_names) - len(task.classes)  # the background of a binary task is no area
                labels = {1: dict(enumerate(task.classes, start=first))}
            unit = "m2"
            if place.get("crs") is None:
                unit = units = "units of its coordinates" if "transform" in place else "pixels"
                log.info("%s has no CRS: area, min_area and simplify of its polygons are in %s, not in metres.", image, units)
            written = write_polygons(polygons, path, labels, options.min_area, options.simplify, tags)
            sums = ", ".join(f"{name} {area:,.0f}" for name, area in written.groupby("class")["area"].sum().items())
            log.info("%s: %s; their area in %s: %s", counted(len(written), "polygon"), polygons, unit, sums or "none")


def _check(options: MapOptions) -> None:
    """Refuse invalid options."""
    check_number("min_area", options.min_area)
    check_number("simplify", options.simplify)
    check_choice("threshold", options.threshold, ("fixed", "tuned"))
    check_choice("dtype", options.dtype, ("uint8", "float16"))
    for kind in options.write or [""]:
        check_choice("write", kind, KINDS)
    if options.area and not Path(options.area).is_file():
        raise InputError(f"area={options.area}: there is no such file")
    if options.area and not Mask(Path(options.area)).vector:
        raise InputError(f"area={options.area}: a vector file is expected ({', '.join(sorted(VECTORS))})")


def _refuse_unlike(specs: Sequence[Spec]) -> None:
    """Refuse networks that were trained at several resolutions or on several number types: no scene fits all of them."""
    for one, other in combinations(specs, 2):
        if not same_resolution(one.resolution, other.resolution):
            found = f"{one.resolution:.3g} and {other.resolution:.3g} m a pixel"
        elif one.dtype != other.dtype:
            found = f"{one.dtype} and {other.dtype} pixels"
        else:
            continue
        raise InputError(
            f"{one.name} and {other.name} were trained on {found}: no scene fits both. Name runs of the same images, or map "
            "with all of them: allow_different=true"
        )


def _files_of(scene: Scene) -> str:
    """The absolute paths of a scene's files, separated by commas, for the tags of its maps."""
    return ",".join(str(image.absolute()) for image in scene.images)


def _is_made(files: Sequence[Path], asked: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the files of a scene exist and are kept; an `InputError` if one is not rsseg's, or is kept for another scene.

    If all are kept, a log line names the settings in `asked` that differ from those that made the files. If some are missing,
    the others are only made again with equal settings.
    """
    made = {path: made_by(path) for path in files if path.exists()}
    for path, how in made.items():
        if not how:
            raise InputError(f"{path} was not made by rsseg predict and is not overwritten: choose another name or folder")
        if not overwrite and how.get("scene") != asked["scene"]:
            raise InputError(f"{path} is the map of {how.get('scene')}: overwrite=true replaces it; or choose another name")
    if overwrite:
        return False
    other = {path: changed for path, how in made.items() if (changed := _other_settings(path, how, asked))}
    if len(made) < len(files):
        for path, changed in other.items():
            raise InputError(f"{path} was made with {', '.join(changed)}: overwrite=true replaces it; or choose another name")
        return False
    said = f"it was made with {', '.join(dict.fromkeys(chain(*other.values())))}" if other else "as it was made"
    log.info("%s is kept, %s; overwrite=true makes it again.", files[0], said)
    return True


def _other_settings(path: Path, how: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The settings that made a file, where those that are asked for would make another one."""
    same = SAME_MAP if path.suffix.lower() in MAPS else SAME_OBJECTS
    return [f"{key}={how[key]}" for key in asked if key not in same and how.get(key, asked[key]) != asked[key]]


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Lock a file, so that no other process maps its scene; a folder that stays empty is removed."""
    held = path.with_name(f".{path.name}.lock")
    with lock(held):
        try:
            yield
        finally:
            with suppress(OSError):
                held.unlink()
                path.parent.rmdir()


@contextmanager
def start_others(processes: int, device: str) -> Iterator[None]:
    """Run this process's command in further processes during the block, and wait for them; locks divide the scenes among them.

    On GPUs, process i sees only the i-th of this process's GPUs; this process uses the first.

    Raises:
        InputError: If one of the processes fails, or there are fewer GPUs than processes.
    """
    if processes < 1:
        raise InputError(f"devices={processes}: 1 or more is expected")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [str(i) for i in range(torch.cuda.device_count())] if visible == [""] else visible
    on_gpus = scoring_accelerator(device) == "cuda"
    if on_gpus and processes > len(gpus):
        raise InputError(f"devices={processes}: this machine has {len(gpus)} GPUs")
    words = [*ENTRY, "predict", *(word for word in sys.argv[1:] if not word.startswith("devices="))]
    others = []
    for i in range(1, processes):
        share = str(max(1, (os.cpu_count() or 1) // processes))
        own = {"CUDA_VISIBLE_DEVICES": gpus[i]} if on_gpus else {"OMP_NUM_THREADS": share}
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
