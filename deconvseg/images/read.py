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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deconvseg.errors import InputError

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
_STRIP_PIXELS = 1 << 22
_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class PhotoPixels:
    """A photo as it was read.

    Attributes:
        image: uint8 (h, w, 3) RGB, upright; the whole photo, or the same view reduced.
        height, width: of the whole photo as displayed, in pixels.
    """

    image: NDArray[np.uint8]
    height: int
    width: int

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
            return _decode(stream, name, side, max_pixels)
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
    orientation = _orientation(image)
    factor = max(max(image.size) // side, 1) if side else 1
    if orientation >= 5:
        width, height = height, width
    return PhotoPixels(_turned(_to_rgb(image, factor), orientation), height, width)


def _orientation(image: Image.Image) -> int:
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


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
