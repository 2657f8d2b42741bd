"""Paste beside cases made by hand, and what it promises of every window."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from block_counts import blocks_of
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.contract import IGNORE, InputError
from rsseg.data.paste import Cutout, Paste, paste, regions
from rsseg.task import Binary, Multiclass, Multilabel

BINARY = Binary(("building",))
CLASSES = Multiclass(("land", "road", "water"))
LABELS = Multilabel(("tree", "shade"))
SIDE = 16
MEAN, STD = [10.0, 20.0], [2.0, 4.0]


def run(augmentation, image, mask, k):
    """Image and mask of an augmented batch."""
    changed, layers = augmentation(image, {"mask": mask}, k)
    return changed, layers["mask"]


class Split:
    """Scenes in memory, of which each pixel's two bands say where it is from."""

    def __init__(self, task, masks):
        self.task, self.masks = task, masks
        self.images = [np.stack(np.indices(mask.shape[-2:])) + 1000 * s for s, mask in enumerate(masks)]
        self.blocks = blocks_of(masks, task, SIDE)

    def read(self, scene, top, left, size):
        assert top >= 0
        assert left >= 0

        def part(pixels, value):
            cut = pixels[..., top : top + size, left : left + size]
            pad = [(0, 0)] * (cut.ndim - 2) + [(0, size - cut.shape[-2]), (0, size - cut.shape[-1])]
            return np.pad(cut, pad, constant_values=value)

        return part(self.images[scene].astype(np.uint16), 0), {"mask": part(self.masks[scene], IGNORE)}

    def fitted(self, seed=1, **options):
        augmentation = Paste(seed, self.task, **options)
        augmentation.fit(self.read, self.blocks, MEAN, STD)
        return augmentation


def spotted(seed=0, shape=(70, 90), task=CLASSES):
    """Scenes of land with boxes of road and water, up to one block large."""
    rng, masks = np.random.default_rng(seed), []
    for _ in range(3):
        mask = np.zeros(shape, np.uint8)
        for _ in range(14):
            y, x, h, w = rng.integers(0, [shape[0], shape[1], 20, 20])
            mask[y : y + h, x : x + w] = rng.integers(1, task.labels)
        mask[:3, :3] = IGNORE
        masks.append(mask)
    return Split(task, masks)


def windows(n, side=32, planes=()):
    image = torch.zeros(n, 2, side, side)
    mask = torch.zeros(n, *planes, side, side, dtype=torch.uint8)
    mask[..., :5, :] = IGNORE
    return image, mask


def test_pasting_equals_a_case_made_by_hand():
    image, mask = torch.zeros(1, 4, 5), torch.zeros(4, 5, dtype=torch.uint8)
    mask[0, 3] = IGNORE
    corner = torch.tensor([[True, True], [True, False]])
    piece = Cutout(torch.tensor([[[5.0, 6.0], [7.0, 8.0]]]), {"mask": torch.full((2, 2), 3, dtype=torch.uint8)}, corner)
    paste(image, {"mask": mask}, piece, np.array([0.0, 0.75]))  # the last of four columns
    assert image[0].tolist() == [[0, 0, 0, 0, 6], [0, 0, 0, 7, 0], [0] * 5, [0] * 5]  # nothing at the ignored pixel
    assert mask.tolist() == [[0, 0, 0, 255, 3], [0, 0, 0, 3, 0], [0] * 5, [0] * 5]


def test_what_a_small_window_has_no_room_for_is_cut_off():
    image, mask = torch.zeros(1, 2, 8), torch.zeros(2, 8, dtype=torch.uint8)
    piece = Cutout(
        torch.arange(12.0).view(1, 4, 3) + 1, {"mask": torch.ones(4, 3, dtype=torch.uint8)}, torch.ones(4, 3, dtype=torch.bool)
    )
    paste(image, {"mask": mask}, piece, np.array([0.9, 0.99]))
    assert image[0].tolist() == [[0, 0, 0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 4, 5, 6]]


