"""Damaged and hostile `.caffemodel` files, by hand and by chance."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from .caffemodel import Layer, Style, Weights, integer, layer, message, tag, varint


def seeds() -> list[bytes]:
    """Small sound files in every style."""
    weights = Weights()
    layers = [
        Layer("data", "Data", tops=2),
        Layer("conv1_1", "Convolution", weights.conv(2, 3, 3)),
        Layer("bn1_1", "BN", weights.norm(2), 3, 1),
        Layer("fc6-deconv", "Deconvolution", weights.deconv(2, 3, 2, 8)),
    ]
    styles = [Style(), Style(new=True, old_shape=False), Style(double=True)]
    return [b"".join(layer(one, style) for one in layers) for style in styles]


def mutations(rng: np.random.Generator, files: Sequence[bytes]) -> Iterator[bytes]:
    """Endless damaged versions of files: cut short, bits turned, bytes set, pieces of others put in."""
    while True:
        data = bytearray(files[rng.integers(len(files))])
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data))) if data else 0
            kind = rng.integers(6)
            if kind == 0:
                del data[at:]
            elif kind == 1 and data:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 2 and data:
                data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            elif kind == 3:
                del data[at : at + int(rng.integers(1, 20))]
            elif kind == 4:
                other = files[rng.integers(len(files))]
                start = int(rng.integers(len(other)))
                data[at:at] = other[start : start + int(rng.integers(1, 200))]
            else:
                data[at:at] = varint(int(rng.integers(1 << 62)) >> int(rng.integers(62)))
        yield bytes(data)


def hostile(scale: int = 100_000) -> dict[str, bytes]:
    """Files made to be slow, to want memory, or to be read beyond their end; `scale` things of a kind."""
    one = tag(5, 5) + struct.pack("<f", 1)

    def of(blob: bytes) -> bytes:
        return message(2, message(4, b"conv1_1") + message(6, blob))

    return {
        "empty": b"",
        "one byte": b"\x12",
        "a page": b"<!DOCTYPE html><html><body>404</body></html>",
        "zeros": bytes(scale),
        "a number without end": b"\x80" * scale,
        "a length beyond the end": tag(2, 2) + varint(1 << 62) + b"x",
        "a layer beyond the end": message(2, message(4, b"conv1_1") + tag(6, 2) + varint(100)),
        "groups in groups": tag(2, 3) * scale,
        "empty layers": message(2, b"") * scale,
        "empty blobs": message(2, message(6, b"") * scale),
        "names": message(2, message(4, b"a") * scale),
        "a long name": message(2, message(4, b"a" * scale)),
        "axes": of(message(7, message(1, b"\x01" * scale))),
        "single axes": of(message(7, integer(1, 1) * scale)),
        "shapes": of(message(7, b"") * scale),
        "a huge shape": of(message(7, message(1, varint((1 << 64) - 1) * 3))),
        "a huge shape without numbers": of(message(7, message(1, varint((1 << 64) - 1) + b"\x00"))),
        "a negative size": of(integer(1, (1 << 64) - 1) + message(5, bytes(4))),
        "too few numbers": of(integer(1, 2) + message(5, bytes(12))),
        "half a number": of(integer(1, 2) + message(5, bytes(7))),
        "packs": of(message(5, bytes(4)) * scale),
        "single numbers": of(one * scale),
        "unknown fields": b"".join(integer(i, i) for i in range(1000, 1000 + scale // 100)),
    }
