"""Turns the published Caffe networks (DeconvNet, FCN-8s, VGG-16) into files of our own."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deconvseg.errors import UsageError, WeightsError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.caffe import CaffeModel
from deconvseg.network.caffe_layers import CaffeLayers
from deconvseg.network.checkpoint import NetworkHeader, build_network, write_network
from deconvseg.network.deconvnet import STRIDE
from deconvseg.network.tensor_file import Storage, Stored, Values, encode, write_tensors

Norms = Literal["auto", "folded", "raw"]

CAFFE_MEAN_RGB = (122.67891434, 116.66876762, 104.00698793)
"""What DeconvNet's and FCN-8s's scripts subtract from a photo (`inference/util/preprocess_image_bb.m`)."""
VGG_CONVS = (2, 2, 3, 3, 3)
ZOO_SIDE, ZOO_PADDING = 500, 100
"""DeconvNet's scripts pad a photo to 500 x 500; `fcn-8s-pascal` pads its first convolution by 100 pixels."""

_FCN_NAMES = {
    "score_fr": ("score_fr", "score-fr", "score59"),
    "score_pool4.conv": ("score_pool4", "score-pool4"),
    "score_pool3.conv": ("score_pool3", "score-pool3"),
    "upscore2": ("upscore2", "score2"),
    "upscore_pool4": ("upscore_pool4", "score4"),
    "upscore8": ("upscore8", "upsample", "bigscore"),
}
"""Our layers, and what they were called over the years."""


@dataclass(frozen=True)
class Converted:
    """What was in a caffemodel.

    Attributes:
        summary: the network in one line.
        ignored: layers of the file that were not needed, in one line; empty if there were none.
    """

    summary: str
    ignored: str


def convert_caffemodel(
    source: Path, target: Path, storage: Storage = "float16", norms: Norms = "auto"
) -> Converted:
    """Convert DeconvNet, FCN-8s or VGG-16 from Caffe, recognised by the names of its layers.

    Widths, numbers of layers, labels and crop size follow from the arrays. 21 labels get VOC's names, others
    are `class1`, `class2` and so on. Of DeconvNet's BatchNorm there are two kinds. In the file for inference
    mean and variance are folded into scale and shift; ours then has mean 0 and variance 1 less its epsilon,
    so that it only scales and shifts. The file of a training stage has no statistics: its network can be
    trained further, but not segment. VGG-16 becomes a file for `read_vgg16`.

    Args:
        source: `.caffemodel` file.
        target: file to write.
        storage: as for `save_network`; VGG-16 is not stored as `int8`.
        norms: DeconvNet's BatchNorm: `folded`, `raw`, or `auto` to go by the file. It is folded if a BN layer
            says `INFERENCE`, or gives out its batch's mean and variance: the network that the authors' script
            folds and saves does so (`BN_make_INFERENCE_script.py`), and no other.

    Raises:
        WeightsError: damaged, none of these networks, or layers are missing, left over or of wrong shape.
        OutputError: the target cannot be written.
        UsageError: VGG-16 as `int8`.
    """
    model = CaffeModel(source)
    layers = CaffeLayers(model)
    if any(name in layers for name in ("fc6-deconv", "deconv5_1", "seg-score-voc")):
        return _deconvnet(model, layers, target, storage, norms)
    if any(name in layers for name in _FCN_NAMES["score_pool3.conv"]):
        return _fcn8s(model, layers, target, storage)
    if "conv1_1" in layers and "conv5_1" in layers:
        return _vgg16(model, layers, target, storage)
    names = ", ".join(layer.name for layer in model.layers[:6])
    raise WeightsError(
        f"{source}: neither DeconvNet, FCN-8s nor VGG-16 by the names of its layers ({names}, ...); no other "
        "network of Caffe's can be converted"
    )


def _deconvnet(
    model: CaffeModel, layers: CaffeLayers, target: Path, storage: Storage, norms: Norms
) -> Converted:
    score = layers.starting("seg-score")
    deepest_first = layers.counts("deconv")[::-1]
    decoder = deepest_first[: (*deepest_first, 0).index(0)]
    arguments = {
        **_sizes(layers, score),
        "crop_size": STRIDE * layers.kernel("fc6")[2],
        "decoder_convs": decoder,
    }
    network = _build(model.path, "deconvnet", arguments)
    units = [*_encoder_units(arguments["encoder_convs"]), ("fc6-deconv", "fc6_deconv")]
    for i, count in enumerate(decoder):
        names = [f"deconv{5 - i}_{j}" for j in range(1, count + 1)]
        units += [(name, f"decoder.{i}.{name}") for name in names]
    folded = norms == "folded" or (norms == "auto" and layers.only_scale(_norm(conv) for conv, _ in units))

    layers.expect(network.state_dict())
    for theirs, ours in units:
        epsilon = network.get_submodule(f"{ours}.norm").eps
        assert isinstance(epsilon, float)
        layers.take(theirs, f"{ours}.conv.weight", f"{ours}.conv.bias")
        layers.take_norm(_norm(theirs), f"{ours}.norm", 1 - epsilon if folded else 1)
        layers.values[f"{ours}.norm.num_batches_tracked"] = torch.tensor(0)
    layers.take(score, "seg_score.weight", "seg_score.bias")
    ignored = layers.finish("DeconvNet")
    _write(target, network, model, layers, storage, folded)
    side = arguments["crop_size"]
    about = f"DeconvNet, {arguments['classes']} labels, crops of {side} x {side} pixels, BatchNorm "
    if folded:
        return Converted(about + "folded", ignored)
    return Converted(about + "without statistics: to be trained further (train --init FILE)", ignored)


