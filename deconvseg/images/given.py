"""Photos as users have them: files, Pillow images and arrays, made RGB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import InputError
from deconvseg.images.pixels import upright_rgb
from deconvseg.images.read import PhotoPixels, read_photo
from deconvseg.remote import is_remote, opened

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"
"""A file or its address, a Pillow image, or an array as `as_rgb` takes it."""
_TAKEN = (
    "give a file's path, a PIL.Image (PIL.Image.open takes open files), "
    "or a uint8 array (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey"
)


def take(photo: ImageLike, size: tuple[int, int] | None = None) -> PhotoPixels:
    """Any photo ready to be segmented; a large file is reduced while it is decoded, see `read_photo`.

    Args:
        photo: see `ImageLike`.
        size: height and width, if it is an array that was reduced.

    Raises:
        InputError: a file that cannot be read, or what `as_rgb` refuses.
        MissingDependencyError: an address whose library is not installed.
    """
    if isinstance(photo, str) and is_remote(photo):
        return read_photo(opened(photo), name=photo)
    if isinstance(photo, str | os.PathLike):
        return read_photo(Path(photo))
    image = as_rgb(photo)
    if image is photo:  # which its owner may change, while a result goes on showing it
        image = image.copy()
    return PhotoPixels(image, *(size or image.shape[:2]))


def as_rgb(photo: object) -> NDArray[np.uint8]:
    """A photo as uint8 (H, W, 3) RGB; an array of this shape comes back itself, not copied.

    Args:
        photo: a `PIL.Image.Image` of any mode, turned upright by its EXIF orientation as files are; or a
            uint8 array (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey. Transparent parts are laid on white.

    Raises:
        InputError: anything else, an array without pixels, or an image that cannot be decoded.
    """
    if isinstance(photo, Image.Image):
        return _decoded(photo)
    if not isinstance(photo, np.ndarray):
        raise InputError(f"{type(photo).__module__}.{type(photo).__name__} is no photo; {_TAKEN}")
    if fault := _fault(photo):
        raise InputError(f"a {photo.dtype} array {photo.shape} is no photo: {fault}")
    return photo if photo.shape[2:] == (3,) else upright_rgb(Image.fromarray(photo))


def refuse_one(photos: object) -> None:
    """Raise an InputError if it is one photo and not several, as whose parts it would be taken."""
    array = isinstance(photos, np.ndarray) and (photos.ndim < 3 or (photos.ndim == 3 and not _fault(photos)))
    if array or isinstance(photos, str | os.PathLike | Image.Image):
        raise InputError("this is one photo, where several are asked for; give a list, or take segment")


def _decoded(image: Image.Image) -> NDArray[np.uint8]:
    name = getattr(image, "filename", "") or f"a PIL image of mode {image.mode}"
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels ({image.width} x {image.height})")
    try:
        image.load()
        return upright_rgb(image)
    except Exception as error:  # Pillow decodes late, and a damaged or closed file can raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name}: cannot be decoded ({reason}); open it again, or convert it to RGB"
        ) from error


def _fault(array: NDArray[np.generic]) -> str:
    """What is wrong with an array, and the cure; empty if nothing is."""
    shape = array.shape
    if array.size == 0:
        return "it has no pixels"
    if len(shape) == 3 and shape[2] not in (3, 4) and shape[0] in (1, 3, 4):
        return "the channels come first; give array.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "it holds several; give them one by one to segment_many"
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
        return _TAKEN
    if array.dtype.kind == "f":
        return "give uint8 of 0 to 255; of floats from 0 to 1 that is (array * 255).round().astype('uint8')"
    if array.dtype != np.uint8:
        return "give uint8 of 0 to 255"
    return ""
