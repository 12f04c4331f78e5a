"""Where a network runs."""

from __future__ import annotations

import torch

from deconvseg.errors import UsageError
from deconvseg.memory import available_memory
from deconvseg.network.base import SegmentationNetwork

_MOST = {"cpu": 16, "cuda": 64, "mps": 16}
_SHARE = 0.5
"""Of the free memory that a batch may take: photos, the CRF and the other processes need some as well."""


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


def pick_batch_size(network: SegmentationNetwork, device: torch.device) -> int:
    """Crops that go through the network together: 64 on a GPU, else 16, or halves of it if memory is short.

    It is the same wherever there is enough memory, because scores can differ in their last bits with it.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    size = _MOST[device.type]
    while free is not None and size > 1 and size * crop_bytes(network) > _SHARE * free:
        size //= 2
    return size


def crop_bytes(network: SegmentationNetwork) -> int:
    """About the most memory that the maps of one crop take at once: four in the first block's size.

    Measured: 5 MB for deconvnet-lite and 8 for the paper's network in bfloat16, twice that in float32; this
    gives 8 and 25, and twice that.
    """
    element = next(network.parameters()).element_size()
    width: int = network.arguments["widths"][0]
    return 4 * network.side**2 * width * element
