"""Turns the published Caffe networks (DeconvNet, FCN-8s, VGG-16) into files of our own.

Names and numbers of layers are read from protobuf's wire format with NumPy alone.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconvseg.errors import WeightsError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.base import STRIDE, SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, Storage, build_network, save_network, write_tensors

Layers = dict[str, list[NDArray[np.float32]]]

CAFFE_MEAN_RGB = (122.67891434, 116.66876762, 104.00698793)
"""What DeconvNet's and FCN-8s's scripts subtract from a photo (`inference/util/preprocess_image_bb.m`)."""

_FCN_NAMES = {
    "score_fr": ("score_fr", "score-fr", "score59"),
    "score_pool4": ("score_pool4", "score-pool4"),
    "score_pool3": ("score_pool3", "score-pool3"),
    "upscore2": ("upscore2", "score2"),
    "upscore_pool4": ("upscore_pool4", "score4"),
    "upscore8": ("upscore8", "upsample", "bigscore"),
}
"""Our layers, and what they were called over the years."""

# NetParameter's lists of layers (`caffe.proto`), `layers` up to the middle of 2014, `layer` since: field
# numbers of a layer's name, tops, arrays and `bn_param`, which DeconvNet's Caffe adds to the old message.
_LISTS = {2: (4, 3, 6, 45), 100: (1, 4, 7, -1)}
_NUMBERS, _SIZES, _SHAPE = 5, (1, 2, 3, 4), 7
_BN_MODE, _BN_INFERENCE = 3, 1


def convert_caffemodel(source: Path, target: Path, storage: Storage = "float16") -> str:
    """Convert DeconvNet, FCN-8s or VGG-16 from Caffe, recognised by the names of its layers.

    Sizes follow from the arrays; 21 labels get VOC's names, others are `class1`, `class2` and so on. VGG-16
    becomes a file for `read_vgg16`, not of storage `int8`. Returns what it is.

    Raises WeightsError for a file damaged or of another network, as is the DeconvNet of a training stage,
    whose BatchNorm has no statistics yet; OutputError if the target is not writable.
    """
    layers, folded = read_caffemodel(source)
    try:
        if "fc6-deconv" in layers:
            about, network = "DeconvNet", _deconvnet(layers, folded)
        elif any(name in layers for name in _FCN_NAMES["score_pool3"]):
            about, network = "FCN-8s", _fcn8s(layers)
        elif "conv5_1" in layers:
            if storage == "int8":
                raise ValueError("VGG-16 is stored as float32 or float16, not as int8")
            write_tensors(target, _vgg16(layers), storage, {"order": "RGB"})
            return "VGG-16 with fc6 and fc7, to start training from"
        else:
            raise ValueError(f"neither DeconvNet, FCN-8s nor VGG-16 by its layers {', '.join([*layers][:6])}")
    except (ValueError, RuntimeError) as error:
        cure = "take a published network, or the same with other sizes"
        raise WeightsError(f"{source}: cannot be converted: {error}; {cure}") from error
    labels = network.arguments["classes"]
    others = ("background", *(f"class{i}" for i in range(1, labels)))
    classes = VOC_CLASSES if labels == len(VOC_CLASSES) else others
    header = NetworkHeader(classes, palette_for(labels), CAFFE_MEAN_RGB, training={"source": source.name})
    save_network(target, network, header, storage)
    return f"{about}, {labels} labels"


def _deconvnet(layers: Layers, folded: bool) -> SegmentationNetwork:
    if not folded:
        raise ValueError("it is of a training stage, and its BatchNorm has no statistics yet")
    score = next((name for name in layers if name.startswith("seg-score")), "seg-score-voc")
    deepest_first = _counts(layers, "deconv")[::-1]
    decoder = deepest_first[: (*deepest_first, 0).index(0)]
    sizes = {"crop_size": STRIDE * _kernel(layers, "fc6")[2], "decoder_convs": decoder}
    network = build_network("deconvnet", {**_sizes(layers, score), **sizes})
    tensors = _tensors(layers, network.state_dict(), {"fc6_deconv": "fc6-deconv", "seg_score": score})
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):  # one that is folded only scales and shifts
            tensors[f"{name}.running_mean"] = torch.zeros(module.num_features)
            tensors[f"{name}.running_var"] = torch.ones(module.num_features) - module.eps
            tensors[f"{name}.num_batches_tracked"] = torch.tensor(0)
    network.load_state_dict(tensors, assign=True)
    return network


def _fcn8s(layers: Layers) -> SegmentationNetwork:
    theirs = {ours: next((n for n in names if n in layers), names[0]) for ours, names in _FCN_NAMES.items()}
    sizes = {**_sizes(layers, theirs["score_fr"]), "head_kernel": _kernel(layers, "fc6")[2]}
    # DeconvNet's scripts pad a photo to 500 x 500; `fcn-8s-pascal` pads its first convolution by 100 pixels.
    network = build_network("fcn8s", {**sizes, "side": 500, "padding": 100})
    # What an enlarger adds to all its output, the scores that are added to that output can bring along.
    for ours, score in (("upscore2", "score_pool4"), ("upscore_pool4", "score_pool3")):
        enlarger, scores = layers.get(theirs[ours], []), layers.get(theirs[score], [])
        if len(enlarger) == len(scores) == 2:
            scores[1] = scores[1] + enlarger.pop().reshape(scores[1].shape)
    network.load_state_dict(_tensors(layers, network.state_dict(), theirs), assign=True)
    return network


def _vgg16(layers: Layers) -> dict[str, Tensor]:
    """The tensors of a file for `read_vgg16`."""
    channels, fc6 = _kernel(layers, "conv5_1")[0], layers.get("fc6", [])
    if len(fc6) != 2:
        raise ValueError("layer fc6 is missing or no convolution")
    bottleneck = fc6[1].size
    side = math.isqrt(fc6[0].size // (bottleneck * channels))  # of a kernel, or of what a matrix sees
    sizes = {**_sizes(layers, "conv5_1"), "bottleneck": bottleneck, "head_kernel": side, "padding": 1}
    wanted = build_network("fcn8s", {**sizes, "classes": 2}).state_dict()
    needed = {name: layer for name, layer in layers.items() if not name.startswith("fc8")}
    tensors = _tensors(needed, {name: tensor for name, tensor in wanted.items() if "score" not in name}, {})
    return {re.sub(r"encoder\.\d\.|\.conv(?=\.)", "", name): tensor for name, tensor in tensors.items()}


def _kernel(layers: Layers, name: str) -> tuple[int, ...]:
    """Shape (4 axes) of a layer's kernel."""
    shape = layers[name][0].shape if name in layers else ()
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
        "bottleneck": layers["fc6"][0].shape[0] if "fc6" in layers else 0,
    }


