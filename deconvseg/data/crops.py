"""What a training example is: square regions around objects, cut from photos held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from deconvseg.data.masks import VOID
from deconvseg.errors import DataError
from deconvseg.images.components import components
from deconvseg.machine import available_memory

ENLARGE = 1.2
"""Context around an object's box (paper section 4.1): each side times 1.2."""
OVERSAMPLE = 2
"""Samples per output pixel and axis; their mean is what keeps shrunk crops free of aliasing."""
MIN_OBJECT_SHARE = 0.002
"""Components smaller than this share of the photo are slivers cut off by a void border, not objects."""
MOST_OBJECTS = 255
"""Objects of a photo beyond this number are left out: their numbers are kept in a byte."""


@dataclass(frozen=True)
class ImageStore:
    """Photos and masks of a data set in memory, each in the top-left corner of a square canvas.

    Attributes:
        images: uint8 (N, 3, S, S) RGB, zero outside the photo.
        labels: uint8 (N, S, S), 255 (void) outside the photo.
        sizes: int64 (N, 2), height and width in pixels.
        parts: uint8 (N, S, S), 1-based number of the object, in the order of `objects`, that a pixel belongs
            to, 0 where it belongs to none; None until `with_parts`.
    """

    images: Tensor
    labels: Tensor
    sizes: Tensor
    parts: Tensor | None = None

    @classmethod
    def load(
        cls, pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], count: int, canvas: int = 384
    ) -> ImageStore:
        """Fill a store; photos with a longer side than the canvas are shrunk to it.

        Args:
            pairs: photos uint8 (H, W, 3) with masks uint8 (H, W).
            count: how many pairs will come.
            canvas: S in pixels.

        Raises:
            DataError: the photos need more memory than there is.
        """
        _refuse_too_large(count, canvas, 4)
        images = torch.zeros(count, 3, canvas, canvas, dtype=torch.uint8)
        labels = torch.full((count, canvas, canvas), VOID, dtype=torch.uint8)
        sizes = torch.zeros(count, 2, dtype=torch.int64)
        for i, (image, mask) in enumerate(pairs):
            scale = canvas / max(mask.shape)
            if scale < 1:
                width, height = (max(round(side * scale), 1) for side in mask.shape[::-1])
                image = _resize(image, width, height, Image.Resampling.BOX)
                mask = _resize(mask, width, height, Image.Resampling.NEAREST)
            height, width = mask.shape
            images[i, :, :height, :width] = torch.from_numpy(image).permute(2, 0, 1)
            labels[i, :height, :width] = torch.from_numpy(mask)
            sizes[i] = torch.tensor([height, width])
        return cls(images, labels, sizes)

    def __len__(self) -> int:
        return len(self.images)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Mask of one photo, uint8 (H, W)."""
        height, width = self.sizes[index].tolist()
        return self.labels[index, :height, :width].numpy()

    def with_parts(self) -> ImageStore:
        """The same store with `parts`, found in the labels, which must be in main memory.

        Raises:
            DataError: there is no memory left for them.
        """
        _refuse_too_large(len(self), self.labels.shape[-1], 1)
        parts = torch.zeros_like(self.labels)
        for i in range(len(self)):
            numbers, _ = _numbered_objects(self.mask(i))
            height, width = numbers.shape
            parts[i, :height, :width] = torch.from_numpy(numbers)
        return replace(self, parts=parts)

    def to(self, device: torch.device) -> ImageStore:
        """The store on another device; `sizes`, read one at a time, stay in main memory."""
        parts = None if self.parts is None else self.parts.to(device)
        return ImageStore(self.images.to(device), self.labels.to(device), self.sizes, parts)


def objects(mask: NDArray[np.uint8]) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Class and tight box (x0, y0, x1, y1, half-open pixels) of every connected object (8 neighbours).

    Components under 0.2 % of the photo are left out, and those beyond the first 255 of a photo.
    """
    yield from _numbered_objects(mask)[1]


