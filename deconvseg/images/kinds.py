"""The kinds of result, and what their files are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from deconvseg.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """A kind of result: the word in its file names, and the suffixes they can have, the usual one first.

    The suffix of a kind that is a folder is empty.
    """

    word: str
    suffixes: tuple[str, ...]


KINDS = {
    "labels": Kind("mask", (".png",)),
    "color": Kind("color", (".png",)),
    "overlay": Kind("overlay", (".jpg", ".jpeg", ".png")),
    "cutout": Kind("cutout", (".png",)),
    "masks": Kind("masks", ("",)),
    "scores": Kind("scores", (".npz",)),
    "coco": Kind("coco", (".json",)),
}
FILE_SUFFIXES = {suffix for kind in KINDS.values() for suffix in kind.suffixes} - {""}
"""Of all kinds that are files."""


def refuse_suffix(kind: str, path: PurePath) -> None:
    """Raise UsageError if files of this kind do not end like this."""
    allowed = KINDS[kind].suffixes
    if path.suffix.lower() not in allowed:
        raise UsageError(f"{path}: {kind} files end in {' or '.join(allowed)}; rename the output")
