"""Large photos are reduced while they are read: in little memory, and to the same picture."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.errors import InputError
from deconvseg.images.read import REDUCED_SIDE, has_size, read_image, read_photo

RAMP = np.tile(np.arange(256, dtype=np.uint8), (16, 16)).T.copy()  # 4096 x 16


def test_small_photo_is_not_reduced(tmp_path: Path) -> None:
    Image.fromarray(RAMP[:300]).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.image, read_image(tmp_path / "a.png"))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_photo_is_the_photo_made_smaller(tmp_path: Path, suffix: str, orientation: int) -> None:
    rows, columns = np.mgrid[:1000, : 4 * REDUCED_SIDE]
    image = np.stack([rows // 4, columns // 25, (rows + columns) // 32], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(image).save(path, exif=exif, quality=95)
    photo, whole = read_photo(path), read_image(path)
    assert (photo.height, photo.width) == whole.shape[:2]
    assert max(photo.image.shape) == REDUCED_SIDE
    height, width = photo.image.shape[:2]
    means = whole.reshape(height, 4, width, 4, 3).mean((1, 3))
    assert np.abs(photo.image - means).max() < (1 if suffix == "png" else 6)
    np.testing.assert_array_equal(photo.image, read_photo(path).image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_strips_do_not_show(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = (
        Image.fromarray(RAMP.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(RAMP).convert(mode)
    )
    path = tmp_path / ("a.tif" if mode in ("CMYK", "F", "I") else "a.png")
    image.save(path)
    whole, photo = read_image(path), read_photo(path)
    monkeypatch.setattr("deconvseg.images.pixels._STRIP_PIXELS", 64)
    np.testing.assert_array_equal(read_image(path), whole)
    np.testing.assert_array_equal(read_photo(path).image, photo.image)
    assert (photo.height, photo.width) == (4096, 16)
    assert photo.image.shape == (2048, 8, 3)
    assert np.abs(photo.image - whole.reshape(2048, 2, 8, 2, 3).mean((1, 3))).max() < 1


def test_thin_photo(tmp_path: Path) -> None:
    Image.new("RGB", (1, 40_000), "teal").save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    assert (photo.height, photo.width) == (40_000, 1)
    assert photo.image.shape == (1539, 1, 3)
    assert (photo.image == (0, 128, 128)).all()


def test_limit_of_pixels(tmp_path: Path) -> None:
    Image.new("1", (300, 100)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="megapixels, and"):
        read_photo(tmp_path / "a.png", max_pixels=29_999)


def test_more_pixels_than_pillow_opens_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000), 1).save(path, compress_level=1)
    limit = Image.MAX_IMAGE_PIXELS
    photo = read_photo(path)
    assert (photo.width, photo.height) == (20_000, 10_000)
    assert photo.image.shape == (770, 1539, 3)  # a 13th, rounded up
    assert (photo.image == 255).all()
    assert has_size(path, 20_000, 10_000)
    assert limit == Image.MAX_IMAGE_PIXELS


MEMORY = """
import resource, sys
from deconvseg.images.read import read_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_photo(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_of_a_large_palette_photo(tmp_path: Path) -> None:
    """1 byte a pixel for Pillow's image and some tens of MB; as RGB it would be 4 and more."""
    Image.new("P", (10_000, 10_000)).save(tmp_path / "a.png", compress_level=1)
    command = [sys.executable, "-c", MEMORY, tmp_path / "a.png"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(answer.stdout) * 1024 < 200_000_000
