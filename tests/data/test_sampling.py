"""Samplers: functions of (seed, k), inside their scenes, and as often as the closed form says. A window of one pixel shows what
was drawn."""

import pickle

import numpy as np
import pytest
from block_counts import blocks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from rsseg.contract import IGNORE, InputError
from rsseg.data.balance import Balanced, NearBorder, Undersample
from rsseg.data.sampling import ByScene, Uniform, around
from rsseg.task import Binary, Multiclass, Multilabel

BINARY = Binary(("building",))
CLASSES = Multiclass(("land", "road", "water", "never"))
LABELS = Multilabel(("tree", "shade"))
SIDE = 8


class Split:
    """Scenes in memory: masks with few pixels of the rarer classes, some ignored."""

    def __init__(self, task, sizes, seed=0, shares=(0.9, 0.06, 0.02)):
        rng = np.random.default_rng(seed)
        self.task, self.sizes = task, np.array(sizes)
        planes = (task.channels,) if task.kind == "multilabel" else ()
        labels = [0, 1, 2, IGNORE] if task is CLASSES else [0, 1, IGNORE]
        p = np.array([*shares, 0.02] if task is CLASSES else [*shares[:2], 0.04])
        self.masks = [rng.choice(labels, (*planes, *size), p=p / p.sum()).astype(np.uint8) for size in sizes]
        for mask in self.masks:
            mask[..., 0, 0] = 1  # every class but the last occurs
        if task is CLASSES:
            self.masks[0][-1, -1] = 2
        self.blocks = blocks_of(self.masks, task, SIDE)

    def read(self, scene, top, left, size):
        part = self.masks[scene][..., top : top + size, left : left + size]
        pad = [(0, 0)] * (part.ndim - 2) + [(0, size - part.shape[-2]), (0, size - part.shape[-1])]
        return np.zeros((3, size, size), np.uint8), {"mask": np.pad(part, pad, constant_values=IGNORE)}

    def make(self, kind, seed=0, window=1, **options):
        given = {"seed": seed, "sizes": self.sizes, "window": window}
        if kind not in (Uniform, ByScene):
            given |= {"blocks": self.blocks, "task": self.task}
        return kind(**given, **({"read": self.read} if kind is Balanced else {}), **options)


def pixels(split, sampler, n):
    """The labels at the places of n windows of one pixel."""
    return np.array([split.masks[s][..., y, x] for s, y, x in map(sampler, range(n))])


