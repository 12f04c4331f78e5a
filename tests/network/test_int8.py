"""8-bit convolutions against float32 of rounded numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.errors import UsageError
from deconvseg.evaluation.calibrate import calibrate
from deconvseg.network import int8
from deconvseg.network.base import SegmentationNetwork, pool, pool_with_switches, unpool
from deconvseg.network.fold import pick_precision, prepare
from deconvseg.segmenter import Segmenter

from .networks import KINDS, deconvnet

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
needs_int8 = pytest.mark.skipif(not int8.works(), reason="this torch has no 8-bit convolutions")


SHALLOW = {"paper's": partial(deconvnet, decoder_convs=(1, 1))}


@needs_int8
@pytest.mark.parametrize("make", (KINDS | SHALLOW).values(), ids=KINDS)
def test_scores_are_those_of_rounded_weights_and_inputs(make: Callable[[], SegmentationNetwork]) -> None:
    torch.manual_seed(0)
    network = make()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight)
    for _ in range(3):  # BatchNorms get statistics that keep the size of what comes in
        network.train()(torch.randn(4, 3, 64, 64))
    network.eval()
    photos = functional.interpolate(torch.randn(3, 3, 9, 9), (64, 64), mode="bilinear")
    ranges = int8.observe(network, photos.split(1))
    assert all(low <= 0 < high for low, high in ranges.values())
    exact, ready = (prepare(copy.deepcopy(network), CPU, precision, ranges) for precision in ("fp32", "int8"))
    before = exact(photos)
    for unit, inside in ((find(exact, name), inside) for name, inside in ranges.items()):
        weight = unit.conv.weight
        others = (0, 2, 3) if isinstance(unit.conv, nn.ConvTranspose2d) else (1, 2, 3)
        step = weight.abs().amax(others, keepdim=True) / (63 if inside[0] < 0 else 127)
        weight.copy_((weight / step).round() * step)
        unit.register_forward_pre_hook(partial(rounded, inside))
    want, found = exact(photos), ready(photos)
    assert torch.equal(pickle.loads(pickle.dumps(ready))(photos), found)  # as other processes get it
    # Not the mean: where rounding just so moves a switch, the decoder paints elsewhere.
    error, rounding = (float((scores - want).abs().median() / want.std()) for scores in (found, before))
    assert error < 0.02 and error < rounding / 2, (error, rounding)


def find(network: nn.Module, name: str) -> nn.Module:
    return next(module for path, module in network.named_modules() if path.split(".")[-1] == name)


def rounded(inside: tuple[float, float], unit: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """The numbers that 8 bits have nearest to a unit's inputs."""
    step = (inside[1] - inside[0]) / (255 if inside[0] < 0 else 127)
    zero = round(-inside[0] / step)
    return ((inputs[0] / step).round().clamp(-zero, 255 - zero)) * step


@pytest.mark.parametrize("size", [(6, 8), (7, 5)], ids=str)
def test_pooling_and_unpooling_of_8_bits_are_those_of_floats(size: tuple[int, int]) -> None:
    """Few different numbers: of equal ones the first counts."""
    torch.manual_seed(0)
    features = torch.randint(0, 4, (2, 3, *size), dtype=torch.uint8)
    features = features.contiguous(memory_format=torch.channels_last)
    for ceil_mode in (False, True):
        want = functional.max_pool2d(features.float(), 2, ceil_mode=ceil_mode)
        assert torch.equal(pool(features, ceil_mode=ceil_mode).float(), want)
    even = features[:, :, : size[0] // 2 * 2, : size[1] // 2 * 2]
    found, where = pool_with_switches(even)
    want, indices = pool_with_switches(even.float())
    assert torch.equal(found.float(), want)
    assert torch.equal(unpool(found, where).float(), unpool(want, indices))


RIGHT = getattr(torch.ops.onednn, "qconv2d_pointwise", None)


@pytest.mark.parametrize(
    "operation",
    [lambda *given: RIGHT(*given) + 1, Mock(side_effect=NotImplementedError), None],
    ids=["wrong", "failing", "not there"],
)
def test_where_8_bits_do_not_work_they_are_refused(operation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.onednn, "qconv2d_pointwise", operation, raising=False)
    monkeypatch.setattr(int8, "works", int8.works.__wrapped__)
    with pytest.raises(UsageError, match=r"int8 needs oneDNN's 8-bit .* computes wrongly; use auto$"):
        pick_precision("int8", CPU, None)


@needs_int8
def test_all_networks_in_use_need_ranges(
    tiny_network: Path, tiny_fcn: Path, calibrated: Path, tmp_path: Path
) -> None:
    own, fcn = calibrated, tmp_path / "fcn.safetensors"
    calibrate(tiny_fcn, [str(EXAMPLES / "cat.jpg")], fcn)
    assert Segmenter(own, fcn=fcn, precision="int8").inference.precision == "int8"
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    assert (Segmenter(own, fcn=fcn, device="cpu").inference.precision == "int8") is x86
    assert Segmenter(own, fcn=tiny_fcn, device="cpu").inference.precision in ("fp32", "bf16")
    for weights, partner, lacking in ((own, tiny_fcn, tiny_fcn), (tiny_network, fcn, tiny_network)):
        with pytest.raises(UsageError, match=f"which {lacking} does not tell"):
            Segmenter(weights, fcn=partner, precision="int8").load()


@needs_int8
def test_threads_and_other_processes_compute_the_same_in_8_bits(calibrated: Path) -> None:
    segmenter = Segmenter(calibrated, proposals=2, min_side=20, crf=False, precision="int8")
    photos = [str(EXAMPLES / "cat.jpg")] * 3
    want, *others = map(segmenter.segment, photos)
    with ThreadPoolExecutor(3) as pool:
        others += pool.map(segmenter.segment, photos)
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        others += processes.map(segmenter.segment, photos[:1])
    for found in others:
        np.testing.assert_array_equal(found.labels, want.labels)


@pytest.fixture(scope="module")
def calibrated(tiny_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "own.safetensors"
    calibrate(tiny_network, [str(EXAMPLES / "cat.jpg"), str(EXAMPLES / "person.jpg")], path)
    return path
