"""Reads a photo (any common file, a Pillow image or an array) into 8-bit sRGB, as a person sees it."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

from deconvseg.errors import InputError, reason
from deconvseg.images import pixels
from deconvseg.remote import is_remote, opened

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any]"
"""A file or its address, a Pillow image, or an array as `as_photo` takes it."""

MAX_PIXELS = 500_000_000  # what is larger is refused unless asked for: a pixel takes up to 4 bytes of memory
STREAM = "standard input"  # what messages call it
REDUCED_SIDE = 1536  # no longer side gets shorter: half as much again as is looked at, so still sharp

_FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM"]
"""Not all that Pillow knows: its EPS reader starts another program on what the file says."""
_ARRAYS = (
    "give a file's path, a PIL.Image (PIL.Image.open takes open files), a uint8 array (H, W, 3) RGB or "
    "(H, W, 4) RGBA, or an array (H, W) of grey numbers"
)
_lock, _readers = threading.Lock(), 0
_limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
# Of odd EXIF data: what it cannot read, Pillow refuses. Set once, as to change filters is not for threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")


@dataclass(frozen=True)
class PhotoPixels:
    """A photo as it was read."""

    image: NDArray[np.uint8]  # (h, w, 3) sRGB, upright; the whole photo, or the same view reduced
    height: int  # with the width: of the whole photo as displayed, in pixels
    width: int
    source: Path | None = None  # its file, if it came from one
    notes: tuple[str, ...] = ()  # what a user should know, a line each: a profile that cannot be used, ...


def as_photo(photo: ImageLike) -> PhotoPixels:
    """Any photo ready to be segmented; a large file is reduced while it is decoded, see `read_photo`.

    It is a path or an address; a `PIL.Image.Image`; a uint8 array (H, W, 3) RGB or (H, W, 4) RGBA, laid on
    white; or an array (H, W) of grey, uint8 or other numbers that Pillow knows, which become 8 bits as those
    of files do. InputError for all else, MissingDependencyError for an address whose library is missing.
    """
    if isinstance(photo, str) and is_remote(photo):
        return read_photo(opened(photo), name=photo)
    if isinstance(photo, str | os.PathLike):
        return read_photo(Path(photo))
    if isinstance(photo, Image.Image):
        return _of_pillow(photo)
    given = type(photo).__name__
    if isinstance(photo, np.ndarray):
        given = f"{photo.dtype} {photo.shape}"
        # Pillow takes more, and signed bytes for others.
        if (photo.ndim == 2 or photo.shape[2:] in ((3,), (4,))) and photo.dtype != np.int8:
            with suppress(TypeError, ValueError):
                return _of_pillow(Image.fromarray(photo))
    raise InputError(f"{given} is no photo; {_ARRAYS}")


def read_image(source: str | Path | BinaryIO) -> NDArray[np.uint8]:
    """Read a photo at its own size as uint8 (H, W, 3) sRGB; errors as of `read_photo`."""
    return read_photo(source, side=None).image


def read_photo(
    source: str | Path | BinaryIO,
    *,
    side: int | None = REDUCED_SIDE,
    max_pixels: int = MAX_PIXELS,
    name: str = STREAM,
) -> PhotoPixels:
    """Read a photo as 8-bit sRGB, turned upright by its EXIF orientation; docs/results.md says how each kind.

    Unless `side` is None, a large photo is reduced by a whole number while it is decoded, so that its longer
    side is this to twice this. A grey or palette photo takes 1 byte of memory a pixel meanwhile, one in
    colour 4, a JPEG less, as its decoder reduces by 2, 4 or 8 itself. What has more than `max_pixels` is
    refused before it is decoded. A stream is read to its end; messages call it by its `name`.

    InputError if the file is missing, no regular file, empty, cut short, too large, or not an image.
    """
    if not isinstance(source, (str, Path)):
        return _decode(io.BytesIO(source.read()), name, side, max_pixels)
    path, name = Path(source), str(source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{name}: is a folder; give a photo in it")
        if not stat.S_ISREG(mode):  # a pipe can block for ever, a device has no end
            raise InputError(f"{name}: is not a regular file; copy it to one, or send it to stdin (-)")
        with path.open("rb") as stream:
            return replace(_decode(stream, name, side, max_pixels), source=path)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read ({fault}); check the path and its permissions") from error


def _of_pillow(image: Image.Image) -> PhotoPixels:
    name = getattr(image, "filename", "") or f"a PIL image of mode {image.mode}"
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels ({image.width} x {image.height})")
    try:
        return _photo(image)
    except Exception as error:  # Pillow decodes late, and a damaged or closed file can raise nearly anything
        cure = "open it again, or convert it to RGB"
        raise InputError(f"{name}: cannot be decoded ({reason(error)}); {cure}") from error


def _decode(stream: BinaryIO, name: str, side: int | None, max_pixels: int) -> PhotoPixels:
    start = stream.read(12)
    stream.seek(0)
    if not start:
        raise InputError(f"{name}: is empty (0 bytes); copy or download it again")
    if start[4:8] == b"ftyp":
        _register_heif()
    try:
        with _opened(stream) as image:
            if (count := image.width * image.height) > max_pixels:
                has, most = (round(n / 1e6, 2 if n < 1e7 else 0) for n in (count, max_pixels))
                fault = f"has {has:,.15g} megapixels, and {most:,.15g} are the limit"
                raise InputError(f"{name}: {fault}; make it smaller, or raise the limit")
            if image.mode == "LAB":  # of TIFFs, which Pillow cannot convert
                raise UnidentifiedImageError
            return _photo(image, side)
    except InputError:
        raise
    except UnidentifiedImageError:
        kinds = "a JPEG, PNG, WebP, BMP, GIF or TIFF of grey or RGB (for HEIF, pip install 'deconvseg[heif]')"
        raise InputError(f"{name}: is not an image of a known kind; give {kinds}") from None
    except MemoryError as error:
        raise InputError(f"{name}: does not fit into memory; make it smaller") from error
    except Exception as error:  # a damaged file can make Pillow's decoders raise nearly anything
        # A wrong offset in a file makes seek fail (EINVAL); any other number is the disk's fault.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        cure = "copy or download it again"
        raise InputError(f"{name}: is damaged or cut short ({reason(error)}); {cure}") from error


def _photo(image: Image.Image, side: int | None = None) -> PhotoPixels:
    """A copy of an image of any mode as a photo; a large one is reduced to `side` as by `read_photo`."""
    size = image.size
    if side and max(size) >= 2 * side:
        scale = side / max(size)
        image.draft(None, (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)))
    orientation = pixels.loaded(image)
    width, height = size
    convert, unfit = pixels.conversion(image)
    deep = ""
    if image.mode in pixels.DEEP:
        negative = getattr(image, "tag_v2", {}).get(Base.PhotometricInterpretation) == 0
        image, deep = pixels.image_of(np.asarray(image), convert, white_is_zero=negative)
        convert = None
    factor = max(max(image.size) // side, 1) if side else 1
    rgb = np.empty((-(-image.height // factor), -(-image.width // factor), 3), np.uint8)
    # In strips, so that besides Pillow's image and the result little memory is needed.
    rows = max(pixels.STRIP_PIXELS // image.width // factor, 1) * factor
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        part = np.asarray(pixels.strip_to_srgb(strip, convert).reduce(factor))
        rgb[top // factor :][: len(part)] = part
    if orientation > 4:
        width, height = height, width
    notes = tuple(filter(None, (unfit, deep)))
    return PhotoPixels(pixels.turned(rgb, orientation), height, width, notes=notes)


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Image.Image]:
    """The image in a stream, not decoded yet."""
    # While any thread reads, Pillow's limits, which are the whole process's, are lifted: our own of pixels is
    # higher, and a PNG may hold a colour profile or XMP data of more than 1 MiB.
    global _readers, _limits
    Image.init()
    with _lock:
        if not _readers:
            _limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, PngImagePlugin.MAX_TEXT_MEMORY
        _readers += 1
    try:
        with Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            yield image
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = _limits


@cache
def _register_heif() -> None:
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
