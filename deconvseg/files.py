"""Atomic writes, file hashes, locks, lines of JSON and walks through folders."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import deconvseg
from deconvseg.errors import OutputError

_DAY = 86400


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes the file `path` at once, and only if the block ends well.

    Missing folders are made. Its `name` is the path of the temporary file, for libraries that write to a path
    themselves. After a power cut, a `durable` file is whole or as before, which takes milliseconds.
    Raises OutputError for whatever the system refuses.
    """
    beside = path.parent / f".deconvseg-{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.absolute())
        try:
            with beside.open("xb") as stream:
                yield stream
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{path}: {path.parent} is not a folder; choose another place") from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({reason}); check the folder and its space") from error


@cache
def _sweep(folder: Path) -> None:
    """Removes what killed processes have left half written in a folder a day ago, once a process."""
    for path in folder.glob(".deconvseg-*.tmp"):
        with suppress(OSError):  # another run may sweep as well
            if path.stat().st_mtime < time.time() - _DAY:
                path.unlink()


def digest(path: Path) -> str:
    """SHA-256, hexadecimal, of a file, or of the names and contents of a folder's PNGs; OSError if none."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    parts = (f"{part.name}\n{digest(part)}\n" for part in sorted(path.glob("*.png")))
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def code_digest() -> str:
    """16 hexadecimal digits of the version and all sources of this package.

    With equal ones the same input has the same result.
    """
    found = hashlib.sha256(deconvseg.__version__.encode())
    for path in sorted(Path(deconvseg.__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@contextmanager
def lock(path: Path, *, patience: float = 0) -> Iterator[None]:
    """Holds the lock file `path` for the block; a process that is killed lets go of it.

    The file goes with the lock; its folder exists. Raises TimeoutError if another process, or this one, still
    holds it after `patience` seconds (below 0: never), OSError if it cannot be made.
    """
    from filelock import FileLock  # a tenth of what a command's start takes

    with FileLock(path, timeout=patience, poll_interval=0.02):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps an open file
                os.unlink(path)  # noqa: PTH108


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one a line; lines that are cut, damaged or something else are left out.

    Without a file there are none. Raises OSError if it cannot be read.
    """
    lines: list[bytes] = []
    with suppress(FileNotFoundError):
        lines = path.read_bytes().splitlines()
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [entry for entry in found if isinstance(entry, dict)]


def walk(
    root: str,
    *,
    leave_out: Callable[[str, list[str]], bool] | None = None,
    refused: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """Paths of all below `root` that is no folder and not hidden by a dot, in no particular order.

    Links are followed. Each real folder is entered once, in a folder by its own name rather than by a link.
    Folders for which `leave_out` is true, of their path and the names of their files, are not entered. Those
    that cannot be listed are told to `refused`; without it, such a folder raises its error.
    """

    def fail(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=refused or fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or (folder != root and leave_out and leave_out(folder, names)):
            below.clear()
            continue
        seen.add(real)
        below[:] = [name for name in sorted(below) if not name.startswith(".")]
        below.sort(key=lambda name: os.path.islink(os.path.join(folder, name)))  # noqa: PTH114, PTH118
        yield from (os.path.join(folder, name) for name in names if not name.startswith("."))  # noqa: PTH118
