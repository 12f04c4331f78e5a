"""A network in one file: safetensors with a JSON header that is enough to rebuild everything. No pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deconvseg.errors import WeightsError
from deconvseg.files import replacing
from deconvseg.images.palette import Palette
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s

Storage = Literal["float32", "float16", "int8"]

FORMAT = 1
ARCHITECTURES: dict[str, type[SegmentationNetwork]] = {
    network.architecture: network for network in (DeconvNet, FCN8s)
}
MAX_PARAMETERS = 2_000_000_000
MAX_LAYERS, MAX_CLASSES = 200, 255
"""Larger networks are refused before memory is asked for: a header is data from elsewhere."""
VGG_MEAN_RGB = (123.68, 116.779, 103.939)
"""Channel means of VGG-16's training photos, 0..255 (Simonyan and Zisserman 2014)."""

_KEY = "deconvseg"
"""Entry of a safetensors file's metadata that holds the header."""


@dataclass(frozen=True)
class NetworkHeader:
    """What a network file says beside its tensors.

    Attributes:
        classes: names, background first.
        palette: one (R, G, B) a class.
        mean, scale: a crop of 0..255 RGB enters the network as `(crop - mean) * scale`.
        crf: dense CRF parameters that belong to this network's scores; empty means the defaults.
        training: free-form summary of how it was trained and what it measured.
        statistics: whether BatchNorm has the mean and variance of training; a network without them can be
            trained further, but not segment.
    """

    classes: tuple[str, ...]
    palette: Palette
    mean: tuple[float, float, float] = VGG_MEAN_RGB
    scale: float = 1.0
    crf: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    statistics: bool = True


