"""Where a network runs."""

from __future__ import annotations

import torch

from deconvseg.errors import UsageError


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `mps` (an index may follow: `cuda:1`); only `auto` may fall back to the CPU.

    `auto` does not take Apple's `mps`, which older torch versions have without max-unpooling: ask for it.

    Raises:
        UsageError: an unknown name, or a device this machine does not have.
    """
    cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name}: unknown device; use auto, cpu, cuda or mps")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise UsageError(f"--device {name}: torch finds no such device here; use --device auto or cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: not a device ({error})") from error
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices here")
    return device
