"""The loop: it learns, it can be stopped or killed anywhere, and says what went wrong."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deconvseg.errors import DeconvSegError, OutputError
from deconvseg.training import loop
from deconvseg.training.loop import Options, Training, schedule, update_average
from deconvseg.training.losses import Losses
from deconvseg.training.recipe import Recipe

from .conftest import (
    CPU,
    FCN_RECIPE,
    HEADER,
    Shapes,
    metrics,
    network_without_norms,
    run,
    small_network,
)


def same_weights(first: Path, second: Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "optimizer": "sgd",
            "schedule": "step",
            "step_size": 5,
            "ema": 0.0,
            "accumulate": 4,
            "bias_rate": 2.0,
        },
        {"precision": "bf16", "schedule": "constant", "label": "object"},
        {"precision": "fp16", "learning_rate": 1e-3},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_stopped_and_resumed_ends_bit_for_bit_the_same(
    tmp_path: Path, shapes: Shapes, changes: dict[str, object]
) -> None:
    changes = {**changes, "steps": 12}
    run(tmp_path / "whole", shapes, **changes)
    run(tmp_path / "parts", shapes, {"limit_steps": 4}, **changes)
    run(tmp_path / "parts", shapes, {"resume": True, "limit_steps": 5}, **changes)
    run(tmp_path / "parts", shapes, {"resume": True}, **changes)
    assert same_weights(tmp_path / "whole/last.safetensors", tmp_path / "parts/last.safetensors")


def test_more_steps_may_be_asked_for(tmp_path: Path, shapes: Shapes) -> None:
    run(tmp_path, shapes, steps=4)
    run(tmp_path, shapes, {"resume": True}, steps=6)
    assert metrics(tmp_path)[-1]["step"] == 6
    run(tmp_path, shapes, {"resume": True}, steps=6)  # nothing left to do
    assert metrics(tmp_path)[-1]["step"] == 6


def test_checkpoints_are_written_now_and_then(
    tmp_path: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    asked = []

    def fail_at_the_third_step() -> bool:
        asked.append(True)
        if len(asked) == 3:
            raise OSError("the machine goes down")
        return False

    with pytest.raises(OSError, match="goes down"):
        run(tmp_path, shapes, {"interrupted": fail_at_the_third_step}, steps=24)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["step"] == 2


def test_asked_to_stop_it_leaves_a_checkpoint(tmp_path: Path, shapes: Shapes) -> None:
    asked = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, shapes, {"interrupted": lambda: next(asked)}, steps=24)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["step"] == 3


def test_metrics_have_each_step_once_after_a_kill(tmp_path: Path, shapes: Shapes) -> None:
    run(tmp_path, shapes, {"limit_steps": 5}, steps=30)
    with (tmp_path / "metrics.jsonl").open(
        "a"
    ) as log:  # as after a kill: steps beyond the checkpoint, half a line
        log.write('{"step": 10, "crops": 160, "loss": 1.0}\n{"step": 20, "cro')
    run(tmp_path, shapes, {"resume": True}, steps=30)
    steps = [line["step"] for line in metrics(tmp_path) if "loss" in line]
    assert steps == [5, 10, 20, 30]


def test_a_limited_call_leaves_no_other_network_than_a_whole_run(tmp_path: Path, shapes: Shapes) -> None:
    """A validation at the stop would be one more chance to be the best."""
    changes = {"steps": 20, "validate_every": 8}
    run(tmp_path / "whole", shapes, **changes)
    for _ in range(3):
        run(tmp_path / "parts", shapes, {"resume": True, "limit_steps": 7}, **changes)
    assert same_weights(tmp_path / "whole/best.safetensors", tmp_path / "parts/best.safetensors")
    scored = [line["step"] for line in metrics(tmp_path / "parts") if "seconds" in line]
    assert scored == [8, 16, 20]


def test_weights_that_broke_are_not_kept(tmp_path: Path, shapes: Shapes) -> None:
    run(tmp_path, shapes, {"limit_steps": 3})
    kept = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(DeconvSegError, match="weights that are not numbers; the last checkpoint is kept"):
        run(tmp_path, shapes, {"resume": True, "limit_steps": 1}, learning_rate=float("inf"))
    assert (tmp_path / "state.pt").read_bytes() == kept


def test_a_loss_that_is_no_number_names_the_photos_and_keeps_the_checkpoint(
    tmp_path: Path, shapes: Shapes
) -> None:
    run(tmp_path, shapes, {"limit_steps": 3})
    kept = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(
        DeconvSegError, match=r"not (a number at step \d+ \(photos: shape0|numbers).*checkpoint is kept"
    ):
        run(tmp_path, shapes, {"resume": True}, learning_rate=1e38, encoder_learning_rate=1e38)
    assert (tmp_path / "state.pt").read_bytes() == kept


def test_a_damaged_checkpoint_is_named(tmp_path: Path, shapes: Shapes) -> None:
    run(tmp_path, shapes, {"limit_steps": 3})
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:1000])
    with pytest.raises(DeconvSegError, match=r"state\.pt: this checkpoint cannot be read.*start again"):
        run(tmp_path, shapes, {"resume": True})


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path: Path, shapes: Shapes) -> None:
    run(tmp_path, shapes, {"limit_steps": 3})
    kept = (tmp_path / "state.pt").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            run(tmp_path, shapes, {"resume": True, "limit_steps": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "state.pt").read_bytes() == kept
    assert not list(tmp_path.glob(".*.tmp"))
    run(tmp_path, shapes, {"resume": True, "limit_steps": 3})


def test_used_up_memory_is_told(tmp_path: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Losses, "forward", fail)
    with pytest.raises(DeconvSegError, match=r"out of memory; .*Raise accumulate"):
        run(tmp_path, shapes)


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path, shapes: Shapes) -> None:
    still = {"learning_rate": 0.0, "encoder_learning_rate": 0.0, "validate_every": 1, "patience": 3}
    run(tmp_path, shapes, steps=50, **still)
    # Without learning only BatchNorm's statistics move; far from 50 steps it must have given up.
    assert metrics(tmp_path)[-1]["step"] < 40


def test_frozen_blocks_keep_their_weights(tmp_path: Path, shapes: Shapes) -> None:
    before = {name: p.clone() for name, p in small_network().named_parameters()}
    network = run(tmp_path, shapes, frozen_blocks=2, steps=5)
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith(("encoder.0", "encoder.1")) for name in changed)
    assert any(name.startswith("encoder.2") for name in changed)


def test_parts_of_a_batch_add_up_to_the_batch(tmp_path: Path, shapes: Shapes) -> None:
    ends = []
    for accumulate in (1, 4):
        network, recipe = network_without_norms(), replace(FCN_RECIPE, steps=1, accumulate=accumulate)
        Training(network, HEADER, recipe, shapes.training, shapes.validation, tmp_path, Options(CPU)).run()
        ends.append(network.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


def test_schedules() -> None:
    recipe = Recipe(steps=100, warmup_steps=10)
    rates = [schedule(step, recipe) for step in range(101)]
    assert rates[9] == rates[10] == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)
    assert schedule(99, replace(recipe, schedule="constant")) == 1
    stepped = replace(recipe, schedule="step", step_size=40, step_factor=0.5)
    assert [schedule(step, stepped) for step in (39, 40, 80)] == [1, 0.5, 0.25]


def test_average_moves_by_its_decay() -> None:
    mean, value = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
    torch.nn.init.constant_(value.weight, 3.0)
    value.running_mean.fill_(1.0)
    value.num_batches_tracked.fill_(4)
    update_average(mean, value, 0.75)
    assert (mean.weight.item(), mean.running_mean.item(), mean.num_batches_tracked.item()) == (1.5, 0.25, 4)


RECIPE_FILE = """
crop_size = 32
widths = [8, 16, 16, 16, 16]
encoder_convs = [1, 1, 1, 1, 1]
decoder_convs = [1, 1, 1, 1]
bottleneck = 16
pretrained = "none"
frozen_blocks = 0
steps = 120
batch_size = 8
precision = "fp32"
canvas = 96
validate_every = 25
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_ends_bit_for_bit_the_same(
    tmp_path: Path, make_shapes: object
) -> None:
    root = make_shapes(tmp_path / "voc", train=6, val=2)  # type: ignore[operator]
    (tmp_path / "r.toml").write_text(RECIPE_FILE)
    command = [sys.executable, "-m", "deconvseg", "train", "--voc-root", str(root), "--recipe"]
    command += [str(tmp_path / "r.toml"), "--device", "cpu", "--workers", "1", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    whole = subprocess.run([*command, tmp_path / "whole"], env=environment, capture_output=True, check=True)
    assert whole.stdout == b""

    killed = tmp_path / "killed"
    state = killed / "state.pt"
    for stop_after in (0, 30, 70):  # before the first checkpoint, and twice amid the run
        resume = ["--resume"] if (killed / "run.json").is_file() else []
        process = subprocess.Popen([*command, killed, *resume], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if stop_after == 0 and (killed / "run.json").is_file():
                break
            if stop_after and state.is_file() and _last_step(killed) >= stop_after:
                break
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    subprocess.run([*command, killed, "--resume"], env=environment, capture_output=True, check=True)
    for name in ("last", "best"):
        assert same_weights(tmp_path / f"whole/{name}.safetensors", killed / f"{name}.safetensors")
    scored = [
        [(line["step"], line["val_whole_image_miou"]) for line in metrics(folder) if "seconds" in line]
        for folder in (tmp_path / "whole", killed)
    ]
    assert scored[0] == scored[1]


def _last_step(folder: Path) -> int:
    try:
        return int(metrics(folder)[-1]["step"])
    except (OSError, ValueError, IndexError):
        return 0
