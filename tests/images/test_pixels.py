"""What a photo's colours, depth and orientation become, by the formulas of the standards."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from deconvseg.errors import InputError
from deconvseg.images.read import PhotoPixels, as_photo, read_photo

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2).repeat(8, 0).repeat(8, 1)  # blocks: JPEG keeps them
SRGB_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# The other profiles (ICC.1, version 2) are made by hand, as no library at hand makes them.
_D50 = np.array([0.9642, 1, 0.8249])
# Linear RGB to XYZ under D50: Bruce Lindbloom's tables, and Apple's profile of Display P3.
SRGB = np.array([[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]])
ADOBE = np.array([[0.60976, 0.20524, 0.14922], [0.31112, 0.62566, 0.06322], [0.01948, 0.06089, 0.74484]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SWAPPED = P3[:, ::-1]


def rgb_profile(primaries: NDArray[np.float64], gamma: float) -> bytes:
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    curves = [(name, _curve(gamma)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return _profile(b"RGB ", [(name, _xyz(primaries[:, i])) for i, name in enumerate(names)] + curves)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", [(b"kTRC", _curve(gamma))])


def cmyk_profile() -> bytes:
    """Any ink of 100 % is black, none is white; between the corners L* is (1-C)(1-M)(1-Y)(1-K)."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(16, 4)
    lightness = (1 - corners).prod(1) * 255
    table = np.stack([lightness, np.full(16, 128), np.full(16, 128)], 1).astype(np.uint8)
    ramp = bytes(range(256))
    unit = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + unit + ramp * 4 + table.tobytes() + ramp * 3
    return _profile(b"CMYK", [(b"A2B0", lut)], kind=b"prtr", connection=b"Lab ")


def to_srgb(rgb: NDArray[np.uint8], primaries: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """What a photo with this profile looks like, 0 to 255, by the sRGB standard's own formula."""
    linear = (rgb / 255) ** gamma @ (np.linalg.inv(SRGB) @ primaries).T
    return srgb_of(linear)


def srgb_of(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def _profile(
    space: bytes, tags: list[tuple[bytes, bytes]], kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    tags = [(b"desc", b"desc\0\0\0\0\0\0\0\x02x\0" + bytes(79)), (b"wtpt", _xyz(_D50)), *tags]
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4s4s4s4s4s", start + len(data), b"", b"\x02\x40\0\0", kind, space, connection)
    head += struct.pack(">6H4s28s", 2020, 1, 1, 0, 0, 0, b"acsp", b"") + _xyz(_D50)[8:] + bytes(48)
    return head + table + data


def _xyz(value: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(part * 65536) for part in value))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))


def saved(image: Image.Image, format_: str = "PNG", **options: Any) -> io.BytesIO:
    """With as little loss as the format allows."""
    best = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format_, {})
    stream = io.BytesIO()
    image.save(stream, format_, **best | options)
    return io.BytesIO(stream.getvalue())


def read(content: bytes | Image.Image, format_: str = "PNG", **options: Any) -> PhotoPixels:
    return read_photo(
        io.BytesIO(content) if isinstance(content, bytes) else saved(content, format_, **options)
    )


def off(photo: PhotoPixels, wanted: NDArray[np.float64]) -> float:
    assert photo.notes == ()
    return float(np.abs(photo.image.astype(float) - wanted).max())


@pytest.mark.parametrize(
    ("format_", "primaries", "gamma"),
    [
        *[(format_, ADOBE, 563 / 256) for format_ in ("TIFF", "WEBP", "JPEG", "AVIF", "HEIF")],
        *[("PNG", P3, 2.2), ("PNG", SWAPPED, 1.8), ("PNG", SRGB, 1.0)],
    ],
)
def test_a_colour_profile_is_converted(format_: str, primaries: NDArray[np.float64], gamma: float) -> None:
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.fromarray(COLOURS)
    plain = read(image, format_).image
    photo = read(image, format_, icc_profile=rgb_profile(primaries, gamma))
    assert off(photo, to_srgb(plain, primaries, round(gamma * 256) / 256)) < 1.6
    assert np.abs(photo.image.astype(int) - plain).max() > 30


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1"])
def test_profiles_of_other_modes(mode: str) -> None:
    """Transparency stays what it was; grey with a profile of RGB is where the three are equal."""
    profile = rgb_profile(ADOBE, 1.5)
    image = Image.fromarray(COLOURS).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(np.where(RAMP < 128, 0, 255).astype(np.uint8)).resize(image.size, 0))
    plain = np.asarray(image.convert("RGBA"))
    wanted = to_srgb(plain[:, :, :3], ADOBE, 1.5)
    wanted[plain[:, :, 3] == 0] = 255
    photo = read(image, icc_profile=profile)
    assert off(photo, wanted) < 1.6
    assert off(as_photo(Image.open(saved(image, icc_profile=profile))), wanted) < 1.6


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_grey_with_a_gamma_of_its_own(format_: str) -> None:
    ramp = Image.fromarray(RAMP.repeat(8, 0).repeat(8, 1))
    plain = read(ramp, format_).image
    photo = read(ramp, format_, icc_profile=grey_profile(1.8))
    assert off(photo, srgb_of((plain / 255) ** (461 / 256))) < 1


