"""Which part of a photo is looked into, and what is kept of its way through the network."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.inspect.trace import follow, trace
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.segmenter import Segmenter

Make = Callable[[int, int], PhotoPixels]


def network(*decoder_convs: int) -> DeconvNet:
    torch.manual_seed(0)
    made = DeconvNet(3, 64, widths=(4, 4, 6, 6, 6), bottleneck=8, decoder_convs=decoder_convs)
    for module in made.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return made.eval().requires_grad_(False)


def test_whole_photo_is_the_square_around_it(exact: Segmenter, make_photo: Make) -> None:
    found = trace(exact, make_photo(60, 90), None, None)
    assert found.numbers == {"width": 90, "height": 60, "box": [0, -15, 90, 75], "class": None}
    assert found.crop.shape == (32, 32, 3)
    # a row of the crop is 90 / 32 of the photo's, so the photo is rows 15 * 32 / 90 = 5.3 to 26.7
    assert found.inside == (slice(5, 27), slice(0, 32))
    assert found.cells(8) == [slice(1, 7), slice(0, 8)]
    assert not found.crop[:4].any() and not found.crop[28:].any() and found.crop[6:26].any()


def test_box_is_squared_and_counts_in_pixels_of_the_whole_photo(exact: Segmenter, make_photo: Make) -> None:
    photo = make_photo(60, 90)
    pixel_by_pixel = trace(exact, photo, (10, 20, 42, 52), None)
    assert np.array_equal(pixel_by_pixel.crop, photo.image[20:52, 10:42])
    assert trace(exact, photo, (20, 30, 40, 40), None).numbers["box"] == [20, 25, 40, 45]
    reduced = trace(exact, PhotoPixels(photo.image, 600, 900), (200, 300, 400, 400), None)
    assert reduced.numbers["box"] == pytest.approx([200, 250, 400, 450])
    for size in ((1, 1), (2, 700), (700, 2)):  # there is always something inside
        found = trace(exact, make_photo(*size), None, None)
        assert all(0 <= part.start < part.stop <= n for n in (32, 16, 1) for part in found.cells(n))


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 0, 10), "not four finite numbers"),
        ((0, 0, math.nan, 10), "not four finite numbers"),
        ((0, 0, math.inf, 10), "not four finite numbers"),
        ((10, 0, 10, 10), "empty or reversed"),
        ((0, 20, 10, 10), "empty or reversed"),
        ((90, 0, 100, 10), "outside the photo, which has 90 x 60 pixels"),
        ((-20, 0, 0, 10), "outside the photo"),
        ((0, 0, 1e9, 10), "times as long as the photo.*; give a smaller one"),
    ],
)
def test_boxes_that_show_nothing_are_refused(
    box: tuple[float, ...], words: str, exact: Segmenter, make_photo: Make
) -> None:
    with pytest.raises(UsageError, match=words):
        trace(exact, make_photo(60, 90), box, None)


def test_classes_networks_and_precisions_that_cannot_be_are_refused(
    exact: Segmenter, tiny_network: Path, tiny_fcn: Path, make_photo: Make
) -> None:
    photo = make_photo(30, 30)
    with pytest.raises(UsageError, match="did you mean person"):
        trace(exact, photo, None, "persn")
    with pytest.raises(UsageError, match="no class of this network"):
        trace(exact, photo, None, "background")
    with pytest.raises(UsageError, match=r"fcn\.safetensors: is an FCN-8s"):
        trace(Segmenter(tiny_fcn, precision="fp32"), photo, None, None)
    with pytest.raises(UsageError, match="in fp32"):
        trace(Segmenter(tiny_network, precision="bf16"), photo, None, None)


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
def test_maps_come_in_order_and_are_the_networks_own(
    decoder_convs: tuple[int, ...], names: list[str], sides: list[int]
) -> None:
    made, image = network(*decoder_convs), torch.rand(1, 3, 64, 64)
    maps, switches, scores = follow(made, image)
    torch.testing.assert_close(scores.detach(), made(image)[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())
    encoded = [maps.pop(f"pool{number}") for number in range(1, 6)]
    assert [before.shape[-1] for before in encoded] == [64, 32, 16, 8, 4]
    assert list(maps) == names and [found.shape[-1] for found in maps.values()] == sides
    # the two halves meet: what is unpooled is the map before, at the encoder's switches
    unpooled = functional.max_unpool2d(maps["fc6_deconv"], switches[4][None], [2, 2])
    assert torch.equal(maps["unpool5"], unpooled)
    assert torch.equal(functional.max_pool2d(encoded[2], 2, return_indices=True)[1][0], switches[2])


def test_gradients_tell_what_a_small_change_of_a_map_does() -> None:
    made = network(1, 1)
    maps, _, scores = follow(made, torch.rand(1, 3, 64, 64))
    (gradient,) = torch.autograd.grad(scores[1].sum(), [maps["deconv4_1"]])
    # from the last map on all is linear: a 1x1 convolution, then an enlargement of 8 x 8 to 64 x 64
    want = made.seg_score.weight[1, :, 0, 0].numpy() * 64 * 64
    np.testing.assert_allclose(gradient[0].sum((1, 2)), want, rtol=1e-4)
