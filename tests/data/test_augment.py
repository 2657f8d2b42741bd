"""What every augmentation promises, and those that move or hide pixels, beside NumPy and SciPy."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.contract import IGNORE, InputError
from rsseg.data.augment import D4, CutOut, ScaleCrop, dihedral, rescale
from rsseg.data.radiometry import Blur, Noise, Radiometry

MAKE = {
    "d4": D4,
    "scale_crop": lambda seed, **p: ScaleCrop(seed, scale=(0.5, 2), **p),
    "radiometry": lambda seed, **p: Radiometry(seed, brightness=0.5, contrast=0.5, gamma=0.5, **p),
    "blur": lambda seed, **p: Blur(seed, sigma=(0.5, 2), **p),
    "noise": lambda seed, **p: Noise(seed, std=(0.1, 0.5), **p),
    "cutout": lambda seed, **p: CutOut(seed, count=2, size=(0.1, 0.4), **p),
}
SOMETIMES = [name for name in MAKE if name != "d4"]
every = pytest.mark.parametrize("name", MAKE)


def windows(count, side=24, bands=3, seed=0, width=None):
    """Normalised images and masks of labels 0 to 4, some pixels ignored, some of them without image."""
    rng = np.random.default_rng(seed)
    shape = (side, width or side)
    image, mask = rng.normal(size=(count, bands, *shape)), rng.integers(0, 5, (count, *shape))
    mask[:, :3, :5] = mask[:, -2:] = IGNORE
    image[:, :, :3, :5] = 0
    return torch.from_numpy(image.astype(np.float32)), torch.from_numpy(mask.astype(np.uint8))


def run(augmentation, image, mask, k):
    """Image and mask of an augmented batch."""
    changed, layers = augmentation(image, {"mask": mask}, k)
    return changed, layers["mask"]


def rescaled(image, mask, scale, shift):
    """Image and mask of `rescale`."""
    moved, layers = rescale(image, {"mask": mask}, scale, shift)
    return moved, layers["mask"]


def same(name, ours, theirs):
    """Equal; a blur, a sum whose order may depend on the batch, to a few units in the last place."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 if name == "blur" else 0)


@every
@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=5, unique=True), st.integers(0, 2**31))
def test_a_window_depends_on_seed_and_number_alone(name, numbers, seed):
    image, mask = windows(len(numbers))
    options = {} if name == "d4" else {"probability": 0.7}
    together, labels = run(MAKE[name](seed, **options), image, mask, torch.tensor(numbers))
    for i in reversed(range(len(numbers))):
        alone, label = run(MAKE[name](seed, **options), image[i : i + 1], mask[i : i + 1], torch.tensor(numbers[i : i + 1]))
        same(name, alone[0], together[i])
        assert torch.equal(label[0], labels[i])


@every
def test_seeds_and_windows_differ(name):
    image, mask = windows(1)
    many = [image.expand(64, -1, -1, -1), mask.expand(64, -1, -1)]
    first, second = (run(MAKE[name](seed), *many, torch.arange(64))[0] for seed in (1, 2))
    results = len(first.flatten(1).unique(dim=0))
    assert results == (8 if name == "d4" else 64)
    assert (first != second).flatten(1).any(dim=1).sum() >= 48  # D4 draws the same element by chance one time in eight


@every
def test_shapes_dtypes_labels_and_input(name):
    image, mask = windows(16)
    given_image, given_mask = image.clone(), mask.clone()
    changed, labels = run(MAKE[name](3), image, mask, torch.arange(16))
    assert torch.equal(image, given_image)
    assert torch.equal(mask, given_mask)
    assert (changed.shape, changed.dtype, labels.shape, labels.dtype) == (image.shape, torch.float32, mask.shape, torch.uint8)
    assert not torch.equal(changed, image)
    assert set(labels.unique().tolist()) == {0, 1, 2, 3, 4, IGNORE}
    if name not in ("d4", "scale_crop"):
        assert (labels[mask == IGNORE] == IGNORE).all()
    if name in ("radiometry", "blur", "noise"):
        assert torch.equal(labels, mask)


