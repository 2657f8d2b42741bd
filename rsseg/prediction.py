"""A scene mapped, or its objects found, with a trained run: what predict.py does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from rsseg.assembly import make_setup
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.census import describe_other_radiometry
from rsseg.data.inspection import compare_scenes
from rsseg.data.scene import Scene, SceneReader
from rsseg.distributed import quiet
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation import known_head, load_run
from rsseg.files import read_json, write_json
from rsseg.inference.objects import check_out, predict_objects
from rsseg.inference.scene import predict_scene
from rsseg.metrics.objects import SCORE
from rsseg.task import Centres
from rsseg.training.scoring import scoring_trainer

log = logging.getLogger(__name__)


def predict(
    run: Path,
    scene: Path,
    out: Path | None = None,
    threshold: str = "fixed",
    trust: Sequence[str] = (),
    head: str = "",
) -> Path:
    """Map a scene, or find its objects, with a run's best checkpoint.

    Args:
        run: The run folder.
        scene: An image with the run's bands.
        out: The GeoTIFF to write, or GeoPackage or GeoJSON of objects; None: ``maps/<scene>`` in the run folder.
        threshold: As for `evaluate`.
        trust: As for `evaluate`.
        head: The head whose map it is; empty: the first.

    Returns:
        The file.

    Raises:
        InputError: If run or scene can't be used, or the map can't be written.
    """
    quiet()
    if not scene.is_file():
        raise InputError(f"scene={scene}: there is no such file")
    folder = RunFolder(run)
    setup = make_setup(folder.config(), trust)
    chosen = known_head(head, setup.tasks)
    objects = isinstance(setup.tasks[chosen], Centres)
    suffix = f"{f'-{head}' * bool(head)}{'.gpkg' if objects else '.tif'}"
    out = out or default_out(run / "maps", scene, suffix)
    if objects:
        check_out(out)
    if out.resolve() == scene.resolve():
        raise InputError(f"out={out} would overwrite the scene: choose another name")
    bands = setup.dataset.read_bands
    found = sum(Scene(scene.stem, scene).counts())
    if max(bands) > found:
        raise InputError(
            f"{scene} has {found} bands, but {run} was trained on the bands {bands} of its scenes: give one file that holds "
            "them all (for scenes of several files: a stack of these, in their order)"
        )
    reader = SceneReader(Scene(scene.stem, scene, nodata=setup.dataset.nodata), setup.dataset.mask_readers, bands)
    compare_scenes([reader.scene], [reader.facts], bands)
    with in_one_line(out.parent, setup.batch_size, setup.window, memory=SCORING):
        module = load_run(folder, setup, threshold=threshold)
        reader.fill = module.mean.numpy().ravel()
        if line := other_radiometry(folder.data(), reader):
            log.warning("%s", line)
        trainer = scoring_trainer(setup)  # its device and precision are those of scores
        trainer.precision_plugin.convert_module(module.to(trainer.strategy.root_device))
        facts = module, chosen, reader, out, setup.window, setup.overlap, setup.batch_size
        with trainer.precision_plugin.forward_context():
            if objects:
                log.info("%d objects of score %g and more", predict_objects(*facts), SCORE)
            else:
                predict_scene(*facts, setup.palette(chosen))
    log.info("%s: %s", "Objects" if objects else "Map", out)
    return out


def default_out(folder: Path, scene: Path, suffix: str) -> Path:
    """Where the map of a scene goes: under its name, with its folder's before it where the map of another scene is called so.

    ``scenes.json`` in the folder of maps says which scene each is of.

    Raises:
        UnwritableError: If that can't be written.
    """
    listed, place = folder / "scenes.json", str(scene.resolve())
    made = read_json(listed) if listed.is_file() else {}
    stems = chain([scene.stem], (f"{scene.parent.name}-{scene.stem}{f'-{n}' * (n > 1)}" for n in count(1)))
    name = next(f"{stem}{suffix}" for stem in stems if made.get(f"{stem}{suffix}", place) == place)
    write_json(listed, made | {name: place})
    return folder / name


def other_radiometry(data: Mapping[str, Any], reader: SceneReader) -> str:
    """One line where a scene's pixels seem to be of another number type or range than those that a run trained on.

    Args:
        data: The run's ``data.json``.
        reader: A reader of the scene; a square in its middle is looked at.
    """
    height, width = reader.size
    side = min(height, width, 1024)
    image, missing = reader.read_image((height - side) // 2, (width - side) // 2, side)
    if missing.all():
        return ""
    mean, std, found = np.array(data["mean"]), np.array(data["std"]), image[:, ~missing].mean(axis=1)
    scene = reader.scene.image.name
    return describe_other_radiometry(mean, std, data.get("dtype", ""), found, str(reader.dtype), scene)
