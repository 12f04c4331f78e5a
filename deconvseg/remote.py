"""Photos and results in remote stores (`s3://`, `gs://`, `https://`, `memory://`, ...), by fsspec."""

from __future__ import annotations

import atexit
import glob
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from deconvseg.errors import DeconvSegError, InputError, MissingDependencyError, OutputError, UsageError


def is_remote(place: str) -> bool:
    """Whether it is an address, `scheme://...`, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def find(address: str) -> list[tuple[str, str]]:
    """The files of a folder, with all below it, or of a glob, sorted: each one's address and place below.

    Raises InputError, MissingDependencyError or UsageError as all functions here that read.
    """
    store, path = _store(address)
    with _refused(InputError, address, "read"):
        if glob.has_magic(path):
            root = "/".join(takewhile(lambda part: not glob.has_magic(part), path.split("/")))
            files = [file for file, info in store.glob(path, detail=True).items() if info["type"] == "file"]
        else:
            root, files = path, store.find(path)
        return [(store.unstrip_protocol(file), os.path.relpath(file, root)) for file in sorted(files)]


def normal(address: str) -> str:
    """The same for all ways to write an address; no slash at the end."""
    store, path = _store(address)
    return str(store.unstrip_protocol(path)).rstrip("/")


def status(address: str) -> tuple[int | None, float | None]:
    """Size in bytes and time of change of a file, in seconds since 1970; None what cannot be known."""
    try:
        store, path = _store(address)
        size = store.size(path)
    except Exception:  # stores have errors of their own; what the matter is, reading it tells
        return None, None
    try:
        return size, store.modified(path).timestamp()
    except Exception:  # not all know it
        return size, None


def read(address: str) -> bytes:
    """A file's content."""
    store, path = _store(address)
    with _refused(InputError, address, "read"):
        content: bytes = store.cat_file(path)
        return content


def opened(source: str | bytes) -> str | BinaryIO:
    """What `images.read` reads, of a path, a remote address, which is fetched, or a photo's content."""
    if isinstance(source, str):
        return io.BytesIO(read(source)) if is_remote(source) else source
    return io.BytesIO(source)


@dataclass(frozen=True)
class Mirror:
    """A local folder that stands for a remote one: what is made in it is sent there.

    Attributes:
        address: of the remote folder, as `normal`.
        root: the local folder, by this name on every machine that works for the run.
    """

    address: str
    root: Path

    @classmethod
    def of(cls, address: str) -> Mirror:
        """A new one, whose local folder goes when this process ends."""
        root = Path(tempfile.mkdtemp(prefix="deconvseg-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        return cls(normal(address), root)

    def shown(self, text: str) -> str:
        """The text with addresses for the paths of this folder."""
        return text.replace(str(self.root), self.address)

    def names(self) -> set[str]:
        """The places, below it, of all files and folders there."""
        store, path = _store(self.address)
        with _refused(OutputError, self.address, "listed"):
            store.invalidate_cache()
            files = [PurePosixPath(os.path.relpath(file, path)) for file in store.find(path)]
        return {str(place) for file in files for place in (file, *file.parents)}

    def fetch(self, names: Iterable[str]) -> None:
        """Copy files from there, with their times of change."""
        for name in names:
            address, local = f"{self.address}/{name}", self.root / name
            store, path = _store(address)
            with _refused(OutputError, address, "read"):
                local.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(path, str(local))
                seconds = status(address)[1]
                if seconds is not None:
                    os.utime(local, (seconds, seconds))

    def send(self, path: Path, *, keep: bool = False, stale: Iterable[str] = ()) -> None:
        """Put a file or a folder's files there; then `path` goes, or is kept.

        Of a folder, files with the `stale` names that are there and no longer here are removed there.
        """
        address = self.shown(str(path))
        with _refused(OutputError, address, "written"):
            if path.is_dir():
                store, folder = _store(address)
                there = set(store.find(folder)) if store.exists(folder) else set()
                new = {self._put(file) for file in sorted(path.iterdir())}
                for file in there.intersection(f"{folder}/{name}" for name in stale) - new:
                    store.rm_file(file)
                shutil.rmtree(path)
            else:
                self._put(path)
                if not keep:
                    path.unlink()

    def remove(self, name: str) -> None:
        """Remove a file there, or a folder's PNGs."""
        address = f"{self.address}/{name}"
        store, path = _store(address)
        with _refused(OutputError, address, "removed"):
            for file in store.find(path):
                if file == path or file.endswith(".png"):
                    store.rm_file(file)

    def _put(self, local: Path) -> str:
        """At the end, so that a file is there whole or not at all."""
        store, path = _store(self.shown(str(local)))
        store.makedirs(store._parent(path), exist_ok=True)
        with store.transaction, local.open("rb") as source, store.open(path, "wb") as target:
            shutil.copyfileobj(source, target)
        return str(path)


def _store(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        store, path = fsspec.url_to_fs(address)
    except ImportError as error:
        raise MissingDependencyError(f"{address}: cannot be reached without a library ({error})") from error
    except ValueError as error:
        raise UsageError(f"{address}: is no address that fsspec knows ({error}); check it") from error
    return store, path


@contextmanager
def _refused(kind: type[DeconvSegError], address: str, what: str) -> Iterator[None]:
    """Stores raise errors of their own and of many kinds: all become one line."""
    try:
        yield
    except DeconvSegError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "there is no such file"
        raise kind(
            f"{address}: cannot be {what} ({reason}); check the address and your rights to it"
        ) from error
