"""The sums per class that most losses are functions of, taken in one pass over the logits on any device.

Cross-entropy, focal, overlap and binned Lovasz losses, and so any mixture of them, need no more of a batch than a few sums
per class. A term names those that it needs (`Sum`), `pixel_sums` takes the sums of all terms together, and `formulas` turns
them into losses.

Whatever the mixture, its gradient with respect to softmax logits is ``p * (a - S) + onehot * u``, with a number ``a`` per
class, ``u`` per pixel and ``S = sum_c p_c a_c + u``. So the forward pass keeps the logits and nothing else; the backward pass
computes p again and writes the gradient once. On a CPU a few pixels are worked on at a time, so that what is made of them
stays in the cache; elsewhere the whole batch is, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_sum
from rsseg.contract import IGNORE
from rsseg.losses.checks import check_shapes
from rsseg.task import TASKS

CHUNK = 2**17
"""The logits that are worked on at a time on a CPU."""


class Sum(NamedTuple):
    """One of the sums that a term can ask for.

    Every sum comes twice, ``[own, other]``: over the pixels labelled with the class, and over the other valid pixels.
    With ``p`` the probability of the class and ``p_t`` that of the label:

    * ``count``: 1.
    * ``soft``: ``p``; over the class's own pixels that is TP, over the others FP.
    * ``nll``: ``-log p_t``. For multiclass the other pixels' belongs to their own classes and is 0 here.
    * ``spread``: ``-log p`` over all valid pixels; and, 0 for multiclass, ``-log (1 - p)``. For label smoothing.
    * ``focal``: ``-(1 - p_t)^number log p_t``; others as for ``nll``.
    * ``levels``: the histogram of the errors ``|y - p|`` rounded to one of `number` levels from 0 to 1, see `pixel_sums`.

    Attributes:
        name: One of these.
        number: Focal's gamma, or the number of levels.
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


def pixel_sums(logits: Tensor, target: Tensor, task: str, needs: Needs, ignore_index: int = IGNORE) -> Sums:
    """Every sum that is asked for, differentiable with respect to the logits.

    Sums over the batch are over the batches of all ranks. Sums per image stay on their rank. ``levels`` are
    ``[2, 2, G, C, number]``: first the numbers of pixels, which have no gradient, then the sums of their errors, each
    pixel's counted as its level but with the gradient of the error itself.

    Args:
        logits: ``[B, C, H, W]``, any floating dtype.
        target: Integers, ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.
        task: `binary`, `multiclass` or `multilabel`.
        needs: The sums and what they go over.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For shapes that do not fit.

    Example:
        >>> found = pixel_sums(torch.zeros(1, 1, 1, 3), torch.tensor([[[1, 0, 255]]]), "binary", [(SOFT, "batch")])
        >>> found[SOFT, "batch"].flatten()  # TP, FP
        tensor([0.5000, 0.5000])
    """
    check_shapes(logits, target, task)
    wanted = (COUNT, *sorted({key for key, _ in needs} - {COUNT}))
    flat = logits.flatten(2)  # a view for contiguous and channels-last logits
    softmax = TASKS[task].exclusive
    labels = target.reshape(len(flat), 1 if softmax else flat.shape[1], flat.shape[2])
    images = dict(zip(wanted, _Pass.apply(flat, labels, softmax, wanted, ignore_index), strict=True))
    for key, counts in images.items():
        if key.name == "levels":
            level = torch.linspace(0, 1, counts.shape[-1], dtype=counts.dtype, device=counts.device)
            fixed = counts.detach()
            images[key] = torch.stack([fixed, fixed * level + (counts - fixed)])
    found: dict[tuple[Sum, Over], Tensor] = {}
    for over in {over for _, over in needs}:
        chosen = {key: value for key, value in images.items() if key == COUNT or (key, over) in needs}
        found |= {(key, over): value for key, value in (chosen if over == "image" else _batch(chosen)).items()}
    return found


