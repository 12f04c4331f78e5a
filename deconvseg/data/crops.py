"""What a training example is: square regions around objects, cut from photos held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from deconvseg.data.masks import VOID
from deconvseg.errors import DataError
from deconvseg.images.components import components
from deconvseg.machine import available_memory, pool

OVERSAMPLE = 2
"""Samples per output pixel and axis; their mean is what keeps shrunk crops free of aliasing."""
MIN_OBJECT_SHARE = 0.002
"""Components smaller than this share of the photo are slivers cut off by a void border, not objects."""
MOST_OBJECTS = 255
"""Objects of a photo beyond this number are left out: their numbers are kept in a byte."""
_BETWEEN_CHECKS = 256
"""Photos between two looks at the memory that is left."""

Pair: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A photo, uint8 (H, W, 3) RGB, and its mask, uint8 (H, W): class indices, 255 for void."""


class Object(NamedTuple):
    """A connected object of a mask: its class, and its tight box x0 y0 x1 y1 in pixels, half-open."""

    label: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class ImageStore:
    """Photos and masks of a data set in memory, each at its own size.

    Attributes:
        images: uint8 (3, H, W) RGB of each photo.
        labels: uint8 (H, W) of each photo: class indices, 255 for void.
        objects: the connected objects of each photo's labels.
        canvas: H and W are at most this.
        parts: uint8 (H, W) of each photo: 1-based number of the object that a pixel belongs to, 0 where it
            belongs to none; None until `with_parts`.
    """

    images: Sequence[Tensor]
    labels: Sequence[Tensor]
    objects: Sequence[Sequence[Object]]
    canvas: int
    parts: Sequence[Tensor] | None = None

    @classmethod
    def load(
        cls, readers: Sequence[Callable[[], Pair]], canvas: int = 384, *, workers: int = 0
    ) -> ImageStore:
        """Reads photos with their masks; those with a longer side than the canvas are shrunk to it.

        Args:
            readers: each returns a photo with its mask, or raises what is wrong with them.
            canvas: in pixels.
            workers: threads that read, 0 or more.

        Raises:
            DataError: the photos need more memory than there is.
        """
        images, labels, objects_ = [], [], []
        with pool(workers) as call_each:
            for image, mask, found in call_each(partial(_read, canvas=canvas), readers):
                images.append(image)
                labels.append(mask)
                objects_.append(found)
                if len(labels) % _BETWEEN_CHECKS == 0:
                    _refuse_too_large(labels, len(readers))
        return cls(images, labels, objects_, canvas)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sizes(self) -> Tensor:
        """Heights and widths in pixels, int64 (N, 2)."""
        return torch.tensor([labels.shape for labels in self.labels]).reshape(-1, 2)

    def with_parts(self) -> ImageStore:
        """The same store with `parts`; its labels must be in main memory."""
        parts = [torch.from_numpy(_numbered_objects(labels.numpy())[0]) for labels in self.labels]
        return replace(self, parts=parts)

    def to(self, device: torch.device) -> ImageStore:
        """The store on another device."""

        def moved(maps: Sequence[Tensor]) -> list[Tensor]:
            return [values.to(device) for values in maps]

        parts = None if self.parts is None else moved(self.parts)
        return replace(self, images=moved(self.images), labels=moved(self.labels), parts=parts)


def objects(mask: NDArray[np.uint8]) -> list[Object]:
    """The connected objects (8 neighbours) of a mask (H, W), by class, then in reading order.

    Components under 0.2 % of the photo are left out, and those beyond the first 255 of a photo.
    """
    return _numbered_objects(mask)[1]


def _numbered_objects(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[Object]]:
    """Number of each pixel's object, uint8 (H, W), 0 for none, and the objects."""
    parts, found = components(mask)
    kept = np.flatnonzero(found.areas >= MIN_OBJECT_SHARE * mask.size)[:MOST_OBJECTS]
    number = np.zeros(len(found.areas) + 1, np.uint8)
    number[kept + 1] = np.arange(1, len(kept) + 1)
    rows = zip(found.labels[kept].tolist(), found.boxes[kept].tolist(), strict=True)
    return number[parts], [Object(label, (x0, y0, x1, y1)) for label, (x0, y0, x1, y1) in rows]


def _read(reader: Callable[[], Pair], canvas: int) -> tuple[Tensor, Tensor, list[Object]]:
    """Photo (3, H, W), mask and objects, shrunk if a side is longer than the canvas."""
    image, mask = reader()
    scale = canvas / max(mask.shape)
    if scale < 1:
        size = max(round(mask.shape[1] * scale), 1), max(round(mask.shape[0] * scale), 1)
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        mask = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask), objects(mask)


