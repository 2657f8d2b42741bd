"""A weighted sum of terms that reports every part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsseg.contract import InputError
from rsseg.losses.arguments import number


class CompositeValue(NamedTuple):
    """What a composite returns: the loss and its parts, scalars all.

    Attributes:
        total: The sum of the weighted terms, to be trained on.
        raw: Every term's own value by name, differentiable unless its weight is 0.
        weighted: Every term's value times its weight.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]


class Composite(nn.Module):
    """``sum_k weight_k term_k(logits, target)``.

    A term of weight 0 is evaluated without a gradient, to be logged beside the others.

    Args:
        terms: By name, the weight and the module, called as ``module(logits, target)``.

    Raises:
        InputError: Without terms, for weights that are not finite numbers of 0 or more, and if all of them are 0.

    Example:
        >>> from rsseg.losses import CrossEntropy, Dice
        >>> loss = Composite({"ce": (1.0, CrossEntropy("binary")), "dice": (0.5, Dice("binary"))})
        >>> value = loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        >>> {name: round(float(part), 3) for name, part in value.weighted.items()}
        {'ce': 0.693, 'dice': 0.143}
    """

    def __init__(self, terms: Mapping[str, tuple[float, nn.Module]]) -> None:
        super().__init__()
        if not terms:
            raise InputError("the loss has no terms: give at least one, such as loss=ce_dice")
        self.weights = {name: number(f"the weight of the term '{name}'", weight) for name, (weight, _) in terms.items()}
        if not any(self.weights.values()):
            raise InputError(f"all weights are 0 ({', '.join(terms)}), so nothing would be learnt: give one a weight")
        for name, (_, term) in terms.items():
            if not isinstance(term, nn.Module):
                raise InputError(f"the term '{name}' has to be an nn.Module; found {type(term).__name__}")
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})

    def forward(self, logits: Tensor, target: Tensor) -> CompositeValue:
        """The loss of logits and target, and its parts."""
        raw: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            weight = self.weights[name]
            if weight > 0:
                raw[name] = term(logits, target)
                weighted[name] = weight * raw[name]
            else:
                with torch.no_grad():
                    raw[name] = term(logits, target)
                weighted[name] = torch.zeros_like(raw[name])
        total = torch.stack(list(weighted.values())).sum()
        return CompositeValue(total, raw, weighted)
