"""Folding, statistics, precision and devices."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from torch import nn

from deconvseg.errors import UsageError
from deconvseg.images.read import read_image
from deconvseg.network.checkpoint import load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fold import (
    Precision,
    _BF16ReLU,
    pick_device,
    pick_precision,
    prepare,
)
from deconvseg.weights import network_file

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def trained_like(**changes: object) -> DeconvNet:
    """A small network whose BatchNorms have statistics and weights as after training."""
    torch.manual_seed(0)
    arguments = {"classes": 4, "crop_size": 64, "widths": (8, 8, 8, 8, 8), "bottleneck": 16, **changes}
    network = DeconvNet(**arguments)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for _ in range(5):
        network.train()(torch.randn(8, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("changes", [{}, {"encoder_norm": False}, {"decoder_convs": (2, 2, 2, 1)}], ids=str)
def test_prepared_network_computes_the_same_scores(changes: dict[str, object]) -> None:
    network = trained_like(**changes)
    crops = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = network(crops)
        ready = prepare(copy.deepcopy(network), torch.device("cpu"), "fp32")
        got = ready(crops)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=1e-4)


def test_the_shipped_network_scores_as_before() -> None:
    """On three photos: errors as shares of the largest score, and the share of pixels with the same label."""
    network, header = load_network(network_file("default"))
    photos = [read_image(photo) for photo in sorted(EXAMPLES.glob("*.jpg"))]
    size = (network.side, network.side)
    crops = torch.stack([torch.from_numpy(cv2.resize(photo, size)).permute(2, 0, 1) for photo in photos])
    inputs = (crops - torch.tensor(header.mean).view(3, 1, 1)) * header.scale
    limits: dict[Precision, tuple[float, float, float]] = {
        "fp32": (1e-5, 1e-6, 0.9999),
        "bf16": (0.1, 0.004, 0.99),
    }
    if torch.__version__.startswith("2.4."):  # which does not unpool bf16
        del limits["bf16"]
    with torch.no_grad():
        want = network(inputs)
        for precision, (largest, mean, labels) in limits.items():
            ready = prepare(copy.deepcopy(network), torch.device("cpu"), precision)
            dtype = next(ready.parameters()).dtype
            got = ready(inputs.to(dtype, memory_format=torch.channels_last)).float()
            error = (got - want).abs() / want.abs().max()
            assert float(error.max()) < largest and float(error.mean()) < mean
            assert float((got.argmax(1) == want.argmax(1)).float().mean()) > labels


def test_relu_on_bits_is_relu() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    numbers = every[~every.isnan()]
    want = numbers.float().clamp_min(0).bfloat16()
    assert torch.equal(_BF16ReLU()(numbers.clone()), want)


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    for name in ("tpu", "cpux", "meta", "cuda:99", "cuda:x"):
        with pytest.raises(UsageError, match=f"{name}: torch finds no such device here"):
            pick_device(name)
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) in ("fp32", "bf16")
    with pytest.raises(UsageError, match="needs an accelerator"):
        pick_precision("fp16", cpu)
    with pytest.raises(UsageError, match="unknown precision"):
        pick_precision("fp8", cpu)


def test_no_bf16_where_torch_is_held_to_an_older_instruction_set() -> None:
    code = "import torch; from deconvseg.network.fold import pick_precision as p"
    code += "; print(p('auto', torch.device('cpu')))"
    held = os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=held).strip() == "fp32"
