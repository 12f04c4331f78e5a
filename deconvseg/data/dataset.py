"""A data set as training and evaluation see it: classes, and photos with their masks."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.masks import MaskFormat, read_mask
from deconvseg.data.scores import SUFFIX, mask_from_scores
from deconvseg.errors import DataError
from deconvseg.files import walk
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.palette import Palette
from deconvseg.images.read import read_image


@dataclass(frozen=True)
class Example:
    """One photo of a data set and its mask; neither need exist before it is read."""

    name: str  # place below the folder of photos, without suffix, by which lists and scores know it
    image: Path
    mask: Path  # a file as of `read_mask`, or the score file that makes it
    scores: Path | None = None  # its score file, to learn from as well


@dataclass(frozen=True)
class DataSet:
    """One split of a data set."""

    classes: tuple[str, ...]  # names; the first is background, what no region covers
    palette: Palette  # one (R, G, B) of 0..255 a class
    masks: MaskFormat  # what the masks' pixels mean
    examples: tuple[Example, ...]  # at least one, in the list's order
    source: Path  # the file or folder that named the examples, for messages

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, example: Example) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The photo, uint8 (H, W, 3) RGB, and its mask as of `read_mask`; InputError, DataError if unfit."""
        image = read_image(example.image)
        if example.mask.name.endswith(SUFFIX):
            return image, mask_from_scores(example.mask, image.shape[:2], self.classes)
        mask = read_mask(example.mask, self.masks)
        refuse_other_size(example, image.shape[:2], mask.shape)
        return image, mask


def refuse_other_size(example: Example, photo: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Raise a DataError that names the mask unless photo and mask have the same height and width."""
    if photo != mask:
        turn = "" if photo != mask[::-1] else " (photos are turned upright by their EXIF orientation)"
        raise DataError(
            f"{example.mask}: mask is {mask[1]}x{mask[0]}, its photo {example.image.name} "
            f"{photo[1]}x{photo[0]}; they must agree{turn}"
        )


def find_pictures(
    folder: Path, prefer: str = "", suffixes: Collection[str] = PHOTO_SUFFIXES
) -> dict[str, Path]:
    """The pictures below a folder, if it is there, by name: the path without suffix, composed (NFC).

    Files are those of `files.walk`. The suffix `prefer` wins where several pictures have one name.
    Raises DataError if a folder cannot be listed, a link leads nowhere, or two pictures have one name.
    """
    if not folder.is_dir():
        return {}
    files = walk(str(folder), refused=_refuse)
    pictures: dict[str, Path] = {}
    for path in sorted(map(Path, files), key=lambda path: (path.suffix.lower() != prefer, path)):
        if path.suffix.lower() in suffixes:
            name = normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            first = pictures.setdefault(name, path)
            if first != path and (path.suffix.lower() == prefer or first.suffix.lower() != prefer):
                raise DataError(f"{path}: {first.name} has the same name without suffix; rename one of them")
        elif not path.exists():  # of a picture it is told when that is read
            raise DataError(f"{path}: the link leads nowhere; mend or remove it")
    return pictures


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); mend or remove it")


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not blank, UTF-8, or UTF-16 with its mark; DataError if it is no text."""
    try:
        content = path.read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-16" if is_wide else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: list cannot be read ({reason}); put one photo name a line in it") from error
    return [line.strip() for line in lines if line.strip()]


def photo_name(entry: str, photos: Collection[str]) -> str:
    """The name that a list's entry means: a path as of `find_pictures`, with or without suffix."""
    entry = normalize("NFC", entry)
    if entry in photos:
        return entry
    path = PurePosixPath(entry.replace("\\", "/"))
    is_file = path.suffix.lower() in PHOTO_SUFFIXES and path.as_posix() not in photos
    return (path.with_suffix("") if is_file else path).as_posix()
