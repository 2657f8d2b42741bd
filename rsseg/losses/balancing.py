"""Loss balancing: methods that combine the losses of heads, or of their terms, with learnt factors.

A part is a head's loss, or a single term of it. The loss is ``sum_k w_k f_k L_k``: L_k is a part's own value, w_k the weight
that the config gives it at this step, and f_k the factor that a method finds. A weight of 2 thus asks for twice as much of the
quantity that the method equalises.

A method's state is saved in the checkpoint; factors are the same in all processes; nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from rsseg.collective import global_sum, world_size
from rsseg.contract import check_number, check_whole_number
from rsseg.losses.checks import positive, positive_share
from rsseg.losses.composite import CompositeValue

FINE = 2.0**12
"""The loss scale while gradients are measured, which would underflow in float16 otherwise."""


def term_gradients(terms: Mapping[str, Tensor], at: Tensor) -> Tensor:
    """The gradient of every term with respect to logits or a parameter, ``[terms, numel]``; 0 if a term does not depend on it.

    Terms are scalars by name, such as the weighted values that `rsseg.losses.Composite` returns. Their graph is retained.

    Example:
        >>> z = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> term_gradients({"a": (z**2).sum(), "b": 3 * z[0], "c": torch.tensor(1.0)}, z)
        tensor([[2., 4.],
                [3., 0.],
                [0., 0.]])
    """
    rows = []
    for term in terms.values():
        found = torch.autograd.grad(term, [at], retain_graph=True, allow_unused=True)[0] if term.requires_grad else None
        rows.append(torch.zeros_like(at).flatten() if found is None else found.flatten())
    return torch.stack(rows)


def gradient_norms(losses: Mapping[str, Tensor], shared: Tensor | None) -> Tensor:
    """The norm of every loss's gradient with respect to a parameter, ``[losses]``; gradients are averaged over processes."""
    assert shared is not None
    with torch.enable_grad():
        large = {name: FINE * loss for name, loss in losses.items()}
    return mean_over_ranks(term_gradients(large, shared)).norm(dim=1) / FINE


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all processes."""
    return global_sum(values) / world_size()


class Balancing(nn.Module):
    """Base class of balancing methods, which combine the named parts into one loss; see `update` and `factors`.

    Attributes:
        at_shared_layer: Whether the method needs gradients at the last layer that all parts depend on.
        takes_signed: Whether a part may be negative.
        weights: The factor times the weight of each part in the last total, for the log.
    """

    at_shared_layer = False
    takes_signed = True

    def __init__(self, parts: Sequence[str] = ()) -> None:
        super().__init__()
        self.parts = list(parts)
        self.weights: dict[str, Tensor] = {}

    def forward(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], shared: Tensor | None = None) -> Tensor:
        """The training loss.

        Args:
            losses: The parts' own values, scalars, by name. A loss that is not in `parts` has the factor 1.
            weights: The weights of the config at this step, by name.
            shared: The parameter of the last layer that all parts depend on, for methods that measure gradients there.
        """
        with torch.no_grad():
            self.update(losses, weights, shared)
        factors = self.by_part()
        total = torch.zeros_like(next(iter(losses.values())), requires_grad=False)
        for name, loss in losses.items():
            if weights[name] or loss.requires_grad:  # DDP waits for the gradients of a term with parameters
                total = total + weights[name] * factors.get(name, 1.0) * loss
        self.weights = {name: weights[name] * factor.detach() for name, factor in factors.items()}
        return total

    def update(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], shared: Tensor | None) -> None:
        """Update the method's state with a training batch, without gradients."""

    def factors(self) -> Tensor | None:
        """The current factor of each part, without its weight, ``[parts]``; None: all are 1."""
        return None

    def by_part(self) -> dict[str, Tensor]:
        """The factors by the parts' names."""
        factors = self.factors()
        return {} if factors is None else dict(zip(self.parts, factors.unbind(), strict=True))

    def scaled(self, head: str, weighted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms of a head times their detached factors."""
        factors = {name: factor.detach() for name, factor in self.by_part().items()}
        whole = factors.get(head, 1.0)
        return {term: value * factors.get(f"{head}/{term}", whole) for term, value in weighted.items()}

    def values(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The parts' values averaged over all processes, ``[parts]``."""
        return mean_over_ranks(torch.stack([losses[name] for name in self.parts]))

    def zeros(self, dtype: torch.dtype = torch.float32) -> nn.Buffer:
        """A buffer with a number for each part, which is saved in checkpoints."""
        return nn.Buffer(torch.zeros(len(self.parts), dtype=dtype))


class Fixed(Balancing):
    """The weights of the config: ``sum_k w_k L_k``."""


class EqualGradients(Balancing):
    """Constant factors, measured at the start, that make the gradient norms of the parts proportional to their weights.

    ``f_k = c / ||grad L_k||`` at the last shared layer, with the mean norm over the first batches in which part k has a weight.
    c preserves the sum of the weights, ``sum_k w_k f_k = sum_k w_k``, over the parts with a weight in the first batches of the
    run; a part that starts later does not change c.

    Args:
        batches: The number of batches over which norms are averaged, 1 or more.
    """

    at_shared_layer = True

    def __init__(self, parts: Sequence[str] = (), batches: int = 10) -> None:
        super().__init__(parts)
        self.batches, self._looked = check_whole_number("batches", batches, low=1), dict.fromkeys(self.parts, 0)
        self.norms, self.measured, self.scale = self.zeros(), self.zeros(torch.int64), nn.Buffer(torch.ones(()))

    def update(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], shared: Tensor | None) -> None:
        new = [name for name in self.parts if weights[name] and self._looked[name] < self.batches]
        if not new:
            return
        sets_scale = max(self._looked.values()) < self.batches
        found = gradient_norms({name: losses[name] if name in new else losses[name].detach() for name in self.parts}, shared)
        usable = found.isfinite() & (found > 0)
        self.norms.add_(found.where(usable, 0))
        self.measured.add_(usable)
        for name in new:
            self._looked[name] += 1
        if sets_scale:
            shares = torch.stack([weights[name] * known for name, known in zip(self.parts, self.measured > 0, strict=True)])
            self.scale.copy_(shares.sum() / (shares / self._means()).sum())

    def _means(self) -> Tensor:
        return torch.where(self.measured > 0, self.norms / self.measured, 1)

    def factors(self) -> Tensor:
        return torch.where(self.measured > 0, self.scale / self._means(), 1)

    def get_extra_state(self) -> Tensor:
        """The number of batches in which each part was measured; counted on the CPU, to avoid a device synchronisation."""
        return torch.tensor(list(self._looked.values()))

    def set_extra_state(self, state: Tensor) -> None:
        self._looked = dict(zip(self.parts, state.tolist(), strict=True))


