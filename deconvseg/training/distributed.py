"""One process or many: what a training step needs from the others. With one process all of it is nothing."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from deconvseg.errors import UsageError

_PATIENCE = datetime.timedelta(hours=12)
"""The first process may make proposals for long while the others wait."""


def rank() -> int:
    """Number of this process, from 0; 0 does all writing and talking."""
    return distributed.get_rank() if world_size() > 1 else 0


def world_size() -> int:
    """Number of processes."""
    is_one = not distributed.is_available() or not distributed.is_initialized()
    return 1 if is_one else distributed.get_world_size()


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that `torchrun` started, if it did, and give this one its device.

    With several, `auto` and `cuda` become one CUDA device a process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield device
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        distributed.barrier()


def share(count: int, parts: int) -> Tensor:
    """Which crops of a batch are this process's: int64, an even share of each of the batch's parts in turn.

    So a part holds the same crops, and BatchNorm on CUDA sees the same, however many processes there are.
    Raises UsageError if they cannot be shared out evenly, or a part has but one, too few for BatchNorm.
    """
    shares = parts * world_size()
    if count % shares or count < 2 * parts:
        raise UsageError(
            f"batch_size = {count} cannot be shared out over {world_size()} processes in {parts} parts of at "
            f"least 2 crops; make it a multiple of {shares}, {2 * parts} or more"
        )
    return torch.arange(count).view(parts, world_size(), -1)[:, rank()].flatten()


def parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """With several processes, the module with gradients that are the mean over all of them.

    On CUDA its BatchNorms are exchanged for ones that see the crops of all processes. On a processor, where
    torch has none such, each sees those of its own process, and the statistics saved are the first one's.
    """
    if world_size() == 1:
        return module
    if device.type != "cuda":
        return DistributedDataParallel(module)
    module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(module, device_ids=[device.index])


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place; no gradient goes through it."""
    if world_size() > 1:
        distributed.all_reduce(value)
    return value
