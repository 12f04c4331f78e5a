"""The loop: it can be stopped anywhere, says what went wrong, and does what the recipe asks for."""

import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from deconvseg.errors import DeconvSegError, OutputError, UsageError
from deconvseg.training import distributed, loop
from deconvseg.training.loop import mean_iou, schedule, validate
from deconvseg.training.losses import Losses
from deconvseg.training.recipe import Recipe

from .conftest import HEADER, RECIPE, Shapes, metrics, network_without_norms, run, small_network


@pytest.fixture(scope="module")
def third_step(tmp_path_factory: pytest.TempPathFactory, shapes: Shapes) -> Path:
    run(folder := tmp_path_factory.mktemp("third"), shapes, {"limit_steps": 3})
    return folder


@pytest.fixture
def stopped(tmp_path: Path, third_step: Path) -> Path:
    """The folder of a run that was stopped at its third step of a hundred."""
    return Path(shutil.copytree(third_step, tmp_path / "stopped"))


SGD = {"optimizer": "sgd", "schedule": "step", "step_size": 3, "ema": 0.0, "accumulate": 4, "bias_rate": 2.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.5},
        SGD,
        {"precision": "bf16", "schedule": "constant", "label": "object"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_stopped_and_resumed_ends_bit_for_bit_the_same(
    tmp_path: Path, shapes: Shapes, changes: dict[str, Any]
) -> None:
    """A validation at a stop would be one more chance to be the best."""
    changes = {**changes, "steps": 6, "validate_every": 4}
    run(tmp_path / "whole", shapes, **changes)
    run(tmp_path / "parts", shapes, {"limit_steps": 2}, **changes)
    run(tmp_path / "parts", shapes, {"resume": True, "limit_steps": 3}, **changes)
    run(tmp_path / "parts", shapes, {"resume": True}, **changes)
    for name in ("last", "best"):
        one, two = (load_file(tmp_path / f"{parts}/{name}.safetensors") for parts in ("whole", "parts"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert [line["step"] for line in metrics(tmp_path / "parts") if "seconds" in line] == [4, 6]


@pytest.mark.parametrize(("seconds", "end", "step"), [(0, OSError, 2), (300, True, 3)])
def test_checkpoints_are_written_now_and_then_and_when_asked_to_stop(
    tmp_path: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch, seconds: int, end: Any, step: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
    with pytest.raises((OSError, KeyboardInterrupt)):
        run(tmp_path, shapes, {"interrupted": Mock(side_effect=[False, False, end])})
    assert torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["step"] == step


def test_metrics_have_each_step_once_after_a_kill_and_more_steps_may_be_asked_for(
    stopped: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    with (stopped / "metrics.jsonl").open("a") as log:  # steps beyond the checkpoint, and half a line
        log.write('{"step": 4, "crops": 32, "loss": 1.0}\n{"step": 6, "cro')
    for steps in (6, 8, 8):  # the last time there is nothing left to do
        run(stopped, shapes, {"resume": True}, steps=steps)
    assert [line["step"] for line in metrics(stopped) if "loss" in line] == [3, 4, 6, 8]


@pytest.mark.parametrize(("rate", "limit"), [(float("inf"), 1), (1e38, None)])
def test_a_run_that_explodes_keeps_its_checkpoint(
    stopped: Path, shapes: Shapes, rate: float, limit: int | None
) -> None:
    kept, options = (stopped / "state.pt").read_bytes(), {"resume": True, "limit_steps": limit}
    with pytest.raises(DeconvSegError, match="the loss or the weights are not numbers; the last checkpoint"):
        run(stopped, shapes, options, learning_rate=rate, encoder_learning_rate=rate)
    assert (stopped / "state.pt").read_bytes() == kept


def test_a_damaged_checkpoint_is_named(stopped: Path, shapes: Shapes) -> None:
    (stopped / "state.pt").write_bytes((stopped / "state.pt").read_bytes()[:1000])
    with pytest.raises(DeconvSegError, match=r"state\.pt: this checkpoint cannot be read.*start again"):
        run(stopped, shapes, {"resume": True})


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(stopped: Path, shapes: Shapes) -> None:
    kept = (stopped / "state.pt").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            run(stopped, shapes, {"resume": True, "limit_steps": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (stopped / "state.pt").read_bytes() == kept
    assert not list(stopped.glob(".*.tmp"))
    run(stopped, shapes, {"resume": True, "limit_steps": 1})


def test_used_up_memory_is_told(tmp_path: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    monkeypatch.setattr(Losses, "forward", Mock(side_effect=error))
    with pytest.raises(DeconvSegError, match=r"out of memory; .*Raise accumulate"):
        run(tmp_path, shapes)


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path, shapes: Shapes) -> None:
    still = {"learning_rate": 0.0, "encoder_learning_rate": 0.0, "validate_every": 1, "patience": 3}
    run(tmp_path, shapes, steps=50, **still)
    # Without learning only BatchNorm's statistics move; far from 50 steps it must have given up.
    assert metrics(tmp_path)[-1]["step"] < 40


def test_frozen_blocks_keep_weights_and_statistics(tmp_path: Path, shapes: Shapes) -> None:
    before = small_network().state_dict()
    network = run(tmp_path, shapes, frozen_blocks=2, steps=3, validate_every=1, ema=0.0)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("encoder.0", "encoder.1")) for name in changed)
    assert {"encoder.2.conv3_1.norm.running_mean", "encoder.2.conv3_1.conv.weight"} <= changed


def test_parts_of_a_batch_add_up_to_the_batch(tmp_path: Path, shapes: Shapes) -> None:
    fcn = {"photo_side": 96, "optimizer": "sgd", "ema": 0.0, "steps": 1}
    one, four = (
        run(tmp_path, shapes, network=network_without_norms(), accumulate=accumulate, **fcn).state_dict()
        for accumulate in (1, 4)
    )
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, rtol=1e-4, atol=1e-6)


def test_every_part_of_a_batch_is_shared_out_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do together: `cli/test_train.py`."""
    assert distributed.share(6, 2).tolist() == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank, share in enumerate(([0, 1, 4, 5], [2, 3, 6, 7])):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        assert distributed.share(8, 2).tolist() == share
    with pytest.raises(UsageError, match="multiple of 6"):
        distributed.share(8, 3)
    with pytest.raises(UsageError, match="4 parts of at least 2 crops"):
        distributed.share(4, 4)


def test_validation_counts_every_labelled_pixel_once(shapes: Shapes) -> None:
    counted = validate(small_network(), HEADER, shapes.validation, RECIPE)
    assert torch.equal(counted, validate(small_network(), HEADER, shapes.validation, RECIPE, batch=3))
    assert 0 < counted.sum() <= len(shapes.validation) * 32 * 32
    assert mean_iou(torch.tensor([[3, 1], [0, 0]])) == pytest.approx(0.375)  # 3 / 4 and 0 / 1
    assert mean_iou(torch.zeros(2, 2)) == 0


def test_schedules() -> None:
    recipe = Recipe(steps=100, warmup_steps=10)
    rates = [schedule(step, recipe) for step in (0, 4, 9, 10, 55, 100)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0])
    assert schedule(99, replace(recipe, schedule="constant")) == 1
    stepped = replace(recipe, schedule="step", step_size=40, step_factor=0.5)
    assert [schedule(step, stepped) for step in (39, 40, 80)] == [1, 0.5, 0.25]
