"""What the pixels of a mask file mean, and reading such files as class indices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import DataError, MissingDependencyError

VOID = 255
"""Label of pixels that count neither in training nor in evaluation."""

Color: TypeAlias = tuple[int, int, int]

_UNKNOWN = -1
_NAMED = 5
"""How many unknown values a message lists."""


@dataclass(frozen=True)
class MaskFormat:
    """Which class a mask file's pixels stand for; the mode of the file decides which of the two maps counts.

    Attributes:
        ids: value (0..255) in palette and grey PNGs (1-bit ones: 0 and 1) and in SBD's `.mat` -> class
            index, or VOID.
        colors: (R, G, B) of 0..255 in RGB and RGBA masks -> class index, or VOID; empty: such masks are
            refused.
    """

    ids: Mapping[int, int]
    colors: Mapping[Color, int] = field(default_factory=dict)

    @classmethod
    def indexed(cls, classes: int) -> MaskFormat:
        """VOC's: values are class indices 0 to `classes` - 1, and 255 is void."""
        return cls({**{i: i for i in range(classes)}, VOID: VOID})


def read_mask(path: Path, masks: MaskFormat) -> NDArray[np.uint8]:
    """A mask file as class indices.

    Args:
        path: palette, grey, RGB or RGBA PNG, or a `.mat` of SBD (struct `GTcls`, field `Segmentation`), which
            needs SciPy. Opacity is not looked at.
        masks: what the pixels mean.

    Returns:
        uint8 (H, W): class indices, and 255 for void.

    Raises:
        DataError: missing, unreadable, of a mode that holds no labels, or with values that are no class (the
            first few are named, with their number of pixels).
    """
    pixels = _read_mat(path) if path.suffix == ".mat" else _read_picture(path, bool(masks.colors))
    colored = pixels.ndim == 3
    values = _packed(pixels) if colored else pixels
    table = _color_table(tuple(masks.colors.items())) if colored else _id_table(tuple(masks.ids.items()))
    labels = table[values]
    if labels.size and labels.min() == _UNKNOWN:
        raise DataError(f"{path}: {_unknown(values[labels == _UNKNOWN], masks, colored)}")
    return labels.astype(np.uint8)


def hex_color(color: Color) -> str:
    """A colour as people write it, like `#804080`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _packed(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours (H, W, 3) as one number each, 0xRRGGBB."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _read_picture(path: Path, colored: bool) -> NDArray[np.uint8]:
    """Values (H, W) or colours (H, W, 3)."""
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L", "1"):
                return np.asarray(image, dtype=np.uint8)
            if colored and image.mode in ("RGB", "RGBA"):
                return np.asarray(image, dtype=np.uint8)[..., :3]
            mode = image.mode
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such mask; add it, or take its photo out") from error
    # A damaged PNG makes Pillow raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        raise DataError(f"{path}: mask cannot be read ({_reason(error)}); copy or make it again") from error
    wanted = "an 8-bit palette, grey or RGB PNG" if colored else "an 8-bit palette or grey PNG"
    raise DataError(f"{path}: mask has mode {mode}; {wanted} is needed")


def _read_mat(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(f"{path}: no such mask; add it, or take its photo out")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependencyError(f"{path}: reading .mat masks needs SciPy; pip install scipy") from error
    try:
        pixels = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # scipy raises whatever the damage happens to cause
        raise DataError(f"{path}: no mask of SBD can be read ({_reason(error)}); copy it again") from error
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: GTcls.Segmentation is {pixels.dtype} {pixels.shape}, not uint8 (H, W); copy it again"
        )
    return pixels


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@lru_cache(maxsize=8)
def _id_table(ids: tuple[tuple[int, int], ...]) -> NDArray[np.int16]:
    table = np.full(256, _UNKNOWN, np.int16)
    for value, label in ids:
        table[value] = label
    return table


@lru_cache(maxsize=2)  # 32 MB each
def _color_table(colors: tuple[tuple[Color, int], ...]) -> NDArray[np.int16]:
    table = np.full(1 << 24, _UNKNOWN, np.int16)
    for (red, green, blue), label in colors:
        table[red << 16 | green << 8 | blue] = label
    return table


def _unknown(values: NDArray[np.integer], masks: MaskFormat, colored: bool) -> str:
    """What to say of values that are no class: the most frequent first."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    style = "#{:06x}" if colored else "{}"
    shown = [f"{style.format(found[i])} ({counts[i]} pixels)" for i in order[:_NAMED]]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    kind, known = ("colours", _hex_list(masks.colors)) if colored else ("ids", _ranges(sorted(masks.ids)))
    return (
        f"mask holds {kind} that are no class: {', '.join(shown)}{more}; known are {known}; "
        "mend the mask, make them a class, or leave them out (`ignore` in dataset.toml)"
    )


def _hex_list(colors: Collection[Color]) -> str:
    more = f" and {len(colors) - _NAMED} more" if len(colors) > _NAMED else ""
    return ", ".join(hex_color(color) for color in islice(colors, _NAMED)) + more


def _ranges(values: list[int]) -> str:
    """`0..3, 7` for 0, 1, 2, 3, 7."""
    spans: list[list[int]] = []
    for value in values:
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(f"{low}..{high}" if high > low else str(low) for low, high in spans)