def _batch(images: Mapping[Sum, Tensor]) -> dict[Sum, Tensor]:
    """The sums over the images of all ranks, in one collective."""
    local = [x.sum(-2 if x.ndim == 3 else -3, keepdim=True) for x in images.values()]
    parts = torch.split(global_sum(torch.cat([x.flatten() for x in local])), [x.numel() for x in local])
    return {key: part.view_as(x) for key, part, x in zip(images, parts, local, strict=True)}


class _Pass(torch.autograd.Function):
    """``(logits [B, C, N], labels [B, 1 or C, N]) -> [2, B, C]`` for each sum, ``[2, B, C, bins]`` for a histogram."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, softmax: bool, wanted: tuple[Sum, ...], ignore: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, y)
        ctx.piece, ctx.wanted, ctx.ignore = _Softmax if softmax else _Sigmoid, wanted, ignore
        pieces = _pieces(x)
        if len(pieces) == 1:
            piece = ctx.piece(x, y, ignore)
            return tuple(piece.sums(key) for key in wanted)
        shapes = [(2, len(x), x.shape[1], *([int(key.number)] if key.name == "levels" else [])) for key in wanted]
        found = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        for images, pixels in pieces:
            piece = ctx.piece(x[images, :, pixels], y[images, :, pixels], ignore)
            for key, total in zip(wanted, found, strict=True):
                total[:, images] += piece.sums(key)
        return tuple(total.to(_wide(x)) for total in found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        out = torch.empty_like(x)
        for images, pixels in _pieces(x):
            piece = ctx.piece(x[images, :, pixels], y[images, :, pixels], ctx.ignore)
            of_sums = {key: g[:, images] for key, g in zip(ctx.wanted, gradients, strict=True)}
            out[images, :, pixels] = piece.gradient(of_sums)
        return out, None, None, None, None


def _pieces(x: Tensor) -> list[tuple[slice, slice]]:
    """The images and pixels of ``[B, C, N]`` that are worked on together."""
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


class _Piece:
    """Some pixels of some images: logits ``[b, C, n]`` and labels ``[b, L, n]``, L being 1 for softmax and C for sigmoid.

    Flags are numbers: on a CPU, operations on mixed dtypes are many times slower.

    Attributes:
        z: The logits, float32 or better, 0 where ignored.
        v: ``[b, L, n]``, 1 where a pixel counts and 0 where it is ignored.
        y: ``[b, C, n]``, v where a pixel is of the class, else 0.
        p_t: ``[b, L, n]``, the probability of the label.
    """

    y: Tensor
    p_t: Tensor

    def __init__(self, x: Tensor, v: Tensor) -> None:
        self.v, self.z = v, x.to(_wide(x))
        self.log: Tensor | None = None
        if self.z.stride(2) != 1:
            self.z = self.z.contiguous()
        if not (_may_look(x) and float(v.sum()) == v.numel()):
            self.z = self.z.masked_fill(v == 0, 0)  # what lies under ignored pixels, NaN too, must not matter

    def log_p_t(self) -> Tensor:
        """The logarithm of p_t, computed where it is first asked for."""
        if self.log is None:
            self.log = self.new_log_p_t()
        return self.log

    def new_log_p_t(self) -> Tensor:
        """See `log_p_t`."""
        raise NotImplementedError

    def error(self) -> Tensor:
        """``[b, C, n]``, ``|y - p|``; 0 where ignored."""
        raise NotImplementedError

    def focal(self, gamma: float) -> Tensor:
        """``(1 - p_t)^gamma log p_t``."""
        return (1 - self.p_t).pow_(gamma).mul_(self.log_p_t())

    def focal_slope(self, gamma: float) -> Tensor:
        """The derivative of ``-focal`` with respect to ``log p_t``; about 0 at p_t = 1, where the power may be infinite."""
        if gamma == 0:
            return torch.full_like(self.p_t, -1)
        q = (1 - self.p_t).clamp_(min=torch.finfo(self.p_t.dtype).eps)
        return (self.p_t * self.log_p_t()).mul_(gamma).sub_(q).mul_(q ** (gamma - 1))

    def histogram(self, bins: int) -> Tensor:
        """The number of errors at each level, ``[2, b, C, bins]``; all NaN for a class with an error that is."""
        error = self.error()
        place = self.places(error, bins)
        table = torch.zeros(2 * bins * self.z[..., :1].numel(), dtype=torch.int32, device=place.device)
        table.scatter_add_(0, place, torch.ones_like(table[:1]).expand(place.shape))
        counts = table.view(*self.z.shape[:2], 2, bins).movedim(2, 0).to(self.z.dtype)
        counts[1, ..., 0] -= (1 - self.v).sum(-1)  # the ignored pixels
        return counts + (error.sum(-1) * 0).unsqueeze(-1)

    def of_level(self, table: Tensor, bins: int) -> Tensor:
        """What a table ``[2, b, C, bins]`` holds for each error, ``[b, C, n]``."""
        return table.movedim(0, 2).flatten().index_select(0, self.places(self.error(), bins)).view_as(self.z)

    def places(self, error: Tensor, bins: int) -> Tensor:
        """Where each error belongs in a table ``[b, C, 2, bins]``, own pixels first."""
        images, classes, _ = self.z.shape
        start = torch.arange(images * classes, device=self.z.device).mul_(2 * bins).view(images, classes, 1)
        level = (error * (bins - 1)).nan_to_num_(0).sub_(self.y, alpha=bins).add_(bins + 0.5)
        return level.long().add_(start).flatten()


class _Softmax(_Piece):
    """Classes that exclude each other."""

    def __init__(self, x: Tensor, label: Tensor, ignore: int) -> None:
        number, classes = label.to(_wide(x)), x.shape[1]
        y = number.new_empty(len(x), classes, x.shape[2])
        self.y = torch.eq(number, torch.arange(classes, dtype=number.dtype, device=x.device).unsqueeze(-1), out=y)
        if 0 <= ignore < classes:
            self.y[:, ignore] = 0
        super().__init__(x, self.y.sum(1, keepdim=True))  # a label beyond the classes counts for nothing
        self.label = number.clamp_(0, classes - 1).long()
        self.highest = self.z.amax(1, keepdim=True)
        self.p = (self.z - self.highest).exp_()
        total = self.p.sum(1, keepdim=True)
        self.p.mul_(self.v / total)
        self.log_total = total.log_()
        self.p_t = self.log_p_t().exp()

    def new_log_p_t(self) -> Tensor:
        """See `_Piece`."""
        return _finite((self.z.gather(1, self.label) - self.highest).sub_(self.log_total))

    def error(self) -> Tensor:
        """See `_Piece`."""
        return (self.y - self.p).abs_()

    def sums(self, key: Sum) -> Tensor:
        """A sum, ``[2, b, C]``."""
        if key.name == "levels":
            return self.histogram(int(key.number))
        if key == COUNT:
            count = self.y.sum(-1)
            return torch.stack([count, self.v.sum(-1) - count])
        if key == SOFT:
            own = self.y * self.p
            return torch.stack([own.sum(-1), (self.p - own).sum(-1)])
        if key == SPREAD:
            value = _finite((self.z - self.highest).sub_(self.log_total)).mul_(self.v)
        else:
            value = self.y * (self.log_p_t() if key == NLL else self.focal(key.number))
        own = -value.sum(-1)
        return torch.stack([own, torch.zeros_like(own)])

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """The gradient ``[b, C, n]`` from those of the sums."""
        a, u = self.p.new_zeros(*self.p.shape[:2], 1), torch.zeros_like(self.p_t)
        for key, (own, other) in by.items():
            if key == SOFT:
                a = a + other.unsqueeze(-1)
                u += self.of_label(own - other).mul_(self.p_t)
            elif key == NLL:
                u -= self.of_label(own)
            elif key.name == "focal":
                u += self.of_label(own).mul_(self.focal_slope(key.number))
            elif key.name == "levels":
                a = a + self.of_level(torch.stack([-own, other]), int(key.number))
        out = (a - (a * self.p).sum(1, keepdim=True).add_(u)).mul_(self.p).addcmul_(self.y, u)
        if SPREAD in by:
            spread = by[SPREAD][0].unsqueeze(-1)
            out += self.p * spread.sum(1, keepdim=True) - spread * self.v
        return out

    def of_label(self, table: Tensor) -> Tensor:
        """What a table ``[b, C]`` holds for each pixel's label."""
        return table.gather(1, self.label.flatten(1)).unsqueeze(1)


