"""Soft labels: score files of training photos, held in memory and cut as crops are (distillation)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from deconvseg.data.crops import sampling_grid
from deconvseg.data.scores import read_scores
from deconvseg.machine import pool

_SHRINK = 4  # of photos' sides, at least: soft labels are smooth, and many a photo


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
    """Soft labels float32 (B, C, size, size) of crops, which are given as to `data.crops.cut_crops`.

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
