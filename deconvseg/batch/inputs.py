"""From the inputs to photos: files, folders, globs, lists, standard input."""

# os.path rather than pathlib: its questions answer False where pathlib's may raise (no permission, too long a
# name), and paths stay as the user wrote them.
# ruff: noqa: PTH112, PTH110, PTH114, PTH118, PTH119, PTH120, PTH207, PTH208

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from deconvseg.errors import InputError
from deconvseg.files import walk
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.kinds import KINDS
from deconvseg.remote import find, is_remote, is_web, normal, without_query

STDIN = "-"
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f]")  # in any photo, and in next to no path
_MANIFEST = re.compile(r"segment(\.\d+-of-\d+)?\.jsonl")


@dataclass(frozen=True)
class Photo:
    """A photo: its path or address as the user would write it, and its place in results, without suffix."""

    path: str
    name: str

    @property
    def shown(self) -> str:
        """What messages and manifests call it: the path, without the query of an address."""
        return without_query(self.path)

    @property
    def missing(self) -> bool:
        """Whether there is nothing at the path; of an address only reading tells."""
        return self.path != STDIN and not is_remote(self.path) and not os.path.exists(self.path)


def real_paths() -> Callable[[str], str]:
    """os.path.realpath for files, quick for many of a few folders: it resolves each folder once."""
    real_folder = cache(os.path.realpath)

    def real_path(path: str) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        return os.path.join(real_folder(os.path.dirname(path)), os.path.basename(path))

    return real_path


class Found(NamedTuple):
    """Photos, each once; a line for each input without any or folder that fails, and each one left out."""

    photos: list[Photo]
    problems: list[str]
    notes: list[str]


def find_photos(inputs: Sequence[str], output: str | None) -> Found:
    """The photos that inputs stand for, without those below `output` and other folders of results."""
    search = _Search(output)
    photos: dict[str, Photo] = {}
    real_folder = cache(os.path.realpath)
    for argument in inputs:
        try:
            for photo in search.expand(argument):
                folder, file = os.path.split(photo.path)  # a photo and a link to it are two
                photos.setdefault(os.path.join(real_folder(folder), file), photo)
        except InputError as error:
            search.problems.append(str(error))
    notes = [
        f"{folder}: holds results of another run, and is left out; name it among the inputs to take it"
        for folder in sorted(search.left_out)
    ]
    return Found(list(photos.values()), search.problems, notes)


