"""The passes over sigmoid logits. As in `sigmoid_chunk`: s = x or -x the logit of the label, p its sigmoid, q = 1 - p."""

import triton
import triton.language as tl

from rsseg.losses.kernels.tile import LN_2, LOG2_E, MINIMUM, focal_slope, fold, of, of_error, places, power, put


@triton.jit
def forward(
    logits, target, sums, log_sum, size, steps, image_x, class_x, pixel_x, image_y, class_y, pixel_y,
    C: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr, FOLD: tl.constexpr, ADJACENT: tl.constexpr,
    IGNORE: tl.constexpr, K: tl.constexpr, SOFT: tl.constexpr, NLL: tl.constexpr, SPREAD: tl.constexpr,
    FOCAL: tl.constexpr, GAMMA: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """As for softmax, but for the log-sum-exp: there is none."""
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    logits, target = logits + image * image_x, target + image * image_y
    c = tl.arange(0, CLASSES)
    zero = tl.zeros([CLASSES, BLOCK // FOLD], sums.dtype.element_ty)
    count_1, soft_1, nll_1, spread_1, focal_1 = zero, zero, zero, zero, zero
    count_0, soft_0, nll_0, spread_0, focal_0 = zero, zero, zero, zero, zero
    for step in range(steps):
        pixel = (part * steps + step) * BLOCK + tl.arange(0, BLOCK)
        x, own, other = _load(
            logits, target, pixel, size, c, class_x, pixel_x, class_y, pixel_y, C, IGNORE, ADJACENT, zero.dtype
        )
        p, q, log_p, log_q = _sigmoid(tl.where(own, x, -x))
        y, z = tl.where(own, 1.0, 0.0).to(zero.dtype), tl.where(other, 1.0, 0.0).to(zero.dtype)
        count_1 += fold(y, FOLD, ADJACENT)
        count_0 += fold(z, FOLD, ADJACENT)
        if SOFT >= 0:
            soft_1 += fold(y * p, FOLD, ADJACENT)
            soft_0 += fold(z * q, FOLD, ADJACENT)
        if NLL >= 0:
            nll_1 -= fold(y * log_p, FOLD, ADJACENT)
            nll_0 -= fold(z * log_p, FOLD, ADJACENT)
        if SPREAD >= 0:
            spread_1 -= fold(y * log_p + z * log_q, FOLD, ADJACENT)
            spread_0 -= fold(y * log_q + z * log_p, FOLD, ADJACENT)
        if FOCAL >= 0:
            value = power(q, GAMMA) * log_p
            focal_1 -= fold(y * value, FOLD, ADJACENT)
            focal_0 -= fold(z * value, FOLD, ADJACENT)
    sums += (image * tl.num_programs(0) + part) * (K * 2 * C)
    _put_pair(sums, 0, c, count_1, count_0, C)
    if SOFT >= 0:
        _put_pair(sums, SOFT, c, soft_1, soft_0, C)
    if NLL >= 0:
        _put_pair(sums, NLL, c, nll_1, nll_0, C)
    if SPREAD >= 0:
        _put_pair(sums, SPREAD, c, spread_1, spread_0, C)
    if FOCAL >= 0:
        _put_pair(sums, FOCAL, c, focal_1, focal_0, C)


@triton.jit
def backward(
    logits, target, of_sums, of_errors, gradient, size, steps, groups,
    image_x, class_x, pixel_x, image_y, class_y, pixel_y, image_g, class_g, pixel_g,
    C: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr, ADJACENT: tl.constexpr, IGNORE: tl.constexpr,
    SOFT: tl.constexpr, NLL: tl.constexpr, SPREAD: tl.constexpr, FOCAL: tl.constexpr, GAMMA: tl.constexpr,
    BINS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """As for softmax."""
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    logits, target, gradient = logits + image * image_x, target + image * image_y, gradient + image * image_g
    group = image % groups
    c = tl.arange(0, CLASSES)
    zero = tl.zeros([CLASSES, BLOCK], of_sums.dtype.element_ty)
    for step in range(steps):
        pixel = (part * steps + step) * BLOCK + tl.arange(0, BLOCK)
        x, own, other = _load(
            logits, target, pixel, size, c, class_x, pixel_x, class_y, pixel_y, C, IGNORE, ADJACENT, zero.dtype
        )
        p, q, log_p, _ = _sigmoid(tl.where(own, x, -x))
        by_log_p, by_s = zero, zero
        if SOFT >= 0:
            true, false = _of_pair(of_sums, SOFT, group, groups, c, C)
            by_log_p += p * tl.where(own, true, -false)
        if NLL >= 0:
            true, false = _of_pair(of_sums, NLL, group, groups, c, C)
            by_log_p -= tl.where(own, true, false)
        if SPREAD >= 0:
            true, false = _of_pair(of_sums, SPREAD, group, groups, c, C)
            by_log_p -= true + false
            by_s += tl.where(own, false, true)
        if FOCAL >= 0:
            true, false = _of_pair(of_sums, FOCAL, group, groups, c, C)
            by_log_p += tl.where(own, true, false) * focal_slope(log_p, p, GAMMA, EPS)
        if BINS > 0:
            by_log_p -= p * of_error(of_errors, q, own, c, group, groups, C, BINS)
        g = by_log_p * q + by_s
        g = tl.where(own, g, tl.where(other, -g, 0.0)).to(gradient.dtype.element_ty)
        tl.store(gradient + places(c, pixel, class_g, pixel_g, ADJACENT), g, mask=(c < C)[:, None] & (pixel < size)[None, :])


@triton.jit
def _load(
    logits, target, pixel, size, c, class_x, pixel_x, class_y, pixel_y,
    C: tl.constexpr, IGNORE: tl.constexpr, ADJACENT: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """A tile of logits, 0 where ignored and in padding, and which entries are labelled 1 and 0."""
    inside = (c < C)[:, None] & (pixel < size)[None, :]
    label = tl.load(target + places(c, pixel, class_y, pixel_y, ADJACENT), mask=inside, other=0).to(tl.int32)
    valid = inside & (label != IGNORE)
    x = tl.load(logits + places(c, pixel, class_x, pixel_x, ADJACENT), mask=inside, other=0.0).to(dtype)
    return tl.where(valid, x, 0.0), valid & (label == 1), valid & (label != 1)


@triton.jit
def _sigmoid(s):
    """``sigmoid(s)``, ``sigmoid(-s)`` and their logarithms."""
    e = tl.exp2(-tl.abs(s) * LOG2_E)
    larger = 1 / (1 + e)
    smaller = e * larger
    log_larger = tl.log2(1 + e) * -LN_2
    log_smaller = log_larger - tl.abs(s)
    log_smaller = tl.where(log_smaller < MINIMUM, MINIMUM, log_smaller)
    up = s >= 0
    p, q = tl.where(up, larger, smaller), tl.where(up, smaller, larger)
    return p, q, tl.where(up, log_larger, log_smaller), tl.where(up, log_smaller, log_larger)


@triton.jit
def _put_pair(sums, row, c, own, other, C: tl.constexpr):
    """Writes a sum over the pixels of each class and over the others."""
    put(sums, row, 0, c, tl.sum(own, 1), C)
    put(sums, row, 1, c, tl.sum(other, 1), C)


@triton.jit
def _of_pair(gradients, row, group, groups, c, C: tl.constexpr):
    """The gradients with respect to a sum's two sides, ``[CLASSES, 1]``."""
    return of(gradients, row, 0, group, groups, c, C)[:, None], of(gradients, row, 1, group, groups, c, C)[:, None]
