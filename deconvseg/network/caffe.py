"""Reads `.caffemodel` files: names and numbers of layers from protobuf's wire format, with NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import WeightsError

Array = NDArray[np.floating[Any]]

MAX_NAME, MAX_AXES = 200, 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Places(NamedTuple):
    """Field numbers of a layer's message."""

    name: int
    top: int
    blobs: int
    norm: int


# NetParameter's lists of layers (`caffe.proto`): `layers` up to the middle of 2014, `layer` since.
# DeconvNet's Caffe adds `bn_param` to the old message alone.
_LISTS = {2: _Places(name=4, top=3, blobs=6, norm=45), 100: _Places(1, 4, 7, norm=-1)}
_SHAPE, _DIMENSIONS = 7, (1, 2, 3, 4)
_NUMBERS: dict[int, np.dtype[Any]] = {5: np.dtype("<f4"), 8: np.dtype("<f8")}
_BN_MODE, _BN_INFERENCE = 3, 1


@dataclass(frozen=True)
class CaffeLayer:
    """One layer.

    Attributes:
        name: as in the prototxt.
        tops: number of outputs.
        norm_inference: a BN layer that says it scales and shifts only (`bn_mode: INFERENCE`).
        blobs: float32 or float64 arrays in Caffe's order, views of the file's content; most layers have none.
    """

    name: str
    tops: int
    norm_inference: bool
    blobs: tuple[Array, ...]


def read_caffemodel(path: Path) -> list[CaffeLayer]:
    """The layers of a `.caffemodel` file in its order.

    Both lists of layers are read, the old one (`layers`) and the new one (`layer`), and numbers in single or
    double precision, packed as Caffe writes them. What else the file says is skipped.

    Raises:
        WeightsError: missing, unreadable, truncated, damaged, or no layer has numbers.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such .caffemodel file")
    try:
        layers = [
            _layer(value, _LISTS[number])
            for number, value in _fields(memoryview(path.read_bytes()))
            if number in _LISTS and isinstance(value, memoryview)
        ]
        if not any(layer.blobs for layer in layers):
            raise _DamagedError("it holds no layer with weights")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except _DamagedError as damage:
        raise WeightsError(f"{path}: not a sound .caffemodel file: {damage}; fetch it again") from damage
    return layers


class _DamagedError(Exception):
    """What is wrong with the file."""


def _layer(message: memoryview, places: _Places) -> CaffeLayer:
    name, tops, inference = "", 0, False
    blobs: list[Array] = []
    for number, value in _fields(message):
        if number == places.top:
            tops += 1
        elif isinstance(value, int):
            continue
        elif number == places.name:
            if len(value) > MAX_NAME:
                raise _DamagedError(f"a layer's name has over {MAX_NAME} characters")
            name = bytes(value).decode(errors="replace")
        elif number == places.norm:
            modes = [mode for field, mode in _fields(value) if field == _BN_MODE]
            inference = modes[-1:] == [_BN_INFERENCE]
        elif number == places.blobs:
            blobs.append(_blob(value, name))
    return CaffeLayer(name, tops, inference, tuple(blobs))


def _blob(message: memoryview, layer: str) -> Array:
    values: Array = np.zeros(0, np.float32)
    shape, old = list[int](), dict[int, int]()
    for number, value in _fields(message):
        if isinstance(value, int):
            if number in _DIMENSIONS:
                old[number] = value
        elif number == _SHAPE:
            shape = _shape(value, layer)
        elif number in _NUMBERS:
            if len(values):
                raise _DamagedError(f"the numbers of layer {layer!r} come in several pieces")
            if len(value) % _NUMBERS[number].itemsize:
                raise _DamagedError(f"the numbers of layer {layer!r} are cut off")
            values = np.frombuffer(value, _NUMBERS[number])
    if old:  # Caffe lets the old description win, too
        shape = [old.get(axis, 1) for axis in _DIMENSIONS]
    if not len(values) or math.prod(shape) != len(values):
        raise _DamagedError(
            f"layer {layer!r} says that its shape is {tuple(shape)} but holds {len(values)} numbers"
        )
    return values.reshape(shape)


def _shape(message: memoryview, layer: str) -> list[int]:
    shape = list[int]()
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            shape.append(value)
        at = 0
        while number == 1 and isinstance(value, memoryview) and at < len(value) and len(shape) <= MAX_AXES:
            size, at = _varint(value, at)
            shape.append(size)
        if len(shape) > MAX_AXES:
            raise _DamagedError(f"layer {layer!r} has an array of over {MAX_AXES} axes")
    return shape


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message, without looking into any: number, and an integer or the content."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        size, at = _varint(message, at) if wire in (_VARINT, _BYTES) else (0, at)
        if wire == _VARINT:
            yield number, size
            continue
        if wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        elif wire != _BYTES:
            raise _DamagedError(f"a field is of kind {wire}, which Caffe never writes")
        if size > len(message) - at:
            raise _DamagedError("what it announces goes on beyond its end")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, lowest first, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _DamagedError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _DamagedError("a number has over 64 bits")
