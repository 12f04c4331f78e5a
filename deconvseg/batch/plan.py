"""Which photos a run takes and where each result goes, settled before the work starts."""

# os.path rather than pathlib: its questions answer False where pathlib's may raise (no permission, too long a
# name), and paths stay as the user wrote them.
# ruff: noqa: PTH110, PTH112, PTH114, PTH120

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deconvseg.batch.inputs import STDIN, Photo, find_photos, real_places
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import UsageError
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.kinds import FILE_SUFFIXES, KINDS, refuse_suffix
from deconvseg.remote import is_remote, normal

STDOUT = "-"
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
    _refuse_clashes(photos, folder)
    return Plan(photos, folder, problems, notes)


def _result_folder(
    inputs: Sequence[str], output: str | None, photos: Sequence[Photo]
) -> ResultsFolder | None:
    folders = [argument for argument in inputs if os.path.isdir(argument)]
    if output is None:
        if homeless := [*folders, *(photo.shown for photo in photos if is_remote(photo.path))]:
            kind = "a folder" if folders else "remote"
            raise UsageError(f"{homeless[0]}: is {kind}; say where its results go")
        return None
    is_file = Path(output).suffix.lower() in _FILES or os.path.exists(output)
    is_file = is_file and not os.path.isdir(output) and not output.endswith(("/", os.sep))
    if output == STDOUT or (is_file and not is_remote(output)):
        if folders or len(photos) > 1:
            name = "standard output" if output == STDOUT else output
            raise UsageError(f"{name}: takes the result of one photo; give a folder")
        return None
    if any(_is_same(argument, output) for argument in inputs):
        raise UsageError(f"{output}: results would lie among the photos; give another folder")
    return ResultsFolder(output)


def _is_same(place: str, other: str) -> bool:
    resolved = normal if is_remote(other) else os.path.realpath
    return is_remote(place) == is_remote(other) and resolved(place) == resolved(other)


def _result_paths(
    photo: Photo, output: str | None, folder: ResultsFolder | None, kinds: Sequence[str]
) -> dict[str, Path | None]:
    if output == STDOUT:
        if len(kinds) > 1 or kinds[0] == "masks":
            raise UsageError("standard output takes one result that is one file; give a folder")
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


def _refuse_clashes(photos: Sequence[Photo], folder: ResultsFolder | None) -> None:
    real_place = real_places()

    def key(path: str | Path) -> str:
        """The same for all names of one file; folded, as the disks of most Macs and PCs do."""
        text = os.fspath(path)
        real = os.path.realpath(text) if os.path.islink(text) else real_place(text)
        return unicodedata.normalize("NFC", real).casefold()

    owners = {key(photo.path): f"the photo {photo.shown}" for photo in photos}
    for photo in photos:
        for path in filter(None, photo.outputs.values()):
            owner = owners.setdefault(key(path), f"the result of {photo.shown}")
            if owner != f"the result of {photo.shown}":
                raise UsageError(
                    f"{folder.shown(path) if folder else path}: would be the result of {photo.shown}, and is "
                    f"{owner}; rename one, or choose other outputs"
                )
    for place, owner in owners.items():
        if folder_owner := owners.get(os.path.dirname(place)):
            raise UsageError(f"{owner} would lie in the folder that is {folder_owner}; rename one")
