"""The reader of `.caffemodel` files: what was written comes out, and nothing else does harm."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconvseg.errors import WeightsError
from deconvseg.network.caffe import MAX_FIELDS, CaffeModel
from deconvseg.network.caffe_networks import convert_caffemodel

from . import caffemodel
from .caffe_fuzz import hostile, memory, mutations, seeds
from .caffemodel import Layer, Style, integer, message, varint

ARRAYS = [
    np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3) / 7,
    np.array([1.5, -2.25], np.float32),
]
LAYERS = [
    Layer("data", "Data", tops=2),
    Layer("conv1_1", "Convolution", ARRAYS),
    Layer("bn1_1", "BN", [np.ones((1, 2, 1, 1), np.float32)] * 2, tops=3, mode=1),
    Layer("loss", "SoftmaxWithLoss"),
]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("old_shape", [False, True])
def test_round_trip(tmp_path: Path, new: bool, packed: bool, double: bool, old_shape: bool) -> None:
    style = Style(new, packed, double, old_shape)
    model = CaffeModel(caffemodel.write(tmp_path / "n", LAYERS, style))
    assert [layer.name for layer in model.layers] == ["conv1_1", "bn1_1"]
    assert model.others == ["data", "loss"]
    conv, norm = model.layers
    assert conv.type == ("Convolution" if new else 4)
    assert (conv.tops, norm.tops) == (1, 3)
    assert norm.norm_inference is not new  # the new list has no place for it
    kernel, bias = conv.blobs
    assert bias.shape == ((1, 1, 1, 2) if old_shape else (2,))
    for _ in range(2):  # pages that were given back are read again
        assert kernel.dtype == (np.float64 if double else np.float32)
        np.testing.assert_array_equal(kernel, ARRAYS[0])
        np.testing.assert_array_equal(bias.ravel(), ARRAYS[1])
        model.release()


def test_numbers_are_not_copied_out_of_the_file(tmp_path: Path) -> None:
    size = 20_000_000
    sparse = tmp_path / "n"
    head = message(4, b"conv1_1") + message(
        6, integer(4, size) + b"\x2a" + varint(4 * size) + bytes(4 * size)
    )
    sparse.write_bytes(message(2, head))
    with memory() as grown:
        model = CaffeModel(sparse)
        (layer,) = model.layers
        assert layer.blobs[0].shape == (1, 1, 1, size)
        assert grown() < 5e6
        assert layer.blobs[0].sum() == 0
        assert grown() > 4 * size * 0.9  # the whole of it was mapped
    with memory() as grown:
        model.release()
        assert grown() < -4 * size * 0.9 or grown() < 5e6


numbers = st.lists(st.floats(width=32, allow_nan=False), max_size=30)


@given(
    names=st.lists(st.text(max_size=20), min_size=1, max_size=5),
    values=numbers,
    style=st.builds(Style, st.booleans(), st.booleans(), st.booleans(), st.just(False)),
)
def test_any_names_and_numbers_come_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], values: list[float], style: Style
) -> None:
    array = np.array(values, np.float32)
    path = tmp_path_factory.mktemp("n") / "n"
    model = CaffeModel(caffemodel.write(path, [Layer(n, "Convolution", [array]) for n in names], style))
    assert [layer.name for layer in model.layers] == names
    for layer in model.layers:
        np.testing.assert_array_equal(layer.blobs[0], array)


def read_all(path: Path) -> None:
    for layer in CaffeModel(path).layers:
        for blob in layer.blobs:
            assert blob.size == 0 or blob.max() is not None


@pytest.mark.parametrize("content", hostile().items(), ids=lambda item: item[0])
def test_hostile_files_end_quickly_in_one_clear_line(tmp_path: Path, content: tuple[str, bytes]) -> None:
    path = tmp_path / "n.caffemodel"
    path.write_bytes(content[1])
    start = time.process_time()
    with memory() as grown, pytest.raises(WeightsError) as caught:
        convert_caffemodel(path, tmp_path / "out", "float32")
    assert time.process_time() - start < 2
    assert grown() < 200e6
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 500 + len(str(path))


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    said = {
        "a length beyond the end": "what begins at byte 0 goes on beyond its end",
        "groups in groups": "byte 0 begins a field of kind 3, which Caffe never writes",
        "a number of 70 bits": "over 64 bits",
        "empty layers": f"over {MAX_FIELDS:,} fields",
        "axes": "an array of over 8 axes",
        "too few numbers": r"layer 'conv1_1' says that its shape is \(2, 1, 1, 1\) but holds 3 numbers",
        "half a number": "the numbers of layer 'conv1_1' are cut off",
        "packs": "come in several pieces",
        "unknown fields": "it holds no layer with weights",
        "empty": "cannot be read",
    }
    files = hostile()
    for kind, reason in said.items():
        (tmp_path / "n").write_bytes(files[kind])
        with pytest.raises(WeightsError, match=reason):
            CaffeModel(tmp_path / "n")
    for nothing in (tmp_path / "none", tmp_path):
        with pytest.raises(WeightsError, match=r"there is no such \.caffemodel file"):
            CaffeModel(nothing)


def test_files_cut_anywhere_are_refused_or_hold_fewer_layers(tmp_path: Path) -> None:
    path = tmp_path / "n"
    for seed in seeds():
        path.write_bytes(seed)
        whole = len(CaffeModel(path).layers)
        for keep in range(0, len(seed), 3):
            path.write_bytes(seed[:keep])
            try:
                assert len(CaffeModel(path).layers) < whole
            except WeightsError as error:
                assert str(path) in str(error)


def test_damage_by_chance_never_does_more_than_a_clear_error(tmp_path: Path) -> None:
    path, refused = tmp_path / "n", 0
    files = mutations(np.random.default_rng(0), seeds())
    for _ in range(4000):
        path.write_bytes(next(files))
        try:
            read_all(path)
        except WeightsError:
            refused += 1
    assert 1000 < refused < 3900