def _refuse_too_large(read: Sequence[Tensor], count: int) -> None:
    """Raise a DataError if those that are still to be read will not fit beside those that are."""
    mean = sum(labels.numel() for labels in read) * 4 / len(read)
    needed, available = (count - len(read)) * mean, available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"{count} photos need {count * mean / 1e9:.1f} GB of memory, after the first {len(read)} "
            f"{available / 1e9:.1f} GB are free; take a smaller canvas or fewer photos"
        )


def cut_crops(
    store: ImageStore, index: Tensor, boxes: Tensor, mirror: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Cut, scale and mirror a batch of regions on the store's device, all at once.

    Args:
        store: photos and masks.
        index: int64 (B,), which photo; best in main memory.
        boxes: float (B, 4), x0 y0 x1 y1 in pixels; parts outside the photo become black and void.
        mirror: bool (B,), flip left and right.
        size: side of a crop in pixels.

    Returns:
        Crops float32 (B, 3, size, size) of 0..255, labels int64 (B, size, size).
    """
    canvas = store.canvas
    fine = sampling_grid(boxes, mirror, size * OVERSAMPLE, canvas, canvas)
    images = _on_canvas(store.images, index, canvas)
    crops = functional.grid_sample(images, fine, mode="bilinear", align_corners=False)
    # Void is 255 and grid_sample pads with 0: counting down from void makes the padding void.
    labels = VOID - _on_canvas(store.labels, index, canvas, VOID)
    grid = sampling_grid(boxes, mirror, size, canvas, canvas)
    return functional.avg_pool2d(crops, OVERSAMPLE), VOID - _nearest(labels, grid)


def cut_parts(store: ImageStore, index: Tensor, boxes: Tensor, mirror: Tensor, size: int) -> Tensor:
    """Object numbers of the same crops that `cut_crops` cuts, pixel for pixel.

    Args:
        store, index, boxes, mirror, size: as in `cut_crops`; the store must have `parts`.

    Returns:
        int64 (B, size, size): number of the object in its photo, 1 and up; 0 for none and outside the photo.
    """
    assert store.parts is not None, "make them with ImageStore.with_parts"
    grid = sampling_grid(boxes, mirror, size, store.canvas, store.canvas)
    return _nearest(_on_canvas(store.parts, index, store.canvas), grid)


def _on_canvas(maps: Sequence[Tensor], index: Tensor, canvas: int, fill: int = 0) -> Tensor:
    """Maps (..., H, W) in the top-left corner of a canvas each, as float32 (B, ..., canvas, canvas)."""
    first = maps[0]
    shape = len(index), *first.shape[:-2], canvas, canvas
    laid = torch.full(shape, float(fill), device=first.device)
    for target, i in zip(laid, index.tolist(), strict=True):
        target[..., : maps[i].shape[-2], : maps[i].shape[-1]] = maps[i]
    return laid


def sampling_grid(
    boxes: Tensor, mirror: Tensor, size: int, width: float | Tensor, height: float | Tensor
) -> Tensor:
    """Where the pixels of crops lie on a map, as `torch.nn.functional.grid_sample` wants it.

    Args:
        boxes: float (B, 4), x0 y0 x1 y1 in pixels.
        mirror: bool (B,), flip left and right.
        size: side of a crop in pixels.
        width, height: of the map in the boxes' pixels, whatever number of cells it has; a number, or (B, 1).

    Returns:
        float32 (B, size, size, 2), x and y; -1 to 1 is the map from border to border.
    """
    steps = (torch.arange(size, device=boxes.device, dtype=torch.float32) + 0.5) / size
    x = torch.where(mirror[:, None], 1 - steps, steps.expand(len(boxes), -1))
    x = boxes[:, :1] + x * (boxes[:, 2:3] - boxes[:, :1])
    y = boxes[:, 1:2] + steps * (boxes[:, 3:] - boxes[:, 1:2])
    x, y = 2 * x / width - 1, 2 * y / height - 1
    return torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)


def _nearest(maps: Tensor, grid: Tensor) -> Tensor:
    """Values int64 (B, S, S) of maps (B, H, W) at a grid, 0 outside."""
    values = functional.grid_sample(maps[:, None], grid, mode="nearest", align_corners=False)
    return values[:, 0].round().long()
