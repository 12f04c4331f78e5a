"""A photo's labels: the only object that crosses from computing to writing. It saves and shows itself."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import InputError, UsageError
from deconvseg.images.kinds import KINDS, refuse_suffix
from deconvseg.images.palette import Palette
from deconvseg.images.read import read_image
from deconvseg.images.write import overlay_image
from deconvseg.remote import is_remote

SHOWN_SIDE = 480
"""Longer side, in pixels, of what a notebook shows and keeps."""


@dataclass(frozen=True, repr=False, eq=False)
class Segmentation:
    """One photo's labelling. Every array has the size of the photo as a person sees it (EXIF applied).

    Attributes:
        labels: uint8 (H, W), indices into `classes`; 0 is background.
        classes: class names, background first.
        palette: one (R, G, B) of 0..255 a class, same length as `classes`.
        probabilities: float32 (C, H, W) summing to 1 over C, or None when they were not asked for.
        boxes: float32 (N, 4), x0 y0 x1 y1 in pixels, half-open: the regions that went through the network,
            the whole image first; they may reach outside the photo.
        seconds: wall-clock seconds by step (`proposals`, `network`, `crf`, ...).
        pixels: uint8 (h, w, 3) RGB, upright: the photo, or a large one reduced; None if it was not kept.
        source: its file, if it came from one.
        notes: what a user should know of the photo, a line each.
    """

    labels: NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: Palette
    probabilities: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    seconds: Mapping[str, float] = field(default_factory=dict)
    pixels: NDArray[np.uint8] | None = None
    source: Path | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.class_shares().items())
        return f"{type(self).__name__}({self.width} x {self.height} pixels: {shares})"

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.labels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.labels.shape[1])

    def class_shares(self) -> dict[str, float]:
        """Share of pixels (0..1) of every class that occurs, largest first."""
        counts = np.array(Image.fromarray(self.labels).histogram()[: len(self.classes)])
        order = sorted(np.flatnonzero(counts), key=lambda i: -int(counts[i]))
        return {self.classes[i]: float(counts[i] / self.labels.size) for i in order}

    def only(self, names: Collection[str]) -> Self:
        """The same with all classes but those of these names made background, which moves no border.

        Ids, `classes` and `palette` stay as they are; the background's probability becomes that of everything
        not chosen, which can exceed the label's own. A string is one name.
        Raises UsageError if a name is no class.
        """
        names = chosen(names)
        refuse_unknown([name for name in names if name != self.classes[0]], self.classes)
        kept = np.array([name in names for name in self.classes])
        kept[0] = True
        labels = np.where(kept, np.arange(len(kept)), 0).astype(np.uint8)[self.labels]
        probabilities = None
        if self.probabilities is not None:
            probabilities = self.probabilities * kept[:, None, None].astype(np.float32)
            probabilities[0] += self.probabilities[~kept].sum(0)
        return replace(self, labels=labels, probabilities=probabilities)

    @property
    def photo(self) -> NDArray[np.uint8]:
        """The photo, uint8 (H, W, 3) RGB, of the labels' size; a large one is read from its file again.

        Raises InputError if that file is gone, or another by now; UsageError if there is none of this size.
        """
        if self.pixels is not None and self.pixels.shape[:2] == self.labels.shape:
            return self.pixels
        if self.source is None:
            raise UsageError("this result was made of a reduced photo, and has none to paint on")
        photo = read_image(self.source)
        if photo.shape[:2] != self.labels.shape:
            raise InputError(f"{self.source}: has changed since it was segmented; segment it again")
        return photo

    def save(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        kind: str = "labels",
        *,
        legend: bool = False,
        polygons: bool = False,
        file_name: str | None = None,
    ) -> None:
        """Write one kind of result, as `deconvseg segment --save` does. A file is whole or not there.

        Args:
            target: a file, replaced if it exists, in a folder that is made if it does not; for `masks` a
                folder; or, but for `masks`, an open binary stream.
            kind: one of `images.kinds.KINDS`; docs/results.md describes them.
            legend: name the colours on an overlay.
            polygons: outlines in a COCO file are polygons, not RLE.
            file_name: what a COCO file calls the photo; None takes the name of its file.

        Raises:
            UsageError: an unknown kind, an address, a name that does not end as its files do, or scores
                without probabilities.
            OutputError: the file cannot be written.
            InputError: as of `photo`, for `overlay` and `cutout`.
        """
        if kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, 1, cutoff=0)[0]
            raise UsageError(f"{kind!r} is no kind of result; did you mean {near!r}?")
        if isinstance(target, str) and is_remote(target):
            raise UsageError(f"{target}: is no file; give an open stream (fsspec.open makes one), or a path")
        path = Path(target) if isinstance(target, str | os.PathLike) else None
        if path:
            refuse_suffix(kind, path)
        elif KINDS[kind].is_folder:
            raise UsageError(f"{kind} are several files, and need a folder")
        if file_name is None:
            file_name = self.source.name if self.source else (path.stem if path else "")
        options = {"legend": legend, "polygons": polygons, "file_name": file_name}
        KINDS[kind].write(self, path or cast(BinaryIO, target), options)

    def _repr_jpeg_(self) -> bytes | None:
        """What a notebook shows: the overlay, made small, with its objects' names and shares."""
        if self.pixels is None:
            return None
        scale = min(SHOWN_SIDE / max(self.labels.shape), 1)
        size = max(round(self.width * scale), 1), max(round(self.height * scale), 1)
        labels = np.array(Image.fromarray(self.labels).resize(size, Image.Resampling.NEAREST))
        pixels = np.array(Image.fromarray(self.pixels).resize(size, Image.Resampling.BOX))
        stream = io.BytesIO()
        small = replace(self, labels=labels, pixels=pixels)
        overlay_image(small, legend="{name} {share:.1%}").save(stream, "JPEG")
        return stream.getvalue()


def chosen(names: Collection[str]) -> list[str]:
    """Names of classes, each once, in order; a string is one name, not its letters."""
    return [names] if isinstance(names, str) else sorted(set(names), key=str)


def refuse_unknown(names: Collection[str], classes: tuple[str, ...]) -> None:
    """Raise a UsageError that tells the nearest name unless all are `classes`, and none the background."""
    for name in names:
        if name not in classes[1:]:
            near = difflib.get_close_matches(str(name).lower(), classes[1:], 1, cutoff=0.5)
            cure = f"did you mean {near[0]}?" if near else f"choose from {', '.join(classes[1:])}"
            raise UsageError(f"{name!r} is no class of this network; {cure}")
