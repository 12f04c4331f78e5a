"""Writes a Segmentation as a picture: one function a format, each file whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import OutputError
from deconvseg.images.palette import palette_for
from deconvseg.segmentation import Segmentation

Photo: TypeAlias = NDArray[np.uint8]
Target: TypeAlias = Path | BinaryIO


def write_labels(segmentation: Segmentation, photo: Photo, target: Target) -> None:
    """Write the labels as an 8-bit palette PNG: pixel values are class ids, shown in the class colours.

    All writers take the uint8 (H, W, 3) photo as well, whether they show it or not, and write to a path or an
    open binary stream. They raise OutputError when the file cannot be written; then nothing is left behind.
    """
    image = Image.fromarray(segmentation.labels)
    # All 256 colours, as in VOC's own files: with 16 or fewer Pillow would pack two pixels into a byte.
    palette = (*segmentation.palette, *palette_for(256)[len(segmentation.palette) :])
    image.putpalette([channel for color in palette for channel in color])
    _save(image, target)


def write_color(segmentation: Segmentation, photo: Photo, target: Target) -> None:
    """Write the labels as plain RGB in the class colours (PNG)."""
    _save(Image.fromarray(_colors(segmentation)[segmentation.labels]), target)


def write_overlay(segmentation: Segmentation, photo: Photo, target: Target) -> None:
    """Write the photo, objects tinted and outlined, background dimmed and paler (JPEG, or PNG by name).

    The tints are the class colours, the dark ones brightened: VOC's cat is nearly black.
    """
    labels = segmentation.labels
    colors = _colors(segmentation).astype(np.float32)
    full = colors * (255 / np.maximum(colors.max(axis=1, keepdims=True), 1))
    colors = (0.4 * colors + 0.6 * full).astype(np.uint16)
    bright = photo.astype(
        np.uint16
    )  # whole numbers of 16 bits: large photos in a quarter of float64's memory
    grey = bright.sum(axis=2, keepdims=True, dtype=np.uint16) // 3
    shown = np.where(
        labels[:, :, None] > 0, (bright * 6 + colors[labels] * 4) // 10, (bright + grey) * 3 // 8
    )
    outline = _outline(labels, width=max(1, round(min(labels.shape) / 250)))
    shown[outline] = (colors[labels[outline]] + 2 * 255) // 3
    _save(Image.fromarray(shown.astype(np.uint8)), target, format_="JPEG")


def write_cutout(segmentation: Segmentation, photo: Photo, target: Target) -> None:
    """Write the objects alone as RGBA PNG: background pixels are transparent, and black beneath."""
    opaque = (segmentation.labels > 0)[:, :, None]
    _save(Image.fromarray(np.concatenate([photo * opaque, opaque * np.uint8(255)], axis=2)), target)


WRITERS: dict[str, Callable[[Segmentation, Photo, Target], None]] = {
    "labels": write_labels,
    "color": write_color,
    "overlay": write_overlay,
    "cutout": write_cutout,
}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes the file `path`, at once and only if the block ends well.

    Folders on the way are made. Raises OutputError for whatever the system refuses.
    """
    beside = path.parent / f".deconvseg-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as stream:
                yield stream
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{path}: {path.parent} is not a folder; choose another place") from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({reason}); check the folder and its space") from error


def _save(image: Image.Image, target: Target, format_: str = "PNG") -> None:
    if isinstance(target, Path) and target.suffix.lower() == ".png":
        format_ = "PNG"
    options = {"quality": 92, "subsampling": 0} if format_ == "JPEG" else {}
    encoded = io.BytesIO()
    image.save(encoded, format_, **options)
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.write(encoded.getbuffer())
    else:
        target.write(encoded.getbuffer())
        target.flush()


def _colors(segmentation: Segmentation) -> NDArray[np.uint8]:
    return np.array(segmentation.palette, np.uint8).reshape(-1, 3)


def _outline(labels: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Object pixels with another label at most `width` pixels up, down, left or right."""
    height, length = labels.shape
    edge = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        if step < height:
            differs = labels[step:] != labels[:-step]
            edge[step:] |= differs
            edge[:-step] |= differs
        if step < length:
            differs = labels[:, step:] != labels[:, :-step]
            edge[:, step:] |= differs
            edge[:, :-step] |= differs
    return edge & (labels > 0)
