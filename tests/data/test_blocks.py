"""Blocks beside a loop over pixels."""

import numpy as np
from block_counts import blocks_of, count
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.contract import IGNORE
from rsseg.data.blocks import SIZE
from rsseg.task import Binary, Multiclass, Multilabel

TASKS = [
    Binary(("a",)),
    Multiclass(("a", "b", "c")),
    Multilabel(("a", "b")),
]


def masks(task, sizes, seed=0):
    rng = np.random.default_rng(seed)
    planes = (task.channels,) if task.kind == "multilabel" else ()
    labels = np.array([*range(task.labels), IGNORE], np.uint8)
    return [rng.choice(labels, (*planes, *size)) for size in sizes]


def by_hand(mask, task, top, left, size):
    """Counts of one block, pixel by pixel."""
    found = [0] * (task.channels + 1)
    for y in range(top, min(top + size, mask.shape[-2])):
        for x in range(left, min(left + size, mask.shape[-1])):
            values = np.atleast_1d(mask[..., y, x]).tolist()
            if all(v == IGNORE for v in values):
                found[-1] += 1
            elif task.kind == "multiclass":
                found[values[0]] += 1
            else:
                for k, v in enumerate(values):
                    found[k] += v == 1
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(TASKS),
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)
def test_blocks_equal_a_loop(task, sizes, size, seed):
    drawn = masks(task, sizes, seed)
    blocks = blocks_of(drawn, task, size)
    expected, n = [], 0
    for scene, (height, width) in enumerate(sizes):
        for row in range(-(-height // size)):
            for col in range(-(-width // size)):
                assert (blocks.scene[n], blocks.top[n], blocks.left[n]) == (scene, row * size, col * size)
                expected.append(by_hand(drawn[scene], task, row * size, col * size, size))
                n += 1
    assert len(blocks) == n
    np.testing.assert_array_equal(blocks.counts, expected)
    assert (blocks.counts.dtype, blocks.scene.dtype, blocks.top.dtype) == (np.uint16, np.int32, np.int32)
    sizes = np.array(sizes)
    np.testing.assert_array_equal(np.bincount(blocks.scene, blocks.height * blocks.width), sizes.prod(axis=1))  # no gap
    labels = blocks.by_label(task).sum(axis=0)
    if task.kind == "multilabel":
        np.testing.assert_array_equal(labels, sum((mask == 1).sum(axis=(1, 2)) for mask in drawn))
    else:
        np.testing.assert_array_equal(labels, [sum((mask == v).sum() for mask in drawn) for v in range(task.labels)])


def test_full_blocks():
    task = TASKS[1]
    (mask,) = masks(task, [(3 * SIZE - 5, 2 * SIZE + 1)])
    mask[:SIZE, :SIZE] = 2
    whole = count(mask, task)
    assert whole[0, 0].tolist() == [0, 0, SIZE**2, 0]  # more than a byte holds
