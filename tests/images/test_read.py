"""Any photo becomes upright 8-bit RGB; anything else one line that names the file."""

import errno
import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.errors import InputError
from deconvseg.images.read import has_size, read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_unchanged(tmp_path: Path) -> None:
    read = read_image(save(tmp_path / "a.png", Image.fromarray(RGB)))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, RGB)


def test_grey_fills_three_channels(tmp_path: Path) -> None:
    read = read_image(str(save(tmp_path / "a.png", Image.fromarray(RAMP))))
    np.testing.assert_array_equal(read, np.repeat(RAMP[:, :, None], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((24, 40, 3), np.uint8)
    stored[:12, :20] = 255  # white in the stored picture's top left quarter
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_image(save(tmp_path / "a.jpg", Image.fromarray(stored), exif=exif, quality=95))
    # Where the EXIF standard puts the stored row 0 and column 0 on the display.
    top = orientation in (1, 2, 5, 6)
    left = orientation in (1, 4, 5, 8)
    assert read.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    height, width = read.shape[:2]
    row, column = (0 if top else height - 1), (0 if left else width - 1)
    assert read[row, column].min() > 200
    assert read[height - 1 - row, column].max() < 50
    assert read[row, width - 1 - column].max() < 50


def test_damaged_exif_does_not_cost_the_photo(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(RGB), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff broken")
    assert read_image(path).shape == (16, 16, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    wide = (RAMP.astype(np.uint16) * 257).astype(np.uint16)
    read = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(wide)))
    np.testing.assert_array_equal(read[:, :, 1], RAMP)


def test_16_bit_rgb(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    wide = RGB.astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / "a.png"), wide[:, :, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)


def test_float_is_stretched_to_its_own_range(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[-1.0, 0.0, np.nan, 1.0]], np.float32)))
    assert read_image(path)[0, :, 0].tolist() == [0, 128, 0, 255]


def test_constant_float_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.full((2, 3), 7.5, np.float32)))
    assert read_image(path).shape == (2, 3, 3)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = read_image(save(tmp_path / "a.jpg", cyan, quality=95))[4, 4]
    assert red < 20
    assert green > 235
    assert blue > 235


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_parts_lie_on_white(tmp_path: Path, mode: str) -> None:
    half = np.zeros((4, 8, 4), np.uint8)
    half[:, 4:, 3] = 255  # left half transparent, right half black
    image = Image.fromarray(half)
    if mode == "P":
        image = Image.fromarray(np.repeat([[0] * 4 + [1] * 4], 4, axis=0).astype(np.uint8))
        image.putpalette([9, 9, 9, 0, 0, 0])
        path = save(tmp_path / "a.png", image, transparency=0)
    elif mode == "PA":
        path = save(tmp_path / "a.gif", image)
    else:
        path = save(tmp_path / "a.png", image.convert(mode))
    read = read_image(path)
    assert (read[:, :4] == 255).all()
    assert (read[:, 4:] == 0).all()


def test_one_bit_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RAMP > 100))
    assert set(np.unique(read_image(path))) == {0, 255}


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == (255, 0, 0)).all()


def test_stream() -> None:
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "PNG")
    np.testing.assert_array_equal(read_image(io.BytesIO(stream.getvalue())), RGB)
    with pytest.raises(InputError, match=r"^standard input: is empty"):
        read_image(io.BytesIO())


def test_one_pixel(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "a.png", Image.new("RGB", (1, 1), "red"))).tolist() == [[[255, 0, 0]]]


def test_large_photo_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = save(tmp_path / "a.png", Image.new("1", (10_000, 9_000)))
    assert read_image(path).shape == (9_000, 10_000, 3)
    assert not recwarn.list


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.jpg")


def test_folder(tmp_path: Path) -> None:
    assert "folder" in refused(tmp_path)


def test_unreadable_path(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert f"cannot be read ({os.strerror(errno.ELOOP)})" in refused(tmp_path / "loop.jpg")


def test_pipe_and_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("p.jpg", "zero.jpg"):
        assert "is not a regular file; " in refused(tmp_path / name)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert "is empty (0 bytes)" in refused(tmp_path / "a.jpg")


def test_text_named_jpg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    assert "not an image" in refused(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "gif", "bmp"])
def test_cut_short(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = save(tmp_path / f"whole.{suffix}", Image.fromarray(noise)).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in refused(path) or "not an image" in refused(path)


def test_limit_of_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("1", (300, 100)))
    assert read_image(path, max_pixels=30_000).shape == (100, 300, 3)
    with pytest.raises(InputError, match=r"has 0\.03 megapixels, and 0\.03 are the limit"):
        read_image(path, max_pixels=29_999)


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript on it, whatever its name ends in."""
    save(tmp_path / "a.eps", Image.fromarray(RGB)).rename(tmp_path / "a.jpg")
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("a program was started"))
    assert "not an image" in refused(tmp_path / "a.jpg")


def test_fault_of_the_disk_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    path = save(tmp_path / "a.bmp", Image.fromarray(RGB))
    assert f"cannot be read ({os.strerror(errno.EIO)})" in refused(path)


@pytest.mark.parametrize("turned", [False, True])
def test_heif(tmp_path: Path, turned: bool) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    image = Image.fromarray(np.full((40, 64, 3), (200, 100, 50), np.uint8))
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(image).save(path, quality=90, exif=exif.tobytes())
    read = read_image(path)
    assert read.shape == ((64, 40, 3) if turned else (40, 64, 3))
    assert np.abs(read.astype(int) - (200, 100, 50)).max() < 8


def test_heif_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deconvseg.images.read._heif_is_available", lambda: False)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert "is HEIF; install pillow-heif" in refused(tmp_path / "a.jpg")


def test_has_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RGB[:, :8]))
    assert has_size(path, 8, 16)
    assert not has_size(path, 16, 8)
    assert not has_size(tmp_path / "none.png", 8, 16)
    path.write_bytes(path.read_bytes()[:-30])
    assert not has_size(path, 8, 16)
