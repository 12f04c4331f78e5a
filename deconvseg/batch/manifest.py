"""The manifest of a results folder: what became of each photo, and so where to go on after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from deconvseg.batch.plan import Task
from deconvseg.batch.records import (
    Record,
    full_path,
    is_alike,
    is_missing,
    is_of_another,
    line_of,
    new_record,
    read_records,
)
from deconvseg.batch.shard import Shard, claim, turn
from deconvseg.errors import OutputError, UsageError

MANIFEST = "segment.jsonl"
LEFTOVERS = ".segment-more.json"
OF_SHARDS = ("segment.*-of-*.jsonl", ".segment-more.*-of-*.json")
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
_MANIFESTS_OF_SHARDS, _LEFTOVERS_OF_SHARDS = OF_SHARDS


class Manifest:
    """The manifest of one results folder, read on creation; or that of one shard, and beside it the others.

    At every moment, also after a kill, it holds one line for each finished photo and none for another. A file
    beside it names our results that have no line: those of a run under way or stopped, or of another --save,
    and `run_files`, those of the run as a whole. Each shard writes its own two files, and reads all; it takes
    the lines of its photos out of manifests of the whole and of other numbers of shards. A run of the whole
    takes the lines of all shards.
    """

    takes_turns = True
    """Whether all processes that write here see each other's `turn`."""

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

    def turn(self, what: str) -> AbstractContextManager[None]:
        """`shard.turn` in this folder."""
        return turn(self.folder, what)

    def shown(self, text: str | Path) -> str:
        """A path, or a text with paths, as the user knows them."""
        return str(text)

    def publish(self, path: Path) -> None:
        """Put one of the `run_files`, which is made now, where it belongs."""

    def _read_all(self) -> None:
        self._records: dict[str, Record] = {}  # of a large folder it is not held twice
        self._records = self._lines_of_all()
        self._leftovers: set[str] = set()
        for path in (self.folder / LEFTOVERS, *self.folder.glob(_LEFTOVERS_OF_SHARDS)):
            self._leftovers.update(_read_leftovers(path))

    def _lines_of_all(self) -> dict[str, Record]:
        """By name, each photo's line; of several that of the manifest that was written last."""
        records: dict[str, Record] = {}
        for path in self._manifests():
            records |= read_records(path)
        return records

    def _manifests(self) -> list[Path]:
        """Those of the whole and of all shards, the last one written last."""
        return sorted([self.folder / MANIFEST, *self.folder.glob(_MANIFESTS_OF_SHARDS)], key=_modified)

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
        if old and old["outputs"] and is_of_another(old, full_path(task.photo)):
            raise UsageError(
                f"{task.photo.path}: would replace the result of {old['path']} in "
                f"{self.shown(self.folder)}; give another -o DIR, or --overwrite"
            )

    def find_done(
        self, tasks: Iterable[Task], settings: str | None, options: Mapping[str, str] = NO_OPTIONS
    ) -> dict[str, Record]:
        """By name, the records of photos whose results were made as they are wanted now, and are all there.

        Args:
            tasks: what is wanted.
            settings, options: as in a Record.
        """
        return {task.photo.name: record for task in tasks if (record := self._done(task, settings, options))}

    def _done(self, task: Task, settings: str | None, options: Mapping[str, str]) -> Record | None:
        old, now = self._records.get(task.photo.name), new_record(task.photo, settings)
        if old is None or now["bytes"] is None or not is_alike(old, now):
            return None
        for kind, path in task.outputs.items():
            if (
                path is None
                or old["options"].get(kind) != options.get(kind)
                or not self._is_as_written(path, old["digests"].get(kind))
            ):
                return None
        return {
            **old,
            "input": now["input"],
            "path": now["path"],
            "status": "skipped",
            "error": None,
            "outputs": self._shown_outputs(old),
        }

    def start(self, tasks: Sequence[Task], done: Mapping[str, Record]) -> None:
        """Write the lines that stay: of the photos `done` before, by name, and of photos not in this run."""
        names = {task.photo.name for task in tasks}
        holds = self.shard.holds if self.shard else lambda name: True
        lines = [record for name, record in self._records.items() if name not in names and holds(name)]
        lines += [self._relative(record) for record in done.values()]
        if self.shard:
            self._leftovers = _read_leftovers(self._leftovers_path)
        for task in tasks:
            old = self._records.get(task.photo.name)
            self._leftovers.update(old["outputs"].values() if old else ())
            self._leftovers.update(map(self._from_folder, filter(None, task.outputs.values())))
        self._leftovers.update(map(self._from_folder, self.run_files))
        self._write_leftovers(self._leftovers)
        self._write(self.path, lines)
        self._sweep(task for task in tasks if task.photo.name not in done)
        if self.shard:
            self._take_lines(self.shard)
        else:
            for pattern in (_MANIFESTS_OF_SHARDS, _LEFTOVERS_OF_SHARDS):
                for path in self.folder.glob(pattern):
                    path.unlink()

    def _take_lines(self, shard: Shard) -> None:
        with self.turn("lines"):
            for path in self._manifests():
                if not path.name.endswith(f"-of-{shard.count}.jsonl"):
                    records = read_records(path)
                    rest = [record for name, record in records.items() if not shard.holds(name)]
                    if len(rest) < len(records):
                        self._reduce(path, rest)

    def _reduce(self, path: Path, rest: Sequence[Record]) -> None:
        """Leave the `rest` in the manifest of another run."""
        if not rest:
            path.unlink()
            return
        written = path.stat().st_mtime_ns
        self._write(path, rest)
        os.utime(path, ns=(written, written))  # of several, the last one written counts

    def _sweep(self, tasks: Iterable[Task]) -> None:
        from deconvseg.files import sweep

        paths = [path for task in tasks for path in task.outputs.values() if path]
        for folder in {self.folder, *paths, *(path.parent for path in paths)}:  # masks are in folders
            sweep(folder)

    def add(self, record: Record) -> Record:
        """Append the final line of a photo; returns its record with what stays of that of an earlier run.

        That is all if the photo is missing now, and else the other kinds of result if they go together with
        the new ones. If they do not, they are removed.
        """
        old = self._records.get(record["name"])
        record = self._with_old(record, old) if old else record
        try:
            with self.path.open("ab") as stream:
                stream.write(line_of(self._relative(record)))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); check the disk") from error
        return record

    def _with_old(self, record: Record, old: Record) -> Record:
        if record["status"] == "failed":
            if is_missing(record) and not is_of_another(old, record["path"]):  # a disk is away for a moment
                return {
                    **old,
                    "input": record["input"],
                    "status": "failed",
                    "error": record["error"],
                    "outputs": self._shown_outputs(old),
                }
            return record
        others = {kind: path for kind, path in old["outputs"].items() if kind not in record["outputs"]}
        if is_missing(record) or is_missing(old):  # of some stores, nobody knows what was and is there
            return record
        if is_alike(old, record):
            there = {kind: path for kind, path in others.items() if self._exists(path)}
            return {
                **record,
                "outputs": record["outputs"] | self._shown_outputs({**old, "outputs": there}),
                "digests": {**old["digests"], **record["digests"]},
                "options": {**old["options"], **record["options"]},
            }
        for kind, path in others.items():
            if self._is_as_written(self.folder / path, old["digests"].get(kind)):
                self._remove(path)
        return record

    def finish(self, tasks: Sequence[Task]) -> None:
        """Put the lines into the order of the tasks, after those of photos not in this run.

        Leftovers that have a line by now, or do not exist, are forgotten. After a stop it is not called.
        """
        places = {task.photo.name: place for place, task in enumerate(tasks)}
        records = read_records(self.path)
        self._write(self.path, sorted(records.values(), key=lambda record: places.get(record["name"], -1)))
        named = {path for record in records.values() for path in record["outputs"].values()}
        left = {name for name in self._leftovers - named if self._exists(name)}
        left.update(map(self._from_folder, self.run_files))
        self._write_leftovers(left)

    def files_of(
        self, kind: str, settings: str | None, options: Mapping[str, str] = NO_OPTIONS
    ) -> tuple[list[Path], int]:
        """The results of a kind of all photos that are done by now, in order of the photos' names.

        Returns:
            Those made with these settings and options (see Record), and how many others there are.
        """
        records = sorted(self._lines_of_all().values(), key=lambda record: record["name"])
        there = [record for record in records if record["status"] != "failed" and kind in record["outputs"]]
        alike = [
            self.folder / record["outputs"][kind]
            for record in there
            if (record["settings"], record["options"].get(kind)) == (settings, options.get(kind))
        ]
        return alike, len(there) - len(alike)

    def _exists(self, name: str) -> bool:
        # os.path, as pathlib's question raises where a name is too long; that costs its own photo alone.
        return os.path.exists(self.folder / name)  # noqa: PTH110

    def _remove(self, name: str) -> None:
        path = self.folder / name
        with suppress(OSError):  # what cannot go stays; it is in nobody's way
            if path.is_dir():
                for mask in path.glob("*.png"):
                    mask.unlink()
                path.rmdir()
            else:
                path.unlink()

    def _is_as_written(self, path: Path, written: str | None) -> bool:
        from deconvseg.files import digest

        try:
            return digest(path) == written
        except OSError:
            return False

    def _from_folder(self, path: str | Path) -> str:
        return Path(os.path.relpath(path, self.folder)).as_posix()

    def _shown_outputs(self, record: Record) -> dict[str, str]:
        return {kind: self.shown(self.folder / path) for kind, path in record["outputs"].items()}

    def _relative(self, record: Record) -> Record:
        outputs = {kind: self._from_folder(path) for kind, path in record["outputs"].items()}
        return {**record, "outputs": outputs}

    def _write(self, path: Path, records: Iterable[Record]) -> None:
        from deconvseg.files import replacing

        with replacing(path, durable=True) as stream:
            stream.writelines(map(line_of, records))

    def _write_leftovers(self, paths: set[str]) -> None:
        from deconvseg.files import replacing

        if paths:
            with replacing(self._leftovers_path, durable=True) as stream:
                stream.write(json.dumps(sorted(paths)).encode())
        else:
            self._leftovers_path.unlink(missing_ok=True)


def _read_leftovers(path: Path) -> set[str]:
    try:
        return {name for name in json.loads(path.read_bytes()) if isinstance(name, str)}
    except (OSError, ValueError, TypeError):  # then they are refused as files of others, which is safe
        return set()


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
