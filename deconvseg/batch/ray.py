"""Many photos on Ray Data: tasks read and write, actors hold a network each, dead workers are replaced."""

from __future__ import annotations

import os
import pickle
import platform
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconvseg.batch.jobs import Done, Job, Workshop
from deconvseg.batch.ray_cluster import joined, share_out
from deconvseg.errors import InputError, WorkerError
from deconvseg.remote import is_remote
from deconvseg.steps import Prepared

if TYPE_CHECKING:  # the processes that read and write do without torch
    from deconvseg.regions import Inference

# Photos a dataset: Ray knows of all of them at once, and each dataset starts its networks anew.
_DATASET = 10_000
_TRIES = 2

Row = dict[str, bytes]
Batch = dict[str, Any]


def run(
    inference: Inference,
    workshop: Workshop,
    jobs: Iterable[Job],
    report: Callable[[Job, Done | Exception], None],
    *,
    workers: int | None = None,
    threads: int | None = None,
    full_batches: bool = True,
    address: str | None = None,
    debug: bool = False,
) -> None:
    """Segment photos and write their results, as `pipeline.run` does, which gives the same files.

    A worker that dies is replaced, and its photo tried once more.

    Args:
        inference: shipped to the actors; it needs its device there.
        workshop: what happens around it; its forest lies at the same place on each machine.
        jobs: taken as they are needed, thousands at a time. Their relative paths are those of this process;
            they mean the same files on each machine.
        report: called in this process with each job and what became of it, in the order of finishing. What it
            raises ends the run.
        workers: networks, an actor each; None is one a GPU, or on CPUs one a machine.
        threads: of a network on the CPU; None leaves a quarter of the cores to reading and writing.
        full_batches: fill the last batch of regions up.
        address: HOST:PORT of a cluster, or `auto` for the one this machine is in; None starts Ray here, for
            this run, unless this process has joined or started one.
        debug: show what Ray says.

    Raises:
        MissingDependencyError: no Ray.
        UsageError: the cluster cannot be joined, or is too small.
        WorkerError: the cluster does not do its work.
    """
    with joined(address, (workers or 1) * (threads or 1) + 1, debug) as ray:
        networks, cores = share_out(ray, inference.device.type, workers, threads)
        pool = _Pool(ray, inference, workshop, networks, cores, full_batches)
        jobs = iter(jobs)
        while some := list(islice(jobs, _DATASET)):
            for job, result in pool.results(some):
                if isinstance(result, WorkerError):
                    result = WorkerError(f"{job.title}: {result}")
                report(job, result)


