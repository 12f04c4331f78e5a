"""`deconvseg eval` as a command: scores, reports, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deconvseg.network.checkpoint import load_network

from ..conftest import make_shapes
from .conftest import Refused, Run, files, lines


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_shapes(tmp_path / "voc", train=1, val=4)


def timeless(document: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in document.items() if not key.startswith("seconds")}


def test_json_has_the_promised_keys(inside: Run, voc: Path, fast: list[str]) -> None:
    done = inside("eval", "--voc-root", voc, "--limit", "2", "--json", *fast)
    document = json.loads(done.stdout)
    for key in ("mean_iou", "voc_mean_iou", "pixel_accuracy", "mean_accuracy", "boundary_f"):
        assert 0 <= document[key] <= 1
    assert (document["images"], document["split_images"], document["split"]) == (2, 4, "val")
    assert document["weights"].endswith("tiny.safetensors")
    assert document["per_class_iou"].keys() >= {"background", "cat"}
    assert document["seconds_per_image"] > 0
    assert "a sample: 2 of the 4 photos of val, evenly spread" in lines(done)


def test_text_begins_with_the_rows(inside: Run, voc: Path) -> None:
    done = inside("eval", "--voc-root", voc, "--predictions", voc / "SegmentationClass", "--quiet")
    text = done.stdout.decode()
    assert done.stderr == b""
    assert text.splitlines()[1].startswith("1.0000")
    assert "4 of the 4 photos of val" in text


def test_a_report_is_the_same_of_any_number_of_workers(
    inside: Run, refused: Refused, voc: Path, fast: list[str], tmp_path: Path
) -> None:
    arguments = ["eval", "--voc-root", str(voc), *fast]
    alone = inside(*arguments, "--report", "alone", "--json")
    both = inside(*arguments, "--report", "both", "--json", "--workers", "2")
    assert timeless(json.loads(both.stdout)) == timeless(json.loads(alone.stdout))
    assert files(tmp_path / "both") == files(tmp_path / "alone")
    assert json.loads((tmp_path / "both" / "report.json").read_text()) == json.loads(both.stdout)
    assert "both: is not empty" in refused(*arguments, "--report", "both", "-q")


def test_tuned_parameters_are_in_a_copy_of_the_network(
    inside: Run,
    voc: Path,
    fast: list[str],
    tiny_network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deconvseg.evaluation.tune.MOST_TRIALS", 3)
    tune = ("eval", "--voc-root", voc, "--tune-crf", "-o", "tuned.safetensors", *fast)
    done = inside(*tune)
    result = json.loads(done.stdout)
    assert (result["images_searched"], result["images_held_out"]) == (2, 2)
    before, after = result["before"], result["after"]
    assert after["mean_iou_searched"] >= before["mean_iou_searched"]
    assert result["improved"] is (after["mean_iou_held_out"] > before["mean_iou_held_out"])
    old, _ = load_network(tiny_network)
    new, header = load_network(tmp_path / "tuned.safetensors")
    assert header.crf == (after if result["improved"] else before)["crf"]
    assert header.training["crf_search"]["trials"] == result["trials"]
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name]), name
    again = inside(*tune, code=2)
    assert "tuned.safetensors: exists" in lines(again)[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "test"), "no split named 'test'"),
        (("--split", "empty"), "empty.txt: the split is empty"),
        (("--predictions", "none"), ".png: the prediction is missing (4 of 4 are)"),
        (("--predictions", "some"), ".png: the prediction is missing (1 of 4 are)"),
        (("--predictions", "some", "--ablate"), "exclude each other"),
        (("--tune-crf",), "--tune-crf needs -o FILE"),
        (("--tune-crf", "-o", "a.safetensors", "--report", "r"), "exclude each other"),
        (("--tune-crf", "-o", "a.safetensors", "--limit", "3"), "3 photos are too few to tune on"),
        (("--limit", "0"), "--limit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(refused: Refused, voc: Path, arguments: tuple[str, ...], message: str) -> None:
    (voc / "ImageSets" / "Segmentation" / "empty.txt").write_text("\n")
    shutil.copytree(voc / "SegmentationClass", voc.parent / "some")
    next((voc.parent / "some").iterdir()).unlink()
    assert message in refused("eval", "--voc-root", voc, "--quiet", *arguments)


def test_own_data_has_its_own_classes(inside: Run, refused: Refused, tmp_path: Path) -> None:
    for folder in ("images", "masks", "found"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "mine" / "images" / "a.jpg")
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 4:] = 7  # the number of roads in these masks
    Image.fromarray(mask).save(tmp_path / "mine" / "masks" / "a.png")
    Image.fromarray((mask == 7).astype(np.uint8)).save(tmp_path / "mine" / "found" / "a.png")
    (tmp_path / "mine" / "dataset.toml").write_text(
        'images = "images"\nmasks = "masks"\n[splits]\nval = ["a"]\n'
        '[[classes]]\nname = "background"\n[[classes]]\nname = "road"\nid = 7\n'
    )
    done = inside("eval", "--data", "mine", "--predictions", "mine/found", "--json")
    assert json.loads(done.stdout)["per_class_iou"] == {"background": 1, "road": 1}
    assert "name the data set" in refused("eval", "--data", "mine", "--voc-root", "mine")
