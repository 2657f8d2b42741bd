"""What a head predicts: a class per kind of task, which holds what differs between the kinds.

Others ask whether a target is real, and what else a task says of itself, not for its kind. Torch is not imported, so that a
config can be checked before it is: methods that take tensors call the tensors' own methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, ONE_TARGET, InputError, holds_reals, known, nearest
from rsseg.heat import spread, whole_radius
from rsseg.target import Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task(Target):
    """A head's classes, what its target holds (see `Target`), and how its logits are read.

    As it stands every logit is a yes or no of its own, and a target holds 0 and 1; subclasses change what is different.

    Attributes:
        subject: What masks of this kind are about, as `rsseg.data.advice.Kind` names it.
        untuned: How labels are found as long as nothing is tuned.
        tuned: What tuning changes, one class at a time.
        all_tuned: The same for all classes.
        scores: What is logged of a validation.
        class_scores: What is logged of each class.
        score: The score that chooses the best checkpoint, as it is logged.
        score_name: What people call it.
        higher_is_better: Whether it is to be high.
        counted: What `rsseg.metrics.Confusion`, or of real values `ErrorSums`, counts of each scene, as records name it.
        score_of: What has a score of its own: a class, or a value.
        unit: What scores and shares are counted in, for people.
        error_names: What the values of `errors` stand for.
        usual_colours: The colours that labels are drawn in without a palette; empty: chosen from a colour map.
    """

    subject: ClassVar[str] = "foreground"
    untuned: ClassVar[str] = "threshold 0.5"
    tuned: ClassVar[str] = "threshold"
    all_tuned: ClassVar[str] = "thresholds"
    scores: ClassVar[tuple[str, ...]] = (
        "iou", "dice", "precision", "recall", "f0.5", "f2", "balanced_accuracy", "kappa", "accuracy", "scene_iou", "scene_dice",
    )  # fmt: skip
    class_scores: ClassVar[tuple[str, ...]] = ("iou", "dice")
    score: ClassVar[str] = "iou"
    score_name: ClassVar[str] = "IoU"
    higher_is_better: ClassVar[bool] = True
    counted: ClassVar[str] = "confusion"
    score_of: ClassVar[str] = "class"
    unit: ClassVar[str] = "pixels"
    error_names: ClassVar[tuple[str, ...]] = ("right", "wrong")
    usual_colours: ClassVar[tuple[str, ...]] = ()

    @property
    def labels(self) -> int:
        """The number of values that a mask may hold: 0, 1, ..."""
        return 2

    @property
    def label_names(self) -> tuple[str, ...]:
        """What a pixel may be called; the classes are the last of them. A palette has a colour for each."""
        return self.classes

    @property
    def drawn_names(self) -> tuple[str, ...]:
        """What the values of a drawn mask (see `flatten`) stand for."""
        return self.label_names

    @property
    def matrices(self) -> tuple[tuple[str, ...], ...]:
        """The confusion matrices to count, each with the names of its rows."""
        return tuple((f"not {name}", name) for name in self.classes)

    def faults(self, mask_values: Sequence[Any] | None = None, palette: Sequence[str] | None = None) -> list[str]:
        """What is wrong with the classes and with lists that are as long, one sentence each.

        Args:
            mask_values: What mask files hold for each label; None: 0, 1, ...
            palette: The colours of `label_names`; None: chosen.
        """
        shown = f"dataset.classes={list(self.classes)}"
        if not self.classes:
            return ["dataset.classes is empty: name at least one class"]
        faults = [f"{shown} names a class twice"] if len(set(self.classes)) < self.channels else []
        if misfit := self.misfit(self.channels):
            return [*faults, f"{shown}: {misfit}"]
        if mask_values is not None and len(mask_values) != self.labels:
            faults.append(f"dataset.mask_values lists {len(mask_values)} values, but the masks have {self.labels} labels")
        if self.labels > IGNORE:
            faults.append(f"{self.labels} classes: masks are 8-bit and {IGNORE} means ignored, so {IGNORE} is the most")
        if palette is not None and len(palette) != len(self.label_names):
            needed = len(self.label_names)
            faults.append(f"dataset.palette has {len(palette)} colours, but {needed} are needed; null chooses them")
        return faults

    def moved(self, target: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
        """What lengths and directions in a target become where an augmentation has turned or scaled its pixels: see `directed`.

        Args:
            target: The target with its pixels in their new places, ``[B, *planes, H, W]``.
            matrix: ``[B, 2, 2]``, from a vector (down, across) of the old window to that of the new one.
            shift: ``[B, 2, H, W]``, how far down and across of a new pixel's centre that of the pixel lies which it was taken
                from; None: nowhere.

        Returns:
            A target of the same shape; labels and values have no direction and stay as they are.
        """
        return target

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """The task with the mean and deviation of real values in the training split; itself where targets hold labels."""
        return self

    def standardise(self, target: Tensor) -> Tensor:
        """A target as the loss sees it: real values about 0 with a deviation of about 1, labels as they are.

        Taken after augmentation.
        """
        return target

    def quality(self, scores: Mapping[str, float]) -> float:
        """The score that chooses checkpoints, among scores by name: more is better, so an error has a minus."""
        return scores[self.score] if self.higher_is_better else -scores[self.score]

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The labels (regression: the values in their unit) that logits stand for.

        Args:
            logits: ``[B, K, H, W]``.
            threshold: ``[K]``, the logit above which a pixel is positive; None: 0, a probability of 0.5. For exclusive classes
                it is the bias that is added to a class's logit before the largest is looked for.

        Returns:
            int64 ``[B, *planes, H, W]``.
        """
        positive = (logits > (0 if threshold is None else _per_class(threshold, logits))).long()
        return positive if self.separate else positive[:, 0]

    def by_class(self, counts: Tensor) -> Tensor:
        """What belongs to each class, of numbers for each label of each of `matrices`.

        Args:
            counts: ``[..., P, K]``.

        Returns:
            ``[..., classes]``.
        """
        return counts[..., 1]

    def label_mask(self, mask: NDArray[np.generic], label: int) -> NDArray[np.bool_]:
        """Where a target ``[*planes, H, W]`` has the label of this place in `label_names`: bool ``[H, W]``."""
        labels = self.hard_labels(mask)
        found: NDArray[np.bool_] = labels[label] == 1 if self.separate else labels == label
        return found

    def without_label(self, mask: NDArray[np.generic], name: str) -> NDArray[np.generic]:
        """A target ``[*planes, H, W]`` that says nothing of a class: of exclusive ones the pixels labelled so are unknown.

        Example:
            >>> Multilabel(("road", "house")).without_label(np.array([[[1]], [[1]]], np.uint8), "road").tolist()
            [[[255]], [[1]]]
        """
        place = self.classes.index(name)
        if self.separate:
            gone = np.arange(self.channels)[:, None, None] == place
        else:
            gone = self.class_masks(mask)[place] if self.exclusive else np.ones(mask.shape[-2:], np.bool_)
        return np.where(gone, np.array(self.unknown, self.dtype), mask)

    def class_masks(self, mask: NDArray[np.generic]) -> list[NDArray[np.bool_]]:
        """Where a target ``[*planes, H, W]`` has each class: bool ``[H, W]`` each."""
        mask, names = self.hard_labels(mask), len(self.label_names)
        return [self.label_mask(mask, label) for label in range(names - self.channels, names)]

    def label_counts(
        self, positives: NDArray[np.int64], valid: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels of each of `label_names`, and labelled pixels beside them.

        Args:
            positives: ``[..., K]``, pixels of each class.
            valid: ``[..., K]``, labelled pixels.
        """
        return positives, valid

    def flatten(self, mask: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Labels ``[*planes, H, W]`` as one plane to draw."""
        return mask.astype(np.uint8)

    def shades(self, colours: Sequence[str]) -> list[str]:
        """The colours of the values of a drawn mask, from those of `label_names`."""
        return list(colours)

    def errors(self, mask: NDArray[np.generic], prediction: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Where a prediction is wrong, as places in `error_names`; `IGNORE` where nothing is labelled.

        Args:
            mask: ``[*planes, H, W]``.
            prediction: Likewise.
        """
        labelled = mask != IGNORE
        wrong = (mask != prediction) & labelled
        if self.separate:
            wrong, labelled = wrong.any(axis=0), labelled.any(axis=0)
        return np.where(labelled, wrong, IGNORE).astype(np.uint8)


class Binary(Task):
    """One class against all else: one logit a pixel; labels 0 and 1.

    Example:
        >>> Binary(("building",)).label_names
        ('background', 'building')
    """

    kind = "binary"
    error_names = ("right", "false alarm", "missed")
    usual_colours = ("#000000", "#ffffff")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The background before the class."""
        return ("background", *self.classes)

    @classmethod
    def misfit(cls, channels: int) -> str:
        """See `Task`."""
        return (
            ""
            if channels == 1
            else (
                f"a binary task has one class, the positive one; found {channels}: take task=multiclass for exclusive classes, "
                "task=multilabel for classes that may overlap"
            )
        )

    def label_counts(
        self, positives: NDArray[np.int64], valid: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Task`."""
        return np.concatenate([valid - positives, positives], axis=-1), np.concatenate([valid, valid], axis=-1)

    def errors(self, mask: NDArray[np.generic], prediction: NDArray[np.generic]) -> NDArray[np.uint8]:
        """See `Task`; wrong pixels are false alarms or missed."""
        codes = super().errors(mask, prediction)
        return np.where((codes == 1) & (mask == 1), np.uint8(2), codes)


class Multiclass(Task):
    """Several classes of which each pixel has one: a logit per class; labels 0 to C - 1."""

    kind = "multiclass"
    exclusive = True
    subject = "land cover"
    untuned = "argmax"
    tuned = "bias"
    all_tuned = "biases per class"

    @property
    def labels(self) -> int:
        """One for each class."""
        return self.channels

    @property
    def matrices(self) -> tuple[tuple[str, ...], ...]:
        """One, of all classes."""
        return (self.classes,)

    @classmethod
    def misfit(cls, channels: int) -> str:
        """See `Task`."""
        return "" if channels > 1 else f"a multiclass task has two classes or more; found {channels}: take task=binary"

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        """See `Task`."""
        biased = logits if threshold is None else logits + _per_class(threshold, logits)
        return biased.max(dim=1).indices  # ten times faster than argmax(1) on a CPU

    @classmethod
    def _known_labels(cls, channels: int, ignore_index: int) -> str:
        """See `Task`."""
        return (
            f"{channels} classes are numbered 0..{channels - 1} (ignored: {ignore_index}): "
            f"map other labels to a class or to {ignore_index}, or give the head more classes"
        )

    @classmethod
    def _largest_share(cls, target: Any) -> tuple[Any, Any]:
        """See `Task`."""
        return target.argmax(-3), (target != target).any(-3)

    def by_class(self, counts: Tensor) -> Tensor:
        """See `Task`."""
        return counts[..., 0, :]


class Multilabel(Task):
    """Several labels that may overlap: a logit per label, each on its own; 0 and 1 in a plane for each label."""

    kind = "multilabel"
    separate = True

    @property
    def drawn_names(self) -> tuple[str, ...]:
        """Nothing, and the labels."""
        return ("none of them", *self.classes)

    def flatten(self, mask: NDArray[np.generic]) -> NDArray[np.uint8]:
        """The last label that is set, plus 1; `IGNORE` where all are ignored."""
        plane = np.zeros(mask.shape[1:], dtype=np.uint8)
        for i, label in enumerate(mask):
            plane = np.where(label == 1, np.uint8(i + 1), plane)
        return np.where((mask == IGNORE).all(axis=0), np.uint8(IGNORE), plane)

    def shades(self, colours: Sequence[str]) -> list[str]:
        """Black for nothing, and the labels' own."""
        return ["#000000", *colours]


@dataclass(frozen=True)
class Regression(Task):
    """Real values instead of labels: a target plane for each of the values that `classes` names, NaN where unknown.

    A loss sees values that are standardised by the mean and the deviation of the training split, as logits are. Predictions,
    scores and maps have the target's unit.

    Attributes:
        units: The unit of each value, for people; empty: not known.
        mean: Of each value in the training split; empty: logits are values.
        std: Likewise its standard deviation.

    Example:
        >>> import torch
        >>> height = Regression(("height",), units=("m",)).scaled([10.0], [5.0])
        >>> height.standardise(torch.tensor([[[[20.0]]]])).item(), height.predict(torch.tensor([[[[2.0]]]])).item()
        (2.0, 20.0)
    """

    kind = "regression"
    separate = True
    real = True
    subject = "regression"
    scores = ("rmse", "mae", "r2", "bias", "scene_rmse")
    class_scores = ("rmse", "mae")
    score = "rmse"
    score_name = "RMSE"
    higher_is_better = False
    counted = "errors"
    score_of = "value"

    units: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def value_names(self) -> tuple[str, ...]:
        """The values' own names."""
        return self.classes

    def values(self, target: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """See `Target`."""
        return [plane[known(plane)] for plane in target]

    def faults(self, mask_values: Sequence[Any] | None = None, palette: Sequence[str] | None = None) -> list[str]:
        """See `Task`."""
        found = super().faults()
        given = {"mask_values": mask_values, "palette": palette}
        for name, value in given.items():
            if value is not None:
                found.append(f"dataset.{name}: masks of a regression hold real values, no labels; set dataset.{name}=null")
        if self.units and len(self.units) != self.channels:
            found.append(f"dataset.units lists {len(self.units)} units, but dataset.classes names {self.channels} values")
        return found

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """See `Task`."""
        return replace(self, mean=tuple(mean), std=tuple(std))

    def standardise(self, target: Tensor) -> Tensor:
        """See `Task`."""
        return (target - _planes(self.mean, target)) / _planes(self.std, target) if self.mean else target

    @classmethod
    def _largest_share(cls, target: Any) -> tuple[Any, Any]:
        """See `Task`."""
        there = target == target
        return there * 1, ~there

    @classmethod
    def check_shapes(cls, logits: Tensor, target: Tensor) -> None:
        """Refuse a prediction and a target that do not fit each other.

        Args:
            logits: The predicted values, floating point ``[B, V, H, W]``.
            target: Real numbers of any dtype, likewise or ``[B, H, W]`` for one value.

        Raises:
            InputError: For shapes that do not fit, complex numbers and booleans.
        """
        shape, found = list(logits.shape), list(target.shape)
        if not logits.is_floating_point() or len(shape) != 4:
            raise InputError(f"a regression loss needs a floating-point prediction [B, C, H, W]; found {logits.dtype} {shape}")
        if target.is_complex() or str(target.dtype) == "torch.bool":
            raise InputError(f"a regression target holds real numbers; found {target.dtype}")
        one = shape[1] == 1
        if found != shape and not (one and found == [shape[0], *shape[2:]]):
            raise InputError(
                f"a regression target for a prediction {shape} has the same shape"
                f"{' or lacks its dimension of 1' if one else ''}; found {found}"
            )

    @classmethod
    def check_values(cls, logits: Tensor, target: Tensor, ignore_index: int = IGNORE) -> None:  # noqa: ARG003
        """Any real number will do; see `check_shapes`."""
        cls.check_shapes(logits, target)

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The values, floating point ``[B, V, H, W]``."""
        return logits * _planes(self.std, logits) + _planes(self.mean, logits) if self.mean else logits


OBJECT_PLANES = ("label", "down", "across", "height", "width")
"""The planes of a target of objects, see `Centres`."""


@dataclass(frozen=True)
class Centres(Task):
    """Objects, found by their centres (CenterNet, Zhou et al. 2019), at the resolution of the image.

    The network gives a heat logit for each class, then height and width, then how far down and across in its pixel a centre
    lies. A scene's target has the planes of `OBJECT_PLANES`: every pixel near an object holds the number of its class, counted
    from 1, the vector from the pixel's centre to the object's centre, and its height and width, all in pixels; NaN where a size
    is not known. Of several objects the one with the highest heat counts. Pixels far from objects hold 0, unknown ones NaN.

    It is not the heat map itself, for that cannot be scaled by its pixels: a centre would become four, or none. Here every
    pixel knows its object, so that layers are cut and moved pixel by pixel as others are, and an object beyond the border of a
    window still warms what lies inside. Only vectors and sizes have to be turned and scaled (`moved`). Heat, size and offset
    are made of it last, each pixel for itself (`standardise`).

    Attributes:
        mean: The mean height, and the mean width, of objects in the training split; empty: logits are sizes.
        std: Likewise their standard deviations.

    Example:
        >>> import torch
        >>> cars = Centres(("car",))
        >>> layer = torch.tensor([1.0, 0.25, -0.5, 9.0, 4.0]).view(1, 5, 1, 1)
        >>> cars.standardise(layer).flatten().tolist()
        [1.0, 9.0, 4.0, 0.75, 0.0]
    """

    kind = "centres"
    separate = True
    real = True
    directed = True
    subject = "detection"
    untuned = "score 0.3"
    scores = ("f1", "precision", "recall", "f1_micro", "scene_f1")
    class_scores = ("f1",)
    score = "f1"
    score_name = "F1"
    counted = "matches"
    unit = "objects"
    error_names = ("found", "false alarm", "missed")

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """The classes, two sides and two offsets."""
        return self.channels + 4

    @property
    def first_bias(self) -> tuple[float, ...]:
        """A heat of 0.1 (Law & Deng 2018): a half in every pixel would be a loss that swamps all others."""
        return (-2.19,) * self.channels + (0.0,) * 4

    @property
    def planes(self) -> tuple[int, ...]:
        """Those of `OBJECT_PLANES`."""
        return (len(OBJECT_PLANES),)

    @property
    def value_names(self) -> tuple[str, ...]:
        """Height and width."""
        return OBJECT_PLANES[3:]

    def values(self, target: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """The known heights and widths of the objects whose centres lie in a target."""
        sizes = target[3:, _at_centre(target)]
        return [side[known(side)] for side in sizes]

    @property
    def sized(self) -> bool:
        """Whether the size of any object in training is known: then sizes are predicted."""
        return not self.mean or min(self.mean) > 0

    def faults(self, mask_values: Sequence[Any] | None = None, palette: Sequence[str] | None = None) -> list[str]:
        """See `Task`."""
        found = super().faults(palette=palette)
        if mask_values is not None:
            found.append(
                "dataset.mask_values: features of a vector file have classes, counted from 1; set dataset.mask_values=null, "
                "and dataset.source.attribute and values to what names a feature's class"
            )
        return found

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """See `Task`; one mean and one deviation for both sides, which a quarter turn swaps."""
        middle = float(np.mean(mean))
        deviation = float(np.sqrt(np.mean(np.square(std) + np.square(np.subtract(mean, middle)))))
        return replace(self, mean=(middle,) * 2, std=(deviation,) * 2)

    def moved(self, target: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
        """See `Task`: vectors follow the matrix, sides its amounts, so that a quarter turn swaps them."""
        label, vector, sides = target[:, :1], target[:, 1:3], target[:, 3:]
        turned = (matrix[:, :, :, None, None] * vector[:, None]).sum(2)
        moved = target.clone()
        moved[:, 1:3] = (turned if shift is None else turned + shift) * (label > 0)
        moved[:, 3:] = (matrix.abs()[:, :, :, None, None] * sides[:, None]).sum(2)
        return moved

    def standardise(self, target: Tensor) -> Tensor:
        """What the loss sees: heat from 0 to 1 for each class, sides about 0, and offsets from 0 to 1.

        Args:
            target: ``[B, 5, H, W]``, of `OBJECT_PLANES`.

        Returns:
            Of the shape of the logits; sides and offsets are NaN but in the pixels that centres lie in, all is where nothing is
            known.
        """
        label, vector, sides = target[:, 0], target[:, 1:3], target[:, 3:]
        radius = whole_radius(sides[:, 0], sides[:, 1])
        away = (vector + 0.5).floor()  # whole pixels to the pixel that the centre lies in
        warm = (label > 0) & (away.abs() <= radius[:, None]).all(1)
        heat = (-away.square().sum(1) / (2 * spread(radius) ** 2)).exp() * warm
        centre = (warm & (away == 0).all(1))[:, None]
        planes = target.new_empty(len(target), self.outputs, *target.shape[2:])
        for c in range(self.channels):
            planes[:, c] = heat * (label == c + 1)
        planes[:, -4:-2] = ((sides - _planes(self.mean, sides)) / _planes(self.std, sides) if self.mean else sides).masked_fill(
            ~centre, math.nan
        )
        planes[:, -2:] = (vector + 0.5).masked_fill(~centre, math.nan)
        return planes

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The heat as scores from 0 to 1, sides in pixels (NaN if no size was known in training), and offsets from 0 to 1.

        Args:
            logits: ``[B, K + 4, H, W]``.
            threshold: Not used.
        """
        planes = logits.sigmoid()
        planes[:, -4:-2] = self.in_pixels(logits[:, -4:-2])
        planes[:, -2:] = logits[:, -2:].clamp(0, 1)
        return planes

    def in_pixels(self, sides: Tensor) -> Tensor:
        """Sides ``[B, 2, H, W]`` as the loss sees them in pixels."""
        if not self.sized:
            return sides * math.nan
        return sides * _planes(self.std, sides) + _planes(self.mean, sides) if self.mean else sides

    def hard_labels(self, target: Any) -> Any:  # type: ignore[override]  # it has to know the classes
        """1 in the pixels that the centres of a class lie in, so that objects are counted and sampled as pixels are."""
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
        """Refuse a prediction and a target that do not fit each other.

        Args:
            logits: Floating point ``[B, K + 4, H, W]``, K classes.
            target: Likewise, as `standardise` makes it.
        """
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
        """Refuse heat outside 0 to 1; see `check_shapes`."""
        cls.check_shapes(logits, target)
        heat = target[:, :-4]
        wrong = (heat < 0) | (heat > 1)
        if bool(wrong.any()):
            raise InputError(f"the target holds the heat {float(heat[wrong][0]):g}, but heat lies from 0 to 1 (unknown: NaN)")


TASKS: dict[str, type[Task]] = {task.kind: task for task in (Binary, Multiclass, Multilabel, Regression, Centres)}
"""The kinds of tasks by name."""


def make_task(
    kind: str, classes: Sequence[str], soft: bool = False, units: Sequence[str] | None = None, target: str = ONE_TARGET
) -> Task:
    """A task by the name of its kind.

    Args:
        kind: binary, multiclass, multilabel, regression or centres.
        classes: The class names.
        soft: Whether targets hold class shares.
        units: The units of real values.
        target: The name of the layer that holds the target.

    Raises:
        InputError: If there is no such kind, or it has no units.

    Example:
        >>> make_task("multiclas", ["land", "water"])
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: there is no task multiclas (did you mean 'multiclass'?): take binary, ... or centres
    """
    if kind not in TASKS:
        *others, last = TASKS
        raise InputError(f"there is no task {kind}{nearest(str(kind), TASKS)}: take {', '.join(others)} or {last}")
    if kind == Regression.kind:
        if soft:
            raise InputError("masks of a regression hold values, no class shares: set dataset.fractions=null")
        return Regression(tuple(classes), target=target, units=tuple(units or ()))
    if kind == Centres.kind and soft:
        raise InputError("a vector file of objects holds no class shares: set dataset.fractions=null")
    if units:
        raise InputError(f"units={list(units)} are for task=regression; found {kind}: remove them")
    return TASKS[kind](tuple(classes), soft, target)


def _planes(numbers: Sequence[float], like: Tensor) -> Tensor:
    """A number for each plane of ``[..., V, H, W]``, in float32 or better, so that they broadcast."""
    wide = like.float() if like.element_size() < 4 else like
    return wide.new_tensor(numbers).view(-1, 1, 1)


def _at_centre(target: Any) -> Any:
    """Where the pixels of a target of objects ``[5, ...]`` hold a centre."""
    label, down, across = target[0], target[1], target[2]
    return (label > 0) & (down + 0.5 >= 0) & (down + 0.5 < 1) & (across + 0.5 >= 0) & (across + 0.5 < 1)


def _per_class(numbers: Tensor, logits: Tensor) -> Tensor:
    """Numbers per class so that they broadcast with logits."""
    return numbers.to(logits.device).view(-1, 1, 1)
