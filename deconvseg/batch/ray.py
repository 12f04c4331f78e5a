"""The engine on Ray: each of its actors does some photos at a time, as the local engine does."""

from __future__ import annotations

import logging
import os
import pickle
import platform
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from deconvseg.batch.inputs import Photo
from deconvseg.batch.work import Work
from deconvseg.errors import MissingDependencyError, UsageError, WorkerError
from deconvseg.machine import cores
from deconvseg.remote import is_remote

if TYPE_CHECKING:
    from deconvseg.batch.run import Report
    from deconvseg.regions import Inference

_MOST = 32  # photos that a network is given at once
_KILLED = "its worker process was killed, and so was the next one; free some memory, or use fewer workers"


def run_on_ray(inference: Inference, work: Work, photos: Iterable[Photo], count: int, report: Report) -> None:
    """Segment `count` photos and write their results, as `run.run_here` does, which gives the same files.

    A network that dies is replaced, and its photos are tried once more. They are taken as they are needed.
    """
    options, on_gpu = work.options, inference.device.type == "cuda"
    least = (options.workers or 1) * (options.ray_threads or 1)
    # Ray tells of processes that died on standard output, which is for data.
    with redirect_stdout(StringIO()), joined(options.ray_address, least) as ray:
        networks, threads = _share_out(ray, on_gpu, options.workers, options.ray_threads)
        actor = ray.remote(num_cpus=threads, num_gpus=int(on_gpu))(_Network)
        # One copy a machine, in its object store: no machine needs the network's file.
        start = partial(actor.remote, ray.put((inference, work)), threads, str(Path.cwd()))
        try:
            for photo, result in _results(ray, start, networks, iter(photos), count):
                report(photo, result)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise WorkerError(
                f"Ray cannot go on ({reason}); look whether all its machines have deconvseg"
            ) from error


def _results(
    ray: Any, start: Callable[[], Any], networks: int, supply: Iterator[Photo], left: int
) -> Iterator[tuple[Photo, Any]]:
    """Give each network some photos at a time, fewer towards the end; each one alone after a death."""
    suspects: deque[Photo] = deque()
    tried: set[str] = set()
    running: dict[Any, tuple[Any, list[Photo]]] = {}  # by what stands for the results

    def give(network: Any, photos: list[Photo]) -> None:
        running[network.segment.remote(photos)] = network, photos

    for _ in range(networks):
        give(start(), [])  # nothing, lest photos wait for a network that finds no place
    while left:
        [ended], _ = ray.wait([*running])
        network, photos = running.pop(ended)
        try:
            results = ray.get(ended)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
            if not photos:
                raise
            lost = [photo for photo in photos if photo.path in tried]
            results = [(photo, WorkerError(f"{photo.title}: {_KILLED}")) for photo in lost]
            suspects += [photo for photo in photos if photo.path not in tried]
            tried.update(photo.path for photo in photos)
            give(start(), [])
        else:
            some = min(_MOST, -(-left // (4 * networks)))
            if photos := [suspects.popleft()] if suspects else list(islice(supply, some)):
                give(network, photos)
        left -= len(results)
        yield from results


class _Network:
    """The local engine on any machine; relative paths start at the `folder`."""

    def __init__(self, engine: tuple[Inference, Work], threads: int, folder: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self._engine, self._threads, self._folder = engine, threads, folder

    def segment(self, photos: list[Photo]) -> list[tuple[Photo, Any]]:
        from deconvseg.batch.run import default_workers, run_here

        places = [str(place) for photo in photos for place in (photo.path, *photo.outputs.values())]
        if not all(is_remote(place) or Path(place).is_absolute() for place in places):
            try:
                os.chdir(self._folder)
            except OSError as error:
                cure = "put photos and results where all machines see them"
                raise WorkerError(f"{self._folder} is not on {platform.node()}; {cure}") from error
        results: list[tuple[Photo, Any]] = []
        workers = min(self._threads, default_workers())
        run_here(*self._engine, photos, lambda *result: results.append(result), workers=workers)
        return [(photo, _picklable(result)) for photo, result in results]


def _picklable(result: object) -> object:
    try:
        pickle.loads(pickle.dumps(result))
    except Exception:  # an error with a constructor of its own may not unpickle
        return RuntimeError(f"{type(result).__name__}: {result}")
    return result


@contextmanager
def joined(address: str | None, least: int) -> Iterator[Any]:
    """The module `ray`, joined or started for the time of the block; as it is if this process has it already.

    A Ray started here offers `least` cores or more, is reached from this machine alone, sends nothing, says
    nothing, and leaves no file.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the local engine's threads
    if not address:  # despite its name on all systems: not offered to the network
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            'Ray is not installed; install it (pip install "deconvseg[ray]"), or use the local engine'
        ) from error
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    # The paths of its sockets would be too long in the folders for temporary files that some systems have.
    root = "/tmp" if os.name == "posix" else None
    with TemporaryDirectory(prefix="ray-", dir=root, ignore_cleanup_errors=True) as folder:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL + 1}
        if not address:
            cpus = max(cores(), least)
            settings |= {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": folder}
        try:
            if address and ":" in address:  # Ray itself would wait for minutes, and then end this process
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            with chdir(folder):  # an empty one, as Ray's workers import from the one where it starts or joins
                ray.init(address or "local", **settings)
        except Exception as error:  # of many kinds, as the versions of Ray and Python must be the same there
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"{address or 'Ray'}: cannot be joined ({reason}); give HOST:PORT or auto, or leave it out"
            ) from error
        finally:  # Ray's own handler would end the process at once
            if callable(before) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
        try:
            yield ray
        finally:
            ray.shutdown()


def _share_out(ray: Any, on_gpu: bool, workers: int | None, threads: int | None) -> tuple[int, int]:
    """How many networks, and how many cores of one machine each has."""
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [(int(offer.get("CPU", 0)), int(offer.get("GPU", 0))) for offer in offers]

    def places(threads: int) -> int:
        return sum(min(cpus // threads, gpus if on_gpu else cpus) for cpus, gpus in machines)

    networks = workers or sum(gpus if on_gpu else cpus > 0 for cpus, gpus in machines) or 1
    most = max(cpus for cpus, _ in machines)
    threads = threads or next((some for some in range(most, 0, -1) if places(some) >= networks), 1)
    if places(threads) < networks:
        cpus, gpus = map(sum, zip(*machines, strict=True))
        one = f"{threads} cores and a GPU" if on_gpu else f"{threads} cores"
        raise UsageError(
            f"Ray has {cpus} cores and {gpus} GPUs, too few for {networks} times a network with {one}; "
            "use fewer workers or threads"
        )
    return networks, threads
