"""`deconvseg train` as a command: data of one's own, stages, stops and mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from .conftest import COMMAND, Run, files, lines

RECIPE = """
crop_size = 32
widths = [8, 16, 16, 16, 16]
encoder_convs = [1, 1, 1, 1, 1]
decoder_convs = [1, 1, 1, 1]
bottleneck = 16
pretrained = "none"
frozen_blocks = 0
batch_size = 4
precision = "fp32"
canvas = 96
steps = 12
validate_every = 6
[stage1]
label = "object"
[stage2]
object_share = 0.2
proposal_share = 0.6
overlap = 0.2
"""


@pytest.fixture
def voc(tmp_path: Path, make_shapes: Callable[..., Path]) -> Path:
    (tmp_path / "r.toml").write_text(RECIPE)
    return make_shapes(tmp_path / "voc", train=6, val=2)


def test_both_stages_from_photos_to_a_network_that_segments(inside: Run, voc: Path, tmp_path: Path) -> None:
    train = ("train", "--voc-root", voc, "--recipe", "r.toml", "--out", "run", "--workers", "1")
    done = inside(*train, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [Path(stage["network"]).parent.name for stage in result["stages"]] == ["stage1", "stage2"]
    wanted = {"best.safetensors", "last.safetensors", "metrics.jsonl", "run.json", "state.pt"}
    for stage in ("stage1", "stage2"):
        assert files(tmp_path / "run" / stage) - {".lock"} == wanted | {"curves.png", "validation.png"}
    assert (tmp_path / "run/proposals.npz").is_file()
    assert any(line.startswith("step 12: mean IoU") for line in lines(done))
    photo = next((voc / "JPEGImages").iterdir())
    done = inside("segment", photo, "-o", "m.png", "--weights", "run/stage2/best.safetensors", "--no-crf")
    assert done.returncode == 0, done.stderr

    again = inside(*train)
    assert again.returncode == 2
    assert "it holds a run already; resume it" in lines(again)[-1]
    longer = inside(*train, "--stage", "2", "--resume", "--steps", "14", "--quiet")
    assert (longer.returncode, longer.stdout, longer.stderr) == (0, b"", b"")
    last = (tmp_path / "run/stage2/metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] == 14


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_leaves_a_checkpoint_and_goes_on(
    inside: Run, voc: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ["train", "--voc-root", voc, "--recipe", "r.toml", "--stage", "1", "--out", "run"]
    arguments += ["--steps", "100000", "--workers", "1"]
    process = subprocess.Popen(
        [COMMAND, *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # below nohup HUP is ignored, and stays so
    )
    metrics = tmp_path / "run/stage1/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 128 + number
    assert b"stopping after this step" in errors
    assert b"Traceback" not in errors
    reached = json.loads(metrics.read_text().splitlines()[-1])["step"]
    done = inside(*arguments, "--resume", "--limit-steps", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads(metrics.read_text().splitlines()[-1])["step"] == reached + 2


def test_check_reports_every_fault_and_training_refuses_to_start(
    inside: Run, voc: Path, tmp_path: Path
) -> None:
    good = inside("train", "--voc-root", voc, "--recipe", "r.toml", "--check")
    assert good.returncode == 0
    assert b"6 photos, 0 faults" in good.stdout

    masks, photos = voc / "SegmentationClass", voc / "JPEGImages"
    Image.open(masks / "shape000.png").resize((10, 10)).save(masks / "shape000.png")
    wrong = Image.open(masks / "shape001.png").convert("P")
    wrong.putpixel((0, 0), 77)
    wrong.save(masks / "shape001.png")
    (photos / "shape002.jpg").unlink()
    size = Image.open(masks / "shape003.png").size
    Image.new("L", size, 255).save(masks / "shape003.png")
    (photos / "shape006.jpg").write_bytes(b"no photo")  # to validate on
    bad = inside("train", "--voc-root", voc, "--recipe", "r.toml", "--check", "--json")
    assert bad.returncode == 1
    training, validation = json.loads(bad.stdout).values()
    assert [Path(fault["file"]).name for fault in training["faults"]] == [
        "shape000.png",
        "shape001.png",
        "shape002.jpg",
        "shape003.png",
    ]
    assert [Path(fault["file"]).name for fault in validation["faults"]] == ["shape006.jpg"]
    started = inside("train", "--voc-root", voc, "--recipe", "r.toml", "--out", "run")
    assert started.returncode == 2
    for name in ("shape000.png", "shape001.png", "shape002.jpg", "shape003.png", "shape006.jpg"):
        assert any(name in line for line in lines(started))
    assert "5 faults in photos and masks" in lines(started)[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say where the run goes with --out"),
        (("--out", "r"), "either --voc-root DIR or --data DIR"),
        (("--out", "r", "--voc-root", "nowhere"), "nowhere: not a VOC folder"),
        (("--out", "r", "--data", "nowhere"), "nowhere: not a VOC folder"),
        (("--out", "r", "--voc-root", "voc", "--split", "tain"), "no split named 'tain'"),
        (("--out", "r", "--voc-root", "voc", "--recipe", "none"), "neither a recipe file nor"),
        (
            ("--out", "r", "--voc-root", "voc", "--recipe", "own", "--stage", "2"),
            "the recipe has no [stage2]",
        ),
        (("--out", "r", "--voc-root", "voc", "--batch-size", "1"), "at least 2"),
        (("--out", "r", "--voc-root", "voc", "--recipe", "own"), "starts from a trained network"),
        (("--out", "r", "--voc-root", "voc", "--recipe", "own", "--init", "x"), "x: no such network file"),
        (("--out", "r.toml", "--voc-root", "voc", "--recipe", "r.toml", "--stage", "1"), "cannot be made"),
        (("--out", "r", "--voc-root", "voc", "--recipe", "lite", "--stage", "3"), "'3' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(inside: Run, voc: Path, arguments: tuple[str, ...], message: str) -> None:
    done = inside("train", *arguments, "--workers", "1", "--quiet")
    assert done.returncode == 2, done.stderr
    assert done.stdout == b""
    assert len(lines(done)) == 1
    assert message in lines(done)[0]


@pytest.mark.slow
def test_two_processes_train_one_network(voc: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "deconvseg", "train", "--voc-root", str(voc), "--recipe", "r.toml", "--stage", "1"]
    command += ["--out", "run", "--device", "cpu", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"step 12: mean IoU") == 1  # one of them talks
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/stage1/metrics.jsonl").open()]
    assert steps == [6, 6, 10, 12, 12]
    assert json.loads((tmp_path / "run/stage1/run.json").read_text())["processes"] == 2
