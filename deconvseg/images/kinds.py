"""The kinds of result: one table, from which the command line, file names and folder runs are made.

It names the writers instead of importing them: the command line's help must not load NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from pkgutil import resolve_name
from typing import TYPE_CHECKING, BinaryIO

from deconvseg.errors import UsageError

if TYPE_CHECKING:
    from deconvseg.segmentation import Segmentation


@dataclass(frozen=True)
class Kind:
    """A kind of result."""

    word: str  # stands in the names of its files: `cat.WORD.png`
    suffixes: tuple[str, ...]  # how its files can end, the usual one first; one empty one if it is a folder
    writer: str  # module of this package and function of a Segmentation, a path or stream, and the options
    help: str  # what it is, for the command line
    paints: bool = False  # whether it shows the photo, which then has to be read at its full size
    options: tuple[str, ...] = ()  # keywords of `Segmentation.save`

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return self.suffixes == ("",)

    def write(
        self, segmentation: Segmentation, target: Path | BinaryIO, options: Mapping[str, object]
    ) -> None:
        """Write it; of `options` it takes its own. Raises OutputError if a file cannot be written."""
        write = resolve_name(f"{__package__}.{self.writer}")
        write(segmentation, target, **{name: options[name] for name in self.options})


KINDS = {
    "labels": Kind("mask", (".png",), "write:write_labels", "PNG of class ids, shown in class colours"),
    "color": Kind("color", (".png",), "write:write_color", "the same as plain RGB"),
    "overlay": Kind(
        "overlay",
        (".jpg", ".jpeg", ".png"),
        "write:write_overlay",
        "the photo tinted, JPEG",
        paints=True,
        options=("legend",),
    ),
    "cutout": Kind(
        "cutout", (".png",), "write:write_cutout", "the objects alone, transparent PNG", paints=True
    ),
    "masks": Kind("masks", ("",), "write:write_masks", "a folder with a black and white PNG a class"),
    "scores": Kind("scores", (".npz",), "write:write_scores", "the probability of every class, NPZ"),
    "coco": Kind(
        "coco",
        (".json",),
        "coco:write_coco",
        "regions of each class, JSON, and for a folder OUT all photos' in OUT/coco.json",
        options=("polygons", "file_name"),
    ),
}
FILE_SUFFIXES = {suffix for kind in KINDS.values() for suffix in kind.suffixes} - {""}


def refuse_suffix(kind: str, path: PurePath) -> None:
    """Raise UsageError if files of this kind do not end like this; a folder may end as no file does."""
    allowed = KINDS[kind].suffixes
    if KINDS[kind].is_folder and path.suffix.lower() in FILE_SUFFIXES:
        raise UsageError(f"{path}: {kind} are several files, and need a folder")
    if not KINDS[kind].is_folder and path.suffix.lower() not in allowed:
        raise UsageError(f"{path}: {kind} files end in {' or '.join(allowed)}; rename the output")
