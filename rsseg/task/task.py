"""What a head predicts, and how it is read: what differs between the kinds of tasks, which are classes of their own.

Others ask whether a target is real, and what else a task says of itself, not for its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE
from rsseg.task.target import Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task(Target):
    """A head's classes, what its target holds (see `Target`), and how its logits are read.

    As it stands every logit is a yes or no of its own, and a target holds 0 and 1; subclasses change what is different.
    """

    subject: ClassVar[str] = "foreground"  # what masks are about; or land cover, detection of centres, regression
    untuned: ClassVar[str] = "threshold 0.5"  # how labels are found as long as nothing is tuned
    tuned: ClassVar[str] = "threshold"  # what tuning changes, one class at a time
    all_tuned: ClassVar[str] = "thresholds"  # the same for all classes
    scores: ClassVar[tuple[str, ...]] = (
        "iou", "dice", "precision", "recall", "f0.5", "f2", "balanced_accuracy", "kappa", "accuracy", "scene_iou", "scene_dice",
    )  # fmt: skip
    """What is logged of a validation."""
    class_scores: ClassVar[tuple[str, ...]] = ("iou", "dice")  # what is logged of each class
    score: ClassVar[str] = "iou"  # the score that chooses the best checkpoint, as it is logged
    score_name: ClassVar[str] = "IoU"  # what people call it
    higher_is_better: ClassVar[bool] = True  # whether it is to be high
    counted: ClassVar[str] = "confusion"  # what is counted of each scene, see `rsseg.metrics.counters.SCENE_SUMS`
    score_of: ClassVar[str] = "class"  # what has a score of its own: a class, or a value
    unit: ClassVar[str] = "pixels"  # what scores and shares are counted in, for people
    error_names: ClassVar[tuple[str, ...]] = ("right", "wrong")  # what the values of `errors` stand for

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
        """What is wrong with the classes, and with what mask files hold and colours for each label; one sentence each."""
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
        """What lengths and directions in a target become where an augmentation has turned or scaled its pixels: see `directed`.

        Args:
            target: The target with its pixels in their new places, ``[B, *planes, H, W]``.
            matrix: ``[B, 2, 2]``, from a vector (down, across) of the old window to that of the new one.
            shift: ``[B, 2, H, W]``, how far down and across of a new pixel's centre that of the pixel lies which it was taken
                from; None: nowhere.
        """
        return target

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """The task with the mean and deviation of real values in the training split; itself where targets hold labels."""
        return self

    def standardise(self, target: Tensor) -> Tensor:
        """A target as the loss sees it, after augmentation: real values about 0, deviating by about 1; labels as they are."""
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
        positive = (logits > (0 if threshold is None else per_class(threshold, logits))).long()
        return positive if self.separate else positive[:, 0]

    def activate(self, logits: Tensor) -> Tensor:
        """What logits ``[..., K, H, W]`` stand for: the probability of each class; of other tasks what `predict` gives."""
        return self.predict(logits) if self.real else logits.sigmoid()

    def decide(self, activated: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The labels, as of `predict`, that `activate`'s probabilities stand for, or the mean of several networks'."""
        if self.real:
            return activated
        positive = (activated > (0.5 if threshold is None else per_class(threshold.sigmoid(), activated))).long()
        return positive if self.separate else positive.squeeze(-3)

    def turned(self, activated: Tensor, transposed: bool, flipped: tuple[bool, bool]) -> Tensor:
        """What probabilities or values become where their pixels have been transposed, then flipped: see `Centres`.

        `flipped` says whether the order of the rows, and of the columns, is reversed. Pixels are in their new places.
        """
        return activated

    def by_class(self, counts: Any) -> Any:
        """What belongs to each class, ``[..., classes]``, of numbers ``[..., P, K]`` for each label of each of `matrices`."""
        return counts[..., 1]

    def label_mask(self, mask: NDArray[np.generic], label: int) -> NDArray[np.bool_]:
        """Where a target ``[*planes, H, W]`` has the label of this place in `label_names`: bool ``[H, W]``."""
        labels = self.hard_labels(mask)
        return labels[label] == 1 if self.separate else labels == label

    def class_masks(self, mask: NDArray[np.generic]) -> list[NDArray[np.bool_]]:
        """Where a target ``[*planes, H, W]`` has each class: bool ``[H, W]`` each."""
        mask, names = self.hard_labels(mask), len(self.label_names)
        return [self.label_mask(mask, label) for label in range(names - self.channels, names)]

    def without_label(self, mask: NDArray[np.generic], name: str) -> NDArray[np.generic]:
        """A target ``[*planes, H, W]`` that says nothing of a class: of exclusive ones the pixels labelled so are unknown."""
        place = self.classes.index(name)
        if self.separate:
            gone = np.arange(self.channels)[:, None, None] == place
        else:
            gone = self.class_masks(mask)[place] if self.exclusive else np.ones(mask.shape[-2:], np.bool_)
        return np.where(gone, np.array(self.unknown, self.dtype), mask)

    def label_counts(
        self, positives: NDArray[np.int64], valid: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels of each of `label_names`, and labelled pixels beside them, from those of each class ``[..., K]``."""
        return positives, valid

    def flatten(self, mask: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Labels ``[*planes, H, W]`` as one plane to draw."""
        return mask.astype(np.uint8)

    def shades(self, colours: Sequence[str]) -> list[str]:
        """The colours of the values of a drawn mask, from those of `label_names`."""
        return list(colours)

    def errors(self, mask: NDArray[np.generic], prediction: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Where a prediction ``[*planes, H, W]`` is wrong, as places in `error_names`; `IGNORE` where nothing is labelled."""
        labelled = mask != IGNORE
        wrong = (mask != prediction) & labelled
        if self.separate:
            wrong, labelled = wrong.any(axis=0), labelled.any(axis=0)
        return np.where(labelled, wrong, IGNORE).astype(np.uint8)


def per_plane(numbers: Sequence[float], like: Tensor) -> Tensor:
    """A number for each plane of ``[..., V, H, W]``, in float32 or better, so that they broadcast."""
    wide = like.float() if like.element_size() < 4 else like
    return wide.new_tensor(numbers).view(-1, 1, 1)


def per_class(numbers: Tensor, logits: Tensor) -> Tensor:
    """Numbers per class so that they broadcast with logits."""
    return numbers.to(logits.device).view(-1, 1, 1)
