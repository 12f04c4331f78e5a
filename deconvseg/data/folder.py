"""A user's own data: folders of photos and masks beside a `dataset.toml` that describes them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from deconvseg.data.dataset import DataSet, Example, find_pictures, photo_name, read_lines
from deconvseg.data.masks import VOID, Color, MaskFormat, hex_color
from deconvseg.errors import DataError
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.palette import Palette, voc_color

DESCRIPTION = "dataset.toml"
_REST = "rest"


def folder_dataset(root: Path, split: str) -> DataSet:
    """A split of the data that `root/dataset.toml` describes (docs/training.md); DataError if it is wrong."""
    path = root / DESCRIPTION
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        _check_keys(table, ("images", "masks", "ignore", "splits", "classes"))
        names, palette, ids = _classes(table)
        form = _format(table, names, palette, ids)
        images, masks = (_folder(root, table, key) for key in ("images", "masks"))
        splits = _splits(root, table)
        known = ", ".join(sorted(splits))
        _check(split in splits, f"there is no split named '{split}'; splits here: {known}")
        nested = images.resolve() in masks.resolve().parents
        _check(not nested, f"{masks} is a folder inside {images}, whose masks would be photos; move it out")
        photo_suffixes, mask_suffixes = set(PHOTO_SUFFIXES), set(PHOTO_SUFFIXES)
        if images.samefile(masks):
            photo_suffixes, mask_suffixes = photo_suffixes - {".png"}, {".png"}
        photos = find_pictures(images, suffixes=photo_suffixes)
        labels = find_pictures(masks, ".png", suffixes=mask_suffixes)
        chosen = _chosen(splits, split, photos)
        cure = f"{len(photos)} photos are in {images}, give it names or a larger share of them"
        _check(chosen, f"split '{split}' is empty; {cure}")
    except (OSError, ValueError) as error:  # text that is no UTF-8 or no TOML is a ValueError, too
        raise DataError(f"{path}: {error}") from error
    examples = []
    for entry in chosen:
        name = photo_name(entry, photos)
        mask = labels.get(name, masks / f"{name}.png")
        examples.append(Example(name, photos.get(name, images / entry), mask))
    return DataSet(names, palette, form, tuple(examples), path)


def _chosen(
    splits: Mapping[str, list[str] | tuple[float, float]], split: str, photos: Collection[str]
) -> list[str]:
    """The entries of a split's list; of a part, the names of the photos in it that no list names."""
    part = splits[split]
    if isinstance(part, list):
        return part
    free = {*photos}
    for lines in splits.values():
        if isinstance(lines, list):
            free -= {photo_name(line, photos) for line in lines}
    place = {name: int.from_bytes(sha256(name.encode()).digest()[:6]) / 2**48 for name in free}
    return [name for name in sorted(free) if part[0] <= place[name] < part[1]]


def _check(is_right: object, fault: str) -> None:
    """Raise a ValueError, which does not name the file yet, unless it is right."""
    if not is_right:
        raise ValueError(fault)


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str = "") -> None:
    for key in table:
        _check(key in known, f"{where}unknown key '{key}'; known are {', '.join(known)}")


def _folder(parent: Path, table: Mapping[str, Any], key: str) -> Path:
    value = table.get(key, key)
    if not isinstance(value, str) or not (parent / value).is_dir():
        raise ValueError(f"{key} = {value!r} should be the name of a folder in {parent}")
    return parent / value


def _splits(folder: Path, table: Mapping[str, Any]) -> dict[str, list[str] | tuple[float, float]]:
    """Of each split the lines of its list, or its part of 0..1: shares in their order, then the rest."""
    given = table.get("splits")
    if not isinstance(given, dict) or not given:
        raise ValueError('has no table [splits]; name at least one split in it, like train = "train.txt"')
    splits: dict[str, list[str] | tuple[float, float]] = {}
    total = 0.0
    for name, value in given.items():
        if isinstance(value, float) and 0 < value < 1:
            splits[name] = total, total + value
            total += value
        elif value != _REST:
            words = [value] if isinstance(value, str) else value
            is_right = isinstance(words, list) and words and all(isinstance(v, str) and v for v in words)
            wanted = f'a list file, "{_REST}", a list of names, or a share like 0.1'
            _check(is_right, f"split {name} = {value!r} should be {wanted}")
            splits[name] = read_lines(folder / value) if isinstance(value, str) else value
    rest = [name for name, value in given.items() if value == _REST]
    _check(total <= 1 + 1e-9, f"the splits' shares add up to {total:g}; they may add up to 1 at most")
    return splits | dict.fromkeys(rest, (total, 1.0))


def _classes(table: Mapping[str, Any]) -> tuple[tuple[str, ...], Palette, list[int]]:
    given = table.get("classes")
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise ValueError("has no [[classes]]; give one such table a class, background first")
    _check(2 <= len(given) <= 255, f"has {len(given)} classes; 2 to 255 are possible, background included")
    names, palette, ids = [], [], []
    for label, entry in enumerate(given):
        where, name, value = f"class {label}: ", entry.get("name"), entry.get("id", label)
        _check_keys(entry, ("name", "color", "id"), where)
        _check(isinstance(name, str) and name.strip(), f"{where}name = {name!r} should be text")
        _check(_is_byte(value), f"{where}id = {value!r} should be a whole number from 0 to 255")
        names.append(name)
        ids.append(value)
        palette.append(_color(f"{where}color", entry.get("color", list(voc_color(label)))))
    for key, values in ("name", names), ("color", [*map(hex_color, palette)]), ("id", ids):
        for label, value in enumerate(values):
            first = values.index(value)
            _check(first == label, f"classes {first} and {label} have the same {key}, {value}")
    return tuple(names), tuple(palette), ids


def _color(where: str, value: Any) -> Color:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value[1:]))
    is_right = isinstance(value, list) and len(value) == 3 and all(map(_is_byte, value))
    _check(is_right, f'{where} = {value!r} should be like "#804080" or [128, 64, 128]')
    return value[0], value[1], value[2]


def _format(
    table: Mapping[str, Any], names: Sequence[str], palette: Palette, ids: Sequence[int]
) -> MaskFormat:
    by_id: dict[Any, int] = {value: label for label, value in enumerate(ids)}
    by_color: dict[Any, int] = {color: label for label, color in enumerate(palette)}
    ignore = table.get("ignore")
    if ignore is not None:
        labels, void = (by_id, ignore) if _is_byte(ignore) else (by_color, _color("ignore", ignore))
        both = f"ignore = {ignore!r} is class {labels.get(void)} as well"
        _check(void not in labels, f"{both}; take it out of one of the two")
        labels[void] = VOID
    if not _is_byte(ignore):
        by_id.setdefault(VOID, VOID)  # in black and white masks it may be a class
    # Where the file says nothing of colours, palettes are expected to be VOC's, which go by id.
    unsaid = {label for label, entry in enumerate(table["classes"]) if "color" not in entry}
    shown = {voc_color(VOID): VOID} | {voc_color(ids[label]): label for label in unsaid}
    shown |= {color: label for color, label in by_color.items() if label not in unsaid}
    return MaskFormat(by_id, by_color, shown, names)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255