def save_network(
    path: Path,
    network: SegmentationNetwork,
    header: NetworkHeader,
    storage: Storage = "float32",
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a network file beside its target and rename it into place.

    Args:
        path: target, by custom ending in `.safetensors`.
        network: weights of any dtype, on any device.
        header: classes, palette, preprocessing.
        storage: `int8` keeps every kernel as 8-bit integers with one float32 scale an output channel.
        state: tensors to write instead of the network's own, which may be on device `meta`.

    Raises:
        OutputError: the file cannot be written.
        WeightsError: a weight is not finite, or too large for the storage format.
    """
    document = {
        "format": FORMAT,
        "architecture": network.architecture,
        "arguments": network.arguments,
        "order": "RGB",
        **asdict(header),
    }
    tensors = encode(network.state_dict() if state is None else state, storage)
    write_tensors(path, tensors, {_KEY: json.dumps(document)})


def copy_network(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """Copy a network file with some fields of its header replaced; its tensors stay as they are, bit for bit.

    Args:
        source: network file.
        target: file to write.
        changes: fields of `NetworkHeader` and their new values, fit for JSON.

    Raises:
        WeightsError: the source is no network file.
        OutputError: the target cannot be written.
    """
    with _opened(source) as file:
        document = _document(source, file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    write_tensors(target, tensors, {_KEY: json.dumps({**document, **changes})})


def encode(state: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Tensors of a network as a file holds them.

    Args:
        state: tensors by name, which tells a transposed convolution; integer tensors stay as they are.
        storage: `float16` and `int8` are for kernels (4 axes), all else is float32; `int8` adds one float32
            scale an output channel under `{name}.scale`.

    Raises:
        WeightsError: a number is NaN or infinite, or is so in this format.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        values = tensor.detach().cpu()
        if not values.is_floating_point():
            stored[name] = values
            continue
        values = values.float()
        if storage == "float32" or values.ndim != 4:
            stored[name] = check = values
        elif storage == "float16":
            stored[name] = check = values.half()
        else:
            others = [axis for axis in range(4) if axis != _output_axis(name)]
            check = values.abs().amax(others, keepdim=True).clamp_min(1e-12) / 127
            stored[name] = (values / check).round().to(torch.int8)
            stored[f"{name}.scale"] = check.flatten()
        if not check.isfinite().all():
            raise WeightsError(
                f"{name}: weights that are not finite numbers, or too large for this storage; if they are "
                "sound, store them as float32"
            )
    return stored


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside its target and rename it into place.

    Raises:
        OutputError: the file cannot be written.
    """
    # safetensors' save_file has a temporary file of its own, which only the owner may read and nobody sweeps.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata))
    with replacing(path) as stream:
        stream.write(content)


def describe_network(path: Path) -> tuple[SegmentationNetwork, NetworkHeader]:
    """What a network's file says of it: the network without its numbers (device `meta`), and the header.

    Raises:
        WeightsError: missing, truncated, or not a deconvseg network.
    """
    with _opened(path) as file:
        document = _document(path, file.metadata())
        network = build_network(path, document.get("architecture", "deconvnet"), document["arguments"])
        header = NetworkHeader(
            classes=tuple(str(name) for name in document["classes"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in document["palette"]),
            mean=cast(tuple[float, float, float], tuple(map(float, document["mean"]))),
            scale=float(document["scale"]),
            crf={str(key): float(value) for key, value in document["crf"].items()},
            training=dict(document["training"]),
            statistics=bool(document.get("statistics", True)),
        )
    _check_header(path, header, document, network.arguments["classes"])
    return network.eval(), header


def load_network(path: Path) -> tuple[SegmentationNetwork, NetworkHeader]:
    """Rebuild a network from its file, in float32 on the CPU and in evaluation mode.

    Raises:
        WeightsError: missing, truncated, not a deconvseg network, or tensors that do not fit its header.
    """
    network, header = describe_network(path)
    with _opened(path) as file:
        # One by one: a large network is in memory once, whatever its file stores it as.
        names = [name for name in file.keys() if not name.endswith(".scale")]  # noqa: SIM118 (not a dict)
        state = {name: _expand(file, name) for name in names}
    shapes, found = ({name: t.shape for name, t in s.items()} for s in (network.state_dict(), state))
    wrong = sorted({name for name, _ in shapes.items() ^ found.items()})
    if wrong:
        raise WeightsError(
            f"{path}: tensors missing, left over or of the wrong shape: {', '.join(wrong[:5])}"
        )
    broken = [name for name, tensor in state.items() if not torch.stack(tensor.aminmax()).isfinite().all()]
    if broken:
        raise WeightsError(f"{path}: weights that are not numbers: {', '.join(broken[:5])}; train it again")
    network.load_state_dict(state, assign=True)
    return network, header


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open network file; whatever is wrong with it becomes a WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such network file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a readable network file ({error}); fetch or train it again"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path}: the header of this network file is damaged ({error!r})") from error


def _check_header(path: Path, header: NetworkHeader, document: Mapping[str, Any], classes: int) -> None:
    fault = None
    if not len(header.classes) == len(header.palette) == classes:
        fault = f"names {len(header.classes)} classes and {len(header.palette)} colours for {classes} labels"
    elif len(set(header.classes)) != classes:
        fault = "names a class twice"
    elif any(not 0 <= channel <= 255 for colour in header.palette for channel in colour):
        fault = "has a colour outside 0..255"
    elif len(header.mean) != 3 or not all(map(math.isfinite, (*header.mean, header.scale))):
        fault = "has a mean or scale other than finite numbers"
    elif document.get("order") != "RGB":
        fault = "asks for an input other than in RGB order"
    if fault:
        raise WeightsError(f"{path}: the header of this network file is damaged: it {fault}")


def _document(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if not metadata or _KEY not in metadata:
        raise WeightsError(f"{path}: a safetensors file, but not one of deconvseg's networks")
    document = json.loads(metadata[_KEY])
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise WeightsError(f"{path}: written in a format this version does not know; update deconvseg")
    return document


def build_network(path: Path, architecture: str, arguments: dict[str, Any]) -> SegmentationNetwork:
    """A network of this architecture on the `meta` device: its tensors have shapes and no numbers.

    Raises:
        WeightsError: an unknown architecture, or a network of absurd size; it names `path`.
        ValueError, TypeError, KeyError: arguments out of range, of another type, or missing.
    """
    if architecture not in ARCHITECTURES:
        raise WeightsError(f"{path}: a network of a kind this version does not know; update deconvseg")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    if sum(arguments["encoder_convs"]) + sum(arguments.get("decoder_convs", ())) > MAX_LAYERS:
        raise WeightsError(f"{path}: it asks for a network of over {MAX_LAYERS} layers")
    if arguments.get("classes", 2) > MAX_CLASSES:
        raise WeightsError(
            f"{path}: it has {arguments['classes']:,} labels; at most {MAX_CLASSES} are possible"
        )
    with torch.device("meta"), _NoInitialisation():
        network = ARCHITECTURES[architecture](**arguments)
    if sum(p.numel() for p in network.parameters()) > MAX_PARAMETERS:
        raise WeightsError(f"{path}: it asks for a network of over {MAX_PARAMETERS:,} parameters")
    return network


class _NoInitialisation(TorchFunctionMode):
    """Weights stay as they are made: to fill those of device `meta`, which are nothing, torch would load its
    compiler (a second and 900 modules)."""

    FILLERS = frozenset(
        {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_}
        | {Tensor.normal_, Tensor.uniform_}
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self.FILLERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _expand(file: Any, name: str) -> Tensor:
    """A tensor of an open safetensors file; stored numbers become float32, others stay."""
    tensor: Tensor = file.get_tensor(name)
    if tensor.dtype == torch.int8:
        axis = _output_axis(name)
        if f"{name}.scale" not in file.keys():  # noqa: SIM118 (not a dict)
            raise ValueError(f"{name} lacks its scales")
        scale = file.get_tensor(f"{name}.scale").float()
        if tensor.ndim != 4 or scale.shape != (tensor.shape[axis],):
            raise ValueError(f"{name} lacks its scales")
        return tensor.float().mul_(scale.reshape([-1 if i == axis else 1 for i in range(4)]))
    return tensor.float() if tensor.is_floating_point() else tensor


def _output_axis(name: str) -> int:
    """Where a kernel has its output channels: transposed convolutions have them on axis 1."""
    return 1 if "deconv" in name or "upscore" in name else 0
