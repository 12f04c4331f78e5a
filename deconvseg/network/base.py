"""What every network here is: an encoder of VGG-16's form, and scores for the photo or crop that went in."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.errors import UsageError

MAX_LAYERS, MAX_CLASSES = 200, 255


class SegmentationNetwork(nn.Module):
    """Base of the networks; they know nothing of photos, files or classes' names.

    Attributes:
        architecture: its name in network files.
        arguments: what its constructor was given, fit for JSON.
        side: a whole photo enters with its longer side scaled to this many pixels.
        dropout: share of fc6's and fc7's outputs that is dropped in training.
        encoder: five blocks of convolutions `conv{block}_{i}`, each with a pooling after it.
    """

    architecture: ClassVar[str]
    arguments: dict[str, Any]
    side: int
    dropout: float = 0.0
    encoder: nn.ModuleList

    def scores_and_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B, classes, H, W) of images (B, 3, H, W), and fc7's output (B, bottleneck, h, w)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Raw scores (B, classes, H, W), no softmax, of images (B, 3, H, W) normalised as the file says."""
        return self.scores_and_code(images)[0]

    def drop(self, features: Tensor) -> Tensor:
        """Features of fc6 or fc7 with dropout in training; the same ones otherwise."""
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features


def replace_classes(network: SegmentationNetwork, classes: int) -> SegmentationNetwork:
    """The same network for other classes: all but the layers of scores, which are initialised anew."""
    changed = type(network)(**{**network.arguments, "classes": classes})
    state = network.state_dict().items()
    kept = {name: tensor for name, tensor in state if "score" not in name or ".norm." in name}
    changed.load_state_dict(changed.state_dict() | kept)
    return changed


def resize_side(network: SegmentationNetwork, side: int) -> SegmentationNetwork:
    """The same network for photos of another size; of FCN-8s and the classifier nothing depends on that."""
    resized = type(network)(**{**network.arguments, "side": side})
    resized.load_state_dict(network.state_dict())
    return resized


def resized_kernel(weight: Tensor, side: int) -> Tensor:
    """Kernels (..., k, k) interpolated to side x side."""
    size = (side, side)
    return functional.interpolate(weight.float(), size, mode="bilinear", align_corners=True).to(weight.dtype)


@torch.no_grad()
def average(
    first: SegmentationNetwork, second: SegmentationNetwork, share: float, *, encoder_only: bool = False
) -> None:
    """Move the first network's weights towards the second's (Wortsman et al. 2022, "Model soups").

    It works where both were trained from the same weights, so that the way between them leads through good
    networks. BatchNorm's statistics are averaged as well.

    Args:
        first, second: float32; the first is changed in place.
        share: of the second, 0..1.
        encoder_only: leave all but the encoder alone; the networks may then be of different kinds.

    Raises:
        UsageError: the networks, or their encoders, have different layers.
    """
    own, other = ((network.encoder if encoder_only else network).state_dict() for network in (first, second))
    layers, others = ({name: values.shape for name, values in s.items()} for s in (own, other))
    if layers != others:
        what = "encoders" if encoder_only else "networks (their encoders alone may be alike)"
        raise UsageError(f"the {what} have different layers, and no average; take two of one training")
    for name, values in own.items():
        if values.is_floating_point():
            values.lerp_(other[name], share)


def vgg_encoder(
    widths: tuple[int, ...], convs: tuple[int, ...], *, norm: bool, padding: int = 1
) -> nn.ModuleList:
    """Five blocks of 3x3 convolutions, named as VGG-16's; the poolings are the network's own.

    `norm` is BatchNorm after each of them, `padding` that of the very first one; the others keep the size.
    """
    blocks = nn.ModuleList()
    channels = 3
    for block, (width, count) in enumerate(zip(widths, convs, strict=True), start=1):
        stage = nn.Sequential()
        for i in range(1, count + 1):
            border = padding if block == i == 1 else 1
            conv = nn.Conv2d(channels, width, 3, padding=border)
            stage.add_module(f"conv{block}_{i}", unit(conv, width, norm=norm))
            channels = width
        blocks.append(stage)
    return blocks


def unit(conv: nn.Module, channels: int, *, norm: bool) -> nn.Sequential:
    """A (transposed) convolution `conv`, with a BatchNorm `norm` if wanted, and ReLU."""
    layers = nn.Sequential()
    layers.add_module("conv", conv)
    if norm:
        layers.add_module("norm", nn.BatchNorm2d(channels))
    layers.add_module("relu", nn.ReLU(inplace=True))
    return layers


def check_sizes(
    classes: int,
    widths: tuple[int, ...],
    encoder_convs: tuple[int, ...],
    decoder_convs: tuple[int, ...] = (1,),
    /,
    **others: int,
) -> None:
    """Raise ValueError unless these arguments of a network, which may come from a file, are in range."""
    if len(widths) != 5 or len(encoder_convs) != 5 or not 1 <= len(decoder_convs) <= 5:
        raise ValueError("widths and encoder_convs take five entries, decoder_convs one to five")
    if min(*widths, *encoder_convs, *decoder_convs, *others.values()) < 1:
        raise ValueError("every width and count must be at least 1")
    if not 2 <= classes <= MAX_CLASSES or sum(encoder_convs) + sum(decoder_convs) > MAX_LAYERS:
        raise ValueError(f"classes must be 2 to {MAX_CLASSES}, layers at most {MAX_LAYERS}")
