"""What a head's target holds for a pixel, and the check of it.

Torch is not imported, so that a config can be checked before it is: methods that take tensors call the tensors' own methods.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, ONE_TARGET, InputError, holds_reals

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """Labels, or, if it is soft, the share of every class in every pixel.

    Shares are probabilities, fractions of an area, or the mean of several annotators. As it stands a target holds 0 and 1 for
    each logit; subclasses change what is different.
    """

    kind: ClassVar[str]  # the task's name in configs
    exclusive: ClassVar[bool] = False  # a pixel belongs to one class alone: softmax and argmax; else sigmoid and a threshold
    separate: ClassVar[bool] = False  # a target has a plane for each logit, else one for all of them
    real: ClassVar[bool] = False  # a target holds real values instead of labels
    directed: ClassVar[bool] = False  # these are lengths and directions too, which turn and grow with the image

    classes: tuple[str, ...]  # their names, one for each logit
    soft: bool = False  # targets hold class shares instead of labels
    target: str = ONE_TARGET  # the name of the layer that holds the target

    @property
    def channels(self) -> int:
        """The number of logits per pixel."""
        return len(self.classes)

    @property
    def outputs(self) -> int:
        """The number of planes that a network gives the head: a logit for each class, and what else a task predicts."""
        return self.channels

    @property
    def first_bias(self) -> tuple[float, ...]:
        """What is added to the bias of each of `outputs` before training."""
        return (0.0,) * self.outputs

    @property
    def value_names(self) -> tuple[str, ...]:
        """What is known of the real values of targets, see `values`; nothing of labels."""
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
        """The same of one image's labels, predicted ones or those that a soft target stands for."""
        return (self.channels,) if self.separate else ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of a target: uint8 for labels, float32 for shares and values."""
        return np.dtype(np.float32 if self.soft or self.real else np.uint8)

    @property
    def unknown(self) -> float:
        """What a target holds where nothing is known: `IGNORE` for labels, NaN for shares and values."""
        return math.nan if self.dtype.kind == "f" else IGNORE

    def unknown_target(self, size: Sequence[int]) -> NDArray[np.generic]:
        """A target of this height and width of which nothing is known."""
        return np.full((*self.planes, *size), self.unknown, dtype=self.dtype)

    @classmethod
    def misfit(cls, channels: int) -> str:
        """Why a head of this kind can't have so many classes; empty where it can."""
        return "" if channels else f"a {cls.kind} task needs a class; found none"

    @classmethod
    def check_shapes(cls, logits: Tensor, target: Tensor) -> None:
        """Refuse logits and a target whose shapes or dtypes do not fit each other, with the likely reason and the way out.

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
        """Refuse what `check_shapes` does, labels outside the classes and shares outside 0 to 1. It waits for the device."""
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
                "divide by what stands for a whole pixel"
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
        """What labels there are, and what to do about others."""
        return (
            f"{cls.kind} targets hold 0 and 1 in each of {channels} plane(s) (ignored: {ignore_index}): "
            "use (target > 0) for masks stored as 0 and 255, or task=multiclass for class numbers"
        )

    @classmethod
    def hard_labels(cls, target: Any) -> Any:
        """The labels that a tensor or array of a target stands for: of shares the largest one, or what has more than a half.

        Labels are themselves. Real values are labelled 1 where they are known: they are counted and sampled as a class is.

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
        """Labels, and where they are unknown."""
        positive, unknown = (target > 0.5) * 1, target != target  # whole numbers in either library
        return (positive, unknown) if cls.separate else (positive[..., 0, :, :], unknown[..., 0, :, :])


def _likely(found: tuple[int, ...], expected: tuple[int, ...], logits: tuple[int, ...]) -> str:
    """The likely reason for a target's wrong shape, and the way out."""
    hints = {
        (*expected, logits[1]): "it looks one-hot with the classes last; give class numbers, target.argmax(-1)",
        (*expected[:-2], *expected[:-3:-1]): "height and width are swapped, use target.transpose(-1, -2)",
        logits: "it looks one-hot; give class numbers, target.argmax(1)",
        (expected[0], *expected[2:]): "give one plane of 0 and 1 per label (task=multiclass takes class numbers)",
        (expected[0], 1, *expected[1:]): "use target.squeeze(1)",
    }
    return f": {hints.get(found, 'check that the mask was cut and batched like its image')}"
