"""An ONNX file is there only if it answers as torch does; the example runs it without torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deconvseg import export
from deconvseg.errors import ExportError, WeightsError
from deconvseg.export import Parity, export_onnx
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.segmenter import Segmenter

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def exported(tiny_network: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parity]:
    target = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return target, export_onnx(tiny_network, target)


def test_crops_of_the_example_photo_are_compared(exported: tuple[Path, Parity]) -> None:
    target, parity = exported
    assert parity.crops == 20
    assert parity.holds
    assert 0 <= parity.difference <= 1e-3
    assert parity.difference <= parity.own_difference
    assert parity.labels >= 0.999 and parity.switches > 0.999
    assert [path.name for path in target.parent.iterdir()] == ["tiny.onnx"]


@pytest.mark.parametrize("size", [(512, 301), (300, 511)], ids=["landscape", "portrait"])
def test_the_example_needs_no_torch_and_gives_our_mask(
    exported: tuple[Path, Parity], tiny_network: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    photo, mask = tmp_path / "photo.jpg", tmp_path / "mask.png"
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
    alone = Segmenter(tiny_network, proposals=0, ensemble="off", crf=False, precision="fp32", device="cpu")
    expected = alone.segment(photo).labels
    assert (labels == expected).mean() > 0.999
    assert len(np.unique(expected)) > 2
    assert told.stdout.strip().split(", ") == [VOC_CLASSES[label] for label in np.unique(labels)]


def test_a_file_that_answers_differently_is_not_left(
    tiny_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(network: Any, header: NetworkHeader, opset: int) -> Any:
        network.seg_score.bias[3] += 0.5
        model = make(network, header, opset)
        network.seg_score.bias[3] -= 0.5
        return model

    make = export.onnx_model
    monkeypatch.setattr(export, "onnx_model", other)
    monkeypatch.setattr(export, "CROPS", 3)
    with pytest.raises(
        ExportError, match=r"on 3 crops scores differ by up to 0\.5 \(.*0\.001\).*% of the labels"
    ):
        export_onnx(tiny_network, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_parity_needs_both() -> None:
    good = {"crops": 20, "difference": 1e-3, "own_difference": 9.0, "labels": 0.999, "switches": 0.5}
    assert Parity(**good).holds
    assert not Parity(**{**good, "difference": 1.1e-3}).holds
    assert not Parity(**{**good, "labels": 0.9989}).holds


def test_a_missing_network(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nonsense"):
        export_onnx("nonsense", tmp_path / "a.onnx")
