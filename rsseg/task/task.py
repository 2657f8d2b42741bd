"""The base class of tasks, which define the content of a head's target and the interpretation of its logits.

Other modules use properties of a task, such as `real`, not its kind. This module does not import torch, so that configs are
checked without it: methods that take tensors only call methods of the tensors.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, ONE_TARGET, InputError, holds_reals

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A head's classes, the content of its target, and the interpretation of its logits.

    A target holds labels, or, if it is soft, the share of every class in every pixel: probabilities, fractions of an area, or
    the mean of several annotators. In this base class, every logit is an independent binary decision with target labels 0 and
    1; subclasses override what differs.
    """

    kind: ClassVar[str]  # the task's name in configs
    exclusive: ClassVar[bool] = False  # a pixel has exactly one class: softmax and argmax; else sigmoid and a threshold
    separate: ClassVar[bool] = False  # a target has a plane for each logit, else one for all of them
    real: ClassVar[bool] = False  # a target holds real values instead of labels
    directed: ClassVar[bool] = False  # values include lengths and directions, which turn and scale with the image
    subject: ClassVar[str] = "foreground"  # the subject of masks: foreground, land cover, detection or regression
    untuned: ClassVar[str] = "threshold 0.5"  # the decision rule before tuning, in words
    tuned: ClassVar[str] = "threshold"  # the name of the number that tuning changes for a class
    all_tuned: ClassVar[str] = "thresholds"  # the name of those of all classes
    scores: ClassVar[tuple[str, ...]] = (
        "iou", "dice", "precision", "recall", "f0.5", "f2", "balanced_accuracy", "kappa", "accuracy", "scene_iou", "scene_dice",
    )  # fmt: skip
    """The scores that a validation logs."""
    class_scores: ClassVar[tuple[str, ...]] = ("iou", "dice")  # the scores that are logged for each class
    score: ClassVar[str] = "iou"  # the logged name of the score that chooses the best checkpoint
    score_name: ClassVar[str] = "IoU"  # the label of `score` in tables and messages
    higher_is_better: ClassVar[bool] = True  # whether a higher `score` is better
    counted: ClassVar[str] = "confusion"  # the counts per scene, a key of `rsseg.metrics.counters.SCENE_SUMS`
    score_of: ClassVar[str] = "class"  # the kind of thing that has its own score: class or value
    unit: ClassVar[str] = "pixels"  # the unit that is counted, for messages
    error_names: ClassVar[tuple[str, ...]] = ("right", "wrong")  # the names of the values of `errors`
    losses: ClassVar[str] = "ce_dice"  # configs of losses that fit, for messages

    classes: tuple[str, ...]  # their names, one for each logit
    soft: bool = False  # targets hold class shares instead of labels
    target: str = ONE_TARGET  # the name of the layer that holds the target

    @property
    def channels(self) -> int:
        """The number of logits per pixel."""
        return len(self.classes)

    @property
    def outputs(self) -> int:
        """The number of output channels of the head: a logit for each class, and further outputs of some tasks."""
        return self.channels

    @property
    def first_bias(self) -> tuple[float, ...]:
        """The number that is added to the bias of each of `outputs` before training."""
        return (0.0,) * self.outputs

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names of the real values of targets, see `values`; empty for labels."""
        return ()

    def values(self, target: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """The known real values of a target ``[*planes, H, W]``, one array for each of `value_names`."""
        return []

    @property
    def planes(self) -> tuple[int, ...]:
        """The leading shape of one image's target, before height and width: ``(channels,)`` or ``()``."""
        return (self.channels,) if self.soft else self.label_planes

    @property
    def label_planes(self) -> tuple[int, ...]:
        """The leading shape of one image's labels, predicted or from `hard_labels`, before height and width."""
        return (self.channels,) if self.separate else ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of a target: uint8 for labels, float32 for shares and values."""
        return np.dtype(np.float32 if self.soft or self.real else np.uint8)

    @property
    def unknown(self) -> float:
        """The value for "not known" in a target: `IGNORE` for labels, NaN for shares and values."""
        return math.nan if self.dtype.kind == "f" else IGNORE

    def unknown_target(self, size: Sequence[int]) -> NDArray[np.generic]:
        """A target of `size` (height, width) that is unknown everywhere."""
        return np.full((*self.planes, *size), self.unknown, dtype=self.dtype)

    @classmethod
    def misfit(cls, channels: int) -> str:
        """Why a head of this kind can't have this number of classes; empty if it can."""
        return "" if channels else f"a {cls.kind} task needs a class; found none"

    @classmethod
    def check_shapes(cls, logits: Tensor, target: Tensor) -> None:
        """Refuse logits and a target with shapes or dtypes that do not fit; the error names the likely cause and a remedy.

        Args:
            logits: Floating point, ``[B, C, H, W]`` (C = 1 for binary).
            target: Labels, integers ``[B, *planes, H, W]``; or shares, floating point ``[B, C, H, W]``.
        """
        found, shape = tuple(target.shape), tuple(logits.shape)
        if not logits.is_floating_point() or len(shape) != 4:
            raise InputError(f"the loss needs floating-point logits [B, C, H, W]; found {logits.dtype} {list(shape)}")
        if misfit := cls.misfit(shape[1]):
            raise InputError(f"logits {list(shape)}: {misfit}")
        of_labels = shape if cls.separate else (shape[0], *shape[2:])
        shares = target.is_floating_point()
        expected = shape if shares else of_labels
        if target.is_complex() or (shares and found == of_labels != shape):
            raise InputError(
                f"the target holds class numbers and needs an integer dtype; found {target.dtype}: use .long(). "
                f"Shares of the classes have the logits' shape {list(shape)}"
            )
        if found != expected:
            kind = f"{cls.kind} target" + (" of class shares" if shares else "")
            raise InputError(
                f"a {kind} for logits {list(shape)} has the shape {list(expected)}; "
                f"found {list(found)}{_likely(found, expected, shape)}"
            )

    @classmethod
    def check_values(cls, logits: Tensor, target: Tensor, ignore_index: int = IGNORE) -> None:
        """Check shapes, and refuse labels outside the classes and shares outside 0 to 1. It waits for the device."""
        cls.check_shapes(logits, target)
        if target.is_floating_point():
            cls._check_shares(target)
            return
        labels = logits.shape[1] if cls.exclusive else 2
        values = target.long()
        ignored = values == ignore_index
        wrong = ~ignored & ((values < 0) | (values >= labels))
        if bool(wrong.any()):
            shown = ", ".join(str(value) for value in sorted(set(values[wrong].tolist()))[:5])
            raise InputError(f"the target holds {shown}, but {cls._known_labels(logits.shape[1], ignore_index)}")
        if not cls.exclusive and bool(ignored.any() & ~(values == 1).any() & ~ignored.all()):
            line = "the target holds 0 and %d alone, and %d is ignored: if it means 1 there, pass (target > 0)"
            log.warning(line, ignore_index, ignore_index)

    @classmethod
    def _check_shares(cls, target: Tensor) -> None:
        """Refuse shares outside 0 to 1 and, for exclusive classes, shares of a pixel that do not sum to 1."""
        known = (target == target).all(dim=1, keepdim=True)
        wrong = ((target < 0) | (target > 1)) & known
        if bool(wrong.any()):
            raise InputError(
                f"the target holds the share {float(target[wrong][0]):g}, but class shares lie from 0 to 1 (ignored: NaN): "
                "divide by the value of a whole pixel"
            )
        total = target.sum(dim=1, keepdim=True)[known]
        off = (total - 1).abs() > 0.01
        if cls.exclusive and bool(off.any()):
            raise InputError(
                f"the class shares of a pixel sum to {float(total[off][0]):.4g}, but those of exclusive classes sum to 1: "
                "divide by their sum, add the missing class, or take task=multilabel"
            )

    @classmethod
    def _known_labels(cls, channels: int, ignore_index: int) -> str:
        """The known labels, and the remedy for others, in words."""
        return (
            f"{cls.kind} targets hold 0 and 1 in each of {channels} plane(s) (ignored: {ignore_index}): "
            "use (target > 0) for masks stored as 0 and 255, or task=multiclass for class numbers"
        )

    @classmethod
    def hard_labels(cls, target: Any) -> Any:
        """The labels of a target, a tensor or array: for shares the class with the largest, or those above a half.

        Labels are returned unchanged. Known real values get the label 1, so that they are counted and sampled like a class.

        Example:
            >>> from rsseg.task import Multiclass
            >>> Multiclass.hard_labels(np.array([[[0.3, np.nan]], [[0.7, np.nan]]]))
            array([[  1, 255]])
        """
        if not holds_reals(target):
            return target
        labels, unknown = cls._largest_share(target)
        labels[unknown] = IGNORE
        return labels

    @classmethod
    def _largest_share(cls, target: Any) -> tuple[Any, Any]:
        """Labels as for `hard_labels`, and bool, true where they are unknown."""
        positive, unknown = (target > 0.5) * 1, target != target  # whole numbers in either library
        return (positive, unknown) if cls.separate else (positive[..., 0, :, :], unknown[..., 0, :, :])

    @property
    def labels(self) -> int:
        """The number of values that a mask may hold: 0, 1, ..."""
        return 2

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of a pixel's labels; the classes are the last of them. A palette has a colour for each."""
        return self.classes

    @property
    def drawn_names(self) -> tuple[str, ...]:
        """The names of the values of a drawn mask (see `flatten`)."""
        return self.label_names

    @property
    def matrices(self) -> tuple[tuple[str, ...], ...]:
        """The confusion matrices to count, each as the names of its rows."""
        return tuple((f"not {name}", name) for name in self.classes)

    def faults(self, mask_values: Sequence[Any] | None = None, palette: Sequence[str] | None = None) -> list[str]:
        """The faults of the classes, mask values and colours, one sentence each."""
        shown = f"dataset.classes={list(self.classes)}"
        if not self.classes:
            return ["dataset.classes is empty: name at least one class"]
        faults = [f"{shown} names a class twice"] if len(set(self.classes)) < self.channels else []
        if misfit := self.misfit(self.channels):
            return [*faults, f"{shown}: {misfit}"]
        if mask_values is not None and len(mask_values) != self.labels:
            faults.append(
                f"dataset.mask_values lists {len(mask_values)} values, but dataset.classes names {self.labels} labels"
            )
        if self.labels > IGNORE:
            faults.append(f"{self.labels} classes: masks are 8-bit and {IGNORE} means ignored, so {IGNORE} is the most")
        if palette is not None and len(palette) != len(self.label_names):
            needed = len(self.label_names)
            faults.append(f"dataset.palette has {len(palette)} colours, but {needed} are needed; null chooses them")
        return faults

    def moved(self, target: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
        """Transform lengths and directions in a target whose pixels an augmentation has turned or scaled: see `directed`.

        Args:
            target: The target with its pixels in their new places, ``[B, *planes, H, W]``.
            matrix: ``[B, 2, 2]``, the linear map from a vector (down, across) in the old window to that in the new one.
            shift: ``[B, 2, H, W]``, the offset (down, across) in new pixels from each new pixel's centre to that of its source
                pixel; None: 0.
        """
        return target

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """The task with the mean and standard deviation of real values in the training split; unchanged for labels."""
        return self

    def standardise(self, target: Tensor) -> Tensor:
        """The target of the loss, computed after augmentation: real values standardised, labels unchanged."""
        return target

    def quality(self, scores: Mapping[str, float]) -> float:
        """The score that chooses checkpoints, from scores by name; errors are negated, so that higher is better."""
        return scores[self.score] if self.higher_is_better else -scores[self.score]

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The predicted labels (regression: the values in the target's unit).

        Args:
            logits: ``[B, K, H, W]``.
            threshold: ``[K]`` or ``[B, K]``, the logit above which a pixel is positive; None: 0, a probability of 0.5. For
                exclusive classes, the bias that is added to each class's logit before the argmax.

        Returns:
            int64 ``[B, *planes, H, W]``.
        """
        positive = (logits > (0 if threshold is None else broadcast_classes(threshold, logits))).long()
        return positive if self.separate else positive[:, 0]

    def activate(self, logits: Tensor) -> Tensor:
        """The probability of each class, from logits ``[..., K, H, W]``; for real values the result of `predict`."""
        return self.predict(logits) if self.real else logits.sigmoid()

    def decide(self, activated: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The labels, as from `predict`, for probabilities from `activate`, or for the mean of those of several networks."""
        if self.real:
            return activated
        positive = (activated > (0.5 if threshold is None else broadcast_classes(threshold.sigmoid(), activated))).long()
        return positive if self.separate else positive.squeeze(-3)

    def turned(self, activated: Tensor, transposed: bool, flipped: tuple[bool, bool]) -> Tensor:
        """Adapt probabilities or values whose pixels have already been transposed, then flipped: see `Centres`.

        `flipped` tells whether the order of the rows, and that of the columns, is reversed.
        """
        return activated

    def by_class(self, counts: Any) -> Any:
        """Select the counts of each class, ``[..., classes]``, from counts ``[..., P, K]`` per label of each of `matrices`."""
        return counts[..., 1]

    def label_mask(self, mask: NDArray[np.generic], label: int) -> NDArray[np.bool_]:
        """Bool ``[H, W]``, true for pixels of a target ``[*planes, H, W]`` with label `label_names[label]`."""
        labels = self.hard_labels(mask)
        return labels[label] == 1 if self.separate else labels == label

    def class_masks(self, mask: NDArray[np.generic]) -> list[NDArray[np.bool_]]:
        """Bool ``[H, W]`` for each class, true for its pixels in a target ``[*planes, H, W]``."""
        mask, names = self.hard_labels(mask), len(self.label_names)
        return [self.label_mask(mask, label) for label in range(names - self.channels, names)]

    def without_label(self, mask: NDArray[np.generic], name: str) -> NDArray[np.generic]:
        """A target ``[*planes, H, W]`` with a class made unknown: its plane, or for exclusive classes its pixels."""
        place = self.classes.index(name)
        if self.separate:
            gone = np.arange(self.channels)[:, None, None] == place
        else:
            gone = self.class_masks(mask)[place] if self.exclusive else np.ones(mask.shape[-2:], np.bool_)
        return np.where(gone, np.array(self.unknown, self.dtype), mask)

    def label_counts(
        self, positives: NDArray[np.int64], valid: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels and labelled pixels of each of `label_names`, from those of each class ``[..., K]``."""
        return positives, valid

    def flatten(self, mask: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Labels ``[*planes, H, W]`` as one plane ``[H, W]`` to draw, uint8."""
        return mask.astype(np.uint8)

    def shades(self, colours: Sequence[str]) -> list[str]:
        """The colours of the values of a drawn mask, from those of `label_names`."""
        return list(colours)

    def errors(self, mask: NDArray[np.generic], prediction: NDArray[np.generic]) -> NDArray[np.uint8]:
        """The errors of a prediction ``[*planes, H, W]``: uint8 ``[H, W]``, indices in `error_names` or `IGNORE`."""
        labelled = mask != IGNORE
        wrong = (mask != prediction) & labelled
        if self.separate:
            wrong, labelled = wrong.any(axis=0), labelled.any(axis=0)
        return np.where(labelled, wrong, IGNORE).astype(np.uint8)


def _likely(found: tuple[int, ...], expected: tuple[int, ...], logits: tuple[int, ...]) -> str:
    """The likely reason for a target's wrong shape, and a remedy."""
    hints = {
        (*expected, logits[1]): "it looks one-hot with the classes last; give class numbers, target.argmax(-1)",
        (*expected[:-2], *expected[:-3:-1]): "height and width are swapped, use target.transpose(-1, -2)",
        logits: "it looks one-hot; give class numbers, target.argmax(1)",
        (expected[0], *expected[2:]): "give one plane of 0 and 1 per label (task=multiclass takes class numbers)",
        (expected[0], 1, *expected[1:]): "use target.squeeze(1)",
    }
    return f": {hints.get(found, 'check that the mask was cut and batched like its image')}"


def per_plane(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Numbers of V planes as ``[V, 1, 1]``, which broadcasts with ``[..., V, H, W]``, in float32 or better."""
    wide = like.float() if like.element_size() < 4 else like
    return wide.new_tensor(numbers).view(-1, 1, 1)


def broadcast_classes(numbers: Tensor, logits: Tensor) -> Tensor:
    """Reshape numbers per class, ``[K]`` or ``[B, K]``, to broadcast with logits ``[B, K, H, W]``."""
    return numbers.to(logits.device)[..., None, None]