def test_16_bit_grey_with_a_profile_keeps_its_shades() -> None:
    wide = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    photo = read(Image.fromarray(wide), icc_profile=grey_profile(1.0))
    assert off(photo, srgb_of(wide / 65535.0)[:, :, None]) < 2.5
    assert len(np.unique(photo.image)) > 200  # of 8 bits, linear, the conversion makes 184


def test_cmyk_with_a_profile_and_without() -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, 8:] = (0, 0, 0, 255)
    inks[8:, :8] = (128, 0, 0, 0)
    image = Image.fromarray(inks, "CMYK")
    photo = read(image, "JPEG", icc_profile=cmyk_profile())
    assert photo.notes == ()
    assert photo.image[2, 2].min() > 252 and photo.image[2, 12].max() < 3
    assert np.abs(photo.image[12, 2] - 118.0).max() < 4  # L* of 50, grey
    assert np.abs(read(image, "JPEG").image[12, 2] - (127.0, 255, 255)).max() < 4  # without: pale cyan


def test_srgb_of_any_maker_is_left_alone() -> None:
    """Its curve as 1024 numbers, as in the profile of most cameras, rounds to other values here and there."""
    linear = np.linspace(0, 1, 1024)
    table = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4) * 65535
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + table.round().astype(">u2").tobytes()
    names = ((b"rXYZ", b"rTRC"), (b"gXYZ", b"gTRC"), (b"bXYZ", b"bTRC"))
    tags = [(xyz, _xyz(SRGB[:, i])) for i, (xyz, _) in enumerate(names)]
    profile = _profile(b"RGB ", tags + [(trc, curve) for _, trc in names])
    for same in (SRGB_ICC, profile):
        np.testing.assert_array_equal(read(Image.fromarray(COLOURS), icc_profile=same).image, COLOURS)
    near = read(Image.fromarray(COLOURS), icc_profile=rgb_profile(SRGB, 2.2)).image
    assert 3 < np.abs(near.astype(int) - COLOURS).max() < 12


@pytest.mark.parametrize(
    ("image", "profile", "words"),
    [
        (Image.fromarray(COLOURS), b"no profile at all", "cannot open profile"),
        (Image.fromarray(COLOURS), rgb_profile(P3, 2.2)[:300], "cannot"),
        (Image.fromarray(COLOURS), cmyk_profile(), "cannot build transform"),
        (Image.fromarray(COLOURS), grey_profile(1.8), "cannot build transform"),
        (Image.fromarray(COLOURS).convert("CMYK"), rgb_profile(P3, 2.2), "cannot build transform"),
        (Image.fromarray(COLOURS), _profile(b"RGB ", [], kind=b"link"), "cannot build transform"),
    ],
)
def test_a_profile_that_cannot_be_used_costs_a_note(image: Image.Image, profile: bytes, words: str) -> None:
    photo = read(image, "TIFF", icc_profile=profile)
    np.testing.assert_array_equal(photo.image, read(image, "TIFF").image)
    (note,) = photo.notes
    assert note.startswith("its colour profile cannot be used (") and words in note and "\n" not in note


def test_a_jpeg_whose_profile_lacks_a_part() -> None:
    profile = rgb_profile(P3, 2.2) + bytes(70_000)  # goes into two segments
    content = saved(Image.fromarray(COLOURS), "JPEG", icc_profile=profile).getvalue()
    start = content.rindex(b"\xff\xe2")
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    (note,) = read(content[:start] + content[start + 2 + length :]).notes
    assert "incomplete" in note


