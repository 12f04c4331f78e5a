"""From the inputs to photos: files, folders, globs, lists, standard input."""

# os.path rather than pathlib: its questions answer False where pathlib's may raise (no permission, too long a
# name), and paths stay as the user wrote them.
# ruff: noqa: PTH112, PTH110, PTH114, PTH118, PTH120, PTH207, PTH208

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """A photo.

    Attributes:
        path: as the user would write it, or its address.
        name: its place in the folder of results, without suffix.
    """

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

    @property
    def file_name(self) -> str:
        """Its place below the folder of photos, with suffix."""
        return self.name + Path(self.shown).suffix


def real_paths() -> Callable[[str], str]:
    """os.path.realpath, quick for many files of a few folders: for its own lifetime it resolves each once."""
    real_folder = cache(os.path.realpath)

    def real_path(path: str) -> str:
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):
            return os.path.realpath(path)
        return os.path.join(real_folder(folder), name)

    return real_path


class Found(NamedTuple):
    """What `find_photos` has found.

    Attributes:
        photos: each once; a link to a photo is one of its own.
        problems: a line for every input without photos and every folder that cannot be listed.
        notes: a line for every folder that is left out, as it holds another run's results.
    """

    photos: list[Photo]
    problems: list[str]
    notes: list[str]


def find_photos(inputs: Sequence[str], output: str | None) -> Found:
    """The photos that inputs stand for, without those below `output` and other folders of results."""
    photos: dict[str, Photo] = {}
    problems: list[str] = []
    left_out: set[str] = set()
    real_folder = cache(os.path.realpath)
    for argument in inputs:
        try:
            for photo in _expand(argument, output, problems, left_out):
                folder, file = os.path.split(photo.path)
                photos.setdefault(os.path.join(real_folder(folder), file), photo)
        except InputError as error:
            problems.append(str(error))
    own = output and os.path.realpath(output)
    notes = [
        f"{folder}: holds results of another run, and is left out; name it among the inputs to take it"
        for folder in sorted(left_out)
        if os.path.realpath(folder) != own
    ]
    return Found(list(photos.values()), problems, notes)


def _expand(argument: str, output: str | None, problems: list[str], left_out: set[str]) -> list[Photo]:
    if argument == STDIN:
        return [Photo(STDIN, "stdin")]
    if is_remote(argument):
        return _in_store(argument, output, left_out)
    if os.path.isdir(argument):
        return _in_folder(argument, output, problems, left_out)
    spelled = _spelled(argument)
    if not os.path.exists(spelled):
        if argument.startswith("@"):
            return _listed(argument[1:])
        if glob.has_magic(argument):
            return _matching(argument, output, problems, left_out)
    # A missing one fails when its turn comes; the others are done.
    return [Photo(spelled, Path(spelled).stem)]


def _spelled(path: str) -> str:
    """The path with accents composed as on the disk; lists and shells may compose them otherwise."""
    forms = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return next(filter(os.path.lexists, forms), path)


def _in_folder(folder: str, output: str | None, problems: list[str], left_out: set[str]) -> list[Photo]:
    before = len(problems)
    files = (
        path for path in _walk(folder, problems, left_out) if Path(path).suffix.lower() in PHOTO_SUFFIXES
    )
    photos = list(_below(folder, sorted(files), output))
    if not photos and len(problems) == before:
        raise InputError(f"{folder}: no photos in this folder (.jpg, .png, .tif, ...); check the path")
    return photos


def _in_store(address: str, output: str | None, left_out: set[str]) -> list[Photo]:
    bare = without_query(address)
    if is_web(address):
        is_photo = "*" not in bare and not bare.endswith("/")
    else:
        is_photo = Path(address).suffix.lower() in PHOTO_SUFFIXES and not glob.has_magic(address)
    if is_photo:
        return [Photo(address, Path(bare).stem)]
    out = f"{normal(output)}/" if output and is_remote(output) else None
    files = find(address)
    if [place for _, place in files] == ["."]:  # a file without suffix
        return [Photo(address, Path(bare).stem)]
    results = {file.removesuffix(Path(name).name) for file, name in files if _is_manifest_below(name)}
    left_out.update(results - {out})
    photos = [
        Photo(file, Path(name).with_suffix("").as_posix())
        for file, name in files
        if Path(name).suffix.lower() in PHOTO_SUFFIXES
        and not any(part.startswith(".") for part in Path(name).parts)
        and not file.startswith((*results, *filter(None, [out])))
    ]
    if not photos:
        raise InputError(f"{address}: no photos there (.jpg, .png, .tif, ...); check the address")
    return photos


