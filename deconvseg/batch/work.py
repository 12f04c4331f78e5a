"""What is done with each photo of a run, whichever engine does it: prepare, network, finish."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import UsageError
from deconvseg.files import digest
from deconvseg.images.kinds import KINDS
from deconvseg.images.read import MAX_PIXELS, STREAM, read_image, read_photo
from deconvseg.remote import opened, without_query
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


@dataclass(frozen=True)
class Job:
    """A photo, and what is to become of it."""

    number: int
    source: str | bytes  # its file, its address (`remote`), or a file's content
    file_name: str  # what COCO files call it
    outputs: dict[str, Path | BinaryIO]  # by kind, its file, for `masks` its folder; a stream in one process

    @property
    def title(self) -> str:
        """What messages call it."""
        return without_query(self.source) if isinstance(self.source, str) else STREAM


@dataclass(frozen=True)
class Done:
    """What became of a job, as a `Record` has it."""

    height: int
    width: int
    regions: int
    classes: dict[str, float]
    seconds: dict[str, float]  # by step: `read`, `proposals`, `network`, `crf`, `enlarge`, `write`
    digests: dict[str, str]
    notes: list[str]


@dataclass(frozen=True)
class Work:
    """What happens to a photo before and after the network; can be pickled. Errors are results, not raised.

    The segmenter is pickled without its network, which neither step needs. Without `full_batches`, a photo
    alone is faster, but its scores may differ in the last bits from those among others.
    """

    segmenter: Segmenter
    options: Options = Options()
    folder: ResultsFolder | None = None
    full_batches: bool = True

    def prepare(self, job: Job) -> tuple[Job, Prepared | Exception]:
        """Read a photo and find its regions; the InputError or what else went wrong."""
        return job, _tried(self._prepare, job)

    def finish(self, item: tuple[Job, Fused | Exception]) -> tuple[Job, Done | Exception]:
        """Make the photo's Segmentation and write its results, each file whole or not at all."""
        job, fused = item
        return job, fused if isinstance(fused, Exception) else _tried(self._finish, job, *fused)

    def _prepare(self, job: Job) -> Prepared:
        start = time.perf_counter()
        photo = read_photo(opened(job.source), max_pixels=self.options.max_pixels, name=job.title)
        seconds = {"read": time.perf_counter() - start}
        prepared = self.segmenter.prepare(photo)
        return replace(prepared, seconds=seconds | prepared.seconds)

    def _finish(self, job: Job, prepared: Prepared, probabilities: NDArray[np.float32]) -> Done:
        result = self.segmenter.finish(prepared, probabilities, keep_probabilities="scores" in job.outputs)
        start = time.perf_counter()
        is_painted = any(KINDS[kind].paints for kind in job.outputs)
        if is_painted and prepared.photo.image.shape[:2] != result.labels.shape:
            # Read again at its own size: meanwhile it would fill the memory.
            whole = read_image(opened(job.source), max_pixels=self.options.max_pixels, name=job.title)
            result = replace(result, pixels=whole)
        options = vars(self.options) | {"file_name": job.file_name}
        for kind, target in job.outputs.items():
            KINDS[kind].write(result, target, options)
        files = {kind: path for kind, path in job.outputs.items() if isinstance(path, Path)}
        digests = {kind: digest(path) for kind, path in files.items()}
        if self.folder:
            for path in files.values():
                self.folder.send(path)
        return Done(
            height=result.height,
            width=result.width,
            regions=len(result.boxes),
            classes=result.class_shares(),
            seconds={**result.seconds, "write": time.perf_counter() - start},
            digests=digests,
            notes=list(result.notes),
        )


def through_network(
    inference: Inference, photos: Iterable[tuple[Job, Prepared | Exception]], *, full_batches: bool
) -> Iterator[tuple[Job, Fused | Exception]]:
    """Each photo with its probabilities or its error, in order; one that the network fails on costs no other.

    If it raises, the photos that share its batches are tried again, each alone.
    """
    supply = iter(photos)
    inside: deque[tuple[Job, Prepared | Exception]] = deque()

    def entering() -> Iterator[Prepared]:
        """Photos up to the next one that could not be prepared."""
        for job, prepared in supply:
            inside.append((job, prepared))
            if isinstance(prepared, Exception):
                return
            yield prepared

    while True:
        try:
            for fused in inference.fuse(entering(), full_batches=full_batches):
                yield inside.popleft()[0], fused
        except Exception:
            if not inside:
                raise
        if not inside:
            return
        for job, prepared in inside:
            if isinstance(prepared, Exception):
                yield job, prepared
            else:
                yield job, _tried(next, inference.fuse([prepared], full_batches=full_batches))
        inside.clear()


def _tried(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns or raises."""
    try:
        return call(*arguments)
    except Exception as error:
        return error
