"""A tiny network, a recipe that trains it in seconds, and shapes to train it on."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from deconvseg.data.crops import ImageStore
from deconvseg.data.voc import voc_dataset
from deconvseg.files import read_json_lines
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s
from deconvseg.training.loop import Options, Training
from deconvseg.training.recipe import Recipe
from deconvseg.training.sampler import CropSampler

from ..conftest import make_shapes

CPU = torch.device("cpu")
HEADER = NetworkHeader(
    ("background", "disc", "square"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)), (115.0, 115.0, 115.0), 1 / 64
)

TINY: dict[str, Any] = {
    "crop_size": 32,
    "widths": (4, 8, 8, 8, 8),
    "encoder_convs": (1, 1, 1, 1, 1),
    "decoder_convs": (1, 1, 1, 1),
    "bottleneck": 8,
    "pretrained": "none",
    "frozen_blocks": 0,
    "steps": 100,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "encoder_learning_rate": 5e-3,
    "warmup_steps": 5,
    "whole_share": 0.3,
    "canvas": 96,
    "ema": 0.9,
    "precision": "fp32",
}
RECIPE = Recipe(**TINY)


def recipe_text(**changes: Any) -> str:
    """The tiny recipe as TOML, with changes."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in (TINY | changes).items())


@dataclass(frozen=True)
class Shapes:
    """Photos of discs and squares to learn from, and others to validate on."""

    training: ImageStore
    validation: ImageStore


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    root = make_shapes(tmp_path_factory.mktemp("shapes") / "voc")
    sets = [voc_dataset(root, split) for split in ("train", "val")]
    stores = [ImageStore.load([partial(d.read, example) for example in d.examples], 96) for d in sets]
    return Shapes(*stores)


def small_network(recipe: Recipe = RECIPE, *, encoder_norm: bool = True) -> DeconvNet:
    torch.manual_seed(0)
    names = ("crop_size", "widths", "encoder_convs", "decoder_convs", "bottleneck")
    return DeconvNet(3, encoder_norm=encoder_norm, **{name: getattr(recipe, name) for name in names})


def network_without_norms() -> FCN8s:
    """What it does to a crop does not depend on the crops beside it."""
    torch.manual_seed(0)
    return FCN8s(3, side=96, widths=RECIPE.widths, bottleneck=8, head_kernel=3, padding=1, dropout=0.0)


def run(
    folder: Path,
    data: Shapes,
    options: dict[str, Any] | None = None,
    network: SegmentationNetwork | None = None,
    **changes: Any,
) -> SegmentationNetwork:
    """Train in a folder, with the recipe changed; the network as it is afterwards."""
    folder.mkdir(exist_ok=True)
    recipe = replace(RECIPE, **changes)
    network = network or small_network(recipe)
    sampler = CropSampler(data.training, recipe, CPU)
    Training(network, HEADER, sampler, data.validation, folder, Options(CPU, **(options or {}))).run()
    return network


def metrics(folder: Path) -> list[dict[str, float]]:
    return read_json_lines(folder / "metrics.jsonl")
