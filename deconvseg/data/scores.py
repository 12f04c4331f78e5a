"""Score files: the class probabilities that a network gave to photos, as masks and as soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.data.crops import sampling_grid
from deconvseg.data.masks import VOID
from deconvseg.errors import DataError, reason
from deconvseg.machine import pool

SUFFIX = ".scores.npz"  # after a photo's name in that of its score file
SURE = 0.5  # a pixel whose best class has less is void in a mask made of scores
_SHRINK = 4  # of photos' sides, at least: soft labels are smooth, and many a photo


def mask_from_scores(path: Path, size: Sequence[int], classes: Sequence[str]) -> NDArray[np.uint8]:
    """The mask that a score file makes for a photo of this height and width, uint8 (H, W): the likeliest
    class, and 255 for void where that has under a half. DataError as of `read_scores`."""
    values = read_scores(path, size, classes)[None]
    values = functional.interpolate(values, tuple(size), mode="bilinear", align_corners=False)[0]
    share, label = values.max(0)
    return np.asarray(label.masked_fill_(share < SURE, VOID), np.uint8)


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


def load_scores(
    files: Sequence[Path | None], sizes: Tensor, classes: Sequence[str], *, workers: int = 0
) -> list[Tensor | None]:
    """Soft labels uint8 (C, h, w) of a score file a photo, as `Segmentation.save(..., "scores")` writes them.

    255 is certain, and they reach from border to border of the photo; None where there is no file. `sizes`
    are heights and widths of the photos in their store, `classes` names, background first. Raises DataError
    if a file is missing, damaged, of other classes, or of a photo of another shape.
    """
    with pool(workers) as call_each:
        pairs = zip(files, sizes.tolist(), strict=True)
        return list(call_each(partial(_read_small, classes), pairs))


def cut_scores(
    maps: Sequence[Tensor | None], sizes: Tensor, photo: Tensor, boxes: Tensor, mirror: Tensor, size: int
) -> Tensor:
    """Soft labels float32 (B, C, size, size) of crops, which are given as to `crops.cut_crops`.

    `maps` and `sizes` are as of `load_scores`. They sum to 1 over the classes and go on beyond the photo's
    borders as at them; all are 0 where the photo has none.
    """
    height, width = sizes[photo].to(boxes.device, torch.float32).T[:, :, None]
    grid = sampling_grid(boxes, mirror, size, width, height)
    classes = next((len(values) for values in maps if values is not None), 1)
    cut = torch.zeros(len(photo), classes, size, size, device=boxes.device)
    for k, i in enumerate(photo.tolist()):  # one by one, as each has a size of its own
        values = maps[i]
        if values is not None:
            cut[k] = functional.grid_sample(
                values[None].float(), grid[k : k + 1], padding_mode="border", align_corners=False
            )[0]
    return cut / cut.sum(1, keepdim=True).clamp_min(1e-12)


def _read_small(classes: Sequence[str], pair: tuple[Path | None, list[int]]) -> Tensor | None:
    file, size = pair
    if file is None:
        return None
    values = read_scores(file, size, classes)
    small = [min(have, -(-side // _SHRINK)) for have, side in zip(values.shape[1:], size, strict=True)]
    values = functional.interpolate(values[None], small, mode="area")[0]
    return (values.clamp(0, 1) * 255).round_().byte()