def test_a_png_goes_by_its_profile() -> None:
    damaged = chunked(saved(Image.fromarray(COLOURS)).getvalue(), b"iCCP", b"x\0\0" + b"no deflate")
    assert len(read(damaged).notes) == 1
    # One of 2 MiB, which Pillow by itself takes for an attack; the gamma beside it does not count.
    profile = rgb_profile(ADOBE, 563 / 256) + bytes(2 << 20)
    content = chunked(
        saved(Image.fromarray(COLOURS), icc_profile=profile).getvalue(), b"gAMA", bytes((0, 1, 134, 160))
    )
    assert off(read(content), to_srgb(COLOURS, ADOBE, 563 / 256)) < 1.6


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def chunked(png: bytes, name: bytes, data: bytes, place: int = 33) -> bytes:
    """A PNG with one more chunk, behind its header."""
    return png[:place] + chunk(name, data) + png[place:]


# More than 8 bits. What the values are, what 8 bits they become, and words of the note.
DEEP = [
    (RAMP.astype(np.int32), RAMP, "0 to 255; 255 is taken for white"),
    (RAMP.astype(np.uint16) * 16 + 15, np.rint((RAMP * 16.0 + 15) * 255 / 4095), "15 to 4095; 4095 is taken"),
    (RAMP.astype(np.uint16) * 64, np.rint(RAMP * (64 * 255 / 16383)), "16383 is taken"),
    (RAMP.astype(np.uint16) * 257, RAMP, ""),
    (RAMP.astype(np.int32) - 128, RAMP, "-128 to 127, are stretched"),
    (RAMP / np.float32(255), RAMP, "0 to 1, are stretched"),
    (np.full((2, 3), 40_000, np.uint16), np.full((2, 3), 156), ""),
    (np.full((2, 3), 7.5, np.float32), np.zeros((2, 3)), "7.5 to 7.5"),
    (np.array([[np.nan, 2, 3, np.inf, -np.inf]], np.float32), np.array([[0, 0, 255, 255, 0]]), "2 to 3, are"),
    (np.array([[np.nan, np.inf]], np.float32), np.array([[0, 255]]), "no values but NaN"),
]


@pytest.mark.parametrize(("values", "wanted", "words"), DEEP)
def test_more_than_8_bits(values: NDArray[Any], wanted: NDArray[Any], words: str) -> None:
    photos = [as_photo(values), as_photo(Image.fromarray(values)), read(Image.fromarray(values), "TIFF")]
    if values.dtype == np.uint16:
        photos.append(read(Image.fromarray(values)))
    for photo in photos:
        np.testing.assert_array_equal(photo.image, np.repeat(wanted[:, :, None], 3, axis=2))
        assert [words in note for note in photo.notes] == [True] * bool(words)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_white_is_zero(kind: Any) -> None:
    content = saved(Image.fromarray(RAMP.astype(kind)), "TIFF").getvalue()
    black_is_zero, white_is_zero = (struct.pack("<HHII", 262, 3, 1, meaning) for meaning in (1, 0))
    assert black_is_zero in content
    photo = read(content.replace(black_is_zero, white_is_zero))
    np.testing.assert_array_equal(photo.image[:, :, 0], 255 - RAMP)


@pytest.mark.parametrize("kind", [0, 2, 4, 6], ids=["TIFF", "RGB", "LA", "RGBA"])
def test_colour_of_16_bits_loses_its_lower_8(kind: int, tmp_path: Path) -> None:
    colours = COLOURS if kind != 4 else COLOURS[:, :, :1]
    wide = colours.astype(np.uint16) * 256 + 99
    wanted = np.broadcast_to(colours, COLOURS.shape).copy()
    if kind in (4, 6):
        alpha = np.full((128, 128, 1), 65535, np.uint16)
        alpha[:9] = 0
        wide = np.concatenate([wide, alpha], 2)
        wanted[:9] = 255
    path = tmp_path / ("deep.png" if kind else "deep.tif")
    if kind:
        path.write_bytes(png_of_16_bits(wide, kind))
    else:
        assert cv2.imwrite(str(path), wide[:, :, ::-1])
    for photo in (read_photo(path), as_photo(Image.open(path))):
        np.testing.assert_array_equal(photo.image, wanted)
        assert photo.notes == ()


