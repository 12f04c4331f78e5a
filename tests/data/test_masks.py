"""Mask files of every kind that data sets come with, and what is said of those that cannot be used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from deconvseg.data.masks import VOID, Color, MaskFormat, read_mask
from deconvseg.errors import DataError

VALUES = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
BLACK, RED, GREEN, WHITE, CLAY = (0, 0, 0), (128, 0, 0), (0, 128, 0), (255, 255, 255), (224, 224, 192)
THREE = MaskFormat.indexed(("ground", "red", "green"), (BLACK, RED, GREEN))
STREETS = MaskFormat({0: 0, 7: 1, 255: VOID}, {BLACK: 0, (128, 64, 128): 1, (128, 64, 129): 2, CLAY: VOID})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mask.png"


def save(path: Path, values: Any, palette: Sequence[Color], kind: str = "PNG", **more: Any) -> None:
    """Writes a palette mask."""
    image = Image.fromarray(np.array(values, np.uint8))
    image.putpalette([channel for color in palette for channel in color])
    image.save(path, kind, **more)


def test_grey_masks_and_those_of_one_bit_are_their_values(path: Path) -> None:
    for values in (VALUES, VALUES == 1):
        Image.fromarray(values).save(path)
        labels = read_mask(path, THREE)
        np.testing.assert_array_equal(labels, values)
        assert labels.dtype == np.uint8
    Image.fromarray(np.array([[7, 0, 255]], np.uint8)).save(path)
    np.testing.assert_array_equal(read_mask(path, STREETS), [[1, 0, 255]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_masks_are_turned_as_photos_are(path: Path, kind: str) -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    for color, label in STREETS.colors.items():
        colours[label == VALUES] = color
    for pixels, masks in [(colours, STREETS), (VALUES, THREE)][: 1 if kind == "WEBP" else 2]:
        for value, wanted in ((1, VALUES), (3, VALUES[::-1, ::-1]), (6, np.rot90(VALUES, -1)), (9, VALUES)):
            exif = Image.Exif()
            exif[0x0112] = value
            Image.fromarray(pixels).save(path, kind, exif=exif, lossless=True)
            np.testing.assert_array_equal(read_mask(path, masks), wanted)


@pytest.mark.parametrize(
    "palette",
    [
        [BLACK, RED, GREEN, *[CLAY] * 253],
        [(i, i, i) for i in range(256)],
        [*[(i, i, i) for i in range(255)], CLAY],
        [BLACK] * 256,
        [(i, 255 - i, 7) for i in range(256)],
        [BLACK, RED, *[BLACK] * 254],
        [(121, 4, 2), (6, 120, 0), (3, 1, 0), *[WHITE] * 253],
    ],
    ids=["right", "grey ramp", "void in colour", "black", "foreign", "filled up with black", "nearly"],
)
def test_palettes_that_agree_or_say_nothing_leave_the_ids(path: Path, palette: Any) -> None:
    save(path, VALUES, palette)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(read_mask(path, THREE), VALUES)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize(
    ("values", "palette"),
    [
        ([[0, 1, 2]], [BLACK, GREEN, RED]),
        ([[0, 1, 2]], [BLACK, GREEN, RED, *[(i, i, i) for i in range(3, 256)]]),
        ([[1]], [BLACK, GREEN]),
        ([[0]], [RED]),
        ([[0, 1]], [GREEN, BLACK, *[BLACK] * 254]),
        ([[0, 1, 2, 3]], [BLACK, RED, GREEN, RED]),
        ([[0, 1, 2]], [BLACK, CLAY, GREEN]),
        ([[0, 40]], [BLACK, *[WHITE] * 39, GREEN]),
        ([[0, 1, 2, 255]], [BLACK, GREEN, RED, *[WHITE] * 253]),
        ([[0, 1, 2]], [(9, 9, 9), GREEN, (8, 8, 8)]),
    ],
    ids=[
        *("swapped", "swapped in a whole palette", "one id", "two bits", "turned round", "one colour twice"),
        *("void", "an id of no class", "beside void in no known colour", "beside other colours"),
    ],
)
def test_palettes_that_show_other_classes_are_a_fault(
    path: Path, values: Any, palette: Any, kind: str
) -> None:
    save(path, values, palette, kind)
    with pytest.raises(DataError, match=r"mask\.png: in the mask's palette id \d+ has the colour of"):
        read_mask(path, THREE)


def test_the_class_whose_colour_it_is_is_named(path: Path) -> None:
    save(path, [[1, 1, 2]], [BLACK, GREEN, RED], transparency=bytes([0, 9, 255]))  # opacity changes nothing
    with pytest.raises(DataError, match=r"id 1 has the colour of 'green', #008000; ") as caught:
        read_mask(path, THREE)
    assert "\n" not in str(caught.value)


def test_colours_stand_for_classes(path: Path) -> None:
    image = Image.fromarray(np.array([[(128, 64, 128), BLACK], [CLAY, (128, 64, 129)]], np.uint8))
    for opacity in (None, Image.fromarray(np.array([[255, 0], [3, 255]], np.uint8))):
        if opacity:
            image.putalpha(opacity)
        image.save(path)
        np.testing.assert_array_equal(read_mask(path, STREETS), [[1, 0], [255, 2]])


def test_the_most_frequent_unknown_values_are_named(path: Path) -> None:
    many = np.repeat(np.arange(11, 18, dtype=np.uint8), range(7, 0, -1))[None]
    Image.fromarray(many).save(path)
    words = r"mask\.png: mask holds ids that are no class: 11 \(7 pixels\), .*, 15 \(3 pixels\); "
    with pytest.raises(DataError, match=words):
        read_mask(path, THREE)
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[1, :2] = (1, 2, 255)
    Image.fromarray(colors).save(path)
    words = r"mask\.png: mask holds colours that are no class: #0102ff \(2 pixels\); "
    with pytest.raises(DataError, match=words):
        read_mask(path, STREETS)


@pytest.mark.parametrize(
    ("mode", "kind", "masks", "words"),
    [
        ("RGB", "PNG", THREE, "mask has mode RGB; an 8-bit palette or grey PNG is needed"),
        ("LA", "PNG", STREETS, "mask has mode LA; an 8-bit palette, grey or RGB PNG is needed"),
        ("I;16", "PNG", THREE, "mask has mode I;16; an 8-bit"),
        ("L", "JPEG", THREE, "mask has mode JPEG; an 8-bit"),
        ("RGB", "JPEG", STREETS, "mask has mode JPEG; an 8-bit"),
    ],
)
def test_pictures_without_labels_are_refused(
    path: Path, mode: str, kind: str, masks: MaskFormat, words: str
) -> None:
    Image.new(mode, (2, 2)).save(path, kind)
    with pytest.raises(DataError, match=rf"mask\.png: {words}"):
        read_mask(path, masks)


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
    savemat(path, {"GTcls": {"Segmentation": VALUES + 1}})
    with pytest.raises(DataError, match=r"mask\.mat: mask holds ids that are no class: 3"):
        read_mask(path, THREE)
    savemat(path, {"GTinst": {"Segmentation": VALUES}})
    with pytest.raises(DataError, match=r"mask\.mat: mask cannot be read \(KeyError"):
        read_mask(path, THREE)
    savemat(path, {"GTcls": {"Segmentation": VALUES.astype(float)}})
    with pytest.raises(DataError, match=r"it is float64 \(2, 3\), not uint8"):
        read_mask(path, THREE)
