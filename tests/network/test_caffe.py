"""The reader of `.caffemodel` files: what was written comes out, and nothing else does harm."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from deconvseg.errors import WeightsError
from deconvseg.network.caffe import read_caffemodel

from . import caffemodel
from .caffemodel import Layer, Style, integer, message, tag, varint

ARRAYS = [np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3) / 7, np.array([1.5, -2.25], np.float32)]
LAYERS = [
    Layer("data", "Data", tops=2),
    Layer("conv1_1", "Convolution", ARRAYS),
    Layer("bn1_1", "BN", [np.ones((1, 2, 1, 1), np.float32)] * 2, mode=1),
    Layer("größe", "BN", [np.ones((1, 2, 1, 1), np.float32)] * 2, tops=3),
]
MANY = 30_000


@pytest.mark.parametrize(
    "style", [Style(), Style(double=True), Style(new=True, old_shape=False), Style(new=True)], ids=str
)
def test_round_trip(tmp_path: Path, style: Style) -> None:
    layers = read_caffemodel(caffemodel.write(tmp_path / "n", LAYERS, style))
    assert [*layers] == ["conv1_1", "bn1_1", "größe"]
    folded = [layer.norm_folded for layer in layers.values()]
    assert folded == [False, not style.new, True]  # the new list has no place for the mode
    kernel, bias = layers["conv1_1"].blobs
    assert bias.shape == ((1, 1, 1, 2) if style.old_shape else (2,))
    assert kernel.dtype == (np.float64 if style.double else np.float32)
    np.testing.assert_array_equal(kernel, ARRAYS[0])
    np.testing.assert_array_equal(bias.ravel(), ARRAYS[1])


def blob(content: bytes) -> bytes:
    return message(2, message(4, b"conv1_1") + message(6, content))


HOSTILE = {
    "no layer": b"",
    "beyond its end": b"<!DOCTYPE html><html><body>404</body></html>",
    "over 64 bits": b"\x80" * MANY,
    "goes on beyond": tag(2, 2) + varint(1 << 62) + b"x",
    "not a sound": tag(2, 3) * MANY,
    "no layer with weights": message(2, b"") * MANY,
    "0 pieces": message(2, message(6, b"") * MANY),
    "dimension": blob(message(7, message(1, b"\x01" * MANY)) + message(5, bytes(4))),
    "Maximum|too large|dimension": blob(
        message(7, message(1, varint((1 << 64) - 1) * 3)) + message(5, bytes(4))
    ),
    "negative|dimension|too large|reshape": blob(integer(1, (1 << 64) - 1) + message(5, bytes(4))),
    "reshape": blob(integer(1, 2) + message(5, bytes(12))),
    "multiple of element size": blob(integer(1, 2) + message(5, bytes(7))),
    f"{MANY} pieces": blob(message(5, bytes(4)) * MANY),
    "two layers": blob(integer(1, 1) + message(5, bytes(4))) * 2,
}


@pytest.mark.parametrize(("reason", "content"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_hostile_files_end_quickly_in_one_clear_line(tmp_path: Path, reason: str, content: bytes) -> None:
    path = tmp_path / "n.caffemodel"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(WeightsError, match=reason) as caught:
        read_caffemodel(path)
    assert time.process_time() - start < 2
    assert str(caught.value).startswith(f"{path}: not a sound .caffemodel file")
    assert len(str(caught.value)) < 300 + len(str(path))


def test_damage_by_chance_never_does_more_than_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="none: cannot be read"):
        read_caffemodel(tmp_path / "none")
    path, refused = tmp_path / "n", 0
    rng = np.random.default_rng(0)
    sound = [caffemodel.write(path, LAYERS, style).read_bytes() for style in (Style(), Style(new=True))]
    for trial in range(300):
        data = bytearray(sound[trial % 2])
        at = int(rng.integers(len(data)))
        if trial % 3 == 0:
            del data[at : at + int(rng.integers(1, 200))]
        else:
            data[at] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            assert all(blob.size for layer in read_caffemodel(path).values() for blob in layer.blobs)
        except WeightsError as error:
            assert str(path) in str(error)
            refused += 1
    assert 60 < refused < 280
