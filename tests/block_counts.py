"""Blocks of masks, counted plane by plane in blocks of any side: what the store's own counter is held to."""

import numpy as np

from rsseg.contract import IGNORE
from rsseg.data.blocks import SIZE, Blocks


def count(mask, task, size=SIZE):
    height, width = mask.shape[-2:]
    rows, columns = np.arange(0, height, size), np.arange(0, width, size)
    ignored = mask == IGNORE
    planes = [*task.class_masks(mask), ignored.all(axis=0) if ignored.ndim == 3 else ignored]
    sums = [np.add.reduceat(np.add.reduceat(plane, rows, 0, dtype=int), columns, 1, dtype=int) for plane in planes]
    return np.stack(sums, axis=-1).astype(np.uint16)


def blocks_of(masks, task, size=SIZE):
    counts = [count(mask, task, size).reshape(-1, task.channels + 1) for mask in masks]
    return Blocks(np.concatenate(counts), np.array([mask.shape[-2:] for mask in masks]), size)
