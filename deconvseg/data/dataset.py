"""A data set as training and evaluation see it: classes, and photos with their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.masks import MaskFormat, read_mask
from deconvseg.errors import DataError
from deconvseg.images.palette import Palette
from deconvseg.images.read import read_image


@dataclass(frozen=True)
class Example:
    """One photo of a data set and its mask; neither need exist before it is read."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class DataSet:
    """One split of a data set.

    Attributes:
        classes: class names; the first is background, what no region covers.
        palette: one (R, G, B) of 0..255 a class.
        masks: what the masks' pixels mean.
        examples: at least one, in the list's order.
        source: the file or folder that named the examples, for messages.
    """

    classes: tuple[str, ...]
    palette: Palette
    masks: MaskFormat
    examples: tuple[Example, ...]
    source: Path

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, example: Example) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The photo, uint8 (H, W, 3) RGB, and its mask, uint8 (H, W): class indices and 255 for void.

        Raises:
            InputError: the photo is missing or cannot be read.
            DataError: the mask is missing, cannot be read, holds what is no class, or has another size than
                the photo turned upright.
        """
        image = read_image(example.image)
        mask = read_mask(example.mask, self.masks)
        refuse_other_size(example, image.shape[:2], mask.shape)
        return image, mask


def refuse_other_size(example: Example, photo: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Raise a DataError that names the mask unless photo and mask have the same height and width."""
    if photo == mask:
        return
    sizes = f"mask is {mask[1]}x{mask[0]}, its photo {example.image.name} {photo[1]}x{photo[0]}"
    if photo == mask[::-1]:
        raise DataError(
            f"{example.mask}: {sizes}; it fits when turned by a quarter: photos are read upright, as their "
            "EXIF orientation says, so turn the mask or remove the orientation from the photo"
        )
    raise DataError(f"{example.mask}: {sizes}; they must agree")