class _Search:
    """Where results go, and what searches through folders meet besides photos."""

    def __init__(self, output: str | None) -> None:
        self.output = output
        self.out = os.path.join(os.path.realpath(output), "") if output else None
        self.problems: list[str] = []
        self.left_out: set[str] = set()

    def expand(self, argument: str) -> list[Photo]:
        if argument == STDIN:
            return [Photo(STDIN, "stdin")]
        if is_remote(argument):
            return self._in_store(argument)
        if os.path.isdir(argument):
            return self._in_folder(argument)
        spelled = _spelled(argument)
        if not os.path.exists(spelled):
            if argument.startswith("@"):
                return _listed(argument[1:])
            if glob.has_magic(argument):
                return self._matching(argument)
        # A missing one fails when its turn comes; the others are done.
        return [Photo(spelled, Path(spelled).stem)]

    def _in_folder(self, folder: str) -> list[Photo]:
        before = len(self.problems)
        photos = self._below(folder, filter(_is_photo, self._walk(folder)))
        if not photos and len(self.problems) == before:
            raise InputError(f"{folder}: no photos in this folder (.jpg, .png, .tif, ...); check the path")
        return photos

    def _in_store(self, address: str) -> list[Photo]:
        bare = without_query(address)
        if is_web(address):
            is_one = "*" not in bare and not bare.endswith("/")
        else:
            is_one = _is_photo(address) and not glob.has_magic(address)
        if is_one:
            return [Photo(address, Path(bare).stem)]
        files = find(address)
        out = [f"{normal(self.output)}/"] if self.output and is_remote(self.output) else []
        manifests = [(file, Path(name)) for file, name in files if _MANIFEST.fullmatch(Path(name).name)]
        results = {file.removesuffix(name.name) for file, name in manifests if len(name.parts) > 1}
        self.left_out.update(results.difference(out))
        photos = [
            Photo(file, Path(name).with_suffix("").as_posix())
            for file, name in files
            if _is_photo(name)
            and not any(part.startswith(".") for part in Path(name).parts)
            and not file.startswith((*results, *out))
        ]
        if not photos:
            raise InputError(f"{address}: no photos there (.jpg, .png, .tif, ...); check the address")
        return photos

    def _matching(self, pattern: str) -> list[Photo]:
        parts = Path(pattern).parts
        plain = list(takewhile(lambda part: not glob.has_magic(part), parts))
        root = os.path.join("", *plain)
        files: Iterable[str] = filter(os.path.isfile, glob.iglob(pattern))
        if "**" in parts:  # Python's own glob would go through every way that circles of links allow
            names = (os.path.relpath(path, root or ".") for path in self._walk(root or "."))
            patterns = parts[len(plain) :]
            files = (os.path.join(root, name) for name in names if _fits(Path(name).parts, patterns))
        photos = self._below(root, files)
        if not photos:
            literal = pattern.replace("[", "[[]")
            hint = f", or write '{literal}' if the name has brackets" * ("[" in pattern)
            raise InputError(f"{pattern}: no file matches; check the pattern{hint}")
        return photos

    def _below(self, root: str, paths: Iterable[str]) -> list[Photo]:
        """The photos of a search below `root`, without what a run itself writes there."""
        out, photos_in, real_path = self.out, cache(_photo_stems), real_paths()

        def is_result(path: str, bare: Path) -> bool:
            at, end = os.path.dirname(path), Path(path).suffix.lower()
            if bare.parent.suffix == _MASKS_END and end == ".png":
                return bare.parent.stem in photos_in(os.path.dirname(at))
            return (bare.suffix, end) in _RESULT_ENDS and bare.stem in photos_in(at)

        photos = []
        for path in sorted(paths):
            bare = Path(os.path.relpath(path, root or ".")).with_suffix("")
            if not is_result(path, bare) and not (out and real_path(path).startswith(out)):
                photos.append(Photo(path, bare.as_posix()))
        return photos

    def _walk(self, root: str) -> Iterator[str]:
        """All regular files below `root` but those of other runs' results."""

        def refused(error: OSError) -> None:
            path = error.filename
            if not os.path.islink(path):
                self.problems.append(f"{path}: cannot be listed ({error.strerror}); check its permissions")
            elif Path(path).suffix.lower() in ("", *PHOTO_SUFFIXES):
                self.problems.append(f"{path}: {error.strerror}; mend it or remove it")

        def holds_results(folder: str, names: list[str]) -> bool:
            found = any(map(_MANIFEST.fullmatch, names))
            if found and os.path.join(os.path.realpath(folder), "") != self.out:
                self.left_out.add(folder)
            return found

        return walk(root, leave_out=holds_results, refused=refused)


_RESULT_ENDS = {(f".{kind.word}", suffix) for kind in KINDS.values() for suffix in kind.suffixes}
_MASKS_END = f".{KINDS['masks'].word}"


def _is_photo(path: str) -> bool:
    return Path(path).suffix.lower() in PHOTO_SUFFIXES


def _photo_stems(folder: str) -> set[str]:
    with suppress(OSError):  # a glob can find files in a folder that may not be listed
        return {Path(name).stem for name in filter(_is_photo, os.listdir(folder or "."))}
    return set()


def _spelled(path: str) -> str:
    """The path with accents composed as on the disk; lists and shells may compose them otherwise."""
    forms = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return next(filter(os.path.lexists, forms), path)


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns or not parts:
        return not parts and all(pattern == "**" for pattern in patterns)
    if patterns[0] == "**":
        return _fits(parts, patterns[1:]) or _fits(parts[1:], patterns)
    return fnmatch(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def _listed(path: str) -> list[Photo]:
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        paths = _paths_in(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"@{path}: the list cannot be read ({reason}); check the path") from error
    if not paths:
        raise InputError(f"@{path}: the list is empty; write one photo a line")
    if any(_CONTROL.search(name) and not os.path.lexists(name) for name in paths):
        raise InputError(f"@{path}: is a photo or another binary file, not a list; leave out the @")
    # A file named - is meant here, not standard input.
    spelled = ["./-" if path == STDIN else path if is_remote(path) else _spelled(path) for path in paths]
    return [Photo(path, _as_written(path)) for path in spelled]


def _paths_in(content: bytes) -> list[str]:
    """The paths of a list, of any bytes; a line from # on is a comment, unless it is a file's name."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        return [os.fsdecode(path) for path in content.split(b"\0") if path]
    lines = (line.rstrip() for line in content.splitlines())
    paths = (line.lstrip() for line in lines if not line.startswith(b"#") or os.path.exists(line))
    return [os.fsdecode(path) for path in paths if path]


def _as_written(path: str) -> str:
    """The path without suffix and without what would lead out of the folder of results: root and `..`."""
    bare = Path(without_query(path).partition("://")[2] if is_remote(path) else path).with_suffix("")
    return Path(*(part for part in bare.parts if part not in (bare.anchor, ".."))).as_posix()
