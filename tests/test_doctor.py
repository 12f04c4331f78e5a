"""What is found of sound and of broken installations, and what is advised."""

import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from deconvseg import doctor
from deconvseg.doctor import Finding, examine
from deconvseg.errors import MissingDependencyError
from deconvseg.weights import weights_folder


def found(check: Callable[[], Iterator[Finding]]) -> dict[str, Finding]:
    """The findings of one check alone, by name."""
    return {finding.name: finding for finding in examine(check)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the cache below it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path / "nets"))
    return tmp_path


def test_everything_is_looked_at(home: Path) -> None:
    findings = {finding.name: finding for finding in examine()}
    assert findings.keys() >= {"deconvseg", "Python", "processors", "torch", "opencv", "device"}
    assert findings.keys() >= {"deconvnet-lite", "fcn-lite", "edges", "onnxruntime", "ray"}
    assert findings["torch"].found.startswith(torch.__version__.partition("+")[0])
    assert findings["edges"].found.endswith("edges.yml.gz: sha256 is right")
    assert findings["deconvnet-voc"].state == "ok"


def test_opencv_without_ximgproc_and_two_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = ["opencv-contrib-python-headless", "opencv-python"]
    monkeypatch.setattr("deconvseg.proposals.edges.installed_wheels", lambda: wheels)
    finding = found(doctor._opencv)["opencv"]
    assert finding.state == "warning"
    assert finding.advice == f"pip uninstall -y {' '.join(wheels)} && pip install {wheels[0]}"
    reason = "OpenCV has no structured edges"
    missing = Mock(side_effect=MissingDependencyError(f"{reason}; run: pip x"))
    monkeypatch.setattr("deconvseg.proposals.edges.opencv", missing)
    assert found(doctor._opencv) == {"opencv": Finding("opencv", "fault", reason, "run: pip x")}


def test_libraries_that_do_not_load_or_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms\ndoes not exist")

    def version(name: str) -> str:
        if name == "ray":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(doctor, "import_module", import_module)
    monkeypatch.setattr(doctor, "version", version)
    findings = found(doctor._libraries)
    reason = "does not load (operator torchvision::nms does not exist)"
    cure = "pip install --force-reinstall torch torchvision"
    assert findings["torchvision"] == Finding("torchvision", "fault", reason, cure)
    assert findings["ray"] == Finding("ray", "ok", "not installed; optional (pip install 'deconvseg[ray]')")
    assert findings["torch"] == Finding("torch", "ok", "1.0")


def test_a_gpu_that_is_not_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for driver, cuda, words in (
        (None, None, ": torch is built without CUDA"),
        ("smi", "13.0", "torch is built for CUDA 13.0, and finds no GPU"),
    ):
        monkeypatch.setattr(doctor, "which", lambda name, path=driver: path)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        finding = found(doctor._device)["device"]
        assert finding.state == ("warning" if driver else "ok") and words in finding.found
        assert ("nvidia-smi" in finding.advice) is bool(driver)


def test_a_gpu_and_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", Mock(return_value=Mock(total_memory=80e9)))
    assert found(doctor._device)["device"] == Finding("device", "ok", "cuda, fp16: 2 x Card, 80 GB each")


def test_damaged_and_missing_networks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = home / "shipped"
    shipped.mkdir()
    for name in ("registry.toml", "edges.yml.gz", "fcn-lite.safetensors"):
        shutil.copy(weights_folder() / name, shipped)
    content = bytearray((shipped / "edges.yml.gz").read_bytes())
    content[-1] ^= 1
    (shipped / "edges.yml.gz").write_bytes(content)
    monkeypatch.setattr("deconvseg.weights.weights_folder", lambda: shipped)
    findings = found(doctor._weights)
    assert findings["fcn-lite"].state == "ok"
    assert findings["edges"].state == findings["deconvnet-lite"].state == "fault"
    assert "has sha256" in findings["edges"].found
    assert findings["edges"].advice == findings["deconvnet-lite"].advice == "install deconvseg again"
    assert "missing" in findings["deconvnet-lite"].found


def test_whatever_goes_wrong_is_a_finding(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "registry.toml").write_text("format = 7\n")
    monkeypatch.setattr("deconvseg.weights.weights_folder", lambda: home)
    (finding,) = found(doctor._weights).values()
    assert finding[:2] == ("weights", "fault") and finding.found == "KeyError: 'weights'"

    def broken_check() -> Iterator[Finding]:
        yield Finding("first", "ok", "")
        raise OSError("disk\nis gone")

    findings = found(broken_check)
    assert findings["first"].state == "ok"
    assert findings["broken_check"][1:3] == ("fault", "OSError: disk is gone")


def test_a_network_that_does_not_see_the_cat(tiny_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TESTED", str(tiny_network))
    findings = found(doctor._photo)
    assert findings["loading"].state == "ok"
    assert findings["photo"].state == "fault"
    assert "labels are wrong" in findings["photo"].advice
