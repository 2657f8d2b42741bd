"""Scenes with labels: those of a split, and an image or a finished map with a separate mask."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rasterio.windows import Window

from rsseg.config.folder import RunFolder
from rsseg.config.targets import FROM_FILES, targets_of
from rsseg.contract import InputError, known, unknown
from rsseg.data.files import mask_settings
from rsseg.data.labels import make_mask_reader
from rsseg.data.masks import Mask, MaskReader
from rsseg.data.scene import Scene, SceneReader
from rsseg.data.store import Store
from rsseg.dataset import Dataset, open_split, scenes_of
from rsseg.evaluation.loading import load_trained
from rsseg.inference.scene import blocks
from rsseg.inference.trained import TrainedModel
from rsseg.metrics import Scores
from rsseg.metrics.pixels import count_pairs, sum_errors
from rsseg.progress import progress
from rsseg.setup import Setup
from rsseg.task import Centres

log = logging.getLogger(__name__)

TILE = 1024  # the side in pixels of the parts in which a map is compared


def labelled_scenes(setup: Setup, split: str) -> list[Scene]:
    """The scenes of a split, all of which must have labels."""
    scenes = scenes_of(setup.source(), setup.dataset, split)
    bare = sum(not any(scene.masks) for scene in scenes)
    if bare:
        raise InputError(
            f"split={split} of dataset {setup.dataset.name} can't be scored: {bare} of its {len(scenes)} scenes "
            "have no labels. Take split=val, or map the scenes with rsseg predict"
        )
    return scenes


def open_labelled(run: RunFolder, setup: Setup, split: str) -> tuple[TrainedModel, Store]:
    """A run's network with its best weights, and the scenes of a split."""
    scenes = labelled_scenes(setup, split)
    model = load_trained(run, setup)  # before any scene is decoded
    store = open_split(setup.dataset, scenes, split)
    store.fill = np.array(model.spec.mean)
    return model, store


def labelled_scene(setup: Setup, target: str, image: Path | None, mask: Path | None) -> tuple[Dataset, Scene]:
    """A dataset of one scene, an image with a mask in any CRS that is read like a run's target; and the scene."""
    if image is None or mask is None:
        given, lacking = ("mask", "scene") if image is None else ("scene", "mask")
        raise InputError(f"{given}=... needs {lacking}=... beside it: an image, and the labels to score it by")
    for path in (image, mask):
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
    own = setup.dataset
    place = list(own.tasks).index(target)
    burnt, mask_reader = _mask_of(setup, target, mask, own.mask_readers[place])
    scene = Scene(image.stem, image, (burnt,), unlabelled=own.unlabelled_in([image.stem])[image.stem], nodata=own.nodata)
    return replace(own, mask_readers=(mask_reader,), palettes=(own.palettes[place],)), scene


def _mask_of(setup: Setup, target: str, path: Path, mask_reader: MaskReader) -> tuple[Mask, MaskReader]:
    """A mask and its reader."""
    node = setup.plain["dataset"]
    place, said = (f"targets.{target}", targets_of(node)[target]) if node.get("targets") else ("source", node["source"])
    given = {key: said[key] for key in FROM_FILES if key != "mask" and said.get(key) is not None}
    found = mask_settings(place, str(path), **given)
    if not found.vector:
        return found, mask_reader
    task = mask_reader.task
    if found.attribute is None and not task.real:
        if task.exclusive or task.channels > 1:
            raise InputError(
                f"mask={path}: the run's config names no attribute (dataset.source.attribute, values) that says which of "
                f"{', '.join(task.classes)} a feature is: burn it into a raster (gdal_rasterize -a ...)"
            )
        mask_reader = make_mask_reader(replace(task, soft=False))  # features have value 1, whatever the value in rasters
    return found, mask_reader


def compare_map(setup: Setup, head: str, path: Path, mask: Path) -> Scores:
    """The scores of a finished map of a head against a mask (see `labelled_scene`), on the map's grid.

    The map holds label numbers, or the values of a regression, as ``rsseg predict`` writes them, with a no-data value for
    unknown pixels.
    """
    task = setup.tasks[head]
    if isinstance(task, Centres):
        raise InputError(f"map={path}: head {head} finds objects, which are no raster; score the image by scene=... instead")
    dataset, scene = labelled_scene(setup, task.target, path, mask)
    of_map = dataset.mask_readers[0] if task.real else make_mask_reader(replace(task, soft=False), ignore=[])
    holds = "values" if task.real else f"labels, 0 to {task.labels - 1}"
    reader, counts, unmapped = SceneReader(scene, dataset.mask_readers, [1]), torch.zeros(()), 0
    with progress(list(blocks(Window(0, 0, *reversed(reader.size)), TILE, TILE)), "comparing tiles") as tiles:
        for window in tiles:
            truth = reader.read_mask(window)
            truth = truth if task.real else task.hard_labels(truth)
            try:
                labels = of_map.read(Mask(path), window, path)
            except InputError as error:
                found = str(error).partition(": ")[0].replace("the mask", "it")
                raise InputError(f"map={path}: {found}; head {head} has {holds}: name the map's head by head=...") from None
            beyond = known(truth) & ~known(labels)
            unmapped += int(beyond.sum())
            given = torch.from_numpy(labels)[None], torch.from_numpy(np.where(beyond, unknown(truth), truth))[None]
            part = sum_errors(*given) if task.real else count_pairs(*given, torch.tensor([0]), 1, task)
            counts = counts + part
    if unmapped:
        log.info("%d labelled pixels have no value in %s: they are not counted.", unmapped, path)
    scores = Scores(counts.numpy(), task, setup.without_of(head))
    if not scores.class_pixels.any():
        raise InputError(f"{mask} labels no pixel of {path} that the map has a value for: is it the right file?")
    return scores
