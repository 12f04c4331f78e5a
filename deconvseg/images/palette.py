"""The PASCAL VOC colours and class names."""

from __future__ import annotations

Palette = tuple[tuple[int, int, int], ...]

VOC_CLASSES: tuple[str, ...] = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)


def voc_color(label: int) -> tuple[int, int, int]:
    """The (R, G, B) of 0..255 that VOC gives `label` (0..255), as `VOClabelcolormap.m` of its kit does.

    The bits of the label go to the three channels in turn, lowest first, and fill each from its highest down.
    """
    bits = [label >> place & 1 for place in range(8)] + [0]
    red, green, blue = (bits[i] << 7 | bits[i + 3] << 6 | bits[i + 6] << 5 for i in range(3))
    return red, green, blue


def palette_for(classes: int) -> Palette:
    """VOC's colours for labels 0 to `classes` - 1, at most 255."""
    return tuple(voc_color(label) for label in range(classes))


def tints(palette: Palette) -> Palette:
    """The class colours, the dark ones brightened for laying on photos: VOC's cat is nearly black."""
    import numpy as np

    colors = np.array(palette, np.float32).reshape(-1, 3)
    full = colors * (255 / np.maximum(colors.max(axis=1, keepdims=True), 1))
    return tuple((r, g, b) for r, g, b in (0.4 * colors + 0.6 * full).astype(np.uint8).tolist())
