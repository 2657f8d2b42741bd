"""Baselines on the data, split and metric of a run: python docs/dubai_baselines.py run=...

What a network has to beat: the majority class knows nothing, a per-pixel logistic regression colours but no shapes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rasterio.windows import Window
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rsseg.assembly import make_setup
from rsseg.config.arguments import run_script
from rsseg.config.folder import RunFolder
from rsseg.contract import IGNORE
from rsseg.data.raster import read_bands
from rsseg.dataset import open_data
from rsseg.metrics import Scores
from rsseg.table import print_table

PIXELS_PER_SCENE = 4000


@dataclass
class Arguments:
    """run=FOLDER    a finished multiclass run."""

    run: str


def pixels(reader, scene):
    """Colours ``[N, C]`` and labels ``[N]`` of the labelled pixels of a scene."""
    height, width = reader.sizes[scene].tolist()
    window = Window(0, 0, width, height)
    labels = reader.read_mask(scene, window).ravel()
    colours = read_bands(reader.scenes[scene].image, reader.bands, window).reshape(len(reader.bands), -1).T
    return colours[labels != IGNORE].astype(np.float32), labels[labels != IGNORE]


def main(arguments: Arguments) -> None:
    """Fit on the training scenes, score on the validation scenes."""
    setup = make_setup(RunFolder(Path(arguments.run)).config())
    source, task = setup.source(), setup.dataset.task
    stores = open_data(setup.dataset, source, setup.window).stores
    train, val = stores["train"], stores["val"]
    rng, drawn = np.random.default_rng(0), []
    counts = np.zeros(task.channels, dtype=int)
    for scene in range(len(train)):
        colours, labels = pixels(train, scene)
        counts += np.bincount(labels, minlength=task.channels)
        chosen = rng.choice(len(labels), min(PIXELS_PER_SCENE, len(labels)), replace=False)
        drawn.append((colours[chosen], labels[chosen]))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.concatenate([c for c, _ in drawn]), np.concatenate([y for _, y in drawn]))
    tables = {"majority class": [], "logistic regression": []}
    for scene in range(len(val)):
        colours, labels = pixels(val, scene)
        for name, guess in {
            "majority class": np.full(len(labels), counts.argmax()),
            "logistic regression": model.predict(colours),
        }.items():
            cells = np.bincount(labels.astype(int) * task.channels + guess, minlength=task.channels**2)
            tables[name].append(cells.reshape(1, task.channels, task.channels))
    for name, table in tables.items():
        print_table(Scores(torch.from_numpy(np.stack(table)), task).table(), f"{name}, validation, pooled over whole scenes")


if __name__ == "__main__":
    run_script(Arguments, main)
