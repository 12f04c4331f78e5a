"""What a training example is: square regions around objects, cut from photos held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.data.voc import VOID

ENLARGE = 1.2
"""Context around an object's box (paper section 4.1): each side times 1.2."""
OVERSAMPLE = 2
"""Samples per output pixel and axis; their mean is what keeps shrunk crops free of aliasing."""
MIN_OBJECT_SHARE = 0.002
"""Components smaller than this share of the photo are slivers cut off by a void border, not objects."""


@dataclass(frozen=True)
class ImageStore:
    """Photos and masks of a data set in memory, each in the top-left corner of a square canvas.

    Attributes:
        images: uint8 (N, 3, S, S) RGB, zero outside the photo.
        labels: uint8 (N, S, S), 255 (void) outside the photo.
        sizes: int64 (N, 2), height and width in pixels.
    """

    images: Tensor
    labels: Tensor
    sizes: Tensor

    @classmethod
    def load(
        cls, pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], count: int, canvas: int = 384
    ) -> ImageStore:
        """Fill a store; photos with a longer side than the canvas are shrunk to it.

        Args:
            pairs: photos uint8 (H, W, 3) with masks uint8 (H, W).
            count: how many pairs will come.
            canvas: S in pixels.
        """
        images = torch.zeros(count, 3, canvas, canvas, dtype=torch.uint8)
        labels = torch.full((count, canvas, canvas), VOID, dtype=torch.uint8)
        sizes = torch.zeros(count, 2, dtype=torch.int64)
        for i, (image, mask) in enumerate(pairs):
            scale = canvas / max(mask.shape)
            if scale < 1:
                size = tuple(max(round(side * scale), 1) for side in mask.shape[::-1])
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
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


def objects(mask: NDArray[np.uint8]) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Class and tight box (x0, y0, x1, y1, half-open pixels) of every connected object (8 neighbours).

    Components under 0.2 % of the photo are left out.
    """
    for label in np.unique(mask):
        if label in (0, VOID):
            continue
        count, _, stats, _ = cv2.connectedComponentsWithStats(
            (mask == label).astype(np.uint8), connectivity=8
        )
        for x, y, width, height, area in stats[1:count].tolist():
            if area >= MIN_OBJECT_SHARE * mask.size:
                yield int(label), (x, y, x + width, y + height)


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
    fine = size * OVERSAMPLE
    crops = functional.grid_sample(
        store.images[index].float(), _grid(boxes, mirror, fine, canvas), mode="bilinear", align_corners=False
    )
    # Void is 255 and grid_sample pads with 0: counting down from void makes the padding void.
    inverted = (VOID - store.labels[index]).float()[:, None]
    labels = VOID - functional.grid_sample(
        inverted, _grid(boxes, mirror, size, canvas), mode="nearest", align_corners=False
    )
    return functional.avg_pool2d(crops, OVERSAMPLE), labels[:, 0].round().long()


def _grid(boxes: Tensor, mirror: Tensor, size: int, canvas: int) -> Tensor:
    steps = (torch.arange(size, device=boxes.device, dtype=torch.float32) + 0.5) / size
    x = torch.where(mirror[:, None], 1 - steps, steps.expand(len(boxes), -1))
    x = boxes[:, :1] + x * (boxes[:, 2:3] - boxes[:, :1])
    y = boxes[:, 1:2] + steps * (boxes[:, 3:] - boxes[:, 1:2])
    x, y = (2 * axis / canvas - 1 for axis in (x, y))
    return torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
