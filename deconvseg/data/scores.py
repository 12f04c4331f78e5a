"""Score files: the class probabilities that a network gave to photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.data.masks import VOID
from deconvseg.errors import DataError, reason

SUFFIX = ".scores.npz"  # after a photo's name in that of its score file
SURE = 0.5  # a pixel whose best class has less is void in a mask made of scores


def mask_from_scores(path: Path, size: Sequence[int], classes: Sequence[str]) -> NDArray[np.uint8]:
    """The mask that a score file makes for a photo of this height and width, uint8 (H, W): the likeliest
    class, and 255 for void where that has under a half. DataError as of `read_scores`."""
    values = read_scores(path, size, classes)[None]
    values = functional.interpolate(values, tuple(size), mode="bilinear", align_corners=False)[0]
    share, label = values.max(0)
    mask: NDArray[np.uint8] = label.masked_fill_(share < SURE, VOID).byte().numpy()
    return mask


def read_scores(path: Path, size: Sequence[int], classes: Sequence[str]) -> Tensor:
    """Probabilities float32 (C, h, w) of a score file of a photo of this height and width.

    Raises DataError if the file cannot be read, or is of other classes or of a photo of another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found, names = np.asarray(file["probabilities"]), [str(name) for name in file["classes"]]
    except Exception as error:  # numpy raises whatever the damage happens to cause
        raise DataError(f"{path}: scores cannot be read ({reason(error)}); make them again") from error
    if names != list(classes):
        raise DataError(f"{path}: scores of other classes ({', '.join(names[:5])}, ...)")
    if found.ndim != 3 or len(found) != len(names) or not (found.min() >= 0 and found.max() <= 1.01):
        raise DataError(f"{path}: scores must be numbers (C, H, W) from 0 to 1; make them again")
    (_, rows, columns), (height, width) = found.shape, size
    # Sides of the two may be rounded by one cell or pixel.
    if abs(rows * width - columns * height) > width + height + rows + columns:
        raise DataError(
            f"{path}: scores {columns}x{rows} are not of a photo {width}x{height}; make them again"
        )
    return torch.from_numpy(found).float()