@every
def test_channels_last_changes_nothing(name):
    image, mask = windows(4)
    plain, labels = run(MAKE[name](3), image, mask, torch.arange(4))
    last, last_labels = run(MAKE[name](3), image.contiguous(memory_format=torch.channels_last), mask, torch.arange(4))
    assert torch.equal(plain, last)
    assert torch.equal(labels, last_labels)


@every
def test_every_plane_of_a_multilabel_mask_moves_as_a_mask(name):
    image, mask = windows(6)
    planes = torch.stack([mask, mask.flip(-1), mask.flip(-2)], dim=1)
    _, moved = run(MAKE[name](3), image, planes, torch.arange(6))
    assert (moved.shape, moved.dtype) == (planes.shape, torch.uint8)
    for plane in range(3):
        assert torch.equal(moved[:, plane], run(MAKE[name](3), image, planes[:, plane], torch.arange(6))[1])


@pytest.mark.parametrize("name", SOMETIMES)
def test_probability_is_the_share_of_windows_that_change(name):
    image, mask = windows(400, side=16)
    changed, labels = run(MAKE[name](3, probability=0.3), image, mask, torch.arange(400))
    touched = (changed != image).flatten(1).any(dim=1)
    assert torch.equal(labels[~touched], mask[~touched])
    assert scipy.stats.binomtest(int(touched.sum()), 400, 0.3).pvalue > 1e-3
    never, labels = run(MAKE[name](3, probability=0), image, mask, torch.arange(400))
    assert torch.equal(never, image)
    assert torch.equal(labels, mask)


@pytest.mark.parametrize(
    "neutral", [Radiometry(1), Blur(1, (0, 0)), Noise(1, (0, 0)), CutOut(1, 2, (0, 0)), ScaleCrop(1, (1, 1))]
)
def test_neutral_settings_change_nothing(neutral):
    image, mask = windows(3, width=40)
    kept, labels = run(neutral, image, mask, torch.arange(3))
    assert torch.equal(labels, mask)
    # grid_sample computes its places in float32
    torch.testing.assert_close(kept, image, rtol=0, atol=1e-4 if isinstance(neutral, ScaleCrop) else 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaleCrop(1, 0.5), r"scale=0.5: two numbers are expected, \[low, high\]"),
        (lambda: ScaleCrop(1, (0, 1)), r"scale\[0\] has to be a number from 0.1 to 10; found 0"),
        (lambda: ScaleCrop(1, [2, 0.5]), r"scale=\[2, 0.5\]: the lower number has to come first, \[0.5, 2\]"),
        (lambda: ScaleCrop(1, (0.5, 2), probability=1.5), "probability has to be a number from 0 to 1; found 1.5"),
        (lambda: ScaleCrop(1, (0.5, "2")), r"scale\[1\] has to be a number from 0.1 to 10; found '2'"),
        (lambda: Radiometry(1, brightness=-1), "brightness has to be a number from 0 to 3; found -1"),
        (lambda: Radiometry(1, contrast=float("nan")), "contrast has to be a number from 0 to 3; found nan"),
        (lambda: Radiometry(1, gamma=True), "gamma has to be a number from 0 to 3; found True"),
        (lambda: Blur(1, (0, float("inf"))), r"sigma\[1\] has to be a number of 0 or more; found inf"),
        (lambda: Noise(1, "12"), "std='12': two numbers"),
        (lambda: Noise(1, (1, 2, 3)), r"std=\(1, 2, 3\): two numbers"),
        (lambda: CutOut(1, 0, (0, 1)), "count has to be a number from 1 to 100; found 0"),
        (lambda: CutOut(1, 1.5, (0, 1)), "count has to be a whole number; found 1.5"),
        (lambda: CutOut(1, 1, (0, 1.1)), r"size\[1\] has to be a number from 0 to 1; found 1.1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def turns(pixels):
    """The eight symmetries of a square, as NumPy has them."""
    return [np.rot90(side, n, axes=(-2, -1)) for side in (pixels, np.flip(pixels, -1)) for n in range(4)]


def test_dihedral_is_the_group_of_the_square():
    square = torch.arange(18).view(2, 3, 3)
    for element, expected in enumerate(turns(square.numpy())):
        np.testing.assert_array_equal(dihedral(square, element), expected)
    assert len({dihedral(square, e).numpy().tobytes() for e in range(8)}) == 8


def test_d4_moves_image_and_mask_alike_and_draws_all_elements_evenly():
    image, mask = windows(400, side=6)
    moved, labels = run(D4(seed=1), image, mask, torch.arange(400))
    drawn = []
    for i in range(400):
        drawn += [e for e, turned in enumerate(turns(image[i].numpy())) if np.array_equal(turned, moved[i])]
        np.testing.assert_array_equal(labels[i], turns(mask[i].numpy())[drawn[-1]])
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=8)).pvalue > 1e-3


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(5, 30), st.integers(5, 30))
def test_rescale_equals_scipy(seed, height, width):
    rng = np.random.default_rng(seed)
    image, mask = windows(2, side=height, width=width, seed=seed)
    scale = np.exp(rng.uniform(-1.5, 1.5, 2))
    shift = np.abs(1 - 1 / scale)[:, None] * rng.uniform(-1, 1, (2, 2))
    moved, labels = rescaled(image, mask, scale, shift)
    for i in range(2):
        # the same map in pixels: about the frame's centre, pixel n from n - 1/2 to n + 1/2
        rows, columns = (
            (np.arange(n) + 0.5 - n / 2) / scale[i] + n / 2 + shift[i, axis] * n / 2 - 0.5
            for axis, n in enumerate((height, width))
        )
        outside = ((rows < -0.5) | (rows > height - 0.5))[:, None] | ((columns < -0.5) | (columns > width - 0.5))[None]
        places = np.meshgrid(rows, columns, indexing="ij")
        nearest = scipy.ndimage.map_coordinates(mask[i].numpy(), places, order=0, mode="nearest")
        np.testing.assert_array_equal(labels[i], np.where(outside, IGNORE, nearest))
        for band in range(3):
            expected = scipy.ndimage.map_coordinates(image[i, band].double().numpy(), places, order=1, mode="nearest")
            np.testing.assert_allclose(moved[i, band], np.where(outside, 0, expected), atol=1e-4)
        assert (moved[i][:, outside] == 0).all()


