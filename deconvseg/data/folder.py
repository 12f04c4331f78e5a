"""A user's own data: folders of photos and masks beside a `dataset.toml` that describes them."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from deconvseg.data.dataset import DataSet, Example, find_pictures, photo_name, read_lines
from deconvseg.data.masks import VOID, Color, MaskFormat, hex_color
from deconvseg.errors import DataError
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.palette import Palette, voc_color

DESCRIPTION = "dataset.toml"
"""Name of the file."""
REST = "rest"
"""The split of all photos that are in no other."""
MOST_CLASSES = 255
_KEYS = ("images", "masks", "ignore", "splits", "classes")

Names: TypeAlias = Path | Sequence[str]
"""A list file, or the names themselves."""
Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Description:
    """What a `dataset.toml` says.

    Attributes:
        path: the file.
        images: folder of the photos.
        masks: folder of the masks: the photo's relative path with suffix `.png`, or that of another picture
            if there is none.
        lists: splits by name, a list file or photo names.
        drawn: splits by name, the part of 0..1 that the place of a photo's name falls into.
        classes: names, background first; 2 to 255.
        palette: one (R, G, B) of 0..255 a class.
        format: what the masks' pixels mean.
    """

    path: Path
    images: Path
    masks: Path
    lists: Mapping[str, Names]
    drawn: Mapping[str, Interval]
    classes: tuple[str, ...]
    palette: Palette
    format: MaskFormat


def folder_dataset(root: Path, split: str) -> DataSet:
    """A split of the data that `root/dataset.toml` describes.

    A list file holds one photo name a line: its path below the folder of photos, with or without suffix. A
    share takes, of the photos that no list names, those whose name's hash falls into it: adding photos moves
    no other photo to another split. `rest` takes the photos that are in no other split.

    Raises:
        DataError: the description is broken, a list cannot be read, two photos have one name, the split is
            unknown or empty, or it takes what lists leave and one of these names a photo that is not there.
            That a photo of the split or a mask is missing is found when it is read.
    """
    description = read_description(root / DESCRIPTION)
    images, masks = description.images, description.masks
    if split not in description.lists and split not in description.drawn:
        known = ", ".join(sorted([*description.lists, *description.drawn]))
        raise DataError(f"{description.path}: there is no split named '{split}'; splits here: {known}")
    together = images.samefile(masks)
    mask_suffixes = {".png"} if together else set(PHOTO_SUFFIXES)
    photo_suffixes = set(PHOTO_SUFFIXES) - {".png"} if together else set(PHOTO_SUFFIXES)
    photos = find_pictures(images, suffixes=photo_suffixes, leave_out=masks)
    labels = find_pictures(masks, ".png", suffixes=mask_suffixes, leave_out=images)
    entries = _entries(description, split, photos)
    if not entries:
        raise DataError(
            f"{description.path}: split '{split}' is empty; {len(photos)} photos are in {images}, "
            "give it names or a larger share of them"
        )
    examples = tuple(
        Example(name, photos.get(name, images / entry), labels.get(name, masks / f"{name}.png"))
        for name, entry in entries
    )
    return DataSet(description.classes, description.palette, description.format, examples, description.path)


def _entries(description: Description, split: str, photos: Collection[str]) -> list[tuple[str, str]]:
    """Names of a split's photos, and how they are written in its list."""
    lists: dict[str, list[tuple[str, str]]] = {}
    for name, chosen in description.lists.items():
        entries = read_lines(chosen) if isinstance(chosen, Path) else chosen
        lists[name] = [(photo_name(entry, photos), entry) for entry in entries]
        missing = [entry for photo, entry in lists[name] if photo not in photos]
        # Under the name it has, the photo would be drawn, and so be in two splits.
        if missing and split in description.drawn:
            source = chosen if isinstance(chosen, Path) else description.path
            raise DataError(
                f"{source}: split '{name}' names {missing[0]}, which is not in {description.images} "
                f"({len(missing)} such names), so split '{split}' may hold it; mend the list"
            )
    if split in lists:
        return lists[split]
    listed = {photo for entries in lists.values() for photo, _ in entries}
    low, high = description.drawn[split]
    return [(name, name) for name in sorted(photos) if name not in listed and low <= _place(name) < high]