class _Pool:
    """What each dataset of a run is made with."""

    def __init__(
        self,
        ray: Any,
        inference: Inference,
        workshop: Workshop,
        networks: int,
        cores: int,
        full_batches: bool,
    ) -> None:
        self._ray, self._workshop, self._networks, self._cores = ray, workshop, networks, cores
        # One copy a machine, in its object store: no machine needs the network's file.
        self._network = ray.put(inference), cores, full_batches
        self._gpus = int(inference.device.type == "cuda")
        self._batch_size = inference.batch_size

    def results(self, jobs: list[Job]) -> Iterator[tuple[Job, Done | Exception]]:
        """Each job and what became of it, in the order of finishing."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        # Beside this process: it must not leave with another machine.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        watch = ray.remote(num_cpus=0, scheduling_strategy=here)(_Watch).remote()
        crew = _Crew(self._workshop, watch, os.getcwd())  # noqa: PTH109 (pickled for all systems)
        # As many photos as there are regions in a batch fill whole batches, however many regions each has.
        together = min(-(-len(jobs) // (2 * self._networks)), self._batch_size)
        photos = ray.data.from_items([_row(job, None) for job in jobs], override_num_blocks=len(jobs))
        photos.context.enable_progress_bars = photos.context.print_on_execution_start = False
        photos.context.target_max_block_size = 1  # a photo a block: it can be 90 MB behind the network
        rows = (
            # flat_map, as Ray Data would move a map that gives a row for a row into the network's actor.
            photos.flat_map(crew.prepare)
            .map_batches(
                _Network,
                fn_constructor_args=(watch, *self._network),
                batch_size=together,
                batch_format="numpy",
                concurrency=self._networks,
                num_cpus=self._cores,
                num_gpus=self._gpus,
            )
            .map(crew.finish)
        )
        try:
            for row in rows.iter_rows():
                yield _content(row)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise WorkerError(
                f"Ray cannot go on ({reason}); look whether all its machines have deconvseg"
            ) from error


class _Watch:
    """Knows of each photo at each step how often it was begun and not ended: so often it killed its worker.

    Ray Data itself would try it for ever.
    """

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def begin(self, work: str) -> int:
        self._open[work] += 1
        return self._open[work]

    def end(self, work: str) -> None:
        del self._open[work]


class _Crew:
    """What tasks do."""

    def __init__(self, workshop: Workshop, watch: Any, folder: str) -> None:
        self._workshop, self._watch, self._folder = workshop, watch, folder

    def prepare(self, row: Row) -> list[Row]:
        job, _ = _content(row)
        return [_row(job, self._try("prepare", self._workshop.prepare, job))]

    def finish(self, row: Row) -> Row:
        job, fused = _content(row)
        if isinstance(fused, Exception):
            return row
        return _row(job, self._try("finish", self._workshop.finish, job, *fused))

    def _try(self, step: str, call: Callable[..., object], job: Job, *arguments: object) -> object:
        with _watched(self._watch, _TRIES, step, job) as is_safe:
            if not is_safe:
                return _killed()
            try:
                self._enter_folder(job)
                return call(job, *arguments)
            except Exception as error:
                return _portable(error)

    def _enter_folder(self, job: Job) -> None:
        places = map(str, (job.source, *job.outputs.values()))
        if all(is_remote(place) or Path(place).is_absolute() for place in places):
            return
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise InputError(
                f"{job.title}: {self._folder} is not on {platform.node()}; put photos and results where all "
                "machines see them"
            ) from error


class _Network:
    """What an actor does."""

    def __init__(self, watch: Any, inference: Any, threads: int, full_batches: bool) -> None:
        import ray
        import torch

        torch.set_num_threads(threads)
        self._watch, self._full_batches = watch, full_batches
        self._inference: Inference = ray.get(inference)

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        photos = [pickle.loads(photo) for photo in batch["photo"]]
        failed = [(job, prepared) for job, prepared in photos if isinstance(prepared, Exception)]
        ready = [(job, prepared) for job, prepared in photos if not isinstance(prepared, Exception)]
        for job, result in chain(failed, self._fuse(ready)):
            yield {"photo": [_row(job, result)["photo"]]}

    def _fuse(self, photos: list[tuple[Job, Prepared]]) -> Iterator[tuple[Job, object]]:
        """Photos that fail together, or kill a worker together, are tried each alone."""
        alone, done = len(photos) == 1, 0
        tries = _TRIES if alone else 1
        with _watched(self._watch, tries, "network", *(job for job, _ in photos)) as is_safe:
            if is_safe:
                try:
                    prepared = [prepared for _, prepared in photos]
                    for fused in self._inference.fuse(prepared, full_batches=self._full_batches):
                        yield photos[done][0], fused
                        done += 1
                except Exception as error:
                    if alone:
                        yield photos[0][0], _portable(error)
            elif alone:
                yield photos[0][0], _killed()
        if not alone:
            for photo in photos[done:]:
                yield from self._fuse([photo])


@contextmanager
def _watched(watch: Any, tries: int, step: str, *jobs: Job) -> Iterator[bool]:
    """Whether this work may be done in the block: it has not killed so many workers."""
    import ray

    work = f"{step} {[job.number for job in jobs]}"
    is_safe = ray.get(watch.begin.remote(work)) <= tries
    try:
        yield is_safe
    finally:
        if is_safe:  # awaited, as what comes next may kill this process
            ray.get(watch.end.remote(work))


def _killed() -> WorkerError:
    return WorkerError(
        "its worker process was killed, and so was the next one; free some memory, or use fewer --workers"
    )


def _portable(error: Exception) -> Exception:
    """The error, fit to be sent; for --debug it says where it was raised, which is not sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(traceback.format_exc())
    return error


def _row(job: Job, value: object) -> Row:
    return {"photo": pickle.dumps((job, value), protocol=5)}


def _content(row: Row) -> tuple[Job, Any]:
    job, value = pickle.loads(row["photo"])
    return job, value
