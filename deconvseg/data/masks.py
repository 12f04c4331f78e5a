"""What the pixels of a mask file mean, and reading such files as class indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import DataError
from deconvseg.images.palette import Palette, voc_color
from deconvseg.images.pixels import loaded, turned

VOID = 255  # label of pixels that count neither in training nor in evaluation

Color = tuple[int, int, int]


@dataclass(frozen=True)
class MaskFormat:
    """Which class index, or VOID, a mask's pixels stand for; the file's mode decides which map counts."""

    ids: Mapping[int, int]  # of values in palette and grey masks (1-bit ones: 0 and 1) and in SBD's `.mat`
    colors: Mapping[Color, int] = field(default_factory=dict)  # of RGB and RGBA masks, refused if it is empty
    shown: Mapping[Color, int] = field(default_factory=dict)  # of the colours that a palette gives them
    classes: Sequence[str] = ()  # names, for messages; of every label in `shown`

    @classmethod
    def indexed(cls, classes: Sequence[str], palette: Palette) -> MaskFormat:
        """VOC's: values are class indices, and 255 is void; in palettes void has VOC's colour, if any."""
        ids = {label: label for label in range(len(classes))} | {VOID: VOID}
        shown = {voc_color(VOID): VOID} | {color: label for label, color in enumerate(palette)}
        return cls(ids, {}, shown, classes)


def read_mask(path: Path, masks: MaskFormat) -> NDArray[np.uint8]:
    """A mask file as class indices, uint8 (H, W), and 255 for void.

    It is a palette, grey, RGB or RGBA picture, but no JPEG, or a `.mat` of SBD (struct `GTcls`, field
    `Segmentation`). DataError if it is missing, unreadable, of a mode that holds no labels, with values that
    are no class, or with a palette of other classes' colours.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such mask; add it, or take its photo out")
    try:
        pixels, palette = _read_mat(path) if path.suffix == ".mat" else _read_picture(path, masks)
    except DataError:
        raise
    # A damaged PNG makes Pillow raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{path}: mask cannot be read ({reason}); copy or make it again") from error
    _refuse_other_colors(path, pixels, palette, masks)
    known = masks.ids
    if pixels.ndim == 3:  # to 0xRRGGBB
        known = {red << 16 | green << 8 | blue: label for (red, green, blue), label in masks.colors.items()}
        pixels = pixels @ np.array([1 << 16, 1 << 8, 1], np.int32)
    keys, values = np.array(sorted(known.items())).T
    nearest = np.searchsorted(keys[:-1], pixels)
    if (unknown := keys[nearest] != pixels).any():
        raise DataError(f"{path}: {_unknown(pixels[unknown])}")
    labels: NDArray[np.uint8] = values.astype(np.uint8)[nearest]
    return labels


def hex_color(color: Iterable[int]) -> str:
    """A colour as people write it, like `#804080`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _read_picture(path: Path, masks: MaskFormat) -> tuple[NDArray[np.integer], list[int]]:
    """Values (H, W) or colours (H, W, 3), and the palette of values that have one: R, G, B, R, ..."""
    with Image.open(path) as image:
        mode = "JPEG" if image.format in ("JPEG", "MPO") else image.mode
        if mode in ("P", "L", "1") or (masks.colors and mode in ("RGB", "RGBA")):
            orientation, palette = loaded(image), (image.getpalette() or []) if mode == "P" else []
            pixels = turned(np.asarray(image, np.uint8), orientation)
            return pixels if pixels.ndim == 2 else pixels[..., :3], palette
    wanted = "an 8-bit palette, grey or RGB PNG" if masks.colors else "an 8-bit palette or grey PNG"
    raise DataError(f"{path}: mask has mode {mode}; {wanted} is needed")


def _read_mat(path: Path) -> tuple[NDArray[np.integer], list[int]]:
    from scipy.io import loadmat  # few data sets need it

    pixels = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(f"it is {pixels.dtype} {pixels.shape}, not uint8 (H, W)")
    return pixels, []


def _refuse_other_colors(
    path: Path, pixels: NDArray[np.integer], palette: Sequence[int], masks: MaskFormat
) -> None:
    """Raise a DataError if a tool has dealt values anew: one has exactly another class's colour."""
    if not palette:
        return
    used = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    colors: dict[int, Any] = {value: tuple(palette[3 * value : 3 * value + 3]) for value in used}
    if all(color == (value,) * 3 for value, color in colors.items()):  # a grey ramp says nothing
        return
    for value, color in colors.items():
        label = masks.shown.get(color)
        # Black is what palettes are filled up with.
        if any(color) and label not in (None, masks.ids.get(value)):
            name = "void" if label == VOID else f"'{masks.classes[label]}'"
            raise DataError(
                f"{path}: in the mask's palette id {value} has the colour of {name}, {hex_color(color)}; "
                "save it with the right ids, as a grey PNG if its colours mean nothing"
            )


def _unknown(values: NDArray[np.integer]) -> str:
    """What to say of values that are no class: the five most frequent."""
    found, counts = np.unique(values, return_counts=True)
    kind, style = ("ids", "{}") if values.dtype == np.uint8 else ("colours", "#{:06x}")
    most = np.argsort(-counts, kind="stable")[:5]
    shown = ", ".join(f"{style.format(found[i])} ({counts[i]} pixels)" for i in most)
    return (
        f"mask holds {kind} that are no class: {shown}; mend the mask, make them a class, or leave them out "
        "(`ignore` in dataset.toml)"
    )
