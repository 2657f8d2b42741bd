"""What a comparison looks at scenes and checkpoints for: another split, trivial baselines, and where models disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsseg.assembly import make_setup
from rsseg.config.folder import RunFolder
from rsseg.dataset import open_data, open_split, scenes_of
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation.baselines import baselines
from rsseg.evaluation.loading import known_head, load_trained, open_labelled
from rsseg.metrics.average import Array
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import most_different, pick_windows
from rsseg.progress import progress
from rsseg.quiet import quiet
from rsseg.task import Task
from rsseg.training.scoring import score_split


def record_split(run: Path, split: str = "test", trust: Sequence[str] = ()) -> Path:
    """Count a run's best checkpoint on a split that training has not seen for comparisons, unless that has been done.

    Returned is ``records/test.npz``, which `rsseg.comparison.records.load_records` reads; errors are those of `evaluate`.
    """
    quiet()
    folder = RunFolder(run)
    path = folder.records / f"{split}.npz"
    if not path.is_file():
        setup = make_setup(folder.config(), trust)
        with in_one_line(run, setup.batch_size, setup.window, memory=SCORING):
            module, store = open_labelled(folder, setup, split)
            score_split(setup, folder, module, store, path)
    return path


def count_baselines(run: Path, task: Task, split: str = "val", trust: Sequence[str] = ()) -> dict[str, Array]:
    """The counts of trivial predictions on the scenes of a run's split, by name; see `baselines`."""
    quiet()
    setup = make_setup(RunFolder(run).config(), trust)
    with in_one_line(run, 1, setup.window, memory=SCORING):
        stores = open_data(setup.dataset, setup.source(), setup.window).stores
        if split == "val":
            return baselines(stores["train"], stores["val"], task)
        scenes = scenes_of(setup.source(), setup.dataset, split)
        return baselines(stores["train"], open_split(setup.dataset, scenes, split), task)


def draw_disagreements(
    runs: Sequence[Path], names: Sequence[str], head: str, split: str, trust: Sequence[str], path: Path
) -> None:
    """Draw the windows that the best checkpoints of some runs of the same data label most differently."""
    quiet()
    setups = [make_setup(RunFolder(run).config(), trust) for run in runs]
    setup, size = setups[0], setups[0].window
    head = known_head(head, setup.tasks)
    store = open_split(setup.dataset, scenes_of(setup.source(), setup.dataset, split), split)
    store.fill = np.array(RunFolder(runs[0]).data()["mean"])
    with (
        in_one_line(path.parent, 1, size, memory=SCORING),
        progress(list(zip(runs, setups, strict=True)), "predicting examples") as made,
    ):
        models = (load_trained(RunFolder(run), own) for run, own in made)
        examples = most_different(pick_windows(store, size, 16), head, models, 3, [scene.name for scene in store.scenes])
    draw_windows(path, setup.tasks[head], setup.palette(head), examples, setup.shown_bands, names)
