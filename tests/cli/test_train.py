"""`deconvseg train` as a command: data of one's own, stages, stops and mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deconvseg.files import read_json_lines
from deconvseg.proposals.cache import read_proposals

from ..conftest import make_shapes
from ..training.conftest import recipe_text
from .conftest import COMMAND, Refused, Run, files, lines

RECIPE = recipe_text(batch_size=4, steps=6, validate_every=3)
STAGES = """
[stage1]
label = "object"
[stage2]
object_share = 0.2
proposal_share = 0.5
overlap = 0.2
crop_size = 64
"""


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    (tmp_path / "r.toml").write_text(RECIPE)
    return make_shapes(tmp_path / "voc", train=6, val=2)


def steps_of(folder: Path) -> list[int]:
    return [line["step"] for line in read_json_lines(folder / "metrics.jsonl")]


def test_both_stages_from_photos_to_a_network_that_segments(inside: Run, voc: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE + STAGES)
    train = ("train", "--voc-root", voc, "--recipe", "r.toml", "--out", "run", "--workers", "1")
    done = inside(*train, "--limit-steps", "6", "--json")
    result = json.loads(done.stdout)
    assert [Path(stage["network"]).parent.name for stage in result["stages"]] == ["stage1", "stage2"]
    wanted = {"best.safetensors", "last.safetensors", "metrics.jsonl", "run.json", "state.pt", "curves.png"}
    for stage in ("stage1", "stage2"):
        assert files(tmp_path / "run" / stage) == wanted
    assert len(read_proposals(tmp_path / "run/proposals.npz", [f"shape{i:03}" for i in range(6)])) == 6
    assert any(line.startswith("step 6: mean IoU") for line in lines(done))
    start = json.loads((tmp_path / "run/stage2/run.json").read_text())["init"]
    assert start == "run/stage1/last.safetensors"
    photo = next((voc / "JPEGImages").iterdir())
    inside("segment", photo, "-o", "m.png", "--weights", "run/stage2/best.safetensors", "--no-crf")

    again = inside(*train, code=2)
    assert "it holds a run already; resume it" in lines(again)[-1]
    longer = inside(*train, "--stage", "2", "--resume", "--steps", "7", "--quiet")
    assert (longer.stdout, longer.stderr) == (b"", b"")
    assert steps_of(tmp_path / "run/stage2")[-1] == 7
    inside(*train, "--resume", "--steps", "8")
    assert [steps_of(tmp_path / f"run/stage{n}")[-1] for n in (1, 2)] == [8, 8]


@pytest.mark.slow
def test_stopped_and_killed_it_goes_on_to_the_same_network(inside: Run, voc: Path, tmp_path: Path) -> None:
    train = ["train", "--voc-root", str(voc), "--recipe", "r.toml", "--workers", "1", "--device", "cpu"]
    train += ["--steps", "200", "--out"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    inside(*train, "whole")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        before = (steps_of(tmp_path / "run") or [0])[-1]
        process = subprocess.Popen(
            [COMMAND, *train, "run", "--resume"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            start_new_session=True,
            # Below nohup HUP is ignored, and stays so.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        while process.poll() is None and (steps_of(tmp_path / "run") or [0])[-1] <= before + 5:
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=180)
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
        assert b"Traceback" not in errors
        assert (b"stopping after this step" in errors) == (number != signal.SIGKILL)
    inside(*train, "run", "--resume")
    torch.set_num_threads(threads)
    for name in ("last", "best"):
        one, two = (load_file(tmp_path / f"{folder}/{name}.safetensors") for folder in ("whole", "run"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_check_reports_every_fault_and_training_names_the_first(
    inside: Run, voc: Path, tmp_path: Path
) -> None:
    good = inside("train", "--voc-root", voc, "--recipe", "r.toml", "--check")
    assert b"6 photos, 0 faults" in good.stdout

    Image.new("L", (10, 10)).save(voc / "SegmentationClass/shape000.png")
    (voc / "JPEGImages/shape002.jpg").unlink()
    (voc / "JPEGImages/shape006.jpg").write_bytes(b"no photo")  # to validate on
    bad = inside("train", "--voc-root", voc, "--recipe", "r.toml", "--check", "--json", code=1)
    reports = json.loads(bad.stdout).values()
    faults = [[Path(fault.partition(":")[0]).name for fault in report["faults"]] for report in reports]
    assert faults == [["shape000.png", "shape002.jpg"], ["shape006.jpg"]]
    started = inside("train", "--voc-root", voc, "--recipe", "r.toml", "--out", "run", code=2)
    assert "shape006.jpg: " in lines(started)[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say where the run goes with --out"),
        (("--out", "r"), "either --voc-root DIR or --data DIR"),
        (("--out", "r", "--voc-root", "voc", "--data", "voc"), "either --voc-root DIR or --data DIR"),
        (("--out", "r", "--data", "nowhere"), "nowhere: not a VOC folder"),
        (("--out", "r", "--voc-root", "voc", "--split", "tain"), "no split named 'tain'"),
        (("--out", "r", "--voc-root", "voc", "--recipe", "none"), "neither a recipe file nor"),
        (("--out", "r", "--voc-root", "voc", "--recipe", "lite", "--stage", "2"), "run stage 1 first"),
        (("--out", "r.toml", "--voc-root", "voc", "--recipe", "r.toml"), "cannot be made"),
        (("--out", "r", "--voc-root", "voc", "--recipe", "lite", "--stage", "3"), "'3' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(refused: Refused, voc: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused("train", *arguments, "--workers", "1", "--quiet")


@pytest.mark.slow
def test_two_processes_do_what_one_does(inside: Run, voc: Path, tmp_path: Path) -> None:
    """A network without BatchNorm, and few steps: sums in another order differ in the last bit, and poolings
    make more of it with each step. In double precision the losses of 30 steps agree to seven digits."""
    changes = {"network": "fcn8s", "photo_side": 96, "head_kernel": 3, "padding": 1, "accumulate": 2}
    changes |= {"optimizer": "sgd", "learning_rate": 0.05, "ema": 0.0, "steps": 3}
    (tmp_path / "r.toml").write_text(recipe_text(**changes))
    train = ["train", "--voc-root", str(voc), "--recipe", "r.toml", "--device", "cpu", "--workers", "1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "deconvseg", *train, "--out", "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"step 3: mean IoU") == 1  # one of them talks
    assert json.loads((tmp_path / "two/run.json").read_text())["processes"] == 2
    inside(*train, "--out", "one")
    (loss, iou), (alone, iou_alone) = (
        read_json_lines(tmp_path / n / "metrics.jsonl") for n in ("two", "one")
    )
    assert loss["loss"] == pytest.approx(alone["loss"], rel=2e-5)
    assert iou["val_whole_image_miou"] == pytest.approx(iou_alone["val_whole_image_miou"], abs=1e-3)
    weights = load_file(tmp_path / "one/last.safetensors")
    for name, tensor in load_file(tmp_path / "two/last.safetensors").items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-5)
