"""A Pillow image's pixels as 8-bit RGB, upright, whatever its mode is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STRIP_PIXELS = 1 << 22


def upright_rgb(image: Image.Image, factor: int = 1) -> NDArray[np.uint8]:
    """An image as uint8 (H, W, 3) RGB, turned by its EXIF orientation; of modes, see `read_image`.

    Args:
        image: of any mode.
        factor: so many rows and columns are made one by their mean.
    """
    return _turned(_to_rgb(image, factor), orientation_of(image))


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none, or the data is damaged."""
    try:
        value: object = image.getexif().get(0x0112)
    except Exception:  # damaged EXIF data must not cost the photo
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of the pixels as displayed; `orientation` as in the EXIF standard, 1 to 8."""
    if orientation >= 5:  # the stored rows are the displayed columns
        stored = stored.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):  # the first stored row (5 to 8: column) is the displayed bottom
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return stored


def _to_rgb(image: Image.Image, factor: int) -> NDArray[np.uint8]:
    """The stored pixels, `factor` x `factor` of them (at the edge, what there is) made one by their mean.

    In strips, so that besides Pillow's image and the result little memory is needed.
    """
    width, height = image.size
    rgb = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    limits = _limits(image)
    rows = max(_STRIP_PIXELS // width // factor, 1) * factor
    for top, strip in _strips(image, rows):
        part = _strip_to_rgb(strip, limits)
        if factor > 1:
            part = np.asarray(Image.fromarray(part).reduce(factor))
        rgb[top // factor : top // factor + len(part)] = part
    return rgb


def _strips(image: Image.Image, rows: int) -> Iterator[tuple[int, Image.Image]]:
    width, height = image.size
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _strip_to_rgb(image: Image.Image, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    if limits:
        low, high = limits
        exact = _finite(image)
        grey = np.rint((exact - low) * (255 / (high - low or 1))).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        photo = image.convert("RGBA")
        paper = Image.new("RGBA", photo.size, "white")
        image = Image.alpha_composite(paper, photo)
    return np.array(image.convert("RGB"))


def _limits(image: Image.Image) -> tuple[float, float] | None:
    """The values of a 32-bit photo that become 0 and 255; None for all other photos."""
    if image.mode not in ("I", "F"):
        return None
    rows = max(_STRIP_PIXELS // image.width, 1)
    parts = [(values.min(), values.max()) for _, strip in _strips(image, rows) for values in [_finite(strip)]]
    low, high = min(part[0] for part in parts), max(part[1] for part in parts)
    # Older Pillow opens 16-bit grey PNG as 32-bit "I"; what fits into 16 bits is taken to be that.
    return (0, 65535) if image.mode == "I" and low >= 0 and high <= 65535 else (float(low), float(high))


def _finite(image: Image.Image) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
