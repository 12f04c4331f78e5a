"""The manifest of a results folder: what became of each photo, and so where to go on after a stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.batch.shard import Shard, lock_run
from deconvseg.errors import OutputError, UsageError
from deconvseg.files import replacing

MANIFEST, PENDING = "segment.jsonl", ".segment-more.json"
_OF_SHARDS, _PENDING_OF_SHARDS = "segment.*-of-*.jsonl", ".segment-more.*-of-*.json"
_ALL = (MANIFEST, PENDING, _OF_SHARDS, _PENDING_OF_SHARDS)
_SEND_INTERVAL = 30.0
_CRASHES = 2


class Manifest:
    """The manifest of one results folder, read on creation; or that of one shard, and beside it the others.

    At every moment, also after a kill, it holds one line for each finished photo and none for another. A file
    beside it names pending files: our results that have no line, of a run under way or stopped, or of another
    choice of kinds, and `run_files`, those of the run as a whole. Each shard writes its own files and reads
    all; of several lines of a photo, that in the manifest written last counts. A run of the whole takes the
    lines of all shards.

    Another file has the photos that are under way, and how many runs have ended without cleaning up while
    they were. `crashed` are those of earlier runs, by name.

    In a remote folder manifest and pending files are sent now and then: a kill can lose the lines of the last
    seconds, whose photos are then done again. No lock keeps another machine away from it.
    """

    def __init__(
        self, folder: ResultsFolder, run_files: Sequence[Path] = (), shard: Shard | None = None
    ) -> None:
        self.folder, self.run_files, self.shard = folder, run_files, shard
        part = f".{shard}" if shard else ""
        self.path = folder.root / f"segment{part}.jsonl"
        self._pending_path = folder.root / f".segment-more{part}.json"
        self._under_way_path = folder.root / f".segment-under-way{part}.json"
        self._under_way: dict[str, list[Any]] = {}
        self._sent = 0.0
        self._read_all()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process runs this shard, or anything if this is no shard, for the time of the block.

        Raises UsageError or OutputError as `shard.lock_run`.
        """
        with lock_run(self.folder.root, self.shard):
            self._read_all()  # what others have done meanwhile
            try:
                yield
            finally:
                self._under_way.clear()
                self._note_under_way()
                self._send()

    def _read_all(self) -> None:
        self.folder.refresh(_ALL)
        self._records: dict[str, Record] = {}  # of a large folder it is not held twice
        self._records = self._lines_of_all()
        root = self.folder.root
        paths = (root / PENDING, *root.glob(_PENDING_OF_SHARDS))
        self._pending = {name for path in paths for name in _read_json(path, list)}
        self.crashed: dict[str, list[Any]] = dict(_read_json(self._under_way_path, dict))

    def _lines_of_all(self) -> dict[str, Record]:
        """By name, each photo's line; of several that of the manifest that was written last."""
        records: dict[str, Record] = {}
        root = self.folder.root
        for path in sorted([root / MANIFEST, *root.glob(_OF_SHARDS)], key=_modified):
            records |= read_records(path)
        return records

    def refuse_foreign(self, tasks: Iterable[Task]) -> None:
        """Raise UsageError if a result would replace a file that is not ours, or another photo's result."""
        owners = {path: record for record in self._records.values() for path in record["outputs"].values()}
        for path in self.run_files:
            self._refuse_foreign_file(path, owners)
        for task in tasks:
            self._refuse_other_photo(task, self._records.get(task.photo.name))
            for path in filter(None, task.outputs.values()):
                self._refuse_other_photo(task, owners.get(self.folder.name_of(path)))
                self._refuse_foreign_file(path, owners)

    def _refuse_foreign_file(self, path: Path, owners: Mapping[str, Record]) -> None:
        name, shown = self.folder.name_of(path), self.folder.shown
        if name not in owners and name not in self._pending and self.folder.exists(name):
            raise UsageError(
                f"{shown(path)}: exists, and no line of {shown(self.folder.root / MANIFEST)} says that "
                "it is a result; give another folder, or overwrite"
            )

    def _refuse_other_photo(self, task: Task, old: Record | None) -> None:
        if old and old["outputs"] and is_of_another(old, full_path(task.photo)):
            raise UsageError(
                f"{task.photo.shown}: would replace the result of {old['path']} in "
                f"{self.folder.shown(self.folder.root)}; give another folder, or overwrite"
            )

    def find_done(
        self, tasks: Iterable[Task], settings: str | None, options: Mapping[str, str]
    ) -> dict[str, Record]:
        """By name, the records of photos whose results were made as they are wanted now, and are all there.

        `settings` and `options` are as in a Record.
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
                or not self.folder.is_as_written(self.folder.name_of(path), old["digests"].get(kind))
            ):
                return None
        return self._again(old, input=now["input"], path=now["path"], status="skipped", error=None)

    def _again(self, old: Record, **changes: Any) -> Record:
        return {**old, "outputs": self._shown_outputs(old["outputs"]), **changes}  # type: ignore[typeddict-item]

    def start(self, tasks: Sequence[Task], done: Mapping[str, Record]) -> None:
        """Write the lines that stay: of the photos `done` before, by name, and of photos not in this run."""
        for name in done:  # a run that was killed just behind its line has left it under way
            self.crashed.pop(name, None)
        names = {task.photo.name for task in tasks}
        others = [record for name, record in self._records.items() if name not in names]
        if self.shard:
            others = [record for record in others if self.shard.holds(record["name"])]
            self._pending = set(_read_json(self._pending_path, list))
        for task in tasks:
            old = self._records.get(task.photo.name)
            self._pending.update(old["outputs"].values() if old else ())
            self._pending.update(map(self.folder.name_of, filter(None, task.outputs.values())))
        self._pending.update(map(self.folder.name_of, self.run_files))
        self._write_json(self._pending_path, sorted(self._pending))
        self._write([*others, *map(self._relative, done.values())])
        self._send()
        self.folder.expect(self._pending)
        if not self.shard:
            for pattern in (_OF_SHARDS, _PENDING_OF_SHARDS, ".segment-under-way.*-of-*.json"):
                for path in self.folder.root.glob(pattern):
                    self.folder.remove(path.name)

    def begin(self, record: Record) -> bool:
        """Note that a photo is under way until `add`, unless it was as two runs ended without cleaning up.

        Returns whether it may be. One that has changed since, or gets other settings, may.
        """
        name, photo = record["name"], [record[key] for key in ("settings", "bytes", "modified")]
        before, crashes = self.crashed.get(name, [None, 0])
        if before == photo and crashes >= _CRASHES:
            return False
        self.crashed.pop(name, None)
        self._under_way[name] = [photo, crashes + 1 if before == photo else 1]
        self._note_under_way()
        return True

    def _note_under_way(self) -> None:
        with suppress(OutputError):  # a full disk is told where the photo's line is written
            self._write_json(self._under_way_path, self.crashed | self._under_way, durable=False)

    def _send(self) -> None:
        for path in (self.path, self._pending_path):
            if path.exists():
                self.folder.send(path, keep=True)
        self._sent = time.monotonic()

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
        if self._under_way.pop(record["name"], None):
            self._note_under_way()
        if time.monotonic() - self._sent > _SEND_INTERVAL:
            self._send()
        return record

    def _with_old(self, record: Record, old: Record) -> Record:
        if record["status"] == "failed":
            if is_missing(record) and not is_of_another(old, record["path"]):  # a disk is away for a moment
                return self._again(old, input=record["input"], status="failed", error=record["error"])
            return record
        others = {kind: path for kind, path in old["outputs"].items() if kind not in record["outputs"]}
        if is_missing(record) or is_missing(old):  # of some stores, nobody knows what was and is there
            return record
        if is_alike(old, record):
            there = {kind: path for kind, path in others.items() if self.folder.exists(path)}
            return {
                **record,
                "outputs": record["outputs"] | self._shown_outputs(there),
                "digests": old["digests"] | record["digests"],
                "options": old["options"] | record["options"],
            }
        for kind, path in others.items():
            if self.folder.is_as_written(path, old["digests"].get(kind)):
                self.folder.remove(path)
        return record

    def finish(self, tasks: Sequence[Task]) -> None:
        """Put the lines into the order of the tasks, after those of photos not in this run.

        Pending files that have a line by now, or do not exist, are forgotten. After a stop it is not called.
        """
        places = {task.photo.name: place for place, task in enumerate(tasks)}
        records = read_records(self.path)
        self._write(sorted(records.values(), key=lambda record: places.get(record["name"], -1)))
        named = {path for record in records.values() for path in record["outputs"].values()}
        left = {name for name in self._pending - named if self.folder.exists(name)}
        left.update(map(self.folder.name_of, self.run_files))
        self._write_json(self._pending_path, sorted(left))

    def files_of(self, kind: str, settings: str | None, options: Mapping[str, str]) -> tuple[list[Path], int]:
        """The results of a kind of all photos that are done by now, in order of the photos' names.

        Returns:
            Those made with these settings and options (see Record), and how many others there are.
        """
        self._send()
        self.folder.refresh(_ALL)
        records = sorted(self._lines_of_all().values(), key=lambda record: record["name"])
        there = [record for record in records if record["status"] != "failed" and kind in record["outputs"]]
        wanted = settings, options.get(kind)
        alike = [
            record["outputs"][kind]
            for record in there
            if (record["settings"], record["options"].get(kind)) == wanted
        ]
        root = self.folder.root
        self.folder.fetch(name for name in alike if not (root / name).exists())
        return [root / name for name in alike], len(there) - len(alike)

    def _shown_outputs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        return {kind: self.folder.shown(self.folder.root / path) for kind, path in outputs.items()}

    def _relative(self, record: Record) -> Record:
        outputs = {kind: self.folder.name_of(path) for kind, path in record["outputs"].items()}
        return {**record, "outputs": outputs}

    def _write(self, records: Iterable[Record]) -> None:
        with replacing(self.path, durable=True) as stream:
            stream.writelines(map(line_of, records))

    def _write_json(self, path: Path, content: list[str] | dict[str, Any], *, durable: bool = True) -> None:
        if content:
            with replacing(path, durable=durable) as stream:
                stream.write(json.dumps(content).encode())
        else:
            self.folder.remove(path.name)


def _read_json(path: Path, kind: type) -> Any:
    """The list or dictionary in a file, an empty one if there is none or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = None
    return content if isinstance(content, kind) else kind()


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
