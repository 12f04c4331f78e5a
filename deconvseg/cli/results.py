"""One photo from its file to its results, in steps that need not run in one process; and the run's COCO."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from deconvseg.cli.batch import STDOUT, Task
from deconvseg.cli.inputs import STDIN
from deconvseg.cli.manifest import Manifest
from deconvseg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from deconvseg.images.read import PhotoPixels
    from deconvseg.segmentation import Segmentation
    from deconvseg.segmenter import Segmenter

SCORES_BYTES = 6_000_000_000
"""Scores that would need more memory are refused: 6 bytes a class and pixel until they are written."""


@dataclass(frozen=True)
class Style:
    """How results are written: `legend` on overlays, `polygons` for COCO; and what is read, `max_pixels`."""

    legend: bool = False
    polygons: bool = False
    max_pixels: int = 500_000_000

    def settings(self) -> dict[str, object]:
        """What of it changes a result, fit for JSON."""
        return {"legend": self.legend, "polygons": self.polygons}


@dataclass(frozen=True)
class ReadPhoto:
    """A photo, reduced if it is large, and for one from standard input its file's content."""

    pixels: PhotoPixels
    content: bytes | None = None


def read(task: Task, style: Style) -> ReadPhoto:
    """Read a task's photo.

    Raises:
        InputError: it cannot be read.
    """
    from deconvseg.images.read import read_photo

    if task.photo.path != STDIN:
        return ReadPhoto(read_photo(task.photo.path, max_pixels=style.max_pixels))
    content = sys.stdin.buffer.read()
    return ReadPhoto(read_photo(io.BytesIO(content), max_pixels=style.max_pixels), content)


def compute(segmenter: Segmenter, task: Task, photo: ReadPhoto) -> Segmentation:
    """Segment a photo that was read.

    Raises:
        InputError: scores are asked for, and the photo is too large for them.
    """
    pixels = photo.pixels
    scores = "scores" in task.outputs
    needed = 6 * len(segmenter.classes) * pixels.height * pixels.width
    if scores and needed > SCORES_BYTES:
        raise InputError(
            f"{task.photo.path}: scores of {pixels.height * pixels.width / 1e6:,.0f} megapixels would take "
            f"{needed / 1e9:,.0f} GB of memory; make it smaller, or leave out --save scores"
        )
    return segmenter.segment(pixels.image, size=(pixels.height, pixels.width), probabilities=scores)


def write(task: Task, result: Segmentation, photo: ReadPhoto, style: Style) -> dict[str, str]:
    """Write all results of a task; each file is whole or not there.

    Returns:
        Kind of result -> its file, `-` for standard output.

    Raises:
        OutputError: a file cannot be written.
        InputError: the photo is no longer the one that was read.
    """
    from deconvseg.images.write import PAINTED

    image = photo.pixels.image
    if photo.pixels.reduced and any(kind in PAINTED for kind in task.outputs):
        image = _whole(task, result, photo, style)
    outputs = {}
    for kind, path in task.outputs.items():
        _writer(kind, task, style)(result, image, path or sys.stdout.buffer)
        outputs[kind] = str(path or STDOUT)
    return outputs


def _whole(task: Task, result: Segmentation, photo: ReadPhoto, style: Style) -> NDArray[np.uint8]:
    from deconvseg.images.read import read_image

    source = task.photo.path if photo.content is None else io.BytesIO(photo.content)
    image = read_image(source, max_pixels=style.max_pixels)
    if image.shape[:2] != result.labels.shape:
        raise InputError(f"{task.photo.path}: was changed while it was read; run the same again")
    return image


def _writer(
    kind: str, task: Task, style: Style
) -> Callable[[Segmentation, NDArray[np.uint8], Path | BinaryIO], None]:
    from deconvseg.images.write import WRITERS, write_overlay

    if kind == "coco":
        from deconvseg.data.coco import write_coco

        return partial(write_coco, file_name=task.photo.file_name, polygons=style.polygons)
    if kind == "overlay":
        return partial(write_overlay, legend=style.legend)
    return WRITERS[kind]


def write_run_coco(manifest: Manifest, target: Path) -> list[str]:
    """Put the `coco` results of all photos that the manifest says are done into one file, in order of name.

    So it depends on what is done alone: not on stops, on the order of finishing, or on how the photos were
    shared out. If the manifest grows meanwhile, by another process, the file is made again: who ends
    last sees all.

    Returns:
        A line for each result that is left out, and why.

    Raises:
        OutputError: the file cannot be written.
    """
    from deconvseg.data.coco import merge_coco

    while True:
        parts = manifest.files_of("coco")
        problems = merge_coco(parts, target)
        if manifest.files_of("coco") == parts:
            return problems
