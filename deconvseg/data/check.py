"""Looks at every photo and mask of a data set before hours of training are spent on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import DataSet, Example, refuse_other_size
from deconvseg.data.masks import VOID, MaskFormat, read_mask
from deconvseg.errors import DataError, InputError
from deconvseg.images.read import read_photo
from deconvseg.machine import pool

_SHOWN = 20  # faults that `lines` lists


@dataclass(frozen=True)
class DataReport:
    """What a data set holds."""

    source: Path  # the file or folder that names the photos
    examples: int  # photos with their masks that were looked at
    faults: tuple[str, ...]  # everything that must be mended, "path: problem", in the order of the list
    warnings: tuple[str, ...]  # what can be trained on but is hardly meant
    pixels: dict[str, int]  # of each class, by name, in all readable masks
    photos: dict[str, int]  # masks in which each class occurs, by name
    void_share: float  # 0 to 1, of the pixels

    def lines(self) -> Iterator[str]:
        """What a person wants to read: faults (the first 20), warnings, and a line a class."""
        yield f"{self.examples} photos, {len(self.faults)} faults, {self.void_share:.1%} of pixels void"
        yield from (f"fault: {fault}" for fault in self.faults[:_SHOWN])
        if len(self.faults) > _SHOWN:
            yield f"and {len(self.faults) - _SHOWN} faults more"
        yield from (f"warning: {warning}" for warning in self.warnings)
        total, width = max(sum(self.pixels.values()), 1), max(map(len, self.pixels))
        for name, pixels in self.pixels.items():
            yield f"{name:{width}}  in {self.photos[name]:6} photos  {pixels / total:7.2%} of pixels"


def check_dataset(
    dataset: DataSet, *, workers: int = 0, progress: Callable[[], None] = lambda: None
) -> DataReport:
    """Read every photo and mask of a data set, by `workers` threads, and say what is wrong, all of it.

    Faults are photos and masks that are missing, unreadable or of two sizes, and masks that `read_mask`
    refuses or with nothing but void. `progress` is called once a photo.
    """
    faults, notes = list[str](), list[str]()
    pixels, photos = np.zeros((2, 256), np.int64)
    with pool(workers) as call_each:
        for problems, told, counts in call_each(partial(_look, dataset.masks), dataset.examples):
            faults += problems
            notes += told
            pixels += counts
            photos += counts > 0
            progress()
    by_name = dict(zip(dataset.classes, pixels.tolist(), strict=False))
    warnings = []
    if absent := [name for name, count in by_name.items() if not count]:
        warnings.append(f"never found: {', '.join(absent)}")
    if notes:
        warnings.append(notes[0] + (f" (and {len(notes) - 1} such notes)" if len(notes) > 1 else ""))
    return DataReport(
        source=dataset.source,
        examples=len(dataset.examples),
        faults=tuple(faults),
        warnings=tuple(warnings),
        pixels=by_name,
        photos=dict(zip(dataset.classes, photos.tolist(), strict=False)),
        void_share=float(pixels[VOID] / max(pixels.sum(), 1)),
    )


def _look(masks: MaskFormat, example: Example) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """One photo's faults, notes and pixels by label (256,)."""
    photo, faults, counts = None, list[str](), np.zeros(256, np.int64)
    try:
        photo = read_photo(example.image)
    except InputError as error:
        faults.append(str(error))
    try:
        mask = read_mask(example.mask, masks)
        counts = np.bincount(mask.ravel(), minlength=256)
        if counts[VOID] == mask.size:
            raise DataError(f"{example.mask}: is void all over; label it, or take its photo out")
        if photo is not None:
            refuse_other_size(example, (photo.height, photo.width), mask.shape)
    except DataError as error:
        faults.append(str(error))
    return faults, [f"{example.image}: {note}" for note in photo.notes] if photo else [], counts
