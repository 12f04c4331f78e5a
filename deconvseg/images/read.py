"""Reads a photo of any kind that Pillow knows into 8-bit RGB, as a person sees it."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deconvseg.errors import InputError


def read_image(source: str | Path | BinaryIO) -> NDArray[np.uint8]:
    """Read a photo as uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit photos become 8-bit RGB: 16-bit values are scaled so that 65535 is 255, and
    32-bit ones, which have no fixed white, so that their smallest and largest become 0 and 255. Transparent
    parts are laid on white, as most viewers show them. Of several frames or pages the first is taken.

    Args:
        source: a path, or a binary stream (read to its end, called "standard input" in messages).

    Raises:
        InputError: the file is missing, no regular file, empty, cut short, too large, or not an image.
    """
    name = str(source) if isinstance(source, (str, Path)) else "standard input"
    try:
        if isinstance(source, (str, Path)):
            _refuse_device(Path(source))
            content = Path(source).read_bytes()
        else:
            content = source.read()
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder, not a photo; give a file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read ({reason}); check the path and its permissions") from error
    if not content:
        raise InputError(f"{name}: is empty (0 bytes); copy or download it again")
    return _decode(content, name)


def has_size(path: Path, width: int | None, height: int | None) -> bool:
    """Whether `path` holds an undamaged result of this size, as far as can be told without decoding it.

    A result is an image or, by its suffix, a `.npz` with `probabilities` (C, H, W).
    """
    try:
        size = _scores_size(path) if path.suffix.lower() == ".npz" else _image_size(path)
    except Exception:  # whatever is wrong with it, it is no such result
        return False
    return size == (width, height)


def _image_size(path: Path) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            size = image.size
            image.verify()
    return size


def _scores_size(path: Path) -> tuple[int, int]:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(damaged)
        with archive.open("probabilities.npy") as member:
            np.lib.format.read_magic(member)
            (_, height, width), _, _ = np.lib.format.read_array_header_1_0(member)
    return width, height


def _refuse_device(path: Path) -> None:
    """Refuse what can block for ever (a named pipe) or has no end (a device)."""
    if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path}: is not a regular file; copy it to one, or send it to standard input (-)")


def _decode(content: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd EXIF data and from 89 megapixels on; what it cannot read, it refuses.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return _to_rgb(_upright(image))
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: is not an image of a known kind; give a JPEG, PNG, WebP, TIFF, BMP or GIF"
        ) from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise InputError(f"{name}: has more than {limit} megapixels; make it smaller") from error
    except MemoryError as error:
        raise InputError(f"{name}: does not fit into memory; make it smaller") from error
    except Exception as error:  # a damaged file can make Pillow's decoders raise nearly anything
        raise InputError(
            f"{name}: is damaged or cut short ({_reason(error)}); copy or download it again"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data must not cost the photo
        return image


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_to_8_bit(np.asarray(image), image.mode)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        photo = image.convert("RGBA")
        paper = Image.new("RGBA", photo.size, "white")
        image = Image.alpha_composite(paper, photo)
    return np.array(image.convert("RGB"))


def _to_8_bit(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    # Older Pillow opens 16-bit grey PNG as 32-bit "I"; what fits into 16 bits is taken to be that.
    if mode != "F" and values.min() >= 0 and values.max() <= 65535:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    exact = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = exact.min(), exact.max()
    scaled: NDArray[np.uint8] = np.rint((exact - low) * (255 / (high - low or 1))).astype(np.uint8)
    return scaled


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
