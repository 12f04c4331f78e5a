"""From the inputs to photos: files, folders, globs, lists, standard input."""

# os.path rather than pathlib: its questions answer False where pathlib's may raise (no permission, too long a
# name), and paths stay as the user wrote them.
# ruff: noqa: PTH112, PTH110, PTH113, PTH118, PTH119, PTH120, PTH207

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path

from deconvseg.errors import InputError, UsageError
from deconvseg.files import walk
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.kinds import KINDS
from deconvseg.images.read import STREAM
from deconvseg.remote import find, is_remote, is_web, normal, without_query

STDIN = "-"
# What is in any photo, or how UTF-16 begins, and in next to no path.
_BINARY = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f]|^\udcff\udcfe")
_MANIFEST = re.compile(r"segment(\.\d+-of-\d+)?\.jsonl")
_RESULT_ENDS = tuple(f".{kind.word}{suffix}" for kind in KINDS.values() for suffix in kind.suffixes)
_MASKS_END = f".{KINDS['masks'].word}"


@dataclass(frozen=True)
class Photo:
    """A photo of a run, and what is to become of it."""

    path: str  # or address, as the user would write it; unique in a run
    name: str  # its place in results, without suffix
    outputs: dict[str, Path | None] = field(default_factory=dict)  # by kind, its file or folder; None: stdout
    content: bytes | None = None  # of standard input, once it is read

    @property
    def shown(self) -> str:
        """What plans and manifests call it: the path, without the query of an address."""
        return without_query(self.path)

    @property
    def title(self) -> str:
        """What messages on its pixels call it."""
        return STREAM if self.path == STDIN else self.shown

    @property
    def missing(self) -> bool:
        """Whether there is nothing at the path; of an address only reading tells."""
        return self.path != STDIN and not is_remote(self.path) and not os.path.exists(self.path)


@dataclass(frozen=True)
class Shard:
    """The photos of shard `index` of 0 to `count` - 1; a photo's name alone tells which it is in."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `I/N`; UsageError if it is no such thing."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match and int(match[1]) < int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise UsageError(f"shard {text}: give I/N, where I is a number from 0 to N - 1: 0/3, 1/3 and 2/3")

    def holds(self, name: str) -> bool:
        """Whether the photo with this name is in the shard."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def real_places() -> Callable[[str], str]:
    """What resolves the links on the way to a file, but not the file; each folder once, as they hold many."""
    real_folder = cache(os.path.realpath)

    def real_place(path: str) -> str:
        if is_remote(path):
            return path
        return os.path.join(real_folder(os.path.dirname(path)), os.path.basename(path))

    return real_place


def find_photos(inputs: Sequence[str], output: str | None) -> tuple[list[Photo], list[str], list[str]]:
    """The photos that inputs stand for, each once, without those below `output` and other folders of results.

    With a line for each input without any or folder that fails, and one for each folder that is left out.
    """
    photos: dict[str, Photo] = {}
    problems: list[str] = []
    left_out: list[str] = []
    real_place, below = real_places(), None
    if output:
        below = f"{normal(output)}/" if is_remote(output) else os.path.join(os.path.realpath(output), "")
    for argument in inputs:
        before = len(problems)
        try:
            found = _named(argument)
            if found is None:
                found = _search(argument, problems, left_out)
                found = [one for one in found if not below or not real_place(one.path).startswith(below)]
        except InputError as error:
            problems.append(str(error))
            continue
        if not found and len(problems) == before:
            argument = without_query(argument)
            problems.append(f"{argument}: no photos there (.jpg, .png, .tif, ...); check the path")
        for photo in found:
            photos.setdefault(real_place(photo.path), photo)
    notes = [
        f"{folder}: holds results of another run, and is left out; name it among the inputs to take it"
        for folder in dict.fromkeys(left_out)
        if os.path.join(os.path.realpath(folder), "") != below
    ]
    return list(photos.values()), problems, notes


