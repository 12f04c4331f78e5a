"""Reads `.caffemodel` files: names and numbers of layers from protobuf's wire format, with NumPy alone."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import WeightsError

Array = NDArray[np.floating[Any]]

MAX_FIELDS = 100_000
"""A network of 200 layers has about 4,000. A file with more than this is refused before it takes seconds."""
MAX_NAME, MAX_AXES, MAX_SIZE = 200, 8, (1 << 31) - 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class _Places(NamedTuple):
    """Field numbers of a layer's message."""

    name: int
    type: int
    top: int
    blobs: int
    norm: int


class _Field(NamedTuple):
    """One field of a message: an integer, bytes from `start` to `end`, or `repeats` numbers from `start`."""

    number: int
    wire: int
    value: int = 0
    start: int = 0
    end: int = 0
    repeats: int = 0
    stride: int = 0


# NetParameter's lists of layers (`caffe.proto`): `layers` up to the middle of 2014, `layer` since.
# DeconvNet's Caffe adds `bn_param` to the old message alone.
_LISTS = {2: _Places(name=4, type=5, top=3, blobs=6, norm=45), 100: _Places(1, 2, 4, 7, norm=-1)}
_SHAPE, _FLOATS, _DOUBLES, _DIMENSIONS = 7, 5, 8, (1, 2, 3, 4)
_BN_MODE, _BN_INFERENCE = 3, 1


@dataclass(frozen=True)
class CaffeLayer:
    """One layer that holds numbers.

    Attributes:
        name: as in the prototxt.
        type: a number in old files, a word in new ones; 0 when the file does not say.
        tops: outputs.
        norm_inference: a BN layer that says it scales and shifts only (`bn_mode: INFERENCE`).
        blobs: float32 or float64 arrays in Caffe's order, views of the mapped file.
    """

    name: str
    type: int | str
    tops: int
    norm_inference: bool
    blobs: tuple[Array, ...]


