"""What the pixels of a mask file mean, and reading such files as class indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import DataError
from deconvseg.images.palette import Palette, voc_color

VOID = 255
"""Label of pixels that count neither in training nor in evaluation."""

Color: TypeAlias = tuple[int, int, int]

_UNKNOWN = -1
_NAMED = 5
"""How many values a message lists."""
_BLACK = (0, 0, 0)
_NEAR = 16
"""A palette's colour no further than this from a class's, of 255, is meant as it: tools average colours."""


@dataclass(frozen=True)
class MaskFormat:
    """Which class a mask file's pixels stand for; the mode of the file decides which of the maps counts.

    Attributes:
        ids: value (0..255) in palette and grey masks (1-bit ones: 0 and 1) and in SBD's `.mat` -> class
            index, or VOID.
        colors: (R, G, B) of 0..255 in RGB and RGBA masks -> class index, or VOID; empty: such masks are
            refused.
        shown: (R, G, B) -> class index, or VOID, of the colours that a palette gives the classes.
        classes: names, for messages; of every label in `shown`.
    """

    ids: Mapping[int, int]
    colors: Mapping[Color, int] = field(default_factory=dict)
    shown: Mapping[Color, int] = field(default_factory=dict)
    classes: Sequence[str] = ()

    @classmethod
    def indexed(cls, classes: Sequence[str], palette: Palette) -> MaskFormat:
        """VOC's: values are class indices, and 255 is void; in palettes void has VOC's colour, if any."""
        ids = {label: label for label in range(len(classes))} | {VOID: VOID}
        shown = {voc_color(VOID): VOID} | {color: label for label, color in enumerate(palette)}
        return cls(ids, {}, shown, classes)


def read_mask(path: Path, masks: MaskFormat) -> NDArray[np.uint8]:
    """A mask file as class indices.

    Args:
        path: palette, grey, RGB or RGBA picture that is no JPEG, or a `.mat` of SBD (struct `GTcls`, field
            `Segmentation`). Opacity is not looked at.
        masks: what the pixels mean.

    Returns:
        uint8 (H, W): class indices, and 255 for void.

    Raises:
        DataError: missing, unreadable, of a mode that holds no labels, with values that are no class (the
            first few are named, with their number of pixels), or with a palette whose colours are those of
            other classes than the values'.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such mask; add it, or take its photo out")
    pixels: NDArray[np.integer]
    pixels, palette = (_read_mat(path), []) if path.suffix == ".mat" else _read_picture(path, masks)
    _refuse_other_colors(path, pixels, palette, masks)
    if pixels.ndim == 2:
        table = np.full(256, _UNKNOWN, np.int16)
        table[list(masks.ids)] = list(masks.ids.values())
        labels = table[pixels]
    else:
        weights = np.array([1 << 16, 1 << 8, 1], np.int32)  # to 0xRRGGBB
        pixels = pixels @ weights
        keys, values = np.array(sorted((color @ weights, label) for color, label in masks.colors.items())).T
        nearest = np.searchsorted(keys[:-1], pixels)
        labels = np.where(keys[nearest] == pixels, values[nearest], _UNKNOWN)
    if (unknown := labels == _UNKNOWN).any():
        raise DataError(f"{path}: {_unknown(pixels[unknown], masks)}")
    return labels.astype(np.uint8)


