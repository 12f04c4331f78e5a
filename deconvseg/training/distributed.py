"""One process or many: what a training step needs from the others. With one process all of it is nothing."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from deconvseg.errors import UsageError

_PATIENCE = datetime.timedelta(hours=12)
"""The first process may check the data and make proposals for long while the others wait."""


def rank() -> int:
    """Number of this process, from 0; 0 does all writing and talking."""
    return distributed.get_rank() if _active() else 0


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if _active() else 1


def _active() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that `torchrun` started, if it did, and give this one its device.

    Args:
        device: as in `network.fold.pick_device`; `auto` and `cuda` become one CUDA device a process.

    Raises:
        UsageError: more processes than CUDA devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"--nproc-per-node: process {local} has no CUDA device of its own (there are "
                f"{torch.cuda.device_count()}); start fewer processes or use --device cpu"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    distributed.init_process_group("nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if _active():
        distributed.barrier()


def share(count: int, parts: int) -> Tensor:
    """Which crops of a batch are this process's: int64, an even share of each of the batch's parts in turn.

    So a part holds the same crops, and BatchNorm sees the same, however many processes there are.

    Raises:
        UsageError: they cannot be shared out evenly.
    """
    if count % (parts * world_size()):
        raise UsageError(
            f"batch_size = {count} cannot be shared out over {world_size()} processes in {parts} parts; "
            f"make it a multiple of {parts * world_size()}"
        )
    return torch.arange(count).view(parts, world_size(), -1)[:, rank()].flatten()


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place; no gradient goes through it."""
    if _active():
        distributed.all_reduce(value)
    return value


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, as one message."""
    if not _active():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat, start = total(torch.cat([gradient.flatten() for gradient in gradients])), 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the crops of all processes, on any device: torch's own SyncBatchNorm needs CUDA."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by the statistics of all processes' features, in training."""
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None and self.running_var is not None
        wide = features.float()
        count = wide[:, 0].numel() * world_size()  # every process has as many crops, see `share`
        mean = _sum(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            rate = self.momentum or 0.0
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * count / max(count - 1, 1), rate)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        result: Tensor = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return result.to(features.dtype)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; on the way back the gradients are summed as well."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return total(value.clone())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return total(gradient.clone())


def _sum(value: Tensor) -> Tensor:
    summed: Tensor = _AllReduce.apply(value)
    return summed


def synchronise_norms(module: nn.Module) -> None:
    """With several processes, exchange every BatchNorm for a synchronised one with the same tensors."""
    if not _active():
        return
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum)
            synced.weight, synced.bias = child.weight, child.bias
            synced.running_mean, synced.running_var = child.running_mean, child.running_var
            synced.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, synced.train(child.training))
        else:
            synchronise_norms(child)