def _place(name: str) -> float:
    """A number from 0 to 1 that a name always gets, evenly spread over names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def read_description(path: Path) -> Description:
    """Read a `dataset.toml`.

    Keys: `images` and `masks` (folders; these words by default), `ignore` (id or colour of void pixels; by
    default id 255, unless a class has it), `[splits]`, and for each class one `[[classes]]` with `name`,
    `color` (by default VOC's of that position) and `id` (by default the position).

    Raises:
        DataError: unreadable, an unknown key, a value of another type or out of range, a name, id or colour
            that occurs twice, or a folder that does not exist.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    try:
        _check_keys(table, _KEYS)
        names, palette, ids = _classes(table)
        lists, drawn = _splits(path.parent, table)
        images, masks = (_folder(path.parent, table, key) for key in ("images", "masks"))
        form = _format(table, names, palette, ids)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Description(path, images, masks, lists, drawn, names, palette, form)


def _check(is_right: bool, fault: str) -> None:
    """Raise a DataError, which does not name the file yet, unless all is right."""
    if not is_right:
        raise DataError(fault)


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str = "") -> None:
    for key in table:
        cure = "move it above the first [table]" if key in _KEYS else f"known are {', '.join(known)}"
        _check(key in known, f"{where}unknown key '{key}'; {cure}")


def _folder(parent: Path, table: Mapping[str, Any], key: str) -> Path:
    value = table.get(key, key)
    _check(isinstance(value, str), f"{key} = {value!r} should be the name of a folder, in quotes")
    folder: Path = parent / value
    _check(folder.is_dir(), f"{key} = {value!r}: there is no folder {folder}")
    return folder


def _splits(folder: Path, table: Mapping[str, Any]) -> tuple[dict[str, Names], dict[str, Interval]]:
    """Those that are lists, and those that are drawn: shares come first, in their order, then the rest."""
    given = table.get("splits")
    wanted = 'has no table [splits]; name at least one split in it, like train = "train.txt"'
    _check(isinstance(given, dict) and bool(given), wanted)
    lists: dict[str, Names] = {}
    drawn: dict[str, Interval] = {}
    rest, total = [], 0.0
    for name, value in table["splits"].items():
        if value == REST:
            rest.append(name)
        elif isinstance(value, float) and 0 < value < 1:
            drawn[name] = total, total + value
            total += value
        elif isinstance(value, str) and value:
            lists[name] = folder / value
        else:
            is_right = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
            wanted = f'a list file, "{REST}", a list of names, or a share like 0.1'
            _check(is_right and bool(value), f"split {name} = {value!r} should be {wanted}")
            lists[name] = [entry.strip() for entry in value]
    _check(total <= 1 + 1e-9, f"the splits' shares add up to {total:g}; they may add up to 1 at most")
    _check(len(rest) < 2, f'two splits are "{REST}"; only one can be')
    return lists, drawn | dict.fromkeys(rest, (total, 1.0))


def _classes(table: Mapping[str, Any]) -> tuple[tuple[str, ...], Palette, list[int]]:
    """Names, colours and ids, by class."""
    given = table.get("classes")
    is_right = isinstance(given, list) and all(isinstance(entry, dict) for entry in given)
    _check(is_right, "has no [[classes]]; give one such table a class, background first")
    possible = f"2 to {MOST_CLASSES} are possible, background included"
    _check(2 <= len(table["classes"]) <= MOST_CLASSES, f"has {len(table['classes'])} classes; {possible}")
    names, palette, ids = [], [], []
    for label, entry in enumerate(table["classes"]):
        _check_keys(entry, ("name", "color", "id"), f"class {label}: ")
        name, value = entry.get("name"), entry.get("id", label)
        is_right = isinstance(name, str) and bool(name.strip())
        _check(is_right, f"class {label}: name = {name!r} should be text")
        _check(_is_byte(value), f"class {label}: id = {value!r} should be a whole number from 0 to 255")
        names.append(name)
        ids.append(value)
        palette.append(_color(f"class {label}: color", entry.get("color", list(voc_color(label)))))
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