def hex_color(color: Color) -> str:
    """A colour as people write it, like `#804080`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _read_picture(path: Path, masks: MaskFormat) -> tuple[NDArray[np.uint8], list[int]]:
    """Values (H, W) or colours (H, W, 3), and the palette of values that have one: R, G, B, R, ..."""
    try:
        with Image.open(path) as image:
            mode, is_jpeg = image.mode, image.format in ("JPEG", "MPO")
            if mode in ("P", "L", "1") and not is_jpeg:
                return np.asarray(image, np.uint8), (image.getpalette() or []) if mode == "P" else []
            if masks.colors and mode in ("RGB", "RGBA") and not is_jpeg:
                return np.asarray(image, np.uint8)[..., :3], []
    # A damaged PNG makes Pillow raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        raise DataError(f"{path}: mask cannot be read ({_reason(error)}); copy or make it again") from error
    if is_jpeg:
        raise DataError(f"{path}: mask is a JPEG, which changes labels at every edge; make it again as PNG")
    wanted = "an 8-bit palette, grey or RGB PNG" if masks.colors else "an 8-bit palette or grey PNG"
    raise DataError(f"{path}: mask has mode {mode}; {wanted} is needed")


def _read_mat(path: Path) -> NDArray[np.uint8]:
    from scipy.io import loadmat  # few data sets need it

    try:
        pixels = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # scipy raises whatever the damage happens to cause
        raise DataError(f"{path}: no mask of SBD can be read ({_reason(error)}); copy it again") from error
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        wrong = f"{pixels.dtype} {pixels.shape}, not uint8 (H, W)"
        raise DataError(f"{path}: GTcls.Segmentation is {wrong}; copy it again")
    return pixels


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _refuse_other_colors(
    path: Path, pixels: NDArray[np.integer], palette: Sequence[int], masks: MaskFormat
) -> None:
    """Raise a DataError if the palette shows values in use in colours of other classes than they stand for.

    That is a mask whose values were dealt anew: by a tool that sorts palettes, or makes one for a mask in
    colours. A palette that says nothing does not count: a grey ramp, or mostly colours of no class.
    """
    colors = list(zip(palette[::3], palette[1::3], palette[2::3], strict=False))
    by_id = [masks.ids.get(value, _UNKNOWN) for value in range(256)]
    by_color = _nearest(colors, masks.shown)
    others = [value for value, label in enumerate(by_color) if label not in (_UNKNOWN, by_id[value])]
    if any(color == _BLACK and by_id[value] == by_color[value] for value, color in enumerate(colors)):
        others = [value for value in others if colors[value] != _BLACK]  # what palettes are filled up with
    counts = np.bincount(pixels.ravel(), minlength=256) if others else np.zeros(256)
    used = [value for value in range(len(colors)) if counts[value]]
    others = [value for value in others if counts[value]]
    foreign = [value for value in used if by_color[value] == _UNKNOWN and by_id[value] != VOID]
    if len(others) > len(foreign) and any(colors[value] != (value,) * 3 for value in used):
        words = (
            f"id {value} ({counts[value]} pixels) stands for {_class(masks, by_id[value])}, "
            f"its colour {hex_color(colors[value])} for {_class(masks, by_color[value])}"
            for value in others
        )
        raise DataError(
            f"{path}: the mask's ids and the colours of its palette do not agree: {_some(words, '; ')}; "
            "save it with the right ids, as a grey PNG if its colours mean nothing"
        )


def _nearest(colors: Sequence[Color], shown: Mapping[Color, int]) -> list[int]:
    if not colors or not shown:
        return [_UNKNOWN] * len(colors)
    table = np.array(colors)
    far = np.abs(table[:, None] - np.array(list(shown))[None]).max(axis=2)
    labels = np.array(list(shown.values()))[far.argmin(axis=1)]
    allowed = np.where(np.ptp(table, axis=1) == 0, 0, _NEAR)  # greys may be a ramp that means nothing
    nearest: list[int] = np.where(far.min(axis=1) <= allowed, labels, _UNKNOWN).tolist()
    return nearest


def _class(masks: MaskFormat, label: int) -> str:
    return {VOID: "void", _UNKNOWN: "no class"}.get(label) or f"'{masks.classes[label]}'"


def _unknown(values: NDArray[np.integer], masks: MaskFormat) -> str:
    """What to say of values that are no class: the most frequent first."""
    found, counts = np.unique(values, return_counts=True)
    kind, style, known = "colours", "#{:06x}", list(map(hex_color, masks.colors))
    if values.dtype == np.uint8:
        kind, style, known = "ids", "{}", list(map(str, sorted(masks.ids)))
    shown = (f"{style.format(found[i])} ({counts[i]} pixels)" for i in np.argsort(-counts, kind="stable"))
    return (
        f"mask holds {kind} that are no class: {_some(shown)}; known are {_some(known)}; "
        "mend the mask, make them a class, or leave them out (`ignore` in dataset.toml)"
    )


def _some(words: Iterable[str], comma: str = ", ") -> str:
    first, more = (words := list(words))[:_NAMED], len(words) - _NAMED
    return comma.join(first) + (f" and {more} more" if more > 0 else "")
