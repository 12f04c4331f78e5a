"""Converted networks compute what Caffe computed; what does not fit is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from deconvseg.errors import UsageError, WeightsError
from deconvseg.images.palette import VOC_CLASSES
from deconvseg.network.caffe_networks import CAFFE_MEAN_RGB, Converted, convert_caffemodel
from deconvseg.network.checkpoint import load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s
from deconvseg.network.vgg16 import initialise_encoder, read_vgg16

from . import caffe_reference, caffemodel
from .caffemodel import FCN_NAMES, FCN_OLD_NAMES, Layer, Style, Weights

STYLES = [Style(), Style(new=True, old_shape=False), Style(new=True, double=True)]


def convert(tmp_path: Path, layers: Iterable[Layer], style: Style = Style(), **options: object) -> Converted:  # noqa: B008
    source = caffemodel.write(tmp_path / "theirs.caffemodel", layers, style)
    return convert_caffemodel(source, tmp_path / "ours.safetensors", **{"storage": "float32", **options})  # type: ignore[arg-type]


def photo(*size: int) -> np.ndarray:
    """A photo of 0..255 in RGB, (3, H, W)."""
    return np.random.default_rng(5).uniform(0, 255, (3, *size)).astype(np.float32)


def in_caffe(rgb: np.ndarray) -> np.ndarray:
    return (rgb - np.reshape(CAFFE_MEAN_RGB, (3, 1, 1)))[::-1]


@torch.no_grad()
def scores(tmp_path: Path, rgb: np.ndarray) -> np.ndarray:
    network, header = load_network(tmp_path / "ours.safetensors")
    inputs = (torch.from_numpy(rgb) - torch.tensor(header.mean).view(3, 1, 1)) * header.scale
    return network(inputs[None])[0].numpy()


def assert_near(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert np.ptp(want, (1, 2)).max() > 0.1 * np.abs(want).max()  # scores that depend on the place
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * float(np.abs(want).max()))


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_deconvnet_gives_the_scores_of_the_prototxt(tmp_path: Path, style: Style) -> None:
    layers = list(caffemodel.deconvnet(norm_tops=3 if style.new else 1))
    found = convert(tmp_path, layers, style)
    assert found.summary == "DeconvNet, 21 labels, crops of 64 x 64 pixels, BatchNorm folded"
    assert found.ignored == "25 without weights"
    rgb = photo(64, 64)
    assert_near(scores(tmp_path, rgb), caffe_reference.deconvnet(layers, in_caffe(rgb)))
    network, header = load_network(tmp_path / "ours.safetensors")
    assert header.classes == VOC_CLASSES
    assert header.statistics
    assert header.training == {"source": "theirs.caffemodel"}
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_var is not None
            np.testing.assert_allclose((module.running_var + module.eps).sqrt(), 1, rtol=1e-7)


def test_deconvnet_of_other_sizes(tmp_path: Path) -> None:
    sizes = {
        "widths": (4, 4, 5, 5, 6),
        "cells": 1,
        "bottleneck": 3,
        "classes": 4,
        "encoder_convs": (1, 2, 1, 2, 1),
        "decoder_convs": (2, 1, 1, 1, 3),
    }
    layers = [
        replace(layer, name="seg-score-own") if layer.name == "seg-score-voc" else layer
        for layer in caffemodel.deconvnet(**sizes)  # type: ignore[arg-type]
    ]
    convert(tmp_path, layers)
    network, header = load_network(tmp_path / "ours.safetensors")
    assert header.classes == ("background", "class1", "class2", "class3")
    assert network.arguments == {
        **{key: value for key, value in sizes.items() if key != "cells"},
        "crop_size": 32,
        "encoder_norm": True,
    }
    rgb = photo(32, 32)
    assert_near(scores(tmp_path, rgb), caffe_reference.deconvnet(layers, in_caffe(rgb)))
    short = list(caffemodel.deconvnet(decoder_convs=(3, 2)))
    score = Weights().conv(21, 5, 1)
    convert(
        tmp_path, [replace(layer, blobs=score) if layer.name == "seg-score-voc" else layer for layer in short]
    )
    assert load_network(tmp_path / "ours.safetensors")[0].arguments["decoder_convs"] == (3, 2)


@pytest.mark.parametrize(("storage", "tolerance"), [("float16", 1e-3), ("int8", 1 / 127)])
def test_kernels_are_stored_small_and_batchnorm_exactly(
    tmp_path: Path, storage: str, tolerance: float
) -> None:
    layers = {layer.name: layer.blobs for layer in caffemodel.deconvnet()}
    convert(tmp_path, caffemodel.deconvnet(), storage=storage)
    state = load_network(tmp_path / "ours.safetensors")[0].state_dict()
    kernels = {"encoder.1.conv2_1": "conv2_1", "decoder.0.deconv5_3": "deconv5_3", "fc6_deconv": "fc6-deconv"}
    for ours, theirs in kernels.items():
        want = layers[theirs][0]
        got = state[f"{ours}.conv.weight"]
        np.testing.assert_allclose(got, want, atol=tolerance * float(np.abs(want).max()), rtol=0)
        assert not np.array_equal(got, want)
    np.testing.assert_array_equal(state["decoder.0.deconv5_3.norm.weight"], layers["debn5_3"][0].ravel())
    np.testing.assert_array_equal(state["fc6_deconv.norm.bias"], layers["fc6-deconv-bn"][1].ravel())


@pytest.mark.parametrize(
    ("options", "norms", "folded"),
    [
        ({"mode": None}, "auto", False),
        ({"mode": 0}, "auto", False),
        ({"mode": None, "norm_tops": 3}, "auto", True),
        ({"mode": None}, "folded", True),
        ({"mode": 1}, "raw", False),
    ],
    ids=str,
)
def test_a_training_stage_has_no_statistics(
    tmp_path: Path, options: dict[str, int | None], norms: str, folded: bool
) -> None:
    layers = list(caffemodel.deconvnet(**options))  # type: ignore[arg-type]
    found = convert(tmp_path, layers, norms=norms)
    assert ("without statistics" in found.summary) != folded
    network, header = load_network(tmp_path / "ours.safetensors")
    assert header.statistics is folded
    gamma = next(layer.blobs[0] for layer in layers if layer.name == "bn3_2")
    np.testing.assert_array_equal(network.encoder[2].conv3_2.norm.weight.detach(), gamma.ravel())


@pytest.mark.parametrize("names", [FCN_NAMES, FCN_OLD_NAMES], ids=["new names", "old names"])
@pytest.mark.parametrize("size", [(32, 32), (45, 61)], ids=str)
def test_fcn8s_gives_the_scores_of_the_prototxt(
    tmp_path: Path, names: tuple[str, ...], size: tuple[int, int]
) -> None:
    layers = list(caffemodel.fcn8s(names=names, enlarger_bias=names == FCN_OLD_NAMES))
    found = convert(tmp_path, layers, Style(new=names == FCN_NAMES))
    assert found.summary == "FCN-8s, 21 labels"
    rgb = photo(*size)
    assert_near(scores(tmp_path, rgb), caffe_reference.fcn8s(layers, names, in_caffe(rgb)))
    network, header = load_network(tmp_path / "ours.safetensors")
    assert isinstance(network, FCN8s)
    assert network.side == 500
    assert header.classes == VOC_CLASSES


def test_enlargers_with_a_kernel_a_label_are_spread_out(tmp_path: Path) -> None:
    layers = list(caffemodel.fcn8s(classes=3))
    ramp = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    single = np.stack([ramp, 2 * ramp, 3 * ramp])[:, None]
    convert(tmp_path, [replace(la, blobs=[single]) if la.name == "upscore2" else la for la in layers])
    kernel = load_network(tmp_path / "ours.safetensors")[0].upscore2.weight
    for i, j in np.ndindex(3, 3):
        np.testing.assert_array_equal(kernel[i, j], (i + 1) * ramp if i == j else 0 * ramp)


@pytest.mark.parametrize("matrices", [False, True])
@pytest.mark.parametrize("style", STYLES[:2], ids=str)
def test_vgg16_starts_an_encoder_and_its_bottleneck(tmp_path: Path, matrices: bool, style: Style) -> None:
    layers = {layer.name: layer for layer in caffemodel.vgg16(matrices=matrices)}
    found = convert(tmp_path, layers.values(), style, storage="float16")
    assert found.summary.startswith("VGG-16 with fc6 and fc7")
    assert found.ignored == "fc8, 18 without weights"
    tensors = read_vgg16((tmp_path / "ours.safetensors").rename(tmp_path / "vgg_bgr.safetensors"))
    kernel = layers["conv1_1"].blobs[0]
    np.testing.assert_allclose(tensors["conv1_1.weight"].flip(1), kernel, rtol=1e-3, atol=1e-6)
    torch.manual_seed(0)
    fitting, other = (DeconvNet(3, crop_size, (2, 3, 4, 5, 6), bottleneck=8) for crop_size in (96, 32))
    before = other.fc6.conv.weight.clone()
    for network in (fitting, other):
        initialise_encoder(network, tensors)
        np.testing.assert_allclose(
            network.encoder[4].conv5_2.conv.weight.detach(), layers["conv5_2"].blobs[0], rtol=1e-3, atol=1e-6
        )
    want = layers["fc6"].blobs[0].reshape(8, 6, 3, 3)
    np.testing.assert_allclose(fitting.fc6.conv.weight.detach(), want, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(fitting.fc7.conv.bias.detach(), layers["fc7"].blobs[1], rtol=1e-6, atol=0)
    assert torch.equal(other.fc6.conv.weight, before)


def test_vgg16_without_its_bottleneck_and_as_int8(tmp_path: Path) -> None:
    found = convert(tmp_path, caffemodel.vgg16(bottleneck=None))
    assert "without fc6 and fc7" in found.summary
    assert len(read_vgg16(tmp_path / "ours.safetensors")) == 26
    with pytest.raises(UsageError, match="not as int8"):
        convert(tmp_path, caffemodel.vgg16(), storage="int8")


def without(layers: Iterable[Layer], *names: str) -> list[Layer]:
    return [layer for layer in layers if layer.name not in names]


def changed(layers: Iterable[Layer], name: str, *blobs: np.ndarray) -> list[Layer]:
    return [replace(layer, blobs=blobs) if layer.name == name else layer for layer in layers]


ZEROS = np.zeros((3, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (without(caffemodel.deconvnet(), "conv3_2", "debn2_1"), "conv3_2 is missing, debn2_1 is missing"),
        (without(caffemodel.deconvnet(), "conv1_1"), "lacks layer conv1_1"),
        (without(caffemodel.deconvnet(), "fc6"), "lacks layer fc6"),
        (without(caffemodel.deconvnet(), "deconv4_1", "deconv4_2", "deconv4_3"), "DeconvNet by the names"),
        (changed(caffemodel.deconvnet(), "conv2_2", ZEROS, np.zeros(3, np.float32)), "conv2_2 has the shape"),
        (changed(caffemodel.deconvnet(), "bn2_2", ZEROS), "bn2_2 holds 1 arrays, not 2"),
        (changed(caffemodel.deconvnet(), "fc6", np.zeros((0, 7, 2, 2), np.float32)), "holds 0 numbers"),
        ([*caffemodel.deconvnet(), Layer("fc8", "Convolution", [ZEROS])], "fc8 is left over"),
        ([*caffemodel.deconvnet(), Layer("fc6", "Convolution", [ZEROS])], "two layers .* named 'fc6'"),
        (
            without(caffemodel.fcn8s(), "upscore8"),
            "FCN-8s by the names of its layers, but upscore8 is missing",
        ),
        (changed(caffemodel.fcn8s(), "upscore2", ZEROS), "upscore2 has the shape"),
        (
            changed(caffemodel.fcn8s(), "upscore8", np.zeros((21, 21, 16, 16), np.float32), np.ones(21)),
            "upscore8 holds 2 arrays, not 1",
        ),
        (changed(caffemodel.fcn8s(), "fc6", np.zeros((7, 6, 9, 9), np.float32)), "make no network"),
        ([*caffemodel.vgg16(), Layer("upscore", "Deconvolution", [ZEROS])], "upscore is left over"),
        (
            changed(caffemodel.vgg16(matrices=True), "fc6", np.zeros((8, 55)), np.zeros(8)),
            "fc6 has the shape",
        ),
        ([Layer("conv1", "Convolution", [ZEROS])], r"neither DeconvNet, FCN-8s nor VGG-16 .*\(conv1,"),
        (caffemodel.deconvnet(classes=300), "300 labels"),
        (
            changed(caffemodel.deconvnet(), "seg-score-voc", np.full((21, 3, 1, 1), np.nan), np.zeros(21)),
            "seg_score.weight: weights that are not finite",
        ),
        (
            changed(caffemodel.deconvnet(), "seg-score-voc", np.full((21, 3, 1, 1), 1e6), np.zeros(21)),
            "too large for this storage",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_told_and_nothing_is_written(
    tmp_path: Path, layers: Iterable[Layer], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path, layers, storage="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.caffemodel"]


def test_a_matrix_where_a_kernel_belongs(tmp_path: Path) -> None:
    layers = changed(caffemodel.deconvnet(), "fc6", np.zeros((9, 28), np.float32), np.zeros(9, np.float32))
    with pytest.raises(WeightsError, match=r"fc6 has the shape \(9, 28\), which is no convolution's"):
        convert(tmp_path, layers, Style(new=True, old_shape=False))


def test_int8_is_a_number_a_weight_and_a_scale_an_output(tmp_path: Path) -> None:
    convert(tmp_path, caffemodel.deconvnet(), storage="int8")
    with safe_open(tmp_path / "ours.safetensors", framework="np") as file:
        scale = file.get_tensor("fc6_deconv.conv.weight.scale")
        stored = file.get_tensor("fc6_deconv.conv.weight")
    kernel = next(layer.blobs[0] for layer in caffemodel.deconvnet() if layer.name == "fc6-deconv")
    np.testing.assert_allclose(scale, np.abs(kernel).max((0, 2, 3)) / 127, rtol=1e-6)
    np.testing.assert_array_equal(stored, np.rint(kernel / scale[:, None, None]))
