"""The folder that results go to, on this machine or in a remote store: one interface for both."""

from __future__ import annotations

import atexit
import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from deconvseg.errors import OutputError
from deconvseg.files import digest
from deconvseg.remote import is_remote, normal, refused, status, store_of


class ResultsFolder:
    """A folder on this machine, or on a disk that all machines of a run see. Can be pickled.

    Files are made in its `root`. Names of results are paths from there, with `/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def at(cls, place: str) -> ResultsFolder:
        """The folder of a path or an address."""
        return RemoteFolder(place) if is_remote(place) else cls(Path(place))

    def shown(self, text: str | Path) -> str:
        """A path, or a text with paths, as the user knows them."""
        return str(text)

    def name_of(self, path: str | Path) -> str:
        """The name of a result that is made at `path`."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def refresh(self, patterns: Iterable[str]) -> None:
        """Bring the files that match to what others have made of them."""

    def fetch(self, names: Iterable[str]) -> None:
        """Have these files in `root`."""

    def send(self, path: Path, *, keep: bool = False) -> None:
        """Move a file, or a folder's files in place of the PNGs there, where they belong; `keep` copies."""

    def exists(self, name: str) -> bool:
        """Whether there is such a result."""
        # os.path, as pathlib's question raises where a name is too long; that costs its own photo alone.
        return os.path.exists(self.root / name)  # noqa: PTH110

    def is_as_written(self, name: str, written: str | None) -> bool:
        """Whether a result still has the digest it was written with."""
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


class RemoteFolder(ResultsFolder):
    """A folder in a store: results are made in a local one and sent whole; what is listed is as written."""

    def __init__(self, address: str) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="deconvseg-")))
        atexit.register(shutil.rmtree, self.root, ignore_errors=True)
        self.address = normal(address)
        self._there: set[str] = set()

    def shown(self, text: str | Path) -> str:  # noqa: D102
        return str(text).replace(str(self.root), self.address)

    def refresh(self, patterns: Iterable[str]) -> None:  # noqa: D102
        store, path = store_of(self.address)
        with refused(OutputError, self.address, "listed"):
            store.invalidate_cache()
            files = [PurePosixPath(os.path.relpath(file, path)) for file in store.find(path)]
        self._there |= {str(place) for file in files for place in (file, *file.parents)}
        self.fetch(name for pattern in patterns for name in fnmatch.filter(self._there, pattern))

    def fetch(self, names: Iterable[str]) -> None:  # noqa: D102
        for name in names:
            address, local = f"{self.address}/{name}", self.root / name
            store, path = store_of(address)
            with refused(OutputError, address, "read"):
                local.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(path, str(local))
                seconds = status(address)[1]
                if seconds is not None:  # of several manifests, the last one written counts
                    os.utime(local, (seconds, seconds))

    def send(self, path: Path, *, keep: bool = False) -> None:  # noqa: D102
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

    def exists(self, name: str) -> bool:  # noqa: D102
        return name in self._there

    def is_as_written(self, name: str, written: str | None) -> bool:  # noqa: D102
        return written is not None and self.exists(name)

    def remove(self, name: str) -> None:  # noqa: D102
        (self.root / name).unlink(missing_ok=True)
        if self.exists(name):
            self._remove_there(self.root / name)
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
