"""Exported graphs answer as their networks do, for any number of crops, and say what a program must know."""

import json
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from deconvseg import export as exporter
from deconvseg.errors import ExportError, MissingDependencyError, UsageError
from deconvseg.export import OnnxNetwork, onnx_model
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s
from deconvseg.network.fold import prepare

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

HEADER = NetworkHeader(
    ("background", "cat", "dog"), ((0, 0, 0), (64, 0, 0), (64, 0, 128)), (1.0, 2.0, 3.5), 0.25
)
WIDTHS = {"classes": 3, "widths": (4, 5, 6, 7, 8), "encoder_convs": (1, 1, 1, 1, 1), "bottleneck": 9}
LAYOUTS: dict[str, tuple[type[SegmentationNetwork], dict[str, Any]]] = {
    "as the paper's": (DeconvNet, {"crop_size": 64, "decoder_convs": (1, 1, 1, 1, 1)}),
    "as lite": (DeconvNet, {"crop_size": 64, "decoder_convs": (1, 1, 1, 1), "encoder_norm": False}),
    "fcn8s as lite": (FCN8s, {"side": 64, "head_kernel": 3, "padding": 1, "norm": True}),
    "fcn8s of the zoo": (FCN8s, {"side": 64}),
}


def make(layout: str) -> SegmentationNetwork:
    """A prepared network with random weights, and BatchNorms that do something."""
    torch.manual_seed(0)
    kind, arguments = LAYOUTS[layout]
    network = kind(**{**WIDTHS, **arguments})
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and module.bias is not None:
            torch.nn.init.kaiming_normal_(module.weight)
            torch.nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return prepare(network.eval(), torch.device("cpu"), "fp32")


@cache
def exported(layout: str) -> tuple[SegmentationNetwork, Any]:
    """A network and its model; exporting takes seconds."""
    network = make(layout)
    return network, onnx_model(network, HEADER)


def some(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count))


def answers(network: SegmentationNetwork, crops: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return network(crops).numpy()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exported_networks_answer_as_torch(layout: str) -> None:
    network, model = exported(layout)
    onnx.checker.check_model(model, full_check=True)
    runtime = OnnxNetwork(model)
    assert [output.name for output in model.graph.output] == ["scores"]
    sizes = [(1, 64, 64), (2, 64, 64), (17, 64, 64)]
    if isinstance(network, FCN8s):
        sizes += [(1, 96, 64), (2, 50, 77)]
    for count, height, width in sizes:
        crops = some(count, height, width)
        scores, _ = runtime(crops.numpy())
        expected = answers(network, crops)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("layout", ["as the paper's", "as lite"])
def test_unpooling_is_by_the_switches_of_the_poolings(layout: str) -> None:
    network, model = exported(layout)
    assert isinstance(network, DeconvNet)
    stages = len(network.decoder)
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["MaxPool"], operators["MaxUnpool"]) == (5, stages)
    assert not operators.keys() & {"BatchNormalization", "ScatterND", "ScatterElements"}
    crops = some(3)
    _, switches = OnnxNetwork(model)(crops.numpy())
    with torch.inference_mode():
        _, expected = network.pool(crops)
    assert len(switches) == stages
    for one, other in zip(switches, expected[-stages:], strict=True):
        np.testing.assert_array_equal(one, other.numpy())


def test_the_file_says_what_a_program_must_know_and_nothing_of_this_machine() -> None:
    _, model = exported("as the paper's")
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about == {
        "architecture": "deconvnet",
        "classes": ["background", "cat", "dog"],
        "palette": [[0, 0, 0], [64, 0, 0], [64, 0, 128]],
        "side": 64,
        "order": "RGB",
        "mean": [1.0, 2.0, 3.5],
        "scale": 0.25,
    }
    (crops,) = model.graph.input
    sides = [side.dim_param or side.dim_value for side in crops.type.tensor_type.shape.dim]
    assert (crops.name, sides) == ("crops", ["batch", 3, 64, 64])
    assert b"site-packages" not in model.SerializeToString()
    assert b".py" not in model.SerializeToString()


def test_another_opset() -> None:
    network = make("as lite")
    model = onnx_model(network, HEADER, 16)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [16]
    crops = some(2)
    np.testing.assert_allclose(OnnxNetwork(model)(crops.numpy())[0], answers(network, crops), atol=1e-4)


def test_an_opset_that_cannot_be_written() -> None:
    with pytest.raises(UsageError, match="opset 11: torch's exporter cannot write it; take 18"):
        onnx_model(make("as lite"), HEADER, 11)


def test_an_opset_that_onnx_runtime_does_not_know() -> None:
    _, model = exported("as lite")
    newer = onnx.ModelProto.FromString(model.SerializeToString())
    newer.opset_import[0].version = 9999
    with pytest.raises(ExportError, match=r"ONNX Runtime \d.* does not take .*; try .* opset 18") as refused:
        OnnxNetwork(newer)
    assert "\n" not in str(refused.value)


def test_a_network_too_large_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_LARGEST", 1000)
    with pytest.raises(UsageError, match="does not fit into an ONNX file"):
        onnx_model(make("as lite"), HEADER)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        MissingDependencyError, match=r"needs onnxscript; .*pip install 'deconvseg\[export\]'"
    ):
        onnx_model(make("as lite"), HEADER)
