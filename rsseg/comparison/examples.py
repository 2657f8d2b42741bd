"""Windows that the runs of a sweep predict: each run keeps its own predictions; those that differ most are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsseg.comparison.records import FOLDER, of_head, read_arrays, write_arrays
from rsseg.contract import InputError
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import Row, disagreement
from rsseg.task import Task

FILE = "windows.npz"

DRAWN = 3
"""The number of windows that are drawn per comparison."""


def write_examples(
    folder: Path,
    rows: Mapping[str, Sequence[Row]],
    palettes: Mapping[str, Sequence[str] | None],
    shown: Sequence[int] | None,
) -> None:
    """Save windows, by head, with the prediction of a run's best checkpoint into the folder of its records.

    Only the bands that pictures show are saved.

    Raises:
        UnwritableError: If they can't be written.
    """
    arrays = {}
    for head, own in rows.items():
        arrays[f"{head}/palette"] = np.array(palettes[head] or [], dtype=np.str_)
        for i, row in enumerate(own):
            image = row.image[list(shown or range(min(3, len(row.image))))]
            facts = {"image": image, "target": row.target, "scene": np.array(row.scene), "prediction": row.predictions[0]}
            arrays |= {f"{head}/{name}/{i}": array for name, array in facts.items()}
    write_arrays(folder / FILE, arrays)


def draw_examples(runs: Sequence[Path], names: Sequence[str], head: str, task: Task, path: Path) -> None:
    """Draw the windows that the runs predict most differently; each scene's first window comes before any second one.

    Raises:
        InputError: If a run saved no windows, or other windows than the first run.
    """
    rows, palette = list[Row](), list[str]()
    for run in runs:
        if not (run / FOLDER / FILE).is_file():
            raise InputError(f"{run} kept no windows: train it again, and without pictures=0")
        kept = of_head(read_arrays(run / FOLDER / FILE), head)
        palette, count = kept["palette"].tolist(), sum(name.startswith("target/") for name in kept)
        own = [Row(kept[f"image/{i}"], kept[f"target/{i}"], str(kept[f"scene/{i}"]), []) for i in range(count)]
        rows = rows or own
        if [row.target.tobytes() for row in own] != [row.target.tobytes() for row in rows]:
            raise InputError(f"{run} kept other windows than {runs[0]}: its window or its validation scenes are others")
        rows = [replace(row, predictions=[*row.predictions, kept[f"prediction/{i}"]]) for i, row in enumerate(rows)]
    rows.sort(key=lambda row: -disagreement(row, task))
    first_of = {row.scene: row for row in reversed(rows)}
    rows.sort(key=lambda row: first_of[row.scene] is not row)
    draw_windows(path, task, palette or None, rows[:DRAWN], None, names)
