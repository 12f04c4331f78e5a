"""The part of a photo that is looked into, as the network gets it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.trace import Trace, trace
from deconvseg.proposals.boxes import shrink, squared
from deconvseg.regions import crop, normalised, on_device, whole_pixels
from deconvseg.segmentation import refuse_unknown
from deconvseg.segmenter import WORKING_SIDE, Segmenter

REACH = 2
"""A box may be so many times as long as its photo: the part outside is made of zeros, which take memory."""


@dataclass(frozen=True)
class Region:
    """A square of a photo.

    Attributes:
        box: x0 y0 x1 y1 in pixels of the photo, half-open; may reach outside it.
        crop: uint8 (S, S, 3), RGB; black outside the photo.
        inside: rows and columns of the crop that show any of the photo.
        inputs: float32 (1, 3, S, S): the crop as the network takes it, on its device.
    """

    box: tuple[float, float, float, float]
    crop: NDArray[np.uint8]
    inside: tuple[slice, slice]
    inputs: Tensor

    def cells(self, size: int) -> tuple[slice, slice]:
        """Rows and columns of a map of `size` x `size` cells that show any of the photo."""
        side = len(self.crop)
        rows, columns = (slice(s.start * size // side, -(-s.stop * size // side)) for s in self.inside)
        return rows, columns


def look_at(segmenter: Segmenter, photo: PhotoPixels, box: Sequence[float] | None = None) -> Region:
    """Cut a region out as `Segmenter` does: on the photo shrunk to 1024, squared, in whole pixels.

    Args:
        segmenter: with a DeconvNet, in precision `fp32`.
        photo: from `images.read.read_photo`.
        box: see `check_box`; widened to a square around its centre. None is the whole photo.

    Raises:
        UsageError: a box as of `check_box`, or a segmenter of another precision or network.
    """
    network = deconvnet_of(segmenter)
    if box is None:
        box = (0, 0, photo.width, photo.height)
    check_box(box, photo.width, photo.height)
    image = shrink(photo.image, WORKING_SIDE)
    scale = np.array([image.shape[1] / photo.width, image.shape[0] / photo.height] * 2)
    square = squared((np.array([box]) * scale).astype(np.float32))
    (whole,) = whole_pixels(square)
    pixels = crop(on_device(segmenter.inference.device, image), whole, network.side)
    left, top, right, bottom = whole
    rows = _overlap(top, bottom, image.shape[0], network.crop_size)
    columns = _overlap(left, right, image.shape[1], network.crop_size)
    x0, y0, x1, y1 = (np.array(whole) / scale).tolist()
    shown = pixels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    inputs = normalised(network, segmenter.header, pixels[None])
    return Region((x0, y0, x1, y1), shown, (rows, columns), inputs)


def follow(
    segmenter: Segmenter, photo: PhotoPixels, box: Sequence[float] | None, class_name: str | None
) -> tuple[Region, Trace, int | None]:
    """Send a region through the network: the region, what arose on the way, and the class's label.

    Args:
        segmenter, photo, box: as of `look_at`.
        class_name: of the network's classes, not background; None has no label.

    Raises:
        UsageError: no such class (the nearest is told), or what `look_at` refuses.
    """
    refuse_unknown([] if class_name is None else [class_name], segmenter.classes)
    region = look_at(segmenter, photo, box)
    label = None if class_name is None else segmenter.classes.index(class_name)
    return region, trace(deconvnet_of(segmenter), region.inputs), label


def _overlap(start: int, end: int, length: int, side: int) -> slice:
    """Which of `side` cells from `start` to `end` lie at least partly in 0 to `length`; never none."""
    cell = (end - start) / side
    first = min(max(math.floor(-start / cell), 0), side - 1)
    return slice(first, max(min(math.ceil((length - start) / cell), side), first + 1))


def deconvnet_of(segmenter: Segmenter) -> DeconvNet:
    """The network to look into.

    Raises:
        UsageError: it is an FCN-8s, or does not compute in float32, which gradients need.
    """
    network = segmenter.inference.network
    if not isinstance(network, DeconvNet):
        raise UsageError(
            f"{segmenter.weights}: is an FCN-8s, which has no unpooling to look into; give a DeconvNet"
        )
    if segmenter.precision != "fp32":
        raise UsageError(f"precision {segmenter.precision}: a network is looked into in fp32; ask for that")
    return network


def check_box(box: Sequence[float], width: int, height: int) -> None:
    """Raise a UsageError unless a box is x0 y0 x1 y1, finite and not empty, and shows some of a photo.

    It may reach outside the photo, as squares around proposals do, and be twice as long as it.
    """
    text = ",".join(f"{number:g}" for number in box)
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise UsageError(f"box {text}: is not four finite numbers; give x0,y0,x1,y1 in pixels")
    x0, y0, x1, y1 = box
    if x0 >= x1 or y0 >= y1:
        raise UsageError(f"box {text}: is empty or reversed; give x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        raise UsageError(f"box {text}: lies outside the photo, which has {width} x {height} pixels")
    if max(x1 - x0, y1 - y0) > REACH * max(width, height):
        raise UsageError(
            f"box {text}: is over {REACH} times as long as the photo, which has {width} x {height} pixels; "
            "give a smaller one"
        )
