"""Which part of a photo is looked into, and which parts cannot be."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.region import REACH, check_box, look_at
from deconvseg.segmenter import Segmenter

Make = Callable[[int, int], PhotoPixels]


def test_whole_photo_is_the_square_around_it(exact: Segmenter, make_photo: Make) -> None:
    region = look_at(exact, make_photo(60, 90))
    assert region.box == (0, -15, 90, 75)
    assert region.crop.shape == (32, 32, 3)
    # a row of the crop is 90 / 32 of the photo's, so the photo is rows 15 * 32 / 90 = 5.3 to 26.7
    assert region.inside == (slice(5, 27), slice(0, 32))
    assert region.cells(8) == (slice(1, 7), slice(0, 8))
    assert not region.crop[:4].any() and not region.crop[28:].any() and region.crop[6:26].any()


def test_box_of_the_networks_size_is_taken_pixel_by_pixel(exact: Segmenter, make_photo: Make) -> None:
    photo = make_photo(60, 90)
    region = look_at(exact, photo, (10, 20, 42, 52))
    assert np.array_equal(region.crop, photo.image[20:52, 10:42])
    mean, scale = np.array(exact.header.mean), exact.header.scale
    want = (region.crop - mean) * scale
    np.testing.assert_allclose(region.inputs[0].permute(1, 2, 0), want, atol=1e-5)


def test_box_is_squared_and_counts_in_pixels_of_the_whole_photo(exact: Segmenter, make_photo: Make) -> None:
    wide = look_at(exact, make_photo(60, 90), (20, 30, 40, 40))
    assert wide.box == (20, 25, 40, 45)
    reduced = PhotoPixels(make_photo(60, 90).image, 600, 900)
    assert look_at(exact, reduced, (200, 300, 400, 400)).box == pytest.approx((200, 250, 400, 450))


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
        ((0, -5, 10, -1), "outside the photo"),
        ((0, 0, 1e9, 10), "times as long as the photo.*; give a smaller one"),
    ],
)
def test_boxes_that_show_nothing_are_refused(box: tuple[float, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        check_box(box, 90, 60)
    assert "\n" not in str(refused.value)


@given(st.tuples(*[st.floats(-200, 200)] * 4), st.integers(1, 100), st.integers(1, 100))
def test_a_box_is_accepted_or_refused_with_one_line(box: tuple[float, ...], width: int, height: int) -> None:
    try:
        check_box(box, width, height)
    except UsageError as error:
        assert str(error).startswith("box ")
    else:
        x0, y0, x1, y1 = box
        assert max(x0, 0) < min(x1, width) and max(y0, 0) < min(y1, height)
        assert max(x1 - x0, y1 - y0) <= REACH * max(width, height)


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (700, 2)], ids=str)
def test_there_is_always_something_inside(exact: Segmenter, make_photo: Make, size: tuple[int, int]) -> None:
    region = look_at(exact, make_photo(*size))
    for cells in (32, 16, 1):
        for part in region.cells(cells):
            assert 0 <= part.start < part.stop <= cells


def test_other_networks_and_precisions_are_refused(
    tiny_network: Path, tiny_fcn: Path, make_photo: Make
) -> None:
    with pytest.raises(UsageError, match=r"fcn\.safetensors: is an FCN-8s, which has no unpooling"):
        look_at(Segmenter(tiny_fcn, precision="fp32"), make_photo(30, 30))
    with pytest.raises(UsageError, match="in fp32"):
        look_at(Segmenter(tiny_network, precision="bf16"), make_photo(30, 30))
