"""Ray: started on this machine, or joined; and what there is of it for a run."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from deconvseg.errors import MissingDependencyError, UsageError

_PATIENCE = 10.0


@contextmanager
def joined(address: str | None, cores: int, debug: bool = False) -> Iterator[Any]:
    """The module `ray`, joined or started for the time of the block; as it is if this process has it already.

    A Ray started here is reached from this machine alone, sends nothing, and leaves no file.

    Args:
        address: HOST:PORT of a cluster, `auto` for the one this machine is in, None to start Ray here.
        cores: as many as it has to offer at least, if it is started here.
        debug: show what Ray says.

    Raises:
        MissingDependencyError: no Ray.
        UsageError: the cluster cannot be joined.
    """
    # Ray reads these when it is imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the local engine's workers
    if not address:  # despite its name on all systems: not offered to the network
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if not debug:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            '--engine ray needs Ray; install it (pip install "deconvseg[ray]"), or use --engine local'
        ) from error
    level = logging.INFO if debug else logging.CRITICAL + 1
    logging.getLogger("ray.data").setLevel(level)
    if ray.is_initialized():
        yield ray
        return
    says = {"log_to_driver": debug, "logging_level": level}
    # The paths of its sockets would be too long in the folders for temporary files that some systems have.
    root = "/tmp" if os.name == "posix" else None
    with TemporaryDirectory(prefix="ray-", dir=root, ignore_cleanup_errors=True) as folder:
        with _unheard(debug), _same_end():
            if address:
                _join(ray, address, says)
            else:
                ray.init(
                    "local",
                    num_cpus=max(cores(), cores),
                    include_dashboard=False,
                    _temp_dir=folder,
                    **says,
                )
        try:
            yield ray
        finally:
            ray.shutdown()


def share_out(ray: Any, device: str, workers: int | None, threads: int | None) -> tuple[int, int]:
    """How many networks, and how many cores each has; a core at least is left to reading and writing.

    Args:
        ray: as of `joined`.
        device: `cpu`, or what each network has one of.
        workers: networks; None is one a GPU, or without GPUs one a machine.
        threads: cores of each; None is 1 beside a device, and on CPUs three quarters of all cores together.

    Raises:
        UsageError: there is not so much.
    """
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [int(offer["CPU"]) for offer in offers if offer.get("CPU")]
    total, gpus = sum(machines), int(sum(offer.get("GPU", 0) for offer in offers))
    networks = workers or (gpus if device == "cuda" else len(machines)) or 1
    cores = threads or 1
    if device == "cpu" and not threads:
        cores = max(3 * min([*machines, total // networks]) // 4, 1)
    if networks * cores >= total or (device == "cuda" and networks > gpus):
        one = f"{cores} cores and a GPU" if device == "cuda" else f"{cores} cores"
        raise UsageError(
            f"Ray has {total} cores and {gpus} GPUs, too few for {networks} times a network with {one}, "
            "and a core besides; use fewer --workers or --threads"
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
            f"--ray-address {address}: cannot be joined ({reason}); give HOST:PORT or auto, or leave it out"
        ) from error


@contextmanager
def _same_end() -> Iterator[None]:
    """Leave what this process does on SIGTERM as it is; Ray makes it exit at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _unheard(debug: bool) -> Iterator[None]:
    """Without standard error: Ray's core writes there as it starts, whatever its level of logging."""
    if debug:
        yield
        return
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