def _named(argument: str) -> list[Photo] | None:
    """The photos that an input names; None if they have to be searched for."""
    if argument == STDIN:
        return [Photo(STDIN, "stdin")]
    if is_remote(argument):
        is_one = is_web(argument) or (_is_photo(argument) and not glob.has_magic(argument))
        return [Photo(argument, Path(without_query(argument)).stem)] if is_one else None
    if os.path.isdir(argument):
        return None
    if not os.path.exists(argument):
        if argument.startswith("@"):
            return _listed(argument[1:])
        if glob.has_magic(argument):
            return None
    # A missing one fails when its turn comes; the others are done.
    return [Photo(argument, Path(argument).stem)]


def _search(argument: str, problems: list[str], left_out: list[str]) -> list[Photo]:
    """The photos of a folder, a glob or a store, without what is hidden or a result of ours."""
    if is_remote(argument):
        files = [file for file in find(argument) if _is_photo(file[1])]
    elif os.path.isdir(argument):
        files = _in_folder(argument, problems, left_out)
    else:
        files = _matching(argument)
    photos = []
    for path, place in files:
        at, name = os.path.split(place)
        is_mask = at.endswith(_MASKS_END) and name.endswith(".png")
        bare = Path(place).with_suffix("")
        is_hidden = any(part.startswith(".") for part in bare.parts)
        if not (is_mask or is_hidden or name.lower().endswith(_RESULT_ENDS)):
            photos.append(Photo(path, bare.as_posix()))
    return photos


def _in_folder(folder: str, problems: list[str], left_out: list[str]) -> list[tuple[str, str]]:
    def holds_results(at: str, names: list[str]) -> bool:
        found = any(map(_MANIFEST.fullmatch, names))
        if found:
            left_out.append(at)
        return found

    def refused(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions")

    files = walk(folder, leave_out=holds_results, refused=refused)
    return _places(folder, filter(_is_photo, files))


def _matching(pattern: str) -> list[tuple[str, str]]:
    parts = Path(pattern).parts
    plain = list(takewhile(lambda part: not glob.has_magic(part), parts))
    root, files = os.path.join("", *plain), glob.iglob(pattern)
    if "**" in parts:  # glob itself would go through every way that circles of links allow
        more = ["*"] if parts[-1] == "**" else []  # before Python 3.13, ** are folders alone
        files = map(str, Path(root).glob(os.path.join(*parts[len(plain) :], *more)))
    return _places(root, files)


def _places(root: str, paths: Iterable[str]) -> list[tuple[str, str]]:
    """The paths that are files, or links that lead nowhere, sorted, each with its place below `root`."""
    files = (path for path in sorted(paths) if os.path.isfile(path) or not os.path.exists(path))
    return [(path, os.path.relpath(path, root or ".")) for path in files]


def _is_photo(path: str) -> bool:
    return Path(path).suffix.lower() in PHOTO_SUFFIXES


def _listed(path: str) -> list[Photo]:
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"@{path}: the list cannot be read ({error.strerror}); check the path") from error
    text = content.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        lines = text.split("\0")
    else:
        lines = [line.strip() for line in text.split("\n") if not line.lstrip().startswith("#")]
    paths = list(filter(None, lines))
    if not paths:
        raise InputError(f"@{path}: the list is empty; write one photo a line")
    if any(_BINARY.search(name) and not os.path.lexists(name) for name in paths):
        raise InputError(f"@{path}: is a photo or another file that is no text in UTF-8; leave out the @")
    return [Photo(path, _as_written(path)) for path in paths]


def _as_written(path: str) -> str:
    """The path without suffix and without what would lead out of the folder of results: root and `..`."""
    bare = Path(without_query(path).partition("://")[2] if is_remote(path) else path).with_suffix("")
    return Path(*(part for part in bare.parts if part not in (bare.anchor, ".."))).as_posix()
