"""Turns the published Caffe networks (DeconvNet, FCN-8s, VGG-16) into files of our own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconvseg.errors import WeightsError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.caffe import CaffeLayer, read_caffemodel
from deconvseg.network.checkpoint import NetworkHeader, Storage, build_network, save_network, write_tensors
from deconvseg.network.deconvnet import STRIDE

Layers = dict[str, CaffeLayer]

CAFFE_MEAN_RGB = (122.67891434, 116.66876762, 104.00698793)
"""What DeconvNet's and FCN-8s's scripts subtract from a photo (`inference/util/preprocess_image_bb.m`)."""
ZOO_SIDE, ZOO_PADDING = 500, 100
"""DeconvNet's scripts pad a photo to 500 x 500; `fcn-8s-pascal` pads its first convolution by 100 pixels."""

_FCN_NAMES = {
    "score_fr": ("score_fr", "score-fr", "score59"),
    "score_pool4": ("score_pool4", "score-pool4"),
    "score_pool3": ("score_pool3", "score-pool3"),
    "upscore2": ("upscore2", "score2"),
    "upscore_pool4": ("upscore_pool4", "score4"),
    "upscore8": ("upscore8", "upsample", "bigscore"),
}
"""Our layers, and what they were called over the years."""


def convert_caffemodel(source: Path, target: Path, storage: Storage = "float16") -> str:
    """Convert DeconvNet, FCN-8s or VGG-16 from Caffe, recognised by the names of its layers.

    Widths, numbers of layers, labels and crop size follow from the arrays. 21 labels get VOC's names, others
    are `class1`, `class2` and so on. Of DeconvNet's BatchNorm there are two kinds. In the file for inference
    mean and variance are folded into scale and shift; ours then has mean 0 and variance 1 less its epsilon,
    so that it only scales and shifts. A file is one if a BN layer says `INFERENCE`, or gives out its batch's
    mean and variance: the network that the authors' script folds and saves does so
    (`BN_make_INFERENCE_script.py`), and no other. The file of a training stage has no statistics: its network
    can be trained further, but not segment. VGG-16 becomes a file for `read_vgg16`.

    The `storage` is as for `save_network`; VGG-16 is not stored as `int8`. Returns the network in one line.

    Raises:
        WeightsError: damaged, none of these networks, or layers are missing, left over or of wrong shape.
        OutputError: the target cannot be written.
    """
    layers = read_caffemodel(source)
    try:
        if "fc6-deconv" in layers:
            about, network, tensors, statistics = _deconvnet(layers)
        elif any(name in layers for name in _FCN_NAMES["score_pool3"]):
            about, network, tensors, statistics = _fcn8s(layers)
        elif "conv5_1" in layers:
            if storage == "int8":
                raise ValueError("VGG-16 is stored as float32 or float16, not as int8")
            write_tensors(target, _vgg16(layers), storage, {"order": "RGB"})
            return "VGG-16 with fc6 and fc7, to start training from"
        else:
            raise ValueError(f"neither DeconvNet, FCN-8s nor VGG-16 by its layers {', '.join([*layers][:6])}")
    except (ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{source}: cannot be converted: {error}; only the published networks, or the same with other "
            "sizes, can be"
        ) from error
    labels = network.arguments["classes"]
    others = ("background", *(f"class{i}" for i in range(1, labels)))
    header = NetworkHeader(
        VOC_CLASSES if labels == len(VOC_CLASSES) else others,
        palette_for(labels),
        CAFFE_MEAN_RGB,
        training={"source": source.name},
        statistics=statistics,
    )
    network.load_state_dict(tensors, assign=True)
    save_network(target, network, header, storage)
    return f"{about}, {labels} labels"


Converted = tuple[str, SegmentationNetwork, dict[str, Tensor], bool]
"""What it is, the network without its numbers, these, and whether BatchNorm has statistics."""


def _deconvnet(layers: Layers) -> Converted:
    score = next((name for name in layers if name.startswith("seg-score")), "seg-score-voc")
    deepest_first = _counts(layers, "deconv")[::-1]
    decoder = deepest_first[: (*deepest_first, 0).index(0)]
    side = STRIDE * _kernel(layers, "fc6")[2]
    sizes = {**_sizes(layers, score), "crop_size": side, "decoder_convs": decoder}
    network = build_network("deconvnet", sizes)
    theirs = {"fc6_deconv": "fc6-deconv", "seg_score": score}
    tensors = _tensors(layers, network.state_dict(), theirs)
    folded = any(layer.norm_folded for name, layer in layers.items() if "bn" in name)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            tensors[f"{name}.running_mean"] = torch.zeros(module.num_features)
            tensors[f"{name}.running_var"] = torch.ones(module.num_features) - (module.eps if folded else 0)
            tensors[f"{name}.num_batches_tracked"] = torch.tensor(0)
    kind = "folded" if folded else "without statistics: to be trained further"
    return f"DeconvNet, BatchNorm {kind}, crops of {side} x {side} pixels", network, tensors, folded


