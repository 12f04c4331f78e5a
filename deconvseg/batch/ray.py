"""The engine on Ray: tasks prepare and finish photos, actors hold a network each."""

from __future__ import annotations

import logging
import os
import pickle
import platform
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stdout
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from deconvseg.batch.work import Job, Work, through_network
from deconvseg.errors import InputError, MissingDependencyError, UsageError, WorkerError
from deconvseg.machine import cores as own_cores
from deconvseg.remote import is_remote

if TYPE_CHECKING:
    from deconvseg.batch.run import Report
    from deconvseg.regions import Inference, Prepared

# Photos a dataset: Ray knows of all of them at once, and each dataset starts its networks anew.
_DATASET = 10_000
_TRIES = 2
_PATIENCE = 10.0
NO_RAY = 'Ray is not installed; install it (pip install "deconvseg[ray]"), or use the local engine'

Row = dict[str, bytes]
Batch = dict[str, Any]


def run_on_ray(inference: Inference, work: Work, jobs: Iterable[Job], report: Report) -> None:
    """Segment photos and write their results, as `run.run_here` does, which gives the same files.

    A worker that dies is replaced, and its photo tried once more. Jobs are taken thousands at a time.
    """
    options = work.options
    workers, threads = options.workers, options.ray_threads
    with ExitStack() as stack:
        # Ray tells of workers that died on standard output, which is for data.
        nowhere = sys.stderr if options.ray_talks else stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(redirect_stdout(nowhere))
        least = (workers or 1) * (threads or 1) + 1
        ray = stack.enter_context(joined(options.ray_address, least, options.ray_talks))
        networks, cores = _share_out(ray, inference.device.type, workers, threads)
        # Beside this process: it must not leave with another machine.
        node = ray.get_runtime_context().get_node_id()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        watch = ray.remote(num_cpus=0, scheduling_strategy=here)(_Watch).remote()
        step = partial(_step, work, watch, os.getcwd())  # noqa: PTH109 (pickled for all systems)
        # One copy a machine, in its object store: no machine needs the network's file.
        network = watch, ray.put(inference), cores, work.full_batches
        jobs = iter(jobs)
        while some := list(islice(jobs, _DATASET)):
            photos = ray.data.from_items([_row(job, None) for job in some], override_num_blocks=len(some))
            photos.context.enable_progress_bars = photos.context.print_on_execution_start = False
            photos.context.target_max_block_size = 1  # a photo a block: it can be 90 MB behind the network
            # flat_map, as Ray Data would move a map that gives a row for a row into the network's actor.
            prepared = photos.flat_map(lambda row: [step("prepare", row)])
            fused = prepared.map_batches(
                _Network,
                fn_constructor_args=network,
                # As many photos as there are regions in a batch fill whole batches, however many each has.
                batch_size=min(-(-len(some) // (2 * networks)), inference.batch_size),
                batch_format="numpy",
                concurrency=networks,
                num_cpus=cores,
                num_gpus=int(inference.device.type == "cuda"),
            )
            try:
                for row in fused.map(lambda row: step("finish", row)).iter_rows():
                    report(*_content(row))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().rpartition("\n")[2]
                raise WorkerError(
                    f"Ray cannot go on ({reason}); look whether all its machines have deconvseg"
                ) from error


class _Watch:
    """Knows how often each piece of work was begun and not ended: so often it killed its worker."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def begin(self, work: str) -> int:
        self._open[work] += 1
        return self._open[work]

    def end(self, work: str) -> None:
        del self._open[work]


def _killed(job: Job) -> WorkerError:
    cure = "free some memory, or use fewer workers"
    return WorkerError(f"{job.title}: its worker process was killed, and so was the next one; {cure}")


def _step(work: Work, watch: Any, folder: str, step: str, row: Row) -> Row:
    """Prepare or finish a photo on any machine; relative paths start at the `folder`."""
    job, fused = _content(row)
    with _watched(watch, _TRIES, step, job) as is_safe:
        if not is_safe:
            return _row(job, _killed(job))
        places = map(str, (job.source, *job.outputs.values()))
        if not all(is_remote(place) or Path(place).is_absolute() for place in places):
            try:
                os.chdir(folder)
            except OSError:
                cause = f"{folder} is not on {platform.node()}"
                cure = "put photos and results where all machines see them"
                return _row(job, InputError(f"{job.title}: {cause}; {cure}"))
        return _row(*(work.prepare(job) if step == "prepare" else work.finish((job, fused))))


class _Network:
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
        """Photos that kill a worker together are tried each alone."""
        alone = len(photos) == 1
        with _watched(self._watch, _TRIES if alone else 1, "network", *(job for job, _ in photos)) as is_safe:
            if is_safe:
                yield from through_network(self._inference, photos, full_batches=self._full_batches)
            elif alone:
                yield photos[0][0], _killed(photos[0][0])
            else:
                for photo in photos:
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


def _row(job: Job, value: object) -> Row:
    if isinstance(value, Exception):
        try:
            pickle.loads(pickle.dumps(value))
        except Exception:  # one with a constructor of its own may not unpickle
            value = RuntimeError(f"{type(value).__name__}: {value}")
    return {"photo": pickle.dumps((job, value), protocol=5)}


def _content(row: Row) -> tuple[Job, Any]:
    job, value = pickle.loads(row["photo"])
    return job, value


@contextmanager
def joined(address: str | None, cores: int, debug: bool = False) -> Iterator[Any]:
    """The module `ray`, joined or started for the time of the block; as it is if this process has it already.

    A Ray started here offers so many `cores` at least, is reached from this machine alone, sends nothing, and
    leaves no file. With `debug` it says what it does.
    """
    settings = {  # Ray reads them when it is imported or started
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # as the local engine's workers
        **({} if debug else {"RAY_BACKEND_LOG_LEVEL": "fatal"}),
        # Despite its name on all systems: not offered to the network.
        **({} if address else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(NO_RAY) from error
    level = logging.INFO if debug else logging.CRITICAL + 1
    logging.getLogger("ray.data").setLevel(level)
    if ray.is_initialized():
        yield ray
        return
    says: dict[str, Any] = {"log_to_driver": debug, "logging_level": level}
    # The paths of its sockets would be too long in the folders for temporary files that some systems have.
    root = "/tmp" if os.name == "posix" else None
    with TemporaryDirectory(prefix="ray-", dir=root, ignore_cleanup_errors=True) as folder:
        # Ray's workers import from the folder that this process is in as it starts or joins: an empty one.
        with _as_before(debug), chdir(folder):
            if address:
                _join(ray, address, says)
            else:
                says |= {"include_dashboard": False, "_temp_dir": folder}
                ray.init("local", num_cpus=max(own_cores(), cores), **says)
        try:
            yield ray
        finally:
            ray.shutdown()


def _share_out(ray: Any, device: str, workers: int | None, threads: int | None) -> tuple[int, int]:
    """How many networks, and how many cores each has; a core at least is left to reading and writing."""
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [int(offer["CPU"]) for offer in offers if offer.get("CPU")]
    total, gpus = sum(machines), int(sum(offer.get("GPU", 0) for offer in offers))
    networks = workers or (gpus if device == "cuda" else len(machines)) or 1
    cores = threads or 1
    if device == "cpu" and not threads:  # three quarters of all cores together
        cores = max(3 * min([*machines, total // networks]) // 4, 1)
    if networks * cores >= total or (device == "cuda" and networks > gpus):
        one = f"{cores} cores and a GPU" if device == "cuda" else f"{cores} cores"
        raise UsageError(
            f"Ray has {total} cores and {gpus} GPUs, too few for {networks} times a network with {one}, "
            "and a core besides; use fewer workers or threads"
        )
    return networks, cores


def _join(ray: Any, address: str, says: dict[str, Any]) -> None:
    try:
        host, colon, port = address.rpartition(":")
        if colon:  # Ray itself would wait for minutes, and then end this process
            socket.create_connection((host, int(port)), _PATIENCE).close()
        ray.init(address, **says)
    except Exception as error:  # of many kinds, as the versions of Ray and Python must be the same there
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{address}: cannot be joined ({reason}); give HOST:PORT or auto, or leave it out"
        ) from error


@contextmanager
def _as_before(debug: bool) -> Iterator[None]:
    """Leave standard error and SIGTERM as they are: Ray's core writes as it starts, and exits at once."""
    before = signal.getsignal(signal.SIGTERM)
    sys.stderr.flush()
    kept = os.dup(2)
    if not debug:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