def test_multilabel_pixels_bring_all_their_planes():
    image, mask = torch.zeros(1, 1, 3), torch.tensor([[[0, 255, 255]], [[1, 255, 1]]], dtype=torch.uint8)
    labels = torch.tensor([[[1, 1, 1]], [[0, 0, 255]]], dtype=torch.uint8)
    paste(image, {"mask": mask}, Cutout(torch.ones(1, 1, 3), {"mask": labels}, torch.ones(1, 3, dtype=torch.bool)), np.zeros(2))
    assert image.tolist() == [[[1, 0, 1]]]
    assert mask.tolist() == [[[1, 255, 1]], [[0, 255, 255]]]  # the middle one was ignored in every plane


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_regions_are_found_whole_and_each_by_one_square(seed, least):
    has = np.random.default_rng(seed).random((48, 64)) < 0.4
    has = scipy.ndimage.binary_opening(has, np.ones((2, 2)))
    numbered, n = scipy.ndimage.label(has, np.ones((3, 3)))
    boxes = scipy.ndimage.find_objects(numbered)
    expected = [
        box
        for i, box in enumerate(boxes, 1)
        if (numbered == i).sum() >= least and max(part.stop - part.start for part in box) < SIDE
    ]
    found = [box for y in range(0, 48, SIDE) for x in range(0, 64, SIDE) for box, _ in regions(has, least, (y, x), SIDE)]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert n == len(boxes)


@pytest.mark.parametrize("task", [BINARY, CLASSES])
@pytest.mark.parametrize("seed", range(3))
def test_the_bank_holds_every_object_of_the_scenes_once(task, seed):
    """Those smaller than a block, found in the whole scenes by another way; each from the very pixels it says it is from."""
    split = spotted(seed, task=task)
    names = task.classes[-2:]
    bank = split.fitted(classes=names, min_area=4, bank=1000).pieces
    for name, pieces in zip(names, bank, strict=True):
        value, expected, found = task.classes.index(name) + (task is BINARY), set(), []
        for scene, mask in enumerate(split.masks):
            numbered, _ = scipy.ndimage.label(mask == value, np.ones((3, 3)))
            for i, box in enumerate(scipy.ndimage.find_objects(numbered), 1):
                pixels = np.argwhere((mask[box] == value) & (numbered[box] == i)) + [part.start for part in box]
                if len(pixels) >= 4 and max(part.stop - part.start for part in box) < SIDE:
                    expected.add((scene, frozenset(map(tuple, pixels.tolist()))))
        for piece in pieces:
            raw = piece.image.numpy() * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]
            places = np.rint(raw[:, piece.inside.numpy()]).astype(int).T
            scene = places[0, 0] // 1000
            assert (piece.layers["mask"][piece.inside] == value).all()
            found.append((scene, frozenset(map(tuple, (places - 1000 * scene).tolist()))))
        assert len(found) == len(set(found))
        assert len(expected) > 3
        assert set(found) == expected


def test_the_default_is_the_class_with_the_fewest_pixels_that_occurs():
    masks = [np.zeros((40, 40), np.uint8)]
    masks[0][:20] = 1
    masks[0][30:34, 30:34] = 2
    augmentation = Split(Multiclass(("land", "road", "water", "never")), masks).fitted()
    assert [[piece.layers["mask"].unique().tolist() for piece in pieces] for pieces in augmentation.pieces] == [[[2]]]


def test_multilabel_objects_are_those_of_their_plane():
    mask = np.zeros((2, 40, 40), np.uint8)
    mask[0, 4:9, 6:12] = mask[1, :, 8:] = 1
    (pieces,) = Split(LABELS, [mask]).fitted(classes=["tree"]).pieces
    (piece,) = pieces
    assert piece.inside.shape == (5, 6)
    assert piece.layers["mask"][:, 0].tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=5, unique=True), st.integers(0, 2**31))
