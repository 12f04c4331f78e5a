"""What a manifest says of one photo: its line, read with mistrust, as files get cut, edited and old."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast, get_origin, get_type_hints

from deconvseg.batch.inputs import STDIN, Photo
from deconvseg.errors import OutputError
from deconvseg.files import read_json_lines
from deconvseg.remote import is_remote, status


class Record(TypedDict):
    """What became of one photo: a line of the manifest, an entry of `--json`.

    If the photo was not there, `outputs` and all that follows is as of the last run that found it.
    """

    input: str  # as given, or as found below the folder that was given
    path: str  # the same from the root, or the address, without its query; `-` is standard input
    name: str  # its place in the results folder, without suffix; unique in a manifest
    status: str  # "done", "skipped" (done by an earlier run with the same settings) or "failed"
    error: str | None  # one line, when failed
    outputs: dict[str, str]  # by kind, its file or address; in the manifest relative to the manifest's folder
    digests: dict[str, str]  # by kind, SHA-256 of its file, by which a later run knows it again
    options: dict[str, str]  # by kind, the option that shaped it, and no other kind
    width: int | None  # of the photo as displayed, in pixels
    height: int | None
    regions: int | None  # that went through the network
    classes: dict[str, float]  # share of the pixels (0..1), largest first
    notes: list[str]  # on how the photo was read, a line each
    seconds: float | int | None  # of work for this photo, from reading to writing, without waiting
    settings: str | None  # hash of all that changes every result, the network's content included
    bytes: int | None  # size and time of change of the photo's file, by which a later run knows it again
    modified: float | int | None


_TYPES = {
    key: get_origin(kind) if get_origin(kind) in (dict, list) else kind
    for key, kind in get_type_hints(Record).items()
}


def new_record(photo: Photo, settings: str | None) -> Record:
    """The record of a photo before anything is known but its file."""
    size, modified = (None, None) if photo.path == STDIN else status(photo.path)
    known = {"input": photo.shown, "path": full_path(photo), "name": photo.name, "settings": settings}
    return as_record({**known, "bytes": size, "modified": modified})


def full_path(photo: Photo) -> str:
    """Its path from the root; symbolic links and `..` stay, as only the disk knows where they lead."""
    if photo.path == STDIN or is_remote(photo.path):
        return photo.shown
    return str(Path(photo.path).absolute())


def is_of_another(record: Record, path: str) -> bool:
    """Whether it is of another photo than that of the full path, which is still there and not moved."""
    before = record["path"]
    return (
        before != path
        and (is_remote(before) or os.path.exists(before))  # noqa: PTH110 (pathlib's may raise)
        and os.path.realpath(before) != os.path.realpath(path)
    )


def is_missing(record: Record) -> bool:
    """Whether there was no file at the path, or no store at the address."""
    return record["bytes"] is None and record["path"] != STDIN


def is_alike(record: Record, other: Record) -> bool:
    """Whether both are of the same file and settings, and so their results go together."""
    return not is_of_another(record, other["path"]) and all(
        record[key] == other[key] for key in ("bytes", "modified", "settings")
    )


def line_of(record: Record) -> bytes:
    """Its line in a manifest."""
    return json.dumps(record).encode() + b"\n"


def read_records(path: Path) -> dict[str, Record]:
    """By name, the records of a manifest, if there is one; the last of several of a name.

    Lines of another shape are left out. What an old line lacks is as in a photo that failed.
    """
    try:
        lines = read_json_lines(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); choose another folder") from error
    records = {}
    for found in lines:
        fitting = {key: value for key, value in found.items() if isinstance(value, _TYPES.get(key, ()))}
        if fitting.keys() >= {"input", "name", "outputs"}:
            record = as_record({"path": fitting["input"], **fitting})
            if all(map(_is_inside, (record["name"], *record["outputs"].values()))):
                records[record["name"]] = record
    return records


def _is_inside(place: object) -> bool:
    """Whether it is a path in the results folder: what is there may be replaced and removed."""
    return isinstance(place, str) and not place.startswith("/") and ".." not in place.split("/")


def as_record(known: Mapping[str, Any]) -> Record:
    """With what is known; the rest as before the photo is looked at."""
    blank = {key: kind() if kind in (dict, list, str) else None for key, kind in _TYPES.items()}
    record = {**blank, "status": "failed", **known}
    return cast(Record, {key: record[key] for key in _TYPES})
