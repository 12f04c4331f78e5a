"""Many photos: worker processes read and write, this one runs the network, and memory stays bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from queue import SimpleQueue
from typing import Any, Literal

from deconvseg.batch.jobs import Done, Job, Workshop
from deconvseg.errors import WorkerError
from deconvseg.machine import Crew, available_memory, cores
from deconvseg.regions import Inference
from deconvseg.steps import Prepared

Report = Callable[[Job, Done | Exception], None]
Event = Literal["prepared", "finished"]


WORKER_BYTES = 700 << 20
"""Main memory that a worker may take beside large photos."""


def default_workers() -> int:
    """One for each core that this process may use but one, as many as fit into free memory, at most 32.

    0 on a single core.
    """
    free = available_memory()
    fitting = 32 if free is None else max(free // WORKER_BYTES, 1)
    return min(cores() - 1, fitting, 32)


def run(
    inference: Inference,
    workshop: Workshop,
    jobs: Iterable[Job],
    report: Report,
    *,
    workers: int,
    full_batches: bool = True,
) -> None:
    """Segment photos and write their results.

    A result is the same whatever the number of workers and the other photos are. A worker that dies is
    replaced, and its photo tried once more.

    Args:
        inference, workshop: the network, and what happens around it.
        jobs: taken as they are needed; so many are under way at once that memory does not grow with them.
        report: called in this process with each job and what became of it, or the reason why nothing did, in
            the order of finishing. What it raises ends the run.
        workers: processes besides this one; 0 does all in this one.
        full_batches: fill the last batch of regions up; without, a photo alone is faster, but its result may
            differ in the last bits from that among others.

    Raises:
        KeyboardInterrupt: what is being written then is finished and reported first.
    """
    with Crew(workers) as crew:
        photos = _Run(inference, workshop, iter(jobs), report, crew, limit=2 * workers + 1)
        try:
            photos.work(full_batches)
        except KeyboardInterrupt:
            crew.close()
            photos.report_finished()
            raise


class _Run:
    """The state of a run: photos on their way to the network, in it, and on their way from it."""

    def __init__(
        self,
        inference: Inference,
        workshop: Workshop,
        jobs: Iterator[Job],
        report: Report,
        crew: Crew,
        limit: int,
    ) -> None:
        self._inference, self._workshop, self._jobs, self._crew = inference, workshop, jobs, crew
        self._report, self._fatal = report, False
        self._limit = limit  # of those coming, and of those leaving
        self._coming = self._leaving = 0
        self._ready: deque[tuple[Job, Prepared]] = deque()
        self._inside: deque[Job] = deque()
        # Whether a photo is prepared or finished, and its future; filled from other threads.
        self._events: SimpleQueue[tuple[Event, Job, Future[Any]]] = SimpleQueue()

    def work(self, full_batches: bool) -> None:
        """Do all photos."""
        while not self._through_network(full_batches):
            pass
        while self._leaving:
            self._handle_event()

    def report_finished(self) -> None:
        """Report what was finished since; for the time when nothing runs any more."""
        while not self._events.empty():
            event, job, future = self._events.get()
            if event == "finished" and not future.cancelled():
                self._end(job, _failure(future) or future.result())

    def _through_network(self, full_batches: bool) -> bool:
        """Whether all went well; else those photos in the network have failed, and the others are left."""
        try:
            for prepared, fused in self._inference.fuse(self._enter(), full_batches=full_batches):
                job = self._inside.popleft()
                while self._leaving >= self._limit:
                    self._handle_event()
                self._leaving += 1
                self._submit("finished", job, self._workshop.finish, job, prepared, fused)
        except Exception as error:
            if self._fatal or not self._inside:
                raise
            while self._inside:
                self._end(self._inside.popleft(), error)
            return False
        return True

    def _enter(self) -> Iterator[Prepared]:
        """Photos for the network, as they get ready."""
        while True:
            for job in islice(self._jobs, self._limit - self._coming):
                self._coming += 1
                self._submit("prepared", job, self._workshop.prepare, job)
            if not self._coming:
                return
            if not self._ready:
                self._handle_event()
            while not self._events.empty():
                self._handle_event()
            if self._ready:
                job, prepared = self._ready.popleft()
                self._coming -= 1
                self._inside.append(job)
                yield prepared

    def _submit(self, event: Event, job: Job, call: Callable[..., object], *arguments: object) -> None:
        future = self._crew.submit(call, *arguments)
        future.add_done_callback(lambda future: self._events.put((event, job, future)))

    def _handle_event(self) -> None:
        event, job, future = self._events.get()
        error = _failure(future)
        if event == "finished":
            self._leaving -= 1
            self._end(job, error or future.result())
        elif error:
            self._coming -= 1
            self._end(job, error)
        else:
            self._ready.append((job, future.result()))

    def _end(self, job: Job, result: Done | Exception) -> None:
        if isinstance(result, WorkerError):
            result = WorkerError(f"{job.title}: {result}")
        try:
            self._report(job, result)
        except Exception:
            self._fatal = True
            raise


def _failure(future: Future[Any]) -> Exception | None:
    error = future.exception()
    if error is None or isinstance(error, Exception):
        return error
    raise error  # a worker that exits, which nothing here does
