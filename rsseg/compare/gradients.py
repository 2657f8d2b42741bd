"""Which term of a composition leads: its gradient says so, not its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rsseg.contract import InputError


class ComponentShare(NamedTuple):
    """Who pulls how hard, and in which direction.

    Attributes:
        norm: float64 ``[terms]``, ``||w_k g_k||``.
        share: float64 ``[terms]``, each norm divided by their sum; 0 where all gradients vanish.
        cosine: float64 ``[terms, terms]``; NaN where a gradient vanishes.
    """

    norm: Tensor
    share: Tensor
    cosine: Tensor


def term_gradients(weighted: Mapping[str, Tensor], at: Tensor | Sequence[Tensor]) -> Tensor:
    """Every weighted term's gradient at the same tensors.

    Args:
        weighted: Weighted values by name, as `rsseg.losses.Composite` returns them.
        at: The logits, or the parameters of the last layer that all terms share. Their graph is kept.

    Returns:
        ``[terms, numbers]``; a term that does not depend on `at` has gradient 0.

    Example:
        >>> z = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> term_gradients({"a": (z**2).sum(), "b": 3 * z[0]}, z)
        tensor([[2., 4.],
                [3., 0.]])
    """
    places = [at] if isinstance(at, Tensor) else list(at)
    rows = []
    for value in weighted.values():
        found = torch.autograd.grad(value, places, retain_graph=True, allow_unused=True) if value.requires_grad else []
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(places, found, strict=True)] if found else []
        rows.append(torch.cat([part.flatten() for part in parts or [torch.zeros_like(p) for p in places]]))
    return torch.stack(rows)


def component_share(gradients: Tensor) -> ComponentShare:
    """Norms, shares and pairwise cosines of weighted gradients ``[terms, numbers]``.

    Example:
        >>> found = component_share(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> found.share.tolist(), found.cosine[0, 1].item()
        ([0.75, 0.25], 0.0)
    """
    g = gradients.double()
    norm = g.norm(dim=1)
    total = norm.sum()
    share = norm / torch.where(total > 0, total, torch.ones_like(total))
    unit = g / torch.where(norm > 0, norm, torch.full_like(norm, torch.nan)).unsqueeze(1)
    return ComponentShare(norm, share, unit @ unit.T)


def one_step_gain(
    parameters: Sequence[Tensor], gradient: Sequence[Tensor], metric: Callable[[], float], step: float = 1e-2
) -> float:
    """How much a hard metric gains per unit step down a gradient.

    Args:
        parameters: Moved by `step` against the gradient's direction, and put back exactly, even if the metric fails.
        gradient: One tensor per parameter.
        metric: Of held-out windows, at the parameters as they are when it is called.
        step: The length of the step.

    Returns:
        ``(M(theta - step g / ||g||) - M(theta)) / step``; 0 for a gradient that vanishes.

    Raises:
        InputError: If the step is not above 0.

    Example:
        >>> theta = torch.tensor([2.0])
        >>> one_step_gain([theta], [torch.tensor([5.0])], lambda: -float(theta), step=0.5)
        1.0
    """
    if not step > 0:
        raise InputError(f"the step has to be above 0; found {step}")
    norm = float(torch.stack([g.double().square().sum() for g in gradient]).sum().sqrt())
    before = metric()
    if norm == 0:
        return 0.0
    kept = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, g in zip(parameters, gradient, strict=True):
                p.sub_(g * (step / norm))
        return (metric() - before) / step
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)
