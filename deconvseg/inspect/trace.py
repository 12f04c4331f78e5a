"""A region of a photo on its way through a DeconvNet: every pooling, and every map of the decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.proposals.boxes import shrink, squared
from deconvseg.regions import crop, normalised, on_device, whole_pixels
from deconvseg.segmentation import refuse_unknown
from deconvseg.segmenter import WORKING_SIDE, Segmenter

Box = Sequence[float]
_REACH = 2
"""A box may be so many times as long as its photo: the part outside is made of zeros, which take memory."""


@dataclass(frozen=True)
class Trace:
    """A square of a photo and what a network makes of it.

    Attributes:
        numbers: `width` and `height` of the photo, the `box` x0 y0 x1 y1 cut out in its pixels, half-open,
            which may reach outside it, and the `class` asked for.
        crop: uint8 (S, S, 3), RGB; black outside the photo.
        inside: rows and columns of the crop that show any of the photo.
        encoded: float32 (C, 2h, 2w), the encoder's maps before each of the five poolings.
        switches: int64 (C, h, w) of each pooling, as of `DeconvNet.encode`.
        decoded: the decoder's maps by name, float32 (C, h, w), in the order they arise: `fc6_deconv`, then of
            each block `unpool5`, `deconv5_1`, ... All have passed ReLU, so none is negative.
        scores: float32 (classes, S, S), raw.
        driving: by name of `decoded`, the channel that drives the class asked for most; empty without one.
    """

    numbers: dict[str, object]
    crop: NDArray[np.uint8]
    inside: tuple[slice, slice]
    encoded: list[Tensor]
    switches: list[Tensor]
    decoded: dict[str, Tensor]
    scores: Tensor
    driving: dict[str, int]

    def cells(self, size: int) -> list[slice]:
        """Rows and columns of a map of `size` x `size` cells that show any of the photo."""
        side = len(self.crop)
        return [slice(s.start * size // side, -(-s.stop * size // side)) for s in self.inside]

    def means(self, maps: Tensor) -> Tensor:
        """The mean of each of the maps (C, h, h) inside the photo: (C)."""
        return maps[:, *self.cells(maps.shape[-1])].mean((1, 2))


def trace(segmenter: Segmenter, photo: PhotoPixels, box: Box | None, class_name: str | None) -> Trace:
    """Cut a region out as `Segmenter` does, on the photo shrunk to 1024, and follow it through the network.

    Args:
        segmenter: with a DeconvNet, in precision `fp32`.
        photo: from `images.read.read_photo`.
        box: x0 y0 x1 y1 in pixels of the photo, widened to a square around its centre; it may reach outside
            the photo, and be twice as long as it. None is the whole photo.
        class_name: of the network's classes, not background.

    Raises:
        UsageError: no such class, no such box, a network that is no DeconvNet, or another precision.
    """
    refuse_unknown([] if class_name is None else [class_name], segmenter.classes)
    network = segmenter.inference.network
    if not isinstance(network, DeconvNet):
        raise UsageError(f"{segmenter.weights}: is an FCN-8s, which unpools nothing; give a DeconvNet")
    if segmenter.inference.precision != "fp32":
        raise UsageError(
            f"precision {segmenter.inference.precision}: a network is looked into in fp32; ask for that"
        )
    box = _checked(box, photo.width, photo.height)
    image = shrink(photo.image, WORKING_SIDE)
    scale = np.array([image.shape[1] / photo.width, image.shape[0] / photo.height] * 2)
    (whole,) = whole_pixels(squared((np.array([box]) * scale).astype(np.float32)))
    pixels = crop(on_device(segmenter.inference.device, image), whole, network.side)
    left, top, right, bottom = whole
    rows = _overlap(top, bottom, image.shape[0], network.crop_size)
    columns = _overlap(left, right, image.shape[1], network.crop_size)
    maps, switches, scores = follow(network, normalised(network, segmenter.header, pixels[None]))
    encoded = [maps.pop(f"pool{number}")[0] for number in range(1, 6)]
    driving = {}
    if class_name is not None:
        label = segmenter.classes.index(class_name)
        score = (scores[label] * scores.detach().softmax(0)[label])[rows, columns].sum()
        drives = zip(maps.items(), torch.autograd.grad(score, list(maps.values())), strict=True)
        driving = {name: int((found * by)[0].sum((1, 2)).argmax()) for (name, found), by in drives}
    decoded = {name: found[0].detach() for name, found in maps.items()}
    place = (np.array(whole) / scale).tolist()
    numbers = {"width": photo.width, "height": photo.height, "box": place, "class": class_name}
    shown = pixels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Trace(numbers, shown, (rows, columns), encoded, switches, decoded, scores.detach(), driving)


def follow(network: DeconvNet, image: Tensor) -> tuple[dict[str, Tensor], list[Tensor], Tensor]:
    """Send an image float32 (1, 3, S, S) through a network in evaluation mode and keep what arises.

    Returns:
        Maps (1, C, h, w) by name (`pool1` ... before the poolings, and those of the decoder), the switches,
        and the scores (classes, S, S), which have gradients by the decoder's maps, but not by the encoder's.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: object, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
            maps[name] = inputs[0] if output is None else output

        return hook

    hooks = [stage.register_forward_hook(keep(f"pool{n}")) for n, stage in enumerate(network.encoder, 1)]
    hooks.append(network.fc6_deconv.register_forward_hook(keep("fc6_deconv")))
    for block, stage in zip(range(5, 0, -1), network.decoder, strict=False):
        hooks.append(stage.register_forward_pre_hook(keep(f"unpool{block}")))
        hooks.extend(layer.register_forward_hook(keep(name)) for name, layer in stage.named_children())
    try:
        with torch.no_grad():
            code, switches = network.encode(image)
        with torch.enable_grad():
            scores = network.decode(code.detach().requires_grad_(), switches)
    finally:
        for hook in hooks:
            hook.remove()
    return maps, [where[0] for where in switches], scores[0]


def _overlap(start: int, end: int, length: int, side: int) -> slice:
    """Which of `side` cells from `start` to `end` lie at least partly in 0 to `length`; never none."""
    cell = (end - start) / side
    first = min(max(math.floor(-start / cell), 0), side - 1)
    return slice(first, max(min(math.ceil((length - start) / cell), side), first + 1))


def _checked(box: Box | None, width: int, height: int) -> Box:
    if box is None:
        return 0, 0, width, height
    x0, y0, x1, y1 = box
    inside = max(x0, 0) < min(x1, width) and max(y0, 0) < min(y1, height)
    if not (inside and max(x1 - x0, y1 - y0) <= _REACH * max(width, height)):  # NaN is in no order
        text = ",".join(f"{number:g}" for number in box)
        photo = f"the photo of {width} x {height} pixels, or is over {_REACH} times as long"
        raise UsageError(f"box {text}: shows nothing of {photo}; give x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    return box
