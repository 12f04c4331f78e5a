"""Which part of a photo is looked into, and what is kept of its way through the network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.inspect.compute import follow, trace
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.segmenter import Segmenter

Make = Callable[[int, int], PhotoPixels]


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


def test_boxes_that_show_nothing_are_refused(exact: Segmenter, make_photo: Make) -> None:
    boxes = [
        "0,0,nan,10",
        "0,0,inf,10",
        "10,0,10,10",
        "0,20,10,10",
        "90,0,100,10",
        "-20,0,0,10",
        "0,0,1e9,10",
    ]
    words = "of the photo of 90 x 60 pixels, or is over 2 times as long; give"
    for box in boxes:
        with pytest.raises(UsageError, match=words):
            trace(exact, make_photo(60, 90), [float(number) for number in box.split(",")], None)


def test_classes_networks_and_precisions_that_cannot_be_are_refused(
    exact: Segmenter, tiny_network: Path, tiny_fcn: Path, make_photo: Make
) -> None:
    for segmenter, name, words in (
        (exact, "persn", "did you mean person"),
        (exact, "background", "no class of this network"),
        (Segmenter(tiny_fcn, precision="fp32"), None, r"fcn\.safetensors: is an FCN-8s"),
        (Segmenter(tiny_network, precision="bf16"), None, "in fp32"),
    ):
        with pytest.raises(UsageError, match=words):
            trace(segmenter, make_photo(30, 30), None, name)


def test_maps_come_in_order_and_are_the_networks_own() -> None:
    torch.manual_seed(0)
    made = DeconvNet(3, 64, widths=(4, 4, 6, 6, 6), bottleneck=8, decoder_convs=(3, 3, 3, 2))
    for module in made.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    made.eval().requires_grad_(False)
    image = torch.rand(1, 3, 64, 64)
    maps, switches, scores = follow(made, image)
    torch.testing.assert_close(scores.detach(), made(image)[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())
    encoded = [maps.pop(f"pool{number}") for number in range(1, 6)]
    assert [before.shape[-1] for before in encoded] == [64, 32, 16, 8, 4]
    names = ["fc6_deconv"]
    for block, convs in ((5, 3), (4, 3), (3, 3), (2, 2)):
        names += [f"unpool{block}", *(f"deconv{block}_{i}" for i in range(1, convs + 1))]
    assert list(maps) == names
    assert [found.shape[-1] for found in maps.values()] == [2] + [4] * 4 + [8] * 4 + [16] * 4 + [32] * 3
    # the two halves meet: what is unpooled is the map before, at the encoder's switches
    unpooled = functional.max_unpool2d(maps["fc6_deconv"], switches[4][None], [2, 2])
    assert torch.equal(maps["unpool5"], unpooled)
    assert torch.equal(functional.max_pool2d(encoded[2], 2, return_indices=True)[1][0], switches[2])
