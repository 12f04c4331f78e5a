"""The manifest of a results folder: what became of each photo, and so where to go on after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from deconvseg.cli.batch import Task
from deconvseg.cli.inputs import Photo
from deconvseg.cli.shard import Shard, claim
from deconvseg.errors import OutputError, UsageError
from deconvseg.remote import is_remote, status

MANIFEST = "segment.jsonl"
LEFTOVERS = ".segment-more.json"
OF_SHARDS = ("segment.*-of-*.jsonl", ".segment-more.*-of-*.json")
_MANIFESTS_OF_SHARDS, _LEFTOVERS_OF_SHARDS = OF_SHARDS


class Record(TypedDict):
    """What became of one photo: a line of the manifest, an entry of --json.

    Keys:
        input: path of the photo as given, or as found below the folder that was given.
        name: its place in the results folder, without suffix; unique in a manifest.
        status: "done", "skipped" (done by an earlier run with the same settings) or "failed".
        error: one line, when failed.
        outputs: kind of result -> its file or address, in the manifest relative to the manifest's folder.
        digests: kind of result -> SHA-256 of its file, by which a later run knows it again.
        width, height: of the photo as displayed, in pixels.
        regions: that went through the network.
        classes: name -> share of the pixels (0..1), largest first.
        seconds: of work for this photo, from reading to writing, without waiting.
        settings: hash of all that changes a result, the network's content included.
        bytes, modified: size and time of change of the photo's file, by which a later run knows it again.
    """

    input: str
    name: str
    status: str
    error: str | None
    outputs: dict[str, str]
    digests: dict[str, str]
    width: int | None
    height: int | None
    regions: int | None
    classes: dict[str, float]
    seconds: float | None
    settings: str | None
    bytes: int | None
    modified: float | None


def new_record(photo: Photo, settings: str | None) -> Record:
    """The record of a photo before anything is known but its file."""
    size, modified = _status(photo.path)
    return Record(
        input=photo.path,
        name=photo.name,
        status="failed",
        error=None,
        outputs={},
        digests={},
        width=None,
        height=None,
        regions=None,
        classes={},
        seconds=None,
        settings=settings,
        bytes=size,
        modified=modified,
    )


class Manifest:
    """The manifest of one results folder, read on creation; or that of one shard, and beside it the others.

    At every moment, also after a kill, it holds one line for each finished photo and none for another. A file
    beside it names our results that have no line: those of a run under way or stopped, or of another --save,
    and `run_files`, those of the run as a whole. Each shard writes its own two files, and reads all; a run of
    the whole takes the shards' lines into its own manifest.
    """

    def __init__(self, folder: Path, run_files: Sequence[Path] = (), shard: Shard | None = None) -> None:
        self.folder, self.run_files, self.shard = folder, run_files, shard
        self.path = folder / (f"segment.{shard}.jsonl" if shard else MANIFEST)
        self._leftovers_path = folder / (f".segment-more.{shard}.json" if shard else LEFTOVERS)
        self._read_all()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """No other process runs this shard, or anything if this is no shard, for the time of the block.

        Raises UsageError or OutputError as `shard.claim`.
        """
        with claim(self.folder, self.shard):
            self._read_all()  # what others have done meanwhile
            yield

    def shown(self, text: str | Path) -> str:
        """A path, or a text with paths, as the user knows them."""
        return str(text)

    def publish(self, path: Path) -> None:
        """Put one of the `run_files`, which is made now, where it belongs."""

    def _read_all(self) -> None:
        self._records = self._lines_of_all()
        self._leftovers: set[str] = set()
        for path in (self.folder / LEFTOVERS, *self.folder.glob(_LEFTOVERS_OF_SHARDS)):
            self._leftovers.update(_read_leftovers(path))

    def _lines_of_all(self) -> dict[str, Record]:
        """By name, each photo's line; of several that of the manifest that was written last."""
        manifests = [self.folder / MANIFEST, *self.folder.glob(_MANIFESTS_OF_SHARDS)]
        records: dict[str, Record] = {}
        for path in sorted(manifests, key=_modified):
            records |= _read_lines(path)
        return records

    def refuse_strangers(self, tasks: Iterable[Task]) -> None:
        """Raise UsageError if a result would replace a file that is not ours, or another photo's result."""
        owners = {path: record for record in self._records.values() for path in record["outputs"].values()}
        for path in self.run_files:
            self._refuse_stranger(path, owners)
        for task in tasks:
            self._refuse_other_photo(task, self._records.get(task.photo.name))
            for path in filter(None, task.outputs.values()):
                self._refuse_other_photo(task, owners.get(self._from_folder(path)))
                self._refuse_stranger(path, owners)

    def _refuse_stranger(self, path: Path, owners: Mapping[str, Record]) -> None:
        name = self._from_folder(path)
        if name not in owners and name not in self._leftovers and self._exists(name):
            raise UsageError(
                f"{self.shown(path)}: exists, and no line of {self.shown(self.folder / MANIFEST)} says that "
                "it is a result; give another -o DIR, or --overwrite"
            )

    def _refuse_other_photo(self, task: Task, old: Record | None) -> None:
        if old and old["outputs"] and _is_of_another(old, task.photo):
            raise UsageError(
                f"{task.photo.path}: would replace the result of {old['input']} in "
                f"{self.shown(self.folder)}; give another -o DIR, or --overwrite"
            )

    def find_done(self, tasks: Iterable[Task], settings: str | None) -> dict[str, Record]:
        """By name, the records of photos whose results were made with these settings and are all there."""
        return {task.photo.name: record for task in tasks if (record := self._done(task, settings))}

    def _done(self, task: Task, settings: str | None) -> Record | None:
        old, now = self._records.get(task.photo.name), new_record(task.photo, settings)
        if (
            old is None
            or old["status"] == "failed"
            or now["bytes"] is None
            or _is_of_another(old, task.photo)
            or (old["bytes"], old["modified"], old["settings"]) != (now["bytes"], now["modified"], settings)
        ):
            return None
        for kind, path in task.outputs.items():
            if path is None or not self._is_as_written(path, old["digests"].get(kind)):
                return None
        outputs = {kind: self.shown(self.folder / path) for kind, path in old["outputs"].items()}
        return {**old, "input": task.photo.path, "status": "skipped", "outputs": outputs}

    def start(self, tasks: Sequence[Task], done: Mapping[str, Record]) -> None:
        """Write the lines that stay: of the photos `done` before, by name, and of photos not in this run."""
        names = {task.photo.name for task in tasks}
        kept = _read_lines(self.path) if self.shard else self._records
        lines = [record for name, record in kept.items() if name not in names]
        lines += [self._relative(record) for record in done.values()]
        if self.shard:
            self._leftovers = _read_leftovers(self._leftovers_path)
        for task in tasks:
            old = self._records.get(task.photo.name)
            self._leftovers.update(old["outputs"].values() if old else ())
            self._leftovers.update(map(self._from_folder, filter(None, task.outputs.values())))
        self._leftovers.update(map(self._from_folder, self.run_files))
        self._write_leftovers(self._leftovers)
        self._write(lines)
        self._sweep(task for task in tasks if task.photo.name not in done)
        if not self.shard:
            for pattern in (_MANIFESTS_OF_SHARDS, _LEFTOVERS_OF_SHARDS):
                for path in self.folder.glob(pattern):
                    path.unlink()

    def _sweep(self, tasks: Iterable[Task]) -> None:
        from deconvseg.files import sweep

        paths = [path for task in tasks for path in task.outputs.values() if path]
        for folder in {self.folder, *paths, *(path.parent for path in paths)}:  # masks are in folders
            sweep(folder)

    def add(self, record: Record) -> None:
        """Append the final line of a photo."""
        try:
            with self.path.open("ab") as stream:
                stream.write(_line(self._relative(record)))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); check the disk") from error

    def finish(self, tasks: Sequence[Task]) -> None:
        """Put the lines into the order of the tasks, after those of photos not in this run.

        Leftovers that have a line by now, or do not exist, are forgotten. After a stop it is not called.
        """
        places = {task.photo.name: place for place, task in enumerate(tasks)}
        records = _read_lines(self.path)
        self._write(sorted(records.values(), key=lambda record: places.get(record["name"], -1)))
        named = {path for record in records.values() for path in record["outputs"].values()}
        left = {name for name in self._leftovers - named if self._exists(name)}
        left.update(map(self._from_folder, self.run_files))
        self._write_leftovers(left)

    def files_of(self, kind: str) -> list[Path]:
        """The results of a kind of all photos that are done by now, in order of the photos' names."""
        records = sorted(self._lines_of_all().values(), key=lambda record: record["name"])
        return [
            self.folder / record["outputs"][kind]
            for record in records
            if record["status"] != "failed" and kind in record["outputs"]
        ]

    def _exists(self, name: str) -> bool:
        # os.path, as pathlib's question raises where a name is too long; that costs its own photo alone.
        return os.path.exists(self.folder / name)  # noqa: PTH110

    def _is_as_written(self, path: Path, written: str | None) -> bool:
        from deconvseg.files import digest

        try:
            return digest(path) == written
        except OSError:
            return False

    def _from_folder(self, path: str | Path) -> str:
        return Path(os.path.relpath(path, self.folder)).as_posix()

    def _relative(self, record: Record) -> Record:
        outputs = {kind: self._from_folder(path) for kind, path in record["outputs"].items()}
        return {**record, "outputs": outputs}

    def _write(self, records: Iterable[Record]) -> None:
        from deconvseg.files import replacing

        with replacing(self.path) as stream:
            stream.writelines(map(_line, records))

    def _write_leftovers(self, paths: set[str]) -> None:
        from deconvseg.files import replacing

        if paths:
            with replacing(self._leftovers_path) as stream:
                stream.write(json.dumps(sorted(paths)).encode())
        else:
            self._leftovers_path.unlink(missing_ok=True)


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _read_lines(path: Path) -> dict[str, Record]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: cannot be read ({error}); choose another -o DIR") from error
    records = {}
    for line in lines:
        try:
            record = json.loads(line)
            if record.keys() >= Record.__annotations__.keys():
                records[record["name"]] = record
        except (ValueError, AttributeError):  # cut short by a kill: the photo of this line is not done
            continue
    return records


def _read_leftovers(path: Path) -> set[str]:
    try:
        return set(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # then they are refused as files of others, which is safe
        return set()


def _status(photo: str) -> tuple[int | None, float | None]:
    """Size and time of change of its file; None what cannot be known."""
    if is_remote(photo):
        return status(photo)
    try:
        found = Path(photo).stat()
    except OSError:
        return None, None
    return found.st_size, found.st_mtime


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_of_another(old: Record, photo: Photo) -> bool:
    """Whether the record is of another photo that still exists; one that is gone may have been moved here."""
    before = old["input"]
    return (
        before != photo.path
        and (is_remote(before) or os.path.exists(before))  # noqa: PTH110 (pathlib's may raise)
        and os.path.realpath(before) != os.path.realpath(photo.path)
    )
