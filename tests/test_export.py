"""An ONNX file is there only if it answers as torch does; the example runs it without torch."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deconvseg import export
from deconvseg.errors import ExportError, MissingDependencyError, WeightsError
from deconvseg.export import Parity, export_onnx, onnx_model, onnx_session
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.fold import prepare
from deconvseg.segmenter import Segmenter

from .network.networks import deconvnet, fcn8s, randomised

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL: dict[str, Any] = {"classes": 21, "encoder_convs": (1,) * 5}
HEADER = NetworkHeader(VOC_CLASSES, palette_for(21), (120, 110, 100.5), 1 / 64)


def ready(network: SegmentationNetwork) -> SegmentationNetwork:
    return prepare(network, torch.device("cpu"), "fp32")


def photo_like(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


@pytest.fixture(scope="module")
def network_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "lite.safetensors"
    lite = deconvnet(crop_size=32, decoder_convs=(1, 1, 1, 1), encoder_norm=False, **SMALL)
    save_network(path, randomised(lite), HEADER)
    return path


@pytest.fixture(scope="module")
def exported(network_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parity]:
    """A file, and what was measured for it."""
    target = tmp_path_factory.mktemp("onnx") / "lite.onnx"
    return target, export_onnx(network_path, target)


def test_crops_of_the_example_photo_are_compared(exported: tuple[Path, Parity]) -> None:
    path, parity = exported
    assert parity.crops == 8
    assert 0 <= parity.difference <= 1e-3 and parity.labels >= 0.999
    assert [file.name for file in path.parent.iterdir()] == ["lite.onnx"]


def test_unpooling_is_by_the_switches_of_the_poolings(
    exported: tuple[Path, Parity], network_path: Path
) -> None:
    network, model = ready(load_network(network_path)[0]), onnx.load(exported[0])
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["MaxPool"], operators["MaxUnpool"]) == (5, 4)
    assert not operators.keys() & {"BatchNormalization", "ScatterND", "ScatterElements"}
    session = onnx_session(model)
    for count in (1, 3):
        crops = photo_like(count, 3, 32, 32)
        with torch.inference_mode():
            scores = network(crops).numpy()
        (given,) = session.run(None, {"crops": crops.numpy()})
        np.testing.assert_allclose(given, scores, atol=1e-4 * np.ptp(scores))


def test_an_fcn_answers_as_torch_on_photos_of_all_sizes() -> None:
    network = ready(randomised(fcn8s(**SMALL)))
    session = onnx_session(onnx_model(network, HEADER))
    for size in ((1, 64, 64), (1, 96, 64), (2, 50, 77)):
        photos = photo_like(size[0], 3, *size[1:])
        with torch.inference_mode():
            scores = network(photos).numpy()
        (given,) = session.run(None, {"crops": photos.numpy()})
        np.testing.assert_allclose(given, scores, atol=1e-4 * np.ptp(scores))


def test_the_file_says_what_a_program_must_know_and_nothing_of_this_machine(
    exported: tuple[Path, Parity],
) -> None:
    model = onnx.load(exported[0])
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about == {
        "architecture": "deconvnet",
        "classes": [*VOC_CLASSES],
        "palette": [[*colour] for colour in palette_for(21)],
        "side": 32,
        "order": "RGB",
        "mean": [120, 110, 100.5],
        "scale": 1 / 64,
    }
    (crops,) = model.graph.input
    sides = [side.dim_param or side.dim_value for side in crops.type.tensor_type.shape.dim]
    assert (crops.name, sides) == ("crops", ["batch", 3, 32, 32])
    assert [output.name for output in model.graph.output] == ["scores"]
    content = exported[0].read_bytes()
    assert b"site-packages" not in content and b".py" not in content


def test_the_example_needs_no_torch_and_gives_our_mask(
    exported: tuple[Path, Parity], network_path: Path, tmp_path: Path
) -> None:
    photo, mask, size = tmp_path / "photo.jpg", tmp_path / "mask.png", (300, 511)
    with Image.open(EXAMPLES / "person.jpg") as image:
        image.crop((0, 0, *size)).save(photo)
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['deconvseg'] = None; "
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    command = [sys.executable, "-c", code, EXAMPLES / "onnx_segment.py", exported[0], photo, mask]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    with Image.open(mask) as made:
        assert (made.mode, made.size) == ("P", size)
        assert made.getpalette()[:63] == [channel for colour in palette_for(21) for channel in colour]
        labels = np.asarray(made)
    alone = Segmenter(network_path, proposals=0, ensemble="off", crf=False, precision="fp32", device="cpu")
    expected = alone.segment(photo).labels
    assert (labels == expected).mean() > 0.999
    assert len(np.unique(expected)) > 2
    assert told.stdout.strip().split(", ") == [VOC_CLASSES[label] for label in np.unique(labels)]


def test_a_file_that_answers_differently_is_not_left(
    exported: tuple[Path, Parity], network_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(network: Any, header: NetworkHeader) -> Any:
        network.seg_score.bias.data[3] += 0.42
        return onnx.load(exported[0])

    monkeypatch.setattr(export, "onnx_model", other)
    monkeypatch.setattr(export, "CROPS", 3)
    reason = r"on 3 crops scores differ by 0\.02 in the mean \(.*0\.001\).*% of the labels"
    with pytest.raises(ExportError, match=reason):
        export_onnx(network_path, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(
    exported: tuple[Path, Parity], network_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="nonsense"):
        export_onnx("nonsense", tmp_path / "a.onnx")
    newer = onnx.load(exported[0])
    newer.opset_import[0].version = 9999
    with pytest.raises(ExportError, match=r"ONNX Runtime \d.* does not take .*; try a newer") as refused:
        onnx_session(newer)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingDependencyError, match=r"needs onnxscript; .*'deconvseg\[export\]'"):
        export_onnx(network_path, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
