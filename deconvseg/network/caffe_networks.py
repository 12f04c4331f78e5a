"""Turns the published Caffe networks (DeconvNet, FCN-8s, VGG-16) into files of our own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from deconvseg.errors import UsageError, WeightsError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.caffe import Array, CaffeLayer, read_caffemodel
from deconvseg.network.checkpoint import (
    NetworkHeader,
    Storage,
    build_network,
    encode,
    save_network,
    write_tensors,
)
from deconvseg.network.deconvnet import STRIDE

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
    file = _File(source)
    if any(name in file.blobs for name in ("fc6-deconv", "deconv5_1", "seg-score-voc")):
        return _deconvnet(file, target, storage, norms)
    if any(name in file.blobs for name in _FCN_NAMES["score_pool3.conv"]):
        return _fcn8s(file, target, storage)
    if "conv1_1" in file.blobs and "conv5_1" in file.blobs:
        return _vgg16(file, target, storage)
    raise WeightsError(
        f"{source}: neither DeconvNet, FCN-8s nor VGG-16 by the names of its layers "
        f"({', '.join([*file.blobs][:6])}, ...); no other network of Caffe's can be converted"
    )


class _File:
    """A caffemodel: the arrays of its layers by name, and what they say of the network's sizes.

    Attributes:
        layers: those with arrays.
        blobs: their arrays by name.
        empty: how many layers have none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        layers = read_caffemodel(path)
        self.layers: list[CaffeLayer] = [layer for layer in layers if layer.blobs]
        self.empty = len(layers) - len(self.layers)
        self.blobs: dict[str, list[Array]] = {}
        for layer in self.layers:
            if layer.name in self.blobs:
                raise WeightsError(f"{path}: two layers with weights are named {layer.name!r}")
            self.blobs[layer.name] = [*layer.blobs]

    def kernel(self, name: str) -> tuple[int, ...]:
        """Shape (4 axes) of a layer's kernel; WeightsError without one."""
        if name not in self.blobs:
            raise WeightsError(f"{self.path}: it lacks layer {name}; fetch it again")
        shape = self.blobs[name][0].shape
        if len(shape) != 4:
            raise WeightsError(f"{self.path}: layer {name} has the shape {shape}, which is no convolution's")
        return shape

    def counts(self, prefix: str) -> tuple[int, ...]:
        """How many layers `{prefix}{block}_{i}` blocks 1 to 5 have, going by the highest `i` (up to 99)."""
        counts = [0] * 5
        for name in self.blobs:
            if found := re.fullmatch(rf"{prefix}([1-5])_([1-9][0-9]?)", name):
                block, i = map(int, found.groups())
                counts[block - 1] = max(counts[block - 1], i)
        return tuple(counts)

    def sizes(self, score: str) -> dict[str, Any]:
        """Arguments that DeconvNet and FCN-8s have in common; `score` is the layer with an output a label."""
        return {
            "classes": self.kernel(score)[0],
            "widths": tuple(self.kernel(f"conv{block}_1")[0] for block in range(1, 6)),
            "encoder_convs": self.counts("conv"),
            "bottleneck": self.kernel("fc6")[0],
        }

    def build(self, architecture: str, arguments: dict[str, Any]) -> SegmentationNetwork:
        """A network of these sizes without numbers."""
        try:
            return build_network(self.path, architecture, arguments)
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"{self.path}: the sizes of its layers make no network: {error}") from error

    def take(
        self, kind: str, plan: Mapping[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        """float32 tensors by our names.

        Args:
            kind: of network.
            plan: the file's layers, each with our names of its arrays.
            shapes: of our tensors.

        Raises:
            WeightsError: a layer is missing, left over or of another shape.
        """
        tensors: dict[str, Tensor] = {}
        wrong = [f"{name} is missing" for name in plan if name not in self.blobs]
        for name, blobs in self.blobs.items():
            targets = plan.get(name, ())
            if not targets:
                wrong.append(f"{name} is left over")
            elif len(blobs) != len(targets):
                wrong.append(f"{name} holds {len(blobs)} arrays, not {len(targets)}")
            for blob, target in zip(blobs, targets, strict=False):
                if _fits(blob.shape, shapes[target]):
                    with np.errstate(over="ignore"):  # infinities are refused when they are stored
                        tensors[target] = torch.from_numpy(np.array(blob.reshape(shapes[target]), np.float32))
                else:
                    wrong.append(f"{name} has the shape {blob.shape}, not {shapes[target]}")
        if wrong:
            raise WeightsError(
                f"{self.path}: {kind} by the names of its layers, but {', '.join(wrong)}; "
                "only the published networks, or the same with other sizes, can be converted"
            )
        return tensors

    def ignored(self, *names: str) -> str:
        """These layers, and those without weights, in one line."""
        return ", ".join([*names, *([f"{self.empty} without weights"] if self.empty else [])])


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array holds what the tensor is to hold.

    Caffe writes vectors with axes of 1 around them, and the kernels of an InnerProduct as a matrix.
    """
    if len(wanted) == 1:
        return math.prod(found) == wanted[0] and all(size in (1, wanted[0]) for size in found)
    matrix = (wanted[0], math.prod(wanted[1:]))
    return found in (wanted, matrix, (1, 1, *matrix))


def _deconvnet(file: _File, target: Path, storage: Storage, norms: Norms) -> Converted:
    score = next((name for name in file.blobs if name.startswith("seg-score")), "seg-score")
    deepest_first = file.counts("deconv")[::-1]
    decoder = deepest_first[: (*deepest_first, 0).index(0)]
    side = STRIDE * file.kernel("fc6")[2]
    sizes = file.sizes(score)
    network = file.build("deconvnet", {**sizes, "crop_size": side, "decoder_convs": decoder})
    units = [*_encoder_units(sizes["encoder_convs"]), ("fc6-deconv", "fc6_deconv")]
    for i, count in enumerate(decoder):
        names = [f"deconv{5 - i}_{j}" for j in range(1, count + 1)]
        units += [(name, f"decoder.{i}.{name}") for name in names]
    plan: dict[str, tuple[str, ...]] = {score: ("seg_score.weight", "seg_score.bias")}
    for theirs, ours in units:
        plan[theirs] = f"{ours}.conv.weight", f"{ours}.conv.bias"
        plan[_norm(theirs)] = f"{ours}.norm.weight", f"{ours}.norm.bias"
    tensors = file.take("DeconvNet", plan, _shapes(network))
    bn_names = {_norm(theirs) for theirs, _ in units}
    folded = norms == "folded" or (
        norms == "auto"
        and any(layer.norm_inference or layer.tops == 3 for layer in file.layers if layer.name in bn_names)
    )
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            tensors[f"{name}.running_mean"] = torch.zeros(module.num_features)
            tensors[f"{name}.running_var"] = torch.ones(module.num_features) - (module.eps if folded else 0)
            tensors[f"{name}.num_batches_tracked"] = torch.tensor(0)
    _save(target, network, tensors, file, storage, folded)
    kind = "folded" if folded else "without statistics: to be trained further"
    about = f"DeconvNet, {sizes['classes']} labels, crops of {side} x {side} pixels, BatchNorm {kind}"
    return Converted(about, file.ignored())


def _norm(conv: str) -> str:
    """The BN layer after one: `bn1_1`, `bnfc6`, `fc6-deconv-bn`, `debn1_1`."""
    if conv == "fc6-deconv":
        return "fc6-deconv-bn"
    return conv.replace("conv", "bn") if "conv" in conv else f"bn{conv}"


def _fcn8s(file: _File, target: Path, storage: Storage) -> Converted:
    names = {
        ours: next((name for name in theirs if name in file.blobs), theirs[0])
        for ours, theirs in _FCN_NAMES.items()
    }
    sizes = file.sizes(names["score_fr"])
    head = file.kernel("fc6")[2]
    network = file.build("fcn8s", {**sizes, "head_kernel": head, "side": ZOO_SIDE, "padding": ZOO_PADDING})
    plan: dict[str, tuple[str, ...]] = {
        theirs: (f"{ours}.conv.weight", f"{ours}.conv.bias")
        for theirs, ours in _encoder_units(sizes["encoder_convs"])
    }
    for ours, theirs in names.items():
        plan[theirs] = (f"{ours}.weight",) if ours.startswith("up") else (f"{ours}.weight", f"{ours}.bias")
    # What an enlarger adds to all its output, the scores that are added to that output can bring along.
    for ours, score in (("upscore2", "score_pool4"), ("upscore_pool4", "score_pool3"), ("upscore8", None)):
        _simplify_enlarger(file, names[ours], names[f"{score}.conv"] if score else None)
    tensors = file.take("FCN-8s", plan, _shapes(network))
    _save(target, network, tensors, file, storage)
    return Converted(f"FCN-8s, {sizes['classes']} labels", file.ignored())


def _simplify_enlarger(file: _File, name: str, score: str | None) -> None:
    """Give a transposed convolution a kernel for each pair of labels and no bias, as ours are.

    A kernel a label (`group`) is spread out; a bias goes to that of the layer `score`.
    """
    kernel, *rest = file.blobs.get(name, [np.zeros(0)])
    if kernel.ndim == 4 and kernel.shape[1] == 1 < len(kernel):
        spread = np.zeros((len(kernel), *kernel.shape), np.float32)[:, :, 0]
        spread[range(len(kernel)), range(len(kernel))] = kernel[:, 0]
        file.blobs[name][0] = spread
    if len(rest) == 1 and not rest[0].any():
        del file.blobs[name][1]
    elif len(rest) == 1 and score:
        _, *bias = file.blobs.get(score, [kernel])
        if len(bias) == 1 and bias[0].size == rest[0].size:
            file.blobs[score][1] = bias[0].reshape(-1) + rest[0].reshape(-1)
            del file.blobs[name][1]


def _vgg16(file: _File, target: Path, storage: Storage) -> Converted:
    if storage == "int8":
        raise UsageError("VGG-16 is stored as float32 or float16, not as int8; choose one of them")
    widths = tuple(file.kernel(f"conv{block}_1")[0] for block in range(1, 6))
    network = file.build("deconvnet", {"classes": 21, "widths": widths, "encoder_convs": VGG_CONVS})
    shapes = {}
    for theirs, ours in _encoder_units(VGG_CONVS)[:-2]:
        for kind in ("weight", "bias"):
            shapes[f"{theirs}.{kind}"] = _shapes(network)[f"{ours}.conv.{kind}"]
    heads = [name for name in ("fc6", "fc7") if name in file.blobs]
    channels = widths[4]
    for name in heads:
        shape = file.blobs[name][0].shape
        if shape[:2] == (1, 1):  # how old files wrote a matrix
            shape = shape[2:]
        outputs, inputs = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        side = math.isqrt(inputs // channels)
        shapes |= {f"{name}.weight": (outputs, channels, side, side), f"{name}.bias": (outputs,)}
        channels = outputs
    unused = [name for name in file.blobs if name.startswith("fc8")]
    for layer in unused:
        del file.blobs[layer]
    layers = [key.removesuffix(".weight") for key in shapes if key.endswith(".weight")]
    tensors = file.take("VGG-16", {layer: (f"{layer}.weight", f"{layer}.bias") for layer in layers}, shapes)
    tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(1)  # from Caffe's BGR to RGB
    write_tensors(target, encode(tensors, storage), {"order": "RGB"})
    about = f"with {' and '.join(heads)}" if heads else "without fc6 and fc7"
    return Converted(f"VGG-16 {about}, to start training from", file.ignored(*unused))


def _shapes(network: SegmentationNetwork) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _encoder_units(convs: tuple[int, ...]) -> list[tuple[str, str]]:
    """Caffe's and our names from conv1_1 to fc7."""
    names = [(b, f"conv{b + 1}_{i}") for b, count in enumerate(convs) for i in range(1, count + 1)]
    return [*((name, f"encoder.{b}.{name}") for b, name in names), ("fc6", "fc6"), ("fc7", "fc7")]


def _save(
    target: Path,
    network: SegmentationNetwork,
    tensors: dict[str, Tensor],
    file: _File,
    storage: Storage,
    statistics: bool = True,
) -> None:
    classes = network.arguments["classes"]
    names = VOC_CLASSES
    if classes != len(VOC_CLASSES):
        names = ("background", *(f"class{i}" for i in range(1, classes)))
    training = {"source": file.path.name}
    header = NetworkHeader(
        names, palette_for(classes), CAFFE_MEAN_RGB, training=training, statistics=statistics
    )
    first = "encoder.0.conv1_1.conv.weight"
    save_network(target, network, header, storage, {**tensors, first: tensors[first].flip(1)})