class Uncertainty(Balancing):
    """Weights by learnt variances (Kendall et al. 2018).

    The loss is ``sum_k w_k (a_k exp(-s_k) L_k + s_k / 2)``, with ``s_k = log sigma_k^2``. a is 1/2 for real values, from the
    likelihood of a normal distribution, and 1 for labels, from that of a scaled softmax; at the minimum the variance is
    ``2 a_k L_k``. The s are trained by the run's optimizer, without weight decay.

    Args:
        real: The parts whose head predicts real values.
    """

    takes_signed = False

    def __init__(self, parts: Sequence[str] = (), real: Collection[str] = ()) -> None:
        super().__init__(parts)
        self.a = nn.Buffer(torch.tensor([0.5 if name in real else 1.0 for name in parts]), persistent=False)
        self.log_variance = nn.Parameter(torch.zeros(len(parts)))

    def factors(self) -> Tensor:
        return self.a * torch.exp(-self.log_variance)

    def forward(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], shared: Tensor | None = None) -> Tensor:
        """The loss, with a penalty on log variances, except for parts that are 0, such as those of a head without labels."""
        total = super().forward(losses, weights, shared)
        for name, log_variance in zip(self.parts, self.log_variance.unbind(), strict=True):
            total = total + weights[name] * (losses[name].detach() != 0) * log_variance / 2
        return total


