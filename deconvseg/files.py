"""Files that are whole or not there, and how to know them again."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from deconvseg.errors import OutputError

_DAY = 86400


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes the file `path`, at once and only if the block ends well.

    Folders on the way are made. A `durable` file is there after a power cut too; that takes milliseconds.
    Raises OutputError for whatever the system refuses.
    """
    beside = path.parent / f".deconvseg-{_here()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as stream:
                yield stream
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            beside.replace(path)
            if durable:
                _keep_names(path.parent)
        finally:
            beside.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{path}: {path.parent} is not a folder; choose another place") from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({reason}); check the folder and its space") from error


def _keep_names(folder: Path) -> None:
    with suppress(OSError):  # Windows and some network disks cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder, if of this machine or a day old."""
    if not os.path.isdir(folder):  # noqa: PTH112 (pathlib's question, and its glob, raise if a name is too long)
        return
    for path in folder.glob(".deconvseg-*.tmp"):
        with suppress(OSError):  # another run may sweep as well
            made = re.fullmatch(rf"\.deconvseg-{_here()}-(\d+)-\w+\.tmp", path.name)
            gone = made and _here() != "elsewhere" and not _runs(int(made[1]))
            if gone or path.stat().st_mtime < time.time() - _DAY:
                path.unlink()


def digest(path: Path) -> str:
    """SHA-256, hexadecimal, of a file, or of the names and contents of a folder's PNGs; OSError if none."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    parts = (f"{part.name}\n{digest(part)}\n" for part in sorted(path.glob("*.png")))
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _here() -> str:
    """Where a process's number means something: a machine since its start, and in it a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot}{Path('/proc/self/ns/pid').stat().st_ino:x}"
    except OSError:  # not Linux
        return "elsewhere"


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
