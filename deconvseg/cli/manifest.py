"""The manifest of a results folder: what became of each photo, and so where to go on after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from deconvseg.cli.batch import Task
from deconvseg.cli.inputs import Photo
from deconvseg.errors import OutputError, UsageError

MANIFEST = "segment.jsonl"
LEFTOVERS = ".segment-more.json"


class Record(TypedDict):
    """What became of one photo: a line of the manifest, an entry of --json.

    Keys:
        input: path of the photo as given, or as found below the folder that was given.
        name: its place in the results folder, without suffix; unique in a manifest.
        status: "done", "skipped" (done by an earlier run with the same settings) or "failed".
        error: one line, when failed.
        outputs: kind of result -> its file, in the manifest relative to the folder the manifest lies in.
        width, height: of the photo as displayed, in pixels.
        classes: name -> share of the pixels (0..1), largest first.
        seconds: for reading, segmenting and writing.
        settings: hash of all that changes a result, the network's content included.
        bytes, modified: size and time of change of the photo's file, by which a later run knows it again.
    """

    input: str
    name: str
    status: str
    error: str | None
    outputs: dict[str, str]
    width: int | None
    height: int | None
    classes: dict[str, float]
    seconds: float | None
    settings: str | None
    bytes: int | None
    modified: float | None


def new_record(photo: Photo, settings: str | None) -> Record:
    """The record of a photo before anything is known but its file."""
    try:
        status = Path(photo.path).stat()
        size, modified = status.st_size, status.st_mtime
    except OSError:
        size, modified = None, None
    return Record(
        input=photo.path,
        name=photo.name,
        status="failed",
        error=None,
        outputs={},
        width=None,
        height=None,
        classes={},
        seconds=None,
        settings=settings,
        bytes=size,
        modified=modified,
    )


class Manifest:
    """The manifest of one results folder, read on creation.

    At every moment, also after a kill, it holds one line for each finished photo and none for another. A file
    beside it names our results that have no line: those of a run under way or stopped, or of another --save,
    and `run_files`, those of the run as a whole.
    """

    def __init__(self, folder: Path, run_files: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.run_files = run_files
        self.path = folder / MANIFEST
        self._leftovers_path = folder / LEFTOVERS
        self._records = self._read()
        self._leftovers = self._read_leftovers()

    def _read(self) -> dict[str, Record]:
        try:
            lines = self.path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{self.path}: cannot be read ({error}); choose another -o DIR") from error
        records = {}
        for line in lines:
            try:
                record = json.loads(line)
                if record.keys() >= Record.__annotations__.keys():
                    records[record["name"]] = record
            except (ValueError, AttributeError):  # cut short by a kill: the photo of this line is not done
                continue
        return records

    def _read_leftovers(self) -> set[str]:
        try:
            return set(json.loads(self._leftovers_path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):  # then they are refused as files of others, which is safe
            return set()

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
        # os.path, as pathlib's question raises where a name is too long; that costs its own photo alone.
        if name not in owners and name not in self._leftovers and os.path.exists(path):  # noqa: PTH110
            raise UsageError(
                f"{path}: exists, and no line of {self.path} says that it is a result; "
                "give another -o DIR, or --overwrite"
            )

    def _refuse_other_photo(self, task: Task, old: Record | None) -> None:
        if old and old["outputs"] and _is_of_another(old, task.photo):
            raise UsageError(
                f"{task.photo.path}: would replace the result of {old['input']} in {self.folder}; "
                "give another -o DIR, or --overwrite"
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
            if path is None or kind not in old["outputs"] or not _is_whole(kind, path, old):
                return None
        outputs = {kind: str(self.folder / path) for kind, path in old["outputs"].items()}
        return {**old, "input": task.photo.path, "status": "skipped", "outputs": outputs}

    def start(self, tasks: Sequence[Task], done: Mapping[str, Record]) -> None:
        """Write the lines that stay: of the photos `done` before, by name, and of photos not in this run."""
        from deconvseg.images.write import replacing

        todo = {task.photo.name for task in tasks} - done.keys()
        kept = {name: record for name, record in self._records.items() if name not in todo}
        kept |= {name: self._relative(record) for name, record in done.items()}
        for task in tasks:
            old = self._records.get(task.photo.name)
            self._leftovers.update(old["outputs"].values() if old else ())
            self._leftovers.update(map(self._from_folder, filter(None, task.outputs.values())))
        self._leftovers.update(map(self._from_folder, self.run_files))
        with replacing(self._leftovers_path) as stream:
            stream.write(json.dumps(sorted(self._leftovers)).encode())
        with replacing(self.path) as stream:
            stream.writelines(self._line(record) for record in kept.values())

    def add(self, record: Record) -> None:
        """Append the final line of a photo."""
        try:
            with self.path.open("ab") as stream:
                stream.write(self._line(self._relative(record)))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); check the disk") from error

    def finish(self) -> None:
        """Forget the leftovers that have a line by now, or do not exist; after a stop this is not called."""
        from deconvseg.images.write import replacing

        named = {path for record in self._read().values() for path in record["outputs"].values()}
        left = {path for path in self._leftovers - named if os.path.exists(self.folder / path)}  # noqa: PTH110
        left.update(map(self._from_folder, self.run_files))
        if left:
            with replacing(self._leftovers_path) as stream:
                stream.write(json.dumps(sorted(left)).encode())
        else:
            self._leftovers_path.unlink(missing_ok=True)

    def files_of(self, kind: str) -> list[Path]:
        """The results of a kind of all photos that are done by now, in order of the photos' names."""
        records = sorted(self._read().values(), key=lambda record: record["name"])
        return [
            self.folder / record["outputs"][kind]
            for record in records
            if record["status"] != "failed" and kind in record["outputs"]
        ]

    def _from_folder(self, path: str | Path) -> str:
        return Path(os.path.relpath(path, self.folder)).as_posix()

    def _relative(self, record: Record) -> Record:
        outputs = {kind: self._from_folder(path) for kind, path in record["outputs"].items()}
        return {**record, "outputs": outputs}

    @staticmethod
    def _line(record: Record) -> bytes:
        return json.dumps(record).encode() + b"\n"


def _is_whole(kind: str, path: Path, record: Record) -> bool:
    from deconvseg.images.read import has_size

    if kind == "masks" and len(list(path.glob("*.png"))) != len(record["classes"]):
        return False
    return has_size(path, record["width"], record["height"])


def _is_of_another(old: Record, photo: Photo) -> bool:
    """Whether the record is of another photo that still exists; one that is gone may have been moved here."""
    before = old["input"]
    return (
        before != photo.path
        and os.path.exists(before)  # noqa: PTH110 (pathlib's may raise)
        and os.path.realpath(before) != os.path.realpath(photo.path)
    )
