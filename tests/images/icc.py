"""Colour profiles (ICC.1, version 2) made by hand, as no library at hand makes them."""

import struct

import numpy as np
from numpy.typing import NDArray

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
