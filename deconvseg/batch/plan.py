"""Which photos a run takes and where each result goes, settled before the work starts."""

# os.path rather than pathlib: its questions answer False where pathlib's may raise (no permission, too long a
# name), and paths stay as the user wrote them.
# ruff: noqa: PTH110, PTH112, PTH120

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deconvseg.batch.inputs import STDIN, Photo, find_photos, real_paths
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import UsageError
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.kinds import FILE_SUFFIXES, KINDS, refuse_suffix
from deconvseg.remote import is_remote, normal

STDOUT = "-"
_AMONG_PHOTOS = "results would lie among the photos; give another folder"
LOCAL = "file://"
# What -o NAME.SUFFIX takes for the name of a file, not of a folder.
_FILES = (
    *(*PHOTO_SUFFIXES, *FILE_SUFFIXES),
    *(".tga", ".jxl", ".apng", ".pnm", ".j2k", ".jpx", ".ico", ".psd", ".exr", ".hdr"),
    *(".svg", ".pdf", ".npy"),
)


@dataclass(frozen=True)
class Plan:
    """All that a run has to do; without a `folder`, results lie beside their photos, with no manifest."""

    photos: list[Photo]
    folder: ResultsFolder | None
    problems: list[str]
    notes: list[str]

    @property
    def to_stdout(self) -> bool:
        """Whether a result goes to standard output."""
        return any(None in photo.outputs.values() for photo in self.photos)


def make_plan(inputs: Sequence[str], output: str | None, kinds: Sequence[str]) -> Plan:
    """Find the photos of the inputs and name their results, which are the `kinds` (keys of KINDS).

    Raises UsageError if the inputs and the output do not go together, or two files would be the same.
    """
    inputs = [argument.removeprefix(LOCAL) for argument in inputs]
    output = output and output.removeprefix(LOCAL)
    kinds = list(dict.fromkeys(kinds))
    if "" in inputs:
        raise UsageError("an input is empty; give the path of a photo or a folder")
    if output == "":
        raise UsageError("the output is empty; give a file or a folder, . for this one")
    if STDIN in inputs and len(inputs) > 1:
        raise UsageError("- (standard input) is one photo; give it alone")
    photos, problems, notes = find_photos(inputs, output)
    if STDIN in inputs and output is None:
        output = STDOUT
    folder = _result_folder(inputs, output, photos)
    photos = [replace(photo, outputs=_result_paths(photo, output, folder, kinds)) for photo in photos]
    _refuse_clashes(photos, folder.shown if folder else str)
    return Plan(photos, folder, problems, notes)


def _result_folder(
    inputs: Sequence[str], output: str | None, photos: Sequence[Photo]
) -> ResultsFolder | None:
    if output and is_remote(output):
        if any(is_remote(argument) and normal(argument) == normal(output) for argument in inputs):
            raise UsageError(f"{output}: {_AMONG_PHOTOS}")
        return ResultsFolder.at(output)
    folders = [argument for argument in inputs if os.path.isdir(argument)]
    if output is None:
        if folders:
            raise UsageError(f"{folders[0]}: is a folder; say in which folder its results go")
        for photo in photos:
            if is_remote(photo.path):
                raise UsageError(f"{photo.shown}: is remote; say where its result goes")
        return None
    if output == STDOUT:
        if folders or len(photos) > 1:
            raise UsageError("standard output takes one photo; give a folder")
        return None
    is_file = Path(output).suffix.lower() in _FILES or os.path.exists(output)
    if is_file and not os.path.isdir(output) and not output.endswith(("/", os.sep)):
        if folders or len(photos) > 1:
            raise UsageError(f"{output}: is the name of one file; give a folder")
        return None
    if any(os.path.realpath(argument) == os.path.realpath(output) for argument in folders):
        raise UsageError(f"{output}: {_AMONG_PHOTOS}")
    return ResultsFolder.at(output)


def _result_paths(
    photo: Photo, output: str | None, folder: ResultsFolder | None, kinds: Sequence[str]
) -> dict[str, Path | None]:
    if output == STDOUT:
        if len(kinds) > 1:
            raise UsageError("standard output takes one kind of result; name a file or a folder")
        if kinds[0] == "masks":
            raise UsageError("masks are several files; give a folder")
        return {kinds[0]: None}
    if folder:
        # Labels are the result; only their variants carry a word.
        words = {kind: "" if kind == "labels" else f".{KINDS[kind].word}" for kind in kinds}
        return {kind: folder.root / f"{photo.name}{words[kind]}{KINDS[kind].suffixes[0]}" for kind in kinds}
    base = Path(output or photo.path)
    paths: dict[str, Path | None] = {
        kind: base.with_name(f"{base.stem}.{KINDS[kind].word}{KINDS[kind].suffixes[0]}") for kind in kinds
    }
    if output:
        refuse_suffix(kinds[0], base)
        paths[kinds[0]] = base
    return paths


def _refuse_clashes(photos: Sequence[Photo], shown: Callable[[str | Path], str]) -> None:
    real_path = real_paths()

    def file_key(path: str | Path) -> str:
        """The same for all names of one file; folded, as the disks of most Macs and PCs do."""
        return unicodedata.normalize("NFC", real_path(os.fspath(path))).casefold()

    sources = {file_key(photo.path): photo.shown for photo in photos}
    owners: dict[str, str] = {}
    folders: dict[str, Path] = {}  # for masks: what lies in them is written and removed without asking
    for photo in photos:
        for kind, path in photo.outputs.items():
            if path is None:
                continue
            key = file_key(path)
            if kind == "masks":
                folders[key] = path
            if key in sources:
                raise UsageError(
                    f"{shown(path)}: is a photo of this run and would be overwritten; choose another output"
                )
            owner = owners.setdefault(key, photo.shown)
            if owner != photo.shown:
                raise UsageError(
                    f"{shown(path)}: would be the result of both {owner} and {photo.shown}; "
                    "rename one, or give them different outputs in two runs"
                )
    for key, owner in (sources | owners).items():
        if folder := folders.get(os.path.dirname(key)):
            raise UsageError(
                f"{shown(folder)}: would hold masks, and {owner} or its result; "
                "rename it, or choose another output"
            )
