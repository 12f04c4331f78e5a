"""Colour profiles (ICC.1, version 2) and TIFF files made by hand, as no library at hand makes them."""

import struct

import numpy as np
from numpy.typing import NDArray

_D50 = np.array([0.9642, 1, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def matrix(primaries: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Linear RGB of these primaries and a white of D65 to XYZ under D50."""

    def xyz(x: float, y: float) -> NDArray[np.float64]:
        return np.array([x / y, 1, (1 - x - y) / y])

    columns, white = np.stack([xyz(*primary) for primary in primaries], 1), xyz(0.3127, 0.3290)
    adapt = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD
    return adapt @ (columns * np.linalg.solve(columns, white))


SRGB = matrix([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
P3 = matrix([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)])
ADOBE = matrix([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)])
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


def tiff(
    values: NDArray[np.generic], photometric: int, order: str = "<", *tags: tuple[int, int, list[int]]
) -> bytes:
    """An uncompressed TIFF of any numbers; `tags`: number, type (3: SHORT, 4: LONG), values."""
    height, width, colours = *values.shape[:2], values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    shorts = {258: [values.itemsize * 8] * colours, 259: [1], 262: [photometric], 277: [colours]}
    shorts[339] = [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * colours
    longs = {256: [width], 257: [height], 273: [8], 278: [height], 279: [len(data)]}
    entries = [(tag, 3, value) for tag, value in shorts.items()] + [(t, 4, v) for t, v in longs.items()]
    data += bytes(-len(data) % 4)
    entries = sorted([*entries, *tags])
    directory, more = struct.pack(order + "H", len(entries)), b""
    for tag, kind, content in entries:
        raw = struct.pack(order + "HI"[kind - 3] * len(content), *content)
        if len(raw) > 4:
            place = 8 + len(data) + 6 + 12 * len(entries) + len(more)
            more += raw + bytes(len(raw) % 2)
            raw = struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, kind, len(content)) + raw.ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(data))
    return start + data + directory + bytes(4) + more
