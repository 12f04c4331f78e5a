"""Looks at every photo and mask of a data set before hours of training are spent on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import DataSet, Example, refuse_other_size
from deconvseg.data.masks import VOID, MaskFormat, read_mask
from deconvseg.errors import DataError, InputError
from deconvseg.images.read import read_photo
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

    Faults are photos and masks that are missing, unreadable or of two sizes, masks that `read_mask` refuses
    or with nothing but void, and names that come twice.

    Args:
        dataset: what to look at.
        workers: threads, 0 or more; the report does not depend on it.
        progress: called once a photo.
    """
    names = Counter(example.name for example in dataset.examples)
    faults = [
        Fault(dataset.source, f"names {name} {count} times; take it out {count - 1} times")
        for name, count in names.items()
        if count > 1
    ]
    notes: list[str] = []
    pixels, photos = np.zeros(256, np.int64), np.zeros(256, np.int64)
    digest = hashlib.sha256()
    with pool(workers) as call_each:
        for look in call_each(partial(_look, dataset.masks), dataset.examples):
            faults += look.faults
            notes += look.notes
            pixels += look.counts
            photos += look.counts > 0
            digest.update(look.digest)
            progress()
    classes = dataset.classes
    return DataReport(
        source=dataset.source,
        examples=len(dataset.examples),
        faults=tuple(faults),
        warnings=tuple(_warnings(classes, pixels, notes)),
        pixels=dict(zip(classes, pixels.tolist(), strict=False)),
        photos=dict(zip(classes, photos.tolist(), strict=False)),
        void_share=float(pixels[VOID] / max(pixels.sum(), 1)),
        digest=digest.hexdigest(),
    )


def _warnings(classes: Sequence[str], pixels: NDArray[np.int64], notes: Sequence[str]) -> Iterator[str]:
    found = [name for name, count in zip(classes, pixels, strict=False) if count]
    if len(found) == 1:
        yield f"every labelled pixel is {found[0]}: there is nothing to tell apart"
    missing = [name for name in classes if name not in found]
    if found and missing:
        yield f"never found: {', '.join(missing)}"
    if notes:
        yield notes[0] + (f" (and {len(notes) - 1} such notes)" if len(notes) > 1 else "")


class _Look(NamedTuple):
    """One photo's faults, notes, pixels by label (256,) and SHA-256."""

    faults: list[Fault]
    notes: list[str]
    counts: NDArray[np.int64]
    digest: bytes


def _look(masks: MaskFormat, example: Example) -> _Look:
    photo, notes, faults = None, list[str](), list[Fault]()
    counts = np.zeros(256, np.int64)
    try:
        photo = read_photo(example.image)
        notes = [f"{example.image}: {note}" for note in photo.notes]
    except InputError as error:
        faults.append(_fault(example.image, error))
    try:
        mask = read_mask(example.mask, masks)
        counts = np.bincount(mask.ravel(), minlength=256)
        if counts[VOID] == mask.size:
            raise DataError("is void all over; label it, or take its photo out")
        if photo is not None:
            refuse_other_size(example, (photo.height, photo.width), mask.shape)
    except DataError as error:
        faults.append(_fault(example.mask, error))
    size, content = -1, b""
    with suppress(OSError):  # what is missing or may not be read is a fault already
        size, content = example.image.stat().st_size, example.mask.read_bytes()
    digest = hashlib.sha256(f"{example.name}\0{size}\0".encode() + content).digest()
    return _Look(faults, notes, counts, digest)


def _fault(file: Path, error: Exception) -> Fault:
    return Fault(file, str(error).removeprefix(f"{file}: "))
