"""The folder that results go to, on this machine or in a remote store: one interface for both."""

from __future__ import annotations

import atexit
import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

from deconvseg.batch.inputs import Shard
from deconvseg.errors import OutputError, UsageError
from deconvseg.files import digest, lock, replacing
from deconvseg.remote import is_remote, normal, refused, status, store_of


class ResultsFolder:
    """A folder on a disk that all machines of a run see, or the one of an address. Can be pickled.

    Files are made in its `root`. If it is remote, that is a folder for temporary files, from which they are
    sent whole, and what the store lists is as it was written. Names of results are paths from `root`, by `/`.
    """

    def __init__(self, place: str | Path) -> None:
        self.root = Path(place)
        self.address = normal(str(place)) if is_remote(str(place)) else None
        self._there: set[str] = set()  # names of what the store holds
        if self.address:
            self.root = Path(tempfile.mkdtemp(prefix="deconvseg-"))
            atexit.register(shutil.rmtree, self.root, ignore_errors=True)

    @contextmanager
    def locked(self, shard: Shard | None) -> Iterator[None]:
        """Hold the folder, made if need be, for a whole run or for one shard; a killed run lets go of it.

        Raises UsageError if another run holds it; shards of the same number do not mind each other. Stores
        have no locks.
        """
        with ExitStack() as held:
            with self.locked_for_a_moment():  # one after the other looks who is at work
                for path in self.root.glob(".segment.*.lock"):
                    if not shard or not path.name.endswith(f"-of-{shard.count}.lock"):
                        with self._lock(path):
                            pass
                held.enter_context(self._lock(self.root / f".segment.{shard or 'whole'}.lock"))
            yield

    def locked_for_a_moment(self) -> AbstractContextManager[None]:
        """Have the folder alone: shards that start or merge their results meanwhile wait."""
        return self._lock(self.root / ".segment-moment.lock", patience=-1)

    @contextmanager
    def _lock(self, path: Path, patience: float = 0) -> Iterator[None]:
        with ExitStack() as held:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock(path, patience=patience))
            except TimeoutError as error:
                at_work = path.name.split(".")[2]
                whose = "another run" if at_work == "whole" else f"shard {at_work}"
                raise UsageError(
                    f"{self.root}: {whose} is at work here; wait for its end, or stop it"
                ) from error
            except OSError as error:
                reason = error.strerror or error
                raise OutputError(
                    f"{self.root}: cannot be written ({reason}); choose another folder"
                ) from error
            yield

    def shown(self, text: str | Path) -> str:
        """A path, or a text with paths, as the user knows them."""
        return str(text).replace(str(self.root), self.address) if self.address else str(text)

    def name_of(self, path: str | Path) -> str:
        """The name of a result that is made at `path`."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def refresh(self, patterns: Iterable[str]) -> None:
        """Look what others have made in the store; have the files there that match in `root`."""
        if not self.address:
            return
        store, path = store_of(self.address)
        with refused(OutputError, self.address, "listed"):
            store.invalidate_cache()
            files = [PurePosixPath(os.path.relpath(file, path)) for file in store.find(path)]
        self._there |= {str(place) for file in files for place in (file, *file.parents)}
        self.fetch(name for pattern in patterns for name in fnmatch.filter(self._there, pattern))

    def fetch(self, names: Iterable[str]) -> None:
        """Have these files of the store in `root`."""
        for name in names if self.address else ():
            address, local = f"{self.address}/{name}", self.root / name
            store, path = store_of(address)
            with refused(OutputError, address, "read"):
                local.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(path, str(local))
                seconds = status(address)[1]
                if seconds is not None:  # of several manifests, the last one written counts
                    os.utime(local, (seconds, seconds))

    def write_lines(self, path: Path, lines: Iterable[bytes]) -> None:
        """Make a file of lines, which a power cut leaves whole or as before, and keep it in `root`."""
        with replacing(path, durable=True) as stream:
            stream.writelines(lines)
        self.send(path, keep=True)

    def send(self, path: Path, *, keep: bool = False) -> None:
        """Move a file, or a folder's files in place of the PNGs there, to the store; `keep` copies."""
        if not self.address:
            return
        with refused(OutputError, self.shown(path), "written"):
            if path.is_dir():
                self._remove_there(path)
                for file in path.iterdir():
                    self._put(file)
                shutil.rmtree(path)
            else:
                self._put(path)
                if not keep:
                    path.unlink()
        self._there.add(self.name_of(path))

    def exists(self, name: str) -> bool:
        """Whether there is such a result."""
        # os.path, as pathlib's question raises where a name is too long; that costs its own photo alone.
        return name in self._there if self.address else os.path.exists(self.root / name)  # noqa: PTH110

    def is_as_written(self, name: str, written: str | None) -> bool:
        """Whether a result still has the digest it was written with."""
        if self.address:
            return written is not None and self.exists(name)
        with suppress(OSError):
            return digest(self.root / name) == written
        return False

    def remove(self, name: str) -> None:
        """Remove a file, or a folder's PNGs."""
        path = self.root / name
        with suppress(OSError):  # what cannot go stays; it is in nobody's way
            if path.is_dir():
                for mask in path.glob("*.png"):
                    mask.unlink()
                path.rmdir()
            else:
                path.unlink()
        if name in self._there:
            self._remove_there(path)
            self._there.discard(name)

    def _remove_there(self, local: Path) -> None:
        store, path = store_of(self.shown(local))
        with refused(OutputError, self.shown(local), "removed"):
            for file in store.find(path):
                if file == path or file.endswith(".png"):
                    store.rm_file(file)

    def _put(self, local: Path) -> None:
        """At the end, so that a file is there whole or not at all."""
        store, path = store_of(self.shown(local))
        store.makedirs(store._parent(path), exist_ok=True)
        with store.transaction, local.open("rb") as source, store.open(path, "wb") as target:
            shutil.copyfileobj(source, target)