def _numbered_objects(
    mask: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], list[tuple[int, tuple[int, int, int, int]]]]:
    """Number of each pixel's object, uint8 (H, W), 0 for none, and the objects' classes and boxes."""
    parts, found = components(mask)
    kept = np.flatnonzero(found.areas >= MIN_OBJECT_SHARE * mask.size)[:MOST_OBJECTS]
    number = np.zeros(len(found.areas) + 1, np.uint8)
    number[kept + 1] = np.arange(1, len(kept) + 1)
    rows = zip(found.labels[kept].tolist(), found.boxes[kept].tolist(), strict=True)
    return number[parts], [(label, (x0, y0, x1, y1)) for label, (x0, y0, x1, y1) in rows]


def _resize(
    pixels: NDArray[np.uint8], width: int, height: int, resampling: Image.Resampling
) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(pixels).resize((width, height), resampling))


def _refuse_too_large(count: int, canvas: int, bytes_a_pixel: int) -> None:
    needed, available = count * canvas * canvas * bytes_a_pixel, available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"{count} photos on a canvas of {canvas} pixels need {needed / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are free; take a smaller canvas or fewer photos"
        )


def square_boxes(boxes: Tensor, enlarge: float = ENLARGE) -> Tensor:
    """Boxes (N, 4) enlarged about their centre, then widened to squares of the longer side."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = enlarge * (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], 1)


def cut_crops(
    store: ImageStore, index: Tensor, boxes: Tensor, mirror: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Cut, scale and mirror a batch of regions on the store's device, all at once.

    Args:
        store: photos and masks.
        index: int64 (B,), which photo.
        boxes: float (B, 4), x0 y0 x1 y1 in pixels; parts outside the photo become black and void.
        mirror: bool (B,), flip left and right.
        size: side of a crop in pixels.

    Returns:
        Crops float32 (B, 3, size, size) of 0..255, labels int64 (B, size, size).
    """
    canvas = store.images.shape[-1]
    fine = sampling_grid(boxes, mirror, size * OVERSAMPLE, canvas)
    crops = functional.grid_sample(store.images[index].float(), fine, mode="bilinear", align_corners=False)
    # Void is 255 and grid_sample pads with 0: counting down from void makes the padding void.
    labels = VOID - _nearest(VOID - store.labels[index], sampling_grid(boxes, mirror, size, canvas))
    return functional.avg_pool2d(crops, OVERSAMPLE), labels


def cut_parts(store: ImageStore, index: Tensor, boxes: Tensor, mirror: Tensor, size: int) -> Tensor:
    """Object numbers of the same crops that `cut_crops` cuts, pixel for pixel.

    Args:
        store, index, boxes, mirror, size: as in `cut_crops`; the store must have `parts`.

    Returns:
        int64 (B, size, size): number of the object in its photo, 1 and up; 0 for none and outside the photo.

    Raises:
        ValueError: the store has no `parts`.
    """
    if store.parts is None:
        raise ValueError("the store has no parts; make them with ImageStore.with_parts")
    return _nearest(store.parts[index], sampling_grid(boxes, mirror, size, store.parts.shape[-1]))


def sampling_grid(boxes: Tensor, mirror: Tensor, size: int, canvas: int) -> Tensor:
    """Where the pixels of crops lie on a square canvas, as `torch.nn.functional.grid_sample` wants it.

    Args:
        boxes: float (B, 4), x0 y0 x1 y1 in pixels of the canvas.
        mirror: bool (B,), flip left and right.
        size: side of a crop in pixels.
        canvas: side of the canvas in pixels.

    Returns:
        float32 (B, size, size, 2), x and y; -1 to 1 is the canvas from border to border.
    """
    steps = (torch.arange(size, device=boxes.device, dtype=torch.float32) + 0.5) / size
    x = torch.where(mirror[:, None], 1 - steps, steps.expand(len(boxes), -1))
    x = boxes[:, :1] + x * (boxes[:, 2:3] - boxes[:, :1])
    y = boxes[:, 1:2] + steps * (boxes[:, 3:] - boxes[:, 1:2])
    x, y = (2 * axis / canvas - 1 for axis in (x, y))
    return torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)


def _nearest(maps: Tensor, grid: Tensor) -> Tensor:
    """Values int64 (B, S, S) of uint8 maps (B, H, W) at a grid, 0 outside."""
    values = functional.grid_sample(maps.float()[:, None], grid, mode="nearest", align_corners=False)
    return values[:, 0].round().long()
