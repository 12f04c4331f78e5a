"""What is kept of a DeconvNet's way is what the network computes."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.trace import trace


def network(**arguments: object) -> DeconvNet:
    torch.manual_seed(0)
    made = DeconvNet(classes=3, crop_size=64, widths=(4, 4, 6, 6, 6), bottleneck=8, **arguments)  # type: ignore[arg-type]
    for module in made.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("decoder_convs", "names", "sides"),
    [
        (
            (3, 3, 3, 2, 2),
            [
                *("fc6_deconv", "unpool5", "deconv5_1", "deconv5_2", "deconv5_3"),
                *("unpool4", "deconv4_1", "deconv4_2", "deconv4_3"),
                *("unpool3", "deconv3_1", "deconv3_2", "deconv3_3"),
                *("unpool2", "deconv2_1", "deconv2_2", "unpool1", "deconv1_1", "deconv1_2"),
            ],
            [2] + [4] * 4 + [8] * 4 + [16] * 4 + [32] * 3 + [64] * 3,
        ),
        (
            (1, 2),
            ["fc6_deconv", "unpool5", "deconv5_1", "unpool4", "deconv4_1", "deconv4_2"],
            [2, 4, 4, 8, 8, 8],
        ),
    ],
    ids=["as in the paper", "short"],
)
def test_maps_come_in_order_and_size(
    decoder_convs: tuple[int, ...], names: list[str], sides: list[int]
) -> None:
    found = trace(network(decoder_convs=decoder_convs), torch.rand(1, 3, 64, 64))
    assert list(found.decoded) == names
    assert [maps.shape[-1] for maps in found.decoded.values()] == sides
    assert all((maps >= 0).all() for maps in found.decoded.values())
    assert [len(maps[0]) for maps in found.encoded] == [64, 32, 16, 8, 4]
    assert [len(where[0]) for where in found.switches] == [32, 16, 8, 4, 2]


def test_it_is_the_networks_own_way_and_leaves_no_trace_in_it() -> None:
    made, image = network(decoder_convs=(2, 2, 1)), torch.rand(1, 3, 64, 64)
    found = trace(made, image)
    torch.testing.assert_close(found.scores.detach(), made(image)[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())
    # the two halves meet: what is unpooled is the map before, at the encoder's switches
    for before, after, pooling in (("fc6_deconv", "unpool5", 4), ("deconv5_2", "unpool4", 3)):
        want = functional.max_unpool2d(found.decoded[before], found.switches[pooling][None], [2, 2])
        assert torch.equal(found.decoded[after], want)
    pooled, where = functional.max_pool2d(found.encoded[2][None], 2, return_indices=True)
    assert torch.equal(where[0], found.switches[2])
    assert (pooled >= 0).all()


def test_gradients_tell_what_a_small_change_of_a_map_does() -> None:
    made, image = network(decoder_convs=(1, 1)), torch.rand(1, 3, 64, 64)
    found = trace(made, image)
    score, last = found.scores[1].sum(), found.decoded["deconv4_1"]
    (gradient,) = torch.autograd.grad(score, [last])
    # from the last map on all is linear: a 1x1 convolution, then an enlargement of 8 x 8 to 64 x 64
    weights = made.seg_score.weight[1, :, 0, 0].numpy()
    want = np.broadcast_to(weights[:, None, None] * 64, gradient[0].shape)
    np.testing.assert_allclose(gradient[0].sum((1, 2)), want.sum((1, 2)), rtol=1e-4)
