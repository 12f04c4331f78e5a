"""What Caffe computes from the two prototxts, layer by layer: an oracle for converted networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .caffemodel import Layer


def blobs_of(layer: Layer) -> list[Tensor]:
    return [torch.from_numpy(blob) for blob in layer.blobs]


def deconvnet(layers: Iterable[Layer], image: Tensor) -> Tensor:
    """`DeconvNet_inference_deploy.prototxt`; the image is (1, 3, H, W), BGR less the mean."""
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


def fcn8s(layers: Iterable[Layer], names: Sequence[str], image: Tensor) -> Tensor:
    """`fcn-8s-pascal` with its own crops of 5, 9 and 31; the image is (1, 3, H, W), BGR less the mean."""
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
