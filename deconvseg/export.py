"""Writes a network as an ONNX file, once ONNX Runtime has answered as torch does on crops of photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.errors import ExportError
from deconvseg.files import replacing
from deconvseg.images.example import example_photo
from deconvseg.images.given import ImageLike, take
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.onnx import OPSET, OnnxNetwork, onnx_model, require_onnx
from deconvseg.protocol import PROTOCOLS
from deconvseg.regions import Crops, normalised, on_device
from deconvseg.segmenter import Segmenter
from deconvseg.steps import Before
from deconvseg.weights import forest_file

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
    """Write a network as one ONNX file (see `network.onnx.onnx_model`), BatchNorm folded away.

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
            f"try another onnxruntime, or --opset {OPSET}"
        )
    with replacing(target) as stream:
        stream.write(model.SerializeToString())
    return parity


def _crops(network: SegmentationNetwork, photos: Sequence[ImageLike]) -> Tensor:
    """Regions of photos as the network takes them, float (B, 3, S, S) of 0..255: the best of each first."""
    before = Before(replace(PROTOCOLS["default"], proposals=CROPS), forest_file(), whole=False)
    found = []
    for photo in photos or [example_photo()]:
        pixels = take(photo)
        prepared = before(pixels.image, pixels.height, pixels.width)
        regions = Crops(network, on_device(torch.device("cpu"), prepared.image), prepared.boxes)
        found.append([regions.inputs(index)[0] for index in range(len(regions.boxes))])
    by_rank = (crop for rank in range(CROPS + 1) for crops in found for crop in crops[rank : rank + 1])
    return torch.stack(list(islice(by_rank, CROPS)))


def _compare(network: SegmentationNetwork, model: object, crops: Tensor) -> Parity:
    exported = OnnxNetwork(model)
    differences, labels, switches = [], [], [np.ones(0)]
    for part in torch.split(crops, _AT_A_TIME):
        theirs, given = exported(np.ascontiguousarray(part.numpy()))
        forced, ours, own = _answers(network, part, [torch.from_numpy(one) for one in given])
        differences.append([np.abs(scores - theirs).max() for scores in (forced, ours)])
        labels.append((ours.argmax(1) == theirs.argmax(1)).ravel())
        switches += [(one.numpy() == other).ravel() for one, other in zip(own, given, strict=True)]
    difference, own_difference = np.max(differences, 0).tolist()
    same = np.concatenate(switches)
    return Parity(
        len(crops),
        difference,
        own_difference,
        float(np.concatenate(labels).mean()),
        float(same.mean()) if len(same) else 1.0,
    )


@torch.inference_mode()
def _answers(
    network: SegmentationNetwork, crops: Tensor, given: list[Tensor]
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[Tensor]]:
    """torch's scores with the given switches and with its own, and its own of the same poolings."""
    if not isinstance(network, DeconvNet):
        scores = network(crops).numpy()
        return scores, scores, []
    features, switches = network.pool(crops)
    code = network.compress(features)
    # A decoder that ends early leaves the first poolings as they are.
    unused = switches[: len(switches) - len(given)]
    forced, ours = (network.decode(code, chosen).numpy() for chosen in (unused + given, switches))
    return forced, ours, switches[len(unused) :]
