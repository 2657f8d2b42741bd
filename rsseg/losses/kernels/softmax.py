"""The passes over softmax logits. Symbols: x logits, c class numbers, ``2 ** d`` the exponentials of softmax."""

import triton
import triton.language as tl

from rsseg.losses.kernels.tile import LN_2, LOG2_E, MINIMUM, focal_slope, fold, labels, of, of_error, places, power, put


@triton.jit
def forward(
    logits, target, sums, log_sum, size, steps, image_x, class_x, pixel_x, image_y, class_y, pixel_y,
    C: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr, FOLD: tl.constexpr, ADJACENT: tl.constexpr,
    IGNORE: tl.constexpr, K: tl.constexpr, SOFT: tl.constexpr, NLL: tl.constexpr, SPREAD: tl.constexpr,
    FOCAL: tl.constexpr, GAMMA: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Writes the sums ``[B, parts, K, 2, C]`` and, with KEEP, the log-sum-exp ``[B, H W]``."""
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    logits, target = logits + image * image_x, target + image * image_y
    c = tl.arange(0, CLASSES)
    seen = tl.zeros([BLOCK], sums.dtype.element_ty)
    zero = tl.zeros([CLASSES, BLOCK // FOLD], seen.dtype)
    count, soft, false, nll, spread, focal = zero, zero, zero, zero, zero, zero
    for step in range(steps):
        pixel = (part * steps + step) * BLOCK + tl.arange(0, BLOCK)
        x, own, _, valid = _load(logits, target, pixel, size, c, class_x, pixel_x, pixel_y, C, IGNORE, ADJACENT, seen.dtype)
        d, top, total, log_p = _softmax(x, own)
        if KEEP:
            tl.store(log_sum + image * size + pixel, top + tl.log2(total) * LN_2, mask=pixel < size)
        y = tl.where(own, 1.0, 0.0).to(seen.dtype)
        one = tl.where(total < 0, 0.0, 1.0).to(seen.dtype)  # made of a total, it lies in the threads where totals lie
        seen += tl.where(valid, one, 0.0)
        count += fold(y * one[None, :], FOLD, ADJACENT)
        if SOFT >= 0:
            p = tl.exp2(d) * tl.where(valid, 1 / total, 0.0)[None, :]
            soft += fold(y * p, FOLD, ADJACENT)
            false += fold(tl.where(own, 0.0, p), FOLD, ADJACENT)
        if NLL >= 0:
            nll += fold(y * log_p[None, :], FOLD, ADJACENT)
        if SPREAD >= 0:
            every = d - tl.log2(total)[None, :]
            every = tl.where(every < MINIMUM, MINIMUM, every)
            spread += fold(tl.where(valid[None, :], every, 0.0), FOLD, ADJACENT)
        if FOCAL >= 0:
            value = power(1 - tl.exp2(log_p), GAMMA) * log_p
            focal += fold(y * value[None, :], FOLD, ADJACENT)
    sums += (image * tl.num_programs(0) + part) * (K * 2 * C)
    of_own = tl.sum(count, 1)
    put(sums, 0, 0, c, of_own, C)
    put(sums, 0, 1, c, tl.sum(seen, 0) - of_own, C)
    if SOFT >= 0:
        put(sums, SOFT, 0, c, tl.sum(soft, 1), C)
        put(sums, SOFT, 1, c, tl.sum(false, 1), C)
    if NLL >= 0:
        put(sums, NLL, 0, c, tl.sum(nll, 1) * -LN_2, C)
    if SPREAD >= 0:
        put(sums, SPREAD, 0, c, tl.sum(spread, 1) * -LN_2, C)
    if FOCAL >= 0:
        put(sums, FOCAL, 0, c, tl.sum(focal, 1) * -LN_2, C)


@triton.jit
def backward(
    logits, target, of_sums, of_errors, gradient, size, steps, groups,
    image_x, class_x, pixel_x, image_y, class_y, pixel_y, image_g, class_g, pixel_g,
    C: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr, ADJACENT: tl.constexpr, IGNORE: tl.constexpr,
    SOFT: tl.constexpr, NLL: tl.constexpr, SPREAD: tl.constexpr, FOCAL: tl.constexpr, GAMMA: tl.constexpr,
    BINS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Writes the gradient, given those of the sums ``[K, 2, G, C]`` and of the errors ``[2, G, C, BINS]``."""
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    logits, target, gradient = logits + image * image_x, target + image * image_y, gradient + image * image_g
    group = image % groups
    c = tl.arange(0, CLASSES)
    a = tl.zeros([CLASSES], of_sums.dtype.element_ty)
    if SOFT >= 0:
        a = of(of_sums, SOFT, 1, group, groups, c, C)
    for step in range(steps):
        pixel = (part * steps + step) * BLOCK + tl.arange(0, BLOCK)
        x, own, label, valid = _load(logits, target, pixel, size, c, class_x, pixel_x, pixel_y, C, IGNORE, ADJACENT, a.dtype)
        d, _, total, log_p = _softmax(x, own)
        p, p_t = tl.exp2(d) * (1 / total)[None, :], tl.exp2(log_p)
        u = tl.zeros([BLOCK], a.dtype)
        if SOFT >= 0:
            u += p_t * (of(of_sums, SOFT, 0, group, groups, label, C) - of(of_sums, SOFT, 1, group, groups, label, C))
        if NLL >= 0:
            u -= of(of_sums, NLL, 0, group, groups, label, C)
        if FOCAL >= 0:
            u += of(of_sums, FOCAL, 0, group, groups, label, C) * focal_slope(log_p * LN_2, p_t, GAMMA, EPS)
        g = p * a[:, None]
        if BINS > 0:  # the error of an own pixel is 1 - p
            weight = of_error(of_errors, tl.where(own, 1 - p, p), own, c, group, groups, C, BINS)
            g += p * tl.where(own, -weight, weight)
        g += tl.where(own, u[None, :], 0.0) - p * (tl.sum(g, 0) + u)[None, :]
        if SPREAD >= 0:
            of_spread = of(of_sums, SPREAD, 0, group, groups, c, C)
            g += p * tl.sum(of_spread, 0) - of_spread[:, None]
        g = tl.where(valid[None, :], g, 0.0).to(gradient.dtype.element_ty)
        tl.store(gradient + places(c, pixel, class_g, pixel_g, ADJACENT), g, mask=(c < C)[:, None] & (pixel < size)[None, :])


@triton.jit
def _load(
    logits, target, pixel, size, c, class_x, pixel_x, pixel_y,
    C: tl.constexpr, IGNORE: tl.constexpr, ADJACENT: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """A tile of logits, 0 at ignored pixels and -inf in padding; own; the pixels' labels, -1 for none, and which count."""
    label, valid = labels(target, pixel, size, pixel_y, IGNORE)
    label = tl.where(valid & (label < C), label, -1)
    x = tl.load(
        logits + places(c, pixel, class_x, pixel_x, ADJACENT),
        mask=(c < C)[:, None] & (pixel < size)[None, :],
        other=-float("inf"),
    ).to(dtype)
    return tl.where(valid[None, :], x, 0.0), c[:, None] == label[None, :], label, valid


@triton.jit
def _softmax(x, own):
    """d, the largest logit, the sum of the exponentials, and the label's logarithm of p to base 2."""
    top = tl.max(x, 0)
    d = (x - top[None, :]) * LOG2_E
    total = tl.sum(tl.exp2(d), 0)
    log_p = tl.sum(tl.where(own, d, 0.0), 0) - tl.log2(total)
    return d, top, total, tl.where(log_p < MINIMUM, MINIMUM, log_p)