KINDS = [Uniform, ByScene, Balanced, Undersample, NearBorder]
SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(st.sampled_from([BINARY, CLASSES, LABELS]), SIZES, st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_a_place_depends_on_seed_and_number_alone_and_lies_inside(kind, task, sizes, window, seed):
    sizes = [(max(h, 2), max(w, 2)) for h, w in sizes]
    split = Split(task, sizes, seed)
    sampler, numbers = split.make(kind, seed, window), [*range(10), 2**40]
    places = [sampler(k) for k in numbers]
    again = split.make(kind, seed, window)
    assert [again(k) for k in reversed(numbers)] == places[::-1]
    assert [pickle.loads(pickle.dumps(sampler))(k) for k in numbers] == places
    for scene, top, left in places:
        assert all(type(value) is int for value in (scene, top, left))
        for start, length in zip((top, left), sizes[scene], strict=True):
            assert 0 <= start <= max(length - window, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_differ(kind):
    split = Split(CLASSES, [(40, 40), (30, 50)])
    first, second = ([split.make(kind, seed, 8)(k) for k in range(100)] for seed in (1, 2))
    assert len(set(first)) > 60
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5


def test_uniform_draws_what_earlier_runs_drew():
    sampler = Uniform(3, np.array([[300, 200], [64, 500], [20, 90]]), 64)
    assert [sampler(k) for k in (0, 1, 2, 3, 10**6)] == [(0, 45, 45), (1, 0, 48), (1, 0, 204), (0, 207, 74), (0, 46, 132)]


def test_uniform_draws_scenes_by_area_and_by_scene_all_alike():
    split = Split(BINARY, [(60, 60), (30, 20), (9, 31)])
    for kind, expected in ((Uniform, split.sizes.prod(axis=1)), (ByScene, np.ones(3))):
        drawn = np.bincount([split.make(kind, 1, 16)(k)[0] for k in range(4000)], minlength=3)
        assert chisquare(drawn, expected / expected.sum() * 4000).pvalue > 1e-3
    places = np.array([split.make(kind, 1, 57)(k) for k in range(4000)])
    tops = places[places[:, 0] == 0, 1]
    assert chisquare(np.bincount(tops, minlength=4)).pvalue > 1e-3  # rows 0 to 3, evenly


@pytest.mark.parametrize(
    ("pixel", "length", "window"), [(0, 20, 6), (3, 20, 6), (10, 20, 6), (19, 20, 6), (2, 20, 19), (4, 5, 9)]
)
def test_windows_around_a_pixel(pixel, length, window):
    expected = [t for t in range(max(length - window, 0) + 1) if t <= pixel < t + window]  # all that contain it, none else
    rng = np.random.default_rng(5)
    drawn = [around(rng, (pixel, 0), np.array([length, 1]), window)[0] for _ in range(2000)]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == expected
    assert len(expected) == 1 or chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("task", [BINARY, CLASSES])
@pytest.mark.parametrize("options", [{}, {"power": 0.5}, {"power": 1}, {"weights": {"road": 3, "water": 1}}])
def test_balanced_draws_classes_as_often_as_asked_and_their_pixels_evenly(task, options):
    if task is BINARY and "weights" in options:
        options = {"weights": {"building": 3, "background": 1}}
    split = Split(task, [(40, 33), (17, 50)])
    totals = np.array([sum((mask == v).sum() for mask in split.masks) for v in range(task.labels)])
    expected = np.where(totals > 0, totals.astype(float) ** options.get("power", 0), 0)
    if "weights" in options:
        expected = np.array([0, 3, 1, 0.0] if task is CLASSES else [1, 3.0])
    sampler, n = split.make(Balanced, 4, 1, **options), 6000
    places = [sampler(k) for k in range(n)]
    drawn = np.bincount([split.masks[s][y, x] for s, y, x in places], minlength=task.labels)
    occur = expected > 0
    assert (drawn[~occur] == 0).all()
    assert chisquare(drawn[occur], expected[occur] / expected.sum() * n).pvalue > 1e-3
    roads = [place for place in places if split.masks[place[0]][place[1:]] == 1]
    values, counts = np.unique(roads, axis=0, return_counts=True)
    number = sum((mask == 1).sum() for mask in split.masks)
    assert len(values) <= number
    unseen = np.zeros(number - len(values))
    assert chisquare([*counts, *unseen]).pvalue > 1e-3


def test_balanced_draws_labels_of_all_planes():
    split = Split(LABELS, [(30, 30)])
    found = pixels(split, split.make(Balanced, 1, 1, weights={"shade": 1}), 300)
    assert (found[:, 1] == 1).all()
    even = pixels(split, split.make(Balanced, 1, 1), 300)
    assert ((even == 1).any(axis=1)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from(["road", "water"]))
def test_a_balanced_window_shows_the_drawn_class(window, seed, name):
    split = Split(CLASSES, [(40, 23), (9, 9)], seed, shares=(0.97, 0.005, 0.005))
    sampler = split.make(Balanced, seed, window, weights={name: 1})
    for k in range(20):
        assert (split.read(*sampler(k), window)[1]["mask"] == CLASSES.classes.index(name)).any()


def sparse(seed, scenes=3):
    """Scenes of 10 x 12 blocks, a few of which hold a road; one scene has none."""
    split = Split(CLASSES, [(80, 90)] * scenes)
    rng = np.random.default_rng(seed)
    for mask in split.masks:
        mask[:] = 0
    for scene in range(scenes - 1):
        for y, x in rng.integers(0, 80, (4, 2)):
            split.masks[scene][y, x] = 1
    split.blocks = blocks_of(split.masks, CLASSES, SIDE)
    return split


def kept_blocks_of(sampler):
    """(scene, row, column) of the blocks that are drawn from."""
    places = (sampler.extent[:, :2] // SIDE).tolist()
    return [(scene, *place) for scene, place in zip(sampler.scene.tolist(), places, strict=True)]


def all_blocks(split):
    """Every block, and whether it holds a road."""
    return {
        (s, y // SIDE, x // SIDE): bool((mask[y : y + SIDE, x : x + SIDE] == 1).any())
        for s, mask in enumerate(split.masks)
        for y in range(0, mask.shape[0], SIDE)
        for x in range(0, mask.shape[1], SIDE)
    }


@pytest.mark.parametrize("kind", [Undersample, NearBorder])
@pytest.mark.parametrize("keep", [0, 0.1, 0.5, 1])
def test_undersampling_keeps_all_minority_blocks_and_a_share_of_the_rest(kind, keep):
    split = sparse(1)
    blocks = all_blocks(split)
    kept = kept_blocks_of(split.make(kind, 2, 16, keep=keep))
    assert {key for key, minority in blocks.items() if minority} <= set(kept)
    majority = sum(not minority for minority in blocks.values())
    assert sum(not blocks[key] for key in kept) == round(keep * majority)
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("kind", [Undersample, NearBorder])
def test_undersampling_draws_every_pixel_of_the_kept_blocks_alike(kind):
    split = sparse(1)
    sampler = split.make(kind, 2, 1, keep=0.05)
    kept = kept_blocks_of(sampler)
    drawn = [(s, y // SIDE, x // SIDE) for s, y, x in map(sampler, range(6000))]
    assert set(drawn) <= set(kept)
    area = np.array([min(SIDE, 80 - r * SIDE) * min(SIDE, 90 - c * SIDE) for _, r, c in kept])
    counts = np.array([drawn.count(key) for key in kept])
    assert chisquare(counts, area / area.sum() * 6000).pvalue > 1e-3
    inside = np.bincount([y % SIDE for _, y, _ in map(sampler, range(6000))], minlength=SIDE)
    assert chisquare(inside).pvalue > 1e-3


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_near_border_keeps_exactly_the_nearest(seed, keep):
    split = sparse(seed)
    blocks = all_blocks(split)

    def centre(key):
        start = np.array(key[1:]) * SIDE
        return (start + np.minimum(start + SIDE, (80, 90))) / 2

    def distance(key):
        near = [np.hypot(*(centre(key) - centre(other))) for other, road in blocks.items() if road and other[0] == key[0]]
        return min(near, default=np.inf)

    kept = set(kept_blocks_of(split.make(NearBorder, seed, 16, keep=keep)))
    rest = [key for key, minority in blocks.items() if not minority]
    inner = [distance(key) for key in rest if key in kept]
    outer = [distance(key) for key in rest if key not in kept]
    assert not inner or not outer or max(inner) <= min(outer) + 1e-9


def test_the_majority_of_a_binary_split_may_be_the_positive_class():
    split = Split(BINARY, [(40, 40)])
    split.masks[0][:] = 1
    split.masks[0][3, 5] = 0
    split.blocks = blocks_of(split.masks[:1], BINARY, SIDE)
    sampler = split.make(Undersample, 0, 1, keep=0)
    assert all(y < SIDE and x < SIDE for _, y, x in map(sampler, range(100)))


def test_the_majority_of_a_multilabel_split_are_the_pixels_without_a_label():
    split = Split(LABELS, [(40, 40)])
    split.masks[0][:] = 0
    split.masks[0][1, 39, 39] = 1
    split.blocks = blocks_of(split.masks[:1], LABELS, SIDE)
    sampler = split.make(Undersample, 0, 1, keep=0)
    assert all(y >= 32 and x >= 32 for _, y, x in map(sampler, range(100)))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            Balanced,
            {"weights": {"rode": 1}},
            r"no class rode \(did you mean 'road'\?\): the classes are land, road, water, never",
        ),
        (Balanced, {"weights": {"road": 1, "never": 1}}, "no training pixel is labelled never, so it can't be drawn"),
        (Balanced, {"weights": {"road": -1}}, "weights.road has to be a number of 0 or more; found -1"),
        (Balanced, {"weights": {"road": 0}}, "at least one class needs a number above 0"),
        (Balanced, {"weights": {}}, "at least one class needs a number above 0"),
        (Balanced, {"weights": {"road": 1}, "power": 1}, "give one of the two"),
        (Balanced, {"power": 2}, "power has to be a number from 0 to 1; found 2"),
        (Undersample, {"keep": 1.5}, "keep has to be a number from 0 to 1; found 1.5"),
        (NearBorder, {"keep": "all"}, "keep has to be a number from 0 to 1; found 'all'"),
    ],
)
def test_bad_arguments_are_refused(kind, options, message):
    with pytest.raises(InputError, match=message):
        Split(CLASSES, [(20, 20)]).make(kind, 0, 8, **options)


@pytest.mark.parametrize("kind", [Undersample, NearBorder])
def test_one_class_alone_has_no_minority(kind):
    split = sparse(0, scenes=1)
    with pytest.raises(InputError, match="nothing is rare: take sampler=uniform"):
        split.make(kind, 0, 8)


@pytest.mark.parametrize("kind", [Undersample, NearBorder])
def test_blocks_without_a_label_are_no_majority(kind):
    mask = np.full((8 * SIDE, 8 * SIDE), IGNORE, np.uint8)
    mask[:SIDE, : 3 * SIDE], mask[0, 0] = 0, 1
    split = Split(BINARY, [mask.shape])
    split.masks, split.blocks = [mask], blocks_of([mask], BINARY, SIDE)
    assert (pixels(split, split.make(kind, keep=1.0), 300) != IGNORE).all()
