"""Turns the published Caffe networks (DeconvNet, FCN-8s, VGG-16) into files of our own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

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
    layers = _Layers(source)
    if any(name in layers.known for name in ("fc6-deconv", "deconv5_1", "seg-score-voc")):
        return _deconvnet(layers, target, storage, norms)
    if any(name in layers.known for name in _FCN_NAMES["score_pool3.conv"]):
        return _fcn8s(layers, target, storage)
    if "conv1_1" in layers.known and "conv5_1" in layers.known:
        return _vgg16(layers, target, storage)
    raise WeightsError(
        f"{source}: neither DeconvNet, FCN-8s nor VGG-16 by the names of its layers "
        f"({', '.join([*layers.known][:6])}, ...); no other network of Caffe's can be converted"
    )


class _Layers:
    """Takes the layers of a caffemodel into our tensors, and tells at the end what was wrong or left over.

    Attributes:
        known: layers with arrays by name.
        tensors: float32 tensors taken so far by our names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, CaffeLayer] = {}
        self.tensors: dict[str, Tensor] = {}
        layers = read_caffemodel(path)
        self._empty = sum(not layer.blobs for layer in layers)
        for layer in layers:
            if layer.blobs and layer.name in self.known:
                raise WeightsError(f"{path}: two layers with weights are named {layer.name!r}")
            if layer.blobs:
                self.known[layer.name] = layer
        self._left = dict.fromkeys(self.known)
        self._wrong: list[str] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def kernel(self, name: str) -> tuple[int, ...]:
        """Shape (4 axes) of a layer's kernel, which tells the network's sizes; WeightsError without one."""
        if name not in self.known:
            raise WeightsError(f"{self.path}: it lacks layer {name}; fetch it again")
        shape = self.known[name].blobs[0].shape
        if len(shape) != 4:
            raise WeightsError(f"{self.path}: layer {name} has the shape {shape}, which is no convolution's")
        return shape

    def counts(self, prefix: str) -> tuple[int, ...]:
        """How many layers `{prefix}{block}_{i}` blocks 1 to 5 have, going by the highest `i` (up to 99)."""
        counts = [0] * 5
        for name in self.known:
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
        """A network of these sizes without numbers, whose tensors are to be filled from now on."""
        try:
            network = build_network(self.path, architecture, arguments)
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"{self.path}: the sizes of its layers make no network: {error}") from error
        self.expect(network.state_dict())
        return network

    def expect(self, tensors: Mapping[str, Tensor]) -> None:
        """Tell what is to be filled: our tensors' names, and tensors that have the right shape."""
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def take(self, name: str, *targets: str) -> None:
        """Take the arrays of a layer as the tensors of these names, one for one."""
        for blob, target in zip(self._arrays(name, len(targets)), targets, strict=False):
            if _fits(blob.shape, self._shapes[target]):
                self._put(target, blob.reshape(self._shapes[target]))
            else:
                self._wrong.append(f"{name} has the shape {blob.shape}, not {self._shapes[target]}")

    def take_norm(self, name: str, target: str, variance: float) -> None:
        """Take scale and shift of a BN layer, with a mean of 0 and this variance."""
        self.take(name, f"{target}.weight", f"{target}.bias")
        shape = self._shapes[f"{target}.weight"]
        self.tensors[f"{target}.running_mean"] = torch.zeros(shape)
        self.tensors[f"{target}.running_var"] = torch.full(shape, float(variance))
        self.tensors[f"{target}.num_batches_tracked"] = torch.tensor(0)

    def take_enlarger(self, name: str, target: str, bias: str | None) -> None:
        """Take a transposed convolution that has no bias here, and one kernel for each pair of labels.

        A kernel a label (`group`) is spread out. A bias is added to our tensor `bias`, which is taken
        already, and has to be 0 if that is None.
        """
        blobs = self._arrays(name, 1, 2)
        if not blobs:
            return
        kernel, rest = blobs[0], blobs[1:]
        shape = self._shapes[f"{target}.weight"]
        if kernel.shape == (shape[0], 1, *shape[2:]) and shape[0] > 1:
            spread = np.zeros(shape, np.float32)
            spread[range(shape[0]), range(shape[0])] = kernel[:, 0]
            kernel = spread
        if kernel.shape != shape or (rest and not _fits(rest[0].shape, shape[:1])):
            self._wrong.append(f"{name} has the shape {kernel.shape}, not {shape}")
            return
        self._put(f"{target}.weight", kernel)
        if rest and rest[0].any():
            if bias is None:
                self._wrong.append(f"{name} has a bias")
            elif bias in self.tensors:
                self._put(bias, self.tensors[bias].numpy() + rest[0].reshape(-1))

    def finish(self, kind: str, ignorable: str | None = None) -> str:
        """What was ignored: layers whose name starts with `ignorable`, and those without weights.

        Raises:
            WeightsError: a layer was missing or of another shape, or another one is left over.
        """
        ignored = [name for name in self._left if ignorable and name.startswith(ignorable)]
        wrong = self._wrong + [f"{name} is left over" for name in self._left if name not in ignored]
        if wrong:
            raise WeightsError(
                f"{self.path}: {kind} by the names of its layers, but {', '.join(wrong)}; "
                "only the published networks, or the same with other sizes, can be converted"
            )
        if self._empty:
            ignored.append(f"{self._empty} without weights")
        return ", ".join(ignored)

    def turn_to_rgb(self, first: str) -> None:
        """Turn the inputs of the first convolution from Caffe's BGR to RGB."""
        self.tensors[first] = self.tensors[first].flip(1)

    def _arrays(self, name: str, *counts: int) -> Sequence[Array]:
        """A layer's arrays, which are as many as one of `counts`; if they are not, none."""
        self._left.pop(name, None)
        if name not in self.known:
            self._wrong.append(f"{name} is missing")
            return ()
        blobs = self.known[name].blobs
        if len(blobs) not in counts:
            self._wrong.append(f"{name} holds {len(blobs)} arrays, not {' or '.join(map(str, counts))}")
            return ()
        return blobs

    def _put(self, target: str, array: Array) -> None:
        with np.errstate(over="ignore"):  # infinities are refused when they are stored
            self.tensors[target] = torch.from_numpy(np.array(array, np.float32))


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array holds what the tensor is to hold.

    Caffe writes vectors with axes of 1 around them, and the kernels of an InnerProduct as a matrix.
    """
    if len(wanted) == 1:
        return math.prod(found) == wanted[0] and all(size in (1, wanted[0]) for size in found)
    matrix = (wanted[0], math.prod(wanted[1:]))
    return found in (wanted, matrix, (1, 1, *matrix))


def _deconvnet(layers: _Layers, target: Path, storage: Storage, norms: Norms) -> Converted:
    score = next((name for name in layers.known if name.startswith("seg-score")), "seg-score")
    deepest_first = layers.counts("deconv")[::-1]
    decoder = deepest_first[: (*deepest_first, 0).index(0)]
    side = STRIDE * layers.kernel("fc6")[2]
    arguments = {**layers.sizes(score), "crop_size": side, "decoder_convs": decoder}
    network = layers.build("deconvnet", arguments)
    units = [*_encoder_units(arguments["encoder_convs"]), ("fc6-deconv", "fc6_deconv")]
    for i, count in enumerate(decoder):
        names = [f"deconv{5 - i}_{j}" for j in range(1, count + 1)]
        units += [(name, f"decoder.{i}.{name}") for name in names]
    norm_layers = [layers.known[norm] for conv, _ in units if (norm := _norm(conv)) in layers.known]
    folded = norms == "folded" or (
        norms == "auto" and any(norm.norm_inference or norm.tops == 3 for norm in norm_layers)
    )
    for theirs, ours in units:
        epsilon = network.get_submodule(f"{ours}.norm").eps
        assert isinstance(epsilon, float)
        layers.take(theirs, f"{ours}.conv.weight", f"{ours}.conv.bias")
        layers.take_norm(_norm(theirs), f"{ours}.norm", 1 - epsilon if folded else 1)
    layers.take(score, "seg_score.weight", "seg_score.bias")
    ignored = layers.finish("DeconvNet")
    _write(target, network, layers, storage, folded)
    kind = "folded" if folded else "without statistics: to be trained further"
    about = f"DeconvNet, {arguments['classes']} labels, crops of {side} x {side} pixels, BatchNorm {kind}"
    return Converted(about, ignored)


def _norm(conv: str) -> str:
    """The BN layer after one: `bn1_1`, `bnfc6`, `fc6-deconv-bn`, `debn1_1`."""
    if conv == "fc6-deconv":
        return "fc6-deconv-bn"
    return conv.replace("conv", "bn") if "conv" in conv else f"bn{conv}"


def _fcn8s(layers: _Layers, target: Path, storage: Storage) -> Converted:
    names = {
        ours: next((name for name in theirs if name in layers.known), theirs[0])
        for ours, theirs in _FCN_NAMES.items()
    }
    arguments = {
        **layers.sizes(names["score_fr"]),
        "head_kernel": layers.kernel("fc6")[2],
        "side": ZOO_SIDE,
        "padding": ZOO_PADDING,
    }
    network = layers.build("fcn8s", arguments)
    for theirs, ours in _encoder_units(arguments["encoder_convs"]):
        layers.take(theirs, f"{ours}.conv.weight", f"{ours}.conv.bias")
    for ours in ("score_fr", "score_pool4.conv", "score_pool3.conv"):
        layers.take(names[ours], f"{ours}.weight", f"{ours}.bias")
    # What an enlarger would add to all its output, the scores added to that output can bring along.
    layers.take_enlarger(names["upscore2"], "upscore2", "score_pool4.conv.bias")
    layers.take_enlarger(names["upscore_pool4"], "upscore_pool4", "score_pool3.conv.bias")
    layers.take_enlarger(names["upscore8"], "upscore8", None)
    ignored = layers.finish("FCN-8s")
    _write(target, network, layers, storage)
    return Converted(f"FCN-8s, {arguments['classes']} labels", ignored)


def _vgg16(layers: _Layers, target: Path, storage: Storage) -> Converted:
    if storage == "int8":
        raise UsageError("VGG-16 is stored as float32 or float16, not as int8; choose one of them")
    heads = [name for name in ("fc6", "fc7") if name in layers.known]
    convs = [name for name, _ in _encoder_units(VGG_CONVS)[:-2]]
    layers.expect(_vgg16_shapes(layers, heads))
    for name in convs + heads:
        layers.take(name, f"{name}.weight", f"{name}.bias")
    ignored = layers.finish("VGG-16", ignorable="fc8")
    layers.turn_to_rgb("conv1_1.weight")
    write_tensors(target, encode(layers.tensors, storage), {"order": "RGB"})
    about = f"with {' and '.join(heads)}" if heads else "without fc6 and fc7"
    return Converted(f"VGG-16 {about}, to start training from", ignored)


def _vgg16_shapes(layers: _Layers, heads: list[str]) -> dict[str, Tensor]:
    """Tensors without memory of VGG-16's shapes; those of fc6 and fc7 go by the file."""
    widths = tuple(layers.kernel(f"conv{block}_1")[0] for block in range(1, 6))
    network = layers.build("deconvnet", {"classes": 21, "widths": widths, "encoder_convs": VGG_CONVS})
    shapes = {}
    for theirs, ours in _encoder_units(VGG_CONVS)[:-2]:
        for kind in ("weight", "bias"):
            shapes[f"{theirs}.{kind}"] = network.state_dict()[f"{ours}.conv.{kind}"]
    channels = widths[4]
    for name in heads:
        shape = layers.known[name].blobs[0].shape
        if shape[:2] == (1, 1):  # how old files wrote a matrix
            shape = shape[2:]
        outputs, inputs = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        side = math.isqrt(inputs // channels)
        shapes[f"{name}.weight"] = torch.empty(outputs, channels, side, side, device="meta")
        shapes[f"{name}.bias"] = torch.empty(outputs, device="meta")
        channels = outputs
    return shapes


def _encoder_units(convs: tuple[int, ...]) -> list[tuple[str, str]]:
    """Caffe's and our names from conv1_1 to fc7."""
    names = [(b, f"conv{b + 1}_{i}") for b, count in enumerate(convs) for i in range(1, count + 1)]
    return [*((name, f"encoder.{b}.{name}") for b, name in names), ("fc6", "fc6"), ("fc7", "fc7")]


def _write(
    target: Path, network: SegmentationNetwork, layers: _Layers, storage: Storage, statistics: bool = True
) -> None:
    classes = network.arguments["classes"]
    names = VOC_CLASSES
    if classes != len(VOC_CLASSES):
        names = ("background", *(f"class{i}" for i in range(1, classes)))
    training = {"source": layers.path.name}
    header = NetworkHeader(
        names, palette_for(classes), CAFFE_MEAN_RGB, training=training, statistics=statistics
    )
    layers.turn_to_rgb("encoder.0.conv1_1.conv.weight")
    save_network(target, network, header, storage, layers.tensors)
