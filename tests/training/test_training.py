"""Training: it learns, it can be stopped anywhere, and its crops are what they should be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deconvseg.data.crops import ImageStore
from deconvseg.data.voc import read_examples, read_mask
from deconvseg.errors import DeconvSegError
from deconvseg.images.read import read_image
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.training.loop import schedule, train, update_average
from deconvseg.training.recipe import Recipe
from deconvseg.training.stages import CropSampler, jitter_colours

CPU = torch.device("cpu")
HEADER = NetworkHeader(
    ("background", "disc", "square"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)), (115.0, 115.0, 115.0), 1 / 64
)
RECIPE = Recipe(
    crop_size=32,
    bottleneck=16,
    frozen_blocks=0,
    steps=160,
    batch_size=16,
    learning_rate=5e-3,
    encoder_learning_rate=5e-3,
    warmup_steps=5,
    whole_share=0.3,
    ema=0.9,
    precision="fp32",
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, make_shapes: Callable[..., Path]) -> list[ImageStore]:
    root = make_shapes(tmp_path_factory.mktemp("shapes") / "voc")
    return [
        ImageStore.load(((read_image(e.image), read_mask(e.mask, 3)) for e in examples), len(examples), 96)
        for examples in (read_examples(root, "train"), read_examples(root, "val"))
    ]


def small_network() -> DeconvNet:
    torch.manual_seed(0)
    return DeconvNet(
        classes=3,
        crop_size=32,
        widths=(8, 16, 16, 16, 16),
        encoder_convs=(1, 1, 1, 1, 1),
        decoder_convs=(1, 1, 1, 1),
        bottleneck=16,
    )


def run(folder: Path, stores: list[ImageStore], recipe: Recipe = RECIPE, **options: object) -> None:
    folder.mkdir(exist_ok=True)
    train(small_network(), HEADER, recipe, *stores, folder, device=CPU, **options)  # type: ignore[arg-type]


def test_a_small_network_learns_shapes_and_its_file_loads(tmp_path: Path, stores: list[ImageStore]) -> None:
    reports: list[dict[str, float]] = []
    run(tmp_path, stores, report=reports.append)
    losses = [figures["loss"] for figures in reports if "loss" in figures]
    assert losses[-1] < 0.4 * losses[0]
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["val_whole_image_miou"] > 0.5  # all background is 0.29
    network, header = load_network(tmp_path / "best.safetensors")
    assert header.classes == HEADER.classes
    assert header.training["recipe"]["steps"] == RECIPE.steps
    assert network.crop_size == 32


def test_stopped_and_resumed_ends_bit_for_bit_the_same(tmp_path: Path, stores: list[ImageStore]) -> None:
    recipe = Recipe(**{**RECIPE.__dict__, "steps": 24})
    run(tmp_path / "whole", stores, recipe)
    run(tmp_path / "parts", stores, recipe, limit_steps=7)
    run(tmp_path / "parts", stores, recipe, resume=True, limit_steps=10)
    run(tmp_path / "parts", stores, recipe, resume=True)
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    tmp_path: Path, stores: list[ImageStore]
) -> None:
    run(tmp_path, stores, limit_steps=3)
    kept = (tmp_path / "state.pt").read_bytes()
    wild = Recipe(**{**RECIPE.__dict__, "learning_rate": 1e38, "encoder_learning_rate": 1e38})
    with pytest.raises(DeconvSegError, match=r"not a number at step .*checkpoint is kept"):
        run(tmp_path, stores, wild, resume=True)
    assert (tmp_path / "state.pt").read_bytes() == kept


def test_frozen_blocks_keep_their_weights(tmp_path: Path, stores: list[ImageStore]) -> None:
    recipe = Recipe(**{**RECIPE.__dict__, "frozen_blocks": 2, "steps": 5})
    network = small_network()
    before = {name: p.clone() for name, p in network.named_parameters()}
    train(network, HEADER, recipe, *stores, tmp_path, device=CPU)
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith(("encoder.0", "encoder.1")) for name in changed)
    assert any(name.startswith("encoder.2") for name in changed)


def test_a_steps_batch_is_always_the_same_and_others_differ(stores: list[ImageStore]) -> None:
    sampler, again = (CropSampler(stores[0], RECIPE, CPU) for _ in range(2))
    first, second = sampler.batch(5), again.batch(5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], sampler.batch(6)[0])


def test_classes_are_drawn_equally_often(stores: list[ImageStore]) -> None:
    recipe = Recipe(
        **{
            **RECIPE.__dict__,
            "object_share": 1.0,
            "whole_share": 0.0,
            "scale_jitter": 1.0,
            "shift_jitter": 0.0,
        }
    )
    sampler = CropSampler(stores[0], recipe, CPU)
    # The middle of an object-centred crop is the object: discs and squares come equally often.
    middle = torch.cat([sampler.batch(step)[1][:, 16, 16] for step in range(40)])
    shares = torch.bincount(middle, minlength=3) / len(middle)
    assert shares[0] == 0
    assert abs(float(shares[1]) - 0.5) < 0.08


def test_colour_jitter_by_hand() -> None:
    crops = torch.tensor([100.0, 50.0, 30.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    one, half = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 0.5)
    torch.testing.assert_close(jitter_colours(crops, one, one, one), crops)
    assert jitter_colours(crops, half, one, one)[0, :, 0, 0].tolist() == [50, 25, 15]
    assert jitter_colours(crops, one, one, 0 * one)[0, :, 0, 0].tolist() == [60, 60, 60]
    assert jitter_colours(crops, 5 * one, one, one).max() == 255


def test_schedule_rises_then_falls_to_zero() -> None:
    recipe = Recipe(steps=100, warmup_steps=10)
    rates = [schedule(step, recipe) for step in range(101)]
    assert rates[9] == rates[10] == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)


def test_average_moves_by_its_decay() -> None:
    mean, value = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
    torch.nn.init.constant_(value.weight, 3.0)
    value.running_mean.fill_(1.0)
    value.num_batches_tracked.fill_(4)
    update_average(mean, value, 0.75)
    assert mean.weight.item() == 1.5
    assert mean.running_mean.item() == 0.25
    assert mean.num_batches_tracked.item() == 4
