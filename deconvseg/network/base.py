"""What every network here is: an encoder of VGG-16's form, and scores for the photo or crop that went in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.errors import UsageError

STRIDE = 32  # pixels a cell of the last of five 2x2 poolings
Network = TypeVar("Network", bound="SegmentationNetwork")
Chain = list[tuple[nn.Module, str]]
"""Units with nothing but pooling between them: the module each is in, and its name there."""


class SegmentationNetwork(nn.Module):
    """Base of the networks; they know nothing of photos, files or classes' names.

    Its constructor takes the `locals()` of theirs, of which all have `classes` (labels, background first),
    `widths` (channels of the encoder's blocks) and `encoder_convs` (3x3 convolutions in each). All raise
    ValueError for an argument out of range.
    """

    architecture: ClassVar[str]  # its name in network files
    sees_whole_photo: ClassVar[bool] = False  # of any size; else square crops of its regions
    tells_classes: ClassVar[bool] = False  # whether its code is scores of which classes the photo shows
    heads: ClassVar[tuple[str, ...]] = ()  # units besides the encoder's and a decoder's for 8-bit numbers
    doubt: Tensor  # (classes,) if it is: the chance of each at which the prior leaves its pixels as they are
    arguments: dict[str, Any]  # what its constructor was given, fit for JSON
    side: int  # a whole photo enters with its longer side scaled to this many pixels
    dropout: float  # share of fc6's and fc7's outputs that is dropped in training
    encoder: nn.ModuleList  # five blocks of convolutions `conv{block}_{i}`, each with a pooling after it

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__()
        own = {name: value for name, value in given.items() if name not in ("self", "__class__")}
        self.arguments = {key: tuple(v) if isinstance(v, list | tuple) else v for key, v in own.items()}
        widths, encoder, decoder = own["widths"], own["encoder_convs"], own.get("decoder_convs", (1,))
        if len(widths) != 5 or len(encoder) != 5 or not 1 <= len(decoder) <= 5:
            raise ValueError("widths and encoder_convs take five entries, decoder_convs one to five")
        if min(*(n for n in own.values() if type(n) is int), *widths, *encoder, *decoder) < 1:
            raise ValueError("every width and count must be at least 1")
        if not 2 <= own["classes"] <= 255:
            raise ValueError("classes must be 2 to 255")
        self.dropout = own.get("dropout", 0.0)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not a share below 1")

    def scores_and_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B, classes, H, W) of images (B, 3, H, W), and fc7's output (B, bottleneck, h, w)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Raw scores (B, classes, H, W), no softmax, of images (B, 3, H, W) normalised as the file says."""
        return self.scores_and_code(images)[0]

    def fold(self) -> None:
        """Put BatchNorms into the convolutions beside them, for good."""
        for module in list(self.modules()):
            if hasattr(module, "relu") and hasattr(module, "norm"):
                fold_into_previous(module.conv, module.norm)
                del module.norm

    def chains(self) -> list[Chain]:
        """The units that 8-bit numbers can go through, those together that feed one another."""
        encoder = [(stage, name) for stage in self.encoder for name, _ in stage.named_children()]
        heads: list[Chain] = [[(self, name)] for name in self.heads]
        return [encoder, *heads]

    def drop(self, features: Tensor) -> Tensor:
        """Features of fc6 or fc7 with dropout in training; the same ones otherwise."""
        return functional.dropout(features, self.dropout, self.training)


def pool(features: Tensor, *, ceil_mode: bool = False) -> Tensor:
    """Maxima of 2 x 2 windows; torch has none of 8-bit numbers for large maps."""
    if features.dtype != torch.uint8:
        return functional.max_pool2d(features, 2, ceil_mode=ceil_mode)
    if ceil_mode:
        features = functional.pad(features, (0, features.shape[3] % 2, 0, features.shape[2] % 2))
    first, second, third, fourth = _corners(features)
    return torch.maximum(torch.maximum(first, second), torch.maximum(third, fourth))


def pool_with_switches(features: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of 2 x 2 windows, and where they were, (B, C, h, w): int64, the flat index in the map before
    pooling; of 8-bit numbers uint8, 0 to 3."""
    if features.dtype != torch.uint8:
        return functional.max_pool2d(features, 2, return_indices=True)
    first, *others = _corners(features)
    found = first.contiguous(memory_format=torch.channels_last)
    where = torch.zeros_like(found)
    for place, corner in enumerate(others, start=1):
        torch.maximum(where, (corner > found).view(torch.uint8).mul_(place), out=where)
        torch.maximum(found, corner, out=found)
    return found, where


def unpool(features: Tensor, switches: Tensor) -> Tensor:
    """Each number (B, C, h, w) to the place that its switch tells, zeros elsewhere: (B, C, 2h, 2w)."""
    batch, channels, height, width = features.shape
    size = (batch, channels, 2 * height, 2 * width)
    if switches.dtype != torch.uint8:
        # `functional.max_unpool2d` imports SymPy before: half a second of the first photo.
        enlarged: Tensor = torch.ops.aten.max_unpool2d(features, switches, size[2:])
        return enlarged
    enlarged = torch.empty(size, dtype=features.dtype, memory_format=torch.channels_last)
    for place, corner in enumerate(_corners(enlarged)):
        torch.mul(features, switches == place, out=corner)
    return enlarged


def _corners(features: Tensor) -> list[Tensor]:
    """Views of the four places of every 2 x 2 window; what is left over at the end is in none."""
    height, width = (size // 2 * 2 for size in features.shape[2:])
    return [features[:, :, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]


def rebuilt(network: Network, tensors: Mapping[str, Tensor] | None = None, **changes: Any) -> Network:
    """A network with some other arguments and these tensors, or its own; others are initialised anew."""
    other = type(network)(**{**network.arguments, **changes})
    tensors = network.state_dict() if tensors is None else tensors
    other.load_state_dict({**other.state_dict(), **tensors})
    return other


def replace_classes(network: Network, classes: int) -> Network:
    """The same network for other classes: all but the layers of scores and an FCN's doubts, which are new."""
    state = network.state_dict().items()
    kept = {name: tensor for name, tensor in state if "score" not in name or ".norm." in name}
    kept.pop("doubt", None)
    return rebuilt(network, kept, classes=classes)


@torch.no_grad()
def average(first: nn.Module, second: nn.Module, share: float) -> None:
    """Move weights of the first towards the second's (Wortsman et al. 2022, "Model soups").

    The first, float32, is changed in place, BatchNorm's statistics as well; `share` is the second's, 0..1.
    Raises UsageError if the two have different layers.
    """
    own, other = first.state_dict(), second.state_dict()
    if {name: v.shape for name, v in own.items()} != {name: v.shape for name, v in other.items()}:
        raise UsageError("different layers have no average; take two of one training")
    for name, values in own.items():
        if values.is_floating_point():
            values.lerp_(other[name], share)


def vgg_encoder(
    widths: tuple[int, ...], convs: tuple[int, ...], *, norm: bool, padding: int = 1
) -> nn.ModuleList:
    """Five blocks of 3x3 convolutions, named as VGG-16's, without poolings; all but the first pad by 1."""
    blocks, channels = nn.ModuleList(), 3
    for block, (width, count) in enumerate(zip(widths, convs, strict=True), start=1):
        stage = nn.Sequential()
        for i in range(1, count + 1):
            conv = nn.Conv2d(channels, width, 3, padding=padding if block == i == 1 else 1)
            stage.add_module(f"conv{block}_{i}", unit(conv, norm=norm))
            channels = width
        blocks.append(stage)
    return blocks


def unit(conv: nn.Conv2d | nn.ConvTranspose2d, *, norm: bool) -> nn.Sequential:
    """A (transposed) convolution `conv`, with a BatchNorm `norm` if wanted, and ReLU."""
    norms = {"norm": nn.BatchNorm2d(conv.out_channels)} if norm else {}
    return nn.Sequential(OrderedDict(conv=conv, **norms, relu=nn.ReLU(inplace=True)))


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def fold_into_previous(conv: Any, norm: Any) -> None:
    """Have a convolution do what the BatchNorm behind it does."""
    scale, shift = _affine(norm)
    conv.weight.mul_(scale.reshape((1, -1, 1, 1) if conv.transposed else (-1, 1, 1, 1)))
    conv.bias.copy_(conv.bias * scale + shift)


def fold_into_next(norm: Any, conv: Any) -> None:
    """Have a convolution do what the BatchNorm before it does; exact where it has no padding, so that every
    kernel position sees normalised values."""
    scale, shift = (values.reshape(1, -1, 1, 1) for values in _affine(norm))
    conv.bias.copy_(conv.bias + (conv.weight * shift).sum((1, 2, 3)))
    conv.weight.mul_(scale)
