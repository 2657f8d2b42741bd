"""Augmentations that change values, beside NumPy and SciPy in float64."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from rsseg.contract import IGNORE, InputError
from rsseg.data.radiometry import Blur, Noise, Radiometry, gaussian_blur, power_law


def images(count, bands=3, side=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, bands, side, side)).astype(np.float32))


def labelled(image):
    return {"mask": torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.uint8)}


def uniform(drawn, low, high):
    """Whether numbers look drawn evenly between two bounds."""
    return scipy.stats.kstest((np.ravel(drawn) - low) / (high - low), "uniform").pvalue > 1e-3


def test_power_law_is_the_formula_over_the_valid_range():
    image = images(2)
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[:, :4] = False
    image[:, :, 0, :8], image[:, :, 0, 8:] = 50, -50  # beyond the valid range
    exponent = torch.tensor([[0.5, 1, 2], [0.8, 1.3, 3]])
    bent = power_law(image, valid, exponent[..., None, None])
    for i in range(2):
        for band in range(3):
            x, seen = image[i, band].double().numpy(), valid[i].numpy()
            low, high = x[seen].min(), x[seen].max()
            expected = low + (high - low) * ((np.clip(x, low, high) - low) / (high - low)) ** float(exponent[i, band])
            expected = np.where((x < low) | (x > high), x, expected)
            np.testing.assert_allclose(bent[i, band], expected, rtol=1e-5, atol=1e-5)
            assert float(bent[i, band][valid[i]].min()) == pytest.approx(low)
            assert float(bent[i, band][valid[i]].max()) == pytest.approx(high)


def test_ignored_pixels_do_not_decide_the_range():
    image, mask = images(3), labelled(images(3))["mask"]
    mask[:, :5] = IGNORE
    wild = torch.where(mask[:, None] == IGNORE, 1e3 * image, image)
    augment = Radiometry(1, gamma=1)
    ours, theirs = (augment(pixels, {"mask": mask}, torch.arange(3))[0] for pixels in (image, wild))
    assert torch.equal(ours[..., 5:, :], theirs[..., 5:, :])
    assert torch.isfinite(theirs).all()
    every = augment(wild, {"mask": torch.zeros_like(mask)}, torch.arange(3))[0]
    assert not torch.allclose(every[..., 5:, :], ours[..., 5:, :], atol=0.1)


def test_a_pixel_of_a_multilabel_mask_is_valid_where_any_label_is():
    image, mask = images(2), labelled(images(2))["mask"]
    mask[:, :5] = IGNORE
    lower = torch.zeros_like(mask)
    lower[:, 3:] = IGNORE
    planes = torch.stack([mask, lower], dim=1)  # rows 3 and 4 are valid in neither
    either = torch.zeros_like(mask)
    either[:, 3:5] = IGNORE
    augment = Radiometry(1, gamma=1)
    ours, theirs = (augment(image, {"mask": labels}, torch.arange(2))[0] for labels in (planes, either))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, augment(image, {"mask": mask}, torch.arange(2))[0])


@pytest.mark.parametrize("case", ["all ignored", "constant band"])
def test_gamma_leaves_what_has_no_range(case):
    image, mask = images(2), labelled(images(2))["mask"]
    if case == "all ignored":
        mask[0] = IGNORE
    else:
        image[0] = 1.5
    bent, _ = Radiometry(1, gamma=1)(image, {"mask": mask}, torch.arange(2))
    torch.testing.assert_close(bent[0], image[0])
    assert not torch.allclose(bent[1], image[1], atol=0.1)


def test_each_band_of_each_window_draws_its_own_amounts():
    image = images(200)
    arguments = image, labelled(image), torch.arange(200)
    x = image.double().numpy()
    offset = Radiometry(1, brightness=0.4)(*arguments)[0].numpy() - x
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :, :1, :1], x.shape), atol=1e-5)
    assert uniform(offset[:, :, 0, 0], -0.4, 0.4)
    assert np.abs(np.corrcoef(offset[:, :, 0, 0].T) - np.eye(3)).max() < 0.25
    factor = Radiometry(1, contrast=0.6)(*arguments)[0].numpy() / x
    np.testing.assert_allclose(factor, np.broadcast_to(np.median(factor, axis=(2, 3), keepdims=True), x.shape), rtol=1e-4)
    assert uniform(np.log(factor[:, :, 0, 0]), -0.6, 0.6)
    bent = Radiometry(1, gamma=0.6)(*arguments)[0].double().numpy()
    low, high = (f(x, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
    inner = np.argsort(x.reshape(200, 3, -1), axis=2)[:, :, 64]  # a pixel of a low but not the lowest value
    share, after = (np.take_along_axis(v.reshape(200, 3, -1), inner[..., None], 2) for v in ((x - low), (bent - low)))
    exponent = np.log(after / (high - low)[..., 0]) / np.log(share / (high - low)[..., 0])
    assert uniform(np.log(exponent), -0.6, 0.6)
    # together: bent, then spread, then moved, by the same draws
    together = Radiometry(1, brightness=0.4, contrast=0.6, gamma=0.6)(*arguments)[0]
    np.testing.assert_allclose(together, np.median(factor, axis=(2, 3), keepdims=True) * bent + offset, atol=1e-4)


def test_blur_equals_scipy():
    image = images(4, side=20)[..., :18]
    sigma = np.array([0.4, 1, 1.7, 0])
    blurred = gaussian_blur(image, sigma, radius=6)
    for i, deviation in enumerate(sigma[:3]):
        x = image[i].double().numpy()
        expected = scipy.ndimage.gaussian_filter(x, deviation, axes=(1, 2), mode="mirror", radius=6)
        np.testing.assert_allclose(blurred[i], expected, atol=1e-6)
    assert torch.equal(blurred[3], image[3])


def test_blur_draws_sigma_per_window_and_reaches_three_sigma():
    image = torch.zeros(300, 1, 33, 33)
    image[..., 16, 16] = 1
    blurred, _ = Blur(1, sigma=(1, 2))(image, labelled(image), torch.arange(300))
    profile = blurred[:, 0].sum(dim=1).double().numpy()
    np.testing.assert_allclose(profile.sum(axis=1), 1, atol=1e-5)
    sigma = np.sqrt((profile * (np.arange(33) - 16) ** 2).sum(axis=1))
    assert uniform(sigma, 1, 2)
    assert (profile[:, [9, 23]] == 0).all()
    assert (profile[sigma > 1.5][:, [10, 22]] > 0).all()


def test_blur_of_a_window_too_small_is_refused():
    image = images(1)
    with pytest.raises(InputError, match="reaches 18 pixels needs larger windows than 16 x 16"):
        Blur(1, sigma=(0, 6))(image, labelled(image), torch.tensor([0]))


def test_noise_is_white_gaussian_and_of_the_level_asked_for():
    image = images(6, side=128)
    noise = (Noise(1, std=(0.3, 0.3))(image, labelled(image), torch.arange(6))[0] - image).double().numpy()
    fields = noise.reshape(18, -1)
    assert scipy.stats.kstest(noise.ravel()[::7] / 0.3, "norm").pvalue > 1e-3
    np.testing.assert_allclose(fields.std(axis=1), 0.3, rtol=5 / np.sqrt(2 * 128**2))
    np.testing.assert_allclose(fields.mean(axis=1), 0, atol=5 * 0.3 / 128)
    assert np.abs(np.corrcoef(fields) - np.eye(18)).max() < 5 / 128  # bands and windows on their own
    for lag in ((0, 1), (1, 0)):
        neighbours = np.roll(noise, lag, axis=(2, 3)).reshape(18, -1)
        assert np.abs((fields * neighbours).mean(axis=1)).max() < 5 * 0.3**2 / 128


def test_noise_draws_its_level_per_window():
    image = torch.zeros(300, 2, 48, 48)
    noisy, _ = Noise(1, std=(0.2, 0.6))(image, labelled(image), torch.arange(300))
    assert uniform(noisy.std(dim=(1, 2, 3)).numpy(), 0.2, 0.6)
