"""Photos as a network takes them: regions cut out, resized, normalised."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.network.checkpoint import NetworkHeader

Box = tuple[int, int, int, int]


def normalise(images: Tensor, header: NetworkHeader, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images (B, 3, H, W) of 0..255 RGB as the network expects them, channels last."""
    mean = torch.tensor(header.mean).view(3, 1, 1).to(images.device, non_blocking=True)
    return ((images - mean) * header.scale).to(dtype, memory_format=torch.channels_last)


def on_device(device: torch.device, image: NDArray[np.uint8]) -> Tensor:
    """A photo as uint8 (3, H, W) on a device."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)


def crop(photo: Tensor, box: Box, side: int) -> Tensor:
    """One region as float (3, side, side) of 0..255; what lies outside the photo is black."""
    x0, y0, x1, y1 = box
    _, height, width = photo.shape
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    region = torch.zeros(1, 3, y1 - y0, x1 - x0, device=photo.device)
    region[0, :, top - y0 : bottom - y0, left - x0 : right - x0] = photo[:, top:bottom, left:right]
    return resized(region, (side, side))[0]


def crops(photo: NDArray[np.uint8], boxes: NDArray[np.float32], side: int) -> Tensor:
    """Regions of a photo (H, W, 3) as float (N, 3, side, side) of 0..255, computed on the CPU."""
    pixels = on_device(torch.device("cpu"), photo)
    return torch.stack([crop(pixels, box, side) for box in whole_pixels(boxes)])


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images float (B, C, H, W) stretched or shrunk to another height and width."""
    return functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def whole_pixels(boxes: NDArray[np.float32]) -> list[Box]:
    """Boxes rounded to pixels, at least one pixel wide and high."""
    corners = np.rint(boxes).astype(int)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in corners.tolist()]
