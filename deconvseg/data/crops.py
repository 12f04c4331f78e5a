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

OVERSAMPLE = 2  # samples per output pixel and axis, whose mean keeps shrunk crops free of aliasing
MIN_OBJECT_SHARE = 0.002  # of the photo; smaller components are slivers cut off by a void border, not objects
_ENOUGH = 256  # photos that tell how much memory all need

Pair: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A photo, uint8 (H, W, 3) RGB, and its mask, uint8 (H, W): class indices, 255 for void."""


class Object(NamedTuple):
    """A connected object of a mask: its class, and its tight box x0 y0 x1 y1 in pixels, half-open."""

    label: int
    box: tuple[int, ...]


@dataclass(frozen=True)
class ImageStore:
    """Photos and masks of a data set in memory, each at its own size."""

    images: list[Tensor]  # uint8 (3, H, W) RGB
    labels: list[Tensor]  # uint8 (H, W): class indices, 255 for void
    objects: list[list[Object]]  # the connected objects of each photo's labels
    canvas: int  # H and W are at most this

    @classmethod
    def load(cls, readers: Sequence[Callable[[], Pair]], canvas: int, *, workers: int = 0) -> ImageStore:
        """Reads photos and shrinks large ones to the canvas; DataError if they do not fit into memory."""
        store = cls([], [], [], canvas)
        with pool(workers) as call_each:
            for image, labels, objects in call_each(partial(_read, canvas), readers):
                store.images.append(image)
                store.labels.append(labels)
                store.objects.append(objects)
                if len(store) == _ENOUGH:
                    needed = sum(mask.numel() for mask in store.labels) * 4 * (len(readers) / _ENOUGH - 1)
                    available = available_memory()
                    if available is not None and needed > available:
                        raise DataError(
                            f"the photos need {needed / 1e9:.1f} GB of memory more, {available / 1e9:.1f} GB "
                            "are free; take a smaller canvas or fewer photos"
                        )
        return store

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the photos are."""
        return self.images[0].device

    @property
    def sizes(self) -> Tensor:
        """Heights and widths in pixels, int64 (N, 2)."""
        return torch.tensor([labels.shape for labels in self.labels]).reshape(-1, 2)

    def to(self, device: torch.device) -> ImageStore:
        """The store on another device."""
        images, labels = ([values.to(device) for values in maps] for maps in (self.images, self.labels))
        return replace(self, images=images, labels=labels)


def find_objects(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int16], list[Object]]:
    """Each pixel's object, int16 (H, W), from 1, 0 for none; and the objects of `components` but slivers."""
    parts, found = components(mask)
    kept = np.flatnonzero(found[:, 5] >= MIN_OBJECT_SHARE * mask.size)
    number = np.zeros(len(found) + 1, np.int16)
    number[kept + 1] = np.arange(1, len(kept) + 1)
    return number[parts], [Object(label, tuple(box)) for label, *box in found[kept, :5].tolist()]


def _read(canvas: int, reader: Callable[[], Pair]) -> tuple[Tensor, Tensor, list[Object]]:
    image, mask = reader()
    scale = canvas / max(mask.shape)
    if scale < 1:
        size = max(round(mask.shape[1] * scale), 1), max(round(mask.shape[0] * scale), 1)
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        mask = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return pixels, torch.from_numpy(mask), find_objects(mask)[1]


def cut_crops(
    store: ImageStore, index: Tensor, boxes: Tensor, mirror: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Cut, scale and mirror a batch of regions on the store's device, all at once.

    `index`, int64 (B,), says which photo, best in main memory; the others are as for `sampling_grid`. Returns
    crops float32 (B, 3, size, size) of 0..255 and labels int64 (B, size, size), black and void outside.
    """
    canvas = store.canvas
    fine = sampling_grid(boxes, mirror, size * OVERSAMPLE, canvas, canvas)
    images = _on_canvas(store.images, index, canvas, 0)
    crops = functional.grid_sample(images, fine, mode="bilinear", align_corners=False)
    return functional.avg_pool2d(crops, OVERSAMPLE), cut_labels(store, index, boxes, mirror, size)


def cut_labels(
    store: ImageStore,
    index: Tensor,
    boxes: Tensor,
    mirror: Tensor,
    size: int,
    parts: Sequence[Tensor] | None = None,
) -> Tensor:
    """Labels int64 (B, size, size) of the crops of `cut_crops`; or of `parts`, (H, W) of each photo of the
    store, and 0 outside of it."""
    maps, outside = (store.labels, VOID) if parts is None else (parts, 0)
    grid = sampling_grid(boxes, mirror, size, store.canvas, store.canvas)
    # grid_sample pads with 0: counting down from the value outside makes the padding that value.
    values = outside - _on_canvas(maps, index, store.canvas, outside)
    cut = functional.grid_sample(values[:, None], grid, mode="nearest", align_corners=False)
    return outside - cut[:, 0].round().long()


def _on_canvas(maps: Sequence[Tensor], index: Tensor, canvas: int, fill: int) -> Tensor:
    """Maps (..., H, W) in the top-left corner of a canvas each, as float32 (B, ..., canvas, canvas)."""
    shape = len(index), *maps[0].shape[:-2], canvas, canvas
    laid = torch.full(shape, float(fill), device=maps[0].device)
    for target, i in zip(laid, index.tolist(), strict=True):
        target[..., : maps[i].shape[-2], : maps[i].shape[-1]] = maps[i]
    return laid


def sampling_grid(
    boxes: Tensor, mirror: Tensor, size: int, width: float | Tensor, height: float | Tensor
) -> Tensor:
    """Where the pixels of crops lie on a map, as `torch.nn.functional.grid_sample` wants it.

    `boxes` are float (B, 4), x0 y0 x1 y1 in pixels; `mirror`, bool (B,), flips left and right; `width` and
    `height` (numbers, or (B, 1)) are the map's in the boxes' pixels, whatever number of cells it has. Returns
    float32 (B, size, size, 2), x and y, where -1 to 1 is the map from border to border.
    """
    steps = (torch.arange(size, device=boxes.device, dtype=torch.float32) + 0.5) / size
    x = torch.where(mirror[:, None], 1 - steps, steps.expand(len(boxes), -1))
    x = boxes[:, :1] + x * (boxes[:, 2:3] - boxes[:, :1])
    y = boxes[:, 1:2] + steps * (boxes[:, 3:] - boxes[:, 1:2])
    x, y = 2 * x / width - 1, 2 * y / height - 1
    return torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
