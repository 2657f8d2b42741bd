"""Label noise: pixels whose label a trained model contradicts with confidence, gathered into patches to relabel first.

Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068): a class's threshold is its mean predicted
probability over the pixels labelled with it. A label is suspicious if the most probable class among those above their
thresholds is another one. The threshold of a class that the model does not know well is low, and that of a class it does not
know at all is near 0; therefore the suggested class must also be more probable than the labelled one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rasterio.transform import xy
from torch import Tensor

from rsseg.assembly import make_setup
from rsseg.config.folder import RunFolder
from rsseg.console import print_table
from rsseg.contract import IGNORE, InputError, layers_of
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows, StoreWindows, WholeScenes
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation.labelled import open_labelled
from rsseg.files import write_table
from rsseg.inference.trained import TrainedModel
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import of_head, predict_windows
from rsseg.quiet import quiet
from rsseg.setup import Setup
from rsseg.task import Task
from rsseg.training.recorder import labelled_tasks
from rsseg.training.scoring import predict_scenes

log = logging.getLogger(__name__)

DRAWN = 8  # patches in the picture
PRINTED = 10  # scenes and patches on the terminal
MANY = 0.2  # if a larger share of labels is suspicious, rather the model is wrong than the labels

PATCH = ["head", "scene", "row", "column", "size", "x", "y", "crs", "labelled", "suggested", "pixels", "confidence"]
"""The columns of ``noise.csv``."""


def class_probabilities(task: Task, logits: Tensor) -> Tensor:
    """The probability of each class of logits ``[B, K, H, W]``, float32 ``[B, P, classes, H, W]``.

    Exclusive classes share one plane; each other class has its own plane with the classes "not it" and "it": `Task.matrices`.
    """
    logits = logits.float()
    if task.exclusive:
        return logits.softmax(dim=1)[:, None]
    return torch.stack([(-logits).sigmoid(), logits.sigmoid()], dim=2)


def label_planes(task: Task, target: Tensor) -> Tensor:
    """The labels of a target ``[B, *planes, H, W]``, int64 ``[B, P, H, W]``; `IGNORE` where there is none."""
    labels: Tensor = task.hard_labels(target).long()
    return labels.reshape(len(labels), -1, *labels.shape[-2:])


def labelled_probability(probability: Tensor, label: Tensor) -> Tensor:
    """The probability ``[B, P, H, W]`` of each pixel's labelled class; ignored pixels get that of class 0."""
    return probability.gather(2, label.where(label != IGNORE, 0).unsqueeze(2)).squeeze(2)


class SelfConfidence:
    """The mean probability of each class over the pixels labelled with it."""

    def __init__(self, task: Task) -> None:
        self.sums = np.zeros((len(task.matrices), len(task.matrices[0])))  # sums of probabilities ``[P, classes]``
        self.pixels = np.zeros_like(self.sums)  # numbers of pixels

    def add(self, probability: Tensor, label: Tensor) -> None:
        """Add a batch: ``[B, P, classes, H, W]`` and ``[B, P, H, W]``."""
        known = label != IGNORE
        own = labelled_probability(probability, label)
        for plane, where in enumerate(known.unbind(dim=1)):
            numbers = label[:, plane][where].cpu().numpy()
            self.sums[plane] += np.bincount(numbers, own[:, plane][where].cpu().double().numpy(), len(self.sums[plane]))
            self.pixels[plane] += np.bincount(numbers, minlength=len(self.sums[plane]))

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """The threshold of each class ``[P, classes]``, infinite for a class that is never labelled."""
        return np.where(self.pixels > 0, self.sums / np.maximum(self.pixels, 1), np.inf)


