"""Writes a network as an ONNX file, once ONNX Runtime has answered as torch does on crops of photos."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvseg import __version__
from deconvseg.errors import ExportError, MissingDependencyError, UsageError
from deconvseg.files import replacing
from deconvseg.images import example_photo
from deconvseg.images.read import ImageLike
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.regions import crop, normalised, on_device, whole_pixels
from deconvseg.segmenter import Segmenter

OPSET = 18
"""The exporter's own; others are made from it."""
INPUT, OUTPUT = "crops", "scores"
_LARGEST = 2**31 - 2**24
"""Bytes of weights; a protocol buffer has at most 2 GiB."""
CROPS = 20
_AT_A_TIME = 4
MOST_DIFFERENCE, LEAST_SAME = 1e-3, 0.999


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's answers are from torch's.

    Rounding decides which of two all but equal maxima a pooling takes, in torch from one batch size to the
    next as well; an unpooling then puts a value one pixel aside. So scores are compared with the same
    switches in both, and labels as each makes them.

    Attributes:
        crops: compared.
        difference: the largest of any two scores, where torch unpools with ONNX Runtime's switches.
        own_difference: the same, each with its own switches.
        labels: share (0..1) of the pixels whose best class is the same, each with its own switches.
        switches: share (0..1) of those that are the same; 1 for an FCN-8s, which has none.
    """

    crops: int
    difference: float
    own_difference: float
    labels: float
    switches: float

    @property
    def holds(self) -> bool:
        """Whether scores differ by at most 0.001, and at least 99.9 % of the labels are the same."""
        return self.difference <= MOST_DIFFERENCE and self.labels >= LEAST_SAME


def export_onnx(
    weights: str | Path, target: Path, photos: Sequence[ImageLike] = (), *, opset: int = OPSET
) -> Parity:
    """Write a network as one ONNX file (see `onnx_model`), BatchNorm folded away.

    Args:
        weights: a network's name or file.
        target: the file; replaced if it exists.
        photos: crops of these are compared; none takes the package's example photo.
        opset: version of the ONNX operators.

    Raises:
        ExportError: ONNX Runtime answers differently, or not at all; nothing is written.
        MissingDependencyError: a library of the extra `export` is not installed.
        UsageError, WeightsError, InputError, OutputError: the opset, network, photo or file is at fault.
    """
    require_onnx()
    inference = Segmenter(weights, ensemble="off", device="cpu", precision="fp32").inference
    crops = normalised(inference.network, inference.header, _crops(inference.network, photos))
    model = onnx_model(inference.network, inference.header, opset)
    parity = _compare(inference.network, model, crops)
    if not parity.holds:
        raise ExportError(
            f"{target}: not written, as ONNX Runtime does not answer as torch does: on {parity.crops} crops "
            f"scores differ by up to {parity.difference:.2g} (should be at most {MOST_DIFFERENCE}), and "
            f"{parity.labels:.3%} of the labels are the same (should be {LEAST_SAME:.1%}); "
            f"try another onnxruntime, or opset {OPSET}"
        )
    with replacing(target) as stream:
        stream.write(model.SerializeToString())
    return parity


def _crops(network: SegmentationNetwork, photos: Sequence[ImageLike]) -> Tensor:
    """Regions of photos as the network takes them, float (B, 3, S, S) of 0..255: the best of each first."""
    segmenter = Segmenter(proposals=CROPS)
    found = []
    for photo in photos or [example_photo()]:
        prepared = segmenter.prepare(photo)
        pixels = on_device(torch.device("cpu"), prepared.image)
        found.append([crop(pixels, box, network.side) for box in whole_pixels(prepared.boxes)])
    by_rank = (one for rank in range(CROPS + 1) for crops in found for one in crops[rank : rank + 1])
    return torch.stack(list(islice(by_rank, CROPS)))


@torch.inference_mode()
def _compare(network: SegmentationNetwork, model: object, crops: Tensor) -> Parity:
    exported = OnnxNetwork(model)
    differences, own_differences, labels, switches = [], [], [], [torch.ones(0)]
    for part in torch.split(crops, _AT_A_TIME):
        scores, given = exported(np.ascontiguousarray(part.numpy()))
        theirs, chosen = torch.from_numpy(scores), [torch.from_numpy(one) for one in given]
        ours = forced = network(part)
        if isinstance(network, DeconvNet):
            code, own = network.encode(part)
            # A decoder that ends early leaves the first poolings as they are.
            unused = own[: len(own) - len(chosen)]
            forced = network.decode(code, unused + chosen)
            pairs = zip(own[len(unused) :], chosen, strict=True)
            switches += [(one == other).flatten().float() for one, other in pairs]
        differences.append((forced - theirs).abs().max())
        own_differences.append((ours - theirs).abs().max())
        labels.append((ours.argmax(1) == theirs.argmax(1)).flatten().float())
    same = torch.cat(switches)
    return Parity(
        len(crops),
        float(max(differences)),
        float(max(own_differences)),
        float(torch.cat(labels).double().mean()),
        float(same.double().mean()) if len(same) else 1.0,
    )


def require_onnx() -> None:
    """Raise MissingDependencyError unless the libraries of the extra `export` are installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"exporting to ONNX needs {', '.join(missing)}; install them (pip install 'deconvseg[export]')"
        )