class DynamicWeightAverage(Balancing):
    """Dynamic weight average: larger factors for parts that decrease more slowly (Liu et al. 2019).

    ``f = K softmax(r / T)`` of K parts, with ``r_k = L_k(t - 1) / L_k(t - 2)``. The paper counts t in epochs; here L(t) is the
    mean over a window of batches. In the first two windows all factors are 1.

    Args:
        temperature: T, above 0; a larger T gives more equal factors.
        window: The number of batches, 1 or more.
    """

    takes_signed = False

    def __init__(self, parts: Sequence[str] = (), temperature: float = 2.0, window: int = 50) -> None:
        super().__init__(parts)
        self.temperature, self.window = positive("temperature", temperature), check_whole_number("window", window, low=1)
        self.sums, self.counts, self.last, self.before = self.zeros(), self.zeros(torch.int64), self.zeros(), self.zeros()
        self.batches = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def update(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], shared: Tensor | None) -> None:
        """Add a batch, and start a new window if this one is full; a part that is 0, as without labels, is not counted."""
        values = self.values(losses)
        usable = values.isfinite() & (values != 0)
        self.sums.add_(values.where(usable, 0))
        self.counts.add_(usable)
        self.batches.add_(1)
        full = self.batches == self.window
        means = torch.where(self.counts > 0, self.sums / self.counts, self.last)
        self.before.copy_(torch.where(full, self.last, self.before))
        self.last.copy_(torch.where(full, means, self.last))
        for begun in (self.sums, self.counts, self.batches):
            begun.mul_(~full)

    def factors(self) -> Tensor:
        ratios = torch.where(self.before > 0, self.last / self.before, 1)
        return len(self.parts) * torch.softmax(ratios / self.temperature, dim=0)


class GradNorm(Balancing):
    """GradNorm: equal gradient norms, or larger ones for parts that decrease more slowly (Chen et al. 2018).

    With ``G_k = f_k ||grad L_k||`` at the last shared layer and ``r_k = (L_k / L_k(0)) / mean_j(L_j / L_j(0))``, each batch
    makes a step down the gradient of ``sum_k abs(G_k - mean(G) r_k^alpha)`` in f, with ``mean(G) r_k^alpha`` held fixed; then f
    is scaled back to the mean 1. The paper leaves the kind of step open: here it is one of ``log f``, relative to ``mean(G)``,
    so that f stays positive and the effect of the rate does not depend on the losses' units.

    Args:
        alpha: The strength of the preference for slow parts, 0 or more; 0: equal norms.
        lr: The learning rate of the factors, above 0, 1 at most.
    """

    at_shared_layer = True
    takes_signed = False

    def __init__(self, parts: Sequence[str] = (), alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(parts)
        self.alpha, self.lr = check_number("alpha", alpha), positive_share("lr", lr)
        self.found, self.first = nn.Buffer(torch.ones(len(parts))), self.zeros()

    def update(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], shared: Tensor | None) -> None:
        """Update the factors; a part without a gradient in this batch keeps its factor."""
        norms = gradient_norms({name: losses[name] for name in self.parts}, shared)
        values = self.values(losses)
        usable = norms.isfinite() & (norms > 0) & (values > 0)
        many = usable.sum().clamp(min=1)
        self.first.copy_(torch.where(usable & (self.first == 0), values, self.first))
        rates = torch.where(usable, values / self.first, 0)
        pulls = torch.where(usable, self.found * norms, 0)
        mean = pulls.sum() / many
        asked = mean * (rates / (rates.sum() / many)) ** self.alpha
        stepped = torch.where(usable, self.found * torch.exp(-self.lr * torch.sign(pulls - asked) * pulls / mean), 0)
        kept = self.found.where(usable, 0).sum()
        self.found.copy_(torch.where(usable, stepped * kept / stepped.sum(), self.found))

    def factors(self) -> Tensor:
        return self.found.clone()


def weighed_parts(
    values: Mapping[str, CompositeValue], between: str, heads: Mapping[str, float]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The parts' own values and their weights at this step, the arguments of `Balancing`.

    `values` and `heads` are the loss and the weight of each head; `between` says whether parts are ``heads`` or ``terms``.
    """
    if between == "heads":
        return {head: value.total for head, value in values.items()}, {head: heads[head] for head in values}
    losses = {f"{head}/{term}": loss for head, value in values.items() for term, loss in value.raw.items()}
    weights = {
        f"{head}/{term}": heads[head] * weight for head, value in values.items() for term, weight in value.weights.items()
    }
    return losses, weights
