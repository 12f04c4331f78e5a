"""Writes `.caffemodel` files as Caffe does: the wire format, and the published networks at any width."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Style:
    """How a file is written: new or old list of layers, new or old shapes."""

    new: bool = False
    old_shape: bool = True


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


def blob(array: NDArray[np.floating], style: Style = Style()) -> bytes:
    if style.old_shape:
        sizes = (1,) * (4 - array.ndim) + array.shape
        head = b"".join(integer(i, size) for i, size in enumerate(sizes, start=1))
    else:
        head = message(7, message(1, b"".join(map(varint, array.shape))))
    return head + message(5, np.ascontiguousarray(array, "<f4").tobytes())


def layer(content: Layer, style: Style = Style()) -> bytes:
    name, blobs = content.name.encode(), [blob(array, style) for array in content.blobs]
    tops = [f"{content.name}{i}".encode() for i in range(content.tops)]
    if style.new:
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


def write(path: Path, layers: Iterable[Layer], style: Style = Style()) -> Path:
    with path.open("wb") as file:
        file.write(message(1, b"a network"))
        for one in layers:
            file.write(layer(one, style))
    return path


class Weights:
    """Random weights that keep the size of what goes through."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def conv(self, outputs: int, inputs: int, kernel: int) -> list[Array]:
        return self._scaled((outputs, inputs, kernel, kernel), inputs * kernel**2, outputs)

    def deconv(self, inputs: int, outputs: int, kernel: int, fan: int) -> list[Array]:
        return self._scaled((inputs, outputs, kernel, kernel), fan, outputs)

    def norm(self, channels: int) -> list[Array]:
        scale = self.rng.uniform(0.7, 1.3, (1, channels, 1, 1)).astype(np.float32)
        return [scale, 0.2 * self.rng.standard_normal((1, channels, 1, 1), np.float32)]

    def _scaled(self, shape: tuple[int, ...], fan: int, outputs: int) -> list[Array]:
        kernel = self.rng.standard_normal(shape, np.float32)
        kernel *= np.float32((2 / fan) ** 0.5)
        return [kernel, 0.1 * self.rng.standard_normal(outputs, np.float32)]


def deconvnet(
    widths: Sequence[int] = (3, 4, 5, 6, 7),
    cells: int = 2,
    bottleneck: int = 9,
    classes: int = 21,
    encoder_convs: Sequence[int] = (2, 2, 3, 3, 3),
    decoder_convs: Sequence[int] = (3, 3, 3, 2, 2),
    mode: int | None = 1,
    norm_tops: int = 1,
) -> Iterator[Layer]:
    """The layers of `DeconvNet_inference_deploy.prototxt` in its order.

    `mode` 1 is INFERENCE, None LEARN (training); `norm_tops` is 3 in the network that the authors fold.
    """
    weights = Weights()

    def norm(name: str, channels: int) -> Layer:
        return Layer(name, "BN", weights.norm(channels), norm_tops, mode)

    yield Layer("data", "Data", tops=2)
    channels = 3
    for block, (width, count) in enumerate(zip(widths, encoder_convs, strict=True), start=1):
        for i in range(1, count + 1):
            yield Layer(f"conv{block}_{i}", "Convolution", weights.conv(width, channels, 3))
            yield norm(f"bn{block}_{i}", width)
            yield Layer(f"relu{block}_{i}", "ReLU")
            channels = width
        yield Layer(f"pool{block}", "Pooling", tops=2)
    yield Layer("fc6", "Convolution", weights.conv(bottleneck, channels, cells))
    yield norm("bnfc6", bottleneck)
    yield Layer("fc7", "Convolution", weights.conv(bottleneck, bottleneck, 1))
    yield norm("bnfc7", bottleneck)
    yield Layer("fc6-deconv", "Deconvolution", weights.deconv(bottleneck, channels, cells, bottleneck))
    yield norm("fc6-deconv-bn", channels)
    for block, count in zip(range(5, 0, -1), decoder_convs, strict=False):
        yield Layer(f"unpool{block}", "Unpooling")
        for i in range(1, count + 1):
            width = widths[max(block - 2, 0)] if i == count else widths[block - 1]
            # After unpooling a quarter of the map is filled.
            fan = channels * 9 / (4 if i == 1 else 1)
            yield Layer(f"deconv{block}_{i}", "Deconvolution", weights.deconv(channels, width, 3, fan))
            yield norm(f"debn{block}_{i}", width)
            channels = width
    yield Layer("seg-score-voc", "Convolution", weights.conv(classes, channels, 1))
    yield Layer("seg-loss", "SoftmaxWithLoss")


FCN_NAMES = ("score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8")
FCN_OLD_NAMES = ("score-fr", "score2", "score-pool4", "score4", "score-pool3", "upsample")


def fcn8s(names: Sequence[str] = FCN_NAMES, enlarger_bias: bool = False) -> Iterator[Layer]:
    """The layers of the zoo's `fcn-8s-pascal` with weights, in its order; its enlarging kernels are dense."""
    weights, widths, bottleneck, classes = Weights(), (2, 3, 4, 5, 6), 7, 21
    yield Layer("data", "Data", tops=2)
    yield from vgg16_convolutions(weights, widths)
    yield Layer("fc6", "Convolution", weights.conv(bottleneck, widths[4], 7))
    yield Layer("fc7", "Convolution", weights.conv(bottleneck, bottleneck, 1))
    score, up2, pool4, up4, pool3, up8 = names
    for name, kernel, skip, channels in ((up2, 4, pool4, widths[3]), (up4, 4, pool3, widths[2])):
        if name == up2:
            yield Layer(score, "Convolution", weights.conv(classes, bottleneck, 1))
        blobs = weights.deconv(classes, classes, kernel, classes * 4)
        yield Layer(name, "Deconvolution", blobs if enlarger_bias else blobs[:1])
        yield Layer(skip, "Convolution", weights.conv(classes, channels, 1))
        yield Layer(f"{skip}c", "Crop")
    yield Layer(up8, "Deconvolution", weights.deconv(classes, classes, 16, classes * 4)[:1])
    yield Layer("loss", "SoftmaxWithLoss")


def vgg16(matrices: bool = False) -> Iterator[Layer]:
    """VGG-16 with fc6 to fc8 as convolutions or as matrices (InnerProduct)."""
    weights, channels = Weights(), 6
    yield from vgg16_convolutions(weights, (2, 3, 4, 5, channels))
    for name, kernel, outputs in (("fc6", 3, 8), ("fc7", 1, 8), ("fc8", 1, 10)):
        kernels, bias = weights.conv(outputs, channels, kernel)
        shape = (outputs, -1) if matrices else kernels.shape
        yield Layer(name, "InnerProduct" if matrices else "Convolution", [kernels.reshape(shape), bias])
        channels = outputs


def vgg16_convolutions(weights: Weights, widths: Sequence[int]) -> Iterator[Layer]:
    channels = 3
    for block, (width, count) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True), start=1):
        for i in range(1, count + 1):
            yield Layer(f"conv{block}_{i}", "Convolution", weights.conv(width, channels, 3))
            yield Layer(f"relu{block}_{i}", "ReLU")
            channels = width
        yield Layer(f"pool{block}", "Pooling")