def onnx_model(network: SegmentationNetwork, header: NetworkHeader, opset: int = OPSET) -> Any:
    """A network as an `onnx.ModelProto` with its weights inside.

    Its input `crops` is float32 (batch, 3, side, side), for FCN-8s (batch, 3, height, width), its output
    `scores` float32 (batch, classes, ...) of the same size. A DeconvNet's unpooling is MaxUnpool with the
    Indices of its MaxPool. The model's metadata are strings of JSON: `architecture`, `classes`, `palette`
    ((R, G, B) a class), `side`, and what makes an input of an RGB crop of 0 to 255: `order`, `mean`, `scale`
    (`(crop - mean) * scale`).

    Args:
        network: made ready by `network.fold.prepare` for the CPU, in fp32.
        header: of its file.
        opset: version of the ONNX operators.

    Raises:
        MissingDependencyError: a library of the extra `export` is not installed.
        UsageError: the exporter cannot write this opset, or the network is too large for a file.
    """
    require_onnx()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if weights > _LARGEST:
        raise UsageError(
            f"a network with {weights / 1e9:.1f} GB of weights does not fit into an ONNX file (2 GB)"
        )
    sizes = {0: "batch"} if isinstance(network, DeconvNet) else {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(action="ignore"):  # the exporter's remarks on itself
        program = torch.onnx.export(
            network,
            # Two of them, and of unequal sides: what is 1, or alike, would be taken for fixed.
            (torch.zeros(2, 3, network.side, network.side + 32 * (2 in sizes)),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(sizes,),
            opset_version=opset,
            dynamo=True,
            custom_translation_table=_switches() if isinstance(network, DeconvNet) else None,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    (written,) = (entry.version for entry in model.opset_import if entry.domain == "")
    if written != opset:
        raise UsageError(f"opset {opset}: torch's exporter cannot write it; take {OPSET}")
    # The exporter's notes hold the paths of the machine it ran on.
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    model.producer_name, model.producer_version = "deconvseg", __version__
    about: dict[str, object] = {
        "architecture": network.architecture,
        "classes": header.classes,
        "palette": header.palette,
    }
    about |= {"side": network.side, "order": "RGB", "mean": header.mean, "scale": header.scale}
    for key, value in about.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return model


class OnnxNetwork:
    """An ONNX model in ONNX Runtime on the CPU, with as many threads as torch has.

    Args:
        model: from `onnx_model`.

    Raises:
        ExportError: ONNX Runtime does not take it, as an old one does with a new opset.
    """

    def __init__(self, model: Any) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        pools = (node for node in model.graph.node if node.op_type == "MaxPool" and len(node.output) > 1)
        for pool in pools:
            model.graph.output.add(name=pool.output[1])
        content = model.SerializeToString()
        del model.graph.output[1:]
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class of their own
            reason = " ".join(str(error).split())
            raise ExportError(
                f"ONNX Runtime {onnxruntime.__version__} does not take the network ({reason}); "
                f"try a newer one, or opset {OPSET}"
            ) from error

    def __call__(self, crops: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
        """The scores of normalised crops, and the switches of each pooling that is undone.

        Args:
            crops: float32 (B, 3, H, W).

        Returns:
            Scores, float32 (B, classes, H, W), and switches in the order of the encoder, int64 (B, C, h, w):
            flat indices into the map before pooling, as torch has them.
        """
        scores, *indices = self._session.run(None, {INPUT: crops})
        # ONNX counts through the whole batch, torch anew in every channel of every crop.
        return scores, [index % (4 * index.shape[2] * index.shape[3]) for index in indices]


def _switches() -> dict[Any, Any]:
    """Poolings that give switches, and unpoolings by them, as one ONNX operator each.

    The exporter itself has no MaxUnpool: it counts the switches anew for a scatter, in many nodes a stage.
    """
    from onnxscript import opset18 as op

    def pool(
        features: Any,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        ceil_mode: bool = False,
    ) -> Any:
        return op.MaxPool(features, kernel_shape=[*kernel], strides=[*(stride or kernel)])

    def unpool(features: Any, switches: Any, size: Sequence[int]) -> Any:
        return op.MaxUnpool(features, switches, kernel_shape=[2, 2], strides=[2, 2])

    aten = torch.ops.aten
    return {aten.max_pool2d_with_indices.default: pool, aten.max_unpool2d.default: unpool}
