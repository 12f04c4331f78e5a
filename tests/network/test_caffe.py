"""Networks from Caffe compute what Caffe computed; what does not fit, or is damaged, is told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deconvseg.errors import WeightsError
from deconvseg.images.palette import VOC_CLASSES
from deconvseg.network.caffe import CAFFE_MEAN_RGB, convert_caffemodel, read_caffemodel
from deconvseg.network.checkpoint import Storage, load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s
from deconvseg.network.vgg16 import initialise_encoder, read_vgg16

from . import caffemodel
from .caffemodel import FCN_NAMES, FCN_OLD_NAMES, Layer, integer, message, tag, varint

MANY = 30_000


def blob(content: bytes) -> bytes:
    return message(2, message(4, b"conv1_1") + message(6, content))


HOSTILE = {
    "beyond its end": b"<!DOCTYPE html><html><body>404</body></html>",
    "out of bounds": b"\x80" * MANY,
    "goes on beyond": tag(2, 2) + varint(1 << 62) + b"x",
    "not a sound": tag(2, 3) * MANY,
    "got 0": message(2, message(6, b"") * MANY),
    "dimension": blob(message(7, message(1, b"\x01" * MANY)) + message(5, bytes(4))),
    "Maximum|too large|dimension": blob(
        message(7, message(1, varint((1 << 64) - 1) * 3)) + message(5, bytes(4))
    ),
    "reshape": blob(integer(1, 2) + message(5, bytes(12))),
    "multiple of element size": blob(integer(1, 2) + message(5, bytes(7))),
    "too many values": blob(message(5, bytes(4)) * MANY),
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


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="none: cannot be read"):
        read_caffemodel(tmp_path / "none")


def convert(tmp_path: Path, layers: Iterable[Layer], new: bool = False, storage: Storage = "float32") -> str:
    source = caffemodel.write(tmp_path / "theirs.caffemodel", layers, new)
    return convert_caffemodel(source, tmp_path / "ours.safetensors", storage)


def photo(*size: int) -> torch.Tensor:
    """A photo of 0..255 in RGB, (1, 3, H, W)."""
    return 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(5))


def in_caffe(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb - torch.tensor(CAFFE_MEAN_RGB).view(3, 1, 1)).flip(1)


@torch.no_grad()
def assert_scores(tmp_path: Path, rgb: torch.Tensor, want: torch.Tensor) -> None:
    network, header = load_network(tmp_path / "ours.safetensors")
    got = network((rgb - torch.tensor(header.mean).view(3, 1, 1)) * header.scale)
    assert want.std((2, 3)).max() > 0.02 * want.abs().max()  # scores that depend on the place
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("new", [False, True])
def test_deconvnet_gives_the_scores_of_the_prototxt(tmp_path: Path, new: bool) -> None:
    layers = caffemodel.deconvnet(norm_tops=3 if new else 1)
    found = convert(tmp_path, layers, new)
    assert found == "DeconvNet, 21 labels"
    rgb = photo(64, 64)
    assert_scores(tmp_path, rgb, in_caffe_deconvnet(layers, in_caffe(rgb)))
    _, header = load_network(tmp_path / "ours.safetensors")
    assert header.classes == VOC_CLASSES
    assert header.training == {"source": "theirs.caffemodel"}


def test_deconvnet_of_other_sizes(tmp_path: Path) -> None:
    convs = {"encoder_convs": (1, 2, 1, 2, 1), "decoder_convs": (2, 1, 1, 1, 3)}
    *layers, score = caffemodel.deconvnet((4, 4, 5, 5, 6), cells=1, bottleneck=3, classes=4, **convs)
    layers.append(replace(score, name="seg-score-own"))
    convert(tmp_path, layers)
    network, header = load_network(tmp_path / "ours.safetensors")
    assert header.classes == ("background", "class1", "class2", "class3")
    assert network.arguments["decoder_convs"] == convs["decoder_convs"] and network.side == 32
    rgb = photo(32, 32)
    assert_scores(tmp_path, rgb, in_caffe_deconvnet(layers, in_caffe(rgb)))


@pytest.mark.parametrize(
    ("names", "size"), [(FCN_NAMES, (32, 32)), (FCN_OLD_NAMES, (45, 61))], ids=["new names", "old names"]
)
def test_fcn8s_gives_the_scores_of_the_prototxt(
    tmp_path: Path, names: tuple[str, ...], size: tuple[int, int]
) -> None:
    layers = caffemodel.fcn8s(names=names, enlarger_bias=names == FCN_OLD_NAMES)
    found = convert(tmp_path, layers, new=names == FCN_NAMES)
    assert found == "FCN-8s, 21 labels"
    rgb = photo(*size)
    assert_scores(tmp_path, rgb, in_caffe_fcn8s(layers, names, in_caffe(rgb)))
    network, header = load_network(tmp_path / "ours.safetensors")
    assert isinstance(network, FCN8s)
    assert network.side == 500
    assert header.classes == VOC_CLASSES


@pytest.mark.parametrize(("matrices", "new"), [(True, False), (True, True), (False, True)])
def test_vgg16_starts_an_encoder_and_its_bottleneck(tmp_path: Path, matrices: bool, new: bool) -> None:
    layers = {layer.name: layer for layer in caffemodel.vgg16(matrices=matrices)}
    found = convert(tmp_path, layers.values(), new, storage="float16")
    assert found.startswith("VGG-16 with fc6 and fc7")
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


def without(layers: Iterable[Layer], *names: str) -> list[Layer]:
    return [layer for layer in layers if layer.name not in names]


def changed(layers: Iterable[Layer], name: str, *blobs: np.ndarray) -> list[Layer]:
    return [replace(layer, blobs=blobs) if layer.name == name else layer for layer in layers]


TOO_LARGE = np.full((21, 3, 1, 1), 1e6, np.float32), np.zeros(21, np.float32)
ZEROS = np.zeros((3, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            without(caffemodel.deconvnet(), "conv3_2", "debn2_1"),
            "missing, .*: bn3_3, conv3_2, conv3_3, debn2_1",
        ),
        (without(caffemodel.deconvnet(), "conv1_1"), "layer conv1_1 is missing"),
        (without(caffemodel.deconvnet(), "deconv4_1", "deconv4_2", "deconv4_3"), "left over .*: de"),
        (caffemodel.deconvnet(mode=None), "its BatchNorm has no statistics yet"),
        (caffemodel.deconvnet(mode=0), "its BatchNorm has no statistics yet"),
        (changed(caffemodel.deconvnet(), "bn2_2", ZEROS), "another shape: bn2_2"),
        ([*caffemodel.deconvnet(), Layer("fc8", "Convolution", [ZEROS])], "left over .*: fc8"),
        (changed(caffemodel.fcn8s(), "upscore2", ZEROS), "another shape: upscore2"),
        (changed(caffemodel.fcn8s(), "fc6", np.zeros((7, 6, 9, 9), np.float32)), "padding 100 is too small"),
        (without(caffemodel.vgg16(), "fc6"), "layer fc6 is missing"),
        (changed(caffemodel.vgg16(), "fc6", np.zeros((8, 55)), np.zeros(8)), "shape: fc6"),
        (
            [Layer("conv1", "Convolution", [ZEROS])],
            "neither DeconvNet, FCN-8s nor VGG-16 by its layers conv1",
        ),
        (caffemodel.deconvnet(classes=300), "classes must be 2 to 255"),
        (
            changed(caffemodel.deconvnet(), "seg-score-voc", *TOO_LARGE),
            "seg_score.weight: .* too large for this storage",
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


def test_vgg16_has_no_int8(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not as int8"):
        convert(tmp_path, caffemodel.vgg16(), storage="int8")


def blobs_of(layer: Layer) -> list[Tensor]:
    return [torch.from_numpy(blob) for blob in layer.blobs]


def in_caffe_deconvnet(layers: Iterable[Layer], image: Tensor) -> Tensor:
    """What Caffe computes from the authors' deploy prototxt; images are (1, 3, H, W), BGR less the mean."""
    x, masks = image, []
    for layer in layers:
        blobs = blobs_of(layer)
        if layer.type == "BN":
            x = (blobs[0] * x + blobs[1]).relu()
        elif layer.type == "Convolution":
            x = functional.conv2d(x, *blobs, padding=int(layer.name.startswith("conv")))
        elif layer.type == "Deconvolution":
            x = functional.conv_transpose2d(x, *blobs, padding=int(layer.name.startswith("deconv")))
        elif layer.type == "Pooling":
            x, mask = functional.max_pool2d(x, 2, return_indices=True)
            masks.append(mask)
        elif layer.type == "Unpooling":
            x = functional.max_unpool2d(x, masks.pop(), [2, 2])
    return x


