"""The histogram of the errors, for softmax and sigmoid."""

import triton
import triton.language as tl

from rsseg.losses.kernels.tile import LOG2_E, labels, level


@triton.jit
def levels(
    logits, target, log_sum, counts, size, steps, groups, image_x, class_x, pixel_x, image_y, class_y, pixel_y,
    C: tl.constexpr, BLOCK: tl.constexpr, SLOTS: tl.constexpr, BINS: tl.constexpr, IGNORE: tl.constexpr,
    SOFTMAX: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Adds to ``[2, G, C, BINS]``, in whole numbers: their order does not matter. A program has one class of an image.

    The programs of all classes for the same pixels run side by side, so labels and log-sum-exp come from memory once.
    """
    c, part, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    logits, target = logits + image * image_x + c.to(tl.int64) * class_x, target + image * image_y + c.to(tl.int64) * class_y
    found = tl.zeros([SLOTS], tl.int32)
    ignored = tl.zeros([BLOCK], tl.int32)
    for step in range(steps):
        pixel = (part * steps + step) * BLOCK + tl.arange(0, BLOCK)
        label, valid = labels(target, pixel, size, pixel_y, IGNORE)
        x = tl.load(logits + pixel.to(tl.int64) * pixel_x, mask=pixel < size, other=0.0).to(dtype)
        x = tl.where(valid, x, 0.0)
        if SOFTMAX:
            own = label == c
            p = tl.exp2((x - tl.load(log_sum + image * size + pixel, mask=pixel < size, other=0.0)) * LOG2_E)
        else:
            own = label == 1
            p = 1 / (1 + tl.exp2(-x * LOG2_E))
        error = level(tl.where(own, 1 - p, p), BINS)
        found += tl.histogram(tl.where(valid, tl.where(own, error, BINS + error), BINS), SLOTS)
        ignored += tl.where(valid, 0, 1)
    slot = tl.arange(0, SLOTS)
    found -= tl.where(slot == BINS, tl.sum(ignored, 0), 0)
    place = ((slot // BINS * groups + image % groups) * C + c) * BINS + slot % BINS
    tl.atomic_add(counts + place, found, mask=(slot < 2 * BINS) & (found != 0), sem="relaxed")
