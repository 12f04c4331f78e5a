"""Which photos a run takes and where each result goes, settled before the work starts."""

# os.path rather than pathlib: its questions answer False where pathlib's may raise (no permission, too long a
# name), and paths stay as the user wrote them.
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH120, PTH207, PTH208

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from deconvseg.errors import InputError, UsageError
from deconvseg.images import PHOTO_SUFFIXES

STDIN = STDOUT = "-"
# What -o NAME.SUFFIX takes for the name of a file, not of a folder.
FILE_SUFFIXES = (
    *PHOTO_SUFFIXES,
    *(".tga", ".heic", ".heif", ".jxl", ".apng", ".pnm", ".j2k", ".jpx", ".ico", ".psd", ".exr", ".hdr"),
    *(".svg", ".pdf", ".npy", ".npz"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of result: the word in its file names, and the suffixes they can have, the usual one first."""

    word: str
    suffixes: tuple[str, ...]


KINDS = {
    "labels": Kind("mask", (".png",)),
    "color": Kind("color", (".png",)),
    "overlay": Kind("overlay", (".jpg", ".jpeg", ".png")),
    "cutout": Kind("cutout", (".png",)),
    "scores": Kind("scores", (".npz",)),
}


@dataclass(frozen=True)
class Photo:
    """A photo: its path as the user would write it, and its place below -o DIR, without suffix."""

    path: str
    name: str

    @property
    def missing(self) -> bool:
        """Whether there is nothing at the path."""
        return self.path != STDIN and not os.path.exists(self.path)


@dataclass(frozen=True)
class Task:
    """A photo, and the file for each kind of result; None is standard output."""

    photo: Photo
    outputs: dict[str, Path | None]


@dataclass(frozen=True)
class Plan:
    """All that a run has to do.

    Attributes:
        tasks: one a photo, in order.
        folder: the -o DIR that holds the results and their manifest, or None when the photos' own folders do.
        problems: a line for each INPUT that stands for no photo.
    """

    tasks: list[Task]
    folder: Path | None
    problems: list[str]


def make_plan(inputs: Sequence[str], output: str | None, kinds: Sequence[str]) -> Plan:
    """Find the photos of INPUT... and name their results, which are the `kinds` (keys of KINDS).

    Raises:
        UsageError: the inputs and the output do not go together, or two results or a result and a photo would
            be the same file.
    """
    kinds = list(dict.fromkeys(kinds))
    if "" in inputs:
        raise UsageError("an INPUT is empty; give the path of a photo or a folder")
    if output == "":
        raise UsageError("-o is empty; give a file or a folder, . for this one")
    if STDIN in inputs and len(inputs) > 1:
        raise UsageError("- (standard input) is one photo; give it alone")
    photos, problems = _find_photos(inputs, output)
    if inputs[0] == STDIN and output is None:
        output = STDOUT
    folder = _result_folder(inputs, output, photos)
    tasks = [Task(photo, _result_paths(photo, output, folder, kinds)) for photo in photos]
    _refuse_clashes(tasks)
    return Plan(tasks, folder, problems)


# ---- inputs


def _find_photos(inputs: Sequence[str], output: str | None) -> tuple[list[Photo], list[str]]:
    """Each photo once, and a line for every input without photos. A link to a photo is one of its own."""
    photos: dict[str, Photo] = {}
    problems = []
    for argument in inputs:
        try:
            for photo in _expand(argument, output):
                folder, file = os.path.split(photo.path)
                photos.setdefault(os.path.join(os.path.realpath(folder), file), photo)
        except InputError as error:
            problems.append(str(error))
    return list(photos.values()), problems


def _expand(argument: str, output: str | None) -> list[Photo]:
    if argument == STDIN:
        return [Photo(STDIN, "stdin")]
    if os.path.isdir(argument):
        files = (path for path in _walk(argument) if Path(path).suffix.lower() in PHOTO_SUFFIXES)
        photos = list(_below(argument, sorted(files), output))
        if not photos:
            raise InputError(f"{argument}: no photos in this folder (.jpg, .png, .tif, ...); check the path")
        return photos
    if not os.path.exists(argument):
        if argument.startswith("@"):
            return _listed(argument[1:])
        if glob.has_magic(argument):
            return _matching(argument, output)
    return [
        Photo(argument, Path(argument).stem)
    ]  # a missing one fails when its turn comes; the others are done


def _matching(pattern: str, output: str | None) -> list[Photo]:
    root = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    files = (path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    photos = list(_below(str(root), sorted(files), output))
    if not photos:
        raise InputError(f"{pattern}: no file matches; check the pattern")
    return photos


def _below(root: str, paths: Iterable[str], output: str | None) -> Iterator[Photo]:
    """The photos of a search below `root`, without what this command itself writes there."""
    out = os.path.join(os.path.realpath(output), "") if output else None
    photos_in = cache(_photo_stems)
    for path in paths:
        bare = Path(os.path.relpath(path, root)).with_suffix("")
        ours = (bare.suffix, Path(path).suffix.lower()) in _RESULT_ENDS and (
            bare.stem in photos_in(os.path.dirname(path))
        )
        if not ours and not (out and os.path.realpath(path).startswith(out)):
            yield Photo(path, bare.as_posix())


_RESULT_ENDS = {(f".{kind.word}", suffix) for kind in KINDS.values() for suffix in kind.suffixes}


def _photo_stems(folder: str) -> set[str]:
    try:
        paths = [Path(name) for name in os.listdir(folder or ".")]
    except OSError:  # a glob can find files in a folder that may not be listed
        return set()
    return {path.stem for path in paths if path.suffix.lower() in PHOTO_SUFFIXES}


def _walk(root: str) -> Iterator[str]:
    """All regular files below `root` but hidden ones; links to folders are followed, each is entered once."""
    seen = {os.path.realpath(root)}

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be listed ({error.strerror}); check its permissions"
        ) from error

    for at, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        paths = (os.path.join(at, file) for file in files if not file.startswith("."))
        yield from filter(os.path.isfile, paths)
        real = {
            name: os.path.realpath(os.path.join(at, name)) for name in folders if not name.startswith(".")
        }
        folders[:] = [name for name in sorted(real) if real[name] not in seen]
        seen.update(real.values())


def _listed(path: str) -> list[Photo]:
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"@{path}: the list cannot be read ({reason}); check the path") from error
    paths = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not paths:
        raise InputError(f"@{path}: the list is empty; write one photo a line")
    # A file named - is meant here, not standard input.
    return [Photo("./-" if path == STDIN else path, _as_written(path)) for path in paths]


def _as_written(path: str) -> str:
    """The path without suffix and without what would lead out of -o DIR: its root and every `..`."""
    bare = Path(path).with_suffix("")
    return Path(*(part for part in bare.parts if part not in (bare.anchor, ".."))).as_posix()


# ---- outputs


def _result_folder(inputs: Sequence[str], output: str | None, photos: Sequence[Photo]) -> Path | None:
    folders = [argument for argument in inputs if os.path.isdir(argument)]
    if output is None:
        if folders:
            raise UsageError(f"{folders[0]}: is a folder; say with -o DIR where its results go")
        return None
    if output == STDOUT:
        if folders or len(photos) > 1:
            raise UsageError("-o - (standard output) takes one photo; give a folder with -o DIR")
        return None
    if not os.path.isdir(output) and not output.endswith(("/", os.sep)):
        if os.path.exists(output) and (folders or len(photos) > 1):
            raise UsageError(f"{output}: is a file, and there are several photos; give a folder with -o DIR")
        if Path(output).suffix.lower() in FILE_SUFFIXES:
            if folders or len(photos) > 1:
                raise UsageError(f"{output}: is the name of one file; give a folder with -o DIR")
            return None
    if any(os.path.realpath(argument) == os.path.realpath(output) for argument in folders):
        raise UsageError(f"{output}: results would lie among the photos; give another folder with -o DIR")
    return Path(output)


def _result_paths(
    photo: Photo, output: str | None, folder: Path | None, kinds: Sequence[str]
) -> dict[str, Path | None]:
    if output == STDOUT:
        if len(kinds) > 1:
            raise UsageError("-o - (standard output) takes one --save; name a file or a folder")
        return {kinds[0]: None}
    if folder:
        # Labels are the result; only their variants carry a word.
        words = {kind: "" if kind == "labels" else f".{KINDS[kind].word}" for kind in kinds}
        return {kind: folder / f"{photo.name}{words[kind]}{KINDS[kind].suffixes[0]}" for kind in kinds}
    base = Path(output or photo.path)
    paths: dict[str, Path | None] = {
        kind: base.with_name(f"{base.stem}.{KINDS[kind].word}{KINDS[kind].suffixes[0]}") for kind in kinds
    }
    if output:
        allowed = KINDS[kinds[0]].suffixes
        if base.suffix.lower() not in allowed:
            raise UsageError(f"{output}: {kinds[0]} are written as {' or '.join(allowed)}; rename the output")
        paths[kinds[0]] = base
    return paths


def _refuse_clashes(tasks: Sequence[Task]) -> None:
    photos = {_file_key(task.photo.path) for task in tasks}
    owners: dict[str, str] = {}
    for task in tasks:
        for path in filter(None, task.outputs.values()):
            key = _file_key(path)
            if key in photos:
                raise UsageError(
                    f"{path}: is a photo of this run and would be overwritten; choose another -o"
                )
            owner = owners.setdefault(key, task.photo.path)
            if owner != task.photo.path:
                raise UsageError(
                    f"{path}: would be the result of both {owner} and {task.photo.path}; "
                    "rename one, or give them different -o in two runs"
                )


def _file_key(path: str | Path) -> str:
    """The same for all names of one file; folded, as the disks of most Macs and PCs do."""
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
