"""Regions of a photo as the network takes them: crops, or windows into a shared encoder's maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.network import shared
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.deconvnet import STRIDE, DeconvNet

Box = tuple[int, int, int, int]


class Regions(Protocol):
    """What one photo gives to the network."""

    @property
    def boxes(self) -> Sequence[Box]:
        """The regions looked at, best first: x0 y0 x1 y1 in whole pixels, half-open."""
        ...

    def inputs(self, index: int, /) -> tuple[Tensor, ...]:
        """Of one region; those of many are stacked for `scores`."""
        ...


class Crops:
    """Each region is cut out of the photo and goes through the whole network.

    Args:
        network: of square crops.
        photo: uint8 (3, H, W).
        boxes: float32 (N, 4).
    """

    def __init__(self, network: SegmentationNetwork, photo: Tensor, boxes: NDArray[np.float32]) -> None:
        self.boxes = _whole_pixels(boxes)
        self._photo, self._side = photo, network.side

    def inputs(self, index: int, /) -> tuple[Tensor, ...]:
        """The crop, float (3, S, S) of 0..255."""
        return (crop(self._photo, self.boxes[index], (self._side, self._side)),)


class Windows:
    """Regions move to the nearest windows of a pyramid, whose levels go through the encoder as a whole.

    Only those parts of a level that windows need do so, when the first of their windows is asked for. Regions
    that move to the same window are looked at once.

    Args:
        network: the DeconvNet.
        header: of its file.
        photo: uint8 (3, H, W).
        boxes: float32 (N, 4), squares.
    """

    def __init__(
        self, network: DeconvNet, header: NetworkHeader, photo: Tensor, boxes: NDArray[np.float32]
    ) -> None:
        self._network, self._header, self._photo = network, header, photo
        height, width = photo.shape[1:]
        half = max(height, width) / 2
        middle = width / 2, height / 2
        around = np.array([[middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half]])
        (self._frame,) = _whole_pixels(around)
        side = network.crop_size
        nearest = (shared.nearest_window(box, self._frame, side) for box in boxes.tolist())
        windows = list(dict.fromkeys(nearest))
        self._parts = [window.rectangle(side) for window in windows]
        self.boxes = [shared.photo_box(part, self._frame, side) for part in self._parts]
        self._rectangles = shared.cover(windows, side)
        self._maps: dict[shared.Rectangle, tuple[Tensor, ...]] = {}

    def inputs(self, index: int, /) -> tuple[Tensor, ...]:
        """The window's part of the encoder's maps, as `network.shared.cut` makes it."""
        part = self._parts[index]
        rectangle = next(one for one in self._rectangles if one.holds(part))
        if rectangle not in self._maps:
            self._maps[rectangle] = self._encode(rectangle)
        top, left = part.top - rectangle.top, part.left - rectangle.left
        return shared.cut(self._maps[rectangle], top, left, part.bottom - part.top)

    def _encode(self, part: shared.Rectangle) -> tuple[Tensor, ...]:
        box = shared.photo_box(part, self._frame, self._network.crop_size)
        size = STRIDE * (part.bottom - part.top), STRIDE * (part.right - part.left)
        image = crop(self._photo, box, size)
        with torch.inference_mode():
            return shared.encode(self._network, normalised(self._network, self._header, image[None]))


def scores(
    network: SegmentationNetwork, header: NetworkHeader, inputs: Sequence[Tensor], *, encoded: bool
) -> Tensor:
    """Raw scores (B, C, S, S) of stacked inputs, of `Windows` if they are `encoded`, else of `Crops`."""
    with torch.inference_mode():
        if encoded:
            assert isinstance(network, DeconvNet)
            return shared.decode(network, inputs)
        found: Tensor = network(normalised(network, header, inputs[0]))
        return found


def normalised(network: SegmentationNetwork, header: NetworkHeader, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) of 0..255 as the network takes them."""
    mean = torch.tensor(header.mean, device=images.device).view(3, 1, 1)
    dtype = next(network.parameters()).dtype
    return ((images - mean) * header.scale).to(dtype, memory_format=torch.channels_last)


def on_device(device: torch.device, image: NDArray[np.uint8]) -> Tensor:
    """A photo as uint8 (3, H, W) on a device."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)


def crop(photo: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """One region as float (3, *size) of 0..255; what lies outside the photo is black."""
    x0, y0, x1, y1 = box
    _, height, width = photo.shape
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    region = torch.zeros(1, 3, y1 - y0, x1 - x0, device=photo.device)
    region[0, :, top - y0 : bottom - y0, left - x0 : right - x0] = photo[:, top:bottom, left:right]
    return functional.interpolate(region, size, mode="bilinear", antialias=True, align_corners=False)[0]


def _whole_pixels(boxes: NDArray[np.float32]) -> list[Box]:
    """Boxes rounded to pixels, at least one pixel wide and high."""
    rounded = []
    for x0, y0, x1, y1 in boxes.tolist():
        left, top = round(x0), round(y0)
        rounded.append((left, top, max(round(x1), left + 1), max(round(y1), top + 1)))
    return rounded
