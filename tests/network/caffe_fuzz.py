"""Damaged and hostile `.caffemodel` files, by hand and by chance."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .caffemodel import Layer, Style, Weights, integer, layer, message, tag, varint

STYLES = [Style(), Style(new=True, old_shape=False), Style(packed=False), Style(double=True, packed=False)]


def seeds() -> list[bytes]:
    """Small sound files in every style."""
    weights = Weights()
    layers = [
        Layer("data", "Data", tops=2),
        Layer("conv1_1", "Convolution", weights.conv(2, 3, 3)),
        Layer("bn1_1", "BN", weights.norm(2), 3, 1),
        Layer("fc6-deconv", "Deconvolution", weights.deconv(2, 3, 2, 8)),
    ]
    return [b"".join(layer(one, style) for one in layers) for style in STYLES]


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


def hostile(scale: int = 1_000_000) -> dict[str, bytes]:
    """Files made to be slow, to want memory, or to be read beyond their end; `scale` things of a kind."""
    one = tag(5, 5) + struct.pack("<f", 1)
    diff = tag(6, 5) + struct.pack("<f", 1)

    def of(blob: bytes, list_field: int = 2) -> bytes:
        return message(list_field, message(4, b"conv1_1") + message(6, blob))

    return {
        "empty": b"",
        "one byte": b"\x12",
        "text": b"name: 'DeconvNet'\nlayers { name: 'conv1_1' }\n" * 100,
        "a page": b"<!DOCTYPE html><html><body>404</body></html>",
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(1000),
        "zeros": bytes(scale),
        "ones": b"\xff" * scale,
        "field 0": b"\x02\x00",
        "a number without end": b"\x80" * scale,
        "a number of 70 bits": b"\x10" + b"\xff" * 9 + b"\x7f",
        "a length beyond the end": tag(2, 2) + varint(1 << 62) + b"x",
        "a layer beyond the end": message(2, message(4, b"conv1_1") + tag(6, 2) + varint(100)),
        "groups in groups": tag(2, 3) * scale,
        "ends of groups": tag(2, 4) * scale,
        "messages in messages": nested(1000),
        "empty layers": message(2, b"") * scale,
        "empty new layers": message(100, b"") * scale,
        "empty blobs": message(2, message(6, b"") * scale),
        "names": message(2, message(4, b"a") * scale),
        "a long name": message(2, message(4, b"a" * scale)),
        "axes": of(message(7, message(1, b"\x01" * scale))),
        "single axes": of(message(7, integer(1, 1) * scale)),
        "shapes": of(message(7, b"") * scale),
        "a huge shape": of(message(7, message(1, varint((1 << 64) - 1) * 3))),
        "a huge shape without numbers": of(message(7, message(1, varint((1 << 64) - 1) + b"\x00"))),
        "large axes and none": of(message(7, message(1, varint((1 << 31) - 1) * 7 + b"\x00"))),
        "a negative size": of(integer(1, (1 << 64) - 1) + message(5, bytes(4))),
        "too many numbers": of(integer(1, 2) + message(5, bytes(4))),
        "too few numbers": of(integer(1, 2) + message(5, bytes(12))),
        "half a number": of(integer(1, 2) + message(5, bytes(7))),
        "packs": of(message(5, bytes(4)) * scale),
        "numbers and tags in turn": of((one + diff) * scale),
        "pairs in turn": of((one * 2 + diff * 2) * scale),
        "numbers cut off": message(2, message(6, one * 10 + tag(5, 5) + b"xx")),
        "numbers of two kinds": of(integer(1, 2) + message(5, bytes(8)) + message(8, bytes(16))),
        "doubles as floats": of(integer(1, 1) + tag(5, 1) + bytes(8)),
        "many diffs": of(diff * scale),
        "two names": message(2, message(4, b"a") + message(4, b"b") + message(6, integer(1, 1) + one)) * 2,
        "no name": message(2, message(6, integer(1, 1) + one)),
        "a name of no letters": message(2, message(4, b"\xff\x00\x1b[2J") + message(6, integer(1, 1) + one)),
        "unknown fields": b"".join(integer(i, i) for i in range(1000, 1000 + scale // 10)),
    }


@contextmanager
def memory() -> Iterator[Callable[[], int]]:
    """Gives a function that tells by how many bytes the process grew at most since the block began.

    Where the kernel does not let a process reset its peak (elsewhere than on Linux), growth below an earlier
    peak is not seen.
    """
    before, status = None, Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _entry(status, "VmRSS")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield lambda: 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    else:
        yield lambda: _entry(status, "VmHWM") - before


def _entry(status: Path, name: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = message(2, content)
    return content
