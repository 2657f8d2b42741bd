"""Windows to draw: their choice, labels, predictions and scores, and the disagreement of models."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import Batch, known, layers_of
from rsseg.data.balance import Balanced
from rsseg.data.store import Store
from rsseg.data.windows import StoreWindows
from rsseg.metrics import Scores
from rsseg.metrics.objects import SCORE, labelled_objects, match, peaks, suppress_overlaps
from rsseg.metrics.pixels import count_pairs, sum_errors
from rsseg.pictures.colours import FOUND, MISSED, WRONG
from rsseg.task import Centres, Task

LOOKED_AT = 48
"""About how many candidate windows there are to choose from."""


class Predictor(Protocol):
    """A predictor of windows: a module in training, a trained model, or an ensemble of them."""

    @property
    def device(self) -> torch.device:
        """The device of the model."""

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by head."""

    def logits(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits by head of stored pixels ``[B, C, H, W]``."""


@dataclass(frozen=True)
class Row:
    """A window to draw."""

    image: NDArray[Any]  # ``[C, H, W]`` as stored
    target: NDArray[Any]  # its labels or values, ``[*planes, H, W]``; for objects a table, see `rsseg.metrics.objects`
    scene: str  # the name of its scene
    predictions: list[NDArray[Any]]  # one per model, each with the target's shape; for objects a table


def pick_windows(store: Store, size: int, count: int, every_class: bool = False) -> list[Batch]:
    """Choose windows around pixels of each class that together show as many classes and scenes as possible.

    Each next window shows the most classes that are not seen yet; ties go to a new scene, then to the window with more classes.
    A window that is less than half of its side from another is taken only for a class that is not seen yet.
    Returns up to `count` batches of one window, or with `every_class` as many as are needed to see all classes of the split.
    """
    task, shares = store.task, dict[tuple[int, int, int], NDArray[np.float64]]()
    counts = task.label_counts(store.census.positives.sum(axis=0), store.census.valid.sum(axis=0))[0]
    labels = np.flatnonzero(counts).tolist()
    for label in labels:
        weights = {task.label_names[label]: 1.0}
        sampler = Balanced(0, store.sizes, size, store.census.blocks, task, store.read, weights=weights)
        for place in map(sampler, range(-(-LOOKED_AT // len(labels)))):
            if place not in shares:
                mask = store.read(*place, size)[1][task.target]
                shares[place] = np.array([task.label_mask(mask, each).mean() for each in labels])
    seen, chosen = np.zeros(len(labels), bool), list[tuple[int, int, int]]()
    while len(chosen) < count or (every_class and not seen.all()):
        scenes = {place[0] for place in chosen}
        apart = [p for p in shares if not any((abs(np.subtract(p, other)) < (1, size / 2, size / 2)).all() for other in chosen)]
        left = apart + [place for place in shares if (shares[place] > 0)[~seen].any()]
        if not left:
            break
        best = max(left, key=lambda p: ((shares[p] > 0)[~seen].sum(), p[0] not in scenes, np.sqrt(shares[p]).sum()))
        seen |= shares[best] > 0
        chosen.append(best)
    windows = StoreWindows(store, size, chosen.__getitem__)
    return [windows.batch([k]) for k in range(len(chosen))]


def label_rows(windows: Sequence[Batch], task: Task, scenes: Sequence[str]) -> list[Row]:
    """The labels of windows, which are batches of one on the CPU, without predictions; `scenes` are the names of all scenes."""
    rows = []
    for window in windows:
        target = layers_of(window)[task.target]
        if isinstance(task, Centres):
            shown = labelled_objects(task.standardise(target), task).numpy()
        else:
            shown = target[0].numpy() if task.real else task.hard_labels(target[0].numpy())
        rows.append(Row(window["image"][0].numpy(), shown, scenes[int(window["scene"][0])], []))
    return rows


@torch.inference_mode()
def predict_windows(
    model: Predictor, windows: Sequence[Batch], scenes: Sequence[str], thresholds: Mapping[str, Tensor] | None = None
) -> dict[str, list[Row]]:
    """The labels of windows and the predictions of a model in evaluation mode, by head; see `label_rows`.

    `thresholds` are the thresholds or biases of heads for `Task.predict`; heads without them have fixed ones.
    """
    images = torch.cat([window["image"] for window in windows]).to(model.device)
    logits, found = model.logits(images), {}
    for head, task in model.tasks.items():
        found[head] = label_rows(windows, task, scenes)
        predicted = task.predict(logits[head].float(), (thresholds or {}).get(head))
        if isinstance(task, Centres):
            objects = suppress_overlaps(peaks(predicted, task, least=SCORE)).cpu().numpy()
            predictions: Any = [objects[objects[:, 0] == i] for i in range(len(windows))]
        else:
            predictions = predicted.cpu().numpy()
        for row, prediction in zip(found[head], predictions, strict=True):
            row.predictions.append(prediction)
    return found


def window_score(task: Task, target: NDArray[Any], prediction: NDArray[Any]) -> float:
    """`Task.score` of a whole window; NaN where nothing is known."""
    if isinstance(task, Centres):
        missed, wrong = (np.array(each) for each in by_match(target, prediction, task.channels))
        counts: Any = [
            [(wrong[own] == FOUND).sum(), (wrong[own] == WRONG).sum(), (missed[there] == MISSED).sum()]
            for own, there in ((prediction[:, 1] == label, target[:, 1] == label) for label in range(task.channels))
        ]
        counts = np.array([counts])
    else:
        given = torch.from_numpy(prediction)[None], torch.from_numpy(target)[None]
        counts = (sum_errors(*given) if task.real else count_pairs(*given, torch.tensor([0]), 1, task)).numpy()
    return Scores(counts, task)[task.score]


def by_match(truth: NDArray[Any], found: NDArray[Any], classes: int) -> tuple[list[str], list[str]]:
    """The colours of true objects and of found objects, by whether they match."""
    missed, wrong = [MISSED] * len(truth), [WRONG] * len(found)
    for label in range(classes):
        own, there = (np.flatnonzero(table[:, 1] == label) for table in (found, truth))
        for i, j in zip(*match(found[own], truth[there]), strict=True):
            wrong[own[i]] = missed[there[j]] = FOUND
    return missed, wrong


def disagreement(row: Row, task: Task) -> float:
    """The share of labelled pixels (multilabel: labels) on which the models disagree; 0 if nothing is labelled.

    For real values, the range of the predictions, mean over the pixels whose value is known. For objects, the number of objects
    that one model finds and another does not.
    """
    if isinstance(task, Centres):
        first, *others = row.predictions
        pairs = [by_match(first, other, task.channels) for other in others]
        return float(sum(missed.count(MISSED) + wrong.count(WRONG) for missed, wrong in pairs))
    there, apart = known(row.target), np.ptp(row.predictions, axis=0)
    return float((apart if task.real else apart > 0)[there].mean()) if there.any() else 0.0


def of_head(path: Path, head: str, heads: Collection[str]) -> Path:
    """The path of a head's picture, derived from that of the first head's picture.

    Example:
        >>> of_head(Path("picture.png"), "water", ["cover", "water"]).name
        'picture-water.png'
    """
    return path if head == next(iter(heads)) else path.with_name(f"{path.stem}-{head}{path.suffix}")