def test_a_window_depends_on_seed_and_number_alone(numbers, seed):
    image, mask = windows(len(numbers))
    split = spotted()
    together, labels = run(split.fitted(seed, probability=0.7), image, mask, torch.tensor(numbers))
    again = split.fitted(seed, probability=0.7)
    for i in reversed(range(len(numbers))):
        alone, label = run(again, image[i : i + 1], mask[i : i + 1], torch.tensor(numbers[i : i + 1]))
        assert torch.equal(alone[0], together[i])
        assert torch.equal(label[0], labels[i])


@pytest.mark.parametrize("planes", [(), (2,)])
def test_pasted_pixels_are_labelled_and_the_rest_stays(planes):
    task = LABELS if planes else CLASSES
    split = spotted()
    if planes:
        split = Split(task, [np.stack([mask == 1, mask == 2]).astype(np.uint8) for mask in split.masks])
    image, mask = windows(200, planes=planes)
    before, labels_before = image.clone(), mask.clone()
    changed, labels = run(split.fitted(count=2, probability=0.5), image, mask, torch.arange(200))
    assert torch.equal(image, before)
    assert torch.equal(mask, labels_before)
    assert (changed.dtype, changed.shape, labels.dtype, labels.shape) == (image.dtype, image.shape, mask.dtype, mask.shape)
    assert (labels[..., :5, :] == IGNORE).all()
    assert (changed[..., :5, :] == 0).all()
    pasted = (labels == 1).any(dim=1) if planes else labels == 2  # the default: whichever has the fewest pixels
    pasted = pasted if planes or pasted.any() else labels == 1
    assert torch.equal((changed != 0).any(dim=1), pasted)
    share = pasted.flatten(1).any(dim=1).sum()
    assert scipy.stats.binomtest(int(share), 200, 0.5).pvalue > 1e-3  # all but windows whose objects fell on ignored pixels
    last_image = image.contiguous(memory_format=torch.channels_last)
    last, last_labels = run(split.fitted(count=2, probability=0.5), last_image, mask, torch.arange(200))
    assert torch.equal(last, changed)
    assert torch.equal(last_labels, labels)


def test_classes_pieces_and_places_are_drawn_evenly():
    masks = [np.zeros((64, 64), np.uint8)]
    masks[0][2:4, 2:4], masks[0][40:42, 40:42], masks[0][50:52, 20:22] = 1, 2, 2
    augmentation = Split(CLASSES, masks).fitted(classes=["road", "water"], count=1, min_area=1, probability=1)
    image, mask = torch.zeros(3000, 2, 6, 6), torch.zeros(3000, 6, 6, dtype=torch.uint8)
    changed, labels = run(augmentation, image, mask, torch.arange(3000))
    classes = torch.bincount(labels.flatten(1).amax(dim=1), minlength=3)
    assert classes[0] == 0
    assert scipy.stats.chisquare(classes[1:]).pvalue > 1e-3
    corner = [np.argwhere(label)[0] for label in labels.numpy()]
    assert scipy.stats.chisquare(np.bincount(np.array(corner) @ [5, 1], minlength=25)).pvalue > 1e-3
    water = changed[labels.flatten(1).amax(dim=1) == 2, 0].flatten(1).amax(dim=1)
    assert scipy.stats.chisquare(water.unique(return_counts=True)[1]).pvalue > 1e-3


def test_it_refuses_to_run_without_its_bank():
    with pytest.raises(RuntimeError, match="fit has to be called"):
        run(Paste(1, CLASSES, probability=1), *windows(1), torch.arange(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["rode"]}, r"no class rode \(did you mean 'road'\?\): the classes are land, road, water"),
        ({"count": 0}, "count has to be a number from 1 to 100; found 0"),
        ({"bank": 1.5}, "bank has to be a whole number; found 1.5"),
        ({"min_area": -1}, "min_area has to be a number from 1 to 10000; found -1"),
        ({"probability": 2}, "probability has to be a number from 0 to 1; found 2"),
        ({"classes": ["land"]}, "class land: no training region of 16 pixels or more is smaller than 16 px"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Split(CLASSES, [np.eye(40, dtype=np.uint8)]).fitted(**options)