def _is_manifest_below(name: str) -> bool:
    return "/" in name and _MANIFEST.fullmatch(name.rpartition("/")[2]) is not None


def _matching(pattern: str, output: str | None, problems: list[str], left_out: set[str]) -> list[Photo]:
    parts = Path(pattern).parts
    root = Path(*takewhile(lambda part: not glob.has_magic(part), parts))
    if "**" in parts:
        start = parts.index("**")
        files = _matching_below(parts[:start], parts[start:], problems, left_out)
    else:
        files = glob.iglob(pattern)
    photos = list(_below(str(root), sorted(filter(os.path.isfile, files)), output))
    if not photos:
        literal = pattern.replace("[", "[[]")
        hint = f", or write '{literal}' if the name has brackets" * ("[" in pattern)
        raise InputError(f"{pattern}: no file matches; check the pattern{hint}")
    return photos


def _matching_below(
    parents: Sequence[str], patterns: Sequence[str], problems: list[str], left_out: set[str]
) -> Iterator[str]:
    """Files as of `**`. Python's own glob would go through every way that circles of links allow."""
    above = os.path.join(*parents) if parents else ""
    hidden = any(pattern.startswith(".") for pattern in patterns)
    for folder in glob.glob(above) if glob.has_magic(above) else [above]:
        if os.path.isdir(folder or "."):
            for path in _walk(folder or ".", problems, left_out, hidden=hidden):
                bare = os.path.relpath(path, folder or ".")
                if _fits(Path(bare).parts, patterns):
                    yield os.path.join(folder, bare)


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns or not parts:
        return not parts and all(pattern == "**" for pattern in patterns)
    hidden = parts[0].startswith(".")
    if patterns[0] == "**":
        return _fits(parts, patterns[1:]) or (not hidden and _fits(parts[1:], patterns))
    return (
        fnmatch(parts[0], patterns[0])
        and hidden <= patterns[0].startswith(".")
        and _fits(parts[1:], patterns[1:])
    )


def _below(root: str, paths: Iterable[str], output: str | None) -> Iterator[Photo]:
    """The photos of a search below `root`, without what this command itself writes there."""
    out = os.path.join(os.path.realpath(output), "") if output else None
    photos_in, real_path = cache(_photo_stems), real_paths()

    def is_result(path: str, bare: Path) -> bool:
        at, end = os.path.dirname(path), Path(path).suffix.lower()
        if bare.parent.suffix == _MASKS_END and end == ".png":
            return bare.parent.stem in photos_in(os.path.dirname(at))
        return (bare.suffix, end) in _RESULT_ENDS and bare.stem in photos_in(at)

    for path in paths:
        bare = Path(os.path.relpath(path, root)).with_suffix("")
        if not is_result(path, bare) and not (out and real_path(path).startswith(out)):
            yield Photo(path, bare.as_posix())


_RESULT_ENDS = {(f".{kind.word}", suffix) for kind in KINDS.values() for suffix in kind.suffixes}
_MASKS_END = f".{KINDS['masks'].word}"


def _photo_stems(folder: str) -> set[str]:
    try:
        paths = [Path(name) for name in os.listdir(folder or ".")]
    except OSError:  # a glob can find files in a folder that may not be listed
        return set()
    return {path.stem for path in paths if path.suffix.lower() in PHOTO_SUFFIXES}


def _walk(root: str, problems: list[str], left_out: set[str], *, hidden: bool = False) -> Iterator[str]:
    """All regular files below `root`.

    A folder that cannot be listed is told in `problems`; one that holds results goes to `left_out`.
    """

    def refused(error: OSError) -> None:
        if not os.path.islink(error.filename):
            problems.append(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions")
        elif Path(error.filename).suffix.lower() in ("", *PHOTO_SUFFIXES):
            problems.append(f"{error.filename}: {error.strerror}; mend it or remove it")

    def holds_results(folder: str, names: list[str]) -> bool:
        if any(map(_MANIFEST.fullmatch, names)):
            left_out.add(folder)
            return True
        return False

    return walk(root, hidden=hidden, leave_out=holds_results, refused=refused)


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
    """The paths of a list: a line each, or ended by NUL each, as `find -print0` writes them; of any bytes.

    A line that starts with # is a comment, unless there is a file of this name.
    """
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
