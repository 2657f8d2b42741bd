"""The one pass over a chunk of softmax logits of two classes: the second's probability is a sigmoid of their difference.

One exponential a pixel does for both, and the sums of the first class are those of the second seen from the other side.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rsseg.losses import sigmoid_chunk
from rsseg.losses.chunk import Chunk
from rsseg.losses.sums import COUNT, Sum

Slopes = sigmoid_chunk.Slopes


def forward(chunk: Chunk, rows: tuple[Sum, ...], histograms: tuple[Sum, ...]) -> tuple[Tensor, list[Tensor]]:
    """The sums of a chunk, as `softmax_chunk.forward`.

    Args:
        chunk: The chunk.
        rows: The sums that are one number per class.
        histograms: Those that are `levels`.
    """
    table, levels = sigmoid_chunk.forward(_difference(chunk), rows, histograms)
    return table, [torch.cat([count.flip(0), count], 1) for count in levels]


def finish(table: Tensor, rows: tuple[Sum, ...]) -> Tensor:
    """The sums ``[K, 2, G, C]`` from the tables that `forward` gives for every chunk, added up."""
    sums = dict(zip(rows, sigmoid_chunk.finish(table, rows).unbind(), strict=True))
    found = []
    for key, of_second in sums.items():
        match key.name:
            case "count":
                of_first = of_second.flip(0)
            case "soft":  # what the first class is given of a pixel is what the second is not
                of_first = (sums[COUNT] - of_second).flip(0)
            case _:  # a sum over the pixels of each class, or over all of them
                of_first = torch.stack([of_second[1], torch.zeros_like(of_second[1])])
                of_second = torch.stack([of_second[0], torch.zeros_like(of_second[0])])
        found.append(torch.cat([of_first, of_second], -1))
    return torch.stack(found)


def slopes(of: Mapping[Sum, Tensor]) -> Slopes:
    """What `backward` needs of the gradients with respect to each sum: of what `finish` and `forward` do, the transpose."""
    turned = {}
    for key, gradient in of.items():
        first, second = gradient[:, :1], gradient[:, 1:]
        match key.name:
            case "count" | "levels":
                turned[key] = second + first.flip(0)
            case "soft":
                turned[key] = second - first.flip(0)
            case _:
                turned[key] = torch.stack([second[0], first[0]])
    return sigmoid_chunk.slopes(turned)


def backward(chunk: Chunk, by: Slopes, out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        by: The slopes of its group.
        out: Where to write.
    """
    sigmoid_chunk.backward(_difference(chunk), by, out[1:])
    torch.neg(out[1], out=out[0])


def _difference(chunk: Chunk) -> Chunk:
    """The logits of the second class less those of the first, as those of one sigmoid."""
    x, label, valid, whole, scratch = chunk
    difference = torch.sub(x[1:], x[:1], out=scratch.empty(1, x.shape[1], dtype=x.dtype))
    return Chunk(difference, label[None], valid[None], whole, scratch)
