"""Mask files of every kind that data sets come with, and what is said of those that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy.io import savemat

from deconvseg.data.masks import VOID, MaskFormat, read_mask
from deconvseg.errors import DataError

VALUES = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
THREE = MaskFormat.indexed(3)
STREETS = MaskFormat(
    {0: 0, 7: 1, 255: VOID}, {(0, 0, 0): 0, (128, 64, 128): 1, (128, 64, 129): 2, (224, 224, 192): VOID}
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mask.png"


def test_palette_and_grey_masks_are_their_values_whatever_their_colours(path: Path) -> None:
    image = Image.fromarray(VALUES)
    image.save(path)
    np.testing.assert_array_equal(read_mask(path, THREE), VALUES)
    image.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    image.save(path)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(read_mask(path, THREE), VALUES)
    assert read_mask(path, THREE).dtype == np.uint8


def test_one_bit_masks_hold_zero_and_one(path: Path) -> None:
    values = np.array([[True, False], [False, True]])
    Image.fromarray(values).save(path)
    assert Image.open(path).mode == "1"
    np.testing.assert_array_equal(read_mask(path, MaskFormat.indexed(2)), values)


def test_values_may_stand_for_other_indices(path: Path) -> None:
    Image.fromarray(np.array([[7, 0, 255]], np.uint8)).save(path)
    np.testing.assert_array_equal(read_mask(path, STREETS), [[1, 0, 255]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_stand_for_classes(path: Path, mode: str) -> None:
    colors = np.array([[(128, 64, 128), (0, 0, 0)], [(224, 224, 192), (128, 64, 129)]], np.uint8)
    image = Image.fromarray(colors)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.array([[255, 0], [3, 255]], np.uint8)))
    image.save(path)
    np.testing.assert_array_equal(read_mask(path, STREETS), [[1, 0], [255, 2]])


@settings(max_examples=25, deadline=None)  # each needs a table of 16 million colours
@given(data=st.data())
def test_any_colours_are_looked_up_like_in_a_dictionary(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    channel = st.integers(0, 255)
    colors = data.draw(st.lists(st.tuples(channel, channel, channel), min_size=2, max_size=9, unique=True))
    index = data.draw(hnp.arrays(np.uint8, (3, 4), elements=st.integers(0, len(colors) - 1)))
    path = tmp_path_factory.getbasetemp() / "any.png"
    Image.fromarray(np.array(colors, np.uint8)[index]).save(path)
    masks = MaskFormat({}, {color: label for label, color in enumerate(colors)})
    np.testing.assert_array_equal(read_mask(path, masks), index)


def test_unknown_ids_are_counted_and_the_known_ones_named(path: Path) -> None:
    Image.fromarray(VALUES).save(path)
    with pytest.raises(
        DataError,
        match=r"mask\.png: mask holds ids that are no class: 2 \(2 pixels\); known are 0\.\.1, 255;",
    ):
        read_mask(path, MaskFormat.indexed(2))
    many = np.repeat(np.arange(11, 18, dtype=np.uint8), range(7, 0, -1))[None]
    Image.fromarray(many).save(path)
    with pytest.raises(DataError, match=r"11 \(7 pixels\), .*, 15 \(3 pixels\) and 2 more; known"):
        read_mask(path, MaskFormat.indexed(2))


def test_unknown_colours_are_counted_and_the_known_ones_named(path: Path) -> None:
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[1, :2] = (1, 2, 255)
    Image.fromarray(colors).save(path)
    with pytest.raises(
        DataError,
        match=r"mask\.png: mask holds colours that are no class: #0102ff \(2 pixels\); "
        "known are #000000, #804080, #804081, #e0e0c0;",
    ):
        read_mask(path, STREETS)


def test_modes_without_labels_are_refused(path: Path) -> None:
    Image.new("RGB", (2, 2)).save(path)
    with pytest.raises(
        DataError, match=r"mask\.png: mask has mode RGB; an 8-bit palette or grey PNG is needed"
    ):
        read_mask(path, THREE)
    Image.new("LA", (2, 2)).save(path)
    with pytest.raises(DataError, match="mode LA; an 8-bit palette, grey or RGB PNG is needed"):
        read_mask(path, STREETS)


def test_missing_and_damaged_masks_are_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"mask\.png: no such mask"):
        read_mask(path, THREE)
    noise = np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"no png", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"mask\.png: mask cannot be read") as caught:
            read_mask(path, THREE)
        assert "\n" not in str(caught.value)


def test_sbd_masks_are_read_from_their_struct(tmp_path: Path) -> None:
    path = tmp_path / "mask.mat"
    savemat(path, {"GTcls": {"Segmentation": VALUES, "CategoriesPresent": [1, 2]}})
    np.testing.assert_array_equal(read_mask(path, THREE), VALUES)
    with pytest.raises(DataError, match=r"mask\.mat: mask holds ids that are no class: 2"):
        read_mask(path, MaskFormat.indexed(2))


def test_other_mat_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.mat"
    with pytest.raises(DataError, match=r"mask\.mat: no such mask"):
        read_mask(path, THREE)
    savemat(path, {"GTinst": {"Segmentation": VALUES}})
    with pytest.raises(DataError, match=r"mask\.mat: no mask of SBD can be read \(KeyError"):
        read_mask(path, THREE)
    savemat(path, {"GTcls": {"Segmentation": VALUES.astype(float)}})
    with pytest.raises(DataError, match=r"is float64 \(2, 3\), not uint8"):
        read_mask(path, THREE)
    path.write_bytes(b"no mat")
    with pytest.raises(DataError, match=r"mask\.mat: no mask of SBD can be read"):
        read_mask(path, THREE)
