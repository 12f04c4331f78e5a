"""The manifest of a results folder: what became of each photo, and so where to go on after a stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict, cast, get_origin, get_type_hints

from deconvseg.batch.inputs import STDIN, Photo, Shard
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import OutputError, UsageError
from deconvseg.files import read_json_lines
from deconvseg.remote import is_remote, status

MANIFEST, JOURNAL = "segment.jsonl", ".segment-journal"
_OF_SHARDS, _JOURNALS_OF_SHARDS = "segment.*-of-*.jsonl", ".segment-journal.*-of-*"
_ALL = (MANIFEST, JOURNAL, _OF_SHARDS, _JOURNALS_OF_SHARDS)
COCO = "coco.json"
"""File of a results folder that holds the `coco` results of all photos."""
_SEND_INTERVAL = 30.0


class Record(TypedDict):
    """What became of one photo: a line of the manifest, an entry of `--json`.

    If the photo failed, `outputs` and all that follows is as of the last run in which it did not.
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


class Manifest:
    """The manifest of one results folder, read on creation; or that of one shard, and beside it the others.

    At every moment, also after a kill, it holds one line for each finished photo and none for another. Each
    shard writes its own files and reads all; of several lines of a photo, that in the manifest written last
    counts. A run of the whole takes the lines of all shards.

    A journal beside it, written at the start and the end of a run, names pending files: our results that have
    no line, of a run under way or stopped, or of another choice of kinds, and the file of all `coco` results.
    `find_done` counts photos to be `redone`, as their settings were others or their results have changed.
    """

    def __init__(self, folder: ResultsFolder, shard: Shard | None = None) -> None:
        self.folder, self.shard = folder, shard
        part = f".{shard}" if shard else ""
        self.path = folder.root / f"segment{part}.jsonl"
        self._journal = folder.root / f"{JOURNAL}{part}"
        self._sent = time.monotonic()
        self.redone = 0
        self._read_all()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process runs this shard, or anything if this is no shard, for the time of the block."""
        with self.folder.locked(self.shard):
            self._read_all()  # what others have done meanwhile
            try:
                yield
            finally:
                if self.path.exists():
                    self.folder.send(self.path, keep=True)

    def _read_all(self) -> None:
        self.folder.refresh(_ALL)
        self._records: dict[str, Record] = {}  # of a large folder it is not held twice
        self._records = self._lines_of_all()
        journals = self.folder.root / JOURNAL, *self.folder.root.glob(_JOURNALS_OF_SHARDS)
        self._pending = set[str]().union(*map(_read_journal, journals))

    def _lines_of_all(self) -> dict[str, Record]:
        """By name, each photo's line; of several that of the manifest that was written last."""
        records: dict[str, Record] = {}
        paths = self.folder.root / MANIFEST, *self.folder.root.glob(_OF_SHARDS)
        for path in sorted(paths, key=lambda path: status(str(path))[1] or 0):
            records |= read_records(path)
        return records

    def refuse_foreign(self, photos: Iterable[Photo]) -> None:
        """Raise UsageError if a result would replace a file that is not ours, or another photo's result."""
        folder, names = self.folder, set[str]()
        owners = {name: record for record in self._records.values() for name in record["outputs"].values()}
        for photo in photos:
            results = self._names(photo)
            names.update(results)
            before = (self._records.get(photo.name), *map(owners.get, results))
            for old in filter(None, before):
                if old["outputs"] and is_of_another(old, full_path(photo)):
                    raise UsageError(
                        f"{photo.shown}: would replace the result of {old['path']} in "
                        f"{folder.shown(folder.root)}; give another folder, or overwrite"
                    )
        for name in sorted(names - owners.keys() - self._pending):
            if folder.exists(name):
                raise UsageError(
                    f"{folder.shown(folder.root / name)}: exists, and is no result that {MANIFEST} knows; "
                    "give another folder, or overwrite"
                )

    def _names(self, photo: Photo) -> list[str]:
        names = [self.folder.name_of(path) for path in photo.outputs.values() if path]
        return [*names, COCO] if "coco" in photo.outputs else names

    def find_done(
        self, photos: Iterable[Photo], settings: str | None, options: Mapping[str, str]
    ) -> dict[str, Record]:
        """By name, the records of photos whose results were made as wanted now, and are all there."""
        return {photo.name: record for photo in photos if (record := self._done(photo, settings, options))}

    def _done(self, photo: Photo, settings: str | None, options: Mapping[str, str]) -> Record | None:
        old, now = self._records.get(photo.name), new_record(photo, settings)
        if old is None or now["bytes"] is None or not old["outputs"]:
            return None
        if not is_alike(old, now):
            self.redone += old["settings"] != now["settings"]
            return None
        for kind, path in photo.outputs.items():
            if path is None or kind not in old["outputs"] or old["options"].get(kind) != options.get(kind):
                return None
            name = self.folder.name_of(path)
            if not self.folder.is_as_written(name, old["digests"].get(kind)):
                self.redone += self.folder.exists(name)
                return None
        return {**old, "input": now["input"], "path": now["path"], "status": "skipped", "error": None}

    def start(self, photos: Sequence[Photo], done: Mapping[str, Record]) -> None:
        """Write the lines that stay: of the photos `done` before, by name, and of photos not in this run."""
        names = {photo.name for photo in photos}
        others = [record for name, record in self._records.items() if name not in names]
        if self.shard:
            others = [record for record in others if self.shard.holds(record["name"])]
            self._pending = _read_journal(self._journal) | (self._pending & {COCO})
        for photo in photos:
            old = self._records.get(photo.name)
            self._pending.update(old["outputs"].values() if old else ())
            self._pending.update(self._names(photo))
        self._write_journal()
        self.folder.write_lines(self.path, map(line_of, [*others, *done.values()]))
        if not self.shard:
            for pattern in (_OF_SHARDS, _JOURNALS_OF_SHARDS):
                for path in self.folder.root.glob(pattern):
                    self.folder.remove(path.name)

    def _write_journal(self) -> None:
        if self._pending:
            line = json.dumps({"pending": sorted(self._pending)}).encode() + b"\n"
            self.folder.write_lines(self._journal, [line])
        else:
            self.folder.remove(self._journal.name)

    def add(self, record: Record) -> Record:
        """Append the final line of a photo; returns its record with what stays of that of an earlier run."""
        old = self._records.get(record["name"])
        record = self._with_old(record, old) if old else record
        try:
            with self.path.open("ab") as stream:
                stream.write(line_of(record))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); check the disk") from error
        if time.monotonic() - self._sent > _SEND_INTERVAL:
            self.folder.send(self.path, keep=True)
            self._sent = time.monotonic()
        return record

    def _with_old(self, record: Record, old: Record) -> Record:
        """All stays if the photo failed, and else other kinds of result that go with the new ones."""
        if record["status"] == "failed":  # a disk may be away for a moment
            if is_of_another(old, record["path"]):
                return record
            return {**old, "input": record["input"], "status": "failed", "error": record["error"]}
        if None in (record["bytes"], old["bytes"]):  # of some stores, nobody knows what was and is there
            return record
        others = {kind: path for kind, path in old["outputs"].items() if kind not in record["outputs"]}
        if is_alike(old, record):
            there = [kind for kind, path in others.items() if self.folder.exists(path)]
            for key in ("outputs", "digests", "options"):
                record[key] |= {kind: old[key][kind] for kind in there if kind in old[key]}
            return record
        for kind, path in others.items():
            if self.folder.is_as_written(path, old["digests"].get(kind)):
                self.folder.remove(path)
        if "coco" in others and COCO in self._pending:  # it holds what has just been removed
            self.folder.remove(COCO)
            self._pending.discard(COCO)
        return record

    def finish(self, photos: Sequence[Photo]) -> None:
        """Put the lines into the order of the photos, after those of photos not in this run."""
        places = {photo.name: place for place, photo in enumerate(photos)}
        records = read_records(self.path)
        in_order = sorted(records.values(), key=lambda record: places.get(record["name"], -1))
        self.folder.write_lines(self.path, map(line_of, in_order))
        named = {path for record in in_order for path in record["outputs"].values()}
        self.folder.refresh(())  # other processes may have made results
        left = self._pending - named
        self._pending = {name for name in left if name == COCO or self.folder.exists(name)}
        self._write_journal()

    def write_coco(self, settings: str, options: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Put the `coco` results of all photos done with these settings and options into one file, by name.

        Shards do it one after the other, so that the last one sees what all have done; in a store, which has
        no locks, two that end together may each miss what the other did last. Returns a line for each result
        that cannot be used, and a note if others were made with other settings.
        """
        from deconvseg.images.coco import merge_coco

        root, wanted = self.folder.root, (settings, options.get("coco"))
        with self.folder.locked_for_a_moment():
            self.folder.refresh(_ALL)
            records = sorted(self._lines_of_all().values(), key=lambda record: record["name"])
            made = [
                record for record in records if record["status"] != "failed" and "coco" in record["outputs"]
            ]
            alike = [
                record["outputs"]["coco"]
                for record in made
                if (record["settings"], record["options"].get("coco")) == wanted
            ]
            self.folder.fetch(name for name in alike if not (root / name).exists())
            problems = merge_coco([root / name for name in alike], root / COCO)
            self.folder.send(root / COCO)
        others = len(made) - len(alike)
        note = f"{self.folder.shown(root / COCO)}: without {others} photos that were done with other settings"
        return [self.folder.shown(problem) for problem in problems], [note] if others else []

    def shown(self, record: Record) -> Record:
        """The same with `outputs` as the user knows them; the manifest itself has paths from its folder."""
        folder = self.folder
        outputs = {kind: folder.shown(folder.root / name) for kind, name in record["outputs"].items()}
        return {**record, "outputs": outputs}


def _read_journal(path: Path) -> set[str]:
    """The names that are pending."""
    with suppress(OSError):
        return {name for entry in read_json_lines(path) for name in entry.get("pending", ())}
    return set()
