"""`dataset.toml`, a user's description of own data, read and checked."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from deconvseg.data.masks import VOID, Color, MaskFormat, hex_color
from deconvseg.errors import DataError
from deconvseg.images.palette import Palette, voc_color

DESCRIPTION = "dataset.toml"
"""Name of the file."""
REST = "rest"
"""The split of all photos that are in no other."""
MOST_CLASSES = 255
_KEYS = ("images", "masks", "ignore", "splits", "classes")

Split: TypeAlias = str | float | tuple[str, ...]
"""A list file or REST, a share of the photos, or names."""


@dataclass(frozen=True)
class Description:
    """What a `dataset.toml` says.

    Attributes:
        images: folder of the photos.
        masks: folder of the masks: the photo's relative path with suffix `.png`.
        splits: by name, in the file's order: a list file (below the description's folder) or `rest`, a share
            over 0 and under 1, or photo names.
        classes: names, background first; 2 to 255.
        palette: one (R, G, B) of 0..255 a class.
        format: what the masks' pixels mean.
    """

    images: Path
    masks: Path
    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    palette: Palette
    format: MaskFormat


def read_description(path: Path) -> Description:
    """Read a `dataset.toml`.

    Keys: `images` and `masks` (folders; these words by default), `ignore` (id or colour of void pixels; by
    default id 255, unless a class has it), `[splits]`, and for each class one `[[classes]]` with `name`,
    `color` (by default VOC's of that position) and `id` (by default the position).

    Raises:
        DataError: unreadable, an unknown key (the nearest known one is named), a value of another type or out
            of range, a name, id or colour that occurs twice, or a folder that does not exist.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    try:
        _refuse_unknown(table, _KEYS)
        classes = _classes(table)
        return Description(
            images=_folder(path, table, "images"),
            masks=_folder(path, table, "masks"),
            splits=_splits(table),
            classes=tuple(name for name, _, _ in classes),
            palette=tuple(color for _, color, _ in classes),
            format=_format(table, classes),
        )
    except _FaultError as error:
        raise DataError(f"{path}: {error}") from error


class _FaultError(Exception):
    """What is wrong, without the file's name."""


_Class: TypeAlias = tuple[str, Color, int]
"""Name, colour, id."""


def _refuse_unknown(table: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            cure = "move it above the first [table]" if key in _KEYS else f"did you mean '{nearest}'?"
            raise _FaultError(f"{where}unknown key '{key}'; {cure}")


def _folder(path: Path, table: Mapping[str, Any], key: str) -> Path:
    value = table.get(key, key)
    if not isinstance(value, str):
        raise _FaultError(f"{key} = {value!r} should be the name of a folder, in quotes")
    folder = path.parent / value
    if not folder.is_dir():
        raise _FaultError(f"{key} = {value!r}: there is no folder {folder}")
    return folder


def _splits(table: Mapping[str, Any]) -> dict[str, Split]:
    given = table.get("splits")
    if not isinstance(given, dict) or not given:
        raise _FaultError('has no table [splits]; name at least one split in it, like train = "train.txt"')
    splits = {name: _split(name, value) for name, value in given.items()}
    if list(splits.values()).count(REST) > 1:
        raise _FaultError(f'two splits are "{REST}"; only one can be')
    total = sum(share for share in splits.values() if isinstance(share, float))
    if total > 1 + 1e-9:
        raise _FaultError(f"the splits' shares add up to {total:g}; they may add up to 1 at most")
    return splits


def _split(name: str, value: Any) -> Split:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) and item.strip() for item in value):
        return tuple(value)
    raise _FaultError(
        f'split {name} = {value!r} should be a list file, "{REST}", a list of names, or a share like 0.1'
    )


def _classes(table: Mapping[str, Any]) -> list[_Class]:
    given = table.get("classes")
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise _FaultError("has no [[classes]]; give one such table a class, background first")
    if not 2 <= len(given) <= MOST_CLASSES:
        raise _FaultError(f"has {len(given)} classes; 2 to {MOST_CLASSES} are possible, background included")
    classes = [_class(position, entry) for position, entry in enumerate(given)]
    _refuse_twice("name", [name for name, _, _ in classes], repr)
    _refuse_twice("color", [color for _, color, _ in classes], hex_color)
    _refuse_twice("id", [value for _, _, value in classes], str)
    return classes


def _class(position: int, entry: Mapping[str, Any]) -> _Class:
    where = f"class {position}: "
    _refuse_unknown(entry, ("name", "color", "id"), where)
    name, value = entry.get("name"), entry.get("id", position)
    if not isinstance(name, str) or not name.strip():
        raise _FaultError(f"{where}name = {name!r} should be text")
    if not _is_byte(value):
        raise _FaultError(f"{where}id = {value!r} should be a whole number from 0 to 255")
    return name, _color(f"{where}color", entry.get("color", list(voc_color(position)))), value


def _refuse_twice(key: str, values: Sequence[Any], show: Callable[[Any], str]) -> None:
    for position, value in enumerate(values):
        first = values.index(value)
        if first < position:
            raise _FaultError(f"classes {first} and {position} have the same {key}, {show(value)}")


def _color(where: str, value: Any) -> Color:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list) and len(value) == 3 and all(_is_byte(channel) for channel in value):
        return value[0], value[1], value[2]
    raise _FaultError(f'{where} = {value!r} should be like "#804080" or [128, 64, 128]')


def _format(table: Mapping[str, Any], classes: Sequence[_Class]) -> MaskFormat:
    ids = {value: label for label, (_, _, value) in enumerate(classes)}
    colors = {color: label for label, (_, color, _) in enumerate(classes)}
    ignore = table.get("ignore")
    if _is_byte(ignore):
        _add_void(ids, ignore, ignore)
        return MaskFormat(ids, colors)
    ids.setdefault(VOID, VOID)  # in black and white masks it may be a class
    if ignore is not None:
        _add_void(colors, _color("ignore", ignore), ignore)
    return MaskFormat(ids, colors)


def _add_void(labels: dict[Any, int], value: Any, ignore: Any) -> None:
    if value in labels:
        raise _FaultError(
            f"ignore = {ignore!r} is class {labels[value]} as well; take it out of one of the two"
        )
    labels[value] = VOID


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255
