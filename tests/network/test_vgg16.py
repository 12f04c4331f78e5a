"""Pretrained encoders."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deconvseg.errors import WeightsError
from deconvseg.network.vgg16 import initialise_encoder, read_vgg16

from .networks import deconvnet, randomised


def vgg_like() -> dict[str, torch.Tensor]:
    layers = randomised(deconvnet(encoder_norm=False)).encoder.state_dict().items()
    return {name.partition(".")[2].replace(".conv.", "."): tensor for name, tensor in layers}


def test_caffe_order_is_turned_to_rgb(tmp_path: Path) -> None:
    paths = [tmp_path / f"vgg16_{order}.safetensors" for order in ("rgb", "bgr")]
    for path in paths:
        save_file(vgg_like(), path)
    rgb, bgr = (read_vgg16(path)["conv1_1.weight"] for path in paths)
    assert torch.equal(rgb.flip(1), bgr)


def test_other_pretrained_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_vgg16(tmp_path / "junk")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(WeightsError, match="does not hold"):
        read_vgg16(tmp_path / "other")
    with pytest.raises(WeightsError, match="conv1_1: VGG-16 lacks"):
        initialise_encoder(deconvnet(widths=(9, 8, 8, 8, 8)), vgg_like())
