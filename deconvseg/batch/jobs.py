"""One photo from its file to its results, in two steps with the network in between. No torch; no state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import InputError
from deconvseg.files import digest
from deconvseg.images.kinds import KINDS
from deconvseg.images.read import STREAM, PhotoPixels, read_image, read_photo
from deconvseg.images.write import mask_names
from deconvseg.remote import Mirror, opened
from deconvseg.segmentation import Segmentation
from deconvseg.steps import After, Before, Clock, Prepared

SCORES_BYTES = 6_000_000_000
"""Scores that would need more memory are refused: 6 bytes a class and pixel until they are written."""


@dataclass(frozen=True)
class Job:
    """A photo, and what is to become of it.

    Attributes:
        number: its place in the run, for whoever made the job.
        source: its file, the address of one (`remote`), or a file's content.
        file_name: what COCO files call it.
        outputs: kind of result (of `images.kinds.KINDS`) -> its file, for `masks` its folder. An open
            binary stream only where the job stays in one process.
    """

    number: int
    source: str | bytes
    file_name: str
    outputs: dict[str, Path | BinaryIO]

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.source if isinstance(self.source, str) else STREAM


@dataclass(frozen=True)
class Done:
    """What became of a job.

    Attributes:
        height, width: of the photo as displayed, in pixels.
        regions: of the photo that went through the network; an FCN-8s's is the photo itself.
        classes: name -> share of the pixels (0..1) of every class that occurs, largest first.
        seconds: wall-clock seconds by step: `read`, `proposals`, `network`, `crf`, `enlarge`, `write`.
        digests: kind of result -> `files.digest` of what was written.
    """

    height: int
    width: int
    regions: int
    classes: dict[str, float]
    seconds: dict[str, float]
    digests: dict[str, str]


@dataclass(frozen=True)
class Workshop:
    """What happens to every photo of a run around the network; can be pickled.

    Attributes:
        before, after: of the Segmenter.
        legend: name the colours on overlays.
        polygons: outlines in COCO files are polygons.
        max_pixels: larger photos are refused.
        mirror: of the remote folder that results go to, if they do.
    """

    before: Before
    after: After
    legend: bool = False
    polygons: bool = False
    max_pixels: int = 500_000_000
    mirror: Mirror | None = None

    def options(self) -> dict[str, str]:
        """Kind of result -> what of this shapes it, besides the steps of the Segmenter, which shape all."""
        chosen = {"legend": self.legend, "polygons": self.polygons}
        return {name: option for name, kind in KINDS.items() for option in kind.options if chosen.get(option)}

    def prepare(self, job: Job) -> Prepared:
        """Read a photo and find its regions.

        Raises:
            InputError: it cannot be read, or scores are asked for and it is too large for them.
        """
        clock = Clock()
        photo = read_photo(opened(job.source), max_pixels=self.max_pixels, name=job.title)
        if "scores" in job.outputs:
            self._refuse_large(job, photo)
        clock.lap("read")
        prepared = self.before(photo.image, photo.height, photo.width)
        return replace(prepared, seconds=clock.seconds | prepared.seconds)

    def finish(self, job: Job, prepared: Prepared, fused: NDArray[np.float32]) -> Done:
        """Make the photo's Segmentation and write its results; each file is whole or not there.

        Args:
            job: the photo.
            prepared: as the network gave it back.
            fused: float32 (C, h, w), class probabilities of `prepared.image`.

        Raises:
            OutputError: a file cannot be written.
            InputError: the photo is no longer the one that was read.
        """
        result = self.after(prepared, fused, probabilities="scores" in job.outputs)
        clock = Clock()
        photo = prepared.image
        if any(KINDS[kind].paints for kind in job.outputs) and photo.shape[:2] != result.labels.shape:
            photo = self._whole(job, result)
        result = replace(result, pixels=photo)
        options = {"file_name": job.file_name, "legend": self.legend, "polygons": self.polygons}
        for kind, target in job.outputs.items():
            KINDS[kind].write(result, target, options)
        files = {kind: path for kind, path in job.outputs.items() if isinstance(path, Path)}
        digests = {kind: digest(path) for kind, path in files.items()}
        if self.mirror:
            masks = [f"{name}.png" for name in mask_names(result.classes)]
            for path in files.values():
                self.mirror.send(path, stale=masks)
        clock.lap("write")
        seconds = {**result.seconds, **clock.seconds}
        return Done(result.height, result.width, len(result.boxes), result.class_shares(), seconds, digests)

    def _refuse_large(self, job: Job, photo: PhotoPixels) -> None:
        pixels = photo.height * photo.width
        needed = 6 * len(self.after.classes) * pixels
        if needed > SCORES_BYTES:
            raise InputError(
                f"{job.title}: scores of {pixels / 1e6:,.0f} megapixels would take {needed / 1e9:,.0f} GB of "
                "memory; make it smaller, or leave out --save scores"
            )

    def _whole(self, job: Job, result: Segmentation) -> NDArray[np.uint8]:
        """The photo at its own size, read again: meanwhile it would fill the memory."""
        image = read_image(opened(job.source), max_pixels=self.max_pixels, name=job.title)
        if image.shape[:2] != result.labels.shape:
            raise InputError(f"{job.title}: was changed while it was read; run the same again")
        return image