def in_caffe_fcn8s(layers: Iterable[Layer], names: Sequence[str], image: Tensor) -> Tensor:
    """The same of `fcn-8s-pascal`, with its own crops of 5, 9 and 31."""
    blobs = {layer.name: blobs_of(layer) for layer in layers}
    x, pools = image, []
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, count + 1):
            padding = 100 if block == i == 1 else 1
            x = functional.conv2d(x, *blobs[f"conv{block}_{i}"], padding=padding).relu()
        x = functional.max_pool2d(x, 2, ceil_mode=True)
        pools.append(x)
    x = functional.conv2d(functional.conv2d(x, *blobs["fc6"]).relu(), *blobs["fc7"]).relu()
    score, up2, pool4, up4, pool3, up8 = names
    x = functional.conv_transpose2d(functional.conv2d(x, *blobs[score]), *blobs[up2], stride=2)
    x = x + cropped(functional.conv2d(pools[3], *blobs[pool4]), x, 5)
    x = functional.conv_transpose2d(x, *blobs[up4], stride=2)
    x = x + cropped(functional.conv2d(pools[2], *blobs[pool3]), x, 9)
    return cropped(functional.conv_transpose2d(x, *blobs[up8], stride=8), image, 31)


def cropped(x: Tensor, like: Tensor, offset: int) -> Tensor:
    height, width = like.shape[2:]
    return x[:, :, offset : offset + height, offset : offset + width]
