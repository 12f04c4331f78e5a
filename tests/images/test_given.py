"""What is taken for a photo besides files, and what is refused in words that help."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import InputError
from deconvseg.images.read import as_photo, read_image

RGB = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def as_rgb(photo: Any) -> NDArray[np.uint8]:
    return as_photo(photo).image


def test_an_array_is_copied() -> None:
    array = RGB.copy()
    photo = as_photo(array)
    array[:] = 0
    np.testing.assert_array_equal(photo.image, RGB)


def test_addresses_are_fetched() -> None:
    path = Path(__file__).parents[2] / "examples/cat.jpg"
    fsspec.filesystem("memory").pipe("/given/cat.jpg", path.read_bytes())
    np.testing.assert_array_equal(as_photo("memory://given/cat.jpg").image, read_image(path))
    with pytest.raises(InputError, match=r"memory://given/none\.jpg: cannot be read"):
        as_photo("memory://given/none.jpg")


def test_grey_and_transparent_arrays() -> None:
    np.testing.assert_array_equal(as_rgb(RGB[:, :, 0]), np.repeat(RGB[:, :, :1], 3, 2))
    clear = np.full((4, 5, 1), 0, np.uint8)
    clear[0] = 255
    seen = as_rgb(np.concatenate([RGB, clear], 2))
    np.testing.assert_array_equal(seen[0], RGB[0])
    assert (seen[1:] == 255).all()  # laid on white


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
def test_pillow_images_are_read_as_their_files_are(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    image = Image.fromarray(np.uint16(RGB[:, :, 0]) * 256) if mode == "I;16" else image.convert(mode)
    path = tmp_path / "a.tif"
    image.save(path)
    np.testing.assert_array_equal(as_rgb(image), read_image(path))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(as_rgb(opened), read_image(path))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_images_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(as_rgb(opened), read_image(path))
        assert opened.size == (5, 4)  # the user's image stays as it is
        assert as_photo(opened).height == len(read_image(path))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (RGB / 255, r"float64 array \(4, 5, 3\).*\(array \* 255\)\.round\(\)"),
        (RGB.astype(np.int64), "int64 .* give uint8"),
        (RGB > 3, "bool .* give uint8"),
        (RGB[:, :, 0] > 3, "bool .* give uint8"),
        (RGB.transpose(2, 0, 1), r"\(3, 4, 5\).*array\.transpose\(1, 2, 0\)"),
        (RGB[None], "several; give them one by one to segment_many"),
        (np.zeros((6, 5, 2), np.uint8), r"\(6, 5, 2\) is no photo: give a file's path"),
        (RGB[0, 0], r"\(3,\) is no photo: give a file's path"),
        (RGB[:0], "no pixels"),
        (Image.new("RGB", (0, 3)), "no pixels"),
        ([[1, 2], [3, 4]], r"builtins\.list is no photo; give a file's path"),
        (None, "NoneType is no photo"),
    ],
)
def test_no_photo(given: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        as_rgb(given)
    assert "\n" not in str(refused.value)


def test_float_array_that_follows_the_advice_is_taken() -> None:
    np.testing.assert_array_equal(as_rgb((RGB / 255 * 255).round().astype("uint8")), RGB)


def test_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with Image.open(path) as opened, pytest.raises(InputError, match=r"cut\.png: cannot be decoded"):
        as_rgb(opened)
    closed = Image.open(path)
    closed.close()
    with pytest.raises(InputError, match="cannot be decoded"):
        as_rgb(closed)
