"""A trained network made ready for inference: device, precision, BatchNorm folded away, channels last."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from deconvseg.errors import UsageError
from deconvseg.network import int8
from deconvseg.network.base import Network

Precision = Literal["fp32", "bf16", "fp16", "int8"]
_DTYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto` (which is `cuda` or else `cpu`), `cpu`, `cuda` or `mps` (an index may follow: `cuda:1`);
    UsageError for a device that this machine does not have."""
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name == "auto":
        return torch.device("cuda" if here["cuda"] else "cpu")
    with suppress(RuntimeError, KeyError):
        device = torch.device(name)
        if (device.index or 0) < here[device.type]:
            return device
    raise UsageError(f"{name}: torch finds no such device here; use auto, cpu, cuda or mps")


def pick_precision(name: str, device: torch.device, uncalibrated: str | None = "a new network") -> Precision:
    """`auto`, `fp32`, `bf16`, `fp16` or `int8`; `auto` takes the fastest whose masks are as good.

    On a CPU that is int8 with AVX2 or more, else bf16 where it is faster than fp32. Int8 needs networks whose
    files tell the ranges of what goes through their layers; `uncalibrated` names one that does not, if any.
    Raises UsageError for an unknown name, and one that the device, torch or a network does not have.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        if device.type != "cpu":
            return "fp32"
        if torch.backends.cpu.get_cpu_capability().startswith("AVX") and int8.works() and not uncalibrated:
            return "int8"
        return "bf16" if _cpu_gains_by_bf16() else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 needs an accelerator; use bf16, fp32 or auto on the CPU")
    if name == "int8" and device.type != "cpu":
        raise UsageError(f"int8 is for the CPU, and this is {device.type}; use auto")
    if name == "int8" and not int8.works():
        fault = f"which torch {torch.__version__} does not have here or computes wrongly"
        raise UsageError(f"int8 needs oneDNN's 8-bit convolutions, {fault}; use auto")
    if name == "int8" and uncalibrated:
        cure = "'deconvseg weights calibrate' makes a file that does"
        raise UsageError(
            f"int8 needs to know how large numbers get, which {uncalibrated} does not tell; {cure}"
        )
    if name not in _DTYPES:
        raise UsageError(f"{name}: unknown precision; use auto, fp32, bf16, fp16 or int8")
    return cast(Precision, name)


def prepare(
    network: Network, device: torch.device, precision: Precision, ranges: int8.Ranges | None = None
) -> Network:
    """Make a trained network ready to segment, in its own memory; it cannot be trained or saved any more.

    Int8 is for networks with `ranges`, as of `int8.observe`; others compute in fp32 then.
    """
    network.eval().requires_grad_(False)
    network.fold()
    network.to(device=device, dtype=_DTYPES[precision])
    network.to(memory_format=torch.channels_last)
    if precision == "int8" and ranges:
        int8.quantise(network, ranges)
    if precision == "bf16" and device.type == "cpu":
        for module in network.modules():
            if hasattr(module, "relu"):
                module.relu = _BF16ReLU()
    return network


class _BF16ReLU(nn.Module):
    """ReLU on integers of the same bits: torch's own for bf16 takes eight times as long on a processor."""

    def forward(self, features: Tensor) -> Tensor:
        features.view(torch.int16).clamp_(min=0)
        return features


def _cpu_gains_by_bf16() -> bool:
    """Where torch is held to an older instruction set, bf16 is emulated, 24 s a photo; on Intel's processors
    it takes longer than fp32 unless they have AMX, which not every virtual machine shows."""
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    if not has_bf16 or torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2"):
        return False
    with suppress(OSError):
        if not has_amx and "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
            return False
    return not torch.__version__.startswith("2.4.")  # which does not unpool it
