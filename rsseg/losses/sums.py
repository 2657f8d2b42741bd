"""The sums per class that most losses are functions of, taken in one pass over the logits on any device.

Cross-entropy, focal, overlap and binned Lovasz losses, and so any mixture of them, need no more of a batch than a few sums
per class. A term names those that it needs (`Sum`), `pixel_sums` takes the sums of all terms together, and `formulas` turns
them into losses.

Whatever the mixture, its gradient with respect to softmax logits is ``p * (a - S) + onehot * u``, with a number ``a`` per
class, ``u`` per pixel and ``S = sum_c p_c a_c + u``. So the forward pass keeps the logits and nothing else; the backward pass
computes p again and writes the gradient once. On a CPU a few pixels are worked on at a time, so that what is made of them
stays in the cache; elsewhere the whole batch is, and nothing waits for the device.

A pixel's weight multiplies all that it adds to the sums. An ignored pixel is one of weight 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_sums
from rsseg.contract import IGNORE, InputError
from rsseg.losses.checks import check_weight
from rsseg.task import TASKS

CHUNK = 2**18
"""The logits that are worked on at a time on a CPU."""


class Sum(NamedTuple):
    """One of the sums that a term can ask for.

    Every sum comes twice, ``[own, other]``: over the pixels labelled with the class, and over the other valid pixels, each
    times the pixel's weight. With ``p`` the probability of the class and ``p_t`` that of the label:

    * ``count``: 1.
    * ``soft``: ``p``; over the class's own pixels that is TP, over the others FP.
    * ``nll``: ``-log p_t``. For multiclass the other pixels' belongs to their own classes and is 0 here.
    * ``focal``: ``-(1 - p_t)^number log p_t``; others as for ``nll``.
    * ``power``: ``(1 - p_t^number) / number``; others as for ``nll``.
    * ``spread``: ``-log p`` over all valid pixels; and, 0 for multiclass, ``-log (1 - p)``. For label smoothing.
    * ``levels``: the histogram of the errors ``|y - p|`` rounded to one of `number` levels from 0 to 1, see `pixel_sums`.

    Of a target of shares y, a pixel belongs to the class by y and to the others by 1 - y. TP is then the sum of
    ``(p + y - |p - y|) / 2``, the smaller of p and y (Wang et al. 2023), and FP that of ``p`` less TP.

    Attributes:
        name: One of these.
        number: Focal's gamma, the power, or the number of levels.
    """

    name: str
    number: float = 0.0


COUNT, SOFT, NLL, SPREAD = Sum("count"), Sum("soft"), Sum("nll"), Sum("spread")

Over: TypeAlias = Literal["batch", "image"]
"""What sums are taken over: the global batch, or each image, with the losses averaged afterwards."""

Needs: TypeAlias = Collection[tuple[Sum, Over]]
"""What a term asks for. ``count`` always comes with it."""

Sums: TypeAlias = Mapping[tuple[Sum, Over], Tensor]
"""The sums, ``[2, 1, C]`` over the batch and ``[2, B, C]`` per image; ``levels`` have further dimensions."""


def pixel_sums(
    logits: Tensor, target: Tensor, task: str, needs: Needs, ignore_index: int = IGNORE, weight: Tensor | None = None
) -> Sums:
    """Every sum that is asked for, differentiable with respect to the logits.

    Sums over the batch are over the batches of all ranks. Sums per image stay on their rank. ``levels`` are
    ``[2, 2, G, C, number]``: first the numbers of pixels, which have no gradient, then the sums of their errors, each
    pixel's counted as its level but with the gradient of the error itself.

    Args:
        logits: ``[B, C, H, W]``, any floating dtype.
        target: Labels, integers ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel; or shares, floating point ``[B, C, H, W]``.
        task: `binary`, `multiclass` or `multilabel`.
        needs: The sums and what they go over.
        ignore_index: The label of pixels that do not count. A share that does not is NaN.
        weight: ``[B, H, W]``, what each pixel counts for; None: 1. Pixels of weight 0 or NaN are ignored.

    Raises:
        InputError: For shapes that do not fit, and levels of shares.

    Example:
        >>> found = pixel_sums(torch.zeros(1, 1, 1, 3), torch.tensor([[[1, 0, 255]]]), "binary", [(SOFT, "batch")])
        >>> found[SOFT, "batch"].flatten()  # TP, FP
        tensor([0.5000, 0.5000])
    """
    TASKS[task].check_shapes(logits, target)
    check_weight(logits, weight)
    asked = {key for key, _ in needs} - {COUNT}
    levels = sorted(key for key in asked if key.name == "levels")
    plain = (COUNT, *sorted(asked.difference(levels)))
    soft = target.is_floating_point()
    if soft and levels:
        raise InputError("binned errors need a target of labels; found class shares")
    flat = logits.flatten(2)  # a view for contiguous and channels-last logits
    labels = target.flatten(-2) if target.ndim == 4 else target.flatten(1).unsqueeze(1)
    weights = None if weight is None else weight.flatten(1).unsqueeze(1)
    kind = _PIECES[TASKS[task].exclusive, soft]
    table, *counts = _Pass.apply(flat, labels, weights, kind, plain, levels, ignore_index)
    images = [table, *(_errors(count) for count in counts)]
    found: dict[tuple[Sum, Over], Tensor] = {}
    for over in {over for _, over in needs}:
        parts = images if over == "image" else global_sums([part.sum(2, keepdim=True) for part in images])
        named = zip((*plain, *levels), (*parts[0].unbind(), *parts[1:]), strict=True)
        found |= {(key, over): value.detach() if key == COUNT else value for key, value in named}
    return found


def _errors(counts: Tensor) -> Tensor:
    """Numbers of pixels ``[2, B, C, number]`` at each level, and the sums of their errors beside them, as `pixel_sums` says."""
    level = torch.linspace(0, 1, counts.shape[-1], dtype=counts.dtype, device=counts.device)
    fixed = counts.detach()
    return torch.stack([fixed, fixed * level + (counts - fixed)])


class _Pass(torch.autograd.Function):
    """Logits ``[B, C, N]``, target ``[B, 1 or C, N]`` and weights ``[B, 1, N]`` to sums.

    That is a table ``[keys, 2, B, C]`` of the plain ones, and ``[2, B, C, number]`` for each histogram.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        w: Tensor | None,
        kind: type[_Piece],
        plain: Sequence[Sum],
        levels: Sequence[Sum],
        ignore: int,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, y, w)
        ctx.kind, ctx.plain, ctx.levels, ctx.ignore = kind, plain, levels, ignore
        parts = _parts(x)
        logs = any(key.name in ("nll", "focal", "power") for key in plain)
        if len(parts) == 1:
            return tuple(kind.cut(x, y, w, parts[0], ignore, logs).tables(plain, levels))
        shapes = [(len(plain), 2, len(x), x.shape[1]), *((2, len(x), x.shape[1], int(key.number)) for key in levels)]
        found = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        for part in parts:
            table, *counts = kind.cut(x, y, w, part, ignore, logs).tables(plain, levels)
            found[0][:, :, part[0]] += table
            for total, count in zip(found[1:], counts, strict=True):
                total[:, part[0]] += count
        return tuple(total.to(_wide(x)) for total in found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_table: Tensor, *by_counts: Tensor) -> tuple[Tensor | None, ...]:
        x, y, w = ctx.saved_tensors
        by = dict(zip((*ctx.plain, *ctx.levels), (*by_table.unbind(), *by_counts), strict=True))
        del by[COUNT]
        out = torch.empty_like(x)
        for images, pixels in _parts(x):
            piece = ctx.kind.cut(x, y, w, (images, pixels), ctx.ignore, logs=False)
            gradient = piece.gradient({key: g[:, images] for key, g in by.items()})
            out[images, :, pixels] = gradient if piece.w is None else gradient.mul_(piece.w)
        return out, None, None, None, None, None, None


