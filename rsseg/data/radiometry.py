"""Augmentations that change only pixel values: radiometry, blur, noise.

Images are normalised, so that amounts are in standard deviations of a band over the training split. Layers do not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import InputError, Layers, check_number, labelled
from rsseg.data.augment import Sometimes, bounds


def power_law(image: Tensor, valid: Tensor, exponent: Tensor) -> Tensor:
    """Apply a power law to each band that keeps its minimum and maximum over valid pixels."""
    seen = valid[:, None]
    low = torch.where(seen, image, torch.inf).amin(dim=(2, 3), keepdim=True)
    span = torch.where(seen, image, -torch.inf).amax(dim=(2, 3), keepdim=True) - low
    flat = ~(span > 0)  # one value, or no valid pixel at all
    low, span, exponent = low.masked_fill(flat, 0), span.masked_fill(flat, 1), exponent.masked_fill(flat, 1)
    share = (image - low) / span
    inside = share.clamp(0, 1)
    return torch.addcmul(low, span, inside**exponent + (share - inside))


def gaussian_blur(image: Tensor, sigma: NDArray[np.float64], radius: int) -> Tensor:
    """Blur each window with its own Gaussian of `sigma` pixels, truncated at `radius`, with reflected borders; 0: no blur."""
    batch, bands, height, width = image.shape
    if radius >= min(height, width):
        raise InputError(
            f"a blur that reaches {radius} pixels needs larger windows than {width} x {height}: lower sigma or raise window"
        )
    steps = np.arange(-radius, radius + 1) / np.maximum(sigma, 1e-6)[:, None]
    kernels = np.exp(-(steps**2) / 2)
    kernels /= kernels.sum(axis=1, keepdims=True)
    weight = torch.from_numpy(kernels).to(image).repeat_interleave(bands, dim=0)[:, None]
    planes = F.pad(image, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    columns = F.conv2d(planes, weight[..., :, None], groups=batch * bands)
    return F.conv2d(columns, weight[..., None, :], groups=batch * bands).view_as(image)


class Radiometry(Sometimes):
    """Simulates other light, haze and sensors: a power law, a factor and an offset for each band of each window.

    A band x becomes ``factor * power_law(x) + offset``. The offset is uniform from -brightness to brightness; the factor, about
    the band's mean, is ``exp(u)`` with u uniform from -contrast to contrast; the exponent likewise with gamma. An effect and
    its inverse are thus equally likely; an argument of 0 turns its effect off.

    Args:
        brightness: The greatest offset, in standard deviations.
        contrast: The greatest logarithm of the factor.
        gamma: The greatest logarithm of the exponent.
        probability: The share of the windows that are changed.
    """

    purpose = "radiometry"

    def __init__(
        self, seed: int, brightness: float = 0.0, contrast: float = 0.0, gamma: float = 0.0, probability: float = 1.0
    ) -> None:
        super().__init__(seed, probability)
        self.brightness, self.contrast = check_number("brightness", brightness, 0, 3), check_number("contrast", contrast, 0, 3)
        self.gamma = check_number("gamma", gamma, 0, 3)

    def apply(self, image: Tensor, layers: Layers, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Layers]:
        """Draw an offset, a factor and an exponent for each band of each window."""
        drawn = np.stack([rng.uniform(-1, 1, (3, image.shape[1])) for rng in streams], axis=1)
        drawn *= np.reshape([self.brightness, self.contrast, self.gamma], (3, 1, 1))
        offset, factor, exponent = torch.from_numpy(drawn).to(image)[..., None, None]
        if self.gamma:
            image = power_law(image, labelled(layers), exponent.exp())
        return torch.addcmul(offset, image, factor.exp()), layers


class Blur(Sometimes):
    """Gaussian blur, as from optics or resampling. Pixels without data count as 0, the band's mean.

    Args:
        sigma: (low, high) between which a window's standard deviation is drawn, in pixels.
        probability: The share of the windows that are blurred.
    """

    purpose = "blur"

    def __init__(self, seed: int, sigma: tuple[float, float], probability: float = 1.0) -> None:
        super().__init__(seed, probability)
        self.sigma = bounds("sigma", sigma)

    def apply(self, image: Tensor, layers: Layers, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Layers]:
        """Draw a sigma for each window and blur it; all kernels have one radius, which does not depend on the batch."""
        sigma = np.array([rng.uniform(*self.sigma) for rng in streams])
        return gaussian_blur(image, sigma, math.ceil(3 * self.sigma[1])), layers


class Noise(Sometimes):
    """Gaussian noise, as from a sensor, independent in every pixel and band.

    The field is drawn on the image's device by a generator that is seeded from (seed, k): the same on every CPU, the same
    on every GPU, but not the same on both.

    Args:
        std: (low, high) between which a window's noise level is drawn, in standard deviations of the band.
        probability: The share of the windows that get noise.
    """

    purpose = "noise"

    def __init__(self, seed: int, std: tuple[float, float], probability: float = 1.0) -> None:
        super().__init__(seed, probability)
        self.std = bounds("std", std)

    def apply(self, image: Tensor, layers: Layers, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Layers]:
        """Draw a level and a field for each window."""
        field, generator = torch.empty_like(image), torch.Generator(image.device)
        for window, rng in zip(field, streams, strict=True):
            level = rng.uniform(*self.std)
            window.normal_(0, level, generator=generator.manual_seed(int(rng.integers(2**63))))
        return image + field, layers
