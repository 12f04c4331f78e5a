"""Folder runs: many photos from files to results, resumable, by threads of this process or on Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from deconvseg.batch.inputs import STDIN
from deconvseg.batch.manifest import Manifest
from deconvseg.batch.plan import STDOUT, make_plan
from deconvseg.batch.ray import NO_RAY, run_on_ray
from deconvseg.batch.records import Record, new_record
from deconvseg.batch.shard import Shard
from deconvseg.batch.work import Done, Job, Options, Work, through_network
from deconvseg.errors import InputError, MissingDependencyError, UsageError, describe
from deconvseg.images.kinds import KINDS
from deconvseg.machine import available_memory, cores, pool

if TYPE_CHECKING:
    from deconvseg.regions import Inference
    from deconvseg.segmenter import Segmenter

Report = Callable[[Job, Done | Exception], None]
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
    if not run.plan.tasks:
        raise InputError(run.problems[0] if run.problems else "no inputs; give a folder of photos")
    run.work(lambda: segmenter or Segmenter())
    return run


class FolderRun:
    """A run over the photos that the inputs stand for, to an output as of `make_plan`.

    Attributes:
        plan: the photos and where their results go.
        total: photos of the plan, or of its shard.
        ended: how many of them are done, skipped or failed.
        records: what became of each so far, in the plan's order.
        problems: a line for each input without photos, and each result that is lacking besides failed photos.
        notes: a line for whatever else there is to know.
        rate: photos segmented a second; None before the first.
        network_busy: share of the time (0..1) in which the network was at work; None of a cluster's.

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
        if options.engine == "ray" and options.workers == 0:
            raise UsageError("Ray needs at least one network; give 1 worker or more")
        if options.engine == "ray" and find_spec("ray") is None:
            raise MissingDependencyError(NO_RAY)
        shard = Shard.parse(options.shard) if options.shard else None
        self.plan = plan = make_plan(inputs, output, options.save)
        if options.engine == "ray" and plan.to_stdout:
            raise UsageError("Ray writes to files alone; name the result's file")
        if shard and not plan.folder:
            raise UsageError("shards are for photos whose results go to one folder; name that")
        self._tasks = [task for task in plan.tasks if not shard or shard.holds(task.photo.name)]
        self.total = len(self._tasks)
        self._options, self._listener = options, listener
        self.manifest = None
        if plan.folder:
            self.manifest = Manifest(plan.folder, shard, with_coco="coco" in options.save)
            if not options.overwrite:
                self.manifest.refuse_foreign(self._tasks)
        self._records: dict[int, Record] = {}
        self.problems, self.notes = plan.problems, plan.notes
        self.rate: float | None = None
        self.network_busy: float | None = None
        self._settings: str | None = None
        self._shaped = {  # kind of result -> the option that shapes it, besides the settings
            name: option
            for name, kind in KINDS.items()
            for option in kind.options
            if vars(options).get(option)
        }
        self._begun: dict[int, Record] = {}
        self._segmented, self._network_seconds, self._start = 0, 0.0, time.perf_counter()

    @property
    def ended(self) -> int:
        """How many photos are done, skipped or failed so far."""
        return len(self._records)

    @property
    def records(self) -> list[Record]:
        """What became of each photo so far, in the plan's order."""
        return [self._records[place] for place in sorted(self._records)]

    def work(self, load: Callable[[], Segmenter]) -> None:
        """Do all that is not done; `load` gives the Segmenter, and is not called if every photo is missing.

        Raises:
            KeyboardInterrupt: `records` tells what was done until then.
            OutputError: the manifest or the file of all `coco` results cannot be written.
            UsageError: another run is at work in the folder, or the cluster cannot be joined or is too small.
            WorkerError: the cluster does not do its work.
        """
        segmenter = None
        if not all(task.photo.missing for task in self._tasks):
            segmenter = load()
            self._settings = segmenter.settings_hash()
        with self.manifest.locked() if self.manifest else nullcontext():
            if self.manifest:
                self._skip_done(self.manifest)
            self._start = time.perf_counter()
            left = [place for place in range(self.total) if place not in self._records]
            if segmenter and left:
                self._segment(segmenter, left)
            else:
                for job in self._jobs(left):
                    self._report(job, InputError(f"{job.title}: no such file; check the path"))
            if self.manifest:
                self.manifest.finish(self._tasks)
                if "coco" in self._options.save and self._settings:
                    problems, notes = self.manifest.write_coco(self._settings, self._shaped.get("coco"))
                    self.problems += problems
                    self.notes += notes

    def _skip_done(self, manifest: Manifest) -> None:
        done = {}
        if not self._options.overwrite:
            done = manifest.find_done(self._tasks, self._settings, self._shaped)
            if manifest.outdated:
                self.notes.append(
                    f"{manifest.outdated} of the photos were done with other settings or by another version: "
                    "they are done again, and what else was saved of them is removed"
                )
        manifest.start(self._tasks, done)
        for place, task in enumerate(self._tasks):
            if task.photo.name in done:
                self._records[place] = manifest.shown(done[task.photo.name])

    def _segment(self, segmenter: Segmenter, left: list[int]) -> None:
        inference = segmenter.inference
        folder = self.manifest.folder if self.manifest else None
        work = Work(segmenter, self._options, folder, full_batches=bool(folder) or self.total > 1)
        if self._options.engine == "ray":
            run_on_ray(inference, work, self._jobs(left), len(left), self._report)
            return
        wanted = default_workers() if self._options.workers is None else self._options.workers
        # One photo goes its way without detours.
        workers = min(wanted, len(left)) if len(left) > 1 else 0
        run_here(inference, work, self._jobs(left), self._report, workers=workers)

    def _jobs(self, places: Sequence[int]) -> Iterator[Job]:
        for place in places:
            photo, outputs = self._tasks[place].photo, self._tasks[place].outputs
            # Before it is read: a photo that changes meanwhile is then done again by a later run.
            self._begun[place] = new_record(photo, self._settings)
            yield Job(
                number=place,
                source=sys.stdin.buffer.read() if photo.path == STDIN else photo.path,
                file_name=photo.name + Path(photo.shown).suffix,
                outputs={kind: target or sys.stdout.buffer for kind, target in outputs.items()},
            )

    def _report(self, job: Job, result: Done | Exception) -> None:
        record, error = self._begun.pop(job.number), None
        if isinstance(result, Exception):
            error, record["error"] = result, describe(result, job.title)
        else:
            self._fill_in(record, job, result)
        if self.manifest:
            record = self.manifest.shown(self.manifest.add(record))
        self._records[job.number] = record
        if self._listener:
            self._listener(record, error)

    def _fill_in(self, record: Record, job: Job, done: Done) -> None:
        outputs = self._tasks[job.number].outputs
        named = self.manifest.folder.name_of if self.manifest else str
        record |= {
            "status": "done",
            "outputs": {kind: named(path or STDOUT) for kind, path in outputs.items()},
            "digests": done.digests,
            "options": {kind: self._shaped[kind] for kind in self._shaped.keys() & outputs},
            "width": done.width,
            "height": done.height,
            "regions": done.regions,
            "classes": {name: round(share, 6) for name, share in done.classes.items()},
            "notes": done.notes,
            "seconds": round(sum(done.seconds.values()), 3),
        }
        passed = time.perf_counter() - self._start
        self._segmented += 1
        self._network_seconds += done.seconds["network"]
        self.rate = self._segmented / passed
        if self._options.engine == "local":
            self.network_busy = self._network_seconds / passed


def run_here(inference: Inference, work: Work, jobs: Iterable[Job], report: Report, *, workers: int) -> None:
    """Segment photos and write their results: worker threads prepare and finish, this one runs the network.

    Jobs are taken as they are needed. `report` is called in this thread as they end, and what it raises ends
    the run. At a KeyboardInterrupt, what is being written is finished and reported first.
    """
    ended: SimpleQueue[tuple[Job, Done | Exception]] = SimpleQueue()

    def report_ended() -> None:
        while not ended.empty():
            report(*ended.get())

    try:
        with pool(workers) as call_each:
            prepared = call_each(work.prepare, jobs)
            fused = through_network(inference, prepared, full_batches=work.full_batches)
            for _ in call_each(lambda item: ended.put(work.finish(item)), fused):
                report_ended()
    except KeyboardInterrupt:
        report_ended()
        raise


def default_workers() -> int:
    """One for each core that this process may use, as many as fit into free memory, at most 16."""
    free = available_memory()
    return min(cores(), 16 if free is None else max(free // WORKER_BYTES, 1), 16)
