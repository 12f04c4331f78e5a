"""Looks at every photo and mask of a data set before hours of training are spent on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.masks import VOID
from deconvseg.errors import DataError, DeconvSegError
from deconvseg.machine import pool


@dataclass(frozen=True)
class DataReport:
    """What a data set holds."""

    source: Path  # the file or folder that names the photos
    examples: int  # photos with their masks that were looked at
    faults: tuple[str, ...]  # everything that must be mended, "path: problem", in the order of the list
    pixels: dict[str, int]  # of each class, by name, in all masks without a fault
    photos: dict[str, int]  # masks in which each class occurs, by name
    void_share: float  # 0 to 1, of the pixels

    def lines(self) -> Iterator[str]:
        """What a person wants to read: the faults, and a line a class."""
        yield f"{self.examples} photos, {len(self.faults)} faults, {self.void_share:.1%} of pixels void"
        yield from (f"fault: {fault}" for fault in self.faults)
        total, width = max(sum(self.pixels.values()), 1), max(map(len, self.pixels))
        for name, pixels in self.pixels.items():
            yield f"{name:{width}}  in {self.photos[name]:6} photos  {pixels / total:7.2%} of pixels"


def check_dataset(
    dataset: DataSet, *, workers: int = 0, progress: Callable[[], None] = lambda: None
) -> DataReport:
    """Read every photo and mask of a data set, by `workers` threads, and say what is wrong, all of it.

    Faults are photos and masks that `DataSet.read` refuses, the first of a pair, and masks with nothing but
    void. `progress` is called once a photo.
    """
    faults = list[str]()
    pixels, photos = np.zeros((2, 256), np.int64)
    with pool(workers) as call_each:
        for fault, counts in call_each(partial(_look, dataset), dataset.examples):
            faults += fault
            pixels += counts
            photos += counts > 0
            progress()
    return DataReport(
        source=dataset.source,
        examples=len(dataset.examples),
        faults=tuple(faults),
        pixels=dict(zip(dataset.classes, pixels.tolist(), strict=False)),
        photos=dict(zip(dataset.classes, photos.tolist(), strict=False)),
        void_share=float(pixels[VOID] / max(pixels.sum(), 1)),
    )


def _look(dataset: DataSet, example: Example) -> tuple[list[str], NDArray[np.int64]]:
    """An example's fault, if any, and its mask's pixels by label (256,)."""
    try:
        _, mask = dataset.read(example)
        if (mask == VOID).all():
            raise DataError(f"{example.mask}: is void all over; label it, or take its photo out")
    except DeconvSegError as error:
        return [str(error)], np.zeros(256, np.int64)
    return [], np.bincount(mask.ravel(), minlength=256)
