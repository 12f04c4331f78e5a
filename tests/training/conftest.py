"""A tiny network, a recipe that trains it in seconds, and shapes to train it on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deconvseg.data.crops import ImageStore
from deconvseg.data.dataset import DataSet
from deconvseg.data.voc import voc_dataset
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.training.loop import TrainingData, train
from deconvseg.training.recipe import Recipe

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


def load(dataset: DataSet) -> ImageStore:
    return ImageStore.load((dataset.read(example) for example in dataset.examples), len(dataset.examples), 96)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory, make_shapes: Callable[..., Path]) -> TrainingData:
    root = make_shapes(tmp_path_factory.mktemp("shapes") / "voc")
    training, validation = (voc_dataset(root, split) for split in ("train", "val"))
    return TrainingData(load(training), [example.name for example in training.examples], load(validation))


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
    folder: Path, data: TrainingData, options: dict[str, object] | None = None, **changes: object
) -> None:
    """Train in a folder, with the recipe changed."""
    folder.mkdir(exist_ok=True)
    recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
    train(small_network(recipe), HEADER, recipe, data, folder, device=CPU, **(options or {}))  # type: ignore[arg-type]
