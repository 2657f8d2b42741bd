"""What the kernels for softmax and sigmoid share. `own`, `other`, p, q = 1 - p and p_t as in `sums`."""

import triton
import triton.language as tl

LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
"""Powers and logarithms to base 2 are those that the hardware has."""

MINIMUM = tl.constexpr(-1e30)
"""In place of a logarithm of 0: times 0 it has to be 0, and the sum of many has to be finite."""


@triton.jit
def labels(target, pixel, size, stride, IGNORE: tl.constexpr):
    """The labels of an image's pixels, and which of them count."""
    inside = pixel < size
    label = tl.load(target + pixel.to(tl.int64) * stride, mask=inside, other=0).to(tl.int32)
    return label, inside & (label != IGNORE)


@triton.jit
def places(c, pixel, of_class, of_pixel, ADJACENT: tl.constexpr):
    """Where a tile's entries lie, ``[CLASSES, BLOCK]``.

    Where classes lie side by side (channels last), Triton would give each thread many pixels of one class, and what is
    added over classes would have to travel between threads: told that nothing lies side by side, it leaves a pixel whole.
    """
    place = c.to(tl.int64)[:, None] * of_class + pixel.to(tl.int64)[None, :] * of_pixel
    return place if ADJACENT else tl.max_contiguous(place, (1, 1))


@triton.jit
def fold(value, FOLD: tl.constexpr, ADJACENT: tl.constexpr):
    """Adds up FOLD pixels at a time: those that one thread holds, neighbours where pixels lie side by side in memory."""
    rows: tl.constexpr = value.shape[0]
    columns: tl.constexpr = value.shape[1] // FOLD
    if ADJACENT:
        return tl.sum(tl.reshape(value, [rows, columns, FOLD]), 2)
    return tl.sum(tl.reshape(value, [rows, FOLD, columns]), 1)


@triton.jit
def put(sums, row, side, c, value, C: tl.constexpr):
    """Writes one sum ``[CLASSES]`` into ``[K, 2, C]``."""
    tl.store(sums + (row * 2 + side) * C + c, value, mask=c < C)


@triton.jit
def of(gradients, row, side, group, groups, c, C: tl.constexpr):
    """The gradient with respect to a sum, of ``[K, 2, G, C]``; 0 where c is no class."""
    return tl.load(gradients + ((row * 2 + side) * groups + group) * C + c, mask=(c >= 0) & (c < C), other=0.0)


@triton.jit
def level(error, BINS: tl.constexpr):
    """The level of an error from 0 to 1; some level whatever the error, NaN too."""
    return tl.minimum(tl.maximum((error * (BINS - 1) + 0.5).to(tl.int32), 0), BINS - 1)


@triton.jit
def of_error(gradients, error, own, c, group, groups, C: tl.constexpr, BINS: tl.constexpr):
    """The gradient with respect to errors ``[CLASSES, BLOCK]``, of ``[2, G, C, BINS]``."""
    row = tl.where(own, 0, groups) + group
    return tl.load(gradients + (row * C + c[:, None]) * BINS + level(error, BINS), mask=(c < C)[:, None], other=0.0)


@triton.jit
def power(q, EXPONENT: tl.constexpr):
    """``q ** EXPONENT``."""
    if EXPONENT == 0:
        return q * 0 + 1
    if EXPONENT == 1:
        return q
    if EXPONENT == 2:
        return q * q
    return tl.exp2(tl.log2(q) * EXPONENT)


@triton.jit
def focal_slope(log_p, p, GAMMA: tl.constexpr, EPS: tl.constexpr):
    """The derivative of ``-(1 - p) ** GAMMA log p`` with respect to ``log p``; about 0 at p = 1, as in `chunk`."""
    if GAMMA == 0:
        return p * 0 - 1
    q = tl.maximum(1 - p, EPS)
    return power(q, GAMMA - 1) * (GAMMA * p * log_p - q)
