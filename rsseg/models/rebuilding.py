"""A network that rebuilds the image, whose error is the logit of a class that it has not learnt (Sakurada & Yairi 2014)."""

from __future__ import annotations

import torch
from torch import Tensor

from rsseg.models.network import Network

LEAST = 1e-6  # what is added to the squared error, whose logarithm is the logit


class Rebuilding(Network):
    """A network with as many outputs as the image has bands, and one logit: the logarithm of its mean squared error.

    The error is that of the normalised image: 1 is the variance of a band. Sharp details have to be lost on the way, or it
    copies the image: take an architecture without connections past its narrowest place, such as PSPNet.

    Args: as for `Network`, with one head of a binary task.
    """

    def outputs(self, image: Tensor, beside: bool) -> dict[str, Tensor]:
        """The logit ``[B, 1, H, W]`` of the head."""
        (head,) = self.channels
        error = (self.net(image).float() - image.float()).square().mean(dim=1, keepdim=True)
        return {head: torch.log(error + LEAST)}
