"""Baselines: what a network has to beat, counted on the scenes that are scored, as its own predictions are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.contract import IGNORE, layers_of
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows
from rsseg.metrics.average import Array
from rsseg.metrics.counters import SCENE_SUMS
from rsseg.metrics.scores import class_counts
from rsseg.progress import progress
from rsseg.task import Task

PIXELS = 30_000
"""Training pixels that the regression is fitted on."""

DRAWS = 16
"""Blocks of each training scene that they are drawn from."""

WINDOW = 512
"""The side of the windows that are predicted at once."""


def baselines(train: Store, scored: Store, task: Task, seed: int = 0) -> dict[str, Array]:
    """The counts of trivial predictions on the scored scenes, by name: what a network has to beat.

    Labels have a constant prediction, which knows nothing of the image, ``majority class`` of exclusive classes and else
    ``all positive``, and a ``logistic regression``, which knows the bands of each pixel, and no shapes. Real values have the
    ``training mean``; objects have none. The same seed draws the same pixels for the regression.

    Returns:
        float64 ``[S, classes, 4]`` each: TP, FP, FN and TN; of real values `rsseg.metrics.errors.SUMS`.
    """
    if task.directed:
        return {}
    train, scored = train.seen_by(task.target), scored.seen_by(task.target)
    if task.real:
        values = train.census.values
        known = task.scaled(values.mean.tolist(), values.std.tolist())
        return {"training mean": count(scored, known, lambda image: image.new_zeros(1, task.channels, *image.shape[2:]))}
    bands = train.census.bands
    mean, std = (torch.from_numpy(numbers).float().view(-1, 1, 1) for numbers in (bands.mean, bands.std))
    pixels, labels = draw_pixels(train, seed)
    layer = fit_logistic((pixels - bands.mean) / bands.std, labels, task)
    fitted = count(scored, task, lambda image: F.conv2d((image - mean) / std, layer.weight[..., None, None], layer.bias))
    return {("majority class" if task.exclusive else "all positive"): constant(train, scored), "logistic regression": fitted}


def constant(train: Store, scored: Store) -> Array:
    """The counts of one prediction for all pixels, of the first target: the most frequent training class, or every label.

    Example:
        >>> from types import SimpleNamespace as Of
        >>> from rsseg.task import Multiclass
        >>> census = Of(positives=np.array([[1, 3]]), valid=np.array([[4, 4]]))
        >>> store = Of(task=Multiclass(("land", "water")), census=census)
        >>> constant(store, store).tolist()
        [[[0.0, 0.0, 1.0, 3.0], [3.0, 1.0, 0.0, 0.0]]]
    """
    positives, rest = scored.census.positives, scored.census.valid - scored.census.positives
    predicted = np.ones(scored.task.channels, bool)
    if scored.task.exclusive:
        predicted = np.arange(scored.task.channels) == train.census.positives.sum(axis=0).argmax()
    hits, wrong = (np.where(predicted, pixels, 0) for pixels in (positives, rest))
    missed, right = (np.where(predicted, 0, pixels) for pixels in (positives, rest))
    return np.stack([hits, wrong, missed, right], axis=-1).astype(np.float64)


def draw_pixels(store: Store, seed: int) -> tuple[Array, NDArray[np.generic]]:
    """Some labelled pixels of the first target, as many of each scene: float64 ``[N, bands]``, and their labels."""
    blocks, task = store.census.blocks, store.task
    extent = blocks.extent(store.sizes)
    labelled = extent.height * extent.width - blocks.counts[:, -1]
    each = -(-PIXELS // (len(store) * DRAWS))
    pixels, labels = [], []
    with progress(range(len(store)), "drawing pixels for the baseline") as scenes:
        for scene in scenes:
            own = np.flatnonzero((blocks.scene == scene) & (labelled > 0))
            if not len(own):
                continue
            rng = np.random.default_rng([seed, scene])
            for block in rng.choice(own, DRAWS, p=labelled[own] / labelled[own].sum()):
                image, target = store.read(scene, int(extent.top[block]), int(extent.left[block]), blocks.size)
                target = task.hard_labels(target)
                inside = np.zeros((blocks.size, blocks.size), bool)
                inside[: extent.height[block], : extent.width[block]] = True
                known = (target != IGNORE).any(axis=0) if task.separate else target != IGNORE
                places = np.flatnonzero(inside & known)
                chosen = rng.choice(places, min(each, len(places)), replace=False)
                pixels.append(image.reshape(len(image), -1)[:, chosen].T)
                labels.append(target.reshape(*target.shape[:-2], -1)[..., chosen].T)
    return np.concatenate(pixels).astype(np.float64), np.concatenate(labels)


def fit_logistic(pixels: Array, labels: NDArray[np.generic], task: Task) -> nn.Linear:
    """A logistic regression of standardised pixels, with a penalty of half the squared weights on the summed loss."""
    x, y = torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))
    layer = nn.Linear(x.shape[1], task.channels, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=200, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    known = y != IGNORE

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = layer(x)
        if task.exclusive:
            summed = F.cross_entropy(logits[known], y[known], reduction="sum")
        else:
            there = known.view_as(logits)
            summed = F.binary_cross_entropy_with_logits(logits[there], y.view_as(logits)[there].double(), reduction="sum")
        value = summed / len(x) + layer.weight.square().sum() / (2 * len(x))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return layer.float().requires_grad_(False)


def count(store: Store, task: Task, predict: Callable[[Tensor], Tensor]) -> Array:
    """The counts of a prediction, from images ``[1, bands, H, W]`` to logits, on every scene of a store, window by window."""
    sums, windows = SCENE_SUMS[task.counted](task, len(store)), GridWindows(store, WINDOW, 0)
    with progress(range(len(windows)), "counting a baseline") as numbers:
        for k in numbers:
            batch: Any = windows.batch([k])
            target = task.standardise(layers_of(batch)[task.target])
            sums.update(predict(batch["image"].float()), target, batch["scene"])
    counted = sums.compute()
    return counted.numpy() if task.real else class_counts(counted, task)
