"""A run over the photos of a plan: what is skipped, what is done, and what is told of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deconvseg.batch.inputs import STDIN
from deconvseg.batch.manifest import Manifest
from deconvseg.batch.plan import STDOUT, Task
from deconvseg.batch.records import Record, new_record
from deconvseg.cli import console
from deconvseg.errors import InputError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from deconvseg.batch.jobs import Done, Job, Workshop
    from deconvseg.segmenter import Segmenter


@dataclass(frozen=True)
class Cluster:
    """What --engine ray works with: the cluster's address, None to start Ray here, and threads a network."""

    address: str | None
    threads: int | None

    @classmethod
    def of(cls, engine: str, address: str | None, workers: int | None, threads: int | None) -> Cluster | None:
        """None for another engine; UsageError or MissingDependencyError if the options cannot be."""
        if engine != "ray":
            if address is not None:
                raise UsageError("--ray-address is for --engine ray; give both, or none")
            return None
        if workers == 0:
            raise UsageError("--workers 0: --engine ray needs at least one network; give 1 or more")
        if find_spec("ray") is None:
            raise MissingDependencyError(
                '--engine ray needs Ray; install it (pip install "deconvseg[ray]"), or use --engine local'
            )
        return cls(address, threads)


class Run:
    """Segments the photos of a plan, and keeps what became of them.

    Args:
        tasks: the photos and their results.
        manifest: of the results folder, claimed; None without one.
        overwrite: redo what is done.
        quiet: say nothing but errors.

    Attributes:
        records: what became of each photo so far, by place.
        settings, options: of the work, as in a Record; None and none where every photo is missing.
        rate: photos segmented a second.
        network_busy: share of the time (0..1) in which the network was at work; None of a cluster's.
    """

    def __init__(
        self, tasks: Sequence[Task], manifest: Manifest | None, *, overwrite: bool, quiet: bool
    ) -> None:
        self.records: dict[int, Record] = {}
        self.settings: str | None = None
        self.options: dict[str, str] = {}
        self.rate: float | None = None
        self.network_busy: float | None = None
        self._tasks, self._manifest = tasks, manifest
        self._overwrite, self._quiet = overwrite, quiet
        self._begun: dict[int, Record] = {}
        self._segmented, self._network_seconds = 0, 0.0
        self._one_network = True

    def work(
        self,
        segmenter: Segmenter | None,
        workshop: Workshop | None,
        workers: int | None,
        cluster: Cluster | None = None,
    ) -> None:
        """Do all that is not done.

        Args:
            segmenter, workshop: None where every photo is missing.
            workers: processes, or networks of a cluster; None chooses.
            cluster: does the work, if given.

        Raises:
            KeyboardInterrupt: `records` tells what was done until then.
            OutputError: the manifest cannot be written.
            UsageError: the cluster cannot be joined, or is too small.
            WorkerError: the cluster does not do its work.
        """
        self.settings = segmenter.settings_hash() if segmenter else None
        self.options = workshop.options() if workshop else {}
        if self._manifest:
            find_done = self._manifest.find_done
            done = {} if self._overwrite else find_done(self._tasks, self.settings, self.options)
            self._manifest.start(self._tasks, done)
            self._take_over(done)
        skipped = len(self.records)
        with console.Progress(len(self._tasks), done=skipped, wanted=not self._quiet) as self._progress:
            self._start = time.perf_counter()
            jobs = self._jobs()
            if segmenter and workshop:
                count = len(self._tasks) - skipped
                if cluster and count:
                    self._segment_on(cluster, segmenter, workshop, jobs, workers)
                else:
                    self._segment(segmenter, workshop, jobs, count, workers)
            else:
                for job in jobs:
                    self._report(job, InputError(f"{job.title}: no such file; check the path"))
        if self._manifest:
            self._manifest.finish(self._tasks)

    def _take_over(self, done: dict[str, Record]) -> None:
        for place, task in enumerate(self._tasks):
            if task.photo.name in done:
                self.records[place] = done[task.photo.name]

    def _segment(
        self,
        segmenter: Segmenter,
        workshop: Workshop,
        jobs: Iterator[Job],
        count: int,
        workers: int | None,
    ) -> None:
        from deconvseg.batch import pipeline

        if workers is None:
            workers = pipeline.default_workers()
        to_stdout = any(None in task.outputs.values() for task in self._tasks)
        pipeline.run(
            segmenter.inference,
            workshop,
            jobs,
            self._report,
            # One photo goes its way without detours, and standard output is this process's.
            workers=0 if count <= 1 or to_stdout else min(workers, count),
            full_batches=self._is_one_of_many,
        )

    def _segment_on(
        self,
        cluster: Cluster,
        segmenter: Segmenter,
        workshop: Workshop,
        jobs: Iterator[Job],
        workers: int | None,
    ) -> None:
        from deconvseg.batch import ray as engine_ray

        self._one_network = False
        debug = console.debugging()
        # Ray tells of workers that died on standard output, which is for data.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(sys.stderr if debug else nowhere):
            engine_ray.run(
                segmenter.inference,
                workshop,
                jobs,
                self._report,
                workers=workers,
                threads=cluster.threads,
                full_batches=self._is_one_of_many,
                address=cluster.address,
                debug=debug,
            )

    @property
    def _is_one_of_many(self) -> bool:
        return self._manifest is not None or len(self._tasks) > 1

    def _jobs(self) -> Iterator[Job]:
        from deconvseg.batch.jobs import Job

        for place, task in enumerate(self._tasks):
            if place not in self.records:
                # Before it is read: a photo that changes meanwhile is then done again by a later run.
                self._begun[place] = new_record(task.photo, self.settings)
                path = task.photo.path
                yield Job(
                    number=place,
                    source=sys.stdin.buffer.read() if path == STDIN else path,
                    file_name=task.photo.file_name,
                    outputs={kind: target or sys.stdout.buffer for kind, target in task.outputs.items()},
                )

    def _report(self, job: Job, result: Done | Exception) -> None:
        record = self._begun.pop(job.number)
        if isinstance(result, Exception):  # one bad photo must not cost the others
            record["error"] = console.failure(result, about=job.title)
        else:
            outputs = self._tasks[job.number].outputs
            shown = self._manifest.shown if self._manifest else str
            self._fill_in(record, {kind: shown(path or STDOUT) for kind, path in outputs.items()}, result)
        self.records[job.number] = self._manifest.add(record) if self._manifest else record
        if record["status"] == "done" and not self._quiet and not self._progress.visible:
            total = len(self._tasks)
            console.say(f"[{len(self.records)}/{total}] " * (total > 1) + _sentence(record))
        self._progress.step(f"{self.rate:.2f} photos/s" if self.rate else "")

    def _fill_in(self, record: Record, outputs: dict[str, str], done: Done) -> None:
        record["status"] = "done"
        record["outputs"], record["digests"] = outputs, done.digests
        record["options"] = {kind: self.options[kind] for kind in self.options.keys() & outputs}
        record["width"], record["height"] = done.width, done.height
        record["regions"] = done.regions
        record["classes"] = {name: round(share, 6) for name, share in done.classes.items()}
        record["seconds"] = round(sum(done.seconds.values()), 3)
        passed = time.perf_counter() - self._start
        self._segmented += 1
        self._network_seconds += done.seconds["network"]
        self.rate = self._segmented / passed
        if self._one_network:
            self.network_busy = self._network_seconds / passed


def _sentence(record: Record) -> str:
    objects = [f"{name} {share:.1%}" for name, share in record["classes"].items() if name != "background"]
    found = ", ".join(objects[:4]) or "background alone"
    return (
        f"{record['input']} -> {', '.join(record['outputs'].values())}: {found} ({record['seconds']:.1f} s)"
    )