class _Sigmoid(_Piece):
    """Labels each on its own. With s = z or -z the logit of the label, ``p_t = sigmoid(s)`` and ``q = 1 - p_t``."""

    def __init__(self, x: Tensor, label: Tensor, ignore: int) -> None:
        number = label.to(_wide(x))
        super().__init__(x, torch.ne(number, ignore, out=torch.empty_like(number)))
        self.y = torch.eq(number, 1, out=torch.empty_like(number)).mul_(self.v)
        self.other = self.v - self.y
        self.sign = self.y - self.other
        self.s = self.sign * self.z
        self.p_t, self.q = self.s.sigmoid(), (-self.s).sigmoid_()

    def new_log_p_t(self) -> Tensor:
        """See `_Piece`."""
        return F.logsigmoid(self.s)

    def error(self) -> Tensor:
        """See `_Piece`."""
        return self.q * self.v

    def sums(self, key: Sum) -> Tensor:
        """A sum, ``[2, b, C]``."""
        if key.name == "levels":
            return self.histogram(int(key.number))
        if key == COUNT:
            return torch.stack([self.y.sum(-1), self.other.sum(-1)])
        if key == SOFT:
            return self.pair(self.p_t, self.q)
        if key == SPREAD:
            label, opposite = -self.log_p_t(), self.s - self.log_p_t()
            return torch.stack([self.pair(label, opposite).sum(0), self.pair(opposite, label).sum(0)])
        value = self.log_p_t() if key == NLL else self.focal(key.number)
        return -self.pair(value, value)

    def pair(self, of_own: Tensor, of_other: Tensor) -> Tensor:
        """Two sums, over the pixels labelled 1 and over those labelled 0."""
        return torch.stack([(self.y * of_own).sum(-1), (self.other * of_other).sum(-1)])

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """The gradient ``[b, C, n]`` from those of the sums."""
        by_log_p, by_s = torch.zeros_like(self.s), None
        for key, g in by.items():
            if key == SOFT:
                by_log_p += self.of_label(g[0], -g[1]).mul_(self.p_t)
            elif key == NLL:
                by_log_p -= self.of_label(g[0], g[1])
            elif key == SPREAD:
                by_log_p -= g.sum(0).unsqueeze(-1)
                by_s = self.of_label(g[1], g[0])
            elif key.name == "focal":
                by_log_p += self.of_label(g[0], g[1]).mul_(self.focal_slope(key.number))
            elif key.name == "levels":
                by_log_p -= self.of_level(g, int(key.number)).mul_(self.p_t)
        out = by_log_p.mul_(self.q)
        return (out if by_s is None else out.add_(by_s)).mul_(self.sign)

    def of_label(self, own: Tensor, other: Tensor) -> Tensor:
        """What two tables ``[b, C]`` hold for each pixel, by its label."""
        return (self.y * (own - other).unsqueeze(-1)).add_(other.unsqueeze(-1))


def _finite(x: Tensor) -> Tensor:
    """A logarithm of 0 times 0 has to be 0."""
    return x.clamp_(min=torch.finfo(x.dtype).min / 2**40)
