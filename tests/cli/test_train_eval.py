"""`train`, `eval` and `weights` as commands: one way from data to a network that is scored and stored."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, lines


@pytest.fixture
def voc(tmp_path: Path, make_shapes: Callable[..., Path]) -> Path:
    return make_shapes(tmp_path / "voc", train=6, val=2)


def test_train_then_eval_then_store(run: Run, voc: Path, tiny_network: Path, tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(
        "crop_size = 64\nbatch_size = 2\nfrozen_blocks = 0\nprecision = 'fp32'\n"
    )
    train = ("train", "--voc-root", voc, "--recipe", "quick.toml", "--steps", "4", "--out", "run")
    done = run(*train, "--init", tiny_network, "--limit-steps", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    again = run(*train, "--init", tiny_network)
    assert again.returncode == 2
    assert "it holds a run already; resume it" in lines(again)[-1]
    assert run(*train, "--init", tiny_network, "--resume").returncode == 0
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [figures["step"] for figures in metrics if "seconds" in figures] == [4]
    assert json.loads((tmp_path / "run/run.json").read_text())["recipe"]["steps"] == 4

    done = run("weights", "convert", "run/last.safetensors", "-o", "small.safetensors", "--storage", "int8")
    assert done.returncode == 0, done.stderr
    done = run("weights", "info", "small.safetensors")
    assert json.loads(done.stdout)["arguments"]["crop_size"] == 64
    small, large = (tmp_path / name for name in ("small.safetensors", "run/last.safetensors"))
    assert small.stat().st_size < 0.6 * large.stat().st_size

    done = run(
        "eval", "--voc-root", voc, "--weights", "small.safetensors", "--proposals", "0", "--no-crf", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 <= report["mean_iou"] <= 1
    assert report["images"] == 2
    assert report["weights"] == "small.safetensors"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "--voc-root", "nowhere"), "nowhere: not a VOC folder"),
        (("eval", "--voc-root", "voc", "--split", "test"), "no split named 'test'; splits here: train, val"),
        (("eval", "--voc-root", "voc", "--weights", "none.safetensors"), "no such network file"),
        (("train", "--voc-root", "voc", "--out", "r", "--recipe", "none"), "neither a recipe file nor"),
        (("weights", "info", "voc/ImageSets/Segmentation/val.txt"), "not a readable network file"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(run: Run, voc: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert len(lines(done)) == 1
    assert message in lines(done)[0]
