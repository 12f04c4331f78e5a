"""The network: the paper's shape, unpooling by switches, other crop sizes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deconvseg.network.checkpoint import build_network
from deconvseg.network.deconvnet import resize_bottleneck

from .networks import deconvnet

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