Part: TypeAlias = tuple[slice, slice]
"""The images and pixels of ``[B, C, N]`` that are worked on together."""


def _parts(x: Tensor) -> list[Part]:
    """What covers ``[B, C, N]``: everything at once, or on a CPU parts that stay in its cache."""
    if not _may_look(x):
        return [(slice(None), slice(None))]
    images, classes, pixels = x.shape
    step = max(1, CHUNK // max(1, classes))
    together = max(1, step // max(1, pixels))
    starts = [(i, n) for i in range(0, images, together) for n in range(0, max(1, pixels), step)]
    return [(slice(i, i + together), slice(n, n + step)) for i, n in starts]


def _may_look(x: Tensor) -> bool:
    """Whether a look at values is free: on a CPU, outside `torch.compile`."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _of_label(key: Sum, p: Tensor, log_p: Tensor) -> Tensor:
    """A sum's function of the probability of the label."""
    if key == NLL:
        return -log_p
    if key.name == "focal":
        return (1 - p).pow_(key.number).mul_(log_p).neg_()
    return (log_p * key.number).expm1_().div_(-key.number)


def _slope(key: Sum, p: Tensor, log_p: Tensor) -> Tensor | float:
    """The derivative of `_of_label` with respect to ``log p``."""
    if key == NLL or key == Sum("focal", 0):
        return -1.0
    if key.name == "focal":  # about 0 at p = 1, where the power may be infinite
        q = (1 - p).clamp_(min=torch.finfo(p.dtype).eps)
        return (p * log_p).mul_(key.number).sub_(q).mul_(q ** (key.number - 1))
    return p.pow(key.number).neg_()


class _Piece:
    """Some pixels of some images: logits ``[b, C, n]``, a target ``[b, L, n]`` and weights ``[b, 1, n]`` or None.

    Flags are numbers: on a CPU, operations on mixed dtypes are many times slower.

    Attributes:
        logs: Whether logarithms of probabilities have to be right where these vanish, as a loss needs and a gradient does not.
        w: The weights, 0 where ignored; None: 1.
        v: ``[b, 1 or C, n]``, 1 where a pixel counts and 0 where it is ignored.
        y: ``[b, C, n]``, the share of the class, for a label 0 or 1; 0 where ignored.
    """

    y: Tensor
    v: Tensor

    def __init__(self, x: Tensor, target: Tensor, w: Tensor | None, ignore: int, logs: bool) -> None:
        self.x, self.logs = x, logs
        self.y, self.v = self.read(target, x.shape[1], ignore)
        self.w: Tensor | None = None
        if w is not None:
            wide = w.to(self.y.dtype)
            counts = torch.gt(wide, 0, out=torch.empty_like(wide))
            self.v, self.y = self.v * counts, self.y.mul_(counts)
            self.w = torch.where(self.v > 0, wide, torch.zeros_like(wide))
        self.whole = _may_look(x) and float(self.v.sum(-1).sum()) == self.v.numel()
        self.start(target)

    @classmethod
    def cut(cls, x: Tensor, y: Tensor, w: Tensor | None, part: Part, ignore: int, logs: bool) -> Self:
        """The piece of a part of a batch."""
        images, pixels = part
        weights = None if w is None else w[images, :, pixels]
        return cls(x[images, :, pixels], y[images, :, pixels], weights, ignore, logs)

    def read(self, target: Tensor, classes: int, ignore: int) -> tuple[Tensor, Tensor]:
        """Y and v of a target as numbers."""
        raise NotImplementedError

    def start(self, target: Tensor) -> None:
        """Compute what sums and gradient share."""
        raise NotImplementedError

    def clean(self, values: Tensor) -> Tensor:
        """New values, set to 0 where they are ignored: what lies there, NaN too, must not matter."""
        return values if self.whole else values.masked_fill_(self.v == 0, 0)

    def valid(self, values: Tensor) -> Tensor:
        """New finite values, set to 0 where they are ignored."""
        return values if self.whole else values.mul_(self.v)

    def total(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The weighted sum over the pixels of ``[b, C, n]``, whose ignored pixels are 0."""
        return (values if self.w is None else values * self.w).sum(-1, dtype=dtype)

    def tables(self, plain: Sequence[Sum], levels: Sequence[Sum]) -> list[Tensor]:
        """The plain sums ``[keys, 2, b, C]``, and the histogram ``[2, b, C, number]`` of each of the levels."""
        table = torch.stack([part for key in plain for part in self.sums(key)])
        return [table.view(-1, 2, *table.shape[1:]), *(self.histogram(int(key.number)) for key in levels)]

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        """A sum over own and other pixels, ``[b, C]`` each."""
        raise NotImplementedError

    def histogram(self, bins: int) -> Tensor:
        """The weight of the errors at each level, ``[2, b, C, bins]``; all NaN for a class with an error that is."""
        raise NotImplementedError

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """The gradient ``[b, C, n]`` from those of the sums, for pixels of weight 1."""
        raise NotImplementedError


class _Hard(_Piece):
    """Pixels with labels.

    Attributes:
        p_t: ``[b, L, n]``, the probability of the label.
    """

    p_t: Tensor

    def error(self) -> Tensor:
        """``[b, C, n]``, ``|y - p|``; 0 where ignored."""
        raise NotImplementedError

    def histogram(self, bins: int) -> Tensor:
        """See `_Piece`."""
        error = self.error()
        place = self.places(error, bins)
        table = torch.zeros(2 * bins * self.y[..., :1].numel(), dtype=torch.int32, device=place.device)
        if self.w is None:
            table.scatter_add_(0, place, torch.ones_like(table[:1]).expand(place.shape))
        else:
            table = table.to(self.y.dtype).scatter_add_(0, place, self.w.expand_as(self.y).flatten())
        counts = table.view(*self.y.shape[:2], 2, bins).movedim(2, 0).to(self.y.dtype)
        if self.w is None:
            counts[1, ..., 0] -= (1 - self.v).sum(-1)  # the ignored pixels
        return counts + (error.sum(-1) * 0).unsqueeze(-1)

    def of_level(self, table: Tensor, bins: int) -> Tensor:
        """What a table ``[2, b, C, bins]`` holds for each error, ``[b, C, n]``."""
        return table.movedim(0, 2).flatten().index_select(0, self.places(self.error(), bins)).view_as(self.y)

    def places(self, error: Tensor, bins: int) -> Tensor:
        """Where each error belongs in a table ``[b, C, 2, bins]``, own pixels first."""
        images, classes, _ = self.y.shape
        start = torch.arange(images * classes, device=self.y.device).mul_(2 * bins).view(images, classes, 1)
        level = (error * (bins - 1)).nan_to_num_(0).sub_(self.y, alpha=bins).add_(bins + 0.5)
        return level.long().add_(start).flatten()


class _Softmax(_Hard):
    """Classes that exclude each other."""

    def read(self, target: Tensor, classes: int, ignore: int) -> tuple[Tensor, Tensor]:
        """See `_Piece`; a label beyond the classes counts for nothing."""
        number = target.to(_wide(self.x))
        y = number.new_empty(len(number), classes, number.shape[2])
        torch.eq(number, torch.arange(classes, dtype=number.dtype, device=number.device).unsqueeze(-1), out=y)
        v = torch.lt(number, classes, out=torch.empty_like(number))
        if target.dtype.is_signed:
            v.mul_(number >= 0)
        if 0 <= ignore < classes:
            y[:, ignore] = 0
            v.mul_(number != ignore)
        return y, v

    def start(self, target: Tensor) -> None:
        """See `_Piece`."""
        self.label = target.long() if self.whole else target.long().clamp(0, self.x.shape[1] - 1)
        if self.logs:
            log_p = self.log_p()
            self.log_p_t = _finite(log_p.gather(1, self.label))
            self.p_t = self.log_p_t.exp()
            self.p = self.valid(log_p.exp_())
        else:
            self.p = self.valid(self.clean(self.x.softmax(1, dtype=self.y.dtype)))
            self.p_t = self.p.gather(1, self.label)
            self.log_p_t = _finite(self.p_t.log())

    def log_p(self) -> Tensor:
        """The logarithms of all probabilities, made anew: the pass does without them but for label smoothing."""
        return self.clean(self.x.log_softmax(1, dtype=self.y.dtype))

    def error(self) -> Tensor:
        """See `_Hard`."""
        return (self.y - self.p).abs_()

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        """See `_Piece`."""
        if key == COUNT:
            count = self.total(self.y)
            return count, self.total(self.v) - count
        if key == SOFT and self.scatters:
            own = self.of_class(self.p_t)
            return own.to(self.p.dtype), (self.total(self.p, torch.float64) - own).to(self.p.dtype)
        if key == SOFT:
            own = self.y * self.p
            return self.total(own), self.total(self.p - own)
        if key == SPREAD:
            own = self.total(-_finite(self.log_p()))
        else:
            own = self.of_class(_of_label(key, self.p_t, self.log_p_t)).to(self.p.dtype)
        return own, torch.zeros_like(own)

    @property
    def scatters(self) -> bool:
        """Whether a sum by label is one of scattered pixels, which for more than a few classes is less than one of planes.

        On an accelerator pixels of one class would wait for each other.
        """
        return _may_look(self.x) and self.x.shape[1] > 3

    def of_class(self, values: Tensor) -> Tensor:
        """The weighted sums ``[b, C]`` over each class's own pixels of numbers ``[b, 1, n]``."""
        if not self.scatters:
            return self.total(self.y * values)
        weighted = values * (self.v if self.w is None else self.w)
        sums = torch.zeros(self.y.shape[:2], dtype=torch.float64)
        return sums.scatter_add_(1, self.label.squeeze(1), weighted.squeeze(1).double())

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """See `_Piece`."""
        by_p: list[Tensor] = []
        by_label: dict[Sum, Tensor] = {}
        for key, (own, other) in by.items():
            if key == SOFT:
                by_p.append(other.unsqueeze(-1))
                by_label[key] = own - other
            elif key.name == "levels":
                by_p.append(self.of_level(torch.stack([-own, other]), int(key.number)))
            elif key != SPREAD:
                by_label[key] = own
        u = torch.zeros_like(self.p_t)
        for key, table in zip(by_label, self.of_label(list(by_label.values())), strict=True):
            u += table * (self.p_t if key == SOFT else _slope(key, self.p_t, self.log_p_t))
        if by_p:
            a = sum(by_p[1:], by_p[0])
            out = (a - (a * self.p).sum(1, keepdim=True).add_(u)).mul_(self.p).addcmul_(self.y, u)
        else:
            out = (self.y - self.p).mul_(u)
        if SPREAD in by:
            spread = by[SPREAD][0].unsqueeze(-1)
            out += self.p * spread.sum(1, keepdim=True) - spread * self.v
        return out

    def of_label(self, tables: Sequence[Tensor]) -> list[Tensor]:
        """What tables ``[b, C]`` hold for each pixel's label, ``[b, 1, n]`` each."""
        if not tables:
            return []
        found = torch.stack(list(tables)).gather(2, self.label.squeeze(1).expand(len(tables), -1, -1))
        return [plane.unsqueeze(1) for plane in found]


class _Sigmoid(_Hard):
    """Labels each on its own. With s = z or -z the logit of the label, ``p_t = sigmoid(s)`` and ``q = 1 - p_t``."""

    def read(self, target: Tensor, classes: int, ignore: int) -> tuple[Tensor, Tensor]:
        """See `_Piece`."""
        number = target.to(_wide(self.x))
        v = torch.ne(number, ignore, out=torch.empty_like(number))
        return torch.eq(number, 1, out=torch.empty_like(number)).mul_(v), v

    def start(self, target: Tensor) -> None:
        """See `_Piece`."""
        self.other = self.v - self.y
        self.sign = self.y - self.other
        self.s = self.clean(self.sign * self.x)
        self.p_t, self.q = self.s.sigmoid(), (-self.s).sigmoid_()
        self.log: Tensor | None = None

    @property
    def log_p_t(self) -> Tensor:
        """The logarithm of p_t, computed where it is first asked for."""
        if self.log is None:
            self.log = F.logsigmoid(self.s)
        return self.log

    def error(self) -> Tensor:
        """See `_Hard`."""
        return self.q * self.v

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        """See `_Piece`."""
        if key == COUNT:
            return self.total(self.y), self.total(self.other)
        if key == SOFT:
            return self.total(self.y * self.p_t), self.total(self.other * self.q)
        if key == SPREAD:
            label = self.total(-self.log_p_t * self.v)
            return label + self.total(self.other * self.s), label + self.total(self.y * self.s)
        value = _of_label(key, self.p_t, self.log_p_t)
        return self.total(self.y * value), self.total(self.other * value)

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """See `_Piece`."""
        by_log_p, by_s = torch.zeros_like(self.s), None
        for key, g in by.items():
            if key == SOFT:
                by_log_p += self.of_label(g[0], -g[1]).mul_(self.p_t)
            elif key == SPREAD:
                by_log_p -= g.sum(0).unsqueeze(-1)
                by_s = self.of_label(g[1], g[0])
            elif key.name == "levels":
                by_log_p -= self.of_level(g, int(key.number)).mul_(self.p_t)
            else:
                by_log_p += self.of_label(g[0], g[1]).mul_(_slope(key, self.p_t, self.log_p_t))
        out = by_log_p.mul_(self.q)
        return (out if by_s is None else out.add_(by_s)).mul_(self.sign)

    def of_label(self, own: Tensor, other: Tensor) -> Tensor:
        """What two tables ``[b, C]`` hold for each pixel, by its label."""
        return (self.y * (own - other).unsqueeze(-1)).add_(other.unsqueeze(-1))


class _Soft(_Piece):
    """Pixels with a share of every class.

    Attributes:
        log_p: ``[b, C, n]``, the logarithm of the probability of each class.
        p: The probability; 0 where ignored.
    """

    log_p: Tensor
    p: Tensor

    def read(self, target: Tensor, classes: int, ignore: int) -> tuple[Tensor, Tensor]:
        """See `_Piece`."""
        shares = target.to(_wide(self.x))
        v = self.known(shares).to(shares.dtype)
        return torch.where(v > 0, shares, torch.zeros_like(shares)), v

    def known(self, shares: Tensor) -> Tensor:
        """Where shares are known, bool ``[b, 1 or C, n]``."""
        return ~shares.isnan()

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        """See `_Piece`."""
        rest = self.v - self.y
        if key == COUNT:
            return self.total(self.y), self.total(rest)
        if key == SOFT:
            common = torch.minimum(self.p, self.y)
            return self.total(common), self.total(self.p - common)
        if key == SPREAD:
            return self.total(-self.log_p * self.v), self.of_rest(NLL, self.v)
        return self.total(self.y * _of_label(key, self.p, self.log_p)), self.of_rest(key, rest)

    def of_rest(self, key: Sum, share: Tensor) -> Tensor:
        """A sum's function of the probability of not being of the class, by shares; ``[b, C]``."""
        raise NotImplementedError

    def by_log_p(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """The gradient with respect to `log_p`."""
        out = torch.zeros_like(self.p)
        for key, g in by.items():
            own, other = g.unsqueeze(-1)
            if key == SOFT:
                below = (torch.sign(self.y - self.p) + 1) / 2
                out += self.p * (other + (own - other) * below)
            elif key == SPREAD:
                out -= own * self.v
            else:
                out += own * self.y * _slope(key, self.p, self.log_p)
        return out


class _SoftmaxShares(_Soft):
    """Shares of classes that exclude each other."""

    def known(self, shares: Tensor) -> Tensor:
        """See `_Soft`."""
        return super().known(shares).all(1, keepdim=True)

    def start(self, target: Tensor) -> None:
        """See `_Piece`."""
        self.log_p = _finite(self.clean(self.x.log_softmax(1, dtype=self.y.dtype)))
        self.p = self.log_p.exp() * self.v

    def of_rest(self, key: Sum, share: Tensor) -> Tensor:
        """See `_Soft`; the other classes have sums of their own."""
        return self.y.new_zeros(self.y.shape[:2])

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """See `_Piece`."""
        slope = self.by_log_p(by)
        return slope - self.p * slope.sum(1, keepdim=True)


class _SigmoidShares(_Soft):
    """Shares of labels each on its own."""

    def start(self, target: Tensor) -> None:
        """See `_Piece`."""
        z = self.clean(self.x.to(self.y.dtype, copy=True))
        self.log_p, self.log_q = F.logsigmoid(z), F.logsigmoid(-z)
        self.p, self.q = z.sigmoid() * self.v, (-z).sigmoid() * self.v

    def of_rest(self, key: Sum, share: Tensor) -> Tensor:
        """See `_Soft`."""
        return self.total(share * _of_label(key, self.q, self.log_q))

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """See `_Piece`."""
        by_log_q = torch.zeros_like(self.p)
        for key, g in by.items():
            other = g[1].unsqueeze(-1)
            if key == SPREAD:
                by_log_q -= other * self.v
            elif key != SOFT:
                by_log_q += other * (self.v - self.y) * _slope(key, self.q, self.log_q)
        return self.by_log_p(by) * self.q - by_log_q * self.p


_PIECES: dict[tuple[bool, bool], type[_Piece]] = {
    (True, False): _Softmax,
    (False, False): _Sigmoid,
    (True, True): _SoftmaxShares,
    (False, True): _SigmoidShares,
}
"""By whether classes exclude each other, and whether the target holds shares."""


def _finite(x: Tensor) -> Tensor:
    """A logarithm of 0 times 0 has to be 0."""
    return x.clamp_(min=torch.finfo(x.dtype).min / 2**40)
