"""The average of two networks that one training led to: often better than either, at the price of one."""

from __future__ import annotations

import torch

from deconvseg.errors import UsageError
from deconvseg.network.base import SegmentationNetwork


@torch.no_grad()
def average(
    first: SegmentationNetwork, second: SegmentationNetwork, share: float, *, encoder_only: bool = False
) -> None:
    """Move the first network's weights towards the second's (Wortsman et al. 2022, "Model soups").

    It works where both were trained from the same weights, so that the way between them leads through good
    networks. BatchNorm's statistics are averaged as well.

    Args:
        first: float32; changed in place.
        second: float32.
        share: of the second, 0..1.
        encoder_only: leave all but the encoder alone; the networks may then be of different kinds.

    Raises:
        UsageError: the networks, or their encoders, have different layers.
    """
    own, other = ((network.encoder if encoder_only else network).state_dict() for network in (first, second))
    if {name: values.shape for name, values in own.items()} != {
        name: values.shape for name, values in other.items()
    }:
        what = "encoders" if encoder_only else "networks (their encoders alone may fit: --encoder-only)"
        raise UsageError(f"the {what} have different layers, and no average; take two of one training")
    for name, values in own.items():
        if values.is_floating_point():
            values.lerp_(other[name], share)
