"""What the pixels of a Pillow image mean: how they are turned, their depth, their colour profile."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.ExifTags import Base

from deconvseg.errors import reason

Convert: TypeAlias = Callable[[Image.Image], Image.Image]

STRIP_PIXELS = 1 << 22
_WHITES = (255, 1023, 4095, 16383, 65535)  # in 8, 10, 12, 14 and 16 bits
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_GREY = (*DEEP, "1", "L", "LA")
_EXIF = ("exif", "Raw profile type exif")
_RAMP = np.arange(256, dtype=np.uint8)[None]
_SAME = 2  # a profile that moves no colour by more, of 255, is taken for sRGB; its photos stay untouched


def loaded(image: Image.Image) -> int:
    """Decode an image. Returns how its pixels still have to be `turned`: 1 to 8 as in the EXIF standard.

    Pillow's own `exif_transpose` would copy every image, turn some by XMP data, which browsers do not, and
    fail on damaged EXIF data.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow turns these while it decodes them
        if Base.Orientation in image.tag_v2:
            vars(image)["filename"] = ""  # else it maps grey ones into memory, and mixes up their sides
        else:
            image.getexif().pop(Base.Orientation, None)  # which comes from XMP data
        image.load()
        return 1
    image.load()  # first: the EXIF data of a PNG can come last, and damaged pixels must raise
    plain = Image.Image()  # without XMP data
    plain.info = {key: value for key, value in image.info.items() if key in _EXIF}
    with suppress(Exception):  # damaged EXIF data must not cost the photo
        value: int = plain.getexif().get(Base.Orientation, 1)
        if value in range(2, 9):
            return value
    return 1


def image_of(
    values: NDArray[np.generic], convert: Convert | None, *, white_is_zero: bool
) -> tuple[Image.Image, str]:
    """Grey (H, W), whole numbers or floats of any range, as an 8-bit image; and a note."""
    black, white, note = _levels(values)
    if white_is_zero:
        black, white = white, black
    # Levels of grey become those of sRGB.
    curve = np.asarray(convert(Image.fromarray(_RAMP)))[0, :, 1] if convert else None
    levels = np.empty(values.shape, np.uint8)
    rows = max(STRIP_PIXELS // values.shape[1], 1)
    for top in range(0, len(values), rows):
        with np.errstate(invalid="ignore"):
            exact = (values[top : top + rows].astype(np.float64) - black) * (255 / ((white - black) or 1))
        exact = np.clip(np.nan_to_num(exact, nan=0, posinf=255, neginf=0), 0, 255)
        levels[top : top + rows] = np.rint(exact if curve is None else np.interp(exact, range(256), curve))
    return Image.fromarray(levels), note


def _levels(values: NDArray[Any]) -> tuple[float, float, str]:
    """The values of a photo that become 0 and 255, and a note unless it uses 16 bits."""
    whole = values.dtype.kind in "iu"
    finite = values if whole else values[np.isfinite(values)]
    if not finite.size:
        return 0, 1, "it has no values but NaN and infinity"
    low, high = float(finite.min()), float(finite.max())
    white = next((white for white in _WHITES if whole and low >= 0 and high <= white), 0)
    if white:
        note = f"its values are {low:.0f} to {high:.0f}; {white} is taken for white"
        return 0, white, note if white < _WHITES[-1] else ""
    return low, high, f"its values, {low:.6g} to {high:.6g}, are stretched to 0 to 255"


def conversion(image: Image.Image) -> tuple[Convert | None, str]:
    """What makes an image of this mode sRGB, None if it is; and a note if its colours cannot be converted."""
    if "icc_profile" not in image.info:
        return None, ""
    try:
        return _transform(image.info["icc_profile"] or b"", image.mode), ""
    except Exception as error:  # a damaged profile can make the library raise anything
        return None, f"its colour profile cannot be used ({reason(error)}); its colours are taken as they are"


@lru_cache(16)
def _transform(icc: bytes, mode: str) -> Convert | None:
    if not icc:
        raise ValueError("it is incomplete")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    # A grey photo can have a profile for RGB: grey is where the three are equal.
    grey = profile.profile.xcolor_space.strip() == "GRAY" and mode in _GREY
    takes = "L" if grey else "CMYK" if mode == "CMYK" else "RGB"
    # Grey is 10 of 255 off in the shadows of a linear photo where Little CMS may optimise.
    flags = ImageCms.Flags.NOOPTIMIZE if grey else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), takes, "RGB", flags=flags)
    if takes != "CMYK":
        axis = np.arange(0, 256, 15, dtype=np.uint8)
        grid = _RAMP if grey else np.stack(np.meshgrid(axis, axis, axis), -1).reshape(1, -1, 3)
        probe = Image.fromarray(grid)
        moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
        if np.abs(moved).max() <= _SAME:
            return None
    return lambda image: transform.apply(image.convert(takes))


def strip_to_srgb(image: Image.Image, convert: Convert | None) -> Image.Image:
    """Rows of an image as RGB, transparent parts laid on white."""
    rgb = convert(image) if convert else image.convert("RGB")
    if not image.has_transparency_data:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), image.convert("RGBA").getchannel("A"))


def turned(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of pixels (H, W) or (H, W, 3) as displayed; `orientation` as in the EXIF standard, 1 to 8."""
    if orientation in (2, 4, 5, 7):
        stored = stored[:, ::-1]
    return np.rot90(stored, (0, 0, 2, 2, 1, 3, 3, 1)[orientation - 1])