def png_of_16_bits(wide: NDArray[np.uint16], kind: int) -> bytes:
    """Of 128 x 128 pixels; `kind` as in the PNG standard: 2 RGB, 4 grey and alpha, 6 RGBA."""
    lines = b"".join(b"\0" + row.tobytes() for row in wide.astype(">u2"))
    header = struct.pack(">IIBBBBB", 128, 128, 16, kind, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(lines), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts.items())


def test_the_transparent_value_of_a_png() -> None:
    image = Image.fromarray(COLOURS)
    clear = tuple(COLOURS[9, 7].tolist())
    wanted = np.where((clear == COLOURS).all(2, keepdims=True), 255, COLOURS)
    np.testing.assert_array_equal(read(image, transparency=clear).image, wanted)


def test_unknown_tiffs_are_refused_and_libraries_add_no_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cv2.imwrite(str(tmp_path / "floats.tif"), COLOURS.astype(np.float32))
    Image.new("LAB", (3, 4)).save(tmp_path / "lab.tif")
    for name in ("floats", "lab"):
        with pytest.raises(InputError, match=rf"{name}\.tif: is not an image .*; give a .* TIFF of grey"):
            read_photo(tmp_path / f"{name}.tif")
    assert capfd.readouterr() == ("", "")


def exif(value: int, kind: int = 3) -> bytes:
    """EXIF data with an orientation alone, as a SHORT (3) or of another type: LONG (4), ASCII (2)."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", 0x0112, kind, 1, value, 0)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_orientation_is_what_exif_says_and_1_to_8_alone(format_: str) -> None:
    image = Image.fromarray(COLOURS[:64])
    upright = read(image, format_).image
    for data in (exif(0), exif(9), exif(65535), exif(ord("6"), 2), exif(1), b"Exif\0\0II*\0\xff"):
        np.testing.assert_array_equal(read(image, format_, exif=data).image, upright)
    for data in (exif(6), exif(6, 4)):
        photo = read(image, format_, exif=data)
        np.testing.assert_array_equal(photo.image, np.rot90(upright, -1))
        assert (photo.height, photo.width) == (128, 64)


@pytest.mark.parametrize(("value", "packed"), [(1, "raw"), (6, "raw"), (6, "tiff_lzw"), (9, "tiff_lzw")])
def test_orientation_of_a_tiff(tmp_path: Path, value: int, packed: str) -> None:
    content = saved(Image.fromarray(COLOURS[:64]), "TIFF", compression=packed, tiffinfo={274: 5}).getvalue()
    entry = struct.pack("<HHI", 274, 3, 1)
    photo = read(content.replace(entry + b"\x05\0", entry + struct.pack("<H", value)))
    wanted = np.rot90(COLOURS[:64], -1) if value == 6 else COLOURS[:64]
    np.testing.assert_array_equal(photo.image, wanted)
    assert (photo.height, photo.width) == wanted.shape[:2]
    path = tmp_path / "grey.tif"
    Image.fromarray(COLOURS[:64, :, 0]).save(path, tiffinfo={274: value})
    for source in (path, Image.open(path)):
        np.testing.assert_array_equal(as_photo(source).image[:, :, 0], wanted[:, :, 0])


def test_exif_behind_the_pixels_of_a_png() -> None:
    png = saved(Image.fromarray(COLOURS[:64])).getvalue()
    photo = read(chunked(png, b"eXIf", exif(6)[6:], -12))
    np.testing.assert_array_equal(photo.image, np.rot90(COLOURS[:64], -1))


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_xmp_alone_turns_nothing(format_: str) -> None:
    image = Image.fromarray(COLOURS[:64])
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    options: dict[str, Any] = {"PNG": {"pnginfo": info}, "TIFF": {"tiffinfo": {700: XMP}}}
    stream = saved(image, format_, **options.get(format_, {"xmp": XMP}))
    before = Image.open(stream)
    own = dict(before.info)
    assert before.getexif().get(0x0112) == 6  # Pillow would
    assert as_photo(before).image.shape == (64, 128, 3)
    assert {key: before.info[key] for key in own} == own  # the photo's own metadata stays
    photo = read(stream.getvalue())
    assert photo.image.shape == (64, 128, 3) and (photo.height, photo.width) == (64, 128)
    assert as_photo(Image.open(stream)).image.shape == (64, 128, 3)
