"""A Pillow image's pixels as upright 8-bit sRGB, whatever its mode, depth and colour profile are."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

Convert: TypeAlias = Callable[[Image.Image], Image.Image]

_STRIP_PIXELS = 1 << 22
_WHITES = (255, 1023, 4095, 16383, 65535)
"""What white is in 8, 10, 12, 14 and 16 bits."""
_FLAT = 1 / 16
"""Whole numbers that use less than this share of their bits' range are stretched."""
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_GREY = (*_DEEP, "1", "L", "LA", "La")
_SRGB_GAMMA, _SRGB_PRIMARIES = 0.45455, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_SAME = 2
"""A profile that moves no colour by more than this, of 255, is taken for sRGB; its photos stay untouched."""


def upright_srgb(image: Image.Image, factor: int = 1) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """An image as uint8 (H, W, 3) sRGB, turned by its EXIF orientation, and notes on what was not plain.

    Args:
        image: of any mode; docs/results.md says what becomes of each.
        factor: so many rows and columns (at the edge, what there is) are made one by their mean.
    """
    orientation_of(image)  # settles it: Pillow turns a TIFF while it loads it, and would by XMP data too
    image.load()
    orientation = orientation_of(image)
    convert, note = _conversion(image)
    levels, other = _levels_of(image) if image.mode in _DEEP else (None, "")
    width, height = image.size
    rgb = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    # In strips, so that besides Pillow's image and the result little memory is needed.
    rows = max(_STRIP_PIXELS // width // factor, 1) * factor
    for top, strip in _strips(image, rows):
        part = _strip_to_srgb(strip, levels, convert)
        if factor > 1:
            part = np.asarray(Image.fromarray(part).reduce(factor))
        rgb[top // factor : top // factor + len(part)] = part
    return _turned(rgb, orientation), tuple(filter(None, (note, other)))


def orientation_of(image: Image.Image) -> int:
    """How the stored picture is turned: 1 to 8 as in the EXIF standard; 1, upright, for all that is not.

    This decides for all readers. XMP data is not asked, as browsers do not.
    """
    value: object = 1
    if image.format == "PNG":
        image.load()  # its EXIF data can come last; damage must not pass for damaged EXIF data
    try:
        plain = Image.Image()  # without what the image may have taken from XMP data before
        plain.info = {key: image.info[key] for key in ("exif", "Raw profile type exif") if key in image.info}
        value = (getattr(image, "tag_v2", None) or plain.getexif()).get(ExifTags.Base.Orientation)
        if image.format == "TIFF" and value is None:
            image.getexif().pop(ExifTags.Base.Orientation, None)
    except Exception:  # damaged EXIF data must not cost the photo
        pass
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def image_of(values: NDArray[np.generic], *, white_is_zero: bool = False) -> tuple[Image.Image, str]:
    """Whole numbers or floats of any range, (H, W) grey or (H, W, 3) RGB, as an 8-bit image; and a note."""
    levels, note = _Levels.of([values], white_is_zero)
    image = np.empty(values.shape, np.uint8)
    rows = max(_STRIP_PIXELS // values.shape[1], 1)
    for top in range(0, len(image), rows):
        image[top : top + rows] = np.rint(levels.scaled(values[top : top + rows]))
    return Image.fromarray(image), note


class _Levels(NamedTuple):
    """The values that become 0 and 255 in a photo of more than 8 bits."""

    black: float
    white: float

    @classmethod
    def of(cls, strips: Iterable[NDArray[np.generic]], white_is_zero: bool) -> tuple[_Levels, str]:
        """Those of a photo, and a note unless it uses 16 bits. NaN and infinity do not count."""
        low, high, whole = np.inf, -np.inf, True
        for values in strips:
            whole = values.dtype.kind in "iu"
            finite = values if whole else values[np.isfinite(values)]
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        white = next((white for white in _WHITES if whole and low >= 0 and high <= white), 0)
        if low > high:
            low, high, note = 0, 1, "it has no values but NaN and infinity"
        elif white and (low == high or high - low >= white * _FLAT):
            note = f"its values are {low:.0f} to {high:.0f}; {white} is taken for white"
            low, high, note = 0, white, note if white < _WHITES[-1] else ""
        else:
            note = f"its values, {low:.6g} to {high:.6g}, are stretched to 0 to 255"
        return cls(high, low) if white_is_zero else cls(low, high), note

    def scaled(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Values as 0 to 255, not rounded; NaN is black."""
        with np.errstate(invalid="ignore"):
            exact = (values.astype(np.float64) - self.black) * (255 / ((self.white - self.black) or 1))
        clipped: NDArray[np.float64] = np.clip(np.nan_to_num(exact, nan=0, posinf=255, neginf=0), 0, 255)
        return clipped


def _levels_of(image: Image.Image) -> tuple[_Levels, str]:
    rows = max(_STRIP_PIXELS // image.width, 1)
    white_is_zero = getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
    return _Levels.of((np.asarray(strip) for _, strip in _strips(image, rows)), white_is_zero)


def _conversion(image: Image.Image) -> tuple[Convert | None, str]:
    """What makes an image of this mode sRGB, None if it is; and a note if its profile cannot be used."""
    if image.mode == "LAB":
        return _transform(None, "LAB"), ""
    if "icc_profile" not in image.info:
        return None, _unapplied(image)
    try:
        return _transform(bytes(image.info["icc_profile"] or b""), image.mode), ""
    except Exception as error:  # a damaged profile can make the library raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        return None, f"its colour profile cannot be used ({reason}); its colours are taken as they are"


def _unapplied(image: Image.Image) -> str:
    """A note if a photo without a profile asks in another way for other colours than sRGB's."""
    gamma, primaries = image.info.get("gamma", _SRGB_GAMMA), image.info.get("chromaticity", _SRGB_PRIMARIES)
    if "srgb" not in image.info and (
        abs(gamma - _SRGB_GAMMA) > 0.02 or np.abs(np.subtract(primaries, _SRGB_PRIMARIES)).max() > 0.01
    ):
        return "the gamma or primaries it names (gAMA, cHRM) are not applied; its colours are taken as sRGB"
    cicp = image.info.get("nclx_profile") or {}
    primaries, curve = cicp.get("color_primaries"), cicp.get("transfer_characteristics")
    # In ITU-T H.273 BT.2020, DCI-P3, Display P3; linear, PQ, HLG.
    if primaries in (9, 11, 12) or curve in (8, 16, 18):
        return f"its colours are no sRGB (CICP primaries {primaries}, curve {curve}), and are taken as sRGB"
    return ""


@lru_cache(16)
def _transform(icc: bytes | None, mode: str) -> Convert | None:
    if icc is None:
        profile, takes = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"
    else:
        if not icc:
            raise ValueError("it is incomplete")
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        # A grey photo can have a profile for RGB: grey is where the three are equal.
        fits = {"GRAY": mode in _GREY, "RGB": mode != "CMYK", "CMYK": mode == "CMYK"}
        if not fits.get(space) or profile.profile.device_class not in ("scnr", "mntr", "prtr", "spac"):
            raise ValueError(f"it is one for {space} ({profile.profile.device_class}), the photo is {mode}")
        takes = "L" if space == "GRAY" else space
    # Grey is 10 of 255 off in the shadows of a linear photo where Little CMS may optimise.
    flags = ImageCms.Flags.NOOPTIMIZE if takes == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), takes, "RGB", flags=flags)
    if takes in ("L", "RGB"):
        axis = np.arange(0, 256, 1 if takes == "L" else 15, dtype=np.uint8)
        probe = axis[None] if takes == "L" else np.stack(np.meshgrid(axis, axis, axis), -1).reshape(1, -1, 3)
        seen = np.asarray(transform.apply(Image.fromarray(probe))).astype(int)
        if np.abs(seen - probe.reshape(1, -1, 1 if takes == "L" else 3)).max() <= _SAME:
            return None
    return lambda image: transform.apply(image.convert(takes))


def _strip_to_srgb(image: Image.Image, levels: _Levels | None, convert: Convert | None) -> NDArray[np.uint8]:
    if levels:
        exact = levels.scaled(np.asarray(image))
        channels = [exact] * 3
        if convert:
            ramp = np.arange(256, dtype=np.uint8)
            curves = np.asarray(convert(Image.fromarray(ramp[None])))[0].T
            channels = [np.interp(exact, ramp, curve) for curve in curves]
        rgb = np.stack([np.rint(channel).astype(np.uint8) for channel in channels], 2)
        if (transparent := image.info.get("transparency")) is not None:
            rgb[np.asarray(image) == transparent] = 255
        return rgb
    if image.mode in ("La", "RGBa"):  # multiplied by their alpha
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        photo = image.convert("RGBA")
        if convert:
            converted = convert(photo.convert("RGB"))
            converted.putalpha(photo.getchannel("A"))
            photo = converted
        image = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    elif convert:
        image = convert(image)
    return np.array(image.convert("RGB"))


def _strips(image: Image.Image, rows: int) -> Iterator[tuple[int, Image.Image]]:
    width, height = image.size
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _turned(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of the pixels as displayed; `orientation` as in the EXIF standard, 1 to 8."""
    if orientation >= 5:  # the stored rows are the displayed columns
        stored = stored.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):  # the first stored row (5 to 8: column) is the displayed bottom
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return stored
