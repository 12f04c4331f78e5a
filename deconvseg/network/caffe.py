"""Reads `.caffemodel` files: names and numbers of layers from protobuf's wire format, with NumPy alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import WeightsError

Array = NDArray[np.floating[Any]]


class _Numbers(NamedTuple):
    """Field numbers of a layer's message."""

    name: int
    top: int
    blobs: int
    norm: int


# NetParameter's lists of layers (`caffe.proto`): `layers` up to the middle of 2014, `layer` since.
# DeconvNet's Caffe adds `bn_param` to the old message alone.
_LISTS = {2: _Numbers(name=4, top=3, blobs=6, norm=45), 100: _Numbers(name=1, top=4, blobs=7, norm=-1)}
_FLOATS = {5: "<f4", 8: "<f8"}
_SIZES, _SHAPE = (1, 2, 3, 4), 7
_BN_MODE, _BN_INFERENCE = 3, 1
_FIXED_BYTES = {1: 8, 5: 4}
_VARINT, _BYTES = 0, 2


class CaffeLayer(NamedTuple):
    """One layer.

    Attributes:
        name: as in the prototxt.
        norm_folded: a BN layer that scales and shifts only (`bn_mode: INFERENCE`), or gives out its batch's
            mean and variance (three tops).
        blobs: float32 or float64 arrays in Caffe's order, views of the file's content.
    """

    name: str
    norm_folded: bool
    blobs: tuple[Array, ...]


def read_caffemodel(path: Path) -> dict[str, CaffeLayer]:
    """The layers of a `.caffemodel` file that have numbers, by name and in its order.

    Both lists of layers are read, the old one (`layers`) and the new one (`layer`), and numbers in single or
    double precision, packed as Caffe writes them. What else the file says is skipped.

    Raises:
        WeightsError: missing, unreadable, truncated, damaged, or no layer has numbers.
    """
    layers: dict[str, CaffeLayer] = {}
    try:
        fields = _fields(memoryview(path.read_bytes()))
        for layer in [_layer(one, numbers) for list_, numbers in _LISTS.items() for one in fields[list_]]:
            if layer.blobs and layer.name in layers:
                raise ValueError(f"two layers with weights are named {layer.name!r}")
            if layer.blobs:
                layers[layer.name] = layer
        if not layers:
            raise ValueError("it holds no layer with weights")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, IndexError) as damage:  # what a field of another kind leads to
        raise WeightsError(f"{path}: not a sound .caffemodel file ({damage}); fetch it again") from damage
    return layers


def _layer(message: memoryview, numbers: _Numbers) -> CaffeLayer:
    fields = _fields(message)
    inference = any(_fields(norm)[_BN_MODE] == [_BN_INFERENCE] for norm in fields[numbers.norm])
    (name,) = fields[numbers.name] or [b""]
    return CaffeLayer(
        bytes(name[:200]).decode(errors="replace"),
        inference or len(fields[numbers.top]) == 3,
        tuple(map(_blob, fields[numbers.blobs])),
    )


def _blob(message: memoryview) -> Array:
    fields = _fields(message)
    pieces = [np.frombuffer(piece, kind) for number, kind in _FLOATS.items() for piece in fields[number]]
    if len(pieces) != 1 or not pieces[0].size:
        raise ValueError(f"the numbers of an array come in {len(pieces)} pieces, or there are none")
    shape = [size for whole in fields[_SHAPE] for packed in _fields(whole)[1] for size in _varints(packed)]
    if any(fields[axis] for axis in _SIZES):  # Caffe lets the old description win, too
        shape = [(fields[axis] or [1])[-1] for axis in _SIZES]
    return pieces[0].reshape(shape)


def _fields(message: memoryview) -> defaultdict[int, list[Any]]:
    """The fields of a message by number, each an integer or its content, without looking into any."""
    fields = defaultdict[int, list[Any]](list)
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            fields[tag >> 3].append(value)
            continue
        size, at = _varint(message, at) if kind == _BYTES else (_FIXED_BYTES.get(kind, len(message)), at)
        if size > len(message) - at:
            raise ValueError("what it announces goes on beyond its end")
        fields[tag >> 3].append(message[at : at + size])
        at += size
    return fields


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, lowest first, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has over 64 bits")
