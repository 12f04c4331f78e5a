"""`deconvseg weights convert`, and networks from Caffe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deconvseg.network import int8
from deconvseg.network.checkpoint import load_network, save_network

from ..network import caffemodel
from .conftest import EXAMPLES, Refused, Run, lines

PLAIN = ("--proposals", "0", "--no-crf", "--device", "cpu", "--precision", "fp32")


def test_deconvnet_from_caffe_segments(inside: Run, tmp_path: Path) -> None:
    caffemodel.write(tmp_path / "d.CAFFEMODEL", caffemodel.deconvnet(cells=1))
    done = inside("weights", "convert", "d.CAFFEMODEL", "-o", "d.safetensors")
    assert done.stdout == b""
    told = lines(done)
    assert told[0] == "d.CAFFEMODEL: DeconvNet, 21 labels"
    assert told[1].startswith("d.safetensors: 0.")
    info = json.loads(inside("weights", "info", "d.safetensors").stdout)
    assert info["training"] == {"source": "d.CAFFEMODEL"}
    inside("segment", EXAMPLES / "cat.jpg", "-o", "m.png", "--weights", "d.safetensors", *PLAIN)
    assert (tmp_path / "m.png").is_file()


def test_what_is_there_is_not_overwritten(
    refused: Refused, tmp_path: Path, tiny_network: Path, tiny_fcn: Path
) -> None:
    before = tiny_network.read_bytes()
    for command, output, told in (
        (("convert", tiny_network), tiny_network, "is one of the files to read"),
        (("average", tiny_fcn, tiny_network), tiny_network, "is one of the files to read"),
        (("convert", tiny_network), "no/n.safetensors", "none that exists"),
    ):
        assert told in refused("weights", *command, "-o", output, "--overwrite")
    assert tiny_network.read_bytes() == before
    (tmp_path / "n.safetensors").write_text("mine")
    assert "--overwrite" in refused("weights", "convert", tiny_fcn, "-o", "n.safetensors")
    assert (tmp_path / "n.safetensors").read_text() == "mine"


def test_average(inside: Run, tmp_path: Path, tiny_network: Path) -> None:
    network, header = load_network(tiny_network)
    with torch.no_grad():
        for values in network.parameters():
            values.add_(1)
    save_network(tmp_path / "b.safetensors", network, header)
    inside("weights", "average", tiny_network, "b.safetensors", "-o", "c.safetensors", "--share", "0.25")
    averaged, header = load_network(tmp_path / "c.safetensors")
    first = load_network(tiny_network)[0].state_dict()
    for name, values in averaged.named_parameters():
        torch.testing.assert_close(values.detach(), first[name] + 0.25)
    assert header.training["averaged_with"] == "b.safetensors"


@pytest.mark.skipif(not int8.works(), reason="this torch has no 8-bit convolutions")
def test_a_calibrated_network_segments_in_8_bits(
    inside: Run, refused: Refused, tiny_network: Path, tmp_path: Path
) -> None:
    segment = ("segment", EXAMPLES / "cat.jpg", "-o", "m.png", *PLAIN[:-1], "int8", "--weights")
    told = refused(*segment, tiny_network)
    assert f"{tiny_network} does not tell; 'deconvseg weights calibrate'" in told
    done = inside("weights", "calibrate", tiny_network, EXAMPLES, "-o", "c.safetensors")
    assert lines(done) == ["c.safetensors: ranges of 26 layers on 3 photos"]
    done = inside(*segment, "c.safetensors")
    assert "on cpu, int8" in lines(done)[0]
    assert "none.jpg" in refused("weights", "calibrate", tiny_network, "none.jpg", "-o", "d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()