def _fcn8s(layers: Layers) -> Converted:
    theirs = {
        ours: next((name for name in names if name in layers), names[0]) for ours, names in _FCN_NAMES.items()
    }
    sizes = {**_sizes(layers, theirs["score_fr"]), "head_kernel": _kernel(layers, "fc6")[2]}
    network = build_network("fcn8s", {**sizes, "side": ZOO_SIDE, "padding": ZOO_PADDING})
    # What an enlarger adds to all its output, the scores that are added to that output can bring along.
    for ours, score in (("upscore2", "score_pool4"), ("upscore_pool4", "score_pool3")):
        enlarger, scores = layers.get(theirs[ours]), layers.get(theirs[score])
        if enlarger and scores and len(enlarger.blobs) == len(scores.blobs) == 2:
            bias = scores.blobs[1] + enlarger.blobs[1].reshape(scores.blobs[1].shape)
            layers[enlarger.name] = enlarger._replace(blobs=enlarger.blobs[:1])
            layers[scores.name] = scores._replace(blobs=(scores.blobs[0], bias))
    return "FCN-8s", network, _tensors(layers, network.state_dict(), theirs), True


def _vgg16(layers: Layers) -> dict[str, Tensor]:
    """The tensors of a file for `read_vgg16`."""
    channels, fc6 = _kernel(layers, "conv5_1")[0], layers.get("fc6")
    if not fc6 or len(fc6.blobs) != 2:
        raise ValueError("layer fc6 is missing or no convolution")
    bottleneck = fc6.blobs[1].size
    side = math.isqrt(fc6.blobs[0].size // (bottleneck * channels))  # of a kernel, or of what a matrix sees
    sizes = {**_sizes(layers, "conv5_1"), "bottleneck": bottleneck, "head_kernel": side, "padding": 1}
    wanted = build_network("fcn8s", {**sizes, "classes": 2}).state_dict()
    needed = {name: layer for name, layer in layers.items() if not name.startswith("fc8")}
    tensors = _tensors(needed, {name: tensor for name, tensor in wanted.items() if "score" not in name}, {})
    return {re.sub(r"encoder\.\d\.|\.conv(?=\.)", "", name): tensor for name, tensor in tensors.items()}


def _kernel(layers: Layers, name: str) -> tuple[int, ...]:
    """Shape (4 axes) of a layer's kernel."""
    shape = layers[name].blobs[0].shape if name in layers else ()
    if len(shape) != 4:
        raise ValueError(f"layer {name} is missing or no convolution")
    return shape


def _counts(layers: Layers, prefix: str) -> tuple[int, ...]:
    """How many layers `{prefix}{block}_{i}` blocks 1 to 5 have."""
    return tuple(sum(f"{prefix}{block}_{i}" in layers for i in range(1, 100)) for block in range(1, 6))


def _sizes(layers: Layers, score: str) -> dict[str, Any]:
    """Arguments that DeconvNet and FCN-8s have in common; `score` is the layer with an output a label."""
    return {
        "classes": _kernel(layers, score)[0],
        "widths": tuple(_kernel(layers, f"conv{block}_1")[0] for block in range(1, 6)),
        "encoder_convs": _counts(layers, "conv"),
        "bottleneck": layers["fc6"].blobs[0].shape[0] if "fc6" in layers else 0,
    }


def _tensors(layers: Layers, wanted: Mapping[str, Tensor], theirs: Mapping[str, str]) -> dict[str, Tensor]:
    """A network's kernels, scales, biases and shifts from the layers of the same names, for RGB input.

    `wanted` are the network's tensors, for names and shapes, `theirs` the names of layers by ours, where
    they differ. Raises ValueError if layers are missing, left over or of another shape.
    """
    plan: dict[str, list[str]] = {}
    for name in wanted:
        unit, _, kind = name.rpartition(".")
        if kind in ("weight", "bias"):  # a layer's first and second array
            layer = unit.removesuffix(".conv").removesuffix(".norm").rpartition(".")[2]
            layer = theirs.get(layer, layer)
            plan.setdefault(_norm(layer) if unit.endswith(".norm") else layer, []).append(name)
    found = {}
    wrong = layers.keys() ^ plan.keys()
    for layer in [layer for layer in plan if layer in layers]:
        blobs, shapes = layers[layer].blobs, [tuple(wanted[name].shape) for name in plan[layer]]
        if len(blobs) != len(shapes) or not all(map(_fits, (blob.shape for blob in blobs), shapes)):
            wrong.add(layer)
            continue
        for name, blob, shape in zip(plan[layer], blobs, shapes, strict=True):
            found[name] = torch.from_numpy(blob.reshape(shape).astype(np.float32))
    if wrong:
        raise ValueError(f"layers missing, left over or of another shape: {', '.join(sorted(wrong)[:5])}")
    first = "encoder.0.conv1_1.conv.weight"
    return {**found, first: found[first].flip(1)}  # Caffe's photos are BGR


def _norm(conv: str) -> str:
    """The BN layer after one: `bn1_1`, `bnfc6`, `fc6-deconv-bn`, `debn1_1`."""
    if conv == "fc6-deconv":
        return "fc6-deconv-bn"
    return conv.replace("conv", "bn") if "conv" in conv else f"bn{conv}"


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array holds what the tensor is to hold.

    Caffe writes vectors with axes of 1 around them, and the kernels of an InnerProduct as a matrix.
    """
    shapes = (found, wanted, (wanted[0], math.prod(wanted[1:])))
    bare, *expected = ([size for size in shape if size > 1] for shape in shapes)
    return bare in expected
