"""Looks at every photo and mask of a data set before hours of training are spent on it."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.data.dataset import DataSet, Example, refuse_other_size
from deconvseg.data.masks import VOID, MaskFormat, read_mask
from deconvseg.errors import DataError, InputError
from deconvseg.images.pixels import orientation_of
from deconvseg.images.read import read_image
from deconvseg.machine import pool

_SHOWN = 20
"""Faults that `lines` lists."""


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used as it is, and what is wrong with it."""

    file: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclass(frozen=True)
class DataReport:
    """What a data set holds.

    Attributes:
        source: the file or folder that names the photos.
        examples: photos with their masks that were looked at.
        faults: everything that must be mended, in the order of the list.
        warnings: what can be trained on but is hardly meant.
        pixels: pixels of each class, by name, in all readable masks.
        photos: masks in which each class occurs, by name.
        void_share: share (0..1) of pixels that are void.
        digest: SHA-256, in hex, of every name, the content of every mask and the size in bytes of every
            photo, in the list's order; the content of photos is left out, for speed.
    """

    source: Path
    examples: int
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]
    pixels: dict[str, int]
    photos: dict[str, int]
    void_share: float
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        faults = [{"file": str(fault.file), "problem": fault.problem} for fault in self.faults]
        return {**vars(self), "source": str(self.source), "faults": faults, "warnings": [*self.warnings]}

    def lines(self) -> list[str]:
        """What a person wants to read: faults (the first 20), warnings, and a line a class."""
        lines = [f"{self.examples} photos, {len(self.faults)} faults, {self.void_share:.1%} of pixels void"]
        lines += [f"fault: {fault}" for fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            lines.append(f"and {len(self.faults) - _SHOWN} faults more")
        lines += [f"warning: {warning}" for warning in self.warnings]
        total = max(sum(self.pixels.values()), 1)
        width = max(map(len, self.pixels))
        for name, pixels in self.pixels.items():
            lines.append(f"{name:{width}}  in {self.photos[name]:6} photos  {pixels / total:7.2%} of pixels")
        return lines

    def raise_if_unusable(self) -> None:
        """Raise a DataError with the first fault and their number, if there is any."""
        if self.faults:
            more = f" ({len(self.faults)} faults in all)" if len(self.faults) > 1 else ""
            raise DataError(f"{self.faults[0]}{more}")


def check_dataset(
    dataset: DataSet, *, workers: int = 0, progress: Callable[[], None] = lambda: None
) -> DataReport:
    """Read every photo and mask of a data set and say what is wrong, all of it.

    Faults are photos and masks that are missing, unreadable or of two sizes, masks with values that are no
    class or with nothing but void, and names that come twice.

    Args:
        dataset: what to look at.
        workers: threads, 0 or more; the report does not depend on it.
        progress: called once a photo.

    Raises:
        MissingDependencyError: the masks are `.mat` files and SciPy is not installed.
    """
    names = Counter(example.name for example in dataset.examples)
    faults = [
        Fault(dataset.source, f"names {name} {count} times; take it out {count - 1} times")
        for name, count in names.items()
        if count > 1
    ]
    pixels, photos = np.zeros(256, np.int64), np.zeros(256, np.int64)
    digest = hashlib.sha256()
    with pool(workers) as call_each:
        for found, counts, content in call_each(partial(_look, dataset.masks), dataset.examples):
            faults += found
            pixels += counts
            photos += counts > 0
            digest.update(content)
            progress()
    classes = dataset.classes
    return DataReport(
        source=dataset.source,
        examples=len(dataset.examples),
        faults=tuple(faults),
        warnings=tuple(_warnings(classes, pixels)),
        pixels=dict(zip(classes, pixels.tolist(), strict=False)),
        photos=dict(zip(classes, photos.tolist(), strict=False)),
        void_share=float(pixels[VOID] / max(pixels.sum(), 1)),
        digest=digest.hexdigest(),
    )


def _warnings(classes: tuple[str, ...], pixels: NDArray[np.int64]) -> Iterator[str]:
    found = [name for name, count in zip(classes, pixels, strict=False) if count]
    if len(found) == 1:
        yield f"every labelled pixel is {found[0]}: there is nothing to tell apart"
    missing = [name for name in classes if name not in found]
    if found and missing:
        yield f"never found: {', '.join(missing)}"


def _look(masks: MaskFormat, example: Example) -> tuple[list[Fault], NDArray[np.int64], bytes]:
    """One photo's faults, pixels by label (256,) and SHA-256."""
    faults: list[Fault] = []
    counts, photo = np.zeros(256, np.int64), None
    try:
        photo = _photo_size(example.image)
    except InputError as error:
        faults.append(_fault(example.image, error))
    try:
        mask = read_mask(example.mask, masks)
        counts = np.bincount(mask.ravel(), minlength=256)
        if counts[VOID] == mask.size:
            raise DataError("is void all over; label it, or take its photo out")
        if photo is not None:
            refuse_other_size(example, photo, mask.shape)
    except DataError as error:
        faults.append(_fault(example.mask, error))
    return faults, counts, _digest(example)


def _photo_size(path: Path) -> tuple[int, ...]:
    """Height and width of what `read_image` would return; raises what it would raise."""
    # A JPEG decoded to an eighth of its size passes through all its data, in a third of the time.
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            if image.format == "JPEG":
                width, height = image.size
                turned = orientation_of(image) >= 5  # by a quarter
                image.draft("RGB", (1, 1))
                image.load()
                return (width, height) if turned else (height, width)
    return read_image(path).shape[:2]


def _fault(file: Path, error: Exception) -> Fault:
    return Fault(file, str(error).removeprefix(f"{file}: "))


def _digest(example: Example) -> bytes:
    photo_size, mask = -1, b""
    with suppress(OSError):  # what is missing or may not be read is a fault already
        photo_size, mask = example.image.stat().st_size, example.mask.read_bytes()
    return hashlib.sha256(f"{example.name}\0{photo_size}\0".encode() + mask).digest()
