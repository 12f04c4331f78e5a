"""Two processes do what one does: the same network, the same count of pixels."""

import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing

from deconvseg.errors import UsageError
from deconvseg.training import distributed
from deconvseg.training.distributed import process_group
from deconvseg.training.loop import Options, Training
from deconvseg.training.validation import validate

from .conftest import CPU, FCN_RECIPE, HEADER, Shapes, metrics, network_without_norms


def _process(rank: int, port: int, folder: Path, data: Shapes) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    with process_group("cpu") as device:
        assert (device, distributed.world_size(), distributed.rank()) == ("cpu", 2, rank)
        _train(folder, data)
        torch.save(_confusion(data), folder / f"confusion{rank}.pt")


def _train(folder: Path, data: Shapes) -> None:
    network = network_without_norms()
    Training(network, HEADER, FCN_RECIPE, data.training, data.validation, folder, Options(CPU)).run()


def _confusion(data: Shapes) -> torch.Tensor:
    return validate(network_without_norms(), HEADER, data.validation, FCN_RECIPE)


@pytest.mark.slow
def test_two_processes_do_what_one_does(
    tmp_path: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After few steps: sums in another order differ in the last bit, poolings make more of it with each step.

    In double precision the losses of 30 steps agree to seven digits; in single precision to five for six
    steps, and to two from then on.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # the processes import this file by name
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    multiprocessing.spawn(_process, (port, two, shapes), nprocs=2)
    _train(one, shapes)
    together, alone = (metrics(folder)[0]["loss"] for folder in (two, one))
    assert together == pytest.approx(alone, rel=2e-5)
    weights = load_file(one / "last.safetensors")
    for name, tensor in load_file(two / "last.safetensors").items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-5)
    for rank in (0, 1):
        assert torch.equal(torch.load(two / f"confusion{rank}.pt"), _confusion(shapes))


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
