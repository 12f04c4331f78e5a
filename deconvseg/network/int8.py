"""Convolutions in 8-bit arithmetic, oneDNN's: whole numbers go from layer to layer, sums have 32 bits.

On one core (AMD Zen 4) they take 0.25 of float32's time with VNNI, 0.43 with AVX2 alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from itertools import chain
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from deconvseg.network.base import SegmentationNetwork, unit

Range = tuple[float, float]
Ranges = Mapping[str, Range]
"""By the name of a convolution: the least and the largest number that enters it, of a typical photo."""

# The largest input of a typical photo (twice as much fits into 8 bits), and weight of an output channel.
_INPUTS, _WEIGHTS = 127, 127
# The same where inputs have signs: of a photo every grey level counts. Processors without VNNI add products
# in pairs, of at most 32,767, which 255 and 127 overflow in white parts of photos (4.6 points of mean IoU).
_SIGNED_INPUTS, _SIGNED_WEIGHTS = 255, 63


@cache
def works() -> bool:
    """Whether this torch has 8-bit convolutions that are right here: two small ones are tried."""
    try:
        return _is_right((0, 127), outside=(0, 127 * 2048)) and _is_right((-128, 127), outside=None)
    except (AttributeError, RuntimeError, TypeError):  # not there, not for this machine, or of another form
        return False


def _is_right(inside: Range, outside: Range | None) -> bool:
    """Whether a convolution of whole numbers has the right sums, or the multiples of 2048 beside them."""
    most = _SIGNED_WEIGHTS if inside[0] < 0 else _WEIGHTS
    weight = (torch.arange(16 * 16 * 9) * 37 % (2 * most + 1) - most).float().reshape(16, 16, 3, 3)
    weight[:, 0, 0, 0] = most  # of each channel, which makes its step 1
    exact: Any = unit(nn.Conv2d(16, 16, 3, padding=1), norm=False).requires_grad_(False)
    exact.conv.weight.copy_(weight)
    exact.conv.bias.copy_(torch.arange(-8, 8) * 1000)
    if outside is None:
        del exact.relu
    photo = (torch.arange(2 * 16 * 5 * 6) * 53 % 128 + inside[0] / 2).reshape(2, 16, 5, 6)
    found = _Convolution(exact, inside, outside)(photo)
    want = exact.double()(photo.double()) / (1 if outside is None else 2048)
    return bool((found - want).abs().max() <= (0 if outside is None else 0.5))


@torch.no_grad()
def observe(network: SegmentationNetwork, photos: Iterable[Tensor]) -> dict[str, Range]:
    """What `quantise` needs to know of a network: over the photos, each float32 (B, 3, H, W), one or several
    normalised crops, the median of its inputs' extremes."""
    convolutions = list(chain.from_iterable(network.chains()))
    found: dict[str, list[Range]] = {name: [] for _, name in convolutions}

    def note(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        low, high = inputs[0].aminmax()
        found[name].append((float(low), float(high)))

    hooks = [
        parent.get_submodule(name).register_forward_pre_hook(partial(note, name))
        for parent, name in convolutions
    ]
    for photo in photos:
        network(photo)
    for hook in hooks:
        hook.remove()
    return {
        name: (median(least for least, _ in extremes), median(most for _, most in extremes))
        for name, extremes in found.items()
    }


def quantise(network: SegmentationNetwork, ranges: Ranges) -> None:
    """Replace the convolutions of a network whose BatchNorms are folded away by 8-bit ones."""
    for convolutions in network.chains():
        following = [ranges[name] for _, name in convolutions[1:]]
        for (parent, name), outside in zip(convolutions, [*following, None], strict=True):
            setattr(parent, name, _Convolution(parent.get_submodule(name), ranges[name], outside))


class _Convolution(nn.Module):
    """A convolution of stride 1, with ReLU if its unit has one, of 8-bit numbers (or of floats, at first)."""

    def __init__(self, unit: nn.Module, inside: Range, outside: Range | None) -> None:
        super().__init__()
        conv = unit.get_submodule("conv")
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and not isinstance(conv.padding, str)
        weight, padding = conv.weight, list(conv.padding)
        if isinstance(conv, nn.ConvTranspose2d):  # one with stride 1 is a convolution with the kernel turned
            weight = weight.transpose(0, 1).flip(2, 3)
            padding = [size - 1 - border for size, border in zip(conv.kernel_size, padding, strict=True)]
        scales = weight.abs().amax((1, 2, 3)).clamp_min(1e-12)
        scales /= _SIGNED_WEIGHTS if inside[0] < 0 else _WEIGHTS
        self.numbers = (weight / scales.reshape(-1, 1, 1, 1)).round().to(torch.int8)
        self.scale, self.zero = _step(inside)
        form = [1, 1], padding, list(conv.dilation), 1
        ending = "relu" if hasattr(unit, "relu") else "none"
        result = (1.0, 0, torch.float32) if outside is None else (*_step(outside), torch.uint8)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        self.rest: tuple[Any, ...] = scales, zeros, conv.bias, *form, *result, ending, [], ""
        self._pack()

    def _pack(self) -> None:
        scales, _, _, *form = self.rest[:7]
        self.packed = torch.ops.onednn.qconv_prepack(self.numbers, scales, self.scale, self.zero, *form)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"packed": None}  # in the processor's own order, which no pickle holds

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack()

    def forward(self, features: Tensor) -> Tensor:
        if features.is_floating_point():
            features = (features / self.scale + (self.zero + 0.5)).clamp_(0, 255).to(torch.uint8)
        features = features.contiguous(memory_format=torch.channels_last)
        found: Tensor = torch.ops.onednn.qconv2d_pointwise(
            features, self.scale, self.zero, self.packed, *self.rest
        )
        return found


def _step(extremes: Range) -> tuple[float, int]:
    """What one step of 8-bit numbers stands for, and the one that stands for 0."""
    low, high = min(extremes[0], 0.0), max(extremes[1], 1e-12)
    step = (high - low) / (_SIGNED_INPUTS if low < 0 else _INPUTS)
    return step, round(-low / step)
