"""The reader of `.caffemodel` files: what was written comes out, and nothing else does harm."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from deconvseg.errors import WeightsError
from deconvseg.network.caffe import read_caffemodel

from . import caffemodel
from .caffe_fuzz import hostile, mutations, seeds
from .caffemodel import Layer, Style

ARRAYS = [
    np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3) / 7,
    np.array([1.5, -2.25], np.float32),
]
LAYERS = [
    Layer("data", "Data", tops=2),
    Layer("conv1_1", "Convolution", ARRAYS),
    Layer("bn1_1", "BN", [np.ones((1, 2, 1, 1), np.float32)] * 2, tops=3, mode=1),
    Layer("größe", "SoftmaxWithLoss"),
]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("old_shape", [False, True])
def test_round_trip(tmp_path: Path, new: bool, double: bool, old_shape: bool) -> None:
    layers = read_caffemodel(caffemodel.write(tmp_path / "n", LAYERS, Style(new, double, old_shape)))
    assert [layer.name for layer in layers] == ["data", "conv1_1", "bn1_1", "größe"]
    assert [len(layer.blobs) for layer in layers] == [0, 2, 2, 0]
    assert [layer.tops for layer in layers] == [2, 1, 3, 1]
    assert layers[2].norm_inference is not new  # the new list has no place for it
    kernel, bias = layers[1].blobs
    assert bias.shape == ((1, 1, 1, 2) if old_shape else (2,))
    assert kernel.dtype == (np.float64 if double else np.float32)
    np.testing.assert_array_equal(kernel, ARRAYS[0])
    np.testing.assert_array_equal(bias.ravel(), ARRAYS[1])


@pytest.mark.parametrize("content", hostile().items(), ids=lambda item: item[0])
def test_hostile_files_end_quickly_in_one_clear_line(tmp_path: Path, content: tuple[str, bytes]) -> None:
    path = tmp_path / "n.caffemodel"
    path.write_bytes(content[1])
    start = time.process_time()
    with pytest.raises(WeightsError) as caught:
        read_caffemodel(path)
    assert time.process_time() - start < 2
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 500 + len(str(path))


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    said = {
        "a length beyond the end": "what it announces goes on beyond its end",
        "groups in groups": "a field is of kind 3, which Caffe never writes",
        "a number without end": "over 64 bits",
        "empty layers": "it holds no layer with weights",
        "axes": "an array of over 8 axes",
        "too few numbers": r"layer 'conv1_1' says that its shape is \(2, 1, 1, 1\) but holds 3 numbers",
        "half a number": "the numbers of layer 'conv1_1' are cut off",
        "packs": "come in several pieces",
    }
    files = hostile()
    for kind, reason in said.items():
        (tmp_path / "n").write_bytes(files[kind])
        with pytest.raises(WeightsError, match=reason):
            read_caffemodel(tmp_path / "n")
    for nothing in (tmp_path / "none", tmp_path):
        with pytest.raises(WeightsError, match=r"there is no such \.caffemodel file"):
            read_caffemodel(nothing)


def test_damage_by_chance_never_does_more_than_a_clear_error(tmp_path: Path) -> None:
    path, refused = tmp_path / "n", 0
    files = mutations(np.random.default_rng(0), seeds())
    for _ in range(600):
        path.write_bytes(next(files))
        try:
            for layer in read_caffemodel(path):
                assert all(blob.max() is not None for blob in layer.blobs)
        except WeightsError as error:
            assert str(path) in str(error)
            refused += 1
    assert 150 < refused < 580
