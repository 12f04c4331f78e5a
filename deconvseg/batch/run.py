"""Folder runs: many photos from files to results, resumable, by threads of this process or on Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike, fspath
from queue import SimpleQueue
from typing import TYPE_CHECKING

from deconvseg.batch.inputs import STDIN, Photo, Shard
from deconvseg.batch.manifest import Manifest, Record, as_record, new_record
from deconvseg.batch.plan import make_plan
from deconvseg.batch.ray import run_on_ray
from deconvseg.batch.work import Done, Options, Work, through_network, tried
from deconvseg.errors import InputError, UsageError, describe
from deconvseg.machine import available_memory, cores, pool

if TYPE_CHECKING:
    from deconvseg.regions import Fused, Inference
    from deconvseg.segmenter import Segmenter

Report = Callable[[Photo, Done | Exception], None]
Listener = Callable[[Record, Exception | None], None]

WORKER_BYTES = 500 << 20
"""Main memory that a worker may take for photos on their way: 300 to 450 MB at 1024 x 768 pixels."""


def segment_folder(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    segmenter: Segmenter | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
    listener: Listener | None = None,
) -> FolderRun:
    """Segment photos into a folder of results, as `deconvseg segment` does.

    What an earlier run has done with the same settings is skipped; photos that fail cost no others. The
    folder's `segment.jsonl` has a line a photo.

    Args:
        inputs: one or several folders, photos, globs, lists (`@list.txt`) or addresses.
        output: the folder, made if need be; a path or an address.
        segmenter: None is one with default settings.
        options: see there.
        listener: called in the calling thread with the record of each photo that was done or failed, in the
            order of finishing, and the error of a failed one. What it raises ends the run.

    Returns:
        The run, with what became of each photo in `records`.

    Raises:
        UsageError: inputs, output and options do not go together; a result would replace a file that is none
            of ours; another run is at work in the folder.
        OutputError: the folder or its manifest cannot be written.
        InputError: no input stands for a photo.
        WeightsError: the network cannot be loaded.
    """
    from deconvseg.segmenter import Segmenter

    several = [inputs] if isinstance(inputs, str | PathLike) else inputs
    run = FolderRun([fspath(one) for one in several], f"{fspath(output)}/", options, listener)
    if not run.plan.photos:
        raise InputError(run.problems[0] if run.problems else "no inputs; give a folder of photos")
    run.work(lambda: segmenter or Segmenter())
    return run


class FolderRun:
    """A run over the photos that the inputs stand for, to an output as of `make_plan`.

    Attributes:
        plan: the photos and where their results go.
        total: photos of the plan, or of its shard.
        problems: a line for each input without photos, and each result that is lacking besides failed photos.
        notes: a line for whatever else there is to know.
        rate: photos segmented a second; None before the first.

    Raises:
        UsageError: inputs, output and options that do not go together, or a result that would replace a file
            of others.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        output: str | None,
        options: Options = Options(),  # noqa: B008 (frozen)
        listener: Listener | None = None,
    ) -> None:
        shard = Shard.parse(options.shard) if options.shard else None
        self.plan = plan = make_plan(inputs, output, options.save)
        if options.engine == "ray" and plan.to_stdout:
            raise UsageError("Ray writes to files alone; name the result's file")
        if shard and not plan.folder:
            raise UsageError("shards are for photos whose results go to one folder; name that")
        self._photos = [photo for photo in plan.photos if not shard or shard.holds(photo.name)]
        self.total = len(self._photos)
        self._options, self._listener = options, listener
        self.manifest = None
        if plan.folder:
            self.manifest = Manifest(plan.folder, shard)
            if not options.overwrite:
                self.manifest.refuse_foreign(self._photos)
        self._records: dict[str, Record] = {}  # by path
        self.problems, self.notes = plan.problems, plan.notes
        self.rate: float | None = None
        self._settings: str | None = None
        self._begun: dict[str, Record] = {}
        self._segmented, self._start = 0, time.perf_counter()

    @property
    def ended(self) -> int:
        """How many photos are done, skipped or failed so far."""
        return len(self._records)

    @property
    def records(self) -> list[Record]:
        """What became of each photo so far, in the plan's order."""
        return [self._records[photo.path] for photo in self._photos if photo.path in self._records]

    def work(self, load: Callable[[], Segmenter]) -> None:
        """Do all that is not done; `load` gives the Segmenter, and is not called if every photo is missing.

        Raises:
            KeyboardInterrupt: `records` tells what was done until then.
            OutputError: the manifest or the file of all `coco` results cannot be written.
            UsageError: another run is at work in the folder, or the cluster cannot be joined or is too small.
            MissingDependencyError: Ray is asked for and is not installed.
            WorkerError: the cluster does not do its work.
        """
        segmenter = None
        if not all(photo.missing for photo in self._photos):
            segmenter = load()
            self._settings = segmenter.settings_hash()
        with self.manifest.locked() if self.manifest else nullcontext():
            if self.manifest:
                self._skip_done(self.manifest)
            self._start = time.perf_counter()
            left = [photo for photo in self._photos if photo.path not in self._records]
            if segmenter and left:
                self._segment(segmenter, left)
            else:
                for photo in self._begin(left):
                    self._report(photo, InputError(f"{photo.title}: no such file; check the path"))
            if self.manifest:
                self.manifest.finish(self._photos)
                if "coco" in self._options.save and self._settings:
                    problems, notes = self.manifest.write_coco(self._settings, self._options.shaping)
                    self.problems += problems
                    self.notes += notes

    def _skip_done(self, manifest: Manifest) -> None:
        done = {}
        if not self._options.overwrite:
            done = manifest.find_done(self._photos, self._settings, self._options.shaping)
            if manifest.redone:
                self.notes.append(
                    f"photos done again: {manifest.redone}, as settings, this version or their results have "
                    "changed; where settings have, other kinds of result are removed"
                )
        manifest.start(self._photos, done)
        for photo in self._photos:
            if photo.name in done:
                self._records[photo.path] = manifest.shown(done[photo.name])

    def _segment(self, segmenter: Segmenter, left: list[Photo]) -> None:
        inference = segmenter.inference
        folder = self.manifest.folder if self.manifest else None
        work = Work(segmenter, self._options, folder, full_batches=bool(folder) or self.total > 1)
        if self._options.engine == "ray":
            run_on_ray(inference, work, self._begin(left), len(left), self._report)
            return
        wanted = default_workers() if self._options.workers is None else self._options.workers
        # One photo goes its way without detours.
        workers = min(wanted, len(left)) if len(left) > 1 else 0
        run_here(inference, work, self._begin(left), self._report, workers=workers)

    def _begin(self, photos: Iterable[Photo]) -> Iterator[Photo]:
        for photo in photos:
            # Before it is read: a photo that changes meanwhile is then done again by a later run.
            self._begun[photo.path] = new_record(photo, self._settings)
            yield replace(photo, content=sys.stdin.buffer.read()) if photo.path == STDIN else photo

    def _report(self, photo: Photo, result: Done | Exception) -> None:
        record, error = self._begun.pop(photo.path), None
        if isinstance(result, Exception):
            error, record["error"] = result, describe(result, photo.title)
        else:
            record = as_record({**record, **result})
            self._segmented += 1
            self.rate = self._segmented / (time.perf_counter() - self._start)
        if self.manifest:
            record = self.manifest.shown(self.manifest.add(record))
        self._records[photo.path] = record
        if self._listener:
            self._listener(record, error)


def run_here(
    inference: Inference, work: Work, photos: Iterable[Photo], report: Report, *, workers: int
) -> None:
    """Segment photos and write their results: worker threads prepare and finish, this one runs the network.

    They are taken as they are needed. `report` is called in this thread as they end, and what it raises ends
    the run. At a KeyboardInterrupt, what is being written is finished and reported first.
    """
    ended: SimpleQueue[tuple[Photo, Done | Exception]] = SimpleQueue()

    def finish(item: tuple[Photo, Fused | Exception]) -> None:
        photo, fused = item
        ended.put((photo, fused if isinstance(fused, Exception) else tried(work.finish, photo, *fused)))

    def report_ended() -> None:
        while not ended.empty():
            report(*ended.get())

    try:
        with pool(workers) as call_each:
            prepared = call_each(lambda photo: (photo, tried(work.prepare, photo)), photos)
            fused = through_network(inference, prepared, full_batches=work.full_batches)
            for _ in call_each(finish, fused):
                report_ended()
    except KeyboardInterrupt:
        report_ended()
        raise


def default_workers() -> int:
    """One for each core that this process may use, as many as fit into free memory, at most 16."""
    free = available_memory()
    return min(cores(), 16 if free is None else max(free // WORKER_BYTES, 1), 16)
