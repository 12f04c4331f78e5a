"""What Caffe computes from the two prototxts, in NumPy: an oracle for converted networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .caffemodel import Layer

Map = NDArray[np.floating]


def conv(x: Map, blobs: Sequence[Map], pad: int = 0) -> Map:
    """Convolution of (C, H, W), stride 1."""
    kernel, bias = blobs
    windows = sliding_window_view(np.pad(x, ((0, 0), (pad, pad), (pad, pad))), kernel.shape[2:], (1, 2))
    return np.tensordot(kernel, windows, ((1, 2, 3), (0, 3, 4))) + bias.reshape(-1, 1, 1)


def deconv(x: Map, blobs: Sequence[Map], pad: int = 0, stride: int = 1) -> Map:
    """Deconvolution: columns W^T x, each added into its place (col2im), then the padding cut off."""
    kernel = blobs[0]
    inputs, outputs, side, _ = kernel.shape
    height, width = x.shape[1:]
    columns = kernel.reshape(inputs, -1).T @ x.reshape(inputs, -1)
    columns = columns.reshape(outputs, side, side, height, width)
    y = np.zeros((outputs, (height - 1) * stride + side, (width - 1) * stride + side))
    for i in range(side):
        for j in range(side):
            rows, across = slice(i, i + stride * height, stride), slice(j, j + stride * width, stride)
            y[:, rows, across] += columns[:, i, j]
    y = y[:, pad : y.shape[1] - pad, pad : y.shape[2] - pad]
    return y + blobs[1].reshape(-1, 1, 1) if len(blobs) > 1 else y


def pool(x: Map) -> tuple[Map, NDArray[np.int64]]:
    """2x2 max pooling, rounded up, with the flat index of each maximum: the first in row-major order."""
    channels, height, width = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    best, mask = np.full((channels, rows, columns), -np.inf), np.zeros((channels, rows, columns), np.int64)
    for c, r, s in np.ndindex(best.shape):
        for h in range(2 * r, min(2 * r + 2, height)):
            for w in range(2 * s, min(2 * s + 2, width)):
                if x[c, h, w] > best[c, r, s]:
                    best[c, r, s], mask[c, r, s] = x[c, h, w], h * width + w
    return best, mask


def unpool(x: Map, mask: NDArray[np.int64]) -> Map:
    channels, height, width = x.shape
    y = np.zeros((channels, 4 * height * width))
    for c in range(channels):
        y[c, mask[c].ravel()] = x[c].ravel()
    return y.reshape(channels, 2 * height, 2 * width)


def relu(x: Map) -> Map:
    return np.maximum(x, 0)


def deconvnet(layers: Iterable[Layer], image: Map) -> Map:
    """`DeconvNet_inference_deploy.prototxt`; the image is (3, H, W), BGR less the mean."""
    x: Map = image
    masks: list[NDArray[np.int64]] = []
    for layer in layers:
        if layer.type == "BN":
            scale, shift = (blob.reshape(-1, 1, 1) for blob in layer.blobs)
            x = relu(scale * x + shift)
        elif layer.type == "Convolution":
            x = conv(x, layer.blobs, pad=int(layer.name.startswith("conv")))
        elif layer.type == "Deconvolution":
            x = deconv(x, layer.blobs, pad=int(layer.name.startswith("deconv")))
        elif layer.type == "Pooling":
            x, mask = pool(x)
            masks.append(mask)
        elif layer.type == "Unpooling":
            x = unpool(x, masks.pop())
    return x


def fcn8s(layers: Iterable[Layer], names: Sequence[str], image: Map) -> Map:
    """`fcn-8s-pascal`; the image is (3, H, W), BGR less the mean."""
    blobs = {layer.name: layer.blobs for layer in layers}
    x, pools = image, []
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, count + 1):
            x = relu(conv(x, blobs[f"conv{block}_{i}"], pad=100 if block == i == 1 else 1))
        x, _ = pool(x)
        pools.append(x)
    x = relu(conv(relu(conv(x, blobs["fc6"])), blobs["fc7"]))
    score, up2, pool4, up4, pool3, up8 = names
    x = deconv(conv(x, blobs[score]), blobs[up2], stride=2)
    x = x + _crop(conv(pools[3], blobs[pool4]), x, 5)
    x = deconv(x, blobs[up4], stride=2)
    x = x + _crop(conv(pools[2], blobs[pool3]), x, 9)
    return _crop(deconv(x, blobs[up8], stride=8), image, 31)


def _crop(x: Map, like: Map, offset: int) -> Map:
    height, width = like.shape[1:]
    assert x.shape[1] >= offset + height and x.shape[2] >= offset + width
    return x[:, offset : offset + height, offset : offset + width]
