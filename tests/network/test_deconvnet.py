"""The network: the paper's shape, unpooling by switches, other crop sizes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deconvseg.network.checkpoint import build_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck

TINY = {"classes": 3, "crop_size": 32, "widths": (4, 5, 6, 7, 8), "bottleneck": 9}
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
    network = DeconvNet(**{**TINY, **variant})
    size = network.crop_size
    scores = network(torch.randn(4, 3, size, size))
    assert scores.shape == (4, 3, size, size)
    scores.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_unpooling_puts_values_back_where_the_maxima_were() -> None:
    network = DeconvNet(**TINY).eval()
    torch.manual_seed(1)
    code, switches = network.encode(torch.randn(2, 3, 32, 32))
    seen: list[torch.Tensor] = []
    for stage in network.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.decode(code, switches)
    for unpooled, where in zip(seen, reversed(switches), strict=True):
        elsewhere = torch.ones_like(unpooled).flatten(2)
        elsewhere.scatter_(2, where.flatten(2), 0)
        assert unpooled.shape[-1] == 2 * where.shape[-1]
        assert torch.all(unpooled.flatten(2)[elsewhere.bool()] == 0)


def test_first_maximum_wins_ties_as_in_caffe() -> None:
    network = DeconvNet(**TINY)
    _, switches = network.eval().encode(torch.zeros(1, 3, 32, 32))
    rows, columns = switches[0][0, 0] // 32, switches[0][0, 0] % 32
    assert torch.equal(rows[:, 0], torch.arange(0, 32, 2))
    assert torch.equal(columns[0], torch.arange(0, 32, 2))


def test_resized_bottleneck_keeps_the_function_on_flat_features() -> None:
    torch.manual_seed(0)
    network = DeconvNet(**{**TINY, "crop_size": 96}).eval()
    # Constant kernels and constant features: the sum over the window must not depend on its size.
    flat = torch.rand(1, 8, 1, 1)
    constant = network.fc6.conv.weight.mean((2, 3), keepdim=True)
    network.fc6.conv.weight.data = constant.expand(-1, -1, 3, 3).clone()
    larger = resize_bottleneck(network, 160).eval()
    assert larger.arguments == {**network.arguments, "crop_size": 160}
    torch.testing.assert_close(
        network.fc6(flat.expand(-1, -1, 3, 3)), larger.fc6(flat.expand(-1, -1, 5, 5)), atol=1e-6, rtol=1e-5
    )
