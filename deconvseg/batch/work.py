"""What is done with each photo of a run, whichever engine does it: prepare, network, finish."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from deconvseg.batch.inputs import Photo
from deconvseg.batch.plan import STDOUT
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import UsageError
from deconvseg.files import digest
from deconvseg.images.kinds import KINDS
from deconvseg.images.read import MAX_PIXELS, REDUCED_SIDE, PhotoPixels, read_photo
from deconvseg.remote import opened
from deconvseg.settings import refuse_below

if TYPE_CHECKING:  # torch takes its time, and a mistyped name is told at once
    from deconvseg.regions import Fused, Inference, Prepared
    from deconvseg.segmenter import Segmenter


@dataclass(frozen=True)
class Options:
    """What a folder run does besides what its Segmenter says.

    Attributes:
        save: kinds of result (keys of `images.kinds.KINDS`); the first is what a single file is.
        legend: name the colours on overlays.
        polygons: outlines in COCO files are polygons, not RLE.
        max_pixels: larger photos fail unread.
        overwrite: redo photos that are done, and replace files that no earlier run has made.
        workers: threads that read and write photos beside the network, 0 for none; on Ray, networks. None
            chooses.
        shard: `I/N`, to do one of N shares of the photos.
        engine: `local` or `ray`.
        ray_address: HOST:PORT of a cluster, or `auto` for the one this machine is in; None starts Ray here.
        ray_threads: cores of each network on Ray; None shares out all.

    Raises UsageError for a value that is none of these.
    """

    save: Sequence[str] = ("labels",)
    legend: bool = False
    polygons: bool = False
    max_pixels: int = MAX_PIXELS
    overwrite: bool = False
    workers: int | None = None
    shard: str | None = None
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    ray_threads: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.save, str) or not self.save or not KINDS.keys() >= set(self.save):
            raise UsageError(f"save {self.save!r}: give a list of {', '.join(KINDS)}")
        if self.engine not in ("local", "ray"):
            raise UsageError(f"engine {self.engine}: there are local and ray")
        refuse_below(0, workers=self.workers)

    @property
    def shaping(self) -> dict[str, str]:
        """By kind of result, the option that shapes it, besides the Segmenter's settings."""
        return {
            name: option for name, kind in KINDS.items() for option in kind.options if vars(self).get(option)
        }


Done = dict[str, Any]
"""What is known of a photo when it is done: a part of its `Record`."""


@dataclass(frozen=True)
class Work:
    """What happens to a photo before and after the network; can be pickled.

    The segmenter is pickled without its network, which neither step needs. Without `full_batches`, a photo
    alone is faster, but its scores may differ in the last bits from those among others.
    """

    segmenter: Segmenter
    options: Options = Options()
    folder: ResultsFolder | None = None
    full_batches: bool = True

    def prepare(self, photo: Photo) -> Prepared:
        """Read a photo and find its regions; InputError if it cannot be read."""
        start = time.perf_counter()
        pixels = self._read(photo)
        seconds = {"read": time.perf_counter() - start}
        prepared = self.segmenter.prepare(pixels)
        return replace(prepared, seconds=seconds | prepared.seconds)

    def _read(self, photo: Photo, side: int | None = REDUCED_SIDE) -> PhotoPixels:
        source = photo.path if photo.content is None else photo.content
        return read_photo(opened(source), side=side, max_pixels=self.options.max_pixels, name=photo.title)

    def finish(self, photo: Photo, prepared: Prepared, probabilities: NDArray[np.float32]) -> Done:
        """Make the photo's Segmentation and write its results, each file whole or not at all."""
        outputs = photo.outputs
        result = self.segmenter.finish(prepared, probabilities, keep_probabilities="scores" in outputs)
        start = time.perf_counter()
        is_painted = any(KINDS[kind].paints for kind in outputs)
        if is_painted and prepared.photo.image.shape[:2] != result.labels.shape:
            # Read again at its own size: meanwhile it would fill the memory.
            result = replace(result, pixels=self._read(photo, side=None).image)
        options = vars(self.options) | {"file_name": photo.name + Path(photo.shown).suffix}
        for kind, path in outputs.items():
            KINDS[kind].write(result, path or sys.stdout.buffer, options)
        files = {kind: path for kind, path in outputs.items() if path}
        digests = {kind: digest(path) for kind, path in files.items()}
        if self.folder:
            for path in files.values():
                self.folder.send(path)
        named = self.folder.name_of if self.folder else str
        writing = time.perf_counter() - start
        return {
            "status": "done",
            "outputs": {kind: named(path or STDOUT) for kind, path in outputs.items()},
            "digests": digests,
            "options": {kind: option for kind, option in self.options.shaping.items() if kind in outputs},
            "width": result.width,
            "height": result.height,
            "regions": len(result.boxes),
            "classes": {name: round(share, 6) for name, share in result.class_shares().items()},
            "notes": list(result.notes),
            "seconds": round(sum(result.seconds.values()) + writing, 3),
        }


def through_network(
    inference: Inference, photos: Iterable[tuple[Photo, Prepared | Exception]], *, full_batches: bool
) -> Iterator[tuple[Photo, Fused | Exception]]:
    """Each photo with its probabilities or its error, in order; one that the network fails on costs no other.

    If it raises, the photos that share its batches are tried again, each alone. What `photos` raise is raised
    behind the photos before.
    """
    supply = iter(photos)
    inside: deque[tuple[Photo, Prepared | Exception]] = deque()
    fault: Exception | None = None

    def entering() -> Iterator[Prepared]:
        """Photos up to the next one that could not be prepared."""
        nonlocal fault
        try:
            for photo, prepared in supply:
                inside.append((photo, prepared))
                if isinstance(prepared, Exception):
                    return
                yield prepared
        except Exception as error:
            fault = error

    while not fault:
        try:
            for fused in inference.fuse(entering(), full_batches=full_batches):
                yield inside.popleft()[0], fused
        except Exception:
            if not inside:
                raise
        if not inside:
            break
        for photo, prepared in inside:
            if isinstance(prepared, Exception):
                yield photo, prepared
            else:
                yield photo, tried(next, inference.fuse([prepared], full_batches=full_batches))
        inside.clear()
    if fault:
        raise fault


def tried(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns or raises."""
    try:
        return call(*arguments)
    except Exception as error:
        return error
