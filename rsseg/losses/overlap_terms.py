"""Loss terms of overlap: Dice, Jaccard, Tversky and Lovasz. See `terms` for what they share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsseg.contract import IGNORE, TaskKind
from rsseg.losses import functional as F
from rsseg.losses.arguments import class_choice, number, reduction
from rsseg.losses.terms import Term


class Dice(Term):
    """Soft Dice (Sudre et al. 2017): the mean over classes of ``1 - (2 TP + s) / (2 TP + FP + FN + s)``.

    A class without a pixel in an otherwise large batch has next to no gradient (about ``s / (FP + s)^2``): add a
    cross-entropy, or use ``over="image"``.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: `all`, `present` (those in the target) or class numbers: what is averaged over.
        over: `batch`: of the counts of the batch. `image`: the mean of the images' losses.
        class_weights: One number per class, for a weighted mean over classes.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> Dice("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 4 / 6
        tensor(0.3333)
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        task: TaskKind | str,
        smooth: float = 1.0,
        classes: F.Classes = "all",
        over: F.Over = "batch",
        class_weights: Sequence[float] | torch.Tensor | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(task, ignore_index)
        self.smooth, self.classes, self.over = number("smooth", smooth), class_choice(classes), reduction(over)
        self._hold("class_weights", class_weights)

    def formula(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the class."""
        options = (self.smooth / 2, self.classes, self.over, self.class_weights, self.ignore_index)
        return F.tversky(logits, target, self.task, 0.5, 0.5, *options)


class Jaccard(Term):
    """Soft Jaccard (Rahman & Wang 2016): the mean over classes of ``1 - (TP + s) / (TP + FP + FN + s)``.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: As for `Dice`.
        over: As for `Dice`.
        class_weights: As for `Dice`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> Jaccard("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 2 / 4
        tensor(0.5000)
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        task: TaskKind | str,
        smooth: float = 1.0,
        classes: F.Classes = "all",
        over: F.Over = "batch",
        class_weights: Sequence[float] | torch.Tensor | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(task, ignore_index)
        self.smooth, self.classes, self.over = number("smooth", smooth), class_choice(classes), reduction(over)
        self._hold("class_weights", class_weights)

    def formula(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the class."""
        options = (self.smooth, self.classes, self.over, self.class_weights, self.ignore_index)
        return F.tversky(logits, target, self.task, 1.0, 1.0, *options)


class Tversky(Term):
    """Tversky loss (Salehi et al. 2017): the mean over classes of ``1 - (TP + s) / (TP + alpha FP + beta FN + s)``.

    With alpha = beta = 1/2 and s it is `Dice` with 2s, with alpha = beta = 1 it is `Jaccard`.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: As for `Dice`.
        over: As for `Dice`.
        class_weights: As for `Dice`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> half = torch.zeros(1, 1, 2, 2)
        >>> Tversky("binary", alpha=0.3, beta=0.7, smooth=0)(half, torch.ones(1, 2, 2, dtype=torch.uint8))  # .7 / 1.7
        tensor(0.4118)
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        task: TaskKind | str,
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth: float = 1.0,
        classes: F.Classes = "all",
        over: F.Over = "batch",
        class_weights: Sequence[float] | torch.Tensor | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(task, ignore_index)
        self.alpha, self.beta = number("alpha", alpha), number("beta", beta)
        self.smooth, self.classes, self.over = number("smooth", smooth), class_choice(classes), reduction(over)
        self._hold("class_weights", class_weights)

    def formula(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the class."""
        options = (self.smooth, self.classes, self.over, self.class_weights, self.ignore_index)
        return F.tversky(logits, target, self.task, self.alpha, self.beta, *options)


class Lovasz(Term):
    """Lovasz-Softmax for multiclass, Lovasz hinge for binary and multilabel (Berman et al. 2018), exactly.

    With ``classes="present"`` a binary batch without a positive gives 0; ``classes="all"`` makes its largest error the
    loss.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        classes: As for `Dice`.
        over: As for `Dice`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> Lovasz("binary")(torch.tensor([[[[3.0, -3.0]]]]), torch.tensor([[[1, 1]]]))  # half of the error 1 + 3
        tensor(2.)
    """

    def __init__(
        self,
        task: TaskKind | str,
        classes: F.Classes = "present",
        over: F.Over = "batch",
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(task, ignore_index)
        self.classes, self.over = class_choice(classes), reduction(over)

    def formula(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return F.lovasz(logits, target, self.task, self.classes, self.over, self.ignore_index)
