"""Whole runs: own classes, other starts; and the folder they leave. Stages: `cli/test_train.py`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deconvseg.errors import DeconvSegError, OutputError, UsageError
from deconvseg.files import lock
from deconvseg.network.checkpoint import load_network, save_network
from deconvseg.segmenter import Segmenter
from deconvseg.training.data import TrainingData, open_training_data
from deconvseg.training.loop import Options
from deconvseg.training.recipe import Recipe, read_recipes
from deconvseg.training.run import run_training

from ..conftest import OWN_CLASSES, describe, make_shapes
from .conftest import CPU, HEADER, metrics, recipe_text, small_network


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_shapes(tmp_path_factory.mktemp("data") / "own", train=36, val=4)
    return describe(root, val="ImageSets/Segmentation/val.txt", train="rest")


Parts = tuple[dict[str, Recipe], TrainingData]


def parts_of(root: Path, tmp_path: Path, scores: tuple[Path, ...] = (), **changes: Any) -> Parts:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(**({"steps": 1} | changes)))
    return read_recipes(path), open_training_data(root, scores=scores)


def start(parts: Parts, out: Path, begin: dict[str, Any] | None = None, **options: Any) -> Path:
    (folder,) = run_training(*parts, out, Options(CPU, **options), **(begin or {}))
    return folder


def test_own_classes_are_learned_and_stand_in_the_file(own: Path, tmp_path: Path) -> None:
    changes = {"steps": 150, "bottleneck": 32, "batch_size": 16, "validate_every": 50}
    changes |= {"widths": (8, 16, 32, 32, 32), "decoder_convs": (1, 1, 1, 1, 1), "object_share": 0.4}
    changes |= {"whole_share": 0.4, "learning_rate": 2e-2, "encoder_learning_rate": 2e-2, "warmup_steps": 20}
    parts = parts_of(own, tmp_path, **changes)
    folder = start(parts, tmp_path / "run")
    assert max(line.get("val_whole_image_miou", 0) for line in metrics(folder)) > 0.7
    segmenter = Segmenter(folder / "best.safetensors", proposals=0, crf=False)
    data = parts[1]
    example = data.validation.examples[0]
    result = segmenter.segment(example.image)
    assert result.classes == tuple(OWN_CLASSES)
    assert result.palette == ((16, 16, 16), (255, 128, 0), (0, 128, 255))
    assert (result.labels == data.validation.read(example)[1]).mean() > 0.9

    document = json.loads((folder / "run.json").read_text())
    assert document["recipe"]["steps"] == 150
    assert document["data"]["photos"] == len(data.examples)
    assert document["versions"]["torch"] == torch.__version__


def test_other_classes_keep_all_but_the_last_layer(own: Path, tmp_path: Path, tiny_network: Path) -> None:
    told = list[str]()
    parts = parts_of(own, tmp_path, learning_rate=0, encoder_learning_rate=0)
    folder = start(parts, tmp_path / "run", {"init": tiny_network}, note=told.append)
    assert "made for other classes" in told[0]
    before, after = (load_network(path)[0] for path in (tiny_network, folder / "last.safetensors"))
    assert after.seg_score.out_channels == 3
    assert torch.equal(after.fc7.conv.weight, before.fc7.conv.weight)
    # A resumed run keeps the start it had.
    longer = {"": replace(parts[0][""], steps=2)}
    start((longer, parts[1]), tmp_path / "run", resume=True)
    assert json.loads((folder / "run.json").read_text())["init"] == str(tiny_network)


FCN = {"network": "fcn8s", "photo_side": 96, "head_kernel": 3, "padding": 1, "head_norm": True}


def test_fcn_is_trained_from_a_deconvnet(own: Path, tmp_path: Path, tiny_network: Path) -> None:
    source = small_network(encoder_norm=False)
    save_network(tmp_path / "n.safetensors", source, HEADER)
    told = list[str]()
    parts = parts_of(own, tmp_path, frozen_blocks=5, ema=0, **FCN)
    folder = start(parts, tmp_path / "run", {"init": tmp_path / "n.safetensors"}, note=told.append)
    assert "FCN-8s starts from its encoder" in told[0]
    network = load_network(folder / "last.safetensors")[0]
    assert torch.equal(network.encoder[0].conv1_1.conv.weight, source.encoder[0].conv1_1.conv.weight)
    result = Segmenter(folder / "last.safetensors").segment(parts[1].validation.examples[0].image)
    assert result.classes == tuple(OWN_CLASSES)
    with pytest.raises(UsageError, match="the encoder of the DeconvNet has other layers"):
        start(parts, tmp_path / "other", {"init": tiny_network})
    with pytest.raises(UsageError, match="a network of the kind fcn8s, the recipe is for deconvnet"):
        start(parts_of(own, tmp_path), tmp_path / "other", {"init": folder / "last.safetensors"})


def test_a_resumed_run_must_be_the_same_run(own: Path, tmp_path: Path) -> None:
    parts, out, told = parts_of(own, tmp_path), tmp_path / "run", list[str]()
    start(parts, out, resume=True, note=told.append)
    assert "no checkpoint yet" in told[0]
    run = json.loads((out / "run.json").read_text())
    del run["recipe"]["lovasz_weight"]  # as a version wrote it that had no such thing
    (out / "run.json").write_text(json.dumps(run))
    start(parts, out, resume=True)
    with pytest.raises(UsageError, match="it holds a run already; resume it"):
        start(parts, out)
    with pytest.raises(UsageError, match="this run has other seed; resume with the same"):
        start(parts_of(own, tmp_path, seed=9), out, resume=True)
    stages, data = parts
    fewer = replace(data, validation=replace(data.validation, examples=data.validation.examples[1:]))
    with pytest.raises(UsageError, match="this run has other validation_photos"):
        start((stages, fewer), out, resume=True)
    with lock(out / ".lock"), pytest.raises(OutputError, match="another process is training there"):
        start(parts, out, resume=True)
    # What helps after an exploded loss may change.
    start(parts_of(own, tmp_path, steps=2, learning_rate=1e-4), out, resume=True)
    assert metrics(out)[-1]["step"] == 2
    (out / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run\.json: cannot be read .*another folder"):
        start(parts, out, resume=True)


@pytest.mark.parametrize(
    ("changes", "begin", "message"),
    [
        ({"pretrained": "init"}, {}, "starts from a trained network; name one"),
        ({}, {"init": "n.safetensors"}, "no such network file"),
        ({"pretrained": "vgg16"}, {"vgg16": Path("v.safetensors")}, r"v\.safetensors"),
        ({"widths": (8, 16)}, {}, "the recipe: widths and encoder_convs take five"),
    ],
)
def test_what_is_missing_is_found_before_the_data_is_read(
    own: Path, tmp_path: Path, changes: dict[str, Any], begin: dict[str, Any], message: str
) -> None:
    parts = parts_of(own, tmp_path, **changes)
    told = list[str]()
    with pytest.raises(DeconvSegError, match=message):
        start(parts, tmp_path / "run", begin, note=told.append)
    assert not told
    assert not list((tmp_path / "run").iterdir())


def test_soft_labels_teach(own: Path, tmp_path: Path) -> None:
    """With scores that call everything a disc and outweigh the masks, the network does so."""
    (tmp_path / "scores").mkdir()
    changes = {"copy_paste": 0.3, "steps": 30, "warmup_steps": 20}
    for photo in parts_of(own, tmp_path)[1].examples:
        width, height = Image.open(photo.image).size
        scores = np.zeros((3, height, width), np.float16)
        scores[1] = 1
        np.savez(tmp_path / f"scores/{photo.name}.scores.npz", probabilities=scores, classes=[*OWN_CLASSES])
    parts = parts_of(own, tmp_path, (tmp_path / "scores",), **changes, scores_weight=50)
    folder = start(parts, tmp_path / "run")
    segmenter = Segmenter(folder / "last.safetensors", proposals=0, crf=False)
    assert segmenter.segment(np.full((64, 64, 3), 115, np.uint8)).class_shares()["disc"] > 0.9
