"""Two processes do what one does: the same loss, the same gradient, the same count of pixels."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from deconvseg.errors import UsageError
from deconvseg.training import distributed
from deconvseg.training.distributed import SyncedBatchNorm2d, process_group
from deconvseg.training.loop import TrainingData, train
from deconvseg.training.validation import validate

from .conftest import CPU, HEADER, RECIPE, small_network
from .test_loop import metrics

QUICK = replace(RECIPE, steps=30, validate_every=10, accumulate=2, optimizer="sgd", learning_rate=0.05)
TOLERANCE = (1e-4, 2e-3, 5e-3)
"""Relative, of steps 1-10, 11-20, 21-30. Sums in another order differ in the last bit, and each step makes it
more; measured: 0 to 2.5e-5, 2e-5, 2.4e-4."""


def _process(rank: int, port: int, folder: Path, data: TrainingData) -> None:
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    with process_group("cpu") as device:
        assert (device, distributed.world_size(), distributed.rank()) == ("cpu", 2, rank)
        network = small_network()
        confusion = validate(network, HEADER, data.validation, QUICK)
        torch.save(confusion, folder / f"confusion{rank}.pt")
        _norms(folder, rank)
        train(network, HEADER, QUICK, data, folder, device=CPU)


def _norms(folder: Path, rank: int) -> None:
    features = _features()[rank * 3 : rank * 3 + 3].requires_grad_()
    norm = SyncedBatchNorm2d(4)
    result = norm(features)
    (result * torch.arange(result.numel()).view_as(result).cos()).sum().backward()
    for parameter in norm.parameters():
        distributed.total(parameter.grad)
    table = [
        result.detach(),
        features.grad,
        norm.weight.grad,
        norm.bias.grad,
        norm.running_mean,
        norm.running_var,
    ]
    torch.save(table, folder / f"norm{rank}.pt")


def _features() -> torch.Tensor:
    return torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, shapes: TrainingData) -> Path:
    """Folder in which two processes have validated, normalised and trained."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])  # the processes import this file by name
        multiprocessing.spawn(_process, (port, folder, shapes), nprocs=2)
    return folder


def test_validation_counts_are_exactly_those_of_one_process(two: Path, shapes: TrainingData) -> None:
    one = validate(small_network(), HEADER, shapes.validation, QUICK)
    for rank in (0, 1):
        assert torch.equal(torch.load(two / f"confusion{rank}.pt"), one)


def test_the_loss_curve_is_that_of_one_process(two: Path, tmp_path: Path, shapes: TrainingData) -> None:
    train(small_network(), HEADER, QUICK, shapes, tmp_path, device=CPU)
    curves = [[line["loss"] for line in metrics(folder) if "loss" in line] for folder in (two, tmp_path)]
    for together, alone, tolerance in zip(*curves, TOLERANCE, strict=True):
        assert together == pytest.approx(alone, rel=tolerance)


def test_synchronised_batchnorm_is_batchnorm_over_all_processes(two: Path) -> None:
    features, norm = _features().requires_grad_(), torch.nn.BatchNorm2d(4)
    result = norm(features)
    weights = torch.arange(result[:3].numel()).view_as(result[:3]).cos().repeat(2, 1, 1, 1)
    (result * weights).sum().backward()
    parts = [torch.load(two / f"norm{rank}.pt") for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([parts[0][0], parts[1][0]]), result.detach())
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]), features.grad)
    for found in parts:
        for value, wanted in zip(
            found[2:], (norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var), strict=True
        ):
            torch.testing.assert_close(value, wanted)


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("auto") as device:
        assert device == "auto"
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.share(6, 2).tolist() == [0, 1, 2, 3, 4, 5]


def test_every_part_of_a_batch_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(8, 2).tolist())
    assert shares == [[0, 1, 4, 5], [2, 3, 6, 7]]
    with pytest.raises(UsageError, match="multiple of 6"):
        distributed.share(8, 3)
