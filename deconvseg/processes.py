"""Worker processes that end with the command that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from deconvseg.errors import WorkerError

Result = TypeVar("Result")


def own_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


@contextmanager
def worker_processes(
    count: int, start: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool for the time of a `with` block; what has not begun by its end is dropped.

    Args:
        count: processes.
        start: called with `arguments` in each of them first.
        arguments: can be pickled.
    """
    pool = _pool(count, start, arguments)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class Crew:
    """Worker processes for the time of a `with` block, each replaced when it dies.

    A call whose worker dies under it (killed, out of memory) is made once more in a fresh one; the others go
    on undisturbed. At the end of the block calls that run are waited for, and those that have not begun
    dropped.

    Args:
        count: processes, started when they are first needed; with 0 calls are made in this process, at once.
    """

    def __init__(self, count: int) -> None:
        # A pool does not tell which call a worker died of, but a pool of one worker and one call does.
        self._minders = ThreadPoolExecutor(count, "worker") if count else None
        self._own = threading.local()
        self._pools: list[ProcessPoolExecutor] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End now: wait for the calls that run, drop those that have not begun."""
        if self._minders:
            self._minders.shutdown(cancel_futures=True)
        for pool in self._pools:
            pool.shutdown()

    def submit(self, call: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Have `call(*arguments)` made; all of it, and the result, can be pickled.

        Its future raises what the call raises, or WorkerError if two workers died.
        """
        if self._minders:
            return self._minders.submit(self._mind, call, arguments)
        future: Future[Result] = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def _mind(self, call: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        for _ in range(2):
            if not hasattr(self._own, "pool"):
                self._own.pool = _pool(1)
                self._pools.append(self._own.pool)
            try:
                result: Result = self._own.pool.submit(call, *arguments).result()
                return result
            except BrokenProcessPool:
                self._pools.remove(self._own.pool)
                del self._own.pool
        raise WorkerError(
            "its worker process was killed, and so was the next one; free some memory, or use fewer --workers"
        )


def _pool(
    count: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process whose thread pools run can hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, _begin, (start, arguments))


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C and the end of the terminal reach all processes; the parent alone answers and ends the workers.
    for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if start:
        start(*arguments)


def _leave_with_parent() -> None:
    """A worker whose parent was killed would work on, and then wait for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
