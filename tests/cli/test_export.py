"""`deconvseg export` as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest

import deconvseg.export
from deconvseg.export import Parity

from .conftest import EXAMPLES, Refused, Run, files, lines


def test_export_prints_what_was_measured(
    inside: Run, refused: Refused, tiny_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_onnx(weights: str, target: Path, photos: list[Path], *, opset: int) -> Parity:
        assert (weights, photos, opset) == (str(tiny_network), [EXAMPLES / "cat.jpg"], 17)
        target.write_bytes(bytes(250_000))
        return Parity(20, 1e-5, 1.0)

    monkeypatch.setattr(deconvseg.export, "export_onnx", export_onnx)
    arguments = "export", "--onnx", "net.onnx", "--weights", tiny_network
    done = inside(*arguments, "--json", "--opset", "17", EXAMPLES / "cat.jpg")
    told = json.loads(done.stdout)
    assert told["file"] == "net.onnx" and told["opset"] == 17 and told["bytes"] == 250_000
    assert told["difference"] <= 1e-3 and told["labels"] == 1 and told["crops"] == 20
    (line,) = lines(done)
    assert line.startswith("net.onnx: 0.2 MB; on 20 regions")
    assert refused(*arguments) == "net.onnx: exists; give --onnx another name, or --overwrite"


def test_what_cannot_be_exported_leaves_nothing(refused: Refused, tmp_path: Path) -> None:
    for arguments, words in (
        (["--weights", "nonsense"], "nonsense: no such network file"),
        (["none.jpg"], "none.jpg: no such file"),
        (["--opset", "9"], "opset 9: take 16 to 25"),
    ):
        assert words in refused("export", "--onnx", "net.onnx", *arguments)
    assert files(tmp_path) == set()


def test_files_that_are_read_are_not_replaced(refused: Refused, tiny_network: Path, tmp_path: Path) -> None:
    network, photo = tmp_path / "net.safetensors", tmp_path / "cat.jpg"
    shutil.copy(tiny_network, network)
    shutil.copy(EXAMPLES / "cat.jpg", photo)
    before = network.read_bytes(), photo.read_bytes()
    for target in (network, photo):
        told = refused("export", "--onnx", target, "--weights", network, "--overwrite", photo)
        assert told == f"{target}: is one of the files to read; give --onnx another name"
    assert (network.read_bytes(), photo.read_bytes()) == before
