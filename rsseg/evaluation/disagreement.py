"""Where losses disagree: windows that their models label most differently.

As for `rsseg.evaluation.baselines`, a process of its own draws them, and imports no more than predicting needs: no trainer.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rsseg.config.build import plain
from rsseg.config.folder import RunFolder
from rsseg.dataset import open_split, scenes_of
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation.loading import known_head, load_trained
from rsseg.inference.trained import TrainedModel
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import most_different, pick_windows
from rsseg.progress import progress
from rsseg.quiet import quiet
from rsseg.setup import Setup, set_up


def draw_disagreements(
    runs: Sequence[Path], names: Sequence[str], head: str, split: str, trust: Sequence[str], path: Path
) -> None:
    """Draw the windows that the best checkpoints of some runs of the same data label most differently."""
    quiet()
    setups = [set_up(plain(RunFolder(run).config()), tuple(trust)) for run in runs]
    setup, size = setups[0], setups[0].window
    head = known_head(head, setup.tasks)
    store = open_split(setup.dataset, scenes_of(setup.source(), setup.dataset, split), split)
    store.fill = np.array(RunFolder(runs[0]).data()["mean"])
    with (
        in_one_line(path.parent, 1, size, memory=SCORING),
        progress(list(zip(runs, setups, strict=True)), "predicting examples") as made,
    ):
        models = one_by_one(made)
        examples = most_different(pick_windows(store, size, 16), head, models, 3, [scene.name for scene in store.scenes])
    draw_windows(path, setup.tasks[head], setup.palette(head), examples, setup.shown_bands, names)


def one_by_one(runs: Iterable[tuple[Path, Setup]]) -> Iterator[TrainedModel]:
    """The model of each run, one in memory at a time."""
    for run, setup in runs:
        yield load_trained(RunFolder(run), setup)
        gc.collect()  # a network refers to itself
