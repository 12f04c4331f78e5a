"""`deconvseg weights convert` of networks from Caffe, and what is done with the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from deconvseg.network.checkpoint import load_network

from ..network import caffemodel
from ..network.caffemodel import Style
from .conftest import EXAMPLES, Run, lines

PLAIN = ("--proposals", "0", "--no-crf", "--device", "cpu", "--precision", "fp32")


def test_deconvnet_from_caffe_segments(run: Run, tmp_path: Path) -> None:
    caffemodel.write(tmp_path / "d.caffemodel", caffemodel.deconvnet(cells=1))
    done = run("weights", "convert", "d.caffemodel", "-o", "d.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    told = lines(done)
    assert told[0] == "d.caffemodel: DeconvNet, 21 labels, crops of 32 x 32 pixels, BatchNorm folded"
    assert told[1] == "d.caffemodel: layers not needed: 25 without weights"
    assert told[2].startswith("d.safetensors: 0.")
    info = json.loads(run("weights", "info", "d.safetensors").stdout)
    assert info["training"] == {"source": "d.caffemodel"}
    done = run("segment", EXAMPLES / "cat.jpg", "-o", "m.png", "--weights", "d.safetensors", *PLAIN)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.png").is_file()


def test_a_training_stage_is_refused_for_photos_and_trained_further(
    run: Run, tmp_path: Path, make_shapes: Callable[..., Path]
) -> None:
    make_shapes(tmp_path / "voc", train=6, val=2)
    caffemodel.write(tmp_path / "s.caffemodel", caffemodel.deconvnet(cells=1, mode=None), Style(new=True))
    done = run("weights", "convert", "s.caffemodel", "-o", "s.safetensors", "--storage", "float32")
    assert "BatchNorm without statistics" in lines(done)[0]
    refused = run("segment", EXAMPLES / "cat.jpg", "-o", "m.png", "--weights", "s.safetensors", *PLAIN)
    assert refused.returncode == 2
    (line,) = lines(refused)
    assert "s.safetensors: a network of a training stage, whose BatchNorm has no statistics yet" in line
    assert "--init s.safetensors" in line
    recipe = "crop_size = 32\nbatch_size = 4\nfrozen_blocks = 5\nprecision = 'fp32'\nsteps = 1\n"
    (tmp_path / "quick.toml").write_text(recipe)
    done = run(
        *("train", "--voc-root", "voc", "--recipe", "quick.toml", "--init", "s.safetensors", "--out", "run")
    )
    assert done.returncode == 0, done.stderr
    network, header = load_network(tmp_path / "run" / "last.safetensors")
    assert header.statistics
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_mean.abs().max() > 0  # gathered even in the blocks that are frozen


def test_vgg16_from_caffe_whole_and_cut_short(run: Run, tmp_path: Path) -> None:
    whole = caffemodel.write(tmp_path / "v.CAFFEMODEL", caffemodel.vgg16(matrices=True))
    done = run("weights", "convert", "v.CAFFEMODEL", "-o", "v.safetensors")
    assert "VGG-16 with fc6 and fc7" in lines(done)[0]
    assert "layers not needed: fc8" in lines(done)[1]
    (tmp_path / "x.caffemodel").write_bytes(whole.read_bytes()[:-100])
    refused = run("weights", "convert", "x.caffemodel", "-o", "o.safetensors")
    assert refused.returncode == 2
    (line,) = lines(refused)
    assert line.startswith("error: x.caffemodel: not a sound .caffemodel file")
    assert not (tmp_path / "o.safetensors").exists()
