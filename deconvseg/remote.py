"""Addresses of photos in remote stores (`s3://`, `gs://`, `https://`, `memory://`, ...), by fsspec."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from deconvseg.errors import DeconvSegError, InputError, MissingDependencyError, UsageError


def is_remote(place: str) -> bool:
    """Whether it is an address, `scheme://...`, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def is_web(place: str) -> bool:
    """Whether it is an address of the web, where one address is one file and may end in a query."""
    return re.match(r"https?://", place, re.IGNORECASE) is not None


def without_query(place: str) -> str:
    """A path as it is; an address of the web without query and fragment, which may hold a signature."""
    return re.split(r"[?#]", place, maxsplit=1)[0] if is_web(place) else place


def find(address: str) -> list[tuple[str, str]]:
    """The files of a folder, with all below it, or of a glob, sorted: each one's address and place below.

    Raises InputError, MissingDependencyError or UsageError as all functions here that read.
    """
    store, path = store_of(address)
    with refused(InputError, address, "read"):
        if glob.has_magic(path):
            root = "/".join(takewhile(lambda part: not glob.has_magic(part), path.split("/")))
            files = [file for file, info in store.glob(path, detail=True).items() if info["type"] == "file"]
        else:
            root, files = path, store.find(path)
        return [(store.unstrip_protocol(file), os.path.relpath(file, root)) for file in sorted(files)]


def normal(address: str) -> str:
    """The same for all ways to write an address; no slash at the end."""
    store, path = store_of(address)
    return str(store.unstrip_protocol(path)).rstrip("/")


def status(place: str) -> tuple[int | None, float | None]:
    """Size in bytes and time of change of a path or an address, in seconds since 1970; None if unknown."""
    size = modified = None
    with suppress(Exception):  # stores have errors of their own; what the matter is, reading it tells
        if is_remote(place):
            store, path = store_of(place)
            size = store.size(path)
            modified = store.modified(path).timestamp()  # not all know it
        else:
            found = Path(place).stat()
            size, modified = found.st_size, found.st_mtime
    return size, modified


def opened(source: str | bytes) -> str | BinaryIO:
    """What `images.read` reads, of a path, a remote address, which is fetched, or a photo's content."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not is_remote(source):
        return source
    store, path = store_of(source)
    with refused(InputError, source, "read"):
        return io.BytesIO(store.cat_file(path))


def store_of(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it."""
    import fsspec

    shown = without_query(address)
    try:
        store, path = fsspec.url_to_fs(address)
    except ImportError as error:
        raise MissingDependencyError(f"{shown}: cannot be reached without a library ({error})") from error
    except ValueError as error:
        raise UsageError(f"{shown}: is no address that fsspec knows ({error}); check it") from error
    return store, path


@contextmanager
def refused(kind: type[DeconvSegError], address: str, what: str) -> Iterator[None]:
    """Stores raise errors of their own and of many kinds: all become one line, without an address's query."""
    shown = without_query(address)
    try:
        yield
    except DeconvSegError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].replace(address, shown) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "there is no such file"
        raise kind(
            f"{shown}: cannot be {what} ({reason}); check the address and your rights to it"
        ) from error
