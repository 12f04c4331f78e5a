"""`deconvseg export` as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest

import deconvseg.export
from deconvseg.export import Parity

from .conftest import Refused, Run, files, lines


def test_export_prints_what_was_measured(
    inside: Run, refused: Refused, tiny_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_onnx(weights: str, target: Path) -> Parity:
        assert weights == str(tiny_network)
        target.write_bytes(bytes(250_000))
        return Parity(20, 1e-5, 1.0)

    monkeypatch.setattr(deconvseg.export, "export_onnx", export_onnx)
    arguments = "export", "--onnx", "net.onnx", "--weights", tiny_network
    done = inside(*arguments, "--json")
    told = json.loads(done.stdout)
    assert told["file"] == "net.onnx" and told["bytes"] == 250_000
    assert told["difference"] <= 1e-3 and told["labels"] == 1 and told["crops"] == 20
    (line,) = lines(done)
    assert line.startswith("net.onnx: 0.2 MB; on 20 regions")
    assert refused(*arguments) == "net.onnx: exists; give --onnx another name, or --overwrite"


def test_what_cannot_be_exported_leaves_nothing(refused: Refused, tmp_path: Path) -> None:
    told = refused("export", "--onnx", "net.onnx", "--weights", "nonsense")
    assert "nonsense: no such network file" in told
    assert files(tmp_path) == set()


def test_the_network_is_not_replaced(refused: Refused, tiny_network: Path, tmp_path: Path) -> None:
    network = tmp_path / "net.safetensors"
    shutil.copy(tiny_network, network)
    told = refused("export", "--onnx", network, "--weights", network, "--overwrite")
    assert told == f"{network}: is one of the files to read; give --onnx another name"
    assert network.read_bytes() == tiny_network.read_bytes()
