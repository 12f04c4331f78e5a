"""Small networks of every kind, and any network as after training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from deconvseg.network.base import Network, SegmentationNetwork
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn import FCN
from deconvseg.network.fcn8s import FCN8s


def deconvnet(**changes: Any) -> DeconvNet:
    return DeconvNet(**{"classes": 3, "crop_size": 64, "widths": (8,) * 5, "bottleneck": 16, **changes})


def fcn8s(**changes: Any) -> FCN8s:
    sizes = {"classes": 3, "side": 64, "widths": (8,) * 5, "bottleneck": 16}
    return FCN8s(**{**sizes, "head_kernel": 5, "padding": 1, "norm": True, **changes})


def fcn(**changes: Any) -> FCN:
    sizes = {"classes": 3, "side": 64, "widths": (8,) * 5}
    return FCN(**{**sizes, "hidden": 16, "width": 8, "skip": 4, **changes})


ZOO = {"padding": 100, "head_kernel": 7, "norm": False}
KINDS: dict[str, Callable[[], SegmentationNetwork]] = {
    "paper's": deconvnet,
    "lite": partial(deconvnet, encoder_norm=False, decoder_convs=(2, 2, 2, 1)),
    "fcn8s": fcn8s,
    "zoo": partial(fcn8s, **ZOO),
    "fcn": fcn,
}


def randomised(network: Network) -> Network:
    """The network with random weights that all count, and BatchNorms that do something."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return network.eval()
