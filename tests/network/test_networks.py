"""The networks: the paper's shape, sizes and alignment of maps, pooling, starts and averages."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from deconvseg.errors import UsageError
from deconvseg.network.base import average, rebuilt, replace_classes
from deconvseg.network.checkpoint import build_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck
from deconvseg.network.fcn import FCN
from deconvseg.network.fcn8s import FCN8s, start_from_deconvnet

from .networks import ZOO, deconvnet, fcn, fcn8s, randomised

VARIANTS = [
    {},
    {"encoder_norm": False},
    {"decoder_convs": (2, 2, 2, 1)},
    {"decoder_convs": (1,)},
    {"encoder_convs": (1, 1, 1, 1, 1), "decoder_convs": (1, 1, 1, 1, 1)},
    {"crop_size": 96},
]


def test_default_is_the_papers_network() -> None:
    network = build_network("deconvnet", {})
    assert sum(p.numel() for p in network.parameters()) == 251_805_653
    counter = FlopCounterMode(display=False)
    with counter:
        scores = network.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    assert scores.shape == (1, 21, 224, 224)
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(32.75, abs=0.01)  # GMAC


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_scores_have_the_crops_size_and_gradients_reach_every_parameter(variant: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = deconvnet(**variant)
    size = network.crop_size
    scores = network(torch.randn(4, 3, size, size))
    assert scores.shape == (4, 3, size, size)
    scores.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_resized_bottleneck_keeps_the_function_on_flat_features() -> None:
    torch.manual_seed(0)
    network = deconvnet(crop_size=96).eval()
    # Constant kernels and constant features: the sum over the window must not depend on its size.
    flat = torch.rand(1, 8, 1, 1)
    constant = network.fc6.conv.weight.mean((2, 3), keepdim=True)
    network.fc6.conv.weight.data = constant.expand(-1, -1, 3, 3).clone()
    larger = resize_bottleneck(network, 160).eval()
    assert larger.arguments == {**network.arguments, "crop_size": 160}
    torch.testing.assert_close(
        network.fc6(flat.expand(-1, -1, 3, 3)), larger.fc6(flat.expand(-1, -1, 5, 5)), atol=1e-6, rtol=1e-5
    )


@pytest.fixture(scope="module")
def network() -> FCN:
    return randomised(fcn())


@torch.no_grad()
def test_what_is_no_whole_cell_is_padded_as_the_mean_colour(network: FCN) -> None:
    images = torch.rand(2, 3, 33, 64)
    padded = functional.pad(images, (0, 0, 0, 15))
    scores, presence = network.scores_and_code(images)
    assert scores.shape == (2, 3, 33, 64) and presence.shape == (2, 3)
    assert torch.equal(network(images), scores)
    want, same = network.scores_and_code(padded)
    assert torch.equal(scores, want[:, :, :33]) and torch.equal(presence, same)


@pytest.mark.parametrize("cells", [(4, 4), (3, 5), (1, 1)])
def test_what_is_pooled_are_means_maxima_and_the_best_quarter(network: FCN, cells: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pool5 = torch.rand(2, 8, *cells)
    features = pool5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    means, most, best = network.pooled(features).split(8, 1)
    halves = functional.adaptive_avg_pool2d(pool5, 2)
    torch.testing.assert_close(means, halves.mean((2, 3), keepdim=True))
    torch.testing.assert_close(best, halves.amax((2, 3), keepdim=True))
    torch.testing.assert_close(most, pool5.amax((2, 3), keepdim=True))


@pytest.mark.parametrize(("changes", "side"), [(ZOO, 58), (ZOO, 90), ({}, 64), ({}, 96)], ids=str)
@torch.no_grad()
def test_a_mirrored_photo_gets_mirrored_scores(changes: dict[str, object], side: int) -> None:
    """True for symmetric kernels, and only if every map lies where the next one takes it to be."""
    network = randomised(fcn8s(**changes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_((module.weight + module.weight.flip(2)) / 2)
            module.weight.copy_((module.weight + module.weight.flip(3)) / 2)
    photo = torch.randn(1, 3, side, side)
    scores = network(photo)
    for axis in (2, 3):
        torch.testing.assert_close(network(photo.flip(axis)), scores.flip(axis), atol=1e-4, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([ZOO, {}]))
def test_scores_have_the_photos_size(height: int, width: int, changes: dict[str, object]) -> None:
    with torch.no_grad():
        scores, code = randomised(fcn8s(**changes)).scores_and_code(torch.randn(1, 3, height, width))
    assert scores.shape == (1, 3, height, width)
    assert code.shape[:2] == (1, 16)
    assert scores.isfinite().all()


@torch.no_grad()
def test_start_from_deconvnet_takes_over_its_code() -> None:
    source = randomised(deconvnet(classes=5, crop_size=96, encoder_norm=False))
    network = fcn8s(side=96, head_kernel=3)
    start_from_deconvnet(network, source)
    photo = torch.randn(2, 3, 96, 96)
    code = network.eval().scores_and_code(photo)[1]
    # The middle one of 3 x 3 cells sees the same 3 x 3 cells that the DeconvNet's only one does.
    torch.testing.assert_close(code[:, :, 1:2, 1:2], source.scores_and_code(photo)[1])
    with pytest.raises(ValueError, match="other layers"):
        start_from_deconvnet(network, deconvnet())


@torch.no_grad()
def test_other_classes_and_another_side_keep_the_rest() -> None:
    network = randomised(fcn8s())
    photo = torch.randn(1, 3, 64, 64)
    code = network.scores_and_code(photo)[1]
    changed = replace_classes(network, 7).eval()
    scores, same = changed.scores_and_code(photo)
    torch.testing.assert_close(same, code)
    assert scores.shape[1] == 7
    assert torch.equal(changed.score_pool3.norm.running_var, network.score_pool3.norm.running_var)
    resized = rebuilt(network, side=128).eval()
    assert resized.side == resized.arguments["side"] == 128
    torch.testing.assert_close(resized(photo), network(photo))


def test_enlarging_is_bilinear_and_stays_so() -> None:
    network = fcn8s(classes=2)
    small = torch.rand(1, 2, 6, 7)
    large = network.upscore8(small)[:, :, 4:-4, 4:-4]
    want = functional.interpolate(small, scale_factor=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(large[:, :, 4:-4, 4:-4], want[:, :, 4:-4, 4:-4])
    assert not any(p.requires_grad for name, p in network.named_parameters() if "upscore" in name)


def test_the_encoders_of_two_kinds() -> None:
    first, second = randomised(deconvnet(encoder_norm=False)), fcn8s()
    old = copy.deepcopy(first.state_dict())
    average(first.encoder, second.encoder, 1.0)
    for name, values in first.state_dict().items():
        want = second.state_dict()[name] if name.startswith("encoder.") else old[name]
        assert torch.equal(values, want), name


def test_an_average_moves_weights_and_statistics_by_its_share() -> None:
    mean, value = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    nn.init.constant_(value.weight, 3.0)
    value.running_mean.fill_(1.0)
    average(mean, value, 0.25)
    assert (mean.weight.item(), mean.running_mean.item()) == (1.5, 0.25)


def test_networks_of_different_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="different layers"):
        average(deconvnet(), deconvnet(encoder_norm=False), 0.5)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (DeconvNet, {"crop_size": 100}, "multiple of 32"),
        (DeconvNet, {"crop_size": 0}, "at least 1"),
        (DeconvNet, {"widths": (8, 8)}, "five entries"),
        (DeconvNet, {"decoder_convs": ()}, "one to five"),
        (DeconvNet, {"classes": 1}, "must be 2 to 255"),
        (FCN8s, {"encoder_convs": (1, 1, 1, 1)}, "five entries"),
        (FCN8s, {"head_kernel": 4}, "head_kernel 4 is not an odd"),
        (FCN8s, {"padding": 50}, "padding 50 is too small"),
        (FCN, {"dropout": 1.0}, "dropout 1.0 is not"),
        (FCN, {"skip": 0}, "at least 1"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(kind: Any, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{"classes": 4, "widths": (8,) * 5, **wrong})