class CaffeModel:
    """A `.caffemodel` file, mapped and not read: its arrays are views, and pages come in when they are used.

    Both lists of layers are read, the old one (`layers`) and the new one (`layer`), and numbers that are
    packed or not, in single or double precision. What else the file says is skipped.

    Args:
        path: the file; it must not be changed while this object or one of its arrays lives.

    Attributes:
        path: the file.
        layers: those with numbers, in the file's order.
        others: names of those without.

    Raises:
        WeightsError: missing, unreadable, truncated, damaged or not a caffemodel.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise WeightsError(f"{path}: there is no such .caffemodel file")
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise WeightsError(f"{path}: cannot be read ({error}); fetch it again") from error
        self._fields_left = MAX_FIELDS
        self.layers: list[CaffeLayer] = []
        self.others: list[str] = []
        for field in self._fields(0, len(self._map)):
            if field.number in _LISTS and field.wire == _BYTES:
                layer = self._layer(field, _LISTS[field.number])
                if layer.blobs:
                    self.layers.append(layer)
                else:
                    self.others.append(layer.name)
        if not self.layers:
            raise self._damaged("it holds no layer with weights")

    def release(self) -> None:
        """Give back the memory of the pages used so far; arrays stay valid and read them again."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _layer(self, message: _Field, places: _Places) -> CaffeLayer:
        name, tops, inference = "", 0, False
        kind: int | str = 0
        blobs: list[Array] = []
        for field in self._fields(message.start, message.end):
            if field.number == places.name and field.wire == _BYTES:
                name = self._text(field)
            elif field.number == places.type and field.wire in (_VARINT, _BYTES):
                kind = self._text(field) if field.wire == _BYTES else field.value
            elif field.number == places.top:
                tops += 1
            elif field.number == places.norm and field.wire == _BYTES:
                modes = [f.value for f in self._fields(field.start, field.end) if f.number == _BN_MODE]
                inference = modes[-1:] == [_BN_INFERENCE]
            elif field.number == places.blobs and field.wire == _BYTES:
                blobs.append(self._blob(field, name))
        return CaffeLayer(name, kind, tops, inference, tuple(blobs))

    def _blob(self, message: _Field, layer: str) -> Array:
        values: Array | None = None
        old, shape = [1, 1, 1, 1], list[int]()
        has_old = False
        for field in self._fields(message.start, message.end):
            if field.number in (_FLOATS, _DOUBLES) and field.wire != _VARINT:
                if values is not None:
                    raise self._damaged(f"the numbers of layer {layer!r} come in several pieces")
                values = self._values(field, layer)
            elif field.number in _DIMENSIONS and field.wire == _VARINT:
                old[field.number - 1], has_old = field.value, True
            elif field.number == _SHAPE and field.wire == _BYTES:
                shape = self._shape(field, layer)
        if has_old:  # Caffe lets the old description win, too
            shape = old
        if values is None:
            values = np.zeros(0, np.float32)
        if max(shape, default=0) > MAX_SIZE:
            raise self._damaged(f"layer {layer!r} has an axis of over {MAX_SIZE:,}")
        if math.prod(shape) != len(values):
            raise self._damaged(
                f"layer {layer!r} says that its shape is {tuple(shape)} but holds {len(values)} numbers"
            )
        try:
            return values.reshape(shape)
        except (ValueError, OverflowError) as error:  # no numbers, but axes beyond all measure
            raise self._damaged(f"layer {layer!r} cannot have the shape {tuple(shape)}") from error

    def _values(self, field: _Field, layer: str) -> Array:
        """A view of the numbers: packed ones lie side by side, others have the field's tag between them."""
        width, wire = (4, _FIXED32) if field.number == _FLOATS else (8, _FIXED64)
        count, rest = field.repeats, 0
        if field.wire == _BYTES:
            count, rest = divmod(field.end - field.start, width)
        if rest or field.wire not in (_BYTES, wire):
            raise self._damaged(f"the numbers of layer {layer!r} are cut off")
        stride = width if field.wire == _BYTES else field.stride
        dtype = np.dtype(f"<f{width}")
        if count == 0:
            return np.zeros(0, dtype)
        return np.ndarray((count,), dtype, self._map, field.start, (stride,))

    def _shape(self, message: _Field, layer: str) -> list[int]:
        shape = list[int]()
        for field in self._fields(message.start, message.end):
            if field.number != 1:
                continue
            at = field.start
            while field.wire == _BYTES and at < field.end and len(shape) <= MAX_AXES:
                size, at = self._varint(at, field.end)
                shape.append(size)
            if field.wire == _VARINT:
                shape.append(field.value)
            if len(shape) > MAX_AXES:
                raise self._damaged(f"layer {layer!r} has an array of over {MAX_AXES} axes")
        return shape

    def _text(self, field: _Field) -> str:
        if field.end - field.start > MAX_NAME:
            raise self._damaged(f"a layer's name has over {MAX_NAME} characters")
        return self._map[field.start : field.end].decode(errors="replace")

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of a message, without looking into any; equal ones of fixed width come as one."""
        at = start
        while at < end:
            if not self._fields_left:
                raise self._damaged(f"it has over {MAX_FIELDS:,} fields")
            self._fields_left -= 1
            first = at
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self._damaged(f"there is no field {number} at byte {first}")
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield _Field(number, wire, value)
            elif wire == _BYTES:
                length, at = self._varint(at, end)
                if length > end - at:
                    raise self._damaged(f"what begins at byte {first} goes on beyond its end")
                yield _Field(number, wire, start=at, end=at + length)
                at += length
            elif wire in _WIDTHS:
                stride = at - first + _WIDTHS[wire]
                count = self._repeats(first, end, at - first, stride)
                yield _Field(number, wire, start=at, repeats=count, stride=stride)
                at = first + count * stride
            else:
                raise self._damaged(f"byte {first} begins a field of kind {wire}, which Caffe never writes")

    def _repeats(self, first: int, end: int, tag: int, stride: int) -> int:
        """How many fields with the same tag (`tag` bytes long) of `stride` bytes follow each other."""
        fit = (end - first) // stride
        if not fit:
            raise self._damaged(f"what begins at byte {first} goes on beyond its end")
        wanted = np.frombuffer(self._map, np.uint8, tag, first)
        count, look = 1, 8
        while count < fit:
            rows = min(look, fit - count)
            read = np.frombuffer(self._map, np.uint8, rows * stride, first + count * stride)
            same = (read.reshape(rows, stride)[:, :tag] == wanted).all(1)
            if not same.all():
                return count + int(same.argmin())
            count += rows
            look = min(2 * look, 1 << 20)  # so that short runs cost little, and long ones little memory
        return count

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """An integer of seven bits a byte, lowest first, and where the next thing begins."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise self._damaged(f"it ends within a number, at byte {at}")
            byte = self._map[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if value >> 64:
                    break
                return value, at
        raise self._damaged(f"the number before byte {at} has over 64 bits")

    def _damaged(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.path}: not a sound .caffemodel file: {reason}; fetch it again")
