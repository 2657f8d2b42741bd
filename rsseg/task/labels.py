"""The tasks whose targets hold labels, or class shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE
from rsseg.task.task import Task, broadcast_classes

if TYPE_CHECKING:
    from torch import Tensor


class Binary(Task):
    """One class against all else: one logit a pixel; labels 0 and 1."""

    kind = "binary"
    error_names: ClassVar[tuple[str, ...]] = ("right", "false alarm", "missed")

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("background", *self.classes)

    @classmethod
    def misfit(cls, channels: int) -> str:
        wrong = f"a binary task has one class, the positive one; found {channels}: take task=multiclass for exclusive classes, "
        return f"{wrong}task=multilabel for classes that may overlap" if channels != 1 else ""

    def label_counts(
        self, positives: NDArray[np.int64], valid: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.concatenate([valid - positives, positives], axis=-1), np.concatenate([valid, valid], axis=-1)

    def errors(self, mask: NDArray[np.generic], prediction: NDArray[np.generic]) -> NDArray[np.uint8]:
        codes = super().errors(mask, prediction)
        return np.where((codes == 1) & (mask == 1), np.uint8(2), codes)


class Multiclass(Task):
    """Exclusive classes, one for each pixel: a logit per class; labels 0 to C - 1."""

    kind = "multiclass"
    exclusive = True
    subject = "land cover"
    untuned = "argmax"
    tuned = "bias"
    all_tuned = "biases per class"

    @property
    def labels(self) -> int:
        return self.channels

    @property
    def matrices(self) -> tuple[tuple[str, ...], ...]:
        return (self.classes,)

    @classmethod
    def misfit(cls, channels: int) -> str:
        return "" if channels > 1 else f"a multiclass task has two classes or more; found {channels}: take task=binary"

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        biased = logits if threshold is None else logits + broadcast_classes(threshold, logits)
        return biased.max(dim=1).indices  # ten times faster than argmax(1) on a CPU

    def activate(self, logits: Tensor) -> Tensor:
        return logits.softmax(-3)

    def decide(self, activated: Tensor, threshold: Tensor | None = None) -> Tensor:
        """See `Task`; argmax of the probabilities times exp(bias), which equals argmax of logits plus biases."""
        biased = activated if threshold is None else activated * broadcast_classes(threshold.exp(), activated)
        return biased.max(dim=-3).indices

    @classmethod
    def _known_labels(cls, channels: int, ignore_index: int) -> str:
        return (
            f"{channels} classes are numbered 0..{channels - 1} (ignored: {ignore_index}): "
            f"map other labels to a class or to {ignore_index}, or give the head more classes"
        )

    @classmethod
    def _largest_share(cls, target: Any) -> tuple[Any, Any]:
        return target.argmax(-3), (target != target).any(-3)

    def by_class(self, counts: Any) -> Any:
        return counts[..., 0, :]


class Multilabel(Task):
    """Labels that may overlap: an independent logit, and a plane of 0 and 1, for each label."""

    kind = "multilabel"
    separate = True

    @property
    def drawn_names(self) -> tuple[str, ...]:
        return ("none of them", *self.classes)

    def flatten(self, mask: NDArray[np.generic]) -> NDArray[np.uint8]:
        """The last label that is set, plus 1; `IGNORE` where all are ignored."""
        plane = np.zeros(mask.shape[1:], dtype=np.uint8)
        for i, label in enumerate(mask):
            plane = np.where(label == 1, np.uint8(i + 1), plane)
        return np.where((mask == IGNORE).all(axis=0), np.uint8(IGNORE), plane)

    def shades(self, colours: Sequence[str]) -> list[str]:
        return ["#000000", *colours]
