"""One call for each item, here or in several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from deconvseg.errors import UsageError
from deconvseg.machine import reuse_freed_memory, worker_processes

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def pool(
    call: Callable[[Item], Result], workers: int
) -> Iterator[Callable[[Sequence[Item]], Iterator[Result]]]:
    """A function that gives the results of `call` for many items: as they are done, in no fixed order.

    Args:
        call: can be pickled, if there are several workers.
        workers: processes that share the processor's cores; 1 stays in this process.

    Raises:
        UsageError: `workers` is not positive.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: give a number of at least 1")
    if workers == 1:
        yield lambda items: map(call, items)
        return
    threads = max((os.cpu_count() or 1) // workers, 1)
    with worker_processes(workers, _start, call, threads) as processes:

        def run(items: Sequence[Item]) -> Iterator[Result]:
            for future in as_completed([processes.submit(_work, item) for item in items]):
                yield future.result()

        yield run


_call: Callable[[Any], Any] | None = None


def _start(call: Callable[[Any], Any], threads: int) -> None:
    global _call
    reuse_freed_memory()
    torch.set_num_threads(threads)
    _call = call


def _work(item: Any) -> Any:
    assert _call is not None
    return _call(item)
