"""The manifest of a results folder in a remote store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from deconvseg.batch.manifest import LEFTOVERS, MANIFEST, NO_OPTIONS, OF_SHARDS, Manifest
from deconvseg.batch.plan import Task
from deconvseg.batch.records import Record
from deconvseg.batch.shard import Shard
from deconvseg.remote import Mirror

_INTERVAL = 30.0


class RemoteManifest(Manifest):
    """As a Manifest; it works in the mirror of the remote folder, and sends its files now and then.

    So a kill can lose the lines of the last seconds, whose photos are then done again. A result counts as
    written where the store lists it, as stores take files whole. No lock keeps another run away.
    """

    takes_turns = False

    def __init__(self, mirror: Mirror, run_files: Sequence[Path] = (), shard: Shard | None = None) -> None:
        self._mirror, self._there, self._sent = mirror, set[str](), 0.0
        super().__init__(mirror.root, run_files, shard)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """As Manifest's, but only on this machine; at the end all is sent."""
        with super().claimed():
            try:
                yield
            finally:
                self._send()

    def shown(self, text: str | Path) -> str:
        """Addresses for the mirror's paths."""
        return self._mirror.shown(str(text))

    def publish(self, path: Path) -> None:
        """Send it."""
        self._mirror.send(path)

    def start(self, tasks: Sequence[Task], done: Mapping[str, Record]) -> None:
        """As Manifest's."""
        super().start(tasks, done)
        self._send()
        self._there |= self._leftovers  # what this run puts there is not listed again

    def add(self, record: Record) -> Record:
        """As Manifest's."""
        record = super().add(record)
        if time.monotonic() - self._sent > _INTERVAL:
            self._send()
        return record

    def files_of(
        self, kind: str, settings: str | None, options: Mapping[str, str] = NO_OPTIONS
    ) -> tuple[list[Path], int]:
        """As Manifest's, fetched."""
        self._send()
        self._read_all()
        paths, others = super().files_of(kind, settings, options)
        self._mirror.fetch(self._from_folder(path) for path in paths if not path.exists())
        return paths, others

    def _read_all(self) -> None:
        self._there |= self._mirror.names()
        self._mirror.fetch(sorted(filter(_is_of_manifests, self._there)))
        super()._read_all()

    def _reduce(self, path: Path, rest: Sequence[Record]) -> None:
        super()._reduce(path, rest)
        path.touch()  # an empty one stays there, where other shards may just be reading it
        self._mirror.send(path, keep=True)

    def _send(self) -> None:
        for name in list(filter(_is_of_manifests, self._there)):
            if not (self.folder / name).exists():
                self._mirror.remove(name)
                self._there.remove(name)
        for path in (self.path, self._leftovers_path):
            if path.exists():
                self._mirror.send(path, keep=True)
                self._there.add(path.name)
        self._sent = time.monotonic()

    def _exists(self, name: str) -> bool:
        return name in self._there

    def _remove(self, name: str) -> None:
        self._mirror.remove(name)

    def _is_as_written(self, path: Path, written: str | None) -> bool:
        return written is not None and self._exists(self._from_folder(path))

    def _from_folder(self, path: str | Path) -> str:
        return super()._from_folder(str(path).replace(self._mirror.address, str(self._mirror.root), 1))


def _is_of_manifests(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in (MANIFEST, LEFTOVERS, *OF_SHARDS)) and "/" not in name
