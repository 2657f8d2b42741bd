"""The task whose target holds objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, InputError, holds_reals, known
from rsseg.task.task import Task, per_plane

if TYPE_CHECKING:
    from torch import Tensor


OBJECT_PLANES = ("label", "down", "across", "height", "width")
"""The planes of a target of objects, see `Centres`."""

OVERLAP = 0.7
"""The least IoU of a box with a box whose corners are shifted by the radius of the centre's Gaussian (Law and Deng 2018)."""

LEAST_RADIUS = 2
"""The least radius in pixels, also that of objects of unknown size, as in CenterPoint (Yin et al. 2021)."""


@dataclass(frozen=True)
class Centres(Task):
    """Objects, found by their centres (CenterNet, Zhou et al. 2019), at the resolution of the image.

    The network outputs a heat logit for each class, height and width, and the centre's offset in its pixel, down and across. A
    scene's target has the planes `OBJECT_PLANES`: every pixel near an object holds the number of its class, from 1, the
    vector (down, across) from the pixel's centre to the object's centre, and the object's height and width, all in pixels; an
    unknown size is NaN. Of several objects, the one with the highest heat counts. Pixels far from objects hold 0, unknown NaN.

    The target is not a heat map, because resampling one would turn a centre into four, or none. Since every pixel stores its
    object, targets can be cut and resampled pixel by pixel like other layers, and an object outside a window still has heat
    inside. Only vectors and sizes have to be turned and scaled (`moved`). Heat, sizes and offsets are computed from the target
    last, separately for each pixel (`standardise`).
    """

    kind = "centres"
    separate = True
    real = True
    directed = True
    subject = "detection"
    untuned = "score 0.3"
    scores: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "f1_micro", "scene_f1")
    class_scores: ClassVar[tuple[str, ...]] = ("f1",)
    score = "f1"
    score_name = "F1"
    counted = "matches"
    unit = "objects"
    error_names: ClassVar[tuple[str, ...]] = ("found", "false alarm", "missed")
    losses = "centres"

    mean: tuple[float, ...] = ()  # of heights, and of widths, of objects in the training split; empty: logits are sizes
    std: tuple[float, ...] = ()  # likewise

    @property
    def outputs(self) -> int:
        return self.channels + 4

    @property
    def first_bias(self) -> tuple[float, ...]:
        """An initial heat of 0.1 (Law & Deng 2018): with 0.5 in every pixel, the heat's loss would dominate all others."""
        return (-2.19,) * self.channels + (0.0,) * 4

    @property
    def planes(self) -> tuple[int, ...]:
        return (len(OBJECT_PLANES),)

    @property
    def value_names(self) -> tuple[str, ...]:
        return OBJECT_PLANES[3:]

    def values(self, target: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """The known heights and widths, in pixels, of the objects whose centres are in a target ``[5, H, W]``."""
        sizes = target[3:, _at_centre(target)]
        return [side[known(side)] for side in sizes]

    @property
    def sized(self) -> bool:
        """Whether any training object has a known size, so that sizes are predicted."""
        return not self.mean or min(self.mean) > 0

    def faults(self, mask_values: Sequence[Any] | None = None, palette: Sequence[str] | None = None) -> list[str]:
        found = super().faults(palette=palette)
        if mask_values is not None:
            found.append(
                "dataset.mask_values: features of a vector file have classes, counted from 1; set dataset.mask_values=null, "
                "and dataset.source.attribute and values to the attribute and values of a feature's class"
            )
        return found

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """See `Task`; both sides share one mean and one standard deviation, since a quarter turn swaps them."""
        middle = float(np.mean(mean))
        deviation = float(np.sqrt(np.mean(np.square(std) + np.square(np.subtract(mean, middle)))))
        return replace(self, mean=(middle,) * 2, std=(deviation,) * 2)

    def moved(self, target: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
        """See `Task`: vectors are multiplied by the matrix, sides by its absolute values; a quarter turn swaps sides."""
        label, vector, sides = target[:, :1], target[:, 1:3], target[:, 3:]
        turned = (matrix[:, :, :, None, None] * vector[:, None]).sum(2)
        moved = target.clone()
        moved[:, 1:3] = (turned if shift is None else turned + shift) * (label > 0)
        moved[:, 3:] = (matrix.abs()[:, :, :, None, None] * sides[:, None]).sum(2)
        return moved

    def standardise(self, target: Tensor) -> Tensor:
        """The loss's target, shaped as the logits: heat from 0 to 1 for each class, standardised sides, offsets from 0 to 1.

        Sides and offsets are NaN except in pixels that contain a centre; unknown pixels are NaN in all planes.
        """
        label, vector, sides = target[:, 0], target[:, 1:3], target[:, 3:]
        radius = whole_radius(sides[:, 0], sides[:, 1])
        away = (vector + 0.5).floor()  # whole pixels to the pixel that the centre lies in
        warm = (label > 0) & (away.abs() <= radius[:, None]).all(1)
        heat = (-away.square().sum(1) / (2 * gaussian_sigma(radius) ** 2)).exp() * warm
        centre = (warm & (away == 0).all(1))[:, None]
        planes = target.new_empty(len(target), self.outputs, *target.shape[2:])
        for c in range(self.channels):
            planes[:, c] = heat * (label == c + 1)
        if self.mean:
            sides = (sides - per_plane(self.mean, sides)) / per_plane(self.std, sides)
        planes[:, -4:-2] = sides.masked_fill(~centre, math.nan)
        planes[:, -2:] = (vector + 0.5).masked_fill(~centre, math.nan)
        return planes

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Scores from 0 to 1, sides in pixels (NaN if training had no known sizes), and offsets from 0 to 1."""
        planes = logits.sigmoid()
        planes[:, -4:-2] = self.in_pixels(logits[:, -4:-2])
        planes[:, -2:] = logits[:, -2:].clamp(0, 1)
        return planes

    def turned(self, activated: Tensor, transposed: bool, flipped: tuple[bool, bool]) -> Tensor:
        """See `Task`: a transposition swaps height and width, and the two offsets; a flip changes an offset o to 1 - o."""
        turned = activated.clone()
        if transposed:
            turned[..., -4:, :, :] = activated[..., [-3, -4, -1, -2], :, :]
        for plane, flip in zip((-2, -1), flipped, strict=True):
            if flip:
                turned[..., plane, :, :] = 1 - turned[..., plane, :, :]
        return turned

    def in_pixels(self, sides: Tensor) -> Tensor:
        """Convert standardised sides ``[B, 2, H, W]`` to pixels."""
        if not self.sized:
            return sides * math.nan
        return sides * per_plane(self.std, sides) + per_plane(self.mean, sides) if self.mean else sides

    def hard_labels(self, target: Any) -> Any:  # type: ignore[override]  # it has to know the classes
        """Labels ``[..., K, H, W]``: 1 at pixels that contain a centre of the class, so that objects count like pixels."""
        if not holds_reals(target):
            return target
        labels = target[..., [0] * self.channels, :, :]
        for c in range(self.channels):
            labels[..., c, :, :] -= c
        unknown = labels != labels
        planes = [target[..., [i], :, :] for i in range(3)]
        found = ((labels == 1) & _at_centre(planes)) * 1
        found[unknown] = IGNORE
        return found

    @classmethod
    def check_shapes(cls, logits: Tensor, target: Tensor) -> None:
        shape, found = list(logits.shape), list(target.shape)
        if not logits.is_floating_point() or len(shape) != 4 or shape[1] < 5:
            raise InputError(
                "a loss of centres needs floating-point logits [B, K + 4, H, W], a heat for each of K classes, two sides and "
                f"two offsets; found {logits.dtype} {shape}"
            )
        if not target.is_floating_point() or found != shape:
            raise InputError(f"a target of centres for logits {shape} has the same shape; found {target.dtype} {found}")

    @classmethod
    def check_values(cls, logits: Tensor, target: Tensor, ignore_index: int = IGNORE) -> None:  # noqa: ARG003
        cls.check_shapes(logits, target)
        heat = target[:, :-4]
        wrong = (heat < 0) | (heat > 1)
        if bool(wrong.any()):
            raise InputError(f"the target holds the heat {float(heat[wrong][0]):g}, but heat lies from 0 to 1 (unknown: NaN)")


def _at_centre(target: Any) -> Any:
    """Bool ``[...]``, true for pixels of a target of objects ``[5, ...]`` that contain a centre."""
    label, down, across = target[0], target[1], target[2]
    return (label > 0) & (down + 0.5 >= 0) & (down + 0.5 < 1) & (across + 0.5 >= 0) & (across + 0.5 < 1)


def gaussian_radius(height: Any, width: Any) -> Any:
    """The largest shift of a box's corners, in pixels, that keeps an IoU of `OVERLAP` with the box; arrays or tensors.

    CornerNet takes the least of three radii: for both corners moved inwards, both outwards, and both in one direction. The
    first is always the least, with the IoU ``(h - 2r)(w - 2r) / (h w)``.

    Example:
        >>> round(gaussian_radius(100.0, 100.0), 3), round((100 - 2 * 8.167) ** 2 / 100**2, 3)
        (8.167, 0.7)
    """
    total = height + width
    return (total - (total**2 - 4 * (1 - OVERLAP) * height * width) ** 0.5) / 4


def whole_radius(height: Any, width: Any) -> Any:
    """The radius in whole pixels, at least `LEAST_RADIUS`, which is also that of objects of unknown size (NaN)."""
    radius = gaussian_radius(height, width) // 1
    radius[~(radius > LEAST_RADIUS)] = LEAST_RADIUS
    return radius


def gaussian_sigma(radius: Any) -> Any:
    """The standard deviation of a Gaussian with this radius: a sixth of the diameter ``2 radius + 1``."""
    return (2 * radius + 1) / 6
