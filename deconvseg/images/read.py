"""Reads a photo (any common file, a Pillow image or an array) into 8-bit sRGB, as a person sees it."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from deconvseg.errors import InputError
from deconvseg.images.pixels import image_of, orientation_of, upright_srgb
from deconvseg.remote import is_remote, opened

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any]"
"""A file or its address, a Pillow image, or an array as `as_photo` takes it."""

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
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_ARRAYS = (
    "give a file's path, a PIL.Image (PIL.Image.open takes open files), a uint8 array (H, W, 3) RGB or "
    "(H, W, 4) RGBA, or an array (H, W) of grey numbers"
)
_lock, _readers = threading.Lock(), 0
_limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
# Of odd EXIF data: what it cannot read, Pillow refuses. Set once, as to change filters is not for threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
# Of the same, 0 is silent, and our errors say it in a line. OpenCV 4 has it in `cv2`.
getattr(cv2.utils, "logging", cv2).setLogLevel(0)


@dataclass(frozen=True)
class PhotoPixels:
    """A photo as it was read.

    Attributes:
        image: uint8 (h, w, 3) sRGB, upright; the whole photo, or the same view reduced.
        height, width: of the whole photo as displayed, in pixels.
        source: its file, if it came from one.
        notes: a line for each thing a user should know: a profile that cannot be used, stretched grey.
    """

    image: NDArray[np.uint8]
    height: int
    width: int
    source: Path | None = None
    notes: tuple[str, ...] = ()


def as_photo(photo: ImageLike, size: tuple[int, int] | None = None) -> PhotoPixels:
    """Any photo ready to be segmented; a large file is reduced while it is decoded, see `read_photo`.

    Args:
        photo: a path or an address; a `PIL.Image.Image`, which is read as its file would be; a uint8 array
            (H, W, 3) RGB or (H, W, 4) RGBA, laid on white; or an array (H, W) of grey, uint8 or any other
            numbers, which become 8 bits as those of files do.
        size: height and width of the photo, if it is an array that was reduced.

    Raises:
        InputError: a file that cannot be read, an image that cannot be decoded, an array without pixels or of
            another form, anything else.
        MissingDependencyError: an address whose library is not installed.
    """
    if isinstance(photo, str) and is_remote(photo):
        return read_photo(opened(photo), name=photo)
    if isinstance(photo, str | os.PathLike):
        return read_photo(Path(photo))
    if isinstance(photo, Image.Image):
        return _of_pillow(photo)
    if not isinstance(photo, np.ndarray):
        raise InputError(f"{type(photo).__module__}.{type(photo).__name__} is no photo; {_ARRAYS}")
    if fault := _fault(photo):
        raise InputError(f"a {photo.dtype} array {photo.shape} is no photo: {fault}")
    image, note = (Image.fromarray(photo), "") if photo.dtype == np.uint8 else image_of(photo)
    # A copy: its owner may change the array, while a result goes on showing it.
    pixels = photo.copy() if photo.shape[2:] == (3,) else upright_srgb(image)[0]
    height, width = size or photo.shape[:2]
    return PhotoPixels(pixels, height, width, notes=(note,) if note else ())


def refuse_one(photos: object) -> None:
    """Raise an InputError if it is one photo and not several, as whose parts it would be taken."""
    array = isinstance(photos, np.ndarray) and (photos.ndim < 3 or (photos.ndim == 3 and not _fault(photos)))
    if array or isinstance(photos, str | os.PathLike | Image.Image):
        raise InputError("this is one photo, where several are asked for; give a list, or take segment")


def read_image(
    source: str | Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str = STREAM
) -> NDArray[np.uint8]:
    """Read a photo of any size as uint8 (H, W, 3) sRGB; args and errors as of `read_photo`."""
    return read_photo(source, side=None, max_pixels=max_pixels, name=name).image


def read_photo(
    source: str | Path | BinaryIO,
    *,
    side: int | None = REDUCED_SIDE,
    max_pixels: int = MAX_PIXELS,
    name: str = STREAM,
) -> PhotoPixels:
    """Read a photo as 8-bit sRGB, turned upright by its EXIF orientation; docs/results.md says how each kind.

    JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PPM, and HEIF where pillow-heif is installed. Of several
    frames or pages the first is taken. The same file always gives the same pixels.

    Args:
        source: a path, or a binary stream, which is read to its end.
        side: a large photo is reduced by a whole number while it is decoded, so that its longer side is this
            to twice this. A grey or palette photo takes 1 byte of memory a pixel meanwhile, one in colour 4,
            a JPEG less, as its decoder reduces by 2, 4 or 8 itself. If None, it is read whole.
        max_pixels: what has more is refused before it is decoded.
        name: what messages call a stream.

    Raises:
        InputError: the file is missing, no regular file, empty, cut short, too large, or not an image.
    """
    if not isinstance(source, (str, Path)):
        content = source.read()
        _refuse_empty(len(content), name)
        return _decode(io.BytesIO(content), name, side, max_pixels)
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


def has_size(path: Path, width: int | None, height: int | None) -> bool:
    """Whether `path` holds an undamaged image of this size, as far as can be told without decoding it."""
    try:
        with path.open("rb") as stream, _opened(stream) as image:
            size = image.size
            image.verify()
    except Exception:  # whatever is wrong with it, it is no such image
        return False
    return size == (width, height)


def _of_pillow(image: Image.Image) -> PhotoPixels:
    name = getattr(image, "filename", "") or f"a PIL image of mode {image.mode}"
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels ({image.width} x {image.height})")
    try:
        return _of_open(image, getattr(image, "fp", None), None)
    except Exception as error:  # Pillow decodes late, and a damaged or closed file can raise nearly anything
        raise InputError(
            f"{name}: cannot be decoded ({_reason(error)}); open it again, or convert it to RGB"
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
        return _ARRAYS
    if array.dtype.kind not in ("uif" if len(shape) == 2 else "") and array.dtype != np.uint8:
        cure = "; of floats from 0 to 1 that is (array * 255).round().astype('uint8')"
        return "give uint8 of 0 to 255" + cure * (array.dtype.kind == "f")
    return ""


def _refuse_device(path: Path) -> None:
    """Refuse what can block for ever (a named pipe) or has no end (a device)."""
    if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path}: is not a regular file; copy it to one, or send it to standard input (-)")


def _refuse_empty(size: int, name: str) -> None:
    if not size:
        raise InputError(f"{name}: is empty (0 bytes); copy or download it again")


def _refuse_large(size: tuple[int, int], max_pixels: int, name: str) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise InputError(
            f"{name}: has {_millions(pixels)} megapixels, and {_millions(max_pixels)} are the limit; "
            "make it smaller, or raise the limit"
        )


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:,.0f}" if pixels >= 1e7 else f"{pixels / 1e6:.3g}"


def _decode(stream: BinaryIO, name: str, side: int | None, max_pixels: int) -> PhotoPixels:
    start = stream.read(12)
    stream.seek(0)
    if start[4:8] == b"ftyp" and start[8:] in _HEIF_BRANDS and not _heif_is_available():
        raise InputError(f"{name}: is HEIF; install pillow-heif (pip install 'deconvseg[heif]')")
    try:
        try:
            with _opened(stream) as image:
                _refuse_large(image.size, max_pixels, name)
                return _of_open(image, stream, side)
        except UnidentifiedImageError:
            if not start.startswith(_TIFF_STARTS):
                raise
            return _odd_tiff(stream, name, side, max_pixels)
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


def _of_open(image: Image.Image, stream: BinaryIO | None, side: int | None) -> PhotoPixels:
    """The pixels of an image and of what its file, if it is still open, tells beyond Pillow."""
    deep = image.mode in ("RGB", "RGBA", "LA") and ";16" in str(getattr(image, "tile", ""))
    if stream and image.format in ("JPEG2000", "PNG", "AVIF"):
        image.info.update(_untold(stream))
    if transparent := image.info.get("transparency"):  # of 2, 4 and 16 bits Pillow scales the pixels alone
        if grey := re.search(r"'L;([24])'", str(getattr(image, "tile", ""))):
            image.info["transparency"] = transparent * 255 // (2 ** int(grey[1]) - 1)
        if deep and image.mode == "RGB":
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if stream and deep:  # Pillow may close it
        stream.seek(0)
        stream = io.BytesIO(stream.read())
    photo = _pixels(image, side)
    if stream and deep:
        # Pillow keeps the upper 8 of 16 bits; where few of them are used, OpenCV has them all.
        colours: Any = image.getextrema()[: 1 if image.mode == "LA" else 3]
        low, high = min(low for low, _ in colours), max(high for _, high in colours)
        if high < 64 or high - low < 16:
            photo = _by_opencv(stream, side, image.info) or photo
    return photo


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Image.Image]:
    """The image in a stream, not decoded yet."""
    Image.init()
    with _any_size(), Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
        yield image


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limits, which are the whole process's, while any thread reads.

    Our own of pixels is higher, and a PNG may hold a colour profile or XMP data of more than 1 MiB.
    """
    global _readers, _limits
    with _lock:
        if _readers == 0:
            _limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
            Image.MAX_IMAGE_PIXELS = None
            PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = _limits


