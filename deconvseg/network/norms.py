"""BatchNorm's statistics of a network that comes without them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def gather_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every BatchNorm's mean and variance to their averages over batches.

    DeconvNet's authors do so before they fold (`BN_make_INFERENCE_script.py`, 501 batches of 28 crops).

    Args:
        network: its weights stay as they are; it ends in the mode, training or not, that it was in.
        batches: normalised images (B, 3, H, W) on the network's device, at least two numbers a channel.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
