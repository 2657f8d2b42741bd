"""Baselines that a network has to beat, counted on the same scenes as its predictions.

A comparison counts them in a separate process (`rsseg.apart`), which imports torch, but not the libraries of networks and
trainers, since these take as much memory again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.config.build import plain
from rsseg.config.folder import RunFolder
from rsseg.contract import IGNORE, layers_of
from rsseg.data.census import BandStatistics
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows
from rsseg.dataset import make_dataset, open_data, open_split, scenes_of
from rsseg.dataset_source import make_source
from rsseg.errors import SCORING, in_one_line
from rsseg.metrics.average import Array
from rsseg.metrics.pixels import count_pairs
from rsseg.metrics.scores import class_counts
from rsseg.progress import progress
from rsseg.quiet import quiet
from rsseg.task import Task

PIXELS = 30_000
"""The number of training pixels that the regression is fitted on."""

DRAWS = 16
"""The number of blocks per training scene from which these pixels are drawn."""

WINDOW = 512
"""The side in pixels of the windows that are predicted at once."""


def count_baselines(runs: Sequence[Path], task: Task, split: str = "val", trust: Sequence[str] = ()) -> dict[str, Array]:
    """The counts of trivial predictions on a split's scenes, concatenated over the runs; see `baselines`."""
    quiet()
    each = []
    for run in runs:
        config = plain(RunFolder(run).config())
        dataset, source, window = make_dataset(config), make_source(config, trust), config["window"]
        with in_one_line(run, 1, window, memory=SCORING):
            stores = open_data(dataset, source, window).stores
            if split != "val":
                stores[split] = open_split(dataset, scenes_of(source, dataset, split), split)
            each.append(baselines(stores["train"], stores[split], task))
    return {name: np.concatenate([counts[name] for counts in each]) for name in each[0]}


def baselines(train: Store, scored: Store, task: Task, seed: int = 0) -> dict[str, Array]:
    """The counts of trivial predictions on the scored scenes, by name; a network has to beat them.

    Tasks with labels have a constant prediction (``majority class`` for exclusive classes, otherwise ``all positive``) and a
    ``logistic regression`` on the bands of single pixels. Real values and objects have no baselines. The same seed draws the
    same pixels for the regression.

    Returns:
        By name, TP, FP, FN and TN: float64 ``[S, classes, 4]``.
    """
    if task.directed or task.real:
        return {}
    train, scored = train.seen_by(task.target), scored.seen_by(task.target)
    bands = train.census.bands
    pixels, labels = draw_pixels(train, seed)
    layer = fit_logistic((pixels - bands.mean) / bands.std, labels, task)
    name = "majority class" if task.exclusive else "all positive"
    return {name: constant(train, scored), "logistic regression": count_labels(scored, task, layer, bands)}


def constant(train: Store, scored: Store) -> Array:
    """The counts for the first target if all pixels get the most frequent training class, or every label."""
    positives, rest = scored.census.positives, scored.census.valid - scored.census.positives
    predicted = np.ones(scored.task.channels, bool)
    if scored.task.exclusive:
        predicted = np.arange(scored.task.channels) == train.census.positives.sum(axis=0).argmax()
    hits, wrong = (np.where(predicted, pixels, 0) for pixels in (positives, rest))
    missed, right = (np.where(predicted, 0, pixels) for pixels in (positives, rest))
    return np.stack([hits, wrong, missed, right], axis=-1).astype(np.float64)


def draw_pixels(store: Store, seed: int) -> tuple[Array, NDArray[np.generic]]:
    """Labelled pixels of the first target, equally many per scene: float64 ``[N, bands]``, and their labels."""
    blocks, task = store.census.blocks, store.task
    labelled = blocks.labelled
    each = -(-PIXELS // (len(store) * DRAWS))
    pixels, labels = [], []
    with progress(range(len(store)), "drawing pixels for the baseline") as scenes:
        for scene in scenes:
            own = np.flatnonzero((blocks.scene == scene) & (labelled > 0))
            if not len(own):
                continue
            rng = np.random.default_rng([seed, scene])
            for block in rng.choice(own, DRAWS, p=labelled[own] / labelled[own].sum()):
                image, layers = store.read(scene, int(blocks.top[block]), int(blocks.left[block]), blocks.size)
                target = task.hard_labels(layers[task.target])
                inside = np.zeros((blocks.size, blocks.size), bool)
                inside[: blocks.height[block], : blocks.width[block]] = True
                has_label = (target != IGNORE).any(axis=0) if task.separate else target != IGNORE
                places = np.flatnonzero(inside & has_label)
                chosen = rng.choice(places, min(each, len(places)), replace=False)
                pixels.append(image.reshape(len(image), -1)[:, chosen].T)
                labels.append(target.reshape(*target.shape[:-2], -1)[..., chosen].T)
    return np.concatenate(pixels).astype(np.float64), np.concatenate(labels)


def fit_logistic(pixels: Array, labels: NDArray[np.generic], task: Task) -> nn.Linear:
    """A logistic regression on standardised pixels; half the squared weights are added to the summed loss."""
    x, y = torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))
    has_label, (classes, bands) = y != IGNORE, (task.channels, x.shape[1])

    def loss(parameters: Array) -> tuple[float, Array]:
        free = torch.from_numpy(parameters).view(classes, bands + 1).requires_grad_()
        logits = x @ free[:, 1:].T + free[:, 0]
        if task.exclusive:
            summed = F.cross_entropy(logits[has_label], y[has_label], reduction="sum")
        else:
            there = has_label.view_as(logits)
            summed = F.binary_cross_entropy_with_logits(logits[there], y.view_as(logits)[there].double(), reduction="sum")
        value = summed / len(x) + free[:, 1:].square().sum() / (2 * len(x))
        (gradient,) = torch.autograd.grad(value, free)
        return value.item(), gradient.numpy().ravel()

    # SciPy minimises it: torch.optim would import the compiler, which takes 150 MB.
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-8}
    found = minimize(loss, np.zeros(classes * (bands + 1)), jac=True, method="L-BFGS-B", options=options)
    layer = nn.Linear(bands, classes).requires_grad_(False)
    fitted = torch.from_numpy(found.x).view(classes, bands + 1)
    layer.bias.copy_(fitted[:, 0])
    layer.weight.copy_(fitted[:, 1:])
    return layer


def count_labels(store: Store, task: Task, layer: nn.Linear, bands: BandStatistics) -> Array:
    """The counts of the logistic regression's labels on every scene of a store, window by window."""
    mean, std = (torch.from_numpy(numbers).float().view(-1, 1, 1) for numbers in (bands.mean, bands.std))
    pairs = torch.zeros(len(store), len(task.matrices), task.labels, task.labels, dtype=torch.int64)
    for scene, image, target in windows_of(store):
        logits = F.conv2d((image.float() - mean) / std, layer.weight[..., None, None], layer.bias)
        pairs += count_pairs(task.predict(logits), target, scene, len(store), task)
    return class_counts(pairs.numpy(), task)


def windows_of(store: Store) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each window of whole scenes: its scene ``[1]``, image ``[1, bands, H, W]`` and first target ``[1, *planes, H, W]``."""
    windows = GridWindows(store, WINDOW, 0)
    with progress(range(len(windows)), "counting a baseline in batches of windows") as numbers:
        for k in numbers:
            batch = windows.batch([k])
            yield batch["scene"], batch["image"], layers_of(batch)[store.task.target]