@cache
def _heif_is_available() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _pixels(image: Image.Image, side: int | None) -> PhotoPixels:
    width, height = image.size
    orientation = orientation_of(image)
    if side and max(width, height) >= 2 * side:
        scale = side / max(width, height)
        image.draft(None, (max(round(width * scale), 1), max(round(height * scale), 1)))
    pixels, notes = upright_srgb(image, max(max(image.size) // side, 1) if side else 1)
    if image.format == "TIFF":  # Pillow has turned it while it was loaded
        width, height = image.size
    elif orientation >= 5:
        width, height = height, width
    return PhotoPixels(pixels, height, width, notes=notes)


def _by_opencv(
    stream: BinaryIO, side: int | None, info: Mapping[Any, Any], *, white_is_zero: bool = False
) -> PhotoPixels | None:
    """A grey or RGB photo of more than 8 bits in all its bits; of a TIFF, turned. None if it is not one."""
    stream.seek(0)
    values = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    transparent = values is not None and values.shape[2:] == (4,)
    if values is None or values.dtype == np.uint8 or (transparent and values.dtype != np.uint16):
        return None
    image, note = image_of(values if values.ndim == 2 else values[:, :, 2::-1], white_is_zero=white_is_zero)
    if transparent:
        image.putalpha(Image.fromarray((values[:, :, 3] >> 8).astype(np.uint8)))
    image.info.update({key: info[key] for key in ("icc_profile", "exif") if key in info})
    photo = _pixels(image, side)
    return replace(photo, notes=(*filter(None, [note]), *photo.notes))


def _untold(stream: BinaryIO) -> dict[str, Any]:
    """What Pillow leaves out: JPEG 2000's profile (ISO 15444-1, I.5.3.3), CICP numbers of PNG and AVIF."""
    place = stream.tell()
    stream.seek(0)
    head = re.split(rb"jp2c|IDAT|mdat", stream.read(1 << 22))[0]
    stream.seek(place)
    before, found, profile = head.partition(b"colr\x02")
    info: dict[str, Any] = {"icc_profile": profile[2 : int.from_bytes(before[-4:]) - 9]} if found else {}
    if numbers := re.search(rb"\0\0\0\x04cICP(.)(.)|colrnclx\0(.)\0(.)", head, re.DOTALL):
        primaries, curve = (ord(number) for number in numbers.groups() if number)
        info["nclx_profile"] = {"color_primaries": primaries, "transfer_characteristics": curve}
    return info


def _odd_tiff(stream: BinaryIO, name: str, side: int | None, max_pixels: int) -> PhotoPixels:
    """A TIFF that Pillow does not know: colours as floats, 64-bit numbers, big-endian WhiteIsZero."""
    stream.seek(0)
    tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
    stream.seek(tags.next)
    tags.load(stream)
    size, photo = (tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]), None
    bits = tags.get(ExifTags.Base.BitsPerSample, (1,))
    colours = tags.get(ExifTags.Base.PhotometricInterpretation)
    _refuse_large(size, max_pixels, name)
    if min(bits) > 8 and colours in (0, 1, 2):
        profile = tags.get(ExifTags.Base.InterColorProfile)
        info = {"icc_profile": profile} if profile else {}
        photo = _by_opencv(stream, side, info, white_is_zero=colours == 0)
    if photo is None:
        raise InputError(
            f"{name}: is a TIFF of a kind that cannot be read (photometric interpretation {colours}, bits "
            f"{', '.join(map(str, bits))}); save it as RGB or grey of 8 or 16 bits"
        )
    return photo


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
