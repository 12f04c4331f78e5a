"""A network in one file: safetensors with a JSON header that is enough to rebuild everything. No pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deconvseg.errors import WeightsError
from deconvseg.files import replacing
from deconvseg.images.palette import Palette
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn import FCN
from deconvseg.network.fcn8s import FCN8s

Storage = Literal["float32", "float16", "int8"]

FORMAT = 1
ARCHITECTURES: dict[str, Callable[..., SegmentationNetwork]] = {
    network.architecture: network for network in (DeconvNet, FCN8s, FCN)
}
_KEY = "deconvseg"  # the entry of a safetensors file's metadata that holds the header


@dataclass(frozen=True)
class NetworkHeader:
    """What a network file says beside its tensors.

    A crop of 0..255 RGB enters the network as `(crop - mean) * scale`.
    """

    classes: tuple[str, ...]  # background first
    palette: Palette  # one (R, G, B) a class
    mean: tuple[float, float, float] = (123.68, 116.779, 103.939)  # of VGG-16 (Simonyan and Zisserman 2014)
    scale: float = 1.0
    crf: Mapping[str, float] = field(default_factory=dict)  # of `CRFParameters`, made for its scores
    training: Mapping[str, Any] = field(default_factory=dict)  # how, and what was measured, in any form
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # as of `int8.observe`, if at all


def save_network(
    path: Path, network: SegmentationNetwork, header: NetworkHeader, storage: Storage = "float32"
) -> None:
    """Write a network, of any dtype and device; `storage` is as of `write_tensors`.

    Raises OutputError if it cannot be written, WeightsError for a weight not finite or too large for that.
    """
    about = {"format": FORMAT, "architecture": network.architecture, "arguments": network.arguments}
    document = json.dumps({**about, "order": "RGB", **asdict(header)})
    write_tensors(path, network.state_dict(), storage, {_KEY: document})


def copy_network(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """Copy a network file bit for bit, but for `changes` of fields of its `NetworkHeader`, fit for JSON;
    errors as of `load_network` and `save_network`."""
    with _opened(source) as (file, document):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    write_tensors(target, tensors, None, {_KEY: json.dumps({**document, **changes})})


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], storage: Storage | None, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file beside its target and rename it into place; errors as of `save_network`.

    The tensors' names tell transposed convolutions. Storage `float16` and `int8` are for kernels (4 axes),
    all other floats are float32; `int8` adds one float32 scale an output channel under `{name}.scale`. None
    leaves all as they are.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name in [name for name, tensor in stored.items() if storage and tensor.is_floating_point()]:
        values = check = stored[name].float()
        if storage == "float16" and values.ndim == 4:
            values = check = values.half()
        elif storage == "int8" and values.ndim == 4:
            others = [axis for axis in range(4) if axis != _output_axis(name)]
            check = values.abs().amax(others, keepdim=True).clamp_min(1e-12) / 127
            values = (values / check).round().to(torch.int8)
            stored[f"{name}.scale"] = check.flatten()
        if not check.isfinite().all():
            raise WeightsError(f"{name}: weights not finite, or too large for this storage; try float32")
        stored[name] = values
    # safetensors' save_file has a temporary file of its own, which only the owner may read and nobody sweeps.
    content = save(stored, dict(metadata))
    with replacing(path) as stream:
        stream.write(content)


def describe_network(path: Path) -> tuple[SegmentationNetwork, NetworkHeader]:
    """A file's network without its numbers (device `meta`), and its header; WeightsError if it has none."""
    with _opened(path) as (_, document):
        network = build_network(document["architecture"], document["arguments"])
        header = NetworkHeader(
            classes=tuple(str(name) for name in document["classes"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in document["palette"]),
            mean=cast(tuple[float, float, float], tuple(map(float, document["mean"]))),
            scale=float(document["scale"]),
            crf={str(key): float(value) for key, value in document["crf"].items()},
            training=dict(document["training"]),
            ranges={name: (float(a), float(b)) for name, (a, b) in document.get("ranges", {}).items()},
        )
        names, labels = header.classes, network.arguments["classes"]
        if not len(names) == len(set(names)) == len(header.palette) == labels:
            raise ValueError(f"{len(set(names))} names and {len(header.palette)} colours for {labels} labels")
    return network.eval(), header


def load_network(path: Path) -> tuple[SegmentationNetwork, NetworkHeader]:
    """A network and its header from a file, in float32 on the CPU and in evaluation mode; WeightsError if it
    is missing, damaged, or of another kind."""
    network, header = describe_network(path)
    with _opened(path) as (file, _):
        names = [name for name in file.keys() if not name.endswith(".scale")]  # noqa: SIM118 (not a dict)
        state = {name: _expand(file, name) for name in names}
    wanted, found = ({(name, t.shape) for name, t in s.items()} for s in (network.state_dict(), state))
    if wrong := sorted({name for name, _ in wanted ^ found})[:5]:
        raise WeightsError(f"{path}: tensors missing, left over or of the wrong shape: {', '.join(wrong)}")
    network.load_state_dict(state, assign=True)
    return network, header


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An open network file and its header; whatever is wrong with them becomes a WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such network file")
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if not document:
                raise WeightsError(f"{path}: a safetensors file, but not one of deconvseg's networks")
            if document["format"] != FORMAT or document["architecture"] not in ARCHITECTURES:
                raise WeightsError(f"{path}: of a format or kind unknown to this version; update deconvseg")
            yield file, document
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable network file ({error}); get or train it again") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path}: the header of this network file is damaged ({error!r})") from error


def build_network(architecture: str, arguments: Mapping[str, Any]) -> SegmentationNetwork:
    """A network of one of the ARCHITECTURES on the `meta` device: its tensors have shapes and no numbers."""
    with torch.device("meta"), _NoInitialisation():
        return ARCHITECTURES[architecture](**arguments)


class _NoInitialisation(TorchFunctionMode):
    """Weights stay as they are made: to fill those of device `meta`, torch would load its compiler (1 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
            return (*args, *(kwargs or {}).values())[0]
        return func(*args, **(kwargs or {}))


def _expand(file: Any, name: str) -> Tensor:
    """A tensor of an open safetensors file; stored numbers become float32, others stay."""
    tensor: Tensor = file.get_tensor(name)
    if tensor.dtype == torch.int8:
        shape = [-1 if axis == _output_axis(name) else 1 for axis in range(4)]
        return tensor.float().mul_(file.get_tensor(f"{name}.scale").float().reshape(shape))
    return tensor.float() if tensor.is_floating_point() else tensor


def _output_axis(name: str) -> int:
    """Where a kernel has its output channels: transposed convolutions have them on axis 1."""
    return 1 if "deconv" in name or "upscore" in name else 0
