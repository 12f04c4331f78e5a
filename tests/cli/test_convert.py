"""`deconvseg weights convert`, and networks from Caffe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from deconvseg.network import int8
from deconvseg.network.checkpoint import load_network, save_network

from ..conftest import make_shapes
from ..network import caffemodel
from .conftest import EXAMPLES, Refused, Run, lines

PLAIN = ("--proposals", "0", "--no-crf", "--device", "cpu", "--precision", "fp32")


def test_deconvnet_from_caffe_segments(inside: Run, tmp_path: Path) -> None:
    caffemodel.write(tmp_path / "d.CAFFEMODEL", caffemodel.deconvnet(cells=1))
    done = inside("weights", "convert", "d.CAFFEMODEL", "-o", "d.safetensors")
    assert done.stdout == b""
    told = lines(done)
    assert told[0] == "d.CAFFEMODEL: DeconvNet, BatchNorm folded, crops of 32 x 32 pixels, 21 labels"
    assert told[1].startswith("d.safetensors: 0.")
    info = json.loads(inside("weights", "info", "d.safetensors").stdout)
    assert info["training"] == {"source": "d.CAFFEMODEL"}
    inside("segment", EXAMPLES / "cat.jpg", "-o", "m.png", "--weights", "d.safetensors", *PLAIN)
    assert (tmp_path / "m.png").is_file()


def test_a_training_stage_is_refused_for_photos_and_trained_further(
    inside: Run, refused: Refused, tmp_path: Path
) -> None:
    make_shapes(tmp_path / "voc", train=6, val=2)
    caffemodel.write(tmp_path / "s.caffemodel", caffemodel.deconvnet(cells=1, mode=None), new=True)
    done = inside("weights", "convert", "s.caffemodel", "-o", "s.safetensors", "--storage", "float32")
    assert "BatchNorm without statistics" in lines(done)[0]
    line = refused("segment", EXAMPLES / "cat.jpg", "-o", "m.png", "--weights", "s.safetensors", *PLAIN)
    assert "s.safetensors: a network of a training stage, whose BatchNorm has no statistics yet" in line
    assert "train on from it" in line
    recipe = "crop_size = 32\nbatch_size = 4\nfrozen_blocks = 5\nprecision = 'fp32'\nsteps = 1\n"
    (tmp_path / "quick.toml").write_text(recipe)
    inside(
        *("train", "--voc-root", "voc", "--recipe", "quick.toml", "--init", "s.safetensors", "--out", "run")
    )
    network, header = load_network(tmp_path / "run" / "last.safetensors")
    assert header.statistics
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_mean.abs().max() > 0  # gathered even in the blocks that are frozen


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
