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
from deconvseg.network import int8
from deconvseg.network.checkpoint import load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn import FCN
from deconvseg.network.fold import Precision, pick_device, pick_precision, prepare
from deconvseg.weights import network_file

from .networks import KINDS, randomised

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_prepared_network_computes_the_same_scores(kind: str) -> None:
    network = randomised(KINDS[kind]())
    images = torch.randn(2, 3, 64, 64) if isinstance(network, DeconvNet) else torch.randn(2, 3, 70, 99)
    ready = prepare(copy.deepcopy(network), torch.device("cpu"), "fp32")
    for found, want in zip(ready.scores_and_code(images), network.scores_and_code(images), strict=True):
        torch.testing.assert_close(found, want, atol=1e-4 * float(want.abs().max()), rtol=1e-4)
    # Some stay: before a layer that pads itself, or the few features that a photo is pooled to.
    left = sum(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    assert left == (2 if isinstance(network, FCN) else bool(network.arguments.get("norm")))


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
        "int8": (0.2, 0.02, 0.95),
    }
    if torch.__version__.startswith("2.4."):  # which does not unpool bf16
        del limits["bf16"]
    if not int8.works():
        del limits["int8"]
    with torch.no_grad():
        want = network(inputs)
        for precision, (largest, mean, labels) in limits.items():
            ready = prepare(copy.deepcopy(network), torch.device("cpu"), precision, header.ranges)
            dtype = next(ready.parameters()).dtype
            got = ready(inputs.to(dtype, memory_format=torch.channels_last)).float()
            error = (got - want).abs() / want.abs().max()
            assert float(error.max()) < largest and float(error.mean()) < mean
            assert float((got.argmax(1) == want.argmax(1)).float().mean()) > labels


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
    with pytest.raises(UsageError, match="int8 is for the CPU, and this is meta"):
        pick_precision("int8", torch.device("meta"), None)
    with pytest.raises(UsageError, match="a new network does not tell; 'deconvseg weights calibrate'"):
        pick_precision("int8", cpu)
    with pytest.raises(UsageError, match="unknown precision"):
        pick_precision("fp8", cpu)


def test_no_bf16_where_torch_is_held_to_an_older_instruction_set() -> None:
    code = "import torch; from deconvseg.network.fold import pick_precision as p"
    code += "; print(p('auto', torch.device('cpu')))"
    held = os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=held).split() == ["fp32"]