def _norm(conv: str) -> str:
    """The BN layer after one: `bn1_1`, `bnfc6`, `fc6-deconv-bn`, `debn1_1`."""
    if conv == "fc6-deconv":
        return "fc6-deconv-bn"
    return conv.replace("conv", "bn") if "conv" in conv else f"bn{conv}"


def _fcn8s(model: CaffeModel, layers: CaffeLayers, target: Path, storage: Storage) -> Converted:
    names = {ours: layers.first_of(theirs) for ours, theirs in _FCN_NAMES.items()}
    arguments = {
        **_sizes(layers, names["score_fr"]),
        "head_kernel": layers.kernel("fc6")[2],
        "side": ZOO_SIDE,
        "padding": ZOO_PADDING,
    }
    network = _build(model.path, "fcn8s", arguments)
    layers.expect(network.state_dict())
    for theirs, ours in _encoder_units(arguments["encoder_convs"]):
        layers.take(theirs, f"{ours}.conv.weight", f"{ours}.conv.bias")
    for ours in ("score_fr", "score_pool4.conv", "score_pool3.conv"):
        layers.take(names[ours], f"{ours}.weight", f"{ours}.bias")
    # What an enlarger would add to all its output, the scores added to that output can bring along.
    layers.take_enlarger(names["upscore2"], "upscore2", "score_pool4.conv.bias")
    layers.take_enlarger(names["upscore_pool4"], "upscore_pool4", "score_pool3.conv.bias")
    layers.take_enlarger(names["upscore8"], "upscore8", None)
    ignored = layers.finish("FCN-8s")
    _write(target, network, model, layers, storage)
    return Converted(f"FCN-8s, {arguments['classes']} labels", ignored)


def _vgg16(model: CaffeModel, layers: CaffeLayers, target: Path, storage: Storage) -> Converted:
    if storage == "int8":
        raise UsageError("VGG-16 is stored as float32 or float16, not as int8; choose one with --storage")
    widths = tuple(layers.kernel(f"conv{block}_1")[0] for block in range(1, 6))
    heads = [name for name in ("fc6", "fc7") if name in layers]
    names = [name for name, _ in _encoder_units(VGG_CONVS) if name not in ("fc6", "fc7")] + heads
    layers.expect(_vgg16_shapes(model.path, layers, widths, heads))
    for name in names:
        layers.take(name, f"{name}.weight", f"{name}.bias")
    ignored = layers.finish("VGG-16", ignorable="fc8")
    tensors: dict[str, Stored] = {}
    for name, values in _in_rgb(layers.values, "conv1_1.weight").items():
        tensors |= encode(name, values, storage, model.release)
    write_tensors(target, tensors, {"order": "RGB"})
    about = f"with {' and '.join(heads)}" if heads else "without fc6 and fc7"
    return Converted(f"VGG-16 {about}, to start training from (train --vgg16 FILE)", ignored)


def _vgg16_shapes(
    path: Path, layers: CaffeLayers, widths: tuple[int, ...], heads: list[str]
) -> dict[str, Tensor]:
    """Tensors without memory of VGG-16's shapes; those of fc6 and fc7 go by the file."""
    encoder = _build(
        path, "deconvnet", {"classes": 21, "widths": widths, "encoder_convs": VGG_CONVS}
    ).encoder.state_dict()
    pattern = re.compile(r"\d\.(conv\d_\d)\.conv\.(weight|bias)")
    found = {name: pattern.fullmatch(name) for name in encoder}
    shapes = {f"{match[1]}.{match[2]}": encoder[name] for name, match in found.items() if match}
    channels = widths[4]
    for name in heads:
        outputs, inputs = layers.matrix(name)
        side = math.isqrt(inputs // max(channels, 1))
        shapes[f"{name}.weight"] = torch.empty(outputs, channels, side, side, device="meta")
        shapes[f"{name}.bias"] = torch.empty(outputs, device="meta")
        channels = outputs
    return shapes


def _sizes(layers: CaffeLayers, score: str) -> dict[str, Any]:
    """Arguments that DeconvNet and FCN-8s have in common."""
    return {
        "classes": layers.kernel(score)[0],
        "widths": tuple(layers.kernel(f"conv{block}_1")[0] for block in range(1, 6)),
        "encoder_convs": layers.counts("conv"),
        "bottleneck": layers.kernel("fc6")[0],
    }


def _encoder_units(convs: tuple[int, ...]) -> list[tuple[str, str]]:
    """Caffe's and our names from conv1_1 to fc7."""
    names = [(b, f"conv{b + 1}_{i}") for b, count in enumerate(convs) for i in range(1, count + 1)]
    return [*((name, f"encoder.{b}.{name}") for b, name in names), ("fc6", "fc6"), ("fc7", "fc7")]


def _build(path: Path, architecture: str, arguments: dict[str, Any]) -> SegmentationNetwork:
    try:
        return build_network(path, architecture, arguments)
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: the sizes of its layers make no network: {error}") from error


def _in_rgb(values: dict[str, Values], first: str) -> dict[str, Values]:
    """The tensors with the first convolution's inputs turned from Caffe's BGR to RGB."""
    return {**values, first: np.asarray(values[first])[:, ::-1]}


def _write(
    target: Path,
    network: SegmentationNetwork,
    model: CaffeModel,
    layers: CaffeLayers,
    storage: Storage,
    statistics: bool = True,
) -> None:
    classes = network.arguments["classes"]
    names = VOC_CLASSES
    if classes != len(VOC_CLASSES):
        names = ("background", *(f"class{i}" for i in range(1, classes)))
    training = {"source": model.path.name}
    header = NetworkHeader(
        names, palette_for(classes), CAFFE_MEAN_RGB, training=training, statistics=statistics
    )
    state = _in_rgb(layers.values, "encoder.0.conv1_1.conv.weight")
    write_network(target, network, state, header, storage, model.release)
