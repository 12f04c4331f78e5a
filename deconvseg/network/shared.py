"""One pass of the encoder for many regions: windows into its maps over a pyramid of the photo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from deconvseg.network.deconvnet import STRIDE, DeconvNet

LEVELS = 6
"""Half octaves: the last is 5.7 times the first, enough for a region of 112 pixels in a photo of 640."""

Box = tuple[int, int, int, int]


class Window(NamedTuple):
    """A square of the network's input size on a level's grid of 32 pixels.

    Attributes:
        level: of the pyramid, 0 the smallest; there the frame is as large as one window.
        top, left: in cells of 32 pixels from the frame's corner; may be negative.
    """

    level: int
    top: int
    left: int

    def rectangle(self, crop_size: int) -> Rectangle:
        """The same as a part of its level."""
        cells = crop_size // STRIDE
        return Rectangle(*self, self.top + cells, self.left + cells)


class Rectangle(NamedTuple):
    """Part of a level, in cells, half-open."""

    level: int
    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """In cells."""
        return (self.bottom - self.top) * (self.right - self.left)

    def holds(self, other: Rectangle) -> bool:
        """Whether all of another lies inside."""
        return self.level == other.level and self.united(other) == self

    def united(self, other: Rectangle) -> Rectangle:
        """The smallest rectangle around both, of one level."""
        return Rectangle(
            self.level,
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )


def level_side(level: int, crop_size: int) -> int:
    """Pixels of the frame's side on a level."""
    return round(crop_size * 2 ** (level / 2))


def nearest_window(box: Sequence[float], frame: Box, crop_size: int) -> Window:
    """The window that is nearest to a square: first in size, then in place.

    Args:
        box: x0 y0 x1 y1 in pixels of the photo.
        frame: the square that level 0 shows, in pixels of the photo.
        crop_size: side of a window in pixels of its level, a multiple of 32.
    """
    side = max(box[2] - box[0], box[3] - box[1])
    level = round(2 * math.log2((frame[2] - frame[0]) / side))
    level = min(max(level, 0), LEVELS - 1)
    scale = level_side(level, crop_size) / (frame[2] - frame[0])
    left, top = (
        round((((box[i] + box[i + 2]) / 2 - frame[i]) * scale - crop_size / 2) / STRIDE) for i in (0, 1)
    )
    return Window(level, top, left)


def photo_box(part: Rectangle, frame: Box, crop_size: int) -> Box:
    """Where part of a level lies in the photo: x0 y0 x1 y1, whole pixels, half-open, not empty."""
    cell = STRIDE * (frame[2] - frame[0]) / level_side(part.level, crop_size)
    x0, y0 = round(frame[0] + part.left * cell), round(frame[1] + part.top * cell)
    x1, y1 = round(frame[0] + part.right * cell), round(frame[1] + part.bottom * cell)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def cover(windows: Sequence[Window], crop_size: int) -> list[Rectangle]:
    """Rectangles for the encoder, each window inside one: together never larger than all windows apart."""
    found = [window.rectangle(crop_size) for window in windows]
    while pair := next((pair for pair in combinations(found, 2) if _saves(*pair)), None):
        found = [one for one in found if one not in pair] + [pair[0].united(pair[1])]
    return found


def _saves(one: Rectangle, other: Rectangle) -> bool:
    return one.level == other.level and one.united(other).area <= one.area + other.area


def encode(network: DeconvNet, image: Tensor) -> tuple[Tensor, ...]:
    """The encoder's maps of an image of any size.

    Args:
        network: any DeconvNet.
        image: float (1, 3, H, W), normalised as the network file says, H and W multiples of 32.

    Returns:
        The fifth pooling's features (C, H/32, W/32), and the switches of the poolings that the decoder
        undoes, the fifth first: uint8 (C, h, w), which of its four pixels is the maximum, 0 to 3 row by row.
        Unlike flat indices they do not depend on where in the image a window lies.
    """
    features, switches = network.pool(image)
    undone = list(reversed(switches))[: len(network.decoder)]
    return features[0], *(corners_of(indices[0]) for indices in undone)


def cut(maps: Sequence[Tensor], top: int, left: int, cells: int) -> tuple[Tensor, ...]:
    """The part of `encode`'s maps of `cells` x `cells` cells of 32 pixels, from `top` and `left` on."""
    parts = []
    for number, part in enumerate(maps):
        n = 2 ** max(number - 1, 0)  # the features and the fifth switches have one value a cell
        parts.append(part[:, top * n : (top + cells) * n, left * n : (left + cells) * n])
    return tuple(parts)


def decode(network: DeconvNet, maps: Sequence[Tensor]) -> Tensor:
    """Raw scores (B, classes, S, S) of B windows, from `cut`'s maps of each, stacked."""
    features, *corners = (part.contiguous(memory_format=torch.channels_last) for part in maps)
    return network.decode(network.compress(features), [_indices(part) for part in reversed(corners)])


def corners_of(indices: Tensor) -> Tensor:
    """Switches (C, h, w) as 0..3 instead of flat indices into the (2h, 2w) map."""
    offsets = indices - _first(indices)  # 0, 1, or a row of the map further on
    return (offsets > 1).to(torch.uint8) * 2 + offsets.to(torch.uint8) % 2


def _indices(corners: Tensor) -> Tensor:
    """The reverse: int64 (..., h, w)."""
    width = 2 * corners.shape[-1]
    return (corners >> 1).long().mul_(width).add_(corners & 1).add_(_first(corners))


def _first(switches: Tensor) -> Tensor:
    """Flat index in the (2h, 2w) map of the first of each four pixels: int64 (h, w)."""
    height, width = switches.shape[-2:]
    rows = torch.arange(height, device=switches.device)[:, None]
    return 4 * width * rows + 2 * torch.arange(width, device=switches.device)
