"""Reads a photo of any common kind into 8-bit RGB, as a person sees it."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deconvseg.errors import InputError
from deconvseg.images.pixels import orientation_of, upright_rgb

MAX_PIXELS = 500_000_000
"""Larger photos are refused unless asked for: reading one takes up to 4 bytes of memory a pixel."""
STREAM = "standard input"
REDUCED_SIDE = 1536
"""`read_photo` leaves the longer side no shorter: half as much again as is looked at, so still sharp."""

# Not all that Pillow knows: its EPS reader starts another program on what the file says.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF"),
    *("AVIF", "HEIF", "JPEG2000", "PPM"),
)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class PhotoPixels:
    """A photo as it was read.

    Attributes:
        image: uint8 (h, w, 3) RGB, upright; the whole photo, or the same view reduced.
        height, width: of the whole photo as displayed, in pixels.
        source: its file, if it came from one.
    """

    image: NDArray[np.uint8]
    height: int
    width: int
    source: Path | None = None

    @property
    def reduced(self) -> bool:
        """Whether `image` is smaller than the photo."""
        return self.image.shape[:2] != (self.height, self.width)


def read_image(
    source: str | Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str = STREAM
) -> NDArray[np.uint8]:
    """Read a photo as uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PPM, and HEIF where pillow-heif is installed. Grey,
    palette, CMYK and 16-bit photos become 8-bit RGB: 16-bit values are scaled so that 65535 is 255, and
    32-bit ones, which have no fixed white, so that their smallest and largest become 0 and 255. Transparent
    parts are laid on white, as most viewers show them. Of several frames or pages the first is taken.

    Args:
        source: a path, or a binary stream, which is read to its end.
        max_pixels: what has more is refused before it is decoded.
        name: what messages call a stream.

    Raises:
        InputError: the file is missing, no regular file, empty, cut short, too large, or not an image.
    """
    return _read(source, None, max_pixels, name).image


def read_photo(
    source: str | Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str = STREAM
) -> PhotoPixels:
    """Read a photo as `read_image` does, but a large one reduced by a whole number while it is decoded.

    Its longer side is then REDUCED_SIDE to twice that. A grey or palette photo takes 1 byte of memory a pixel
    meanwhile, one in colour 4, a JPEG less, as its decoder reduces by 2, 4 or 8 itself. The same file always
    gives the same pixels. Args and errors as of `read_image`.
    """
    return _read(source, REDUCED_SIDE, max_pixels, name)


def has_size(path: Path, width: int | None, height: int | None) -> bool:
    """Whether `path` holds an undamaged image of this size, as far as can be told without decoding it."""
    try:
        with path.open("rb") as stream, _opened(stream) as image:
            size = image.size
            image.verify()
    except Exception:  # whatever is wrong with it, it is no such image
        return False
    return size == (width, height)


def _read(source: str | Path | BinaryIO, side: int | None, max_pixels: int, stream_name: str) -> PhotoPixels:
    if not isinstance(source, (str, Path)):
        content = source.read()
        _refuse_empty(len(content), stream_name)
        return _decode(io.BytesIO(content), stream_name, side, max_pixels)
    name = str(source)
    try:
        _refuse_device(Path(source))
        with Path(source).open("rb") as stream:
            _refuse_empty(os.fstat(stream.fileno()).st_size, name)
            return replace(_decode(stream, name, side, max_pixels), source=Path(source))
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder, not a photo; give a file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read ({reason}); check the path and its permissions") from error


def _refuse_device(path: Path) -> None:
    """Refuse what can block for ever (a named pipe) or has no end (a device)."""
    if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path}: is not a regular file; copy it to one, or send it to standard input (-)")


def _refuse_empty(size: int, name: str) -> None:
    if not size:
        raise InputError(f"{name}: is empty (0 bytes); copy or download it again")


def _decode(stream: BinaryIO, name: str, side: int | None, max_pixels: int) -> PhotoPixels:
    if _is_heif(stream) and not _heif_is_available():
        raise InputError(f"{name}: is HEIF; install pillow-heif (pip install 'deconvseg[heif]')")
    try:
        with _opened(stream) as image:
            _refuse_large(image.size, max_pixels, name)
            return _pixels(image, side)
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: is not an image of a known kind; give a JPEG, PNG, WebP, TIFF, BMP or GIF"
        ) from error
    except Image.DecompressionBombError as error:  # of a frame or of a single row
        raise InputError(f"{name}: is too large ({_reason(error)}); make it smaller") from error
    except MemoryError as error:
        raise InputError(f"{name}: does not fit into memory; make it smaller") from error
    except InputError:
        raise
    except Exception as error:  # a damaged file can make Pillow's decoders raise nearly anything
        # A wrong offset in a file makes seek fail (EINVAL); any other number is the disk's fault.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(
            f"{name}: is damaged or cut short ({_reason(error)}); copy or download it again"
        ) from error


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Image.Image]:
    """The image in a stream, not decoded yet, of any size: the limit is ours, and higher than Pillow's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd EXIF data; what it cannot read, Pillow refuses
        with _pillow_limit:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                opened = Image.open(stream, formats=_formats())
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with opened as image:
            yield image


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _is_heif(stream: BinaryIO) -> bool:
    start = stream.read(12)
    stream.seek(0)
    return start[4:8] == b"ftyp" and start[8:] in _HEIF_BRANDS


@cache
def _heif_is_available() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _refuse_large(size: tuple[int, int], max_pixels: int, name: str) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise InputError(
            f"{name}: has {_millions(pixels)} megapixels, and {_millions(max_pixels)} are the limit; "
            "make it smaller, or raise --max-megapixels"
        )


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:,.0f}" if pixels >= 1e7 else f"{pixels / 1e6:.3g}"


def _pixels(image: Image.Image, side: int | None) -> PhotoPixels:
    width, height = image.size
    if side and max(width, height) >= 2 * side:
        scale = side / max(width, height)
        image.draft(None, (max(round(width * scale), 1), max(round(height * scale), 1)))
    image.load()
    factor = max(max(image.size) // side, 1) if side else 1
    if orientation_of(image) >= 5:
        width, height = height, width
    return PhotoPixels(upright_rgb(image, factor), height, width)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
