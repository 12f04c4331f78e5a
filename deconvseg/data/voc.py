"""PASCAL VOC's folder layout: which photos a split names, and their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import DataError

VOID = 255
"""Label of pixels that count neither in training nor in evaluation."""


@dataclass(frozen=True)
class Example:
    """One photo of a data set and its mask."""

    name: str
    image: Path
    mask: Path


def voc_dir(root: Path) -> Path:
    """The folder with `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation`.

    Args:
        root: `VOCdevkit`, `VOCdevkit/VOC2012`, or any folder of that layout.

    Raises:
        DataError: neither `root` nor `root/VOC2012` is one.
    """
    for candidate in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if all((candidate / part).is_dir() for part in ("JPEGImages", "SegmentationClass", "ImageSets")):
            return candidate
    raise DataError(
        f"{root}: not a VOC folder; it, or VOC2012 in it, must hold JPEGImages, SegmentationClass, ImageSets"
    )


def read_split(root: Path, split: str) -> list[str]:
    """Image names of a split, in the file's order.

    Raises:
        DataError: the list is missing or empty; the message names the lists that are there.
    """
    folder = voc_dir(root) / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise DataError(f"{path}: there is no split named '{split}'; splits here: {known}")
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise DataError(f"{path}: the split is empty; put one image name a line in it")
    return names


def read_examples(root: Path, split: str) -> list[Example]:
    """Photos and masks of a split.

    Raises:
        DataError: a named photo or mask does not exist (the first one is named, with the count).
    """
    folder = voc_dir(root)
    examples = [
        Example(name, folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png")
        for name in read_split(root, split)
    ]
    missing = [path for e in examples for path in (e.image, e.mask) if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: named by split '{split}' but missing ({len(missing)} such files)")
    return examples


def read_mask(path: Path, classes: int) -> NDArray[np.uint8]:
    """A label PNG as class indices.

    Args:
        path: palette or grey 8-bit PNG.
        classes: number of labels, background included.

    Returns:
        uint8 (H, W): 0..classes-1, and 255 for void.

    Raises:
        DataError: unreadable, RGB, or with ids that are no class.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise DataError(f"{path}: mask has mode {image.mode}; an 8-bit palette or grey PNG is needed")
            mask: NDArray[np.uint8] = np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: mask cannot be read ({error})") from error
    found = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    unknown = [int(i) for i in found if classes <= i < VOID]
    if unknown:
        raise DataError(f"{path}: mask holds ids {unknown}; the classes are 0..{classes - 1}, void is {VOID}")
    return mask
