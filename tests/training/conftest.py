"""A tiny network, a recipe that trains it in seconds, and shapes to train it on."""

from collections.abc import Callable
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
from deconvseg.training.sampler import TrainingData

CPU = torch.device("cpu")
HEADER = NetworkHeader(
    ("background", "disc", "square"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)), (115.0, 115.0, 115.0), 1 / 64
)
RECIPE = Recipe(
    crop_size=32,
    widths=(8, 16, 16, 16, 16),
    encoder_convs=(1, 1, 1, 1, 1),
    decoder_convs=(1, 1, 1, 1),
    bottleneck=16,
    pretrained="none",
    frozen_blocks=0,
    steps=160,
    batch_size=16,
    learning_rate=5e-3,
    encoder_learning_rate=5e-3,
    warmup_steps=5,
    whole_share=0.3,
    canvas=96,
    ema=0.9,
    precision="fp32",
)


@dataclass(frozen=True)
class Shapes:
    """Photos of discs and squares to learn from, and others to validate on."""

    training: TrainingData
    validation: ImageStore


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory, make_shapes: Callable[..., Path]) -> Shapes:
    root = make_shapes(tmp_path_factory.mktemp("shapes") / "voc")
    sets = [voc_dataset(root, split) for split in ("train", "val")]
    stores = [ImageStore.load([partial(d.read, example) for example in d.examples], 96) for d in sets]
    return Shapes(TrainingData(stores[0], [example.name for example in sets[0].examples]), stores[1])


def small_network(recipe: Recipe = RECIPE, *, encoder_norm: bool = True) -> DeconvNet:
    torch.manual_seed(0)
    return DeconvNet(
        classes=3,
        crop_size=recipe.crop_size,
        widths=recipe.widths,
        encoder_convs=recipe.encoder_convs,
        decoder_convs=recipe.decoder_convs,
        bottleneck=recipe.bottleneck,
        encoder_norm=encoder_norm,
    )


def run(
    folder: Path, data: Shapes, options: dict[str, Any] | None = None, **changes: Any
) -> SegmentationNetwork:
    """Train in a folder, with the recipe changed; the network as it is afterwards."""
    folder.mkdir(exist_ok=True)
    recipe = replace(RECIPE, **changes)
    network = small_network(recipe)
    Training(
        network, HEADER, recipe, data.training, data.validation, folder, Options(CPU, **(options or {}))
    ).run()
    return network


def metrics(folder: Path) -> list[dict[str, float]]:
    return read_json_lines(folder / "metrics.jsonl")


FCN_RECIPE = replace(
    RECIPE,
    network="fcn8s",
    photo_side=96,
    optimizer="sgd",
    learning_rate=0.05,
    ema=0.0,
    steps=3,
    accumulate=2,
)


def network_without_norms() -> FCN8s:
    """What it does to a crop does not depend on the crops beside it."""
    torch.manual_seed(0)
    return FCN8s(
        classes=3, side=96, widths=RECIPE.widths, bottleneck=16, head_kernel=3, padding=1, dropout=0.0
    )
