"""A user's own data: folders of photos and masks beside a `dataset.toml`, and which photos a split takes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.description import DESCRIPTION, REST, Description, read_description
from deconvseg.errors import DataError
from deconvseg.images import PHOTO_SUFFIXES


def folder_dataset(root: Path, split: str) -> DataSet:
    """A split of the data that `root/dataset.toml` describes.

    A list file holds one photo name a line: its path below the folder of photos, with or without suffix. A
    share takes, of the photos that no list names, those whose name's hash falls into it: adding photos moves
    no other photo to another split. `rest` takes the photos that are in no other split.

    Raises:
        DataError: the description is broken, its list cannot be read, two photos would have one mask, or the
            split is unknown or empty. That a listed photo or a mask is missing is found when it is read.
    """
    path = root / DESCRIPTION
    description = read_description(path)
    if split not in description.splits:
        known = ", ".join(description.splits)
        raise DataError(f"{path}: there is no split named '{split}'; splits here: {known}")
    photos = _find_photos(description.images, description.masks)
    names = _members(root, description, split, photos)
    if not names:
        raise DataError(
            f"{path}: split '{split}' is empty; {len(photos)} photos are in {description.images}, "
            "give it names or a larger share of them"
        )
    examples = tuple(
        Example(name, photos.get(name, description.images / name), description.masks / f"{name}.png")
        for name in names
    )
    return DataSet(description.classes, description.palette, description.format, examples, path)


def _find_photos(images: Path, masks: Path) -> dict[str, Path]:
    """Photos by name: the path below `images` without suffix."""
    photos: dict[str, Path] = {}
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() not in PHOTO_SUFFIXES or path.name.startswith("."):
            continue
        if _is_mask(path, images, masks):
            continue
        name = path.relative_to(images).with_suffix("").as_posix()
        if name in photos:
            raise DataError(
                f"{path}: {photos[name].name} would have the same mask, {name}.png; rename one of them"
            )
        photos[name] = path
    return photos


def _is_mask(path: Path, images: Path, masks: Path) -> bool:
    """Whether a picture below `images` is none of the photos, because the masks are there too."""
    if masks == images:
        return path.suffix.lower() == ".png"
    return images in masks.parents and masks in path.parents


def _members(root: Path, description: Description, split: str, photos: Mapping[str, Path]) -> list[str]:
    lists = {
        name: [_name(entry, photos) for entry in _entries(root, chosen)]
        for name, chosen in description.splits.items()
        if not isinstance(chosen, float) and chosen != REST
    }
    if split in lists:
        return lists[split]
    listed = {name for names in lists.values() for name in names}
    low, high = _interval(description, split)
    return [name for name in sorted(photos) if name not in listed and low <= _place(name) < high]


def _interval(description: Description, split: str) -> tuple[float, float]:
    """Which part of 0..1 a split drawn by hash has: shares come first, in their order, then the rest."""
    low = 0.0
    for name, share in description.splits.items():
        if isinstance(share, float):
            if name == split:
                return low, low + share
            low += share
    return low, 1.0


def _place(name: str) -> float:
    """A number from 0 to 1 that a name always gets, evenly spread over names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def _entries(root: Path, chosen: str | Sequence[str]) -> list[str]:
    if not isinstance(chosen, str):
        return [entry.strip() for entry in chosen]
    path = root / chosen
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: list cannot be read ({reason}); put one photo name a line in it") from error
    return [line.strip() for line in lines if line.strip()]


def _name(entry: str, photos: Collection[str]) -> str:
    path = Path(entry)
    if entry in photos or path.suffix.lower() not in PHOTO_SUFFIXES:
        return path.as_posix()
    return path.with_suffix("").as_posix()
