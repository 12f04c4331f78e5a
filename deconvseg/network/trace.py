"""What a DeconvNet does on its way: every pooling, and every map of the decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deconvseg.network.deconvnet import DeconvNet


@dataclass(frozen=True)
class Trace:
    """One image's way through a DeconvNet.

    Attributes:
        encoded: float (C, 2h, 2w), the encoder's maps before each of the five poolings, the first pooling
            first.
        switches: int64 (C, h, w) of each pooling, as of `DeconvNet.pool`.
        decoded: the decoder's maps by name, float (C, h, w), in the order they arise: `fc6_deconv`, then
            of each block `unpool5`, `deconv5_1`, ... All have passed ReLU, so none is negative.
        scores: float (classes, S, S), raw.
    """

    encoded: list[Tensor]
    switches: list[Tensor]
    decoded: dict[str, Tensor]
    scores: Tensor


def trace(network: DeconvNet, image: Tensor) -> Trace:
    """Send one image through a network and keep what arises.

    The code is a leaf that asks for its gradient: `torch.autograd.grad` of something made of `scores` by
    maps of `decoded` works, if the network is in float32. The encoder has no part in that.

    Args:
        network: in evaluation mode.
        image: float (1, 3, S, S), normalised as the network file says.
    """
    encoded: list[Tensor] = []
    decoded: dict[str, Tensor] = {}
    with ExitStack() as watching:
        for stage in network.encoder:
            watching.enter_context(_output(stage, encoded.append))
        watching.enter_context(_output(network.fc6_deconv, _keep(decoded, "fc6_deconv")))
        for block, stage in zip(range(5, 0, -1), network.decoder, strict=False):
            watching.enter_context(_input(stage, _keep(decoded, f"unpool{block}")))
            for name, layer in stage.named_children():
                watching.enter_context(_output(layer, _keep(decoded, name)))
        with torch.no_grad():
            code, switches = network.encode(image)
        with torch.enable_grad():
            scores = network.decode(code.detach().requires_grad_(), switches)
    return Trace([maps[0] for maps in encoded], [where[0] for where in switches], decoded, scores[0])


def _keep(maps: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    return lambda found: maps.__setitem__(name, found)


@contextmanager
def _output(layer: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        keep(output)

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _input(layer: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(inputs[0])

    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
