"""Writes a network as an ONNX file, once ONNX Runtime has answered as torch does on crops of a photo."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconvseg import __version__
from deconvseg.errors import ExportError, MissingDependencyError, reason
from deconvseg.files import replacing
from deconvseg.images import example_photo
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.inputs import crops, normalise
from deconvseg.segmenter import Segmenter

OPSET = 18  # version of the ONNX operators, the exporter's own
INPUT, OUTPUT = "crops", "scores"
CROPS = 8
MOST_DIFFERENCE, LEAST_SAME = 1e-3, 0.999


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's answers are from torch's."""

    crops: int  # compared
    difference: float  # of two scores, the mean over all
    labels: float  # share (0..1) of the pixels whose best class is the same


def export_onnx(weights: str | Path, target: Path) -> Parity:
    """Write a network, by name or file, as one ONNX file as of `onnx_model`, BatchNorm folded away.

    Regions of the package's example photo are compared.

    Raises:
        ExportError: ONNX Runtime answers differently, or not at all; nothing is written.
        MissingDependencyError: a library of the extra `export` is not installed.
        WeightsError, OutputError: the network or the file is at fault.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"exporting to ONNX needs {', '.join(missing)}; install them (pip install 'deconvseg[export]')"
        )
    inference = Segmenter(weights, ensemble="off", prior=0, device="cpu", precision="fp32").inference
    network, header = inference.network, inference.header
    photo = Segmenter(proposals=CROPS).prepare(example_photo())
    images = crops(photo.image, photo.boxes[:CROPS], network.side)
    model = onnx_model(network, header)
    parity = _compare(network, model, normalise(images, header))
    if not (parity.difference <= MOST_DIFFERENCE and parity.labels >= LEAST_SAME):  # nor of NaN
        raise ExportError(
            f"{target}: not written, as ONNX Runtime does not answer as torch does: on {parity.crops} crops "
            f"scores differ by {parity.difference:.2g} in the mean (should be at most {MOST_DIFFERENCE}), "
            f"and {parity.labels:.3%} of the labels are the same (should be {LEAST_SAME:.1%}); "
            "try another onnxruntime"
        )
    with replacing(target) as stream:
        stream.write(model.SerializeToString())
    return parity


@torch.inference_mode()
def _compare(network: SegmentationNetwork, model: object, images: Tensor) -> Parity:
    (found,) = onnx_session(model).run(None, {INPUT: images.contiguous().numpy()})
    ours, theirs = network(images), torch.from_numpy(found)
    difference, same = (ours - theirs).abs(), ours.argmax(1) == theirs.argmax(1)
    return Parity(len(images), float(difference.double().mean()), float(same.double().mean()))


def onnx_model(network: SegmentationNetwork, header: NetworkHeader) -> Any:
    """A network as an `onnx.ModelProto` with its weights inside; docs/export.md describes it.

    Args:
        network: made ready by `network.fold.prepare` for the CPU, in fp32.
        header: of its file.
    """
    sizes = {0: "batch", 2: "height", 3: "width"} if network.sees_whole_photo else {0: "batch"}
    with warnings.catch_warnings(action="ignore"):  # the exporter's remarks on itself
        program = torch.onnx.export(
            network,
            # Two of them, and of unequal sides: what is 1, or alike, would be taken for fixed.
            (torch.zeros(2, 3, network.side, network.side + 32 * (2 in sizes)),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(sizes,),
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table=None if network.sees_whole_photo else _switches(),
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    # The exporter's notes hold the paths of the machine it ran on.
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    model.producer_name, model.producer_version = "deconvseg", __version__
    about = {"architecture": network.architecture, "side": network.side, "order": "RGB"}
    about |= {key: getattr(header, key) for key in ("classes", "palette", "mean", "scale")}
    for key, value in about.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return model


def onnx_session(model: Any) -> Any:
    """A model of `onnx_model` in ONNX Runtime; ExportError if that does not take it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    content = model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} does not take the network ({reason(error)}); "
            "try a newer one"
        ) from error


def _switches() -> dict[Any, Any]:
    """Poolings with switches, and unpoolings, as one operator each: the exporter itself has no MaxUnpool."""
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