def test_half_scale_averages_blocks_and_double_scale_repeats_pixels():
    image, _ = windows(1, side=8)
    mask = torch.arange(16, dtype=torch.uint8).view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
    half, labels = rescaled(image, mask, np.array([0.5]), np.zeros((1, 2)))
    blocks = image.numpy().reshape(3, 4, 2, 4, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(half[0], np.pad(blocks, ((0, 0), (2, 2), (2, 2))), atol=1e-6)
    np.testing.assert_array_equal(labels[0], np.pad(np.arange(16).reshape(4, 4), 2, constant_values=IGNORE))
    _, labels = rescaled(image, mask, np.array([2.0]), np.array([[-0.5, 0.5]]))  # the upper right quarter
    np.testing.assert_array_equal(labels[0], np.kron(mask[0, :4, 4:], np.ones((2, 2))))


def test_scale_crop_draws_scales_log_uniformly_and_places_evenly():
    count, side = 400, 32
    ramps = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).astype(np.float32)
    image, mask = torch.from_numpy(ramps).expand(count, -1, -1, -1), torch.ones(count, side, side, dtype=torch.uint8)
    moved, labels = run(ScaleCrop(seed=1, scale=(1.25, 4)), image, mask, torch.arange(count))
    assert (labels == 1).all()
    rows, columns = moved[:, 0, :, 16].numpy(), moved[:, 1, 16].numpy()
    scale = 1 / (rows[:, 16] - rows[:, 15])  # a ramp's slope
    np.testing.assert_allclose(scale, 1 / (columns[:, 16] - columns[:, 15]), rtol=1e-3)
    assert scipy.stats.kstest(np.log(scale / 1.25) / np.log(4 / 1.25), "uniform").pvalue > 1e-3
    for line in (rows, columns):
        centre = (line[:, 15] + line[:, 16]) / 2 - 15.5
        assert scipy.stats.kstest(0.5 + centre / (side * (1 - 1 / scale)), "uniform").pvalue > 1e-3


