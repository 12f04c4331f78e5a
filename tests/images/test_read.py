"""Files, Pillow images and arrays become upright 8-bit RGB; anything else one line that names it."""

import errno
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image, ImageOps

from deconvseg.errors import InputError
from deconvseg.images.read import as_photo, read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
NOISE = np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(NOISE[:40]), exif=exif)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
        np.testing.assert_array_equal(as_photo(opened).image, upright)
        assert opened.size == (99, 40)  # the user's image stays as it is
    np.testing.assert_array_equal(read_image(path), upright)


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    half = np.zeros((4, 8, 4), np.uint8)
    half[:, 4:, 3] = 255  # left half transparent, right half black
    palette = Image.fromarray(half[:, :, 3] // 255)
    palette.putpalette([9, 9, 9, 0, 0, 0])
    palette.info["transparency"] = 0
    for image in (Image.fromarray(half), Image.fromarray(half).convert("LA"), palette):
        read = read_image(save(tmp_path / "a.png", image))
        assert (read[:, :4] == 255).all() and (read[:, 4:] == 0).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (5, 4), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert (read_image(tmp_path / "a.gif") == (255, 0, 0)).all()


def test_streams_and_addresses() -> None:
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "PNG")
    np.testing.assert_array_equal(read_image(io.BytesIO(stream.getvalue())), RGB)
    with pytest.raises(InputError, match=r"^standard input: is empty"):
        read_image(io.BytesIO())
    fsspec.filesystem("memory").pipe("/given/a.png", stream.getvalue())
    np.testing.assert_array_equal(as_photo("memory://given/a.png").image, RGB)
    with pytest.raises(InputError, match=r"memory://given/none\.jpg: cannot be read"):
        as_photo("memory://given/none.jpg")


def test_heif(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.full((40, 64, 3), (200, 100, 50), np.uint8))
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=90, exif=exif.tobytes())
    read = read_image(tmp_path / "a.heic")
    assert read.shape == (64, 40, 3)
    assert np.abs(read.astype(int) - (200, 100, 50)).max() < 8


def test_more_pixels_than_pillow_opens_by_itself_in_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / name, Image.fromarray(NOISE)) for name in ("a.png", "a.tif")]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(paths[0])
    with ThreadPoolExecutor(9) as threads:
        assert all((image == NOISE).all() for image in threads.map(read_image, paths * 9))
    assert Image.MAX_IMAGE_PIXELS == 1000


MEMORY = """
import resource, sys
from deconvseg.images.read import read_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_photo(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_of_a_large_palette_photo(tmp_path: Path) -> None:
    """1 byte a pixel for Pillow's image and some tens of MB; as RGB it would be 4 and more."""
    path = save(tmp_path / "a.png", Image.new("P", (6000, 6000)), compress_level=1)
    answer = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    assert int(answer.stdout) * 1024 < 110_000_000


# What is no photo.


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.jpg")
    assert "is a folder; give a photo in it" in refused(tmp_path)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert f"cannot be read ({os.strerror(errno.ELOOP)})" in refused(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "p.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("p.jpg", "zero.jpg"):
        assert "is not a regular file; " in refused(tmp_path / name)
    (tmp_path / "a.jpg").touch()
    assert "is empty (0 bytes)" in refused(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_text("hello")
    assert "not an image" in refused(tmp_path / "a.jpg")


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript on it, whatever its name ends in."""
    save(tmp_path / "a.eps", Image.fromarray(RGB)).rename(tmp_path / "a.jpg")
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("a program was started"))
    assert "not an image" in refused(tmp_path / "a.jpg")


def test_heif_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deconvseg.images.read._register_heif", lambda: None)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert "for HEIF, pip install 'deconvseg[heif]'" in refused(tmp_path / "a.jpg")


# Pillow images and arrays.


def test_arrays_are_copied_and_transparent_ones_laid_on_white() -> None:
    array = np.concatenate([RGB, np.zeros((16, 16, 1), np.uint8)], 2)
    array[0, :, 3] = 255
    opaque = RGB.copy()
    photo, copied = as_photo(array), as_photo(opaque)
    array[:] = opaque[:] = 0
    np.testing.assert_array_equal(copied.image, RGB)
    np.testing.assert_array_equal(photo.image[0], RGB[0])
    assert (photo.image[1:] == 255).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pillow_images_are_read_as_their_files_are(mode: str, tmp_path: Path) -> None:
    wide = Image.fromarray(RAMP.astype(np.uint16) * 256)
    image = wide if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    path = save(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(as_photo(image).image, read_image(path))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(as_photo(opened).image, read_image(path))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (RGB / 255, r"float64 \(16, 16, 3\) is no photo; give a file's path, .* a uint8 array"),
        (RGB > 3, r"bool \(16, 16, 3\) is no photo"),
        (RGB.transpose(2, 0, 1), r"\(3, 16, 16\) is no photo; .*\(H, W, 3\)"),
        (RGB[None], r"\(1, 16, 16, 3\)"),
        (RGB[:0], "no pixels"),
        (Image.new("RGB", (0, 3)), "no pixels"),
        (RGB[..., :2], r"\(16, 16, 2\) is no photo"),
        (RGB[0, 0], r"\(3,\) is no photo"),
        (RGB[..., 0].astype(np.int8), "int8 .* is no photo"),
        ([[1, 2], [3, 4]], r"list is no photo; give a file's path"),
        (None, "NoneType is no photo"),
    ],
)
def test_no_photo(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        as_photo(given)
    assert "\n" not in str(refused.value)


def test_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.png", Image.fromarray(NOISE))
    path.write_bytes(path.read_bytes()[:9000])
    with Image.open(path) as opened, pytest.raises(InputError, match=r"cut\.png: cannot be decoded"):
        as_photo(opened)
    closed = Image.open(path)
    closed.close()
    with pytest.raises(InputError, match="cannot be decoded"):
        as_photo(closed)
