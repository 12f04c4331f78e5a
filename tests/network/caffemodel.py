"""Writes `.caffemodel` files as Caffe does: the wire format, and the published networks at any width."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One layer: `mode` is BN's, None where the prototxt does not set it."""

    name: str
    type: str
    blobs: Sequence[Array] = ()
    tops: int = 1
    mode: int | None = None


def varint(number: int) -> bytes:
    parts = []
    while True:
        number, low = divmod(number, 128)
        parts.append(low | (128 if number else 0))
        if not number:
            return bytes(parts)


def tag(field: int, wire: int) -> bytes:
    return varint(field << 3 | wire)


def message(field: int, content: bytes) -> bytes:
    return tag(field, 2) + varint(len(content)) + content


def integer(field: int, value: int) -> bytes:
    return tag(field, 0) + varint(value)


def blob(array: NDArray[np.floating], new: bool) -> bytes:
    if new:
        head = message(7, message(1, b"".join(map(varint, array.shape))))
    else:
        sizes = (1,) * (4 - array.ndim) + array.shape
        head = b"".join(integer(i, size) for i, size in enumerate(sizes, start=1))
    return head + message(5, np.ascontiguousarray(array, "<f4").tobytes())


def layer(content: Layer, new: bool) -> bytes:
    name, blobs = content.name.encode(), [blob(array, new) for array in content.blobs]
    tops = [f"{content.name}{i}".encode() for i in range(content.tops)]
    if new:
        parts = [message(1, name), message(2, content.type.encode()), message(3, b"below")]
        parts += [message(4, top) for top in tops] + [message(7, one) for one in blobs]
        return message(100, b"".join(parts))
    parts = [message(2, b"below"), *(message(3, top) for top in tops), message(4, name)]
    parts += [integer(5, 4), *(message(6, one) for one in blobs)]
    parts += [tag(7, 5) + struct.pack("<f", rate) for rate in (1, 2)] if blobs else []  # blobs_lr
    if content.type == "BN":
        filler = message(1, message(1, b"constant") + tag(2, 5) + struct.pack("<f", 1))
        parts.append(message(45, filler + (b"" if content.mode is None else integer(3, content.mode))))
    return message(2, b"".join(parts))


def write(path: Path, layers: Iterable[Layer], new: bool = False) -> Path:
    """With the list of layers and the shapes of arrays as Caffe wrote them up to 2014, or the new ones."""
    path.write_bytes(message(1, b"a network") + b"".join(layer(one, new) for one in layers))
    return path


class Net(list[Layer]):
    """Layers with random weights that keep the size of what goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def random(self, *shape: int, std: float) -> Array:
        return self.rng.standard_normal(shape, np.float32) * np.float32(std)

    def conv(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        weights = self.random(outputs, inputs, kernel, kernel, std=(2 / inputs) ** 0.5 / kernel)
        self.append(Layer(name, "Convolution", [weights, self.random(outputs, std=0.1)]))

    def deconv(self, name: str, inputs: int, outputs: int, kernel: int, fan: float) -> None:
        weights = self.random(inputs, outputs, kernel, kernel, std=(2 / fan) ** 0.5)
        self.append(Layer(name, "Deconvolution", [weights, self.random(outputs, std=0.1)]))

    def norm(self, name: str, channels: int, tops: int, mode: int | None) -> None:
        scale = self.rng.uniform(0.7, 1.3, (1, channels, 1, 1)).astype(np.float32)
        self.append(Layer(name, "BN", [scale, self.random(1, channels, 1, 1, std=0.2)], tops, mode))

    def vgg16(self, widths: Sequence[int]) -> None:
        channels = 3
        for block, (width, count) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True), start=1):
            for i in range(1, count + 1):
                self.conv(f"conv{block}_{i}", channels, width, 3)
                channels = width
            self.append(Layer(f"pool{block}", "Pooling"))


def deconvnet(
    widths: Sequence[int] = (3, 4, 5, 6, 7),
    cells: int = 2,
    bottleneck: int = 9,
    classes: int = 21,
    encoder_convs: Sequence[int] = (2, 2, 3, 3, 3),
    decoder_convs: Sequence[int] = (3, 3, 3, 2, 2),
    mode: int | None = 1,
    norm_tops: int = 1,
) -> list[Layer]:
    """The layers of `DeconvNet_inference_deploy.prototxt` in its order.

    `mode` 1 is INFERENCE, None LEARN (training); `norm_tops` is 3 in the network that the authors fold.
    """
    net, channels = Net(), 3
    for block, (width, count) in enumerate(zip(widths, encoder_convs, strict=True), start=1):
        for i in range(1, count + 1):
            net.conv(f"conv{block}_{i}", channels, width, 3)
            net.norm(f"bn{block}_{i}", width, norm_tops, mode)
            channels = width
        net.append(Layer(f"pool{block}", "Pooling", tops=2))
    net.conv("fc6", channels, bottleneck, cells)
    net.norm("bnfc6", bottleneck, norm_tops, mode)
    net.conv("fc7", bottleneck, bottleneck, 1)
    net.norm("bnfc7", bottleneck, norm_tops, mode)
    net.deconv("fc6-deconv", bottleneck, channels, cells, bottleneck)
    net.norm("fc6-deconv-bn", channels, norm_tops, mode)
    for block, count in zip(range(5, 0, -1), decoder_convs, strict=False):
        net.append(Layer(f"unpool{block}", "Unpooling"))
        for i in range(1, count + 1):
            width = widths[max(block - 2, 0)] if i == count else widths[block - 1]
            # After unpooling a quarter of the map is filled.
            net.deconv(f"deconv{block}_{i}", channels, width, 3, channels * 9 / (4 if i == 1 else 1))
            net.norm(f"debn{block}_{i}", width, norm_tops, mode)
            channels = width
    net.conv("seg-score-voc", channels, classes, 1)
    return net


FCN_NAMES = ("score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8")
FCN_OLD_NAMES = ("score-fr", "score2", "score-pool4", "score4", "score-pool3", "upsample")


def fcn8s(names: Sequence[str] = FCN_NAMES, enlarger_bias: bool = False) -> list[Layer]:
    """The layers of the zoo's `fcn-8s-pascal` with weights, in its order; its enlarging kernels are dense."""
    net, widths, bottleneck, classes = Net(), (2, 3, 4, 5, 6), 7, 21
    net.vgg16(widths)
    net.conv("fc6", widths[4], bottleneck, 7)
    net.conv("fc7", bottleneck, bottleneck, 1)
    score, up2, pool4, up4, pool3, up8 = names
    net.conv(score, bottleneck, classes, 1)
    for name, skip, channels in ((up2, pool4, widths[3]), (up4, pool3, widths[2])):
        net.deconv(name, classes, classes, 4, classes * 4)
        net.conv(skip, channels, classes, 1)
    net.deconv(up8, classes, classes, 16, classes * 4)
    bare = {up8} if enlarger_bias else {up2, up4, up8}
    return [replace(layer, blobs=layer.blobs[:1]) if layer.name in bare else layer for layer in net]


def vgg16(matrices: bool = False) -> list[Layer]:
    """VGG-16 with fc6 to fc8 as convolutions or as matrices (InnerProduct)."""
    net = Net()
    net.vgg16((2, 3, 4, 5, 6))
    net.conv("fc6", 6, 8, 3)
    net.conv("fc7", 8, 8, 1)
    net.conv("fc8", 8, 10, 1)
    for i in range(-3, 0) if matrices else ():
        kernels, bias = net[i].blobs
        net[i] = replace(net[i], type="InnerProduct", blobs=[kernels.reshape(len(kernels), -1), bias])
    return net
