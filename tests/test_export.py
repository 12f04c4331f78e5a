"""An ONNX file is there only if it answers as torch does; the example runs it without torch."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deconvseg import export
from deconvseg.errors import ExportError, MissingDependencyError, UsageError, WeightsError
from deconvseg.export import Parity, export_onnx, onnx_model, onnx_session
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s
from deconvseg.network.fold import prepare
from deconvseg.segmenter import Segmenter

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"classes": 3, "widths": (4, 5, 6, 7, 8), "encoder_convs": (1, 1, 1, 1, 1), "bottleneck": 9}
LAYOUTS: dict[str, tuple[type[SegmentationNetwork], dict[str, Any]]] = {
    "deconvnet-lite": (DeconvNet, {"crop_size": 64, "decoder_convs": (1, 1, 1, 1), "encoder_norm": False}),
    "fcn8s-lite": (FCN8s, {"side": 64, "head_kernel": 3, "padding": 1, "norm": True}),
}
HEADER = NetworkHeader(("background", "cat", "dog"), ((0, 0, 0), (64, 0, 0), (64, 0, 128)), (1, 2, 3.5), 0.25)


@dataclass(frozen=True)
class Exported:
    """A file, the parity that was measured for it, and the network it was made from, ready for the CPU."""

    path: Path
    parity: Parity
    network: SegmentationNetwork

    @property
    def model(self) -> Any:
        return onnx.load(self.path)


@pytest.fixture(scope="module")
def exported(tiny_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    target = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    parity = export_onnx(tiny_network, target)
    return Exported(target, parity, prepare(load_network(tiny_network)[0], torch.device("cpu"), "fp32"))


def make(layout: str) -> SegmentationNetwork:
    """A prepared network with random weights, and BatchNorms that do something."""
    torch.manual_seed(0)
    kind, arguments = LAYOUTS[layout]
    network = kind(**{**SMALL, **arguments})
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and module.bias is not None:
            torch.nn.init.kaiming_normal_(module.weight)
            torch.nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return prepare(network.eval(), torch.device("cpu"), "fp32")


def assert_answers(network: SegmentationNetwork, model: Any, *sizes: tuple[int, int, int]) -> None:
    session = onnx_session(model)
    for count, height, width in sizes:
        crops = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            expected = network(crops).numpy()
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(
            session.run(None, {"crops": crops.numpy()})[0], expected, atol=1e-4 * np.ptp(expected)
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exported_networks_answer_as_torch(layout: str) -> None:
    network = make(layout)
    model = onnx_model(network, HEADER, 16 if layout == "deconvnet-lite" else 18)
    onnx.checker.check_model(model, full_check=True)
    sizes = [(1, 64, 64), (3, 64, 64)]
    assert_answers(
        network, model, *sizes, *([(1, 96, 64), (2, 50, 77)] if isinstance(network, FCN8s) else [])
    )
    if layout == "deconvnet-lite":
        assert [entry.version for entry in model.opset_import if not entry.domain] == [16]
        with pytest.raises(UsageError, match="opset 11: torch's exporter cannot write it; take 18"):
            onnx_model(network, HEADER, 11)


def test_unpooling_is_by_the_switches_of_the_poolings(exported: Exported) -> None:
    network, model = exported.network, exported.model
    assert isinstance(network, DeconvNet)
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["MaxPool"], operators["MaxUnpool"]) == (5, 5)
    assert not operators.keys() & {"BatchNormalization", "ScatterND", "ScatterElements"}
    crops = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    _, *switches = onnx_session(model).run(None, {"crops": crops.numpy()})
    with torch.inference_mode():
        _, expected = network.encode(crops)
    for one, other in zip(switches, expected, strict=True):  # ONNX counts through the whole batch
        np.testing.assert_array_equal(one % (4 * one.shape[2] * one.shape[3]), other.numpy())


def test_the_file_says_what_a_program_must_know_and_nothing_of_this_machine(exported: Exported) -> None:
    model = exported.model
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about == {
        "architecture": "deconvnet",
        "classes": [*VOC_CLASSES],
        "palette": [[*colour] for colour in palette_for(21)],
        "side": 32,
        "order": "RGB",
        "mean": [123.68, 116.779, 103.939],
        "scale": 1 / 64,
    }
    (crops,) = model.graph.input
    sides = [side.dim_param or side.dim_value for side in crops.type.tensor_type.shape.dim]
    assert (crops.name, sides) == ("crops", ["batch", 3, 32, 32])
    assert [output.name for output in model.graph.output] == ["scores"]
    assert b"site-packages" not in exported.path.read_bytes()
    assert b".py" not in exported.path.read_bytes()


def test_crops_of_the_example_photo_are_compared(exported: Exported) -> None:
    parity = exported.parity
    assert parity.crops == 20
    assert parity.holds
    assert 0 <= parity.difference <= 1e-3
    assert parity.labels >= 0.999
    assert [path.name for path in exported.path.parent.iterdir()] == ["tiny.onnx"]


def test_the_example_needs_no_torch_and_gives_our_mask(
    exported: Exported, tiny_network: Path, tmp_path: Path
) -> None:
    size = 300, 511
    photo, mask = tmp_path / "photo.jpg", tmp_path / "mask.png"
    with Image.open(EXAMPLES / "person.jpg") as image:
        image.crop((0, 0, *size)).save(photo)
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['deconvseg'] = None; "
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    command = [sys.executable, "-c", code, EXAMPLES / "onnx_segment.py", exported.path, photo, mask]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    with Image.open(mask) as made:
        assert (made.mode, made.size) == ("P", size)
        assert made.getpalette()[:63] == [channel for colour in palette_for(21) for channel in colour]
        labels = np.asarray(made)
    alone = Segmenter(tiny_network, proposals=0, ensemble="off", crf=False, precision="fp32", device="cpu")
    expected = alone.segment(photo).labels
    assert (labels == expected).mean() > 0.999
    assert len(np.unique(expected)) > 2
    assert told.stdout.strip().split(", ") == [VOC_CLASSES[label] for label in np.unique(labels)]


def test_a_file_that_answers_differently_is_not_left(
    exported: Exported, tiny_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(network: Any, header: NetworkHeader, opset: int) -> Any:
        network.seg_score.bias.data[3] += 0.5
        return exported.model

    monkeypatch.setattr(export, "onnx_model", other)
    monkeypatch.setattr(export, "CROPS", 3)
    with pytest.raises(
        ExportError, match=r"on 3 crops scores differ by up to 0\.5 \(.*0\.001\).*% of the labels"
    ):
        export_onnx(tiny_network, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())
    assert Parity(20, 1e-3, 0.999).holds
    assert not Parity(20, 1.1e-3, 0.999).holds
    assert not Parity(20, 1e-3, 0.9989).holds


def test_what_cannot_be_exported(
    exported: Exported, tiny_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="nonsense"):
        export_onnx("nonsense", tmp_path / "a.onnx")
    newer = exported.model
    newer.opset_import[0].version = 9999
    with pytest.raises(ExportError, match=r"ONNX Runtime \d.* does not take .*; try .* opset 18") as refused:
        onnx_session(newer)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        MissingDependencyError, match=r"needs onnxscript; .*pip install 'deconvseg\[export\]'"
    ):
        export_onnx(tiny_network, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