def test_scale_crop_puts_the_whole_shrunk_window_anywhere_in_the_frame():
    image, mask = torch.ones(300, 1, 32, 32), torch.ones(300, 32, 32, dtype=torch.uint8)
    moved, labels = run(ScaleCrop(seed=1, scale=(0.5, 0.5)), image, mask, torch.arange(300))
    corners = []
    for frame, label in zip(moved[:, 0], labels, strict=True):
        (box,) = scipy.ndimage.find_objects((label == 1).numpy().astype(int))
        assert all(side.stop - side.start == 16 for side in box)
        assert (label == IGNORE).sum() == 32 * 32 - 16 * 16
        torch.testing.assert_close(frame, (label == 1).float())
        assert (frame[label == IGNORE] == 0).all()
        corners.append([side.start for side in box])
    assert set(np.ravel(corners).tolist()) == set(range(17))
    assert abs(np.corrcoef(np.transpose(corners))[0, 1]) < 0.15  # down and across on their own


@pytest.mark.parametrize("name", ["d4", "scale_crop", "cutout"])
def test_an_image_equal_to_its_mask_stays_so(name):
    blocks = np.random.default_rng(0).integers(1, 5, (20, 3, 3)).repeat(16, axis=1).repeat(16, axis=2)
    mask = torch.from_numpy(blocks.astype(np.uint8))
    image, labels = run(MAKE[name](1), mask[:, None].float(), mask, torch.arange(20))
    image, labels = image[:, 0].numpy(), labels.numpy()
    if name == "scale_crop":  # but for the blend between two blocks, up to 2 pixels wide
        size = (1, 5, 5)
        inner = scipy.ndimage.maximum_filter(labels, size) == scipy.ndimage.minimum_filter(labels, size)
        assert inner.mean() > 0.5
        image, labels = image[inner], labels[inner]
    np.testing.assert_allclose(image, np.where(labels == IGNORE, 0, labels), atol=1e-4)


def test_cutout_hides_one_rectangle_anywhere_in_the_window():
    image, _ = windows(300, side=30, width=20)
    mask = torch.ones(300, 30, 20, dtype=torch.uint8)
    holed, labels = run(CutOut(seed=1, count=1, size=(0.1, 0.5)), image, mask, torch.arange(300))
    assert torch.equal(holed, torch.where(labels[:, None] == IGNORE, 0, image))
    boxes = np.array(
        [[[side.start, side.stop] for side in scipy.ndimage.find_objects((m == IGNORE).numpy().astype(int))[0]] for m in labels]
    )
    sides = boxes[..., 1] - boxes[..., 0]
    assert ((labels == IGNORE).sum(dim=(1, 2)).numpy() == sides.prod(axis=1)).all()  # full rectangles
    assert sides.min(axis=0).tolist() == [3, 2]
    assert sides.max(axis=0).tolist() == [15, 10]
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.15
    for axis, length in enumerate((30, 20)):
        start, room = boxes[:, axis, 0], length - sides[:, axis]
        assert start.min() == 0
        assert boxes[:, axis, 1].max() == length
        assert abs((start / room).mean() - 0.5) < 4 * np.sqrt(1 / 12 / 300)


def test_cutout_hides_as_many_rectangles_as_asked_each_of_its_own_size():
    image, mask = torch.ones(60, 1, 64, 64), torch.ones(60, 64, 64, dtype=torch.uint8)
    _, labels = run(CutOut(seed=1, count=4, size=(0.05, 0.15)), image, mask, torch.arange(60))
    holes = [scipy.ndimage.label(m == IGNORE)[0] for m in labels.numpy()]
    counts = [hole.max() for hole in holes]
    assert max(counts) == 4  # fewer where they touch
    assert np.median(counts) == 4
    areas = [np.bincount(hole.ravel())[1:] for hole in holes]
    assert np.median([len(set(found.tolist())) for found in areas]) >= 3


@every
def test_double_precision_stays(name):
    image, mask = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.zeros(2, 32, 32, dtype=torch.uint8)
    assert run(MAKE[name](1), image, mask, torch.arange(2))[0].dtype == torch.float64
