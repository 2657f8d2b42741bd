"""A run's network with its best weights, loaded without Lightning, which would take time and memory."""

from __future__ import annotations

from collections.abc import Collection

from rsseg.checkpoints import fill
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError, nearest
from rsseg.dataset import TrainStatistics
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.setup import Setup


def load_trained(run: RunFolder, setup: Setup, scaling: str = "none") -> TrainedModel:
    """The network of a run with its best weights, ready for any scene, scaled as for `TrainedModel`.

    Raises:
        InputError: If there are no weights, or they can't be read.
    """
    saved, weights = run.data(), run.load_state()[0]
    network, numbers = setup.network(pretrained=False), TrainStatistics.read(saved, setup.dataset.tasks)
    own = {key.removeprefix("network."): w for key, w in weights.items() if key.startswith("network.")}
    fill(network, own, f"checkpoints/best.ckpt of {run}")
    summary = run.summary() if run.finished else {}
    heads = {}
    for name, task in setup.tasks.items():
        try:
            threshold = None if task.real else tuple(run.thresholds({name: task})[name].tolist())
        except InputError:  # a run that is not finished, or was not recorded
            threshold = None
        palette = setup.palette(name)
        heads[name] = Head(
            numbers.scaled(task), None if palette is None else tuple(palette), threshold, run.scalings(name, task.channels)
        )
    spec = Spec(
        name=str(run),
        heads=heads,
        bands=tuple(setup.dataset.read_bands),
        mean=tuple(numbers.mean),
        std=tuple(numbers.std),
        window=setup.window,
        overlap=setup.overlap,
        batch_size=setup.batch_size,
        dtype=saved.get("dtype", ""),
        resolution=saved.get("resolution"),
        quality=setup.task.quality(summary) if setup.task.score in summary else None,
        rgb=setup.dataset.rgb,
        nodata=setup.dataset.nodata,
        precision=str(setup.plain["trainer"].get("precision", "auto")),
        image=setup.image_patterns,
    )
    return TrainedModel(network, spec, scaling)


def known_head(name: str, heads: Collection[str]) -> str:
    """A head by its name, or the first for no name.

    Raises:
        InputError: If there is no such head.
    """
    if name and name not in heads:
        raise InputError(f"head={name}{nearest(name, heads)}: the run has {', '.join(heads)}")
    return name or next(iter(heads))
