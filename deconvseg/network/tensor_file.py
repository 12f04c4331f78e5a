"""Writes safetensors files slice by slice: no more than a few MB of what is stored is ever copied."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.errors import OutputError, WeightsError

Storage = Literal["float32", "float16", "int8"]
Values = Tensor | NDArray[np.floating[Any]]

_SLICE = 1 << 20
"""Numbers that are worked on at a time."""
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Stored(NamedTuple):
    """A tensor as a file holds it.

    Attributes:
        dtype: of the numbers.
        shape: of the whole.
        pieces: the numbers in order, in tensors of any shape; made when they are asked for.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[Tensor]


def encode(
    name: str, values: Values, storage: Storage, release: Callable[[], None] = lambda: None
) -> dict[str, Stored]:
    """A network's tensor in a storage format.

    Args:
        name: of the tensor, which tells a transposed convolution.
        values: floating point tensor or array, or an integer tensor, which stays as it is.
        storage: `float16` and `int8` are for kernels (4 axes), all else is float32; `int8` adds one float32
            scale an output channel under `{name}.scale`.
        release: called after every slice.

    Raises:
        WeightsError: when the numbers are made, if one is NaN or infinite, or is so in this format.
    """
    shape = tuple(values.shape)
    if isinstance(values, Tensor) and not values.is_floating_point():
        return {name: Stored(values.dtype, shape, [values])}

    def rows() -> Iterator[tuple[int, Tensor]]:
        for start, piece in _slices(values):
            yield start, piece
            release()

    if storage == "int8" and len(shape) == 4:
        axis = output_axis(name)
        scale = _finite(name, _largest(rows(), axis, shape[axis]).clamp_min(1e-12) / 127)
        quantised = Stored(torch.int8, shape, (_quantise(*row, scale, axis) for row in rows()))
        return {name: quantised, f"{name}.scale": Stored(torch.float32, tuple(scale.shape), [scale])}
    dtype = torch.float32 if storage == "float32" or len(shape) != 4 else torch.float16
    return {name: Stored(dtype, shape, (_finite(name, piece.to(dtype)) for _, piece in rows()))}


def as_it_is(tensor: Tensor) -> Stored:
    """A tensor in its own format."""
    return Stored(tensor.dtype, tuple(tensor.shape), [tensor])


def write_tensors(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside its target and rename it into place.

    Raises:
        OutputError: the file cannot be written.
        WeightsError: what making the numbers raises.
    """
    # The format wants no gaps; the widest numbers first, each of them lies where processors like it.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name in order:
        dtype, shape, _ = tensors[name]
        end = at + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in order:
                for piece in tensors[name].pieces:
                    flat = piece.detach().cpu().contiguous().reshape(-1)
                    file.write(flat.view(torch.uint8).numpy().data)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: the network cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def output_axis(name: str) -> int:
    """Where a kernel has its output channels: transposed convolutions have them on axis 1."""
    return 1 if "deconv" in name or "upscore" in name else 0


def _slices(values: Values) -> Iterator[tuple[int, Tensor]]:
    """Consecutive rows as float32 tensors, each with the number of its first row."""
    length = values.shape[0] if values.ndim else 1
    step = max(1, _SLICE * length // max(1, int(np.prod(values.shape))))
    for start in range(0, length, step):
        rows = values[start : start + step] if values.ndim else values
        if isinstance(rows, Tensor):
            yield start, rows.detach().float().cpu()
        else:
            with np.errstate(over="ignore"):  # infinities are refused later
                yield start, torch.from_numpy(np.array(rows, np.float32))  # a copy: rows may be unaligned


def _largest(rows: Iterator[tuple[int, Tensor]], axis: int, channels: int) -> Tensor:
    """Largest magnitude of each output channel; NaN where there is a NaN."""
    # Filled in place: small tensors kept between the large ones that come and go would fragment the memory.
    largest = torch.zeros(channels)
    for start, piece in rows:
        if axis == 0:
            largest[start : start + len(piece)] = piece.abs().amax((1, 2, 3))
        else:
            torch.maximum(largest, piece.abs().amax((0, 2, 3)), out=largest)
    return largest


def _quantise(start: int, rows: Tensor, scale: Tensor, axis: int) -> Tensor:
    if axis == 0:
        return (rows / scale[start : start + len(rows), None, None, None]).round().to(torch.int8)
    return (rows / scale[:, None, None]).round().to(torch.int8)


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise WeightsError(
            f"{name}: weights that are not finite numbers, or too large for this storage; if they are sound, "
            "store them as float32"
        )
    return tensor