def _tensors(layers: Layers, wanted: Mapping[str, Tensor], theirs: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of these names and shapes, for RGB; `theirs` are names of layers by ours, if others."""
    plan = {}
    for name in wanted:
        *path, kind = name.split(".")
        unit = path.pop() if path[-1] in ("conv", "norm") else ""
        layer = theirs.get(path[-1], path[-1])
        if kind in ("weight", "bias"):  # a layer's first and second array
            plan[_norm(layer) if unit == "norm" else layer, int(kind == "bias")] = name
    found = {(layer, i): blob for layer, blobs in layers.items() for i, blob in enumerate(blobs)}
    both = found.keys() & plan.keys()
    # Caffe's vectors have axes of 1 around them, and kernels of an InnerProduct have two.
    wrong = {key for key in both if found[key].size != wanted[plan[key]].numel()}
    if named := sorted({layer for layer, _ in wrong | (found.keys() ^ plan.keys())}):
        raise ValueError(f"layers missing, left over or of another shape: {', '.join(named[:5])}")
    arrays = {name: found[key].reshape(wanted[name].shape) for key, name in plan.items()}
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    first = "encoder.0.conv1_1.conv.weight"
    return {**tensors, first: tensors[first].flip(1)}  # Caffe's photos are BGR


def _norm(conv: str) -> str:
    """The BN layer after one: `bn1_1`, `bnfc6`, `fc6-deconv-bn`, `debn1_1`."""
    if conv == "fc6-deconv":
        return "fc6-deconv-bn"
    return conv.replace("conv", "bn") if "conv" in conv else f"bn{conv}"


def read_caffemodel(path: Path) -> tuple[Layers, bool]:
    """The arrays of the layers of a `.caffemodel` file that have any, and whether its BatchNorm is folded;
    WeightsError if it is missing or damaged."""
    layers: Layers = {}
    folded = False
    try:
        lists = _fields(memoryview(path.read_bytes()))
        for kind, (name, top, blob, norm) in _LISTS.items():
            for layer in map(_fields, lists[kind]):
                if layer[blob]:
                    (called,) = layer[name]
                    layers[str(called, "utf-8")] = [_array(message) for message in layer[blob]]
                    # Only what the authors' `BN_make_INFERENCE_script.py` saves gives out mean and variance.
                    folded |= any(_fields(one)[_BN_MODE] == [_BN_INFERENCE] for one in layer[norm])
                    folded |= len(layer[top]) == 3
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, IndexError) as damage:  # what a field of another kind leads to
        raise WeightsError(f"{path}: not a sound .caffemodel file ({damage}); fetch it again") from damage
    return layers, folded


def _array(message: memoryview) -> NDArray[np.float32]:
    fields = _fields(message)
    (numbers,) = fields[_NUMBERS]
    shape = [size for whole in fields[_SHAPE] for packed in _fields(whole)[1] for size in _varints(packed)]
    if any(fields[axis] for axis in _SIZES):  # Caffe lets the old description win, too
        shape = [(fields[axis] or [1])[-1] for axis in _SIZES]
    return np.frombuffer(numbers, "<f4").reshape(shape)


def _fields(message: memoryview) -> defaultdict[int, list[Any]]:
    """The fields of a message by number, each an integer or its content, without looking into any."""
    fields = defaultdict[int, list[Any]](list)
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7  # 0: an integer; 2: its size and content; 1 and 5: 8 and 4 bytes
        value: Any = {1: 8, 5: 4}.get(wire, len(message))
        if wire in (0, 2):
            value, at = _varint(message, at)
        if wire:
            if value > len(message) - at:
                raise ValueError("what it announces goes on beyond its end")
            value, at = message[at : at + value], at + value
        fields[tag >> 3].append(value)
    return fields


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, lowest first, and where the next thing begins."""
    size = 1
    while message[at + size - 1] & 128:
        size += 1
    return sum((byte & 127) << 7 * place for place, byte in enumerate(message[at : at + size])), at + size