def suspicious_labels(
    probability: Tensor, label: Tensor, thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The suggested class of each suspicious pixel, `IGNORE` elsewhere, and its probability, both ``[B, P, H, W]``.

    Example:
        >>> probability = torch.tensor([[0.9, 0.4], [0.1, 0.6]]).view(1, 1, 2, 1, 2)
        >>> suspicious_labels(probability, torch.tensor([[[[1, 1]]]]), np.array([[0.8, 0.5]]))[0].tolist()
        [[[[0, 255]]]]
    """
    least = torch.from_numpy(thresholds).to(probability)[:, :, None, None]
    confidence, suggested = probability.where(probability > least, 0).max(dim=2)
    doubted = (label != IGNORE) & (confidence > labelled_probability(probability, label))
    return suggested.where(doubted, IGNORE).byte().cpu().numpy(), confidence.cpu().numpy()


class Doubts:
    """The suspicious labels of scenes, counted in patches, one scene in memory at a time.

    Attributes:
        patches: A table for each scene with a row per patch and pair of classes: the columns of `PATCH`, the ``sum`` of the
            probabilities, and the scene's ``number``.
        scenes: The numbers of labelled and of suspicious pixels of each scene.
    """

    def __init__(self, head: str, task: Task, store: Store, side: int, thresholds: NDArray[np.float64]) -> None:
        self.head, self.task, self.store, self.side, self.thresholds = head, task, store, side, thresholds
        self.patches, self.scenes = list[pd.DataFrame](), list[dict[str, Any]]()
        self._wholes = WholeScenes(store.sizes)

    def add(self, windows: GridWindows, numbers: list[int], logits: Tensor, label: Tensor) -> None:
        """Add the logits and labels of windows; the windows of a scene must be consecutive."""
        found = map(torch.from_numpy, suspicious_labels(class_probabilities(self.task, logits), label, self.thresholds))
        for k, *parts in zip(numbers, label.byte().cpu(), *found, strict=True):
            if whole := self._wholes.add(windows.cells, k, parts):
                self._count(whole[0], *(each.numpy() for each in whole[1]))

    def _count(
        self, number: int, label: NDArray[np.uint8], suggested: NDArray[np.uint8], confidence: NDArray[np.float32]
    ) -> None:
        """Count the patches of a scene."""
        scene, side, doubted = self.store.scenes[number], self.side, np.nonzero(suggested != IGNORE)
        pixels = pd.DataFrame(np.transpose(doubted), columns=["plane", "row", "column"])
        pixels[["row", "column"]] = pixels[["row", "column"]] // side * side
        pixels["labelled"], pixels["suggested"] = label[doubted], suggested[doubted]
        groups = pixels.assign(confidence=confidence[doubted].astype(np.float64)).groupby([*pixels.columns])["confidence"]
        found = groups.agg(pixels="size", confidence="mean", sum="sum").reset_index().round({"confidence": 4})
        for column in ("labelled", "suggested"):
            places = zip(found["plane"], found[column], strict=True)
            found[column] = [self.task.matrices[plane][number] for plane, number in places]
        crs, transform = scene.place()
        centre = found["row"] + side / 2, found["column"] + side / 2
        x, y = (np.nan, np.nan) if transform is None else xy(transform, *centre, offset="ul")
        named = {"head": self.head, "scene": scene.name}
        place = {"size": side, "x": x, "y": y, "crs": "" if crs is None else crs.to_string(), "number": number}
        self.patches.append(found.assign(**named, **place))
        known, wrong = int((label != IGNORE).sum()), len(pixels)
        share = {"labelled pixels": known, "suspicious pixels": wrong, "share": round(wrong / max(known, 1), 6)}
        self.scenes.append(named | share)


def find_noise(setup: Setup, model: TrainedModel, store: Store, side: int) -> dict[str, Doubts]:
    """The suspicious labels for each head with labels; the scenes are predicted twice, first for the thresholds."""
    tasks = labelled_tasks(setup)
    if not tasks:
        raise InputError(f"a {setup.task.kind} run predicts no classes: label noise is looked for in masks of labels")
    windows = GridWindows(store, setup.window, setup.margin)
    sure = {head: SelfConfidence(task) for head, task in tasks.items()}
    for (logits,), batch in predict_scenes(setup, [model], windows):
        for head, task in tasks.items():
            sure[head].add(class_probabilities(task, logits[head]), label_planes(task, layers_of(batch)[task.target]))
    doubts = {head: Doubts(head, task, store, side, sure[head].thresholds) for head, task in tasks.items()}
    for (logits,), batch in predict_scenes(setup, [model], windows):
        for head, task in tasks.items():
            label = label_planes(task, layers_of(batch)[task.target])
            doubts[head].add(windows, batch["k"].tolist(), logits[head], label)
    return doubts


def draw_noise(path: Path, setup: Setup, model: TrainedModel, store: Store, head: str, patches: pd.DataFrame) -> None:
    """Write a PNG of a head's first patches, at least one: image, label, prediction and errors."""
    first = patches.drop_duplicates(["number", "row", "column"]).head(DRAWN)
    places = [*first[["number", "row", "column"]].itertuples(index=False, name=None)]
    windows = StoreWindows(store, setup.window, places.__getitem__)
    batches = [windows.batch([k]) for k in range(len(places))]
    rows = predict_windows(model, batches, [scene.name for scene in store.scenes])[head]
    rows = [replace(row, scene=f"{rank}. {row.scene}") for rank, row in zip(first.index, rows, strict=True)]
    draw_windows(path, setup.tasks[head], setup.palette(head), rows, setup.shown_bands)


def describe_noise(run: Path, split: str = "val", trust: Sequence[str] = ()) -> Path:
    """Rank the labels that a run's best checkpoint contradicts with confidence, as a worklist for relabelling.

    ``noise.csv`` (for train ``noise-train.csv``) has a row per patch and pair of classes, ``noise-scenes.csv`` one per scene;
    ``noise.png`` shows the first patches. The model has not trained on the validation scenes; `trust` is as for `evaluate`.

    Raises:
        InputError: If the run or the split can't be used, or no head has labels.
    """
    quiet()
    folder, path = RunFolder(run), run / f"noise{f'-{split}' * (split != 'val')}.csv"
    setup = make_setup(folder.config(), trust)
    if not folder.finished:
        raise InputError(f"{run} is not finished: go on with {folder.resume_command}")
    with in_one_line(run, setup.batch_size, setup.window, memory=SCORING):
        model, store = open_labelled(folder, setup, split)
        if split == "train":
            log.warning(
                "The model has trained on these labels and may have learnt their faults: those that it still contradicts are "
                "worth a look, but a label that is not listed may be wrong too."
            )
        else:
            log.info("The model has not trained on the labels of the %s scenes, so that it has not learnt their faults.", split)
        score = folder.summary().get(setup.task.score)
        if score is not None:
            line = "Its validation %s is %.4f: a model that is often wrong is often wrong with confidence."
            log.info(line, setup.task.score_name, score)
        write_noise(setup, model, store, path)
    return path


def write_noise(setup: Setup, model: TrainedModel, store: Store, path: Path) -> None:
    """Rank scenes and patches by their suspicious labels, print the first ones, and write tables and a picture per head."""
    doubts = find_noise(setup, model, store, setup.window)
    scenes = pd.DataFrame([row for own in doubts.values() for row in own.scenes])
    scenes = scenes.sort_values("share", ascending=False, kind="stable")
    found = pd.concat([patches for own in doubts.values() for patches in own.patches])
    found = found.sort_values("sum", ascending=False, kind="stable")
    found.index = pd.RangeIndex(1, len(found) + 1, name="rank")
    write_table(path, found[PATCH])
    write_table(path.with_name(f"{path.stem}-scenes.csv"), scenes.set_index("scene"))
    doubted = scenes["suspicious pixels"].sum() / max(scenes["labelled pixels"].sum(), 1)
    if doubted > MANY:
        line = "%.0f %% of all labels are contradicted: the model is probably wrong, not the labels. Train it longer first."
        log.warning(line, 100 * doubted)
    for head, own in doubts.items():
        names = [name for plane in own.task.matrices for name in plane]
        shown = zip(names, own.thresholds.ravel().tolist(), strict=True)
        line = "%s: mean probability of each class where it is labelled, above which it is suggested: %s"
        log.info(line, head, ", ".join(f"{name} {value:.3f}" for name, value in shown))
        picture, patches = of_head(path.with_suffix(".png"), head, doubts), found[found["head"] == head]
        picture.unlink(missing_ok=True)  # the picture of an earlier call
        if len(patches):
            draw_noise(picture, setup, model, store, head, patches)
    print_table(scenes.head(PRINTED).to_dict("records"), "Scenes by their share of suspicious labels")
    if len(found):
        columns = ["scene", "row", "column", "labelled", "suggested", "pixels", "confidence"]
        rows = found.head(PRINTED).reset_index()[["rank", *columns]].to_dict("records")
        print_table(rows, f"The first of {len(found):,} findings in patches of {setup.window} px, by pixels x confidence")
    log.info("Worklist and picture: %s*", path.with_suffix(""))
